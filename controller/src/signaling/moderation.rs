//! What a moderator may do to others: `forceUnpublish` and `forceDisconnect` (`signaling.md` 2.7, order 4.17).
#![forbid(unsafe_code)]

use serde_json::json;

use super::dispatch::{Done, Request};
use super::error::{RpcError, code};
use super::params::{AboutConnection, AboutStream};
use crate::engine::{Engine, Output};
use crate::session::{Reason, Role};

impl Engine {
    pub(super) fn on_force_unpublish(
        &mut self,
        now_ms: u64,
        request: &Request,
        params: AboutStream,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        self.require_moderator(request, "force the unpublishing of a stream")?;
        let session = self.registry.get(request.session.as_str());
        let owner = session.and_then(|session| session.publisher_of(&params.stream_id));
        let Some(owner) = owner.map(|owner| owner.id.clone()) else {
            let message = format!("Stream {} is not published", params.stream_id);
            return Err(RpcError::new(code::USER_NOT_STREAMING, message));
        };
        let reason = Reason::ForceUnpublishByUser;
        self.unpublish(now_ms, &request.session, &owner, reason, out);
        self.peers.respond(&request.call, Ok(json!({})), out);
        self.notify_unpublished(&request.session, &owner, reason, None, out);
        Ok(Done::Later)
    }

    pub(super) fn on_force_disconnect(
        &mut self,
        now_ms: u64,
        request: &Request,
        params: AboutConnection,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        self.require_moderator(request, "force the disconnection of a participant")?;
        let session = self.registry.get(request.session.as_str());
        let evicted = session.and_then(|session| session.participant(&params.connection_id));
        let Some(evicted) = evicted.map(|evicted| evicted.id.clone()) else {
            let message = format!("Participant {} not found", params.connection_id);
            return Err(RpcError::new(code::USER_NOT_FOUND, message));
        };
        let (session, reason) = (&request.session, Reason::ForceDisconnectByUser);
        let rpc = self.leave(now_ms, session, &evicted, reason, out);
        self.peers.respond(&request.call, Ok(json!({})), out);
        if let Some(rpc) = rpc {
            self.notify_evicted(now_ms, session, &evicted, &rpc, reason, out);
        }
        self.close_if_empty(now_ms, session, reason, out);
        Ok(Done::Later)
    }

    fn require_moderator(&self, request: &Request, what: &str) -> Result<(), RpcError> {
        if self.participant(request)?.properties.role == Role::Moderator {
            return Ok(());
        }
        Err(RpcError::new(
            code::UNAUTHORIZED,
            format!("Unable to {what}. The user does not have a valid token"),
        ))
    }
}

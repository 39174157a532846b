//! Requests for what Weir does not have: filters inside of the media server, speech to text.
#![forbid(unsafe_code)]

use super::dispatch::{Done, Request};
use super::error::{RpcError, code};
use super::params::AboutStream;
use crate::engine::Engine;
use crate::session::Role;

impl Engine {
    /// Checks what the original checks first, then says that there are no filters.
    pub(super) fn refuse_filter(
        &self,
        request: &Request,
        method: &str,
        params: AboutStream,
    ) -> Result<Done, RpcError> {
        let own = self.participant(request)?;
        let session = self.registry.get(request.session.as_str());
        let Some(owner) = session.and_then(|session| session.publisher_of(&params.stream_id)) else {
            let message = format!("Stream {} is not published", params.stream_id);
            return Err(RpcError::new(code::USER_NOT_STREAMING, message));
        };
        if owner.id != own.id && own.properties.role != Role::Moderator {
            let message = format!("Unable to {method}. The user does not have a valid token");
            return Err(RpcError::new(code::UNAUTHORIZED, message));
        }
        Err(match method {
            "applyFilter" => RpcError::new(code::GENERIC, "Filters are not supported by this server"),
            "addFilterEventListener" | "removeFilterEventListener" => {
                let message = format!("Stream {} has no filter to listen to", params.stream_id);
                RpcError::new(code::FILTER_LISTENER_NOT_FOUND, message)
            }
            _ => {
                let message = format!("Stream {} has no filter applied", params.stream_id);
                RpcError::new(code::FILTER_NOT_APPLIED, message)
            }
        })
    }
}

/// Speech to text is switched off.
pub(super) fn speech_to_text() -> RpcError {
    RpcError::new(code::SERVICE_NOT_ENABLED, "Speech To Text service is not enabled")
}

//! Which method does what, and who may call it.
#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::client::Call;
use super::error::{RpcError, code};
use crate::engine::{Engine, Output};
use crate::ids::{ConnectionId, SessionId};

/// A request of somebody who joined.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Where the answer goes.
    pub(crate) call: Call,
    /// Session of the sender.
    pub(crate) session: SessionId,
    /// The sender.
    pub(crate) connection: ConnectionId,
}

/// Parameters of a request.
pub(crate) type Params = Map<String, Value>;

/// What a method came to.
pub(crate) enum Done {
    /// Answer with this now.
    Answer(Value),
    /// The method has answered already (order of messages), or will when the node replies.
    Later,
}

impl Done {
    /// The answer `{}`.
    pub(crate) fn empty() -> Self {
        Self::Answer(json!({}))
    }
}

impl Engine {
    pub(crate) fn dispatch(
        &mut self,
        now_ms: u64,
        call: Call,
        method: &str,
        params: Params,
        out: &mut Vec<Output>,
    ) {
        let result = match method {
            "ping" => return self.on_ping(now_ms, &call, &params, out),
            "connect" => return self.on_connect(now_ms, &call, &params, out),
            "joinRoom" => self.on_join_room(now_ms, &call, params, out),
            _ => self.dispatch_joined(now_ms, &call, method, params, out),
        };
        match result {
            Ok(Done::Answer(result)) => self.peers.respond(&call, Ok(result), out),
            Ok(Done::Later) => {}
            Err(error) => {
                tracing::debug!(method, %error, "request refused");
                self.peers.respond(&call, Err(error), out);
            }
        }
    }

    fn dispatch_joined(
        &mut self,
        now_ms: u64,
        call: &Call,
        method: &str,
        params: Params,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let Some((session, connection)) = self.peers.participant(&call.rpc) else {
            return Err(self.not_in_a_session(call));
        };
        let request = Request { call: call.clone(), session, connection };
        match method {
            "leaveRoom" => Ok(self.on_leave_room(now_ms, &request, out)),
            "closeSession" => Ok(self.on_close_session(now_ms, &request, out)),
            "publishVideo" => self.on_publish_video(now_ms, request, read(params)?, out),
            "unpublishVideo" => self.on_unpublish_video(now_ms, &request, out),
            "receiveVideoFrom" => self.on_receive_video_from(now_ms, request, read(params)?, out),
            "prepareReceiveVideoFrom" => self.on_prepare_receive(now_ms, request, read(params)?, out),
            "unsubscribeFromVideo" => self.on_unsubscribe(now_ms, &request, read(params)?, out),
            "reconnectStream" => self.on_reconnect_stream(now_ms, request, read(params)?, out),
            "streamPropertyChanged" => self.on_property_changed(&request, read(params)?, out),
            "sendMessage" => self.on_send_message(now_ms, &request, read(params)?, out),
            "forceUnpublish" => self.on_force_unpublish(now_ms, &request, read(params)?, out),
            "forceDisconnect" => self.on_force_disconnect(now_ms, &request, read(params)?, out),
            "onIceCandidate" => {
                // An error would raise an exception in the application, for something that nobody needs.
                if let Ok(params) = read(params) {
                    self.on_ice_candidate(&request, params);
                }
                Ok(Done::empty())
            }
            "videoData" | "echo" => Ok(Done::empty()),
            // No `life` is announced, so nobody has to ask.
            "sessionStatus" => Ok(Done::Answer(json!({ "life": -1 }))),
            "applyFilter"
            | "execFilterMethod"
            | "removeFilter"
            | "addFilterEventListener"
            | "removeFilterEventListener" => self.refuse_filter(&request, method, read(params)?),
            "subscribeToSpeechToText" | "unsubscribeFromSpeechToText" => {
                Err(super::refused::speech_to_text())
            }
            _ => Err(RpcError::new(code::METHOD_NOT_FOUND, format!("Unknown method {method}"))),
        }
    }
}

impl Engine {
    /// Why a request that needs a participant has none: its session has ended meanwhile, or it never joined or left one.
    fn not_in_a_session(&self, call: &Call) -> RpcError {
        match self.peers.left(call.client).filter(|left| self.registry.get(left.as_str()).is_none()) {
            Some(ended) => RpcError::new(code::ROOM_NOT_FOUND, format!("Session {ended} not found")),
            None => RpcError::new(code::NOT_JOINED, "No joinRoom on this connection yet"),
        }
    }
}

/// Reads typed parameters.
/// # Errors
/// -32602, naming the parameter.
pub(crate) fn read<T: DeserializeOwned>(params: Params) -> Result<T, RpcError> {
    serde_json::from_value(Value::Object(params))
        .map_err(|error| RpcError::params(format!("Parameters cannot be used: {error}")))
}

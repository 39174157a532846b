//! `sendMessage`: signals between participants (`signaling.md` 2.8). Order: notifications, then the response.
#![forbid(unsafe_code)]

use serde_json::json;

use super::dispatch::{Done, Request};
use super::error::{RpcError, code};
use super::params::{SendMessage, Signal};
use crate::engine::{Engine, Output, SignalEvent};

impl Engine {
    pub(super) fn on_send_message(
        &mut self,
        now_ms: u64,
        request: &Request,
        params: SendMessage,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let signal: Signal = serde_json::from_str(&params.message)
            .map_err(|error| RpcError::new(code::SIGNAL_FORMAT, format!("Signal cannot be read: {error}")))?;
        let to = signal.to.unwrap_or_default();
        let targets = self.signal_targets(&request.session, &to).ok_or_else(|| {
            RpcError::new(code::SIGNAL_TO, "Signal names a recipient that is not in the session")
        })?;
        let mut body = json!({ "from": request.connection });
        if let Some(data) = &signal.data {
            body["data"] = data.as_str().into();
        }
        if let Some(signal_type) = &signal.signal_type {
            body["type"] = signal_type.as_str().into();
        }
        let event = SignalEvent {
            from: Some(&request.connection),
            signal_type: signal.signal_type.as_deref(),
            data: signal.data.as_deref(),
        };
        self.deliver_signal(now_ms, &request.session, &targets, body, event, out);
        Ok(Done::empty())
    }
}

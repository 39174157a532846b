//! JSON-RPC 2.0 frames of the control protocol, controller side.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::{Value, json};
use sfu_core::control::proto::{Notification, Request};

use crate::engine::NodeError;

/// What a node sent.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// The answer to request `id`.
    Answer { id: u64, result: Result<Value, NodeError> },
    /// Unasked news.
    Notification(Notification),
    /// Nothing we know. A newer node may say more than we understand.
    Unknown,
}

#[derive(Deserialize)]
struct Frame {
    id: Option<u64>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    error: Option<ErrorMember>,
}

#[derive(Deserialize)]
struct ErrorMember {
    code: i64,
    message: String,
}

/// The text of a request.
pub(super) fn request(id: u64, request: &Request) -> String {
    let mut frame = serde_json::to_value(request).expect("requests have string keys only");
    frame["jsonrpc"] = "2.0".into();
    frame["id"] = id.into();
    frame.to_string()
}

/// Reads one text frame of a node.
pub(super) fn parse(text: &str) -> Incoming {
    let Ok(frame) = serde_json::from_str::<Frame>(text) else { return Incoming::Unknown };
    if let Some(id) = frame.id {
        let refused = |error: ErrorMember| NodeError { code: error.code, message: error.message };
        return Incoming::Answer {
            id,
            result: frame.error.map_or(Ok(frame.result), |error| Err(refused(error))),
        };
    }
    let notification = json!({ "method": frame.method, "params": frame.params });
    serde_json::from_value(notification).map_or(Incoming::Unknown, Incoming::Notification)
}

#[cfg(test)]
mod tests {
    use sfu_core::control::proto::{NodeLoad, TransportState};

    use super::*;

    #[test]
    fn writes_requests() {
        let text = request(7, &Request::Hello { version: 1, load_interval_ms: 500 });
        let expected = json!({"jsonrpc": "2.0", "id": 7, "method": "hello", "params": {"version": 1, "loadIntervalMs": 500}});
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), expected);
        let text = request(8, &Request::Drain {});
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON")["params"], json!({}));
    }

    #[test]
    fn reads_what_nodes_send() {
        let state = Notification::TransportState {
            room: "r".into(),
            transport: "t".into(),
            state: TransportState::Failed,
            reason: "why".into(),
        };
        for (frame, expected) in [
            (
                json!({"jsonrpc": "2.0", "id": 3, "result": {"a": 1}}),
                Incoming::Answer { id: 3, result: Ok(json!({"a": 1})) },
            ),
            (
                json!({"jsonrpc": "2.0", "id": 3, "error": {"code": 2, "message": "gone", "data": {"op": 1}}}),
                Incoming::Answer { id: 3, result: Err(NodeError { code: 2, message: "gone".into() }) },
            ),
            (
                json!({"jsonrpc": "2.0", "method": "load", "params": {"load": 5.0}}),
                Incoming::Notification(Notification::Load(NodeLoad { load: 5.0, ..NodeLoad::default() })),
            ),
            (
                json!({"method": "transportState", "params": {"room": "r", "transport": "t", "state": "failed", "reason": "why"}}),
                Incoming::Notification(state),
            ),
            (json!({"method": "somethingNew", "params": {}}), Incoming::Unknown),
            (json!({"id": null, "error": {"code": -32600, "message": "no"}}), Incoming::Unknown),
            (json!(5), Incoming::Unknown),
        ] {
            assert_eq!(parse(&frame.to_string()), expected, "{frame}");
        }
        assert_eq!(parse("{"), Incoming::Unknown);
    }
}

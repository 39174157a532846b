//! JSON-RPC 2.0 frames of the control protocol, node side: text to [`Request`], answers and notifications to text.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::proto::{Notification, Request, error_code};

/// Methods of [`Request`], to tell an unknown method from parameters that do not fit.
const METHODS: [&str; 5] = ["hello", "apply", "roomStats", "drain", "shutdown"];

/// One request with the id its answer must carry.
#[derive(Debug, PartialEq)]
pub struct Call {
    /// Number or string chosen by the caller.
    pub id: Value,
    /// What is asked.
    pub request: Request,
}

/// The `error` member of an answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Failure {
    /// One of [`error_code`].
    pub code: i64,
    /// For people; names the field.
    pub message: String,
    /// `{"op": index}` for a refused op.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl Failure {
    /// A failure without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), data: None }
    }

    /// The failure of one op of an `apply`.
    pub fn of_op(code: i64, message: impl Into<String>, op: usize) -> Self {
        Failure { code, message: message.into(), data: Some(json!({ "op": op })) }
    }
}

#[derive(Deserialize)]
struct Envelope {
    jsonrpc: Option<String>,
    #[serde(default)]
    id: Value,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// Reads one text frame.
///
/// # Errors
/// The id to answer (null where there was none) and what to answer: `BAD_REQUEST` when it is no JSON-RPC 2.0 request or the
/// method is unknown, `INVALID` when the parameters do not fit the method.
pub fn parse(text: &str) -> Result<Call, (Value, Failure)> {
    let bad = |id: Value, message: String| Err((id, Failure::new(error_code::BAD_REQUEST, message)));
    let envelope: Envelope = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => return bad(Value::Null, format!("not a JSON-RPC request: {error}")),
    };
    let id = envelope.id;
    if !(id.is_number() || id.is_string()) {
        return bad(Value::Null, "`id` must be a number or a string".into());
    }
    if envelope.jsonrpc.as_deref() != Some("2.0") {
        return bad(id, "`jsonrpc` must be \"2.0\"".into());
    }
    let Some(method) = envelope.method.filter(|method| METHODS.contains(&method.as_str())) else {
        return bad(id, format!("`method` must be one of {METHODS:?}"));
    };
    let params = if envelope.params.is_null() { json!({}) } else { envelope.params };
    match serde_json::from_value(json!({ "method": method, "params": params })) {
        Ok(request) => Ok(Call { id, request }),
        Err(error) => Err((id, Failure::new(error_code::INVALID, format!("params of {method}: {error}")))),
    }
}

/// The text of a good answer.
pub fn result(id: &Value, result: &impl Serialize) -> String {
    encode(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

/// The text of a refusal.
pub fn error(id: &Value, failure: &Failure) -> String {
    encode(&json!({ "jsonrpc": "2.0", "id": id, "error": failure }))
}

/// The text of a notification.
pub fn notification(notification: &Notification) -> String {
    let mut frame = serde_json::to_value(notification).expect("notifications have string keys only");
    frame["jsonrpc"] = "2.0".into();
    encode(&frame)
}

fn encode(frame: &Value) -> String {
    frame.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::{NodeLoad, Op};

    #[test]
    fn reads_requests() {
        for (text, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"hello","params":{"version":1,"loadIntervalMs":1000}}"#,
                Request::Hello { version: 1, load_interval_ms: 1000 },
            ),
            (
                r#"{"jsonrpc":"2.0","id":"x","method":"apply","params":{"room":"r","ops":[{"op":"openRoom","core":3}]}}"#,
                Request::Apply { room: "r".into(), ops: vec![Op::OpenRoom { core: 3 }] },
            ),
            (r#"{"jsonrpc":"2.0","id":2,"method":"drain"}"#, Request::Drain {}),
            (r#"{"jsonrpc":"2.0","id":2,"method":"shutdown","params":{}}"#, Request::Shutdown {}),
        ] {
            assert_eq!(parse(text).expect(text).request, expected);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, id, code, part) in [
            ("", json!(null), error_code::BAD_REQUEST, "not a JSON-RPC request"),
            ("[]", json!(null), error_code::BAD_REQUEST, "not a JSON-RPC request"),
            (r#"{"jsonrpc":"2.0","method":"drain"}"#, json!(null), error_code::BAD_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":{},"method":"drain"}"#, json!(null), error_code::BAD_REQUEST, "`id`"),
            (r#"{"id":7,"method":"drain"}"#, json!(7), error_code::BAD_REQUEST, "`jsonrpc`"),
            (r#"{"jsonrpc":"2.0","id":7}"#, json!(7), error_code::BAD_REQUEST, "`method`"),
            (r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, json!(7), error_code::BAD_REQUEST, "`method`"),
            (r#"{"jsonrpc":"2.0","id":7,"method":"hello"}"#, json!(7), error_code::INVALID, "version"),
            (
                r#"{"jsonrpc":"2.0","id":7,"method":"apply","params":{"room":"r","ops":[{"op":"fly"}]}}"#,
                json!(7),
                error_code::INVALID,
                "fly",
            ),
        ] {
            let (got_id, failure) = parse(text).expect_err(text);
            assert_eq!((got_id, failure.code), (id, code), "{text}");
            assert!(failure.message.contains(part), "{text}: {}", failure.message);
        }
    }

    #[test]
    fn writes_answers() {
        let parsed = |text: String| serde_json::from_str::<Value>(&text).expect("JSON");
        assert_eq!(parsed(result(&json!(1), &json!({}))), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
        assert_eq!(
            parsed(error(&json!("a"), &Failure::of_op(2, "gone", 4))),
            json!({"jsonrpc": "2.0", "id": "a", "error": {"code": 2, "message": "gone", "data": {"op": 4}}})
        );
        let load = parsed(notification(&Notification::Load(NodeLoad { load: 12.5, ..NodeLoad::default() })));
        assert_eq!(
            (&load["jsonrpc"], &load["method"], &load["params"]["load"]),
            (&json!("2.0"), &json!("load"), &json!(12.5))
        );
        assert!(load.get("id").is_none());
    }
}

//! JSON-RPC 2.0 framing as clients enforce it (`signaling.md` 1.3): never a null `error`, never a response with both members.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::error::{RpcError, code};

/// A message of a client.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// Number or string; `None` for a notification, which is not answered.
    pub(crate) id: Option<Value>,
    /// What it wants.
    pub(crate) method: String,
    /// Empty when absent.
    pub(crate) params: Map<String, Value>,
}

/// A message that cannot be used, with the id for the answer (`Null` when it has none that can be read).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unusable {
    pub(crate) id: Value,
    pub(crate) error: RpcError,
}

/// Reads one message. `limit`: longest one taken, bytes.
/// # Errors
/// `-32700` for text that is not JSON, `-32600` for JSON that is not a request, `-32602` for params that are no object.
pub(crate) fn parse(text: &str, limit: usize) -> Result<Message, Unusable> {
    let unusable = |id: Value, code: i64, message: &str| Unusable { id, error: RpcError::new(code, message) };
    if text.len() > limit {
        return Err(unusable(Value::Null, code::INVALID_REQUEST, "Message is too long"));
    }
    let value: Value = serde_json::from_str(text)
        .map_err(|_| unusable(Value::Null, code::PARSE_ERROR, "Message is not valid JSON"))?;
    let Value::Object(mut object) = value else {
        return Err(unusable(Value::Null, code::INVALID_REQUEST, "Message is not a JSON object"));
    };
    let id = match object.remove("id") {
        None | Some(Value::Null) => None,
        Some(id @ (Value::Number(_) | Value::String(_))) => Some(id),
        Some(_) => return Err(unusable(Value::Null, code::INVALID_REQUEST, "The id is no number")),
    };
    let reply_id = id.clone().unwrap_or(Value::Null);
    if object.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(unusable(reply_id, code::INVALID_REQUEST, "Member jsonrpc is not \"2.0\""));
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return Err(unusable(reply_id, code::INVALID_REQUEST, "Message has no method"));
    };
    let params = match object.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(unusable(reply_id, code::INVALID_PARAMS, "Member params is not an object")),
    };
    Ok(Message { id, method, params })
}

/// A notification, written once for all who get it.
pub(crate) fn notification(method: &str, params: Value) -> Arc<str> {
    json!({ "method": method, "params": params, "jsonrpc": "2.0" }).to_string().into()
}

/// A successful response.
pub(crate) fn response(id: &Value, result: Value) -> String {
    json!({ "id": id, "result": result, "jsonrpc": "2.0" }).to_string()
}

/// A failed response.
pub(crate) fn failure(id: &Value, error: &RpcError) -> String {
    json!({ "id": id, "error": { "code": error.code, "message": error.message }, "jsonrpc": "2.0" })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_and_notifications() {
        let message = parse(r#"{"jsonrpc":"2.0","method":"ping","id":7}"#, 1000).expect("a request");
        assert_eq!(message, Message { id: Some(json!(7)), method: "ping".into(), params: Map::new() });
        let message = parse(r#"{"jsonrpc":"2.0","method":"x","params":{"a":1}}"#, 1000).expect("no id");
        assert_eq!((message.id, message.params["a"].clone()), (None, json!(1)));
    }

    #[test]
    fn refuses_everything_else_with_the_code_of_json_rpc() {
        for (text, id, code) in [
            ("", json!(null), -32700),
            ("{", json!(null), -32700),
            ("[]", json!(null), -32600),
            ("3", json!(null), -32600),
            (r#"{"method":"ping","id":1}"#, json!(1), -32600),
            (r#"{"jsonrpc":2.0,"method":"ping","id":1}"#, json!(1), -32600),
            (r#"{"jsonrpc":"2.0","id":"a"}"#, json!("a"), -32600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, json!(null), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":3}"#, json!(1), -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#, json!(1), -32602),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":"0123456789012345678901234567"}}"#,
                json!(null),
                -32600,
            ),
        ] {
            let unusable = parse(text, 80).expect_err(text);
            assert_eq!((unusable.id, unusable.error.code), (id, code), "{text}");
        }
    }

    #[test]
    fn a_response_has_exactly_one_of_result_and_error() {
        let ok: Value = serde_json::from_str(&response(&json!(1), json!({}))).expect("JSON");
        assert_eq!(ok, json!({"id": 1, "jsonrpc": "2.0", "result": {}}));
        let error: Value = serde_json::from_str(&failure(&json!(1), &RpcError::new(105, "x"))).expect("JSON");
        assert_eq!(
            error,
            json!({"id": 1, "jsonrpc": "2.0", "error": {"code": 105, "message": "x. Code: 105"}})
        );
    }
}

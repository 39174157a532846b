//! `POST /signal` (`rest-api.md` section 5).
#![forbid(unsafe_code)]

use serde_json::Value;

use super::{Answer, empty, required};
use crate::engine::{ApiError, Engine, Output, SignalRequest};

pub(super) fn send(engine: &mut Engine, now_ms: u64, body: Option<&Value>, out: &mut Vec<Output>) -> Answer {
    let fields = required(body)?;
    let signal = SignalRequest {
        session: fields.mandatory_string("session")?.to_owned(),
        to: fields.array("to")?.map(|items| recipients(items)).transpose()?.unwrap_or_default(),
        signal_type: fields.string("type")?.map(str::to_owned),
        data: fields.string("data")?.map(str::to_owned),
    };
    engine.send_signal(now_ms, &signal, out)?;
    Ok(empty(200))
}

/// Ids; another type is 400, but `null` is as an unknown connection.
fn recipients(items: &[Value]) -> Result<Vec<String>, ApiError> {
    let id = |value: &Value| match value {
        Value::String(id) => Ok(id.clone()),
        Value::Null => Err(ApiError::status(406)),
        _ => Err(ApiError::with(400, "\"to\" must hold strings")),
    };
    items.iter().map(id).collect()
}

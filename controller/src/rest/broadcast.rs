//! `/broadcast/*` (`rest-api.md` section 7). There is no broadcaster: a valid request to start is answered 501.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::{Answer, recording, required};
use crate::engine::{ApiError, Engine};

pub(super) fn start(engine: &Engine, body: Option<&Value>) -> Answer {
    let fields = required(body)?;
    let session = fields.mandatory_string("session")?;
    let url = fields.mandatory_string("broadcastUrl")?;
    let valid = url.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if !valid {
        return Err(ApiError::with(400, "\"broadcastUrl\" must be an URL"));
    }
    let session = engine.session(session).ok_or(ApiError::status(404))?;
    if !session.is_active() {
        return Err(ApiError::status(406));
    }
    recording::properties(fields)?;
    Err(ApiError::with(501, "broadcasting is not available"))
}

pub(super) fn stop(engine: &Engine, body: Option<&Value>) -> Answer {
    let session = required(body)?.mandatory_string("session")?;
    let session = engine.session(session).ok_or(ApiError::status(404))?;
    let status = if session.broadcasting { 501 } else { 409 };
    Err(ApiError::status(status))
}

//! The REST API on top of the engine's operations: paths, bodies, JSON answers.
//!
//! ```text
//! RestRequest ─▶ route ─▶ 404 / 403 (2.32: a known path with another method)
//!                  └────▶ look the session up ─▶ validate the body ─▶ engine operation ─▶ JSON view
//! ```
//!
//! The order matters where the contract says so: an unknown session wins over a bad body. What needs no engine (`/config`,
//! `/status`, recordings) is answered by [`info`] before a request comes here.
#![forbid(unsafe_code)]

pub mod field;
pub mod info;
pub mod restart;
pub mod usage;

mod broadcast;
mod connections;
mod media_nodes;
mod recording;
mod route;
mod sessions;
mod signal;

use serde_json::{Value, json};

use self::field::Fields;
use self::route::Route;
use crate::engine::{ApiError, Engine, Output, RestRequest, RestResponse};
use crate::ids::ReplyId;
use crate::session::ViewOptions;

type Answer = Result<RestResponse, ApiError>;

pub use media_nodes::{media_node, media_nodes};

/// Answers a request below `/openvidu/api/`. `None`: the answer follows when the outcome about a media node is known.
pub fn handle(
    engine: &mut Engine,
    now_ms: u64,
    reply: ReplyId,
    request: RestRequest,
    out: &mut Vec<Output>,
) -> Option<RestResponse> {
    let path = request.path.join("/");
    let answer = match Route::of(&request.method, &request.path) {
        Ok(Route::AddMediaNode) => media_nodes::add(engine, now_ms, reply, &request, out),
        Ok(Route::FindMediaNodes) => engine.discover_for(reply, out).map(|()| None),
        Ok(Route::RemoveMediaNode(id)) => {
            media_nodes::remove(engine, now_ms, (reply, id), &request.query, out)
        }
        Ok(route) => dispatch(engine, now_ms, route, &request, out).map(Some),
        Err(status) => Err(ApiError::status(status)),
    };
    answer.unwrap_or_else(|error| Some(refusal(error, &path, now_ms)))
}

fn dispatch(
    engine: &mut Engine,
    now_ms: u64,
    route: Route<'_>,
    request: &RestRequest,
    out: &mut Vec<Output>,
) -> Answer {
    let body = request.body.as_ref();
    match route {
        Route::Sessions => Ok(sessions::list(engine, view(request, false))),
        Route::CreateSession => sessions::create(engine, now_ms, body, out),
        Route::Session(id) => sessions::one(engine, id, view(request, false)),
        Route::CloseSession(id) => sessions::close(engine, now_ms, id, out),
        Route::Connections(id) => connections::list(engine, id, view(request, true)),
        Route::CreateConnection(id) => connections::create(engine, now_ms, id, body, out),
        Route::Connection(id, connection) => connections::one(engine, id, connection, view(request, true)),
        Route::PatchConnection(id, connection) => {
            connections::patch(engine, now_ms, (id, connection), body, out)
        }
        Route::CloseConnection(id, connection) => {
            engine.force_disconnect(now_ms, id, connection, out).map(|()| empty(204))
        }
        Route::CloseStream(id, stream) => {
            engine.force_unpublish(now_ms, id, stream, out).map(|()| empty(204))
        }
        Route::Signal => signal::send(engine, now_ms, body, out),
        Route::CreateToken => connections::create_token(engine, now_ms, body, out),
        Route::Health => Ok(media_nodes::health(engine)),
        Route::MediaNodes => Ok(media_nodes::list(engine, &request.query)),
        Route::MediaNode(id) => media_nodes::one(engine, id, &request.query),
        Route::PatchMediaNode(id) => media_nodes::patch(engine, now_ms, id, body, out),
        Route::AddMediaNode | Route::FindMediaNodes | Route::RemoveMediaNode(_) => {
            unreachable!("these may answer later and are dispatched above")
        }
        Route::StartBroadcast => broadcast::start(engine, body),
        Route::StopBroadcast => broadcast::stop(engine, body),
        Route::NotBuilt(what) => Err(ApiError::with(501, what)),
    }
}

/// The response to a refused operation: an error body where there is a message, else none.
pub fn refusal(error: ApiError, path: &str, now_ms: u64) -> RestResponse {
    let path = format!("/openvidu/api/{path}");
    let body = error.message.map(|message| error_body(error.status, &message, &path, now_ms));
    RestResponse { status: error.status, body }
}

/// The error body of the contract. `error` is the standard reason phrase.
pub fn error_body(status: u16, message: &str, path: &str, now_ms: u64) -> Value {
    let phrase = hyper::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("");
    json!({"timestamp": now_ms, "status": status, "error": phrase, "message": message, "path": path})
}

fn ok(body: Value) -> RestResponse {
    RestResponse { status: 200, body: Some(body) }
}

fn empty(status: u16) -> RestResponse {
    RestResponse { status, body: None }
}

/// Boolean query parameters: `true` in any case, else false; absent is the default.
fn flag(query: &std::collections::BTreeMap<String, String>, name: &str, default: bool) -> bool {
    query.get(name).map_or(default, |value| value.eq_ignore_ascii_case("true"))
}

fn view(request: &RestRequest, pending_by_default: bool) -> ViewOptions {
    ViewOptions {
        pending_connections: flag(&request.query, "pendingConnections", pending_by_default),
        webrtc_stats: flag(&request.query, "webRtcStats", false),
    }
}

/// The fields of a body that must be there.
fn required(body: Option<&Value>) -> Result<Fields<'_>, ApiError> {
    match body {
        None | Some(Value::Null) => Err(ApiError::with(400, "a JSON body is required")),
        Some(body) => Fields::of(body),
    }
}

/// The fields of a body that may be absent, which is as good as `{}`.
fn optional(body: Option<&Value>) -> Result<Fields<'_>, ApiError> {
    match body {
        None | Some(Value::Null) => Ok(Fields::none()),
        Some(body) => Fields::of(body),
    }
}

#[cfg(test)]
mod tests;

//! `/demo`: lets the page join without the secret, where the operator allows it (`WEIR_DEMO`; by default on loopback only).
//!
//! `GET /demo` says whether it is on. `POST /demo/token` with `{"session": NAME, "data"?: TEXT}` makes the session if need
//! be and a connection in it, and answers `{"token": URL}`. Only JSON is taken and no cross-origin headers are given, so
//! pages of other origins cannot use it.

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::reply::{self, Reply};
use super::{BODY_TIMEOUT, Shared, api, body};
use crate::engine::{RestRequest, RestResponse};

/// Longest body, bytes.
const BODY_BYTES: usize = 16 * 1024;

/// Serves `/demo` and `/demo/token`.
pub async fn serve(shared: &Shared, request: Request<Incoming>) -> Reply {
    let on = shared.config.demo;
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/demo") => reply::json(StatusCode::OK, &json!({"enabled": on})),
        (&Method::POST, "/demo/token") if on => token(shared, request).await,
        (_, "/demo" | "/demo/token") if on => reply::empty(StatusCode::METHOD_NOT_ALLOWED),
        _ => reply::empty(StatusCode::NOT_FOUND),
    }
}

async fn token(shared: &Shared, request: Request<Incoming>) -> Reply {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return reply::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let read = body::read(request.into_body(), BODY_BYTES, BODY_TIMEOUT).await;
    let parsed = read.and_then(|bytes| body::parse(&bytes));
    let Ok(Some(wanted)) = parsed else { return reply::empty(StatusCode::BAD_REQUEST) };
    let Some(session) = wanted["session"].as_str() else { return reply::empty(StatusCode::BAD_REQUEST) };
    let data = wanted["data"].as_str().unwrap_or_default();
    match make(shared, session, data).await {
        Ok(token) => reply::json(StatusCode::OK, &json!({"token": token})),
        Err(status) => reply::empty(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)),
    }
}

/// The two REST calls an application would make; an existing session is fine.
async fn make(shared: &Shared, session: &str, data: &str) -> Result<Value, u16> {
    let created = post(shared, &["sessions"], json!({"customSessionId": session})).await?;
    if !matches!(created.status, 200 | 409) {
        return Err(created.status);
    }
    let connection = post(shared, &["sessions", session, "connection"], json!({"data": data})).await?;
    match connection.body {
        Some(body) if connection.status == 200 => Ok(body["token"].clone()),
        _ => Err(connection.status),
    }
}

async fn post(shared: &Shared, path: &[&str], body: Value) -> Result<RestResponse, u16> {
    let path = path.iter().map(|s| (*s).to_owned()).collect();
    let request = RestRequest { method: "POST".into(), path, body: Some(body), ..Default::default() };
    api::ask(shared, request).await.ok_or(503)
}

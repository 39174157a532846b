//! `/demo`: lets the page join without the secret, where the operator allows it (`WEIR_DEMO`; by default on loopback only).
//!
//! `GET /demo` says whether it is on. `POST /demo/token` with `{"session": NAME, "data"?: TEXT}` makes the session if need
//! be and a connection in it, and answers `{"token": URL}`. Only JSON is taken and no cross-origin headers are given, so
//! pages of other origins cannot use it; [`is_our_name`] keeps out those that let their own name point at this server.

use std::net::IpAddr;

use hyper::body::Incoming;
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, Uri, header};
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
    if !asked_by_our_page(&request, &shared.config.public.host) {
        let message = "open the page at DOMAIN_OR_PUBLIC_IP, localhost or an address of this server";
        return reply::json(StatusCode::FORBIDDEN, &json!({"message": message}));
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return reply::empty(StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let read = body::read(request.into_body(), BODY_BYTES, BODY_TIMEOUT).await;
    let parsed = read.and_then(|bytes| body::parse(&bytes));
    let Ok(Some(wanted)) = parsed else { return reply::empty(StatusCode::BAD_REQUEST) };
    // Without a name the API would make one up, which nobody here would learn.
    let session = wanted["session"].as_str().filter(|name| !name.is_empty());
    let Some(session) = session else { return reply::empty(StatusCode::BAD_REQUEST) };
    let data = wanted["data"].as_str().unwrap_or_default();
    match make(shared, session, data).await {
        Ok(token) => reply::json(StatusCode::OK, &json!({"token": token})),
        Err(status) => reply::empty(StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)),
    }
}

/// Whether the request names this server, and comes from a page of the same origin where it comes from a page at all.
fn asked_by_our_page(request: &Request<Incoming>, public_host: &str) -> bool {
    let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let authority = match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None => text(header::HOST).and_then(|host| host.parse::<Authority>().ok()),
    };
    let Some(authority) = authority else { return false };
    let from = match text(header::ORIGIN) {
        // A proxy in front may have another port than we; the name is what counts.
        Some(origin) => origin.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)),
        None => Some(authority.host().to_owned()),
    };
    is_our_name(authority.host(), public_host)
        && from.is_some_and(|from| from.eq_ignore_ascii_case(authority.host()))
}

/// Whether `host` can only mean this server. A stranger's page may let its own name point here once it is loaded ("DNS
/// rebinding") and then counts as the same origin for the browser; it cannot do so with an address or with our name.
fn is_our_name(host: &str, public_host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let host = host.to_ascii_lowercase();
    address.is_ok()
        || host == "localhost"
        || host.ends_with(".localhost")
        || host == public_host.to_ascii_lowercase()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_name_does_not_mean_this_server() {
        for (host, ours) in [
            ("localhost", true),
            ("weir.localhost", true),
            ("127.0.0.1", true),
            ("[::1]", true),
            ("Calls.Example.org", true),
            ("evil.example", false),
            ("calls.example.org.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            assert_eq!(is_our_name(host, "calls.example.org"), ours, "{host}");
        }
    }
}

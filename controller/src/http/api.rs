//! `/openvidu/api/*`: authenticates, bounds and parses a request, hands it to the shell, writes its answer.

use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::Value;
use tokio::sync::oneshot;

use super::body;
use super::reply::{self, Reply};
use super::{ANSWER_TIMEOUT, BODY_BYTES_MAX, BODY_TIMEOUT, Event, NODE_ANSWER_TIMEOUT, Shared, auth};
use crate::engine::{RestRequest, RestResponse};
use crate::rest::usage;

/// Base path of the API.
pub const BASE: &str = "/openvidu/api/";

/// Serves one request. `path`: what follows [`BASE`]. `now_ms`: for error bodies.
pub async fn serve(shared: &Shared, request: Request<Incoming>, path: &str, now_ms: u64) -> Reply {
    let open = path == "config/openvidu-publicurl" && matches!(*request.method(), Method::GET | Method::HEAD);
    if !open && !auth::is_authorized(request.headers(), &shared.config.secret) {
        return unauthorized(request.uri().path(), now_ms);
    }
    let uri_path = request.uri().path().to_owned();
    let refused = |status: u16, message: &str| {
        let status = StatusCode::from_u16(status).expect("our own statuses are valid");
        reply::error(status, message, &uri_path, now_ms)
    };
    let Some(segments) = segments(path) else { return refused(400, "the path is not valid UTF-8") };
    let mut query = request.uri().query().map(query_pairs).unwrap_or_default();
    let is_usage = segments == [usage::PATH];
    if is_usage && wants_csv(request.headers()) {
        query.entry("format".to_owned()).or_insert_with(|| usage::CSV.to_owned());
    }
    let method = request.method().to_string();
    let bytes = match body::read(request.into_body(), BODY_BYTES_MAX, BODY_TIMEOUT).await {
        Ok(bytes) => bytes,
        Err(error) => return refused(error.status(), &error.to_string()),
    };
    let body = match body::parse(&bytes) {
        Ok(body) => body,
        Err(error) => return refused(error.status(), &error.to_string()),
    };
    match ask(shared, RestRequest { method, path: segments, query, body }).await {
        Some(answer) if is_usage => write(answer, "text/csv; charset=utf-8; header=present"),
        Some(answer) => write(answer, "text/plain; charset=utf-8"),
        None => refused(503, "the server is stopping or overloaded"),
    }
}

/// Asks the shell; `None` when it is gone or does not answer in time.
pub(super) async fn ask(shared: &Shared, request: RestRequest) -> Option<RestResponse> {
    let (reply, answer) = oneshot::channel();
    let for_nodes =
        request.method != "GET" && request.path.first().is_some_and(|first| first == "media-nodes");
    let limit = if for_nodes { NODE_ANSWER_TIMEOUT } else { ANSWER_TIMEOUT };
    let whole = async {
        shared.events.send(Event::Rest { request, reply }).await.ok()?;
        answer.await.ok()
    };
    tokio::time::timeout(limit, whole).await.ok().flatten()
}

/// Whether the client prefers CSV, or takes nothing else.
fn wants_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.trim_start().starts_with("text/csv"))
}

/// JSON, except that a bare string is sent as the text it is: the small variants of `/config`, and CSV.
fn write(answer: RestResponse, text_type: &'static str) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match answer.body {
        None => reply::empty(status),
        Some(Value::String(text)) => reply::with_body(status, text_type, text),
        Some(body) => reply::json(status, &body),
    }
}

/// 401 with the challenge.
pub fn unauthorized(path: &str, now_ms: u64) -> Reply {
    let mut reply = reply::error(StatusCode::UNAUTHORIZED, "Unauthorized", path, now_ms);
    let challenge = header::HeaderValue::from_static("Basic realm=\"Weir\", charset=\"UTF-8\"");
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    reply
}

/// Percent-decoded segments without empty ones at the end; `None` when they are not UTF-8.
fn segments(path: &str) -> Option<Vec<String>> {
    path.trim_end_matches('/')
        .split('/')
        .filter(|s| !s.is_empty())
        .map(|s| percent_decoded(s, false))
        .collect()
}

fn query_pairs(query: &str) -> std::collections::BTreeMap<String, String> {
    let decoded = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((percent_decoded(name, true)?, percent_decoded(value, true)?))
    };
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(decoded).collect()
}

/// Decodes `%XX` (RFC 3986 §2.1); a stray `%` stays. `None` when the result is not UTF-8.
pub fn percent_decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 2;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_decoded() {
        assert_eq!(segments("sessions/a%20b/"), Some(vec!["sessions".into(), "a b".into()]));
        assert_eq!(segments("a%2Fb"), Some(vec!["a/b".into()]));
        assert_eq!(segments("%ff"), None);
        assert_eq!(segments(""), Some(vec![]));
        let query = query_pairs("a=1&b=x%26y&c&a=2&d=1+2&&e=%zz");
        let got: Vec<_> = query.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(got, [("a", "2"), ("b", "x&y"), ("c", ""), ("d", "1 2"), ("e", "%zz")]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_encoded_decodes_to_itself(text in ".{0,40}") {
            let encoded: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            proptest::prop_assert_eq!(percent_decoded(&encoded, true), Some(text));
        }

        #[test]
        fn decoding_never_panics(text in "[%0-9a-fA-F+&=/é]{0,40}") {
            percent_decoded(&text, false);
            query_pairs(&text);
            segments(&text);
        }
    }
}

//! Cross-origin requests: any origin, header and method, as OpenVidu allows. Credentials travel in a header that the page
//! sets itself, never in cookies, so a foreign page gains nothing it was not told.
#![forbid(unsafe_code)]

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};

use super::reply::{self, Reply};

/// How long a browser may remember a preflight, seconds.
const MAX_AGE_S: &str = "1800";
const ALL_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Whether this is a preflight.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    let asks = headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    method == Method::OPTIONS && headers.contains_key(header::ORIGIN) && asks
}

/// Answer to a preflight: whatever was asked for is allowed. `Authorization` is not covered by `*`, so the list is echoed.
pub fn preflight(request: &HeaderMap) -> Reply {
    let mut reply = reply::empty(StatusCode::OK);
    let headers = reply.headers_mut();
    let asked = request.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned();
    let methods = asked.unwrap_or_else(|| HeaderValue::from_static(ALL_METHODS));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_S));
    allow(headers);
    reply
}

/// Lets a page of any origin read this response.
pub fn allow(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}

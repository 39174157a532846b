//! Cross-origin requests: any origin, header and method, as OpenVidu allows. Credentials travel in a header that the page
//! sets itself, never in cookies, so a foreign page gains nothing it was not told.
//!
//! The well-known secret was told to everybody: with it, any page that somebody on this machine looks at could use the
//! server on their loopback. So pages of this machine are served then, and no others: [`is_welcome`].
#![forbid(unsafe_code)]

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode, Uri};

use super::reply::{self, Reply};
use crate::config::Secret;

/// How long a browser may remember a preflight, seconds.
const MAX_AGE_S: &str = "1800";
const ALL_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Whether the page that a request comes from may ask at all. What comes from no page has no `Origin`.
pub fn is_welcome(headers: &HeaderMap, secret: &Secret) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    !secret.is_well_known() || origin.to_str().is_ok_and(is_of_this_machine)
}

/// Whether the origin is `localhost`, a name below it (RFC 6761 §6.3), or a loopback address; `null` is anybody's.
fn is_of_this_machine(origin: &str) -> bool {
    let Some(host) = origin.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_ascii_lowercase))
    else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|ip| ip.is_loopback())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_secret_is_for_pages_of_this_machine() {
        for (origin, ours) in [
            ("http://localhost:4200", true),
            ("https://LOCALHOST", true),
            ("http://app.localhost:8080", true),
            ("http://127.0.0.1:5080", true),
            ("http://[::1]:4443", true),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("http://127.0.0.1.evil.example", false),
            ("http://192.0.2.1:4443", false),
            ("null", false),
            ("", false),
        ] {
            let headers: HeaderMap = [(header::ORIGIN, origin.parse().unwrap())].into_iter().collect();
            assert_eq!(is_welcome(&headers, &Secret::new("MY_SECRET")), ours, "{origin}");
            assert!(is_welcome(&headers, &Secret::new("own")), "{origin}");
        }
        assert!(is_welcome(&HeaderMap::new(), &Secret::new("MY_SECRET")), "no page");
    }
}

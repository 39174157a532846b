//! Which path is served by whom, and who may ask.
//!
//! | path | credentials | served by |
//! |---|---|---|
//! | `/openvidu/api/*` | Basic | `api` |
//! | `/openvidu` | none: the token is in the protocol | `websocket` |
//! | `/openvidu/cdr`, `/openvidu/cdr/*` | Basic | `files` |
//! | `/openvidu/recordings/*`, `/openvidu/layouts/*` | Basic | 404: there is no recorder |
//! | `/openvidu/accept-certificate` | none | `page` |
//! | `/demo`, `/demo/token` | none, where `WEIR_DEMO` allows it | `demo` |
//! | `/metrics` | Basic | `metrics` |
//! | all else | none | `page` |

use std::path::Path;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode, Uri, header};

use super::reply::{self, Reply};
use super::{Peer, Shared, api, auth, cors, demo, files, page, websocket};

/// Serves one request. `now_ms`: UTC milliseconds, for error bodies.
pub async fn serve(shared: &Arc<Shared>, request: Request<Incoming>, peer: Peer, now_ms: u64) -> Reply {
    let (part, mut reply) = route(shared, request, peer, now_ms).await;
    if part == "api" {
        cors::allow(reply.headers_mut());
    }
    shared.metrics.answered(part, reply.status().as_u16());
    reply
}

async fn route(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
    peer: Peer,
    now_ms: u64,
) -> (&'static str, Reply) {
    if !peer.tls && !peer.loopback && !shared.config.force_plain_http && !came_by_tls(request.headers()) {
        return ("other", redirect(&shared.config.public.http(), request.uri(), request.headers()));
    }
    let path = request.uri().path().to_owned();
    if !cors::is_welcome(request.headers(), &shared.config.secret) {
        let message = "with the well-known secret only pages of this machine are served; set OPENVIDU_SECRET";
        return ("other", reply::error(StatusCode::FORBIDDEN, message, &path, now_ms));
    }
    let path = if shared.config.support_deprecated_api { without_alias(&path) } else { path };
    if !is_demo(&path) && cors::is_preflight(request.method(), request.headers()) {
        return ("api", cors::preflight(request.headers()));
    }
    if let Some(rest) = path.strip_prefix(api::BASE) {
        return ("api", api::serve(shared, request, rest, now_ms).await);
    }
    if matches!(path.as_str(), "/openvidu" | "/openvidu/") {
        return ("other", signaling(shared, request, peer));
    }
    if is_demo(&path) {
        return ("page", demo::serve(shared, request).await);
    }
    if needs_credentials(&path) && !auth::is_authorized(request.headers(), &shared.config.secret) {
        return ("api", api::unauthorized(request.uri().path(), now_ms));
    }
    served_file(shared, &request, &path).await
}

/// The paths of OpenVidu before 2.16, turned into today's.
fn without_alias(path: &str) -> String {
    let with = |new: &str, rest: &str| format!("{new}{rest}");
    if let Some(rest) = path.strip_prefix("/api/") {
        return with(api::BASE, rest);
    }
    for (old, new) in [
        ("/config", "/openvidu/api/config"),
        ("/cdr", "/openvidu/cdr"),
        ("/recordings", "/openvidu/recordings"),
        ("/layouts/custom", "/openvidu/layouts"),
        ("/info", "/openvidu/info"),
        ("/accept-certificate", "/openvidu/accept-certificate"),
    ] {
        match path.strip_prefix(old) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => return with(new, rest),
            _ => {}
        }
    }
    path.to_owned()
}

fn is_demo(path: &str) -> bool {
    path == "/demo" || path.starts_with("/demo/")
}

fn needs_credentials(path: &str) -> bool {
    let guarded = ["/openvidu/cdr", "/openvidu/recordings", "/openvidu/layouts", "/openvidu/api", "/metrics"];
    let below =
        |guard: &str| path.strip_prefix(guard).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    guarded.into_iter().any(below)
}

fn signaling(shared: &Arc<Shared>, request: Request<Incoming>, peer: Peer) -> Reply {
    if hyper_tungstenite::is_upgrade_request(&request) {
        return websocket::serve(shared, request, peer);
    }
    let mut reply = reply::empty(StatusCode::UPGRADE_REQUIRED);
    reply.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    reply
}

async fn served_file(shared: &Shared, request: &Request<Incoming>, path: &str) -> (&'static str, Reply) {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let cdr = Path::new(&shared.config.cdr.path);
    match path {
        "/metrics" if reads => {
            let text = shared.metrics.exposition();
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ("other", reply::with_body(StatusCode::OK, kind, text))
        }
        "/openvidu/cdr" | "/openvidu/cdr/" if reads => ("api", files::list(cdr).await),
        "/openvidu/accept-certificate" if reads => ("page", page::accept_certificate()),
        _ => match path.strip_prefix("/openvidu/cdr/") {
            Some(name) if reads => ("api", files::one(cdr, name).await),
            _ => {
                let tag = request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
                let page = page::serve(request.method(), path, tag);
                ("page", page.unwrap_or_else(|| reply::empty(StatusCode::NOT_FOUND)))
            }
        },
    }
}

/// Whether a proxy in front says that the client spoke TLS to it. Who forges this only spares himself the redirect.
fn came_by_tls(headers: &HeaderMap) -> bool {
    headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// 308 to the same address with TLS: method and body are kept. `public`: for requests without a `Host`.
fn redirect(public: &str, uri: &Uri, headers: &HeaderMap) -> Reply {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let base = host.map_or_else(|| public.to_owned(), |host| format!("https://{host}"));
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    match header::HeaderValue::try_from(format!("{base}{path}")) {
        Ok(location) => {
            let mut reply = reply::empty(StatusCode::PERMANENT_REDIRECT);
            reply.headers_mut().insert(header::LOCATION, location);
            reply
        }
        Err(_) => reply::empty(StatusCode::BAD_REQUEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_paths_lead_to_new_ones() {
        for (old, new) in [
            ("/api/sessions", "/openvidu/api/sessions"),
            ("/config", "/openvidu/api/config"),
            ("/config/openvidu-publicurl", "/openvidu/api/config/openvidu-publicurl"),
            ("/configuration", "/configuration"),
            ("/cdr/CDR.1.log", "/openvidu/cdr/CDR.1.log"),
            ("/layouts/custom/a", "/openvidu/layouts/a"),
            ("/accept-certificate", "/openvidu/accept-certificate"),
            ("/", "/"),
            ("/openvidu/api/sessions", "/openvidu/api/sessions"),
        ] {
            assert_eq!(without_alias(old), new);
        }
    }

    #[test]
    fn guarded_paths() {
        for path in
            ["/openvidu/cdr", "/openvidu/cdr/x", "/metrics", "/openvidu/recordings/a/b", "/openvidu/api"]
        {
            assert!(needs_credentials(path), "{path}");
        }
        for path in ["/", "/openvidu", "/openvidu/accept-certificate", "/metricsx", "/openvidu/cdrs"] {
            assert!(!needs_credentials(path), "{path}");
        }
    }

    #[test]
    fn plain_http_is_led_to_tls() {
        for (host, uri, location) in [
            (Some("a.b:4443"), "/x?y=1", "https://a.b:4443/x?y=1"),
            (Some("[::1]:1"), "/", "https://[::1]:1/"),
            (None, "/openvidu/api/sessions", "https://public/openvidu/api/sessions"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(header::HOST, host.parse().unwrap());
            }
            let reply = redirect("https://public", &uri.parse().unwrap(), &headers);
            assert_eq!(reply.status(), StatusCode::PERMANENT_REDIRECT);
            assert_eq!(reply.headers()[header::LOCATION], location);
        }
    }
}

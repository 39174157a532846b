//! The page for people and its modules, compiled into the binary.

use hyper::{Method, StatusCode, header};
use rust_embed::RustEmbed;

use super::reply::{self, Reply};

#[derive(RustEmbed)]
#[folder = "web/"]
struct Web;

/// What the page may load and do: its own files, its own server, cameras; no other origin.
const POLICY: &str = "default-src 'self'; connect-src 'self' ws: wss: http: https:; img-src 'self' data: blob:; \
                      media-src 'self' blob: mediastream:; style-src 'self' 'unsafe-inline'; object-src 'none'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'self'";

/// The file at this path, or `None`.
pub fn serve(method: &Method, path: &str, if_none_match: Option<&str>) -> Option<Reply> {
    let name = match path.trim_start_matches('/') {
        "" => "index.html",
        name => name,
    };
    let file = Web::get(name)?;
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = reply::empty(StatusCode::METHOD_NOT_ALLOWED);
        refused.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return Some(refused);
    }
    let tag = etag(&file.metadata.sha256_hash());
    let mut reply = if if_none_match == Some(tag.as_str()) {
        reply::empty(StatusCode::NOT_MODIFIED)
    } else {
        reply::with_body(StatusCode::OK, content_type(name), file.data.into_owned())
    };
    let headers = reply.headers_mut();
    let put = |headers: &mut header::HeaderMap, name, value: &str| {
        headers.insert(name, header::HeaderValue::from_str(value).expect("plain ASCII"));
    };
    put(headers, header::ETAG, &tag);
    put(headers, header::CACHE_CONTROL, "no-cache");
    put(headers, header::CONTENT_SECURITY_POLICY, POLICY);
    put(headers, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    put(headers, header::REFERRER_POLICY, "no-referrer");
    Some(reply)
}

fn etag(hash: &[u8]) -> String {
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "map" | "webmanifest") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// Page at `/openvidu/accept-certificate`: whoever reads it has accepted the certificate already.
pub fn accept_certificate() -> Reply {
    let html = "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
                <title>Certificate accepted</title><p>The certificate of this server is accepted. \
                You can go back to the application now.</p></html>";
    reply::with_body(StatusCode::OK, "text/html; charset=utf-8", html)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_types_and_tags() {
        let page = serve(&Method::GET, "/", None).expect("there is an index");
        assert_eq!(page.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let tag = page.headers()[header::ETAG].to_str().unwrap().to_owned();
        let again = serve(&Method::GET, "/index.html", Some(&tag)).unwrap();
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve(&Method::POST, "/", None).unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
        for missing in ["/nothing.html", "/../Cargo.toml", "/..%2fCargo.toml"] {
            assert!(serve(&Method::GET, missing, None).is_none(), "{missing}");
        }
        assert_eq!(content_type("a/b.mjs"), "text/javascript; charset=utf-8");
    }
}

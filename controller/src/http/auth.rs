//! HTTP Basic authentication of the REST API (RFC 7617): user `OPENVIDUAPP`, password the secret.
#![forbid(unsafe_code)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// The one user there is.
pub const USER: &str = "OPENVIDUAPP";

/// Whether the request carries the right credentials. Takes the same time wherever a wrong secret differs.
pub fn is_authorized(headers: &HeaderMap, secret: &Secret) -> bool {
    let Some(given) = headers.get(AUTHORIZATION).and_then(|value| credentials(value.as_bytes())) else {
        return false;
    };
    let expected = format!("{USER}:{}", secret.expose());
    given.ct_eq(expected.as_bytes()).into()
}

/// Decoded `user:password` of a `Basic` header.
fn credentials(header: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    STANDARD.decode(rest.trim_ascii()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_pair_passes() {
        let secret = Secret::new("MY_SECRET");
        let table = [
            (Some(format!("Basic {}", STANDARD.encode("OPENVIDUAPP:MY_SECRET"))), true),
            (Some(format!("basic  {} ", STANDARD.encode("OPENVIDUAPP:MY_SECRET"))), true),
            (Some(format!("Basic {}", STANDARD.encode("OPENVIDUAPP:MY_SECRE"))), false),
            (Some(format!("Basic {}", STANDARD.encode("OPENVIDUAPP:MY_SECRETS"))), false),
            (Some(format!("Basic {}", STANDARD.encode("openviduapp:MY_SECRET"))), false),
            (Some(format!("Basic {}", STANDARD.encode(":MY_SECRET"))), false),
            (Some(format!("Bearer {}", STANDARD.encode("OPENVIDUAPP:MY_SECRET"))), false),
            (Some("Basic ???".into()), false),
            (Some("Basic".into()), false),
            (Some(String::new()), false),
            (None, false),
        ];
        for (header, expected) in table {
            let mut headers = HeaderMap::new();
            if let Some(value) = &header {
                headers.insert(AUTHORIZATION, value.parse().unwrap());
            }
            assert_eq!(is_authorized(&headers, &secret), expected, "{header:?}");
        }
    }
}

//! LiveKit's access token: a JWT (RFC 7519) signed with HS256.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// How long a token is good for, s.
const LIFETIME_S: u64 = 6 * 3600;

/// A key pair of the server's configuration.
#[derive(Clone, Debug)]
pub(super) struct ApiKey {
    pub(super) name: String,
    pub(super) secret: String,
}

impl ApiKey {
    /// A token with which `identity` may join `room`.
    pub(super) fn join(&self, room: &str, identity: &str, publishes: bool, now_s: u64) -> String {
        self.sign(&json!({
            "iss": self.name, "sub": identity, "name": identity, "nbf": now_s.saturating_sub(60), "exp": now_s + LIFETIME_S,
            "video": { "room": room, "roomJoin": true, "canPublish": publishes, "canSubscribe": true, "canPublishData": false },
        }))
    }

    fn sign(&self, claims: &Value) -> String {
        let header = json!({ "alg": "HS256", "typ": "JWT" });
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes())))
    }
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_has_three_parts_and_its_signature_fits() {
        let key = ApiKey { name: "k".into(), secret: "s".repeat(32) };
        let token = key.join("room", "user", true, 1_000_000);
        let parts: Vec<&str> = token.split('.').collect();
        let claims: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).expect("base64")).expect("JSON");
        assert_eq!((claims["iss"].as_str(), claims["video"]["room"].as_str()), (Some("k"), Some("room")));
        assert_eq!(claims["exp"].as_u64(), Some(1_000_000 + LIFETIME_S));
        let signed = format!("{}.{}", parts[0], parts[1]);
        let signature = URL_SAFE_NO_PAD.decode(parts[2]).expect("base64");
        let verify = |secret: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            hmac::verify(&key, signed.as_bytes(), &signature).is_ok()
        };
        assert!(verify(&"s".repeat(32)) && !verify("another"));
    }
}

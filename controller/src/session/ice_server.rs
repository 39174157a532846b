//! STUN and TURN servers that clients are told to use (`rest-api.md` 3.2, `signaling.md` 1.5).
#![forbid(unsafe_code)]

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ids::IdGenerator;

/// One ICE server. Validated by whoever reads it from a request or a setting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` or `turns:` URL.
    pub url: String,
    /// TURN user.
    pub username: Option<String>,
    /// TURN password.
    pub credential: Option<String>,
    /// Secret shared with the TURN server; user and password are derived from it and last 24 hours. Never shown.
    pub static_auth_secret: Option<String>,
}

impl IceServer {
    /// How long derived credentials work, seconds.
    pub const CREDENTIAL_LIFE_S: u64 = 24 * 3600;

    /// Makes user and password anew when they are derived from a secret: username `<unix time + 24 h>:<8
    /// alphanumerics>`, credential base64(HMAC-SHA1(secret, username)).
    pub fn renew(&mut self, now_ms: u64, ids: &mut IdGenerator) {
        let Some(secret) = &self.static_auth_secret else { return };
        let username = format!("{}:{}", now_ms / 1000 + Self::CREDENTIAL_LIFE_S, ids.alphanumeric(8));
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
        self.credential = Some(STANDARD.encode(hmac::sign(&key, username.as_bytes())));
        self.username = Some(username);
    }

    /// `{url, username?, credential?}`.
    pub fn to_json(&self) -> Value {
        let mut object = json!({ "url": self.url });
        if let Some(username) = &self.username {
            object["username"] = username.as_str().into();
        }
        if let Some(credential) = &self.credential {
            object["credential"] = credential.as_str().into();
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_credentials_are_time_limited_and_verify() {
        let mut ids = IdGenerator::from_seed([3; 32]);
        let mut server = IceServer {
            url: "turn:turn.example.com".into(),
            static_auth_secret: Some("north".into()),
            ..Default::default()
        };
        server.renew(1_764_770_400_123, &mut ids);
        let username = server.username.clone().expect("derived");
        let (until, tail) = username.split_once(':').expect("two parts");
        assert_eq!((until, tail.len()), ("1764856800", 8));
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"north");
        let tag = STANDARD.decode(server.credential.as_deref().expect("derived")).expect("base64");
        hmac::verify(&key, username.as_bytes(), &tag).expect("HMAC of the username");
        assert!(!server.to_json().to_string().contains("north"));
    }

    #[test]
    fn given_credentials_stay() {
        let mut ids = IdGenerator::from_seed([3; 32]);
        let mut server = IceServer {
            url: "turn:t".into(),
            username: Some("u".into()),
            credential: Some("p".into()),
            static_auth_secret: None,
        };
        let before = server.clone();
        server.renew(1, &mut ids);
        assert_eq!(server, before);
        assert_eq!(server.to_json(), json!({"url": "turn:t", "username": "u", "credential": "p"}));
        assert_eq!(
            IceServer { url: "stun:s".into(), ..Default::default() }.to_json(),
            json!({"url": "stun:s"})
        );
    }
}

//! Tokens: the URL that an application hands to its client, good for one `joinRoom` (`signaling.md` 1.1).
#![forbid(unsafe_code)]

use crate::ids::SessionId;

/// `<public ws url>?sessionId=<id>&token=<tok_...>`. `ws_url`: `wss://HOST[:PORT]`, no slash at the end.
pub fn token_url(ws_url: &str, session: &SessionId, token: &str) -> String {
    format!("{ws_url}?sessionId={session}&token={token}")
}

/// The `tok_...` inside a token URL. An application may have rewritten host or query (a proxy, a flag such as
/// `recorder=true`), so only this part is compared; it alone has 94 random bits. A bare `tok_...` counts as well.
pub fn inner_token(text: &str) -> Option<&str> {
    if text.starts_with("tok_") {
        return Some(text);
    }
    let (_, query) = text.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("token="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_inner_token() {
        let url = token_url("wss://h:4443", &"ses_A".into(), "tok_X");
        assert_eq!(url, "wss://h:4443?sessionId=ses_A&token=tok_X");
        for (text, expected) in [
            (url.as_str(), Some("tok_X")),
            ("wss://other/path?sessionId=ses_A&token=tok_X&recorder=true", Some("tok_X")),
            ("tok_X", Some("tok_X")),
            ("wss://h?sessionId=a", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(inner_token(text), expected, "{text}");
        }
    }
}

//! Parsers of property values: text in, typed value or a sentence saying what is allowed out.
//!
//! The type rules are OpenVidu's: booleans in any case, non-negative integers, lenient JSON arrays of strings (items may
//! lack their quotes, as in the `.env` file operators have), paths that end in `/`, case-sensitive enumerations.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// What a parser says about a value it refuses: which values are allowed.
pub type Refused = String;

/// `true` or `false` in any case.
pub fn boolean(text: &str) -> Result<bool, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("true or false".into()),
    }
}

/// A decimal integer of `min..=max`.
pub fn integer(text: &str, min: i64, max: i64) -> Result<i64, Refused> {
    let allowed = || {
        if max == i64::MAX { format!("an integer >= {min}") } else { format!("an integer of {min} to {max}") }
    };
    text.parse::<i64>().ok().filter(|n| (min..=max).contains(n)).ok_or_else(allowed)
}

/// A decimal number of `min..=max`.
pub fn number(text: &str, min: f64, max: f64) -> Result<f64, Refused> {
    let parsed = text.parse::<f64>().ok().filter(|n| *n >= min && *n <= max);
    parsed.ok_or_else(|| format!("a number of {min} to {max}"))
}

/// A TCP or UDP port, 1 to 65535.
pub fn port(text: &str) -> Result<u16, Refused> {
    text.parse::<u16>().ok().filter(|p| *p > 0).ok_or_else(|| "a port of 1 to 65535".into())
}

/// One of `allowed`, case-sensitive; returns the entry of the list.
pub fn one_of<'a>(text: &str, allowed: &[&'a str]) -> Result<&'a str, Refused> {
    allowed.iter().find(|a| **a == text).copied().ok_or_else(|| format!("one of {}", allowed.join(", ")))
}

/// A directory; a trailing `/` is added.
pub fn directory(text: &str) -> Result<String, Refused> {
    match text {
        "" => Err("a path".into()),
        _ if text.ends_with('/') => Ok(text.to_owned()),
        _ => Ok(format!("{text}/")),
    }
}

/// `ADDR:PORT`, `[ADDR]:PORT`, or a port alone for loopback.
pub fn socket_address(text: &str) -> Result<SocketAddr, Refused> {
    let alone = || port(text).ok().map(|p| SocketAddr::from(([127, 0, 0, 1], p)));
    text.replace("localhost:", "127.0.0.1:")
        .parse()
        .ok()
        .or_else(alone)
        .ok_or_else(|| "ADDR:PORT, for example 127.0.0.1:4443, 0.0.0.0:4443 or [::]:4443".into())
}

/// A name or address for URLs: domain, IPv4, or IPv6 with or without brackets (returned with them).
pub fn host(text: &str) -> Result<String, Refused> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if let Ok(v6) = bare.parse::<Ipv6Addr>() {
        return Ok(format!("[{v6}]"));
    }
    let ok = bare.parse::<IpAddr>().is_ok() || is_domain(bare);
    if ok && bare == text {
        Ok(text.to_owned())
    } else {
        Err("a domain name, an IPv4 or an IPv6 address".into())
    }
}

/// Whether `text` is a domain name: labels of letters, digits and inner hyphens.
pub fn is_domain(text: &str) -> bool {
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    let labels = text.strip_suffix('.').unwrap_or(text);
    let numeric = labels.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    labels.len() <= 253 && !numeric && labels.split('.').all(label)
}

/// Blank (`None`), or an absolute `http` or `https` URL with a host.
pub fn optional_url(text: &str) -> Result<Option<String>, Refused> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let refused = || "empty, or an absolute http:// or https:// URL".to_owned();
    let uri: hyper::Uri = text.trim().parse().map_err(|_| refused())?;
    let scheme_ok = matches!(uri.scheme_str(), Some("http" | "https"));
    let host_ok = uri.host().is_some_and(|h| !h.is_empty());
    if scheme_ok && host_ok { Ok(Some(text.trim().to_owned())) } else { Err(refused()) }
}

/// A JSON array of strings, read leniently: `["a","b"]`, `[a, b]`, `[]`; `[""]` means empty.
pub fn string_array(text: &str) -> Result<Vec<String>, Refused> {
    let refused = || "a JSON array of strings, for example [\"a\",\"b\"]".to_owned();
    let trimmed = text.trim();
    let items = match serde_json::from_str::<Vec<String>>(trimmed) {
        Ok(items) => items,
        Err(_) => {
            let inner = trimmed.strip_prefix('[').and_then(|t| t.strip_suffix(']')).ok_or_else(refused)?;
            lenient_items(inner).ok_or_else(refused)?
        }
    };
    Ok(items.into_iter().filter(|item| !item.is_empty()).collect())
}

/// Items between commas; quoted ones may hold commas, unquoted ones are trimmed.
fn lenient_items(inner: &str) -> Option<Vec<String>> {
    if inner.contains(['[', ']', '{', '}']) {
        return None;
    }
    let mut items = Vec::new();
    let (mut item, mut quote) = (String::new(), None);
    for c in inner.chars() {
        match (quote, c) {
            (Some(q), _) if c == q => quote = None,
            (None, '"' | '\'') if item.trim().is_empty() => quote = Some(c),
            (None, ',') => items.push(std::mem::take(&mut item).trim().to_owned()),
            _ => item.push(c),
        }
    }
    items.push(item.trim().to_owned());
    quote.is_none().then_some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_read_leniently() {
        let table: &[(&str, Option<&[&str]>)] = &[
            ("[]", Some(&[])),
            ("[\"\"]", Some(&[])),
            ("[\"a\",\"b\"]", Some(&["a", "b"])),
            ("[a, b ]", Some(&["a", "b"])),
            ("['a,b', c]", Some(&["a,b", "c"])),
            ("[url=turn:h:1,username=u]", Some(&["url=turn:h:1", "username=u"])),
            ("[\"url=turn:h:1,username=u\"]", Some(&["url=turn:h:1,username=u"])),
            ("a", None),
            ("[\"a]", None),
            ("[[a]]", None),
            ("", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|e| e.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert_eq!(string_array(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn hosts_and_addresses() {
        for good in ["example.org", "localhost", "10.0.0.1", "a-b.c"] {
            assert_eq!(host(good), Ok(good.to_owned()));
        }
        assert_eq!(host("::1"), Ok("[::1]".to_owned()));
        assert_eq!(host("[2001:db8::1]"), Ok("[2001:db8::1]".to_owned()));
        for bad in ["", "a b", "-a.b", "300.1.1.1", "http://x", "[10.0.0.1]", "a..b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert_eq!(socket_address("4443").unwrap().to_string(), "127.0.0.1:4443");
        assert_eq!(socket_address("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(socket_address("[::]:4443").unwrap().to_string(), "[::]:4443");
        for bad in ["", "0", "example.org:1", "1.2.3.4", "1.2.3.4:70000"] {
            assert!(socket_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn scalars() {
        assert_eq!((boolean("TRUE"), boolean("False")), (Ok(true), Ok(false)));
        assert!(boolean("").is_err() && boolean("yes").is_err() && boolean("1").is_err());
        assert_eq!(integer("0", 0, i64::MAX), Ok(0));
        assert!(
            integer("-1", 0, i64::MAX).is_err()
                && integer("1.5", 0, 9).is_err()
                && integer("10", 0, 9).is_err()
        );
        assert!(port("0").is_err() && port("65536").is_err() && port("65535").is_ok());
        assert!(number("NaN", 0.0, 100.0).is_err() && number("70.5", 0.0, 100.0).is_ok());
        assert!(one_of("vp8", &["VP8"]).is_err() && one_of("VP8", &["VP8"]).is_ok());
        assert_eq!(directory("/a"), Ok("/a/".into()));
        assert_eq!(optional_url(" "), Ok(None));
        assert!(optional_url("http://127.0.0.1:7777/webhook").unwrap().is_some());
        assert!(optional_url("/relative").is_err() && optional_url("ftp://x/").is_err());
    }

    proptest::proptest! {
        #[test]
        fn json_arrays_are_read_as_they_are(items in proptest::collection::vec(".{1,12}", 0..6)) {
            let text = serde_json::Value::from(items.clone()).to_string();
            proptest::prop_assert_eq!(string_array(&text), Ok(items));
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = (string_array(&text), socket_address(&text), host(&text), optional_url(&text));
            let _ = (super::super::IceServer::parse(&text), super::super::source::parse_dotenv(&text));
        }
    }
}

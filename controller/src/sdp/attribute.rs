//! Values of single attributes: text to typed value, `None` for anything that does not follow the grammar.
//!
//! An attribute that does not parse counts as absent. Nothing here allocates more than the value it returns.

use sfu_core::control::proto::Fingerprint;

/// Direction of an m-line (RFC 8866 §6.7), seen from the side that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub(super) fn from_name(name: &str) -> Option<Direction> {
        Some(match name {
            "sendrecv" => Direction::SendRecv,
            "sendonly" => Direction::SendOnly,
            "recvonly" => Direction::RecvOnly,
            "inactive" => Direction::Inactive,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    pub(super) fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    pub(super) fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }
}

/// `a=setup` (RFC 4145 §4): who sends the ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setup {
    Active,
    Passive,
    ActPass,
}

impl Setup {
    pub(super) fn parse(value: &str) -> Option<Setup> {
        Some(match value {
            "active" => Setup::Active,
            "passive" => Setup::Passive,
            "actpass" => Setup::ActPass,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Setup::Active => "active",
            Setup::Passive => "passive",
            Setup::ActPass => "actpass",
        }
    }
}

/// `a=rtpmap:111 opus/48000/2` (RFC 8866 §6.6).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RtpMap {
    pub(super) payload_type: u8,
    pub(super) name: String,
    pub(super) clock_rate: u32,
    pub(super) channels: u8,
}

impl RtpMap {
    pub(super) fn parse(value: &str) -> Option<RtpMap> {
        let (payload_type, encoding) = value.split_once(' ')?;
        let mut parts = encoding.trim().split('/');
        Some(RtpMap {
            payload_type: parse_payload_type(payload_type)?,
            name: parts.next().filter(|name| is_token(name))?.to_owned(),
            clock_rate: parts.next()?.parse().ok().filter(|rate| *rate > 0)?,
            channels: parts.next().map_or(Some(1), |channels| channels.parse().ok())?,
        })
    }
}

/// Parameters of `a=fmtp:96 key=value;key=value`; keys in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Fmtp(Vec<(String, String)>);

impl Fmtp {
    /// Payload type and parameters.
    pub(super) fn parse(value: &str) -> Option<(u8, Fmtp)> {
        let (payload_type, parameters) = value.split_once(' ')?;
        let pairs = parameters.split(';').filter_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
        });
        Some((parse_payload_type(payload_type)?, Fmtp(pairs.collect())))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A whole number, or `default` when it is absent or none.
    pub(super) fn number(&self, key: &str, default: u32) -> u32 {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}

/// `a=rtcp-fb:96 nack pli` or `a=rtcp-fb:* nack` (RFC 4585 §4.2): payload type (`None` for all) and what it says.
pub(super) fn parse_rtcp_fb(value: &str) -> Option<(Option<u8>, &str)> {
    let (payload_type, feedback) = value.split_once(' ')?;
    let payload_type = match payload_type {
        "*" => None,
        number => Some(parse_payload_type(number)?),
    };
    Some((payload_type, feedback.trim()))
}

/// `a=extmap:3[/direction] uri` (RFC 8285 §5): id, direction of the side that wrote it, uri. Only ids that fit one-byte
/// headers.
pub(super) fn parse_extmap(value: &str) -> Option<(u8, Direction, &str)> {
    let (id, rest) = value.split_once(' ')?;
    let (id, direction) = match id.split_once('/') {
        None => (id, Direction::SendRecv),
        Some((id, direction)) => (id, Direction::from_name(direction)?),
    };
    let id = id.parse().ok().filter(|id| (1..=14).contains(id))?;
    Some((id, direction, rest.split(' ').next()?))
}

/// `a=ssrc:1234 cname:...`: the SSRC.
pub(super) fn parse_ssrc(value: &str) -> Option<u32> {
    value.split(' ').next()?.parse().ok().filter(|ssrc| *ssrc != 0)
}

/// `a=ssrc-group:FID media rtx` (RFC 5576 §4.2, RFC 4588 §8.3): both SSRCs.
pub(super) fn parse_fid(value: &str) -> Option<(u32, u32)> {
    let mut parts = value.split(' ').filter(|part| !part.is_empty());
    if parts.next()? != "FID" {
        return None;
    }
    Some((parse_ssrc(parts.next()?)?, parse_ssrc(parts.next()?)?))
}

/// `a=rid:hi send ...` (RFC 8851 §4): the id, if it is one to be sent.
pub(super) fn parse_send_rid(value: &str) -> Option<&str> {
    let mut parts = value.split(' ');
    let rid = parts.next().filter(|rid| is_rid(rid))?;
    (parts.next()? == "send").then_some(rid)
}

/// `a=simulcast:send 1,2;~3 recv 4` (RFC 8853 §5.1): the first alternative of each stream to be sent, paused or not.
pub(super) fn parse_simulcast_send(value: &str) -> Vec<&str> {
    let mut parts = value.split(' ').filter(|part| !part.is_empty());
    while let (Some(direction), Some(streams)) = (parts.next(), parts.next()) {
        if direction == "send" {
            return streams
                .split(';')
                .filter_map(|stream| stream.split(',').next())
                .map(|rid| rid.trim_start_matches('~'))
                .filter(|rid| is_rid(rid))
                .collect();
        }
    }
    Vec::new()
}

/// `a=fingerprint:sha-256 AA:BB:...` (RFC 8122 §5), in the upper case that the node wants. Other digests are `None`.
pub(super) fn parse_fingerprint(value: &str) -> Option<Fingerprint> {
    let (algorithm, digest) = value.split_once(' ')?;
    let digest = digest.trim();
    let bytes = digest.split(':');
    let well_formed = algorithm.eq_ignore_ascii_case("sha-256")
        && digest.len() == 32 * 3 - 1
        && bytes.clone().count() == 32
        && bytes.clone().all(|byte| byte.len() == 2 && byte.bytes().all(|digit| digit.is_ascii_hexdigit()));
    well_formed.then(|| Fingerprint { algorithm: "sha-256".to_owned(), value: digest.to_ascii_uppercase() })
}

/// `a=group:BUNDLE 0 1` (RFC 9143 §7): the mids.
pub(super) fn parse_bundle(value: &str) -> Option<Vec<&str>> {
    let mut parts = value.split(' ').filter(|part| !part.is_empty());
    (parts.next()? == "BUNDLE").then(|| parts.collect())
}

/// A payload type that does not collide with RTCP when both share a port (RFC 5761 §4).
pub(super) fn parse_payload_type(text: &str) -> Option<u8> {
    text.parse().ok().filter(|number| *number < 64 || (96..128).contains(number))
}

/// ICE user fragment or password: `min..=256` of the characters RFC 8839 §5.4 allows.
pub(super) fn is_ice_string(text: &str, min: usize) -> bool {
    (min..=256).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
}

/// A mid that fits the header extension: 1..=32 token characters (RFC 5888 §4).
pub(super) fn is_mid(text: &str) -> bool {
    text.len() <= 32 && is_token(text)
}

/// RFC 8851 §10 with the bound of the one-byte header extension: 1..=16 letters, digits, `-`, `_`.
fn is_rid(text: &str) -> bool {
    (1..=16).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// `token` of RFC 8866 §9.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rtpmaps() {
        let opus = RtpMap { payload_type: 111, name: "opus".into(), clock_rate: 48_000, channels: 2 };
        assert_eq!(RtpMap::parse("111 opus/48000/2"), Some(opus));
        assert_eq!(RtpMap::parse("96 VP8/90000").map(|map| map.channels), Some(1));
        for broken in
            ["", "111", "opus/48000/2", "200 opus/48000/2", "72 x/8000", "96 /90000", "96 VP8", "96 VP8/0"]
        {
            assert_eq!(RtpMap::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn format_parameters() {
        let (payload_type, fmtp) =
            Fmtp::parse("102 level-asymmetry-allowed=1;Packetization-Mode=1; profile-level-id=42e01f")
                .expect("parses");
        assert_eq!(payload_type, 102);
        assert_eq!(fmtp.number("packetization-mode", 0), 1);
        assert_eq!(fmtp.get("profile-level-id"), Some("42e01f"));
        assert_eq!(fmtp.number("profile-level-id", 7), 7);
        assert_eq!(Fmtp::parse("63 111/111").map(|(_, fmtp)| fmtp), Some(Fmtp::default()));
    }

    #[test]
    fn header_extensions() {
        assert_eq!(parse_extmap("3 urn:x"), Some((3, Direction::SendRecv, "urn:x")));
        assert_eq!(parse_extmap("3/recvonly urn:x a=b"), Some((3, Direction::RecvOnly, "urn:x")));
        for broken in ["", "3", "0 urn:x", "15 urn:x", "x urn:x", "3/up urn:x"] {
            assert_eq!(parse_extmap(broken), None, "{broken}");
        }
    }

    #[test]
    fn simulcast_lists() {
        let cases: &[(&str, &[&str])] = &[
            ("send rdiv4;rdiv2;rdiv1", &["rdiv4", "rdiv2", "rdiv1"]),
            ("recv 9 send 1,2;~3", &["1", "3"]),
            ("send a b;c", &["a"]),
            ("recv a", &[]),
            ("send ", &[]),
            ("send ä;;b", &["b"]),
        ];
        for (value, rids) in cases {
            assert_eq!(parse_simulcast_send(value), *rids, "{value}");
        }
    }

    #[test]
    fn fingerprints() {
        let digest = vec!["ab"; 32].join(":");
        let parsed = parse_fingerprint(&format!("SHA-256 {digest}")).expect("parses");
        assert_eq!((parsed.algorithm.as_str(), parsed.value), ("sha-256", digest.to_ascii_uppercase()));
        assert_eq!(parse_fingerprint(&format!("sha-1 {digest}")), None);
        assert_eq!(parse_fingerprint(&format!("sha-256 {}", &digest[3..])), None);
        assert_eq!(parse_fingerprint(&format!("sha-256 {}", digest.replace("ab", "xy"))), None);
    }

    #[test]
    fn sources() {
        assert_eq!(parse_ssrc("1234 cname:x"), Some(1234));
        assert_eq!(parse_ssrc("0 cname:x"), None);
        assert_eq!(parse_fid("FID 1 2"), Some((1, 2)));
        assert_eq!(parse_fid("SIM 1 2"), None);
        assert_eq!(parse_send_rid("hi send pt=96"), Some("hi"));
        assert_eq!(parse_send_rid("hi recv"), None);
    }
}

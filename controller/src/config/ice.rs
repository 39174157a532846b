//! ICE servers as operators and applications write them: STUN and TURN URLs with their credentials.
//!
//! One set of rules for `OPENVIDU_WEBRTC_ICE_SERVERS` and for `customIceServers` of a connection: URL syntax of RFC 7064
//! and RFC 7065; TURN needs a username and a credential, or a static secret from which time-limited ones are made
//! (the TURN REST convention); STUN has neither.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::Secret;
use super::value::is_domain;

/// How a client authenticates to a server of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IceAuth {
    /// STUN.
    None,
    /// Long-term credentials given by the operator.
    Fixed {
        /// User name.
        username: String,
        /// Password.
        credential: Secret,
    },
    /// Secret shared with the TURN server; credentials are made per connection.
    StaticAuthSecret(Secret),
}

/// One configured server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:`, `stuns:`, `turn:` or `turns:` URL.
    pub url: String,
    /// How to authenticate.
    pub auth: IceAuth,
}

/// Why an ICE server is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IceServerError {
    /// No URL.
    #[error("url is missing")]
    NoUrl,
    /// Scheme.
    #[error("the scheme of url must be stun, stuns, turn or turns")]
    Scheme,
    /// Host.
    #[error("the host of url must be a domain name or an IP address, IPv6 in brackets")]
    Host,
    /// Port.
    #[error("the port of url must be 1 to 65535")]
    Port,
    /// Query.
    #[error("only turn and turns take a query, and only ?transport=tcp or ?transport=udp")]
    Query,
    /// TURN without credentials, or with both kinds.
    #[error("turn needs username and credential, or staticAuthSecret alone")]
    TurnAuth,
    /// STUN with credentials.
    #[error("stun takes no username, credential or staticAuthSecret")]
    StunAuth,
    /// A key of the textual form is unknown.
    #[error("keys are url, username, credential and staticAuthSecret")]
    Key,
}

impl IceServer {
    /// Checks and builds a server. Empty strings count as given.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn new(
        url: Option<String>,
        username: Option<String>,
        credential: Option<String>,
        static_auth_secret: Option<String>,
    ) -> Result<Self, IceServerError> {
        let url = url.ok_or(IceServerError::NoUrl)?;
        let turn = check_url(&url)?;
        let auth = match (turn, username, credential, static_auth_secret) {
            (false, None, None, None) => IceAuth::None,
            (false, ..) => return Err(IceServerError::StunAuth),
            (true, Some(username), Some(credential), None) => {
                IceAuth::Fixed { username, credential: Secret::new(credential) }
            }
            (true, None, None, Some(secret)) => IceAuth::StaticAuthSecret(Secret::new(secret)),
            (true, ..) => return Err(IceServerError::TurnAuth),
        };
        Ok(Self { url, auth })
    }

    /// Parses the configuration form `url=...,username=...,credential=...` or `url=...,staticAuthSecret=...`.
    ///
    /// # Errors
    /// As [`IceServer::new`], and [`IceServerError::Key`].
    pub fn parse(text: &str) -> Result<Self, IceServerError> {
        let (mut url, mut username, mut credential, mut secret) = (None, None, None, None);
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or(IceServerError::Key)?;
            let slot = match key.trim() {
                "url" => &mut url,
                "username" => &mut username,
                "credential" => &mut credential,
                "staticAuthSecret" => &mut secret,
                _ => return Err(IceServerError::Key),
            };
            *slot = Some(value.trim().to_owned());
        }
        Self::new(url, username, credential, secret)
    }
}

/// Checks a URL; returns whether it is TURN.
fn check_url(url: &str) -> Result<bool, IceServerError> {
    let (scheme, rest) = url.split_once(':').ok_or(IceServerError::Scheme)?;
    let turn = match scheme {
        "turn" | "turns" => true,
        "stun" | "stuns" => false,
        _ => return Err(IceServerError::Scheme),
    };
    let (authority, query) = match rest.split_once('?') {
        Some((authority, query)) => (authority, Some(query)),
        None => (rest, None),
    };
    check_authority(authority)?;
    match query {
        None => Ok(turn),
        Some("transport=tcp" | "transport=udp") if turn => Ok(turn),
        Some(_) => Err(IceServerError::Query),
    }
}

fn check_authority(authority: &str) -> Result<(), IceServerError> {
    let (host_ok, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or(IceServerError::Host)?;
        let port =
            if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or(IceServerError::Host)?) };
        (host.parse::<Ipv6Addr>().is_ok(), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        (host.parse::<Ipv4Addr>().is_ok() || is_domain(host), port)
    };
    if !host_ok {
        return Err(IceServerError::Host);
    }
    match port {
        Some(port) if port.parse::<u16>().ok().filter(|p| *p > 0).is_none() => Err(IceServerError::Port),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textual_form() {
        use IceServerError as E;
        let table: &[(&str, Result<(), E>)] = &[
            ("url=stun:stun.example.org", Ok(())),
            ("url=stuns:stun.example.org:5349", Ok(())),
            ("url=turn:10.0.0.1:3478,username=u,credential=p=q", Ok(())),
            ("url=turn:[2001:db8::1]:3478?transport=tcp,username=u,credential=p", Ok(())),
            ("url=turns:t.example.org?transport=udp,staticAuthSecret=s", Ok(())),
            ("url=turn:t", Err(E::TurnAuth)),
            ("url=turn:t,username=u", Err(E::TurnAuth)),
            ("url=turn:t,username=u,credential=c,staticAuthSecret=s", Err(E::TurnAuth)),
            ("url=stun:t,username=u,credential=c", Err(E::StunAuth)),
            ("url=stun:t?transport=tcp", Err(E::Query)),
            ("url=turn:t?transport=sctp,username=u,credential=c", Err(E::Query)),
            ("url=http://t", Err(E::Scheme)),
            ("url=turn:t:0,username=u,credential=c", Err(E::Port)),
            ("url=turn:t:65536,username=u,credential=c", Err(E::Port)),
            ("url=turn:2001:db8::1,username=u,credential=c", Err(E::Host)),
            ("url=turn:999.1.1.1,username=u,credential=c", Err(E::Host)),
            ("username=u,credential=c", Err(E::NoUrl)),
            ("uri=stun:t", Err(E::Key)),
            ("", Err(E::Key)),
        ];
        for (text, expected) in table {
            assert_eq!(IceServer::parse(text).map(|_| ()), *expected, "{text}");
        }
    }
}

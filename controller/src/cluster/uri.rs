//! Where a media node's control socket is: `ws://HOST[:PORT][/any/path]`, as `KMS_URIS` and REST bodies write it.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use hyper::http::Uri;
use sfu_core::control::proto::DEFAULT_PORT;

use crate::ids::NodeId;

/// A checked control URI.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeUri {
    text: String,
    host: String,
    port: u16,
}

/// Why a text is no control URI.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a media node URI: {reason}; allowed is ws://HOST[:PORT][/PATH]")]
pub struct UriError {
    text: String,
    reason: &'static str,
}

impl NodeUri {
    /// Name or address to connect to, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port; 8888 where the URI names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether both lead to the same socket; nodes take any path.
    pub fn same_place(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }

    /// An id that stays the same over restarts of the controller.
    pub fn node_id(&self) -> NodeId {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let text: String = format!("{}_{}", self.host, self.port).chars().map(plain).collect();
        NodeId::from(format!("media_{text}"))
    }

    /// The URI as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What to put into the `Host` header.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Path and query of the upgrade request.
    pub fn path(&self) -> String {
        let uri: Option<Uri> = self.text.parse().ok();
        uri.and_then(|uri| uri.path_and_query().map(|path| path.to_string()))
            .unwrap_or_else(|| "/".to_owned())
    }
}

impl fmt::Display for NodeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for NodeUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<NodeUri, UriError> {
        let wrong = |reason| UriError { text: text.to_owned(), reason };
        let uri: Uri = text.parse().map_err(|_| wrong("it does not parse"))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => return Err(wrong("TLS to media nodes is not supported")),
            _ => return Err(wrong("it must begin with ws://")),
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("it must hold no credentials"));
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(wrong("the host is missing"));
        }
        // `Uri` reads a port that is none as no port.
        let has_port =
            uri.authority().is_some_and(|a| a.as_str().rsplit(']').next().is_some_and(|s| s.contains(':')));
        let port = match (uri.port_u16(), has_port) {
            (Some(0), _) | (None, true) => return Err(wrong("the port must be 1 to 65535")),
            (Some(port), _) => port,
            (None, false) => DEFAULT_PORT,
        };
        Ok(NodeUri { text: text.to_owned(), host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_operators_write() {
        for (text, host, port, authority, path) in [
            ("ws://10.0.0.1:8888/kurento", "10.0.0.1", 8888, "10.0.0.1:8888", "/kurento"),
            ("ws://10.0.0.1", "10.0.0.1", 8888, "10.0.0.1:8888", "/"),
            ("ws://node-1.example:99/a/b?c=d", "node-1.example", 99, "node-1.example:99", "/a/b?c=d"),
            ("ws://[fd00::1]:7/x", "fd00::1", 7, "[fd00::1]:7", "/x"),
            ("ws://[::1]", "::1", 8888, "[::1]:8888", "/"),
        ] {
            let uri: NodeUri = text.parse().expect(text);
            assert_eq!((uri.host(), uri.port(), uri.as_str()), (host, port, text));
            assert_eq!((uri.authority(), uri.path()), (authority.to_owned(), path.to_owned()));
        }
    }

    #[test]
    fn the_path_is_no_part_of_the_place() {
        let uri = |text: &str| text.parse::<NodeUri>().expect("valid");
        let node = uri("ws://10.0.0.1:8888/kurento");
        assert!(
            node.same_place(&uri("ws://10.0.0.1")) && !node.same_place(&uri("ws://10.0.0.1:8889/kurento"))
        );
        assert_eq!(node.node_id().as_str(), "media_10_0_0_1_8888");
        assert_eq!(uri("ws://[fd00::1]/x").node_id().as_str(), "media_fd00__1_8888");
    }

    #[test]
    fn refuses_the_rest_and_names_it() {
        for text in [
            "",
            "10.0.0.1:8888",
            "http://10.0.0.1",
            "wss://10.0.0.1",
            "ws://",
            "ws:///x",
            "ws://h:0",
            "ws://h:65536",
            "ws://h:x",
            "ws://u:p@h",
            "ws://a b",
        ] {
            let error = NodeUri::from_str(text).expect_err(text).to_string();
            assert!(error.contains(&format!("\"{text}\"")) && error.contains("ws://HOST"), "{error}");
        }
    }
}

//! Names of things, and the generator that makes them up.
//!
//! Every identifier is an opaque string to the outside; the shapes below are those of the contract (`ses_`, `con_`, `tok_`,
//! `str_`, `media_`). Randomness comes from one seeded generator that the shell injects, so that a run can be repeated.
#![forbid(unsafe_code)]

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sfu_core::control::proto::IceCredentials;

macro_rules! string_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

string_id!(/// A session (a room): `ses_...` or the application's `customSessionId`.
    SessionId);
string_id!(/// A participant of a session: `con_...`.
    ConnectionId);
string_id!(/// What a connection publishes: `str_CAM_X9aB_con_...`.
    StreamId);
string_id!(/// A media node: `media_...`.
    NodeId);
string_id!(/// A JSON-RPC session: survives the socket that began it. Whoever knows it can take the participant over.
    RpcId);

/// One WebSocket, for as long as it is open. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

/// One REST request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyId(pub u64);

/// Makes up identifiers, credentials and SSRCs from a seeded, cryptographically strong generator.
#[derive(Debug)]
pub struct IdGenerator {
    rng: StdRng,
}

impl IdGenerator {
    /// A generator whose whole output follows from `seed`.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { rng: StdRng::from_seed(seed) }
    }

    /// `ses_` + 1 upper-case letter + 9 alphanumerics.
    pub fn session(&mut self) -> SessionId {
        self.prefixed("ses_", 9).into()
    }

    /// `con_` + 1 upper-case letter + 9 alphanumerics.
    pub fn connection(&mut self) -> ConnectionId {
        self.prefixed("con_", 9).into()
    }

    /// `tok_` + 1 upper-case letter + 15 alphanumerics (94 bits).
    pub fn token(&mut self) -> String {
        self.prefixed("tok_", 15)
    }

    /// `media_` + 1 upper-case letter + 7 alphanumerics.
    pub fn node(&mut self) -> NodeId {
        self.prefixed("media_", 7).into()
    }

    /// `str_` + `kind` (3 letters) + `_` + 1 upper-case letter + 3 alphanumerics + `_` + the connection.
    pub fn stream(&mut self, kind: &str, connection: &ConnectionId) -> StreamId {
        let unique = self.prefixed("", 3);
        format!("str_{kind}_{unique}_{connection}").into()
    }

    /// 32 hexadecimal digits: not to be guessed, because it is all that `connect` asks for.
    pub fn rpc(&mut self) -> RpcId {
        format!("{:032x}", self.rng.random::<u128>()).into()
    }

    /// ICE credentials of our side of a transport: 48 bits of ufrag, 142 bits of pwd (RFC 8445 §5.3).
    pub fn ice(&mut self) -> IceCredentials {
        IceCredentials { ufrag: self.alphanumeric(8), pwd: self.alphanumeric(24) }
    }

    /// An SSRC; never 0, which some stacks take for "none".
    pub fn ssrc(&mut self) -> u32 {
        self.rng.random_range(1..=u32::MAX)
    }

    /// `count` characters out of `A-Za-z0-9`.
    pub fn alphanumeric(&mut self, count: usize) -> String {
        const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        (0..count).map(|_| char::from(ALPHABET[self.rng.random_range(0..ALPHABET.len())])).collect()
    }

    fn prefixed(&mut self, prefix: &str, tail: usize) -> String {
        let first = char::from(self.rng.random_range(b'A'..=b'Z'));
        format!("{prefix}{first}{}", self.alphanumeric(tail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_shape(id: &str, prefix: &str, tail: usize) -> bool {
        id.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() == tail + 1
                && rest.starts_with(|c: char| c.is_ascii_uppercase())
                && rest.chars().all(|c| c.is_ascii_alphanumeric())
        })
    }

    #[test]
    fn ids_have_the_shapes_of_the_contract() {
        let mut ids = IdGenerator::from_seed([7; 32]);
        for _ in 0..200 {
            assert!(has_shape(ids.session().as_str(), "ses_", 9));
            assert!(has_shape(ids.connection().as_str(), "con_", 9));
            assert!(has_shape(&ids.token(), "tok_", 15));
            assert!(has_shape(ids.node().as_str(), "media_", 7));
            let connection = ids.connection();
            let stream = ids.stream("CAM", &connection);
            let (head, owner) =
                stream.as_str().split_at(stream.as_str().rfind("_con_").expect("has an owner"));
            assert!(has_shape(head, "str_CAM_", 3));
            assert_eq!(&owner[1..], connection.as_str());
            let ice = ids.ice();
            assert!((4..=32).contains(&ice.ufrag.len()) && (22..=64).contains(&ice.pwd.len()));
            assert_ne!(ids.ssrc(), 0);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let (mut a, mut b, mut c) = (
            IdGenerator::from_seed([1; 32]),
            IdGenerator::from_seed([1; 32]),
            IdGenerator::from_seed([2; 32]),
        );
        let first = a.rpc();
        assert_eq!(first, b.rpc());
        assert_ne!(first, c.rpc());
        assert_ne!(first, a.rpc());
        assert_eq!(first.as_str().len(), 32);
    }
}

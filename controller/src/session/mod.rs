//! The model: sessions, their connections, tokens, streams. Plain data with lookups and JSON views; what happens to it
//! is decided in [`crate::engine`] and [`crate::signaling`].
//!
//! ```text
//! Registry ─┬─ Session ─┬─ Connection (pending: a token that nobody used yet)
//!           │           └─ Connection (active) ─┬─ Publisher   at most one
//!           └─ token index                      └─ Subscriber  one per publishing connection
//! ```
#![forbid(unsafe_code)]

/// An enumeration whose variants have one fixed text on the wire.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// The text on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads the text of the wire, case-sensitive. `None`: not one of the values.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("unknown value {text}")))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

mod connection;
mod ice_server;
mod reason;
mod record;
mod recording;
mod registry;
#[allow(clippy::module_inception)]
mod session;
mod stream;
mod token;

pub use connection::{
    ActiveConnection, Connection, ConnectionPatch, ConnectionProperties, ConnectionType, Connections,
    IpCamera, KurentoOptions, Role, Technical,
};
pub use ice_server::IceServer;
pub use reason::Reason;
pub use record::EventRecord;
pub use recording::{OutputMode, RecordingLayout, RecordingProperties};
pub use registry::{Changed, Registry};
pub use session::{
    ForcedVideoCodec, MediaMode, Place, RecordingMode, Session, SessionProperties, SessionState,
    TransportOwner, TransportUse,
};
pub use stream::{MediaOptions, Phase, Publisher, SdpTexts, Subscriber, TypeOfVideo};
pub use token::{inner_token, token_url};

/// What a JSON view of a session or connection shall hold (query parameters of the REST API).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ViewOptions {
    /// Show connections that nobody joined with yet.
    pub pending_connections: bool,
    /// Add SDP and candidates to publishers and subscribers.
    pub webrtc_stats: bool,
}

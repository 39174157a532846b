//! Errors of requests: code and text (`signaling.md` section 5).
#![forbid(unsafe_code)]

use crate::engine::NodeError;
use crate::sdp::SdpError;

/// A refused request. The text ends with `. Code: <n>`, which applications and tests look for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RpcError {
    /// One of [`code`].
    pub code: i64,
    /// For people.
    pub message: String,
}

impl RpcError {
    /// An error whose text gets its code appended.
    pub fn new(code: i64, message: impl AsRef<str>) -> Self {
        Self { code, message: format!("{}. Code: {code}", message.as_ref()) }
    }

    /// A parameter is missing or has a value that cannot be used.
    pub fn params(message: impl AsRef<str>) -> Self {
        Self::new(code::INVALID_PARAMS, message)
    }
}

/// Error codes.
pub mod code {
    /// Not JSON (JSON-RPC 2.0).
    pub const PARSE_ERROR: i64 = -32700;
    /// Not a request (JSON-RPC 2.0).
    pub const INVALID_REQUEST: i64 = -32600;
    /// Unknown method (JSON-RPC 2.0).
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// Missing or wrong parameter (JSON-RPC 2.0).
    pub const INVALID_PARAMS: i64 = -32602;
    /// Participant not found.
    pub const USER_NOT_FOUND: i64 = 102;
    /// The stream, or one's own, is not there.
    pub const USER_NOT_STREAMING: i64 = 105;
    /// Already publishing.
    pub const USER_ALREADY_STREAMING: i64 = 106;
    /// Session not found.
    pub const ROOM_NOT_FOUND: i64 = 202;
    /// Session closed or closing.
    pub const ROOM_CLOSED: i64 = 203;
    /// No media node for the session.
    pub const ROOM_CANNOT_BE_CREATED: i64 = 204;
    /// SDP cannot be produced.
    pub const MEDIA_SDP: i64 = 302;
    /// The media node did not make the endpoint.
    pub const MEDIA_ENDPOINT: i64 = 303;
    /// Not authorized.
    pub const UNAUTHORIZED: i64 = 401;
    /// Token cannot be created.
    pub const TOKEN_CANNOT_BE_CREATED: i64 = 404;
    /// No such filter.
    pub const FILTER_NOT_APPLIED: i64 = 406;
    /// No such filter listener.
    pub const FILTER_LISTENER_NOT_FOUND: i64 = 407;
    /// Metadata cannot be taken.
    pub const METADATA_FORMAT: i64 = 500;
    /// A signal is not JSON.
    pub const SIGNAL_FORMAT: i64 = 600;
    /// A signal names an unknown recipient.
    pub const SIGNAL_TO: i64 = 601;
    /// A forced codec is not in the SDP.
    pub const FORCED_CODEC: i64 = 800;
    /// No `joinRoom` on this socket yet.
    pub const NOT_JOINED: i64 = 803;
    /// A service is switched off.
    pub const SERVICE_NOT_ENABLED: i64 = 996;
    /// Something else.
    pub const GENERIC: i64 = 999;
    /// `connect` cannot take a session over.
    pub const RECONNECTION: i64 = 40007;
}

impl From<SdpError> for RpcError {
    fn from(error: SdpError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<NodeError> for RpcError {
    fn from(error: NodeError) -> Self {
        Self::new(code::MEDIA_ENDPOINT, error.to_string())
    }
}

//! Bytes on the wire: what a datagram is, and the fields a forwarder reads and writes.
//!
//! ```text
//! datagram ─▶ demux ─┬─▶ stun      ICE checks                      (RFC 8489, RFC 8445)
//!                    ├─▶ (DTLS)    crypto/dtls
//!                    ├─▶ rtp       fixed header ─▶ rtp_ext         (RFC 3550, RFC 8285)
//!                    │                          └▶ payload/*       (VP8, VP9, H264, AV1: key frame?)
//!                    └─▶ rtcp      compound ─▶ one family a file   (RFC 3550, RFC 4585, RFC 5104)
//! ```
//!
//! Everything here works on slices, holds no state, reads no clock and allocates nothing, with one exception: [`stun`]
//! verifies and writes messages through the `stun` crate, which allocates. A peer sends such a message every few
//! seconds. Parsers take any bytes and never panic; writers fill a `&mut [u8]` and say how much they wrote.
#![forbid(unsafe_code)]

pub mod demux;
pub mod payload;
pub mod rtcp;
pub mod rtp;
pub mod rtp_ext;
pub mod stun;

/// Why a writer wrote nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The buffer is too small.
    #[error("buffer too small")]
    NoSpace,
    /// A field does not fit its place on the wire (too many items, an identifier out of range).
    #[error("value out of range for its field")]
    OutOfRange,
}

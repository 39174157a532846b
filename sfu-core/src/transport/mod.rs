//! One peer: ICE-lite, DTLS, SRTP contexts.

pub mod ice_lite;
pub mod timers;

use std::net::SocketAddr;

use crate::ids::LocalId;

/// One 5-tuple, seen from here: where the peer is, and which of our sockets it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our socket.
    pub local: LocalId,
}

//! Sending by frames: datagrams that leave through a packet socket (`packet(7)`) with their Ethernet, IP and UDP headers
//! written here, for about half of what `sendmsg` on a UDP socket costs (`docs/decisions/0012-frames.md`).
//!
//! ```text
//!                 ┌─ no hop known, not Ethernet, larger than the MTU, time to ask again ─▶ UDP socket
//! message ─▶ hop? ┤
//!                 └─ hop ─▶ [virtio_net_hdr | Ethernet | IP | UDP] [run of the arena] ─▶ packet socket ─▶ qdisc ─▶ device
//!              │ ▲
//!          ask │ │ answer: interface, both hardware addresses, MTU
//!              ▼ │
//!            resolver thread ◀── rtnetlink ──▶ the kernel's routes and neighbours
//! ```
//!
//! What the kernel does for a UDP socket and does not do here: route and neighbour look-up per message, netfilter's
//! `OUTPUT` and `POSTROUTING`, IPsec. Queueing disciplines, `tc`, segmentation and checksums stay the kernel's.
//!
//! A hop is asked for again every few seconds, and the message that was due then goes by the UDP socket: it keeps the
//! kernel's own neighbour entry in use, so that the kernel notices when a neighbour moves. Whatever is in doubt goes by the
//! UDP socket.

mod header;
mod hops;
mod netlink;
mod resolver;
mod socket;

use std::net::SocketAddr;

pub(super) use header::{FrameHeader, Payload};
pub(super) use socket::LinkAddr;

pub use resolver::{Resolver, ResolverError};

use super::gso::{Gso, Piece, Refusal};
use crate::buf::TxMessage;
use crate::time::Timestamp;
use hops::Hops;
use resolver::Asker;
use rustix::io::Errno;
use socket::PacketSocket;

/// Where the frames of a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    /// Index of the interface.
    pub(super) interface: u32,
    /// Hardware address of the interface.
    pub(super) source: [u8; 6],
    /// Hardware address of the gateway or of the peer itself.
    pub(super) target: [u8; 6],
    /// Bytes of the largest IP packet.
    pub(super) mtu: u32,
}

/// What a frame needs beside its payload and destination.
#[derive(Clone, Copy)]
pub(super) struct Framing {
    pub(super) hop: Hop,
    pub(super) from: SocketAddr,
    /// IPv4 identification of the first datagram.
    pub(super) identification: u16,
}

/// What one shard needs to send frames.
pub struct Frames {
    socket: PacketSocket,
    hops: Hops,
    asker: Asker,
    /// Whether the kernel takes GSO runs on a packet socket (6.2 and later).
    gso: Gso,
    /// Identification of the next IPv4 packet (RFC 791 §3.1); fragments of different packets must not be mixed up.
    identification: u16,
}

impl Frames {
    fn new(socket: PacketSocket, asker: Asker) -> Frames {
        Frames { socket, hops: Hops::default(), asker, gso: Gso::default(), identification: 0 }
    }

    /// Takes in what the resolver has answered. Call it once before a batch.
    pub(super) fn refresh(&mut self, now: Timestamp) {
        while let Some(answer) = self.asker.answer() {
            self.hops.on_answer(answer.local, answer.to, answer.hop, now);
        }
    }

    /// How a piece of a run leaves as a frame; `None`: it is one for the UDP socket.
    pub(super) fn framing(
        &mut self,
        from: SocketAddr,
        piece: &Piece,
        run: &TxMessage,
        now: Timestamp,
    ) -> Option<Framing> {
        if !self.gso.is_on() || !is_framable(from) || !is_framable(run.to) {
            return None;
        }
        let to = run.to.ip();
        let asker = &self.asker;
        let hop = self.hops.get(run.local, to, now, || asker.ask(run.local, from.ip(), to))?;
        let segment = u32::from(run.segment).min(piece.len);
        if segment + header::ip_and_udp_bytes(to) > hop.mtu {
            return None;
        }
        let identification = self.identification;
        self.identification = identification.wrapping_add(piece.datagrams);
        Some(Framing { hop, from, identification })
    }

    /// The packet socket.
    pub(super) fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// The kernel took a piece.
    pub(super) fn on_accepted(&mut self, piece: &Piece) {
        if piece.datagrams > 1 {
            self.gso.on_accepted();
        }
    }

    /// The kernel refused a piece of a run. Unless it was for want of room the hop is forgotten, so that this and what
    /// follows goes by the UDP socket until the resolver has looked again.
    pub(super) fn on_refused(&mut self, errno: Errno, piece: &Piece, run: &TxMessage) -> Refusal {
        match errno {
            Errno::AGAIN => Refusal::SocketFull,
            Errno::NOBUFS => Refusal::Failed,
            _ => {
                self.hops.forget(run.local, run.to.ip());
                self.gso.on_refused(errno, piece.datagrams);
                Refusal::Singles
            }
        }
    }
}

/// Whether frames to or from an address can be Ethernet at all: nothing local, nothing that needs a scope.
fn is_framable(addr: SocketAddr) -> bool {
    match addr {
        SocketAddr::V4(v4) => !(v4.ip().is_loopback() || v4.ip().is_link_local() || v4.ip().is_multicast()),
        SocketAddr::V6(v6) => {
            !(v6.ip().is_loopback() || v6.ip().is_unicast_link_local() || v6.ip().is_multicast())
        }
    }
}

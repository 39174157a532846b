//! One core, 1 -> 6: what a forwarded packet costs, in CPU time per packet out.
//!
//! ```text
//! traffic ─▶ feeder ─▶ variant's socket      not timed: K packets lie in the socket
//!                      variant ─▶ egress     timed: process CPU time until all 6 K copies are handed to the kernel
//! ```
//!
//! K is rounded up to whole frames, as senders put them on the wire: K = 1 is one audio packet or one frame of three.
//! Putting the packets in first fixes the operating point: a free-running generator changes batch sizes and loss with
//! whatever else the machine does. Variants run in turns within each round, and the median over the rounds counts.

pub mod egress;
pub mod feeder;
pub mod measure;
pub mod naive;
pub mod node;
pub mod ring_runtime;
pub mod traffic;

use std::time::Duration;

/// Peers of one room.
pub const ROOM_PEERS: usize = 7;
/// Copies of each packet.
pub const FAN_OUT: usize = ROOM_PEERS - 1;

/// How many rooms there are, and with them everything else.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rooms of [`ROOM_PEERS`].
    pub rooms: usize,
}

impl Shape {
    /// Everybody.
    pub fn peers(self) -> usize {
        self.rooms * ROOM_PEERS
    }

    /// One connection per stream and direction, as `openvidu-browser` opens them: each peer publishes on one and receives
    /// each other peer on one more.
    pub fn connections(self) -> usize {
        self.peers() * ROOM_PEERS
    }
}

/// The connection by which `peer` gets the stream of `from`; with itself, the one it publishes on.
pub fn connection(peer: usize, from: usize) -> usize {
    peer * ROOM_PEERS + from % ROOM_PEERS
}

/// The peer that a connection belongs to.
pub fn peer_of(connection: usize) -> usize {
    connection / ROOM_PEERS
}

/// Everybody in the room of `peer` but itself.
pub fn others(peer: usize) -> impl Iterator<Item = usize> {
    let first = peer / ROOM_PEERS * ROOM_PEERS;
    (first..first + ROOM_PEERS).filter(move |&other| other != peer)
}

/// What a variant did with the packets in its socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Copies handed to the kernel.
    pub packets: u64,
    /// Datagrams handed to the kernel, copies and whatever else the variant sends.
    pub datagrams: u64,
    /// Messages those datagrams went out in.
    pub messages: u64,
}

/// One way to forward.
pub trait Variant {
    /// Its name in the results.
    fn name(&self) -> &'static str;

    /// Puts at least `count` packets into the variant's socket, frames whole; not timed. Returns how many.
    ///
    /// # Errors
    /// The kernel's.
    fn feed(&mut self, count: usize) -> anyhow::Result<usize>;

    /// Forwards the `count` packets that lie in the socket.
    ///
    /// # Errors
    /// The kernel's, or a packet that does not authenticate.
    fn forward(&mut self, count: usize) -> anyhow::Result<Sent>;

    /// CPU nanoseconds per packet out of work by the clock that fell between the measurements.
    fn upkeep_ns(&self) -> f64 {
        0.0
    }

    /// Share of messages that left as frames, by a packet socket.
    fn framed(&mut self) -> Option<f64> {
        None
    }

    /// Share of audio packets that waited for a frame to go behind, and how long those waited on average.
    fn audio_wait(&mut self) -> Option<(f64, Duration)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_others_in_the_same_room() {
        assert_eq!(others(0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(others(10).collect::<Vec<_>>(), [7, 8, 9, 11, 12, 13]);
        assert!((0..140).all(|p| others(p).count() == FAN_OUT));
    }

    #[test]
    fn every_stream_has_a_connection_of_its_own() {
        let shape = Shape { rooms: 2 };
        let all: std::collections::BTreeSet<_> = (0..shape.peers())
            .flat_map(|peer| others(peer).chain([peer]).map(move |from| (connection(peer, from), peer)))
            .collect();
        assert!(all.iter().map(|(at, _)| *at).eq(0..shape.connections()));
        assert!(all.iter().all(|(at, peer)| peer_of(*at) == *peer));
    }
}

//! Outgoing packets of one turn: sealed one behind the other into one arena, grouped into GSO runs as they come.
//!
//! ```text
//! open(A)  1179 1179 1179 120   open(B)  1179 1179 1179
//!          └─ message 0 ────┘            └─ message 1 ─┘
//!             segment 1179, 4 segments      segment 1179, 3 segments
//! ```
//!
//! The kernel's rules for one `UDP_SEGMENT` message: all segments equal, only the last may be shorter, at most
//! [`MAX_SEGMENTS`] of them, under 64 KiB in all. A packet that breaks a rule starts the next message.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::ids::LocalId;

/// Segments of one run: the limit of kernels before 6.9.
pub const MAX_SEGMENTS: u16 = 64;

/// Bytes of one run: below the 65 507 an IPv4 datagram can carry.
pub const MAX_RUN_BYTES: usize = 65_000;

/// One message for the kernel: `segments` datagrams to one destination, lying in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxMessage {
    /// Destination.
    pub to: SocketAddr,
    /// Socket it leaves by.
    pub local: LocalId,
    /// Offset of the first byte in the arena.
    pub start: u32,
    /// Bytes of all segments.
    pub len: u32,
    /// Bytes of every segment but perhaps the last.
    pub segment: u16,
    /// How many datagrams this is.
    pub segments: u16,
}

/// The sends of one turn.
///
/// Fill rule: [`open`](TxBatch::open) a destination, then per packet [`space`](TxBatch::space), write,
/// [`push`](TxBatch::push). A `space` of `None` means: answer [`Drain::More`](crate::engine::Drain::More), and go on when
/// the reactor has sent and cleared the batch (and open the destination again).
pub struct TxBatch {
    arena: Box<[u8]>,
    messages: Vec<TxMessage>,
    /// Never more messages than this, so that `messages` never allocates.
    limit: usize,
    /// End of the last packet.
    end: usize,
    datagrams: usize,
    to: SocketAddr,
    local: LocalId,
    /// The last message takes further packets.
    run_open: bool,
}

impl TxBatch {
    /// An empty batch for `bytes` of packets in up to `messages` runs. Allocates both now and nothing later.
    pub fn with_capacity(bytes: usize, messages: usize) -> TxBatch {
        TxBatch {
            arena: vec![0; bytes.min(u32::MAX as usize)].into(),
            messages: Vec::with_capacity(messages),
            limit: messages,
            end: 0,
            datagrams: 0,
            to: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
            local: LocalId(0),
            run_open: false,
        }
    }

    /// The packets that follow go to `to` by socket `local`. Opening the destination that is open already changes
    /// nothing; any other never joins an older run.
    pub fn open(&mut self, to: SocketAddr, local: LocalId) {
        if self.to != to || self.local != local {
            self.to = to;
            self.local = local;
            self.run_open = false;
        }
    }

    /// Exactly `len` bytes right behind the last packet, to write the next one into; what they hold is undefined.
    /// `None` when the batch is full. A `len` above the batch's capacity is never granted.
    pub fn space(&mut self, len: usize) -> Option<&mut [u8]> {
        // The packet's final length is not known yet, so it may need a message of its own.
        if self.messages.len() == self.limit {
            return None;
        }
        self.arena.get_mut(self.end..self.end.checked_add(len)?)
    }

    /// The first `len` bytes of the space granted last are one datagram. Zero adds nothing.
    ///
    /// # Panics
    /// `len` runs over the arena or 65 535, or the batch was full: no such space was granted.
    pub fn push(&mut self, len: usize) {
        if len == 0 {
            return;
        }
        assert!(len <= self.arena.len() - self.end, "push of {len} bytes without space");
        let size = u16::try_from(len).expect("a datagram is shorter than 64 KiB");
        match self.messages.last_mut() {
            Some(run) if self.run_open && run.takes(size) => {
                run.len += u32::from(size);
                run.segments += 1;
                self.run_open = size == run.segment;
            }
            _ => self.start_run(size),
        }
        self.end += len;
        self.datagrams += 1;
    }

    /// The runs, in the order their first packets came.
    pub fn messages(&self) -> &[TxMessage] {
        &self.messages
    }

    /// The bytes of one run of this batch.
    pub fn bytes(&self, message: &TxMessage) -> &[u8] {
        &self.arena[message.start as usize..message.start as usize + message.len as usize]
    }

    /// Forgets all packets and the open destination; keeps the memory.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.end = 0;
        self.datagrams = 0;
        self.run_open = false;
    }

    /// Whether nothing has been pushed.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many datagrams the runs hold together.
    pub fn datagrams(&self) -> usize {
        self.datagrams
    }

    fn start_run(&mut self, size: u16) {
        assert!(self.messages.len() < self.limit, "push into a full batch");
        self.messages.push(TxMessage {
            to: self.to,
            local: self.local,
            start: self.end as u32,
            len: u32::from(size),
            segment: size,
            segments: 1,
        });
        self.run_open = true;
    }
}

impl TxMessage {
    /// Whether the kernel would take one more segment of `size` bytes behind this run's.
    fn takes(&self, size: u16) -> bool {
        size <= self.segment
            && self.segments < MAX_SEGMENTS
            && self.len as usize + usize::from(size) <= MAX_RUN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn put(batch: &mut TxBatch, port: u16, local: u8, len: usize, fill: u8) {
        batch.open(peer(port), LocalId(local));
        batch.space(len).expect("table fits").fill(fill);
        batch.push(len);
    }

    /// (destination port, local socket, packet length) in; (port, segment, segments, bytes) out.
    type Packets = &'static [(u16, u8, usize)];
    type Runs = &'static [(u16, u16, u16, u32)];

    const RUNS: &[(&str, Packets, Runs)] = &[
        ("nothing", &[], &[]),
        ("alone", &[(1, 0, 120)], &[(1, 120, 1, 120)]),
        ("equal join", &[(1, 0, 900), (1, 0, 900), (1, 0, 900)], &[(1, 900, 3, 2700)]),
        (
            "shorter joins and ends",
            &[(1, 0, 900), (1, 0, 100), (1, 0, 100)],
            &[(1, 900, 2, 1000), (1, 100, 1, 100)],
        ),
        (
            "shorter ends for equal too",
            &[(1, 0, 900), (1, 0, 100), (1, 0, 900)],
            &[(1, 900, 2, 1000), (1, 900, 1, 900)],
        ),
        ("larger starts anew", &[(1, 0, 100), (1, 0, 900)], &[(1, 100, 1, 100), (1, 900, 1, 900)]),
        ("destinations keep apart", &[(1, 0, 100), (2, 0, 100)], &[(1, 100, 1, 100), (2, 100, 1, 100)]),
        (
            "no return to an older run",
            &[(1, 0, 100), (2, 0, 100), (1, 0, 100)],
            &[(1, 100, 1, 100), (2, 100, 1, 100), (1, 100, 1, 100)],
        ),
        ("sockets keep apart", &[(1, 0, 100), (1, 1, 100)], &[(1, 100, 1, 100), (1, 100, 1, 100)]),
        ("empty is nothing", &[(1, 0, 100), (1, 0, 0), (1, 0, 100)], &[(1, 100, 2, 200)]),
    ];

    #[test]
    fn runs_follow_the_table() {
        for (name, packets, expected) in RUNS {
            let mut batch = TxBatch::with_capacity(16_384, 16);
            for (port, local, len) in *packets {
                put(&mut batch, *port, *local, *len, 7);
            }
            let runs: Vec<_> =
                batch.messages().iter().map(|m| (m.to.port(), m.segment, m.segments, m.len)).collect();
            assert_eq!(runs, *expected, "{name}");
            assert_eq!(batch.is_empty(), expected.is_empty(), "{name}");
            assert_eq!(batch.datagrams(), packets.iter().filter(|p| p.2 > 0).count(), "{name}");
        }
    }

    #[test]
    fn runs_end_at_64_segments_and_at_65000_bytes() {
        for (len, count, expected) in [
            (100, 130, vec![64, 64, 2]),
            (1200, 60, vec![54, 6]),
            (1000, 66, vec![64, 2]),
            (40_000, 2, vec![1, 1]),
        ] {
            let mut batch = TxBatch::with_capacity(1 << 20, 16);
            for _ in 0..count {
                put(&mut batch, 1, 0, len, 1);
            }
            let segments: Vec<_> = batch.messages().iter().map(|m| m.segments).collect();
            assert_eq!(segments, expected, "{count} of {len}");
            assert!(batch.messages().iter().all(|m| m.len as usize <= MAX_RUN_BYTES));
        }
    }

    #[test]
    fn bytes_lie_in_a_row_and_stay_what_was_written() {
        let mut batch = TxBatch::with_capacity(4096, 8);
        put(&mut batch, 1, 0, 10, 0xa);
        put(&mut batch, 1, 0, 4, 0xb);
        put(&mut batch, 2, 0, 3, 0xc);
        let [first, second] = batch.messages() else { panic!("two runs") };
        assert_eq!(batch.bytes(first), [[0xa; 10].as_slice(), &[0xb; 4]].concat());
        assert_eq!(batch.bytes(second), [0xc; 3]);
    }

    #[test]
    fn a_packet_may_use_less_than_its_space() {
        let mut batch = TxBatch::with_capacity(100, 8);
        batch.open(peer(1), LocalId(0));
        assert_eq!(batch.space(100).map(|s| s.len()), Some(100));
        batch.push(60);
        assert!(batch.space(41).is_none());
        assert_eq!(batch.space(40).map(|s| s.len()), Some(40));
    }

    #[test]
    fn full_of_messages_and_usable_after_clear() {
        let mut batch = TxBatch::with_capacity(4096, 2);
        put(&mut batch, 1, 0, 10, 1);
        put(&mut batch, 2, 0, 10, 1);
        batch.open(peer(3), LocalId(0));
        assert!(batch.space(10).is_none());
        batch.clear();
        assert!(batch.is_empty() && batch.datagrams() == 0);
        put(&mut batch, 3, 0, 10, 1);
        assert_eq!(
            batch.messages(),
            [TxMessage { start: 0, len: 10, segment: 10, segments: 1, to: peer(3), local: LocalId(0) }]
        );
    }

    #[test]
    fn a_run_does_not_go_on_after_clear() {
        let mut batch = TxBatch::with_capacity(4096, 2);
        put(&mut batch, 1, 0, 10, 1);
        batch.clear();
        put(&mut batch, 1, 0, 10, 1);
        assert_eq!(batch.messages()[0].segments, 1);
    }

    #[test]
    fn absurd_lengths_are_refused() {
        let mut batch = TxBatch::with_capacity(64, 2);
        assert!(batch.space(usize::MAX).is_none());
        assert!(batch.space(65).is_none());
    }
}

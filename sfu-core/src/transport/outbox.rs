//! Outgoing datagrams that are no media: STUN answers, DTLS records, RTCP. Fixed memory, filled between two drains.
//!
//! Media does not pass here: it is sealed straight into the TX batch (`shard/egress.rs`).
#![forbid(unsafe_code)]

use super::Pair;
use crate::buf::TxBatch;

/// Bytes all waiting datagrams may take together. A join storm of 500 peers answers with about 1.2 KB each in a turn.
const ARENA_BYTES: usize = 1 << 20;
/// Datagrams that may wait.
const MAX_DATAGRAMS: usize = 4096;

struct Entry {
    pair: Pair,
    start: u32,
    len: u32,
}

/// Bounded queue of small datagrams; a full queue drops the newest and counts it.
pub struct Outbox {
    arena: Box<[u8]>,
    used: usize,
    entries: Vec<Entry>,
    next: usize,
    dropped: u64,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            used: 0,
            entries: Vec::with_capacity(MAX_DATAGRAMS),
            next: 0,
            dropped: 0,
        }
    }
}

impl Outbox {
    /// Datagrams dropped because the queue was full, since start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Lets `write` fill up to `max_len` bytes; it returns the length, or `None` to send nothing.
    pub fn push_with(&mut self, pair: Pair, max_len: usize, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        if self.entries.len() == MAX_DATAGRAMS || self.used + max_len > self.arena.len() {
            self.dropped += 1;
            return;
        }
        if let Some(len) = write(&mut self.arena[self.used..self.used + max_len]) {
            debug_assert!(len <= max_len);
            self.entries.push(Entry { pair, start: self.used as u32, len: len as u32 });
            self.used += len;
        }
    }

    /// Queues a copy of `datagram`.
    pub fn push(&mut self, pair: Pair, datagram: &[u8]) {
        self.push_with(pair, datagram.len(), |out| {
            out.copy_from_slice(datagram);
            Some(datagram.len())
        });
    }

    /// Moves what fits into `tx`. False: `tx` is full, call again.
    pub fn drain(&mut self, tx: &mut TxBatch) -> bool {
        while let Some(entry) = self.entries.get(self.next) {
            let (start, len) = (entry.start as usize, entry.len as usize);
            tx.open(entry.pair.remote, entry.pair.local);
            let Some(space) = tx.space(len) else { return false };
            space.copy_from_slice(&self.arena[start..start + len]);
            tx.push(len);
            self.next += 1;
        }
        self.entries.clear();
        self.next = 0;
        self.used = 0;
        true
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

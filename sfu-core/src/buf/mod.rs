//! Datagram buffers of one shard: receive slots, counted by hand, and the arena outgoing packets are sealed into.
//!
//! ```text
//!            alloc / take_back            release to 0
//!   Free ───────────────────────▶ Shard ───────────────▶ Free
//!     │ lend                        │ retain ▲ release
//!     ▼                             ▼        │
//!   Kernel (in the buffer ring)   Shared(n) ─┘
//! ```
//!
//! Nothing here is shared between threads, and nothing grows: a pool or batch that is full says so. Unsafe code is
//! confined to the memory region of [`pool`].

#![allow(unsafe_code)]

mod pool;
mod slot;
mod tx_batch;

use std::net::SocketAddr;

pub use pool::RxPool;
pub use slot::{PAYLOAD_START, SLOT_BYTES, SlotId};
pub use tx_batch::{MAX_RUN_BYTES, MAX_SEGMENTS, TxBatch, TxMessage};

use crate::ids::LocalId;

/// One received datagram. Its bytes are `pool.bytes(slot)[start..start + len]`; whoever holds it holds one reference to
/// the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The slot the bytes lie in.
    pub slot: SlotId,
    /// Offset of the first byte in the slot.
    pub start: u16,
    /// Length in bytes.
    pub len: u16,
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of the shard's sockets it came in at.
    pub local: LocalId,
}

impl Datagram {
    /// Where the datagram lies in its slot.
    pub fn range(&self) -> std::ops::Range<usize> {
        usize::from(self.start)..usize::from(self.start) + usize::from(self.len)
    }

    /// Its bytes.
    pub fn bytes<'a>(&self, pool: &'a RxPool) -> &'a [u8] {
        &pool.bytes(self.slot)[self.range()]
    }

    /// Its bytes, to be changed where they lie.
    pub fn bytes_mut<'a>(&self, pool: &'a mut RxPool) -> &'a mut [u8] {
        &mut pool.bytes_mut(self.slot)[self.range()]
    }
}

//! A seeded network on a virtual clock around one real shard, with peers that speak ICE, DTLS and SRTP.
//!
//! ```text
//! SimPeer ──datagrams──▶ Network ──delay, loss, duplicates, reordering──▶ Shard ──TxBatch──▶ Network ──▶ SimPeer
//!    ▲                                                                      │
//!    └──────────────── World: one clock, one loop, taps what the shard sends┘
//! ```
//!
//! Also used by `zero_alloc.rs` and by the fuzz target `shard_ops`, so it needs `sfu_core`'s public items and `std` only.
#![allow(dead_code, clippy::unwrap_used, reason = "tests; each program uses its part")]

pub(crate) mod history;
pub(crate) mod network;
pub(crate) mod peer;
pub(crate) mod receiver;
pub(crate) mod rng;
pub(crate) mod room;
pub(crate) mod sender;
pub(crate) mod world;

use std::time::Duration;

/// `ms` milliseconds.
pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

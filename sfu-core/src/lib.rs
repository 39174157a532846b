//! Weir's media node.
//!
//! ```text
//! socket ─▶ demux ──▶ unprotect ───▶ route ──┬─▶ rewrite ─────▶ protect ───────▶ batch send
//! reactor/  shard/    crypto/srtp    forward/│   forward/       crypto/srtp      buf/tx_batch ─▶ reactor
//!           demux     in place, RX   route   │   rewrite        RX payload ─▶
//!                     slot read-only         │                  TX slot
//!                     from here on           └── once per subscriber
//! ```
//!
//! One core is one pinned thread, one ring, one [`shard`], one UDP port. A layer imports only layers below it:
//!
//! | layer | modules |
//! |---|---|
//! | 4 shell | [`node`] |
//! | 3 adapters | [`reactor`], `control/server`, [`metrics`] |
//! | 2 engines | [`shard`] over [`forward`] and [`transport`] |
//! | 1 parts | [`wire`], [`crypto`], [`buf`], [`engine`], `control/proto` |
//! | 0 vocabulary | [`time`], [`ids`], [`drop_reason`], [`config`] |

pub mod buf;
pub mod config;
pub mod control;
pub mod crypto;
pub mod drop_reason;
pub mod engine;
pub mod forward;
pub mod ids;
pub mod metrics;
pub mod node;
pub mod prefetch;
pub mod reactor;
pub mod shard;
pub mod time;
pub mod transport;
pub mod wire;

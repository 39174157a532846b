//! The controller's side door: typed messages, the state behind them, and the socket that carries them.
//!
//! ```text
//! controller ◀── WebSocket ──▶ server ◀──▶ hub ◀── commands, events ──▶ shards
//!                              (I/O)      (pure)
//! ```
//!
//! [`proto`] is the vocabulary and all the controller sees of it. `rpc` frames it, `hub` routes rooms to cores and matches
//! replies, `report` turns counters into load, `server` does the I/O.
pub mod proto;

pub mod hub;
pub mod report;
pub mod rpc;
pub mod server;

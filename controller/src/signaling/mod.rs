//! What clients say and hear: JSON-RPC 2.0 over WebSocket (contract: OpenVidu 2.x clients; decisions: `docs/SIGNALING.md`).
//!
//! ```text
//! text ─▶ envelope ─▶ dispatch ─┬─▶ join, reconnect      who is who
//!                               ├─▶ publish, subscribe   media: SDP in and out, ops for the node, answer when it replies
//!                               ├─▶ properties           mute, resize
//!                               ├─▶ signal, moderation   about other people
//!                               └─▶ refused              filters, speech to text
//! ```
//!
//! A request is answered exactly once: at once, or when the node has replied or has not in time (`pending`).
#![forbid(unsafe_code)]

mod client;
mod dispatch;
mod envelope;
mod error;
mod join;
mod moderation;
mod params;
mod pending;
mod properties;
mod publish;
mod refused;
mod signal;
mod subscribe;
#[cfg(test)]
mod tests;

pub(crate) use client::Peers;
pub(crate) use envelope::notification;
pub use error::{RpcError, code};
pub(crate) use join::Join;
pub(crate) use pending::{Pending, Then};

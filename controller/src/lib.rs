//! Weir's master node: signaling, REST, placement, node life cycle, autoscaler.
//!
//! Pure cores ([`session`], [`signaling`], [`sdp`], [`cluster`], [`placement`], [`autoscaler`]) hold no socket and read no clock. One
//! task, the shell, owns their state: input in, outputs out to the adapters (`http`, `node_link`, `launcher`, `store`, `events`).

pub mod autoscaler;
pub mod cluster;
pub mod config;
pub mod date;
pub mod engine;
pub mod events;
pub mod fleet;
pub mod http;
pub mod ids;
pub mod launcher;
pub mod log;
pub mod metering;
pub mod node_link;
pub mod placement;
pub mod private_file;
pub mod rest;
pub mod sdp;
pub mod session;
pub mod shell;
pub mod signaling;
pub mod simulate;
pub mod store;

//! Real shards on a virtual clock and a seeded network: media that is forwarded, repaired, moved, refused and closed.
//!
//! A failure prints its seed and the virtual time. With the same seed the run repeats itself, but for one thing: the DTLS
//! engine draws its keys and the times of its retransmissions itself, so a handshake that loses datagrams varies.

#![allow(clippy::unwrap_used, reason = "tests")]

mod forwarding;
mod histories;
mod lifecycle;
mod loss;
mod simulcast;
mod ssrc;
mod strangers;
mod support;

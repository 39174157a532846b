//! What happens to media between the publisher's transport and the subscribers'.
//!
//! ```text
//! received packet                                             sent packet
//!   ingress   loss, jitter, duplicates ─▶ nack  what to ask for  egress   may it go? new sequence number
//!   resend_cache  slots, rtx  format  ─▶ feedback  PLI, SR, RR   seq_map  the mapping, both directions
//!   twcc      arrival times              layers    which layer     rewrite  header bytes into the TX slot
//!   room, route  the tables: who publishes, who subscribes, whose SSRC        pending  what waits for the drain
//! ```
//!
//! Everything here is pure: no socket, no clock (`now` is an argument), no allocation per packet. One received stream
//! (SSRC) has one [`ingress::Ingress`], one sent stream one [`egress::Egress`].
#![forbid(unsafe_code)]

pub mod egress;
pub mod feedback;
pub mod ingress;
pub mod layers;
pub mod nack;
pub mod pending;
pub mod resend_cache;
pub mod rewrite;
pub mod room;
pub mod route;
pub mod rtx;
pub mod seq_map;
pub mod twcc;

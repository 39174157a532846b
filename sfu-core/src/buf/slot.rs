//! One receive slot: its name, its size and its layout.
//!
//! ```text
//! 0              16                    64                                        2048
//! ├ recvmsg_out ─┼ sockaddr + padding ─┼ datagram ───────────────────────────────┤
//! └── written by multishot recvmsg ────┘ PAYLOAD_START, a cache line boundary
//! ```
//!
//! The mmsg reactor keeps addresses elsewhere and leaves the head unused, so that a datagram lies at the same place
//! whichever reactor received it.

/// Bytes of one slot: two fit in a page, and a datagram of any usual path MTU fits with room to spare.
pub const SLOT_BYTES: usize = 2048;

/// Offset of a received datagram in its slot.
pub const PAYLOAD_START: usize = 64;

/// Position of a slot in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

const _: () = assert!(PAYLOAD_START.is_multiple_of(64) && SLOT_BYTES.is_multiple_of(64));

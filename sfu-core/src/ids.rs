//! Small typed names. Wire values and extended values are different types, so that they cannot be mixed up.
#![forbid(unsafe_code)]

use std::fmt;

macro_rules! newtype {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype!(/// Synchronization source of an RTP stream (RFC 3550 §3).
    Ssrc(u32));
newtype!(/// RTP payload type, 0..=127 (RFC 3550 §5.1).
    PayloadType(u8));
newtype!(/// Position of a core in the node's configuration, not the kernel's CPU number.
    CoreId(u16));
newtype!(/// Which of the shard's sockets (one per configured address) a datagram came in at or leaves by.
    LocalId(u8));

/// RTP sequence number as it stands in the packet. It wraps, so it has no order: extend it first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqNo(pub u16);

/// Sequence number extended by its rollover count: `roc << 16 | seq`. Also SRTP's packet index (RFC 3711 §3.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtSeq(pub u64);

impl ExtSeq {
    /// The 16 bits that go on the wire.
    pub fn seq(self) -> SeqNo {
        SeqNo(self.0 as u16)
    }

    /// Rollover counter, the upper 32 bits of the 48-bit index.
    pub fn roc(self) -> u32 {
        (self.0 >> 16) as u32
    }

    /// Extends `seq` to the value nearest to `self`, the highest one seen so far. Never below zero.
    pub fn extend(self, seq: SeqNo) -> ExtSeq {
        let delta = seq.0.wrapping_sub(self.0 as u16) as i16;
        let extended = self.0.saturating_add_signed(i64::from(delta));
        // At the very start a step back would leave the number line: stay in the first cycle.
        if delta < 0 && self.0 < u64::from(delta.unsigned_abs()) {
            ExtSeq(u64::from(seq.0))
        } else {
            ExtSeq(extended)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extends_forward_backward_and_over_the_wrap() {
        for (highest, seq, expected) in [
            (100, 101, 101),
            (100, 99, 99),
            (65_535, 0, 65_536),
            (65_536, 65_535, 65_535),
            (0x1_0005, 0xfffe, 0xfffe),
            (5, 0xfffe, 0xfffe),
        ] {
            assert_eq!(ExtSeq(highest).extend(SeqNo(seq)), ExtSeq(expected), "{highest} {seq}");
        }
    }
}

//! The packet index of a received packet (RFC 3711 §3.3.1): rollover counter and sequence number as one number.
//!
//! The rollover counter is not in the packet. The receiver takes the index that lies nearest to the highest one it has
//! authenticated, and authentication then tells whether that was right:
//!
//! ```text
//! highest     0x1_fffe         0x2_0003                          0x0_0003
//! seq         0x0001           0xffff                            0xffff
//! index       0x2_0001 (+3)    0x1_ffff (-4), the wrap reordered 0x0_ffff: there is nothing below zero
//! ```
//!
//! A stream starts with rollover counter 0 whatever its first sequence number is (RFC 3711 §3.3.1; senders pick the
//! first number from the lower half, so that a lost first packet cannot hide a wrap).
#![forbid(unsafe_code)]

use crate::ids::{ExtSeq, SeqNo};

/// The index of a packet with sequence number `seq`, where `highest` is the highest index authenticated so far on this
/// SSRC, or `None` before the first packet.
#[inline]
pub fn estimate(highest: Option<ExtSeq>, seq: SeqNo) -> ExtSeq {
    match highest {
        None => ExtSeq(u64::from(seq.0)),
        Some(highest) => highest.extend(seq),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_index() {
        for (highest, seq, expected) in [
            (None, 0, 0),
            (None, 0xffff, 0xffff),
            (Some(0xffff), 0, 0x1_0000),
            (Some(0x1_fffe), 0x0001, 0x2_0001),
            (Some(0x2_0003), 0xffff, 0x1_ffff),
            (Some(0x2_0003), 0x0002, 0x2_0002),
            (Some(0x0_0003), 0xffff, 0x0_ffff),
            (Some(0x1_0000), 0x7fff, 0x1_7fff),
            (Some(0x1_0000), 0x8001, 0x0_8001),
        ] {
            assert_eq!(estimate(highest.map(ExtSeq), SeqNo(seq)), ExtSeq(expected), "{highest:x?} {seq:x}");
        }
    }

    /// RFC 3711 §3.3.1 and appendix A as they are written, for one rollover counter above zero.
    fn reference(roc: u64, s_l: u16, seq: u16) -> u64 {
        let (s_l, seq) = (i64::from(s_l), i64::from(seq));
        let v = if s_l < 32_768 {
            if seq - s_l > 32_768 { roc - 1 } else { roc }
        } else if s_l - 32_768 > seq {
            roc + 1
        } else {
            roc
        };
        v << 16 | seq as u64
    }

    #[test]
    fn agrees_with_the_text_of_the_rfc() {
        for s_l in (0..=u16::MAX).step_by(251) {
            for seq in (0..=u16::MAX).step_by(127) {
                // Exactly half a cycle away both readings are equally far; the RFC breaks that tie by position.
                if seq.wrapping_sub(s_l) == 0x8000 {
                    continue;
                }
                let got = estimate(Some(ExtSeq(7 << 16 | u64::from(s_l))), SeqNo(seq));
                assert_eq!(got.0, reference(7, s_l, seq), "{s_l} {seq}");
            }
        }
    }
}

//! Generic NACK: packets asked for again (RFC 4585 §6.2.1).
//!
//! ```text
//! sender ssrc | media ssrc | (PID, BLP) *      PID is lost; bit i of BLP says that PID + 1 + i is lost too
//! ```
#![forbid(unsafe_code)]

use super::{format, frame, packet_bytes, packet_type};
use crate::ids::{SeqNo, Ssrc};
use crate::wire::WriteError;

/// View of a generic NACK.
#[derive(Clone, Copy, Debug)]
pub struct Nack<'a> {
    /// Who asks.
    pub sender: Ssrc,
    /// The stream asked for.
    pub media: Ssrc,
    pairs: &'a [[u8; 4]],
}

impl<'a> Nack<'a> {
    pub(super) fn parse(words: &'a [[u8; 4]]) -> Option<Nack<'a>> {
        let [sender, media, pairs @ ..] = words else { return None };
        Some(Nack {
            sender: Ssrc(u32::from_be_bytes(*sender)),
            media: Ssrc(u32::from_be_bytes(*media)),
            pairs,
        })
    }

    /// The sequence numbers asked for, in the order they are written; at most 17 per pair.
    pub fn lost(&self) -> impl Iterator<Item = SeqNo> + use<'a> {
        self.pairs.iter().flat_map(|&[p0, p1, b0, b1]| {
            let pid = u16::from_be_bytes([p0, p1]);
            // Bit 0 stands for PID itself, so that one mask holds all 17.
            Bits(u32::from(u16::from_be_bytes([b0, b1])) << 1 | 1)
                .map(move |bit| SeqNo(pid.wrapping_add(bit as u16)))
        })
    }
}

/// Positions of the set bits, lowest first.
struct Bits(u32);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let bit = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (bit < u32::BITS).then_some(bit)
    }
}

/// Writes a generic NACK for `lost`; returns its length in bytes.
///
/// Ascending sequence numbers (over the wrap too) share pairs as far as they go; any other order is correct, but longer.
/// # Errors
/// `OutOfRange` when `lost` is empty, `NoSpace`. `out` may be partly overwritten.
pub fn write_nack(
    out: &mut [u8],
    sender: Ssrc,
    media: Ssrc,
    lost: impl IntoIterator<Item = SeqNo>,
) -> Result<usize, WriteError> {
    // The pairs go in first, the header when their number is known.
    let words = out.as_chunks_mut::<4>().0;
    let mut end = 2;
    let mut lost = lost.into_iter();
    let mut pid = lost.next().ok_or(WriteError::OutOfRange)?.0;
    let mut blp = 0u16;
    loop {
        let next = lost.next();
        if let Some(SeqNo(seq)) = next {
            match seq.wrapping_sub(pid) {
                0 => continue,
                distance @ 1..=16 => {
                    blp |= 1 << (distance - 1);
                    continue;
                }
                _ => {}
            }
        }
        end += 1;
        let [p0, p1] = pid.to_be_bytes();
        let [b0, b1] = blp.to_be_bytes();
        *words.get_mut(end).ok_or(WriteError::NoSpace)? = [p0, p1, b0, b1];
        match next {
            Some(SeqNo(seq)) => (pid, blp) = (seq, 0),
            None => break,
        }
    }
    let body = frame(out, format::NACK, packet_type::TRANSPORT_FEEDBACK, end)?;
    body[0] = sender.0.to_be_bytes();
    body[1] = media.0.to_be_bytes();
    Ok(packet_bytes(end))
}

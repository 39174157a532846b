//! Receiver estimated maximum bitrate (draft-alvestrand-rmcat-remb-03 §2.2).
//!
//! ```text
//! sender ssrc | 0 | "REMB" | count (8), exponent (6), mantissa (18) | ssrc * count      bit/s = mantissa << exponent
//! ```
#![forbid(unsafe_code)]

use super::{format, frame, packet_bytes, packet_type};
use crate::ids::Ssrc;
use crate::wire::WriteError;

const NAME: [u8; 4] = *b"REMB";
const MANTISSA_BITS: u32 = 18;

/// View of a REMB message.
#[derive(Clone, Copy, Debug)]
pub struct Remb<'a> {
    /// Who estimates.
    pub sender: Ssrc,
    /// The estimate in bit/s, for all the sources together. `u64::MAX` when it does not fit.
    pub bitrate_bps: u64,
    sources: &'a [[u8; 4]],
}

/// Whether a payload-specific application message is a REMB.
pub(super) fn is_remb(words: &[[u8; 4]]) -> bool {
    words.get(2) == Some(&NAME)
}

impl<'a> Remb<'a> {
    pub(super) fn parse(words: &'a [[u8; 4]]) -> Option<Remb<'a>> {
        let [sender, _media, NAME, estimate, sources @ ..] = words else { return None };
        let [count, high, ..] = *estimate;
        let exponent = u32::from(high >> 2);
        let mantissa = u64::from(u32::from_be_bytes(*estimate) & ((1 << MANTISSA_BITS) - 1));
        let overflows = mantissa.leading_zeros() < exponent;
        Some(Remb {
            sender: Ssrc(u32::from_be_bytes(*sender)),
            bitrate_bps: if overflows { u64::MAX } else { mantissa << exponent },
            sources: sources.get(..usize::from(count))?,
        })
    }

    /// The sources the estimate covers.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.sources.iter().map(|word| Ssrc(u32::from_be_bytes(*word)))
    }
}

/// Writes a REMB message; returns its length in bytes. The bitrate is rounded down to 18 significant bits.
///
/// # Errors
/// `OutOfRange` beyond 255 sources, `NoSpace`.
pub fn write_remb(
    out: &mut [u8],
    sender: Ssrc,
    bitrate_bps: u64,
    sources: &[Ssrc],
) -> Result<usize, WriteError> {
    let count = u8::try_from(sources.len()).map_err(|_| WriteError::OutOfRange)?;
    let body_words = 4 + sources.len();
    let body = frame(out, format::APPLICATION, packet_type::PAYLOAD_FEEDBACK, body_words)?;
    let exponent = (u64::BITS - bitrate_bps.leading_zeros()).saturating_sub(MANTISSA_BITS);
    let mantissa = (bitrate_bps >> exponent) as u32;
    let estimate = u32::from(count) << 24 | exponent << MANTISSA_BITS | mantissa;
    let (head, list) = body.split_first_chunk_mut::<4>().expect("body_words counts them");
    *head = [sender.0.to_be_bytes(), [0; 4], NAME, estimate.to_be_bytes()];
    for (word, source) in list.iter_mut().zip(sources) {
        *word = source.0.to_be_bytes();
    }
    Ok(packet_bytes(body_words))
}

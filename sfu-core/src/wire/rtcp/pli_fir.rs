//! Asking for a key frame: picture loss indication (RFC 4585 §6.3.1) and full intra request (RFC 5104 §4.3.1).
//!
//! ```text
//! PLI  sender ssrc | media ssrc
//! FIR  sender ssrc | 0          | (ssrc, command number, 0) *
//! ```
#![forbid(unsafe_code)]

use super::{format, frame, packet_bytes, packet_type};
use crate::ids::Ssrc;
use crate::wire::WriteError;

/// A picture loss indication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pli {
    /// Who asks.
    pub sender: Ssrc,
    /// The stream that shall send a key frame.
    pub media: Ssrc,
}

impl Pli {
    pub(super) fn parse(words: &[[u8; 4]]) -> Option<Pli> {
        let [sender, media, ..] = words else { return None };
        Some(Pli { sender: Ssrc(u32::from_be_bytes(*sender)), media: Ssrc(u32::from_be_bytes(*media)) })
    }
}

/// One stream of a full intra request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirEntry {
    /// The stream that shall send a key frame.
    pub media: Ssrc,
    /// Command number: the same number is the same request, repeated.
    pub command: u8,
}

/// View of a full intra request.
#[derive(Clone, Copy, Debug)]
pub struct Fir<'a> {
    /// Who asks.
    pub sender: Ssrc,
    entries: &'a [[[u8; 4]; 2]],
}

impl<'a> Fir<'a> {
    pub(super) fn parse(words: &'a [[u8; 4]]) -> Option<Fir<'a>> {
        let [sender, _media, entries @ ..] = words else { return None };
        Some(Fir { sender: Ssrc(u32::from_be_bytes(*sender)), entries: entries.as_chunks().0 })
    }

    /// The streams asked for.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = FirEntry> + use<'a> {
        self.entries.iter().map(|[ssrc, [command, ..]]| FirEntry {
            media: Ssrc(u32::from_be_bytes(*ssrc)),
            command: *command,
        })
    }
}

/// Writes a picture loss indication; returns its length, 12 bytes.
///
/// # Errors
/// `NoSpace`.
pub fn write_pli(out: &mut [u8], sender: Ssrc, media: Ssrc) -> Result<usize, WriteError> {
    let body = frame(out, format::PLI, packet_type::PAYLOAD_FEEDBACK, 2)?;
    body.copy_from_slice(&[sender.0.to_be_bytes(), media.0.to_be_bytes()]);
    Ok(packet_bytes(2))
}

/// Writes a full intra request; returns its length in bytes.
///
/// # Errors
/// `OutOfRange` when `entries` is empty, `NoSpace`.
pub fn write_fir(out: &mut [u8], sender: Ssrc, entries: &[FirEntry]) -> Result<usize, WriteError> {
    if entries.is_empty() {
        return Err(WriteError::OutOfRange);
    }
    let body_words = 2 + 2 * entries.len();
    let body = frame(out, format::FIR, packet_type::PAYLOAD_FEEDBACK, body_words)?;
    body[0] = sender.0.to_be_bytes();
    body[1] = [0; 4];
    for (slot, entry) in body[2..].as_chunks_mut::<2>().0.iter_mut().zip(entries) {
        *slot = [entry.media.0.to_be_bytes(), [entry.command, 0, 0, 0]];
    }
    Ok(packet_bytes(body_words))
}

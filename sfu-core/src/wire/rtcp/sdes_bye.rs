//! Source descriptions and goodbyes (RFC 3550 §6.5, §6.6).
//!
//! ```text
//! SDES  chunk * count:  ssrc | item (type, length, text) * | 0 up to the next word
//! BYE   ssrc * count | optional reason (length, text), filled with 0 to a word
//! ```
#![forbid(unsafe_code)]

use super::{COUNT_BITS, frame, packet_bytes, packet_type};
use crate::ids::Ssrc;
use crate::wire::WriteError;

const ITEM_END: u8 = 0;
const ITEM_CNAME: u8 = 1;

/// View of a source description whose chunks were walked once.
#[derive(Clone, Copy, Debug)]
pub struct Sdes<'a> {
    body: &'a [u8],
    count: u8,
}

/// One source of an [`Sdes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SdesChunk<'a> {
    /// The source described.
    pub ssrc: Ssrc,
    items: &'a [u8],
}

impl<'a> Sdes<'a> {
    pub(super) fn parse(body: &'a [u8], count: u8) -> Option<Sdes<'a>> {
        let mut rest = body;
        for _ in 0..count {
            rest = split_chunk(rest)?.1;
        }
        Some(Sdes { body, count })
    }

    /// Its sources in order.
    pub fn chunks(&self) -> impl Iterator<Item = SdesChunk<'a>> + use<'a> {
        let mut rest = self.body;
        (0..self.count).map_while(move |_| {
            let (chunk, behind) = split_chunk(rest)?;
            rest = behind;
            Some(chunk)
        })
    }
}

impl<'a> SdesChunk<'a> {
    /// Items as (type, text), the end mark left out. The text should be UTF-8; nothing here relies on it.
    pub fn items(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.items;
        std::iter::from_fn(move || {
            let (kind, text, behind) = split_item(rest)?;
            rest = behind;
            Some((kind, text))
        })
    }

    /// The canonical name, if the chunk has one.
    pub fn cname(&self) -> Option<&'a [u8]> {
        self.items().find(|(kind, _)| *kind == ITEM_CNAME).map(|(_, text)| text)
    }
}

/// Takes one chunk off `bytes`, which starts at a word of the packet.
fn split_chunk(bytes: &[u8]) -> Option<(SdesChunk<'_>, &[u8])> {
    let (ssrc, all) = bytes.split_first_chunk::<4>()?;
    let mut rest = all;
    while let Some((.., behind)) = split_item(rest) {
        rest = behind;
    }
    // What stopped the walk must be the end mark, not a torn item.
    if *rest.first()? != ITEM_END {
        return None;
    }
    let items_bytes = all.len() - rest.len();
    let chunk = SdesChunk { ssrc: Ssrc(u32::from_be_bytes(*ssrc)), items: &all[..items_bytes] };
    Some((chunk, all.get((items_bytes + 1).next_multiple_of(4)..)?))
}

/// Type and text of the first item, and what follows it; `None` at the end mark and at a torn item.
fn split_item(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    match bytes {
        [ITEM_END, ..] => None,
        [kind, len, rest @ ..] => {
            let (text, rest) = rest.split_at_checked(usize::from(*len))?;
            Some((*kind, text, rest))
        }
        _ => None,
    }
}

/// View of a goodbye.
#[derive(Clone, Copy, Debug)]
pub struct Bye<'a> {
    sources: &'a [[u8; 4]],
    reason: Option<&'a [u8]>,
}

impl<'a> Bye<'a> {
    pub(super) fn parse(body: &'a [u8], count: u8) -> Option<Bye<'a>> {
        let (sources, rest) = body.split_at_checked(4 * usize::from(count))?;
        let reason = match rest.split_first() {
            None => None,
            Some((len, text)) => Some(text.get(..usize::from(*len))?),
        };
        Some(Bye { sources: sources.as_chunks().0, reason })
    }

    /// The sources that leave.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = Ssrc> + use<'a> {
        self.sources.iter().map(|word| Ssrc(u32::from_be_bytes(*word)))
    }

    /// Why, if they say so.
    pub fn reason(&self) -> Option<&'a [u8]> {
        self.reason
    }
}

/// Writes a source description with one source and its canonical name; returns its length in bytes.
///
/// # Errors
/// `OutOfRange` beyond 255 bytes of name, `NoSpace`.
pub fn write_sdes_cname(out: &mut [u8], ssrc: Ssrc, cname: &str) -> Result<usize, WriteError> {
    let name_bytes = u8::try_from(cname.len()).map_err(|_| WriteError::OutOfRange)?;
    // SSRC, item head and text, and at least one zero byte to end the chunk.
    let body_words = 1 + (2 + cname.len() + 1).div_ceil(4);
    let body = frame(out, 1, packet_type::SDES, body_words)?;
    let body = body.as_flattened_mut();
    body.fill(0);
    body[..4].copy_from_slice(&ssrc.0.to_be_bytes());
    body[4..6].copy_from_slice(&[ITEM_CNAME, name_bytes]);
    body[6..6 + cname.len()].copy_from_slice(cname.as_bytes());
    Ok(packet_bytes(body_words))
}

/// Writes a goodbye; returns its length in bytes. An empty `reason` is left out.
///
/// # Errors
/// `OutOfRange` beyond 31 sources or 255 bytes of reason, `NoSpace`.
pub fn write_bye(out: &mut [u8], sources: &[Ssrc], reason: &str) -> Result<usize, WriteError> {
    let reason_bytes = u8::try_from(reason.len()).map_err(|_| WriteError::OutOfRange)?;
    if sources.len() > usize::from(COUNT_BITS) {
        return Err(WriteError::OutOfRange);
    }
    let reason_words = if reason.is_empty() { 0 } else { (1 + reason.len()).div_ceil(4) };
    let body_words = sources.len() + reason_words;
    let body = frame(out, sources.len() as u8, packet_type::BYE, body_words)?;
    let (list, tail) = body.split_at_mut(sources.len());
    for (word, source) in list.iter_mut().zip(sources) {
        *word = source.0.to_be_bytes();
    }
    if let Some((len, text)) = tail.as_flattened_mut().split_first_mut() {
        *len = reason_bytes;
        let (text, fill) = text.split_at_mut(reason.len());
        text.copy_from_slice(reason.as_bytes());
        fill.fill(0);
    }
    Ok(packet_bytes(body_words))
}

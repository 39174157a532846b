//! RTP header extensions in one- and two-byte form (RFC 8285 §4.2, §4.3).
//!
//! ```text
//! one-byte   |  ID   | len-1 | data, 1..=16 bytes  |   profile 0xBEDE, IDs 1..=14, 0 is padding, 15 ends the block
//! two-byte   |      ID       |      len      | data, 0..=255 bytes |   profile 0x100x, IDs 1..=255, 0 is padding
//! ```
//!
//! Which ID means what is negotiated per peer; this file does not know. The values we read are decoded at the end.
#![forbid(unsafe_code)]

use crate::wire::WriteError;
use crate::wire::rtp::{EXTENSION_BIT, FIXED_HEADER_BYTES, RtpHeader};

/// Profile of the one-byte form.
pub const ONE_BYTE_PROFILE: u16 = 0xbede;
/// Profile of the two-byte form; the low four bits are free for the application.
pub const TWO_BYTE_PROFILE: u16 = 0x1000;

/// How the elements of a block are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// IDs 1..=14, values of 1..=16 bytes.
    OneByte,
    /// IDs 1..=255, values of 0..=255 bytes. Only to peers that negotiated `extmap-allow-mixed` or such IDs.
    TwoByte,
}

impl Form {
    /// The form a profile stands for; `None` for profiles that are not RFC 8285's.
    #[inline]
    pub fn of_profile(profile: u16) -> Option<Form> {
        match profile {
            ONE_BYTE_PROFILE => Some(Form::OneByte),
            p if p & 0xfff0 == TWO_BYTE_PROFILE => Some(Form::TwoByte),
            _ => None,
        }
    }

    /// Whether an element with this ID and value length can be written in this form.
    #[inline]
    pub fn fits(self, id: u8, value_bytes: usize) -> bool {
        match self {
            Form::OneByte => (1..=14).contains(&id) && (1..=16).contains(&value_bytes),
            Form::TwoByte => id != 0 && value_bytes <= 255,
        }
    }
}

/// The elements of the header's extension block, in order.
///
/// `packet` is the packet that `header` was parsed from. Ends early at an element that does not fit the block; an
/// unknown profile has no elements.
#[inline]
pub fn elements<'a>(header: &RtpHeader, packet: &'a [u8]) -> Elements<'a> {
    let block = header.ext.and_then(|ext| {
        let start = usize::from(ext.start);
        let bytes = packet.get(start..start + usize::from(ext.len))?;
        Some((Form::of_profile(ext.profile)?, bytes))
    });
    match block {
        Some((form, rest)) => Elements { form, rest },
        None => Elements { form: Form::OneByte, rest: &[] },
    }
}

/// The value of the first element with `id`.
#[inline]
pub fn find<'a>(header: &RtpHeader, packet: &'a [u8], id: u8) -> Option<&'a [u8]> {
    elements(header, packet).find(|(found, _)| *found == id).map(|(_, value)| value)
}

/// Iterator of `(id, value)`. Made by [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    form: Form,
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        while let [0, rest @ ..] = self.rest {
            self.rest = rest;
        }
        let (id, len, rest) = match (self.form, self.rest) {
            // ID 0 with a length, and ID 15, end the whole block (RFC 8285 §4.2).
            (Form::OneByte, [0x10..=0xef, rest @ ..]) => {
                (self.rest[0] >> 4, usize::from(self.rest[0] & 0x0f) + 1, rest)
            }
            (Form::TwoByte, [id, len, rest @ ..]) => (*id, usize::from(*len), rest),
            _ => return self.stop(),
        };
        let Some((value, rest)) = rest.split_at_checked(len) else {
            return self.stop();
        };
        self.rest = rest;
        Some((id, value))
    }
}

impl<'a> Elements<'a> {
    fn stop(&mut self) -> Option<(u8, &'a [u8])> {
        self.rest = &[];
        None
    }
}

impl std::iter::FusedIterator for Elements<'_> {}

/// Writes one extension block behind a header that [`HeaderFields::write`](crate::wire::rtp::HeaderFields::write) wrote.
///
/// ```
/// # use sfu_core::{ids::*, wire::{rtp::*, rtp_ext::*}};
/// # let fields = HeaderFields { marker: false, padding: false, payload_type: PayloadType(96), seq: SeqNo(1),
/// #     timestamp: 2, ssrc: Ssrc(3) };
/// let mut packet = [0u8; 64];
/// let header_len = fields.write(&mut packet, &[])?;
/// let mut block = ExtWriter::new(&mut packet, header_len, Form::OneByte)?;
/// block.push(3, &7u16.to_be_bytes())?;
/// let header_len = block.finish()?;
/// let header = RtpHeader::parse(&packet[..header_len]).expect("just written");
/// assert_eq!(find(&header, &packet, 3), Some(&[0, 7][..]));
/// # Ok::<(), sfu_core::wire::WriteError>(())
/// ```
#[derive(Debug)]
pub struct ExtWriter<'a> {
    packet: &'a mut [u8],
    header_len: usize,
    end: usize,
    form: Form,
}

impl<'a> ExtWriter<'a> {
    /// Starts a block at `header_len`, the length of the header that `packet` holds so far (12 plus CSRCs).
    ///
    /// # Errors
    /// `OutOfRange` when `header_len` is below 12 or beyond `packet`.
    #[inline]
    pub fn new(packet: &'a mut [u8], header_len: usize, form: Form) -> Result<ExtWriter<'a>, WriteError> {
        if header_len < FIXED_HEADER_BYTES || header_len > packet.len() {
            return Err(WriteError::OutOfRange);
        }
        Ok(ExtWriter { packet, header_len, end: header_len + 4, form })
    }

    /// Appends one element.
    ///
    /// # Errors
    /// `OutOfRange` when the form cannot carry it, `NoSpace` when the packet cannot; the block is then as it was.
    #[inline]
    pub fn push(&mut self, id: u8, value: &[u8]) -> Result<(), WriteError> {
        if !self.form.fits(id, value.len()) {
            return Err(WriteError::OutOfRange);
        }
        let head_bytes = match self.form {
            Form::OneByte => 1,
            Form::TwoByte => 2,
        };
        let end = self.end + head_bytes + value.len();
        let element = self.packet.get_mut(self.end..end).ok_or(WriteError::NoSpace)?;
        let (head, data) = element.split_at_mut(head_bytes);
        match self.form {
            Form::OneByte => head[0] = id << 4 | (value.len() - 1) as u8,
            Form::TwoByte => head.copy_from_slice(&[id, value.len() as u8]),
        }
        data.copy_from_slice(value);
        self.end = end;
        Ok(())
    }

    /// Pads the block, writes its length, sets the X bit and returns the full header length. Without elements
    /// nothing is written and the header stays without extension.
    ///
    /// # Errors
    /// `NoSpace` when the padding (at most three bytes) does not fit.
    #[inline]
    pub fn finish(self) -> Result<usize, WriteError> {
        let start = self.header_len + 4;
        if self.end == start {
            return Ok(self.header_len);
        }
        let block_bytes = (self.end - start).next_multiple_of(4);
        let end = start + block_bytes;
        self.packet.get_mut(self.end..end).ok_or(WriteError::NoSpace)?.fill(0);
        let words = u16::try_from(block_bytes / 4).map_err(|_| WriteError::OutOfRange)?;
        let profile = match self.form {
            Form::OneByte => ONE_BYTE_PROFILE,
            Form::TwoByte => TWO_BYTE_PROFILE,
        };
        self.packet[self.header_len..self.header_len + 2].copy_from_slice(&profile.to_be_bytes());
        self.packet[self.header_len + 2..start].copy_from_slice(&words.to_be_bytes());
        self.packet[0] |= EXTENSION_BIT;
        Ok(end)
    }
}

/// Client-to-mixer audio level (RFC 6464 §3, §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AudioLevel {
    /// The sender believes the packet holds speech.
    pub voice: bool,
    /// Level in -dBov: 0 is loudest, 127 silence.
    pub level: u8,
}

impl AudioLevel {
    /// Reads the element's value; `None` when it is empty.
    #[inline]
    pub fn parse(value: &[u8]) -> Option<AudioLevel> {
        let &first = value.first()?;
        Some(AudioLevel { voice: first & 0x80 != 0, level: first & 0x7f })
    }
}

/// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01 §2).
#[inline]
pub fn transport_seq(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Absolute send time: 6.18 fixed point seconds, modulo 64 s.
#[inline]
pub fn abs_send_time(value: &[u8]) -> Option<u32> {
    let &[a, b, c] = value.first_chunk()?;
    Some(u32::from_be_bytes([0, a, b, c]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{PayloadType, SeqNo, Ssrc};
    use crate::wire::rtp::HeaderFields;

    fn packet(profile: u16, block: &[u8]) -> Vec<u8> {
        assert_eq!(block.len() % 4, 0);
        let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        packet.extend(profile.to_be_bytes());
        packet.extend(((block.len() / 4) as u16).to_be_bytes());
        packet.extend(block);
        packet
    }

    fn read(profile: u16, block: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let packet = packet(profile, block);
        let header = RtpHeader::parse(&packet).unwrap();
        elements(&header, &packet).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn blocks_of_both_forms() {
        type Expected<'a> = &'a [(u8, &'a [u8])];
        let cases: &[(u16, &[u8], Expected)] = &[
            // The layouts of RFC 8285 §4.2 and §4.3: padding between elements and at the end.
            (
                0xbede,
                &[0x10, 0xaa, 0x21, 1, 2, 0, 0, 0x33, 1, 2, 3, 4],
                &[(1, &[0xaa]), (2, &[1, 2]), (3, &[1, 2, 3, 4])],
            ),
            (0x1000, &[1, 0, 2, 1, 0xaa, 0, 3, 4, 1, 2, 3, 4], &[(1, &[]), (2, &[0xaa]), (3, &[1, 2, 3, 4])]),
            (0x100f, &[20, 2, 8, 9], &[(20, &[8, 9])]),
            // ID 15 and ID 0 with a length end a one-byte block.
            (0xbede, &[0x10, 0xaa, 0xf0, 1, 0x20, 2, 0, 0], &[(1, &[0xaa])]),
            (0xbede, &[0x10, 0xaa, 0x01, 1, 0x20, 2, 0, 0], &[(1, &[0xaa])]),
            // An element that reaches over the end of the block.
            (0xbede, &[0x10, 0xaa, 0x22, 1], &[(1, &[0xaa])]),
            (0x1000, &[1, 1, 0xaa, 2], &[(1, &[0xaa])]),
            (0x1000, &[1, 3, 0xaa, 2], &[]),
            (0xabac, &[0x10, 0xaa, 0, 0], &[]),
            (0xbede, &[], &[]),
        ];
        for (profile, block, expected) in cases {
            let expected: Vec<_> = expected.iter().map(|(id, value)| (*id, value.to_vec())).collect();
            assert_eq!(read(*profile, block), expected, "{profile:x} {block:x?}");
        }
    }

    #[test]
    fn finds_by_id() {
        let packet = packet(0xbede, &[0x10, 0xaa, 0x31, 1, 2, 0, 0, 0]);
        let header = RtpHeader::parse(&packet).unwrap();
        assert_eq!(find(&header, &packet, 3), Some(&[1, 2][..]));
        assert_eq!(find(&header, &packet, 2), None);
    }

    #[test]
    fn writer_bytes() {
        let mut packet = [0xff; 24];
        packet[0] = 0x80;
        let mut block = ExtWriter::new(&mut packet, 12, Form::OneByte).unwrap();
        block.push(1, &[0xaa]).unwrap();
        block.push(4, &[1, 2, 3]).unwrap();
        assert_eq!(block.finish(), Ok(24));
        assert_eq!(packet[0], 0x90);
        assert_eq!(packet[12..], [0xbe, 0xde, 0, 2, 0x10, 0xaa, 0x42, 1, 2, 3, 0, 0]);
    }

    #[test]
    fn writer_refuses() {
        let mut packet = [0; 20];
        assert_eq!(ExtWriter::new(&mut packet, 11, Form::OneByte).err(), Some(WriteError::OutOfRange));
        assert_eq!(ExtWriter::new(&mut packet, 21, Form::OneByte).err(), Some(WriteError::OutOfRange));
        let mut block = ExtWriter::new(&mut packet, 12, Form::OneByte).unwrap();
        for (id, len) in [(0, 1), (15, 1), (1, 0), (1, 17)] {
            assert_eq!(block.push(id, &vec![0; len]), Err(WriteError::OutOfRange), "{id} {len}");
        }
        assert_eq!(block.push(1, &[0; 4]), Err(WriteError::NoSpace));
        assert_eq!(block.finish(), Ok(12));
        assert_eq!(packet, [0; 20]);

        let mut block = ExtWriter::new(&mut packet[..19], 12, Form::OneByte).unwrap();
        block.push(1, &[0; 2]).unwrap();
        assert_eq!(block.finish(), Err(WriteError::NoSpace));
    }

    #[test]
    fn an_element_without_room_for_its_own_block_head() {
        let mut packet = [0; 14];
        let mut block = ExtWriter::new(&mut packet, 12, Form::TwoByte).unwrap();
        assert_eq!(block.push(1, &[]), Err(WriteError::NoSpace));
        assert_eq!(block.finish(), Ok(12));
    }

    #[test]
    fn values() {
        assert_eq!(AudioLevel::parse(&[0x85]), Some(AudioLevel { voice: true, level: 5 }));
        assert_eq!(AudioLevel::parse(&[0x7f, 0]), Some(AudioLevel { voice: false, level: 127 }));
        assert_eq!(AudioLevel::parse(&[]), None);
        assert_eq!(transport_seq(&[1, 2]), Some(0x0102));
        assert_eq!(transport_seq(&[1]), None);
        assert_eq!(abs_send_time(&[1, 2, 3]), Some(0x01_0203));
        assert_eq!(abs_send_time(&[1, 2]), None);
    }

    fn any_element() -> impl Strategy<Value = (bool, Vec<(u8, Vec<u8>)>)> {
        let one = prop::collection::vec((1u8..15, prop::collection::vec(any::<u8>(), 1..17)), 0..10);
        let two = prop::collection::vec((1u8..=255, prop::collection::vec(any::<u8>(), 0..256)), 0..5);
        prop_oneof![one.prop_map(|e| (true, e)), two.prop_map(|e| (false, e))]
    }

    proptest! {
        #[test]
        fn parse_reverses_write((one_byte, list) in any_element(), csrcs in 0usize..16) {
            let fields = HeaderFields {
                marker: false, padding: false, payload_type: PayloadType(1), seq: SeqNo(2), timestamp: 3, ssrc: Ssrc(4),
            };
            let mut packet = [0xff; 2048];
            let header_len = fields.write(&mut packet, &vec![5; 4 * csrcs]).unwrap();
            let form = if one_byte { Form::OneByte } else { Form::TwoByte };
            let mut block = ExtWriter::new(&mut packet, header_len, form).unwrap();
            for (id, value) in &list {
                block.push(*id, value).unwrap();
            }
            let len = block.finish().unwrap();
            let header = RtpHeader::parse(&packet[..len]).unwrap();
            prop_assert_eq!(header.header_len, len);
            let read: Vec<_> = elements(&header, &packet).map(|(id, value)| (id, value.to_vec())).collect();
            prop_assert_eq!(read, list);
        }

        #[test]
        fn any_block_ends(one_byte: bool, mut block in prop::collection::vec(any::<u8>(), 0..120)) {
            block.truncate(block.len() / 4 * 4);
            let profile = if one_byte { ONE_BYTE_PROFILE } else { TWO_BYTE_PROFILE };
            let bytes: usize = read(profile, &block).iter().map(|(_, value)| 1 + value.len()).sum();
            prop_assert!(bytes <= block.len());
        }
    }
}

//! The RTP header: parsed once per packet into a `Copy` struct, written once per subscriber (RFC 3550 §5.1, §5.3.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |                             SSRC                              |
//! |                   CSRC, CC times 4 bytes                      |
//! |     profile (0xBEDE, 0x100x)  |     length in words           |  only with X
//! |                     extension block                           |
//! ```
//!
//! Parsing looks at the header alone, so it works on protected packets. Padding lies in the encrypted part: ask
//! [`RtpHeader::padding_len`] after unprotecting.
#![forbid(unsafe_code)]

use crate::drop_reason::DropReason;
use crate::ids::{PayloadType, SeqNo, Ssrc};
use crate::wire::WriteError;

/// Bytes of the header without CSRCs and extension.
pub const FIXED_HEADER_BYTES: usize = 12;
/// Most CSRC bytes a header can carry: 15 of 4.
pub const CSRC_BYTES_MAX: usize = 60;

const VERSION_BITS: u8 = 2 << 6;
const PADDING_BIT: u8 = 1 << 5;
pub(super) const EXTENSION_BIT: u8 = 1 << 4;
const CSRC_COUNT_BITS: u8 = 0x0f;
const MARKER_BIT: u8 = 1 << 7;

/// Where the header extension lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtBlock {
    /// "Defined by profile": 0xBEDE one-byte form, 0x1000..=0x100F two-byte form (RFC 8285).
    pub profile: u16,
    /// Offset of the first element in the packet, behind the four bytes of profile and length.
    pub start: u16,
    /// Bytes of the block, a multiple of four.
    pub len: u16,
}

/// One parsed RTP header. Offsets refer to the packet it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// Marker bit; ends a frame in the video formats we forward.
    pub marker: bool,
    /// Whether the payload ends in padding. See [`RtpHeader::padding_len`].
    pub padding: bool,
    /// Payload type, 0..=127.
    pub payload_type: PayloadType,
    /// Sequence number as it stands in the packet.
    pub seq: SeqNo,
    /// Media timestamp in ticks of the payload's clock rate.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: Ssrc,
    /// Contributing sources, 0..=15.
    pub csrc_count: u8,
    /// Bytes before the payload, CSRCs and extension included.
    pub header_len: usize,
    /// The header extension, if there is one.
    pub ext: Option<ExtBlock>,
}

impl RtpHeader {
    /// Parses the header of `packet`, plain or protected.
    ///
    /// # Errors
    /// `TooShort` below 12 bytes; `RtpMalformed` when the version is not 2 or CSRCs or extension do not fit.
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<RtpHeader, DropReason> {
        let fixed: &[u8; FIXED_HEADER_BYTES] = packet.first_chunk().ok_or(DropReason::TooShort)?;
        if fixed[0] >> 6 != 2 {
            return Err(DropReason::RtpMalformed);
        }
        let csrc_count = fixed[0] & CSRC_COUNT_BITS;
        let mut header_len = FIXED_HEADER_BYTES + 4 * usize::from(csrc_count);
        let mut ext = None;
        if fixed[0] & EXTENSION_BIT != 0 {
            let block = parse_ext_block(packet, header_len)?;
            header_len = usize::from(block.start) + usize::from(block.len);
            ext = Some(block);
        }
        if header_len > packet.len() {
            return Err(DropReason::RtpMalformed);
        }
        Ok(RtpHeader {
            marker: fixed[1] & MARKER_BIT != 0,
            padding: fixed[0] & PADDING_BIT != 0,
            payload_type: PayloadType(fixed[1] & !MARKER_BIT),
            seq: SeqNo(u16::from_be_bytes([fixed[2], fixed[3]])),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: Ssrc(u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]])),
            csrc_count,
            header_len,
            ext,
        })
    }

    /// Padding bytes at the end of `plaintext`, the whole unprotected packet this header was parsed from.
    ///
    /// # Errors
    /// `RtpMalformed` when the count is zero or reaches into the header (RFC 3550 §5.1, P bit).
    #[inline]
    pub fn padding_len(&self, plaintext: &[u8]) -> Result<usize, DropReason> {
        if !self.padding {
            return Ok(0);
        }
        let room = plaintext.len().saturating_sub(self.header_len);
        match plaintext.last() {
            Some(&count) if count != 0 && usize::from(count) <= room => Ok(usize::from(count)),
            _ => Err(DropReason::RtpMalformed),
        }
    }

    /// The payload of `plaintext` without its padding; empty for a packet that is padding only.
    ///
    /// # Errors
    /// As [`RtpHeader::padding_len`].
    #[inline]
    pub fn payload<'a>(&self, plaintext: &'a [u8]) -> Result<&'a [u8], DropReason> {
        let end = plaintext.len() - self.padding_len(plaintext)?;
        plaintext.get(self.header_len..end).ok_or(DropReason::RtpMalformed)
    }

    /// The CSRC list as it stands in `packet`, four bytes each. Empty when `packet` is not the one parsed.
    #[inline]
    pub fn csrc_bytes<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let end = FIXED_HEADER_BYTES + 4 * usize::from(self.csrc_count);
        packet.get(FIXED_HEADER_BYTES..end).unwrap_or(&[])
    }

    /// The fields a writer takes, as they were received.
    #[inline]
    pub fn fields(&self) -> HeaderFields {
        HeaderFields {
            marker: self.marker,
            padding: self.padding,
            payload_type: self.payload_type,
            seq: self.seq,
            timestamp: self.timestamp,
            ssrc: self.ssrc,
        }
    }
}

#[inline]
fn parse_ext_block(packet: &[u8], at: usize) -> Result<ExtBlock, DropReason> {
    let &[p0, p1, l0, l1] =
        packet.get(at..).and_then(|rest| rest.first_chunk()).ok_or(DropReason::RtpMalformed)?;
    let words = u16::from_be_bytes([l0, l1]);
    let start = at + 4;
    // Two bytes hold the length only up to 16383 words; no datagram holds more.
    let len = words.checked_mul(4).ok_or(DropReason::RtpMalformed)?;
    if start + usize::from(len) > packet.len() {
        return Err(DropReason::RtpMalformed);
    }
    // `at` is at most 72, so `start` fits.
    Ok(ExtBlock { profile: u16::from_be_bytes([p0, p1]), start: start as u16, len })
}

/// What goes into the first twelve bytes of a packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderFields {
    /// Marker bit.
    pub marker: bool,
    /// P bit: the payload that follows ends in padding.
    pub padding: bool,
    /// Payload type; values above 127 lose their top bit.
    pub payload_type: PayloadType,
    /// Sequence number.
    pub seq: SeqNo,
    /// Media timestamp.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: Ssrc,
}

impl HeaderFields {
    /// Writes the fixed header and `csrcs` (raw, four bytes each) to the front of `out`; returns the header length.
    ///
    /// The X bit is left clear: [`ExtWriter`](crate::wire::rtp_ext::ExtWriter) sets it when it adds a block.
    /// # Errors
    /// `NoSpace`; `OutOfRange` when `csrcs` is not 0..=15 whole entries. `out` is then as it was.
    #[inline]
    pub fn write(&self, out: &mut [u8], csrcs: &[u8]) -> Result<usize, WriteError> {
        if csrcs.len() > CSRC_BYTES_MAX || !csrcs.len().is_multiple_of(4) {
            return Err(WriteError::OutOfRange);
        }
        let header_len = FIXED_HEADER_BYTES + csrcs.len();
        let header = out.get_mut(..header_len).ok_or(WriteError::NoSpace)?;
        let (fixed, list) =
            header.split_first_chunk_mut::<FIXED_HEADER_BYTES>().expect("header_len is 12 or more");
        let padding = if self.padding { PADDING_BIT } else { 0 };
        let marker = if self.marker { MARKER_BIT } else { 0 };
        fixed[0] = VERSION_BITS | padding | (csrcs.len() / 4) as u8;
        fixed[1] = marker | (self.payload_type.0 & !MARKER_BIT);
        fixed[2..4].copy_from_slice(&self.seq.0.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ssrc.0.to_be_bytes());
        list.copy_from_slice(csrcs);
        Ok(header_len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use webrtc_util::Unmarshal;

    use super::*;

    const FIELDS: HeaderFields = HeaderFields {
        marker: true,
        padding: false,
        payload_type: PayloadType(96),
        seq: SeqNo(0xfffe),
        timestamp: 0x0102_0304,
        ssrc: Ssrc(0xdead_beef),
    };

    #[test]
    fn bytes_of_a_plain_header() {
        let mut out = [0; 12];
        assert_eq!(FIELDS.write(&mut out, &[]), Ok(12));
        assert_eq!(out, [0x80, 0xe0, 0xff, 0xfe, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef]);
        let header = RtpHeader::parse(&out).unwrap();
        assert_eq!(header.fields(), FIELDS);
        assert_eq!((header.header_len, header.ext, header.csrc_count), (12, None, 0));
    }

    #[test]
    fn csrcs_and_extension_count_into_the_header() {
        let mut packet = vec![0x92, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        packet.extend([1; 4]);
        packet.extend([2; 4]);
        packet.extend([0xbe, 0xde, 0, 1, 0x10, 0x7f, 0, 0, 0xaa]);
        let header = RtpHeader::parse(&packet).unwrap();
        assert_eq!(header.header_len, 28);
        assert_eq!(header.ext, Some(ExtBlock { profile: 0xbede, start: 24, len: 4 }));
        assert_eq!(header.csrc_bytes(&packet), [1, 1, 1, 1, 2, 2, 2, 2]);
        assert_eq!(header.payload(&packet), Ok(&[0xaa][..]));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let mut extended = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0xbe, 0xde, 0, 2, 0, 0, 0, 0];
        let cases: &[(&[u8], DropReason)] = &[
            (&[], DropReason::TooShort),
            (&[0x80; 11], DropReason::TooShort),
            (&[0x40; 12], DropReason::RtpMalformed),
            (&[0x8f; 12], DropReason::RtpMalformed),
            (&extended[..12], DropReason::RtpMalformed),
            (&extended[..15], DropReason::RtpMalformed),
            (&extended, DropReason::RtpMalformed),
        ];
        for (packet, reason) in cases {
            assert_eq!(RtpHeader::parse(packet), Err(*reason), "{packet:x?}");
        }
        extended.extend([0; 4]);
        assert_eq!(RtpHeader::parse(&extended).unwrap().header_len, 24);
        extended[14..16].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(RtpHeader::parse(&extended), Err(DropReason::RtpMalformed));
    }

    #[test]
    fn padding_is_judged_on_the_plaintext() {
        let with = |tail: &[u8]| {
            let mut packet = vec![0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
            packet.extend(tail);
            packet
        };
        for (tail, expected) in [
            (&[9, 0, 0, 3][..], Ok(3)),
            (&[0, 0, 0, 4], Ok(4)),
            (&[0, 0, 0, 5], Err(DropReason::RtpMalformed)),
            (&[0, 0, 0, 0], Err(DropReason::RtpMalformed)),
            (&[], Err(DropReason::RtpMalformed)),
        ] {
            let packet = with(tail);
            let header = RtpHeader::parse(&packet).unwrap();
            assert_eq!(header.padding_len(&packet), expected, "{tail:?}");
        }
        let packet = with(&[7, 8, 0, 2]);
        assert_eq!(RtpHeader::parse(&packet).unwrap().payload(&packet), Ok(&[7, 8][..]));
    }

    #[test]
    fn writer_refuses_and_leaves_the_buffer() {
        let mut out = [7; 15];
        assert_eq!(FIELDS.write(&mut out[..11], &[]), Err(WriteError::NoSpace));
        assert_eq!(FIELDS.write(&mut out, &[0; 4]), Err(WriteError::NoSpace));
        assert_eq!(FIELDS.write(&mut out, &[0; 3]), Err(WriteError::OutOfRange));
        assert_eq!(FIELDS.write(&mut [0; 100], &[0; 64]), Err(WriteError::OutOfRange));
        assert_eq!(out, [7; 15]);
    }

    proptest! {
        #[test]
        fn parse_reverses_write(marker: bool, padding: bool, pt in 0u8..128, seq: u16, timestamp: u32, ssrc: u32,
                                csrcs in prop::collection::vec(any::<[u8; 4]>(), 0..16)) {
            let csrcs = csrcs.concat();
            let fields = HeaderFields {
                marker, padding, payload_type: PayloadType(pt), seq: SeqNo(seq), timestamp, ssrc: Ssrc(ssrc),
            };
            let mut out = [0; 72];
            let len = fields.write(&mut out, &csrcs).unwrap();
            let header = RtpHeader::parse(&out[..len]).unwrap();
            prop_assert_eq!(header.fields(), fields);
            prop_assert_eq!(header.header_len, len);
            prop_assert_eq!(header.csrc_bytes(&out[..len]), &csrcs[..]);
        }

        #[test]
        fn any_bytes_parse_or_are_refused(mut packet in prop::collection::vec(any::<u8>(), 0..200), version: bool) {
            if let (true, Some(first)) = (version, packet.first_mut()) {
                *first = (*first & 0x3f) | 0x80;
            }
            if let Ok(header) = RtpHeader::parse(&packet) {
                prop_assert!(header.header_len <= packet.len());
                prop_assert_eq!(header.csrc_bytes(&packet).len(), 4 * usize::from(header.csrc_count));
                if let Ok(payload) = header.payload(&packet) {
                    prop_assert!(payload.len() + header.header_len <= packet.len());
                }
            }
        }

        /// The `rtp` crate agrees wherever it is safe to ask: it trusts lengths inside the extension block, so the
        /// block here is of a profile it does not look into.
        #[test]
        fn agrees_with_the_rtp_crate(first in 0x80u8..0xc0, rest in prop::collection::vec(any::<u8>(), 11..120),
                                     words in 0u8..8) {
            let mut packet = vec![first];
            packet.extend(rest);
            let at = 12 + 4 * usize::from(first & 0x0f);
            if first & EXTENSION_BIT != 0 && at + 4 <= packet.len() {
                packet[at..at + 4].copy_from_slice(&[0xab, 0xac, 0, words]);
            }
            let theirs = rtp::header::Header::unmarshal(&mut &packet[..]);
            match (RtpHeader::parse(&packet), theirs) {
                (Ok(ours), Ok(theirs)) => {
                    prop_assert_eq!(ours.marker, theirs.marker);
                    prop_assert_eq!(ours.padding, theirs.padding);
                    prop_assert_eq!(ours.payload_type.0, theirs.payload_type);
                    prop_assert_eq!(ours.seq.0, theirs.sequence_number);
                    prop_assert_eq!(ours.timestamp, theirs.timestamp);
                    prop_assert_eq!(ours.ssrc.0, theirs.ssrc);
                    prop_assert_eq!(usize::from(ours.csrc_count), theirs.csrc.len());
                    prop_assert_eq!(ours.ext.is_some(), theirs.extension);
                }
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} against {:?}", ours, theirs),
            }
        }
    }
}

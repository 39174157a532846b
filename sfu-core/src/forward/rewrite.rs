//! The header of an outgoing packet: new numbers in front, header extensions under the subscriber's ids (RFC 8285).
//!
//! ```text
//! received  | fixed | CSRC |  id 1: MID  id 2: abs-send-time  id 3: level  id 4: twcc |  payload | padding
//!               │      │          ╳              ╳                 │            ╳            │        ╳
//! sent      | fixed | CSRC |  id 9: MID of the m-line  id 5: our time  id 7: level    |  payload
//! ```
//!
//! Elements that belong to one hop (MID, RID, abs-send-time, transport-wide numbers) end here; those the subscriber
//! negotiated are written anew. The rest is carried under the subscriber's id or left out.
//!
//! The bytes depend on nothing but the arguments. A packet sent again without RTX goes out under the SRTP index it had,
//! and must then be the same bytes (RFC 7714 §8.1): give the same stamp as the first time, its arrival.
#![forbid(unsafe_code)]

use std::ops::Range;

use crate::control::proto::HeaderExtension;
use crate::drop_reason::DropReason;
use crate::time::Timestamp;
use crate::wire::WriteError;
use crate::wire::rtp::{FIXED_HEADER_BYTES, HeaderFields, RtpHeader};
use crate::wire::rtp_ext::{ExtWriter, Form, elements};

/// Media identification (RFC 9143 §15.1).
pub const URI_MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
/// Stream identifier of a simulcast layer (RFC 8852).
pub const URI_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
/// Stream identifier of the stream that a retransmission repairs (RFC 8852).
pub const URI_REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
/// Time of sending, 6.18 seconds.
pub const URI_ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
/// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01).
pub const URI_TRANSPORT_WIDE_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
/// Client-to-mixer audio level (RFC 6464).
pub const URI_AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

/// Extensions that mean something on one hop only.
const HOP_BY_HOP: [&str; 5] = [URI_MID, URI_RID, URI_REPAIRED_RID, URI_ABS_SEND_TIME, URI_TRANSPORT_WIDE_CC];
/// Received ids that can be mapped: 1 to 31. Browsers count up from 1 and stay below.
const IDS: usize = 32;
/// Longest MID that is written.
pub const MID_BYTES_MAX: usize = 16;
const ABS_SEND_TIME_BYTES: usize = 3;

/// What becomes of header extensions between one publisher and one subscriber.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtensionMap {
    /// Received id to sent id, 0 for what is left out.
    ids: [u8; IDS],
    carries: bool,
    /// Some sent id is above 14.
    two_byte: bool,
    /// Sent id, 0 when not negotiated.
    mid_id: u8,
    mid_len: u8,
    mid: [u8; MID_BYTES_MAX],
    /// Sent id, 0 when not negotiated.
    abs_send_time_id: u8,
}

impl ExtensionMap {
    /// Pairs the extensions a publisher sends with those a subscriber accepts, by URI.
    ///
    /// `mid`: value for the MID extension; written when the subscriber accepts it and it has 1 to [`MID_BYTES_MAX`] bytes.
    pub fn negotiate(
        publisher: &[HeaderExtension],
        subscriber: &[HeaderExtension],
        mid: Option<&str>,
    ) -> ExtensionMap {
        let mut map = ExtensionMap::default();
        let sent_id = |uri: &str| subscriber.iter().find(|e| e.uri == uri).map_or(0, |e| e.id);
        for extension in publisher {
            if !HOP_BY_HOP.contains(&extension.uri.as_str()) {
                map.carry(extension.id, sent_id(&extension.uri));
            }
        }
        map.abs_send_time_id = sent_id(URI_ABS_SEND_TIME);
        map.two_byte |= map.abs_send_time_id > 14;
        map.set_mid(sent_id(URI_MID), mid.unwrap_or(""));
        map
    }

    /// Carries elements of the received id `from` under `to`; 0 leaves them out. Ids above 31 are not carried.
    pub fn carry(&mut self, from: u8, to: u8) {
        if let (1.., Some(entry)) = (from, self.ids.get_mut(usize::from(from))) {
            *entry = to;
        }
        self.carries = self.ids.iter().any(|id| *id != 0);
        self.two_byte |= to > 14;
    }

    fn set_mid(&mut self, id: u8, mid: &str) {
        if id == 0 || mid.is_empty() || mid.len() > MID_BYTES_MAX {
            return;
        }
        self.mid[..mid.len()].copy_from_slice(mid.as_bytes());
        (self.mid_id, self.mid_len) = (id, mid.len() as u8);
        self.two_byte |= id > 14;
    }

    /// The sent id for a received one.
    #[inline]
    fn target(&self, id: u8) -> Option<u8> {
        self.ids.get(usize::from(id)).copied().filter(|target| *target != 0)
    }

    /// Bytes of our own elements at most.
    #[inline]
    fn own_bytes_max(&self) -> usize {
        let mid = if self.mid_id == 0 { 0 } else { 2 + usize::from(self.mid_len) };
        let time = if self.abs_send_time_id == 0 { 0 } else { 2 + ABS_SEND_TIME_BYTES };
        mid + time
    }

    /// Upper bound of the header length that [`write_header`] returns for a packet with this header.
    #[inline]
    pub fn header_len_max(&self, header: &RtpHeader) -> usize {
        let fixed = FIXED_HEADER_BYTES + 4 * usize::from(header.csrc_count);
        let carried = match header.ext {
            // From the one-byte to the two-byte form an element grows by one byte, at most from two to three.
            Some(ext) if self.carries && self.two_byte => usize::from(ext.len) * 3 / 2,
            Some(ext) if self.carries => usize::from(ext.len),
            _ => 0,
        };
        match carried + self.own_bytes_max() {
            0 => fixed,
            bytes => fixed + 4 + bytes.next_multiple_of(4),
        }
    }
}

/// Where the payload of an unprotected packet lies, without header and padding.
///
/// # Errors
/// `RtpMalformed` when the padding does not fit.
#[inline]
pub fn payload_range(header: &RtpHeader, plaintext: &[u8]) -> Result<Range<usize>, DropReason> {
    let end = plaintext.len() - header.padding_len(plaintext)?;
    if header.header_len <= end { Ok(header.header_len..end) } else { Err(DropReason::RtpMalformed) }
}

/// Writes the header of an outgoing packet to the front of `out` and returns its length.
///
/// `fields`: what [`Egress`](crate::forward::egress::Egress) made of the received header. `header` and `packet`: as
/// received; the CSRC list and extension elements are taken from there. `stamp`: the time to write as abs-send-time:
/// the packet's arrival here, or now when it is sent by RTX.
/// # Errors
/// `NoSpace` when `out` is shorter than [`ExtensionMap::header_len_max`].
#[inline]
pub fn write_header(
    fields: &HeaderFields,
    map: &ExtensionMap,
    header: &RtpHeader,
    packet: &[u8],
    stamp: Timestamp,
    out: &mut [u8],
) -> Result<usize, WriteError> {
    let header_len = fields.write(out, header.csrc_bytes(packet))?;
    let carries = map.carries && header.ext.is_some();
    if !carries && map.mid_id == 0 && map.abs_send_time_id == 0 {
        return Ok(header_len);
    }
    write_extensions(map, header, packet, stamp, out, header_len)
}

fn write_extensions(
    map: &ExtensionMap,
    header: &RtpHeader,
    packet: &[u8],
    stamp: Timestamp,
    out: &mut [u8],
    header_len: usize,
) -> Result<usize, WriteError> {
    let mut block = ExtWriter::new(out, header_len, form(map, header, packet))?;
    if map.mid_id != 0 {
        block.push(map.mid_id, &map.mid[..usize::from(map.mid_len)])?;
    }
    if map.abs_send_time_id != 0 {
        block.push(map.abs_send_time_id, &abs_send_time(stamp))?;
    }
    if map.carries {
        for (id, value) in elements(header, packet) {
            if let Some(target) = map.target(id) {
                block.push(target, value)?;
            }
        }
    }
    block.finish()
}

/// The one-byte form unless an element does not fit it.
#[inline]
fn form(map: &ExtensionMap, header: &RtpHeader, packet: &[u8]) -> Form {
    let received = header.ext.and_then(|ext| Form::of_profile(ext.profile));
    if !map.two_byte && received != Some(Form::TwoByte) {
        return Form::OneByte;
    }
    let own_fit = map.mid_id <= 14 && map.abs_send_time_id <= 14;
    let carried_fit = elements(header, packet)
        .all(|(id, value)| map.target(id).is_none_or(|target| Form::OneByte.fits(target, value.len())));
    if own_fit && carried_fit { Form::OneByte } else { Form::TwoByte }
}

/// `at` as 6.18 fixed point seconds, modulo 64 s.
fn abs_send_time(at: Timestamp) -> [u8; ABS_SEND_TIME_BYTES] {
    let fixed = (u128::from(at.0) << 18) / 1_000_000_000;
    let [.., high, middle, low] = (fixed as u32).to_be_bytes();
    [high, middle, low]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::{PayloadType, SeqNo, Ssrc};
    use crate::wire::rtp_ext;

    const FIELDS: HeaderFields = HeaderFields {
        marker: true,
        padding: false,
        payload_type: PayloadType(101),
        seq: SeqNo(7),
        timestamp: 9,
        ssrc: Ssrc(11),
    };

    fn extensions(list: &[(u8, &str)]) -> Vec<HeaderExtension> {
        list.iter().map(|(id, uri)| HeaderExtension { id: *id, uri: (*uri).to_owned() }).collect()
    }

    /// A received packet with `csrcs` CSRCs, the extension elements and a payload of four bytes.
    fn packet(csrcs: usize, form: Form, list: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let fields =
            HeaderFields { seq: SeqNo(1000), payload_type: PayloadType(96), ssrc: Ssrc(1), ..FIELDS };
        let mut bytes = vec![0; 2048];
        let len = fields.write(&mut bytes, &vec![0xc5; 4 * csrcs]).unwrap();
        let mut block = ExtWriter::new(&mut bytes, len, form).unwrap();
        for (id, value) in list {
            block.push(*id, value).unwrap();
        }
        let len = block.finish().unwrap();
        bytes[len..len + 4].copy_from_slice(&[1, 2, 3, 4]);
        bytes.truncate(len + 4);
        bytes
    }

    fn rewritten(map: &ExtensionMap, packet: &[u8], stamp: Timestamp) -> (RtpHeader, Vec<u8>) {
        let header = RtpHeader::parse(packet).unwrap();
        let mut out = vec![0xee; map.header_len_max(&header)];
        let len = write_header(&FIELDS, map, &header, packet, stamp, &mut out).unwrap();
        out.truncate(len);
        (RtpHeader::parse(&out).unwrap(), out)
    }

    fn read(map: &ExtensionMap, packet: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let (header, out) = rewritten(map, packet, Timestamp::ZERO);
        elements(&header, &out).map(|(id, value)| (id, value.to_vec())).collect()
    }

    #[test]
    fn negotiation_pairs_by_uri_and_ends_what_is_hop_by_hop() {
        let publisher = extensions(&[
            (1, URI_AUDIO_LEVEL),
            (2, URI_ABS_SEND_TIME),
            (3, URI_TRANSPORT_WIDE_CC),
            (4, URI_MID),
            (5, "urn:3gpp:video-orientation"),
            (6, URI_RID),
        ]);
        let subscriber = extensions(&[
            (10, URI_MID),
            (11, URI_AUDIO_LEVEL),
            (12, URI_TRANSPORT_WIDE_CC),
            (13, URI_ABS_SEND_TIME),
            (14, URI_RID),
        ]);
        let map = ExtensionMap::negotiate(&publisher, &subscriber, Some("v1"));
        let received: Vec<_> = (1..=6).map(|id| (id, vec![id, id, id])).collect();
        assert_eq!(
            read(&map, &packet(0, Form::OneByte, &received)),
            [(10, b"v1".to_vec()), (13, vec![0; 3]), (11, vec![1; 3])]
        );
        // Without MID value, without abs-send-time: only the level.
        let map = ExtensionMap::negotiate(&publisher, &subscriber[1..3], None);
        assert_eq!(read(&map, &packet(0, Form::OneByte, &received)), [(11, vec![1; 3])]);
    }

    #[test]
    fn no_extension_is_twelve_bytes() {
        let map = ExtensionMap::default();
        let plain = packet(0, Form::OneByte, &[]);
        let (_, out) = rewritten(&map, &plain, Timestamp::ZERO);
        assert_eq!(out, [0x80, 0x80 | 101, 0, 7, 0, 0, 0, 9, 0, 0, 0, 11]);
        // Nothing carried: the received block goes away and the bound is exact.
        let extended = packet(0, Form::OneByte, &[(1, vec![1])]);
        assert_eq!(map.header_len_max(&RtpHeader::parse(&extended).unwrap()), 12);
        assert_eq!(rewritten(&map, &extended, Timestamp::ZERO).1, out);
    }

    #[test]
    fn csrcs_stay_and_padding_goes() {
        let mut map = ExtensionMap::default();
        map.carry(1, 2);
        let mut received = packet(2, Form::OneByte, &[(1, vec![9])]);
        received[0] |= 1 << 5;
        received.extend([0, 0, 3]);
        let header = RtpHeader::parse(&received).unwrap();
        assert_eq!(payload_range(&header, &received), Ok(28..32));
        let (sent, out) = rewritten(&map, &received, Timestamp::ZERO);
        assert_eq!((sent.csrc_count, sent.padding, sent.header_len), (2, false, 28));
        assert_eq!(sent.csrc_bytes(&out), [0xc5; 8]);
        *received.last_mut().unwrap() = 8;
        assert_eq!(payload_range(&header, &received), Err(DropReason::RtpMalformed));
    }

    #[test]
    fn two_byte_form_only_when_needed() {
        let long = vec![5; 20];
        // (carry, received form, received, sent profile)
        type Elements<'a> = &'a [(u8, &'a [u8])];
        let cases: &[((u8, u8), Form, Elements, u16)] = &[
            ((1, 14), Form::OneByte, &[(1, &[1])], rtp_ext::ONE_BYTE_PROFILE),
            ((1, 15), Form::OneByte, &[(1, &[1])], rtp_ext::TWO_BYTE_PROFILE),
            ((1, 2), Form::TwoByte, &[(1, &[1])], rtp_ext::ONE_BYTE_PROFILE),
            ((1, 2), Form::TwoByte, &[(1, &[])], rtp_ext::TWO_BYTE_PROFILE),
            ((1, 2), Form::TwoByte, &[(1, &long)], rtp_ext::TWO_BYTE_PROFILE),
            ((20, 2), Form::TwoByte, &[(20, &[1]), (1, &long)], rtp_ext::ONE_BYTE_PROFILE),
        ];
        for ((from, to), form, list, profile) in cases {
            let mut map = ExtensionMap::default();
            map.carry(*from, *to);
            let list: Vec<_> = list.iter().map(|(id, value)| (*id, value.to_vec())).collect();
            let (header, _) = rewritten(&map, &packet(0, *form, &list), Timestamp::ZERO);
            assert_eq!(header.ext.unwrap().profile, *profile, "{from} to {to}, {list:?}");
        }
    }

    #[test]
    fn send_time_is_fixed_point_and_wraps() {
        for (at, expected) in [
            (Timestamp::ZERO, 0),
            (Timestamp::from_millis(1), 262),
            (Timestamp::from_millis(1_000), 1 << 18),
            (Timestamp::from_millis(64_500), 1 << 17),
        ] {
            assert_eq!(rtp_ext::abs_send_time(&abs_send_time(at)), Some(expected), "{at:?}");
        }
    }

    #[test]
    fn odd_input_of_negotiation() {
        let mut map = ExtensionMap::default();
        map.carry(0, 5);
        map.carry(32, 5);
        assert_eq!(map, ExtensionMap::default());
        let mid = extensions(&[(1, URI_MID)]);
        for value in ["", "seventeen-bytes-x"] {
            assert_eq!(ExtensionMap::negotiate(&[], &mid, Some(value)), ExtensionMap::default(), "{value}");
        }
    }

    fn any_packet() -> impl Strategy<Value = Vec<u8>> {
        let one = prop::collection::vec((1u8..15, prop::collection::vec(any::<u8>(), 1..17)), 0..8);
        let two = prop::collection::vec((1u8..=255, prop::collection::vec(any::<u8>(), 0..40)), 0..8);
        let block = prop_oneof![one.prop_map(|l| (Form::OneByte, l)), two.prop_map(|l| (Form::TwoByte, l))];
        (0usize..16, block).prop_map(|(csrcs, (form, list))| packet(csrcs, form, &list))
    }

    proptest! {
        /// The bound holds, mapped elements arrive whole and in order, and nothing else does.
        #[test]
        fn carries_what_is_mapped(received in any_packet(), ids: [u8; IDS], low: bool, mid in 0usize..17, own: [u8; 2]) {
            let mut map = ExtensionMap::default();
            let limit = |id: u8| if low { id % 15 } else { id };
            for (from, to) in ids.iter().enumerate() {
                map.carry(from as u8, limit(*to));
            }
            map.set_mid(limit(own[0]), &"m".repeat(mid));
            map.abs_send_time_id = limit(own[1]);
            map.two_byte |= map.abs_send_time_id > 14;

            let header = RtpHeader::parse(&received).unwrap();
            let mut expected = Vec::new();
            if map.mid_id != 0 {
                expected.push((map.mid_id, vec![b'm'; mid]));
            }
            if map.abs_send_time_id != 0 {
                expected.push((map.abs_send_time_id, vec![4, 0, 0]));
            }
            for (id, value) in elements(&header, &received) {
                let to = ids.get(usize::from(id)).map_or(0, |to| limit(*to));
                if to != 0 {
                    expected.push((to, value.to_vec()));
                }
            }
            let (sent, out) = rewritten(&map, &received, Timestamp::from_millis(1_000));
            let found: Vec<_> = elements(&sent, &out).map(|(id, value)| (id, value.to_vec())).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(sent.fields(), FIELDS);
            prop_assert_eq!(sent.csrc_bytes(&out), header.csrc_bytes(&received));
            prop_assert_eq!(sent.header_len, out.len());
        }
    }
}

//! RTP headers (RFC 3550 §5.1) with one-byte extensions (RFC 8285), and VP8's payload format (RFC 7741).

/// Bytes of the fixed header.
pub(crate) const FIXED_HEADER: usize = 12;
/// Largest RTP packet before protection; libwebrtc's limit.
pub(crate) const PACKET_MAX: usize = 1200;
/// Bytes of the VP8 payload descriptor that we write: extended, 15-bit picture id.
pub(crate) const VP8_DESCRIPTOR: usize = 4;

/// The fields of a received header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_type: u8,
    pub(crate) marker: bool,
    pub(crate) padding: bool,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    /// Bytes of the whole header, CSRCs and extensions included.
    pub(crate) length: usize,
}

/// Reads a header; `None` when the packet is too short for it.
pub(crate) fn read(packet: &[u8]) -> Option<Header> {
    if packet.len() < FIXED_HEADER || packet[0] >> 6 != 2 {
        return None;
    }
    let mut length = FIXED_HEADER + 4 * usize::from(packet[0] & 0x0F);
    if packet[0] & 0x10 != 0 {
        let words = packet.get(length + 2..length + 4)?;
        length += 4 + 4 * usize::from(u16::from_be_bytes([words[0], words[1]]));
    }
    (packet.len() >= length).then(|| Header {
        payload_type: packet[1] & 0x7F,
        marker: packet[1] & 0x80 != 0,
        padding: packet[0] & 0x20 != 0,
        sequence: u16::from_be_bytes([packet[2], packet[3]]),
        timestamp: u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]),
        ssrc: u32::from_be_bytes([packet[8], packet[9], packet[10], packet[11]]),
        length,
    })
}

/// A one-byte header extension to write; at most 16 bytes.
pub(crate) struct Extension<'a> {
    pub(crate) id: u8,
    pub(crate) value: &'a [u8],
}

/// Appends a header; its length.
pub(crate) fn write(out: &mut Vec<u8>, header: &Header, extensions: &[Extension<'_>]) -> usize {
    let start = out.len();
    let has_extensions = !extensions.is_empty();
    out.push(0x80 | if has_extensions { 0x10 } else { 0 });
    out.push(header.payload_type | if header.marker { 0x80 } else { 0 });
    out.extend_from_slice(&header.sequence.to_be_bytes());
    out.extend_from_slice(&header.timestamp.to_be_bytes());
    out.extend_from_slice(&header.ssrc.to_be_bytes());
    if has_extensions {
        out.extend_from_slice(&[0xBE, 0xDE, 0, 0]);
        let first = out.len();
        for extension in extensions {
            out.push(extension.id << 4 | (extension.value.len() as u8).saturating_sub(1));
            out.extend_from_slice(extension.value);
        }
        out.resize(first + (out.len() - first).next_multiple_of(4), 0);
        let words = ((out.len() - first) / 4) as u16;
        out[first - 2..first].copy_from_slice(&words.to_be_bytes());
    }
    out.len() - start
}

/// Sizes of the fragments of a frame, none above `max`: as equal as they can be, the larger ones last. This is how
/// libwebrtc cuts, so consecutive packets of a frame often differ by one byte.
pub(crate) fn split(frame: usize, max: usize) -> impl Iterator<Item = usize> {
    let count = frame.div_ceil(max).max(1);
    let (size, larger) = (frame / count, frame % count);
    (0..count).map(move |index| if index >= count - larger { size + 1 } else { size })
}

/// VP8 payload descriptor (RFC 7741 §4.2) with a 15-bit picture id.
pub(crate) fn vp8_descriptor(starts_frame: bool, picture: u16) -> [u8; VP8_DESCRIPTOR] {
    let [high, low] = (picture & 0x7FFF).to_be_bytes();
    [if starts_frame { 0x90 } else { 0x80 }, 0x80, 0x80 | high, low]
}

/// Length of a VP8 payload descriptor, and whether a frame starts here.
pub(crate) fn read_vp8_descriptor(payload: &[u8]) -> Option<(usize, bool)> {
    let first = *payload.first()?;
    let starts_frame = first & 0x10 != 0 && first & 0x0F == 0;
    let mut length = 1;
    if first & 0x80 != 0 {
        let flags = *payload.get(1)?;
        length += 1;
        if flags & 0x80 != 0 {
            length += if payload.get(length)? & 0x80 != 0 { 2 } else { 1 };
        }
        length += usize::from(flags & 0x40 != 0) + usize::from(flags & 0x30 != 0);
    }
    (length <= payload.len()).then_some((length, starts_frame))
}

/// Whether a VP8 frame that starts here is a key frame (RFC 6386 §9.1).
pub(crate) fn vp8_is_key(frame: &[u8]) -> bool {
    frame.first().is_some_and(|byte| byte & 1 == 0)
}

/// Extends 16-bit sequence numbers, forwards and a little backwards (RFC 3711 §3.3.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extender {
    highest: u64,
}

impl Extender {
    /// Starts at the first number seen. The count begins at one cycle, so that numbers before the first have a place.
    pub(crate) fn starting_at(sequence: u16) -> Extender {
        Extender { highest: u64::from(sequence) }
    }

    /// Highest extended number so far.
    pub(crate) fn highest(&self) -> u64 {
        self.highest
    }

    /// The extended number of `sequence`; remembers it when it is the highest.
    pub(crate) fn extend(&mut self, sequence: u16) -> u64 {
        let ahead = sequence.wrapping_sub(self.highest as u16);
        if ahead < 0x8000 {
            self.highest += u64::from(ahead);
            self.highest
        } else {
            self.highest.saturating_sub(u64::from(ahead.wrapping_neg()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            payload_type: 96,
            marker: true,
            padding: false,
            sequence: 65_535,
            timestamp: 0x0102_0304,
            ssrc: 0xA0B0_C0D0,
            length: 0,
        }
    }

    #[test]
    fn headers_come_back_as_written() {
        for extensions in [&[][..], &[(3, &[1, 2][..]), (1, &[9][..])][..]] {
            let list: Vec<_> = extensions.iter().map(|(id, value)| Extension { id: *id, value }).collect();
            let mut out = vec![0xFF; 5];
            let length = write(&mut out, &header(), &list);
            assert_eq!(length % 4, 0);
            assert_eq!(read(&out[5..]), Some(Header { length, ..header() }));
            assert_eq!(read(&out[5..5 + length - 1]), None);
        }
        assert_eq!(read(&[0; 20]), None);
    }

    #[test]
    fn fragments_are_equal_to_a_byte_and_the_larger_ones_come_last() {
        let cases: &[(usize, usize, &[usize])] = &[
            (10, 1200, &[10]),
            (0, 1200, &[0]),
            (1200, 1200, &[1200]),
            (3301, 1180, &[1100, 1100, 1101]),
            (3302, 1180, &[1100, 1101, 1101]),
            (3300, 1180, &[1100, 1100, 1100]),
        ];
        for (frame, max, sizes) in cases {
            assert_eq!(split(*frame, *max).collect::<Vec<_>>(), *sizes, "{frame}");
        }
    }

    #[test]
    fn descriptors() {
        assert_eq!(read_vp8_descriptor(&vp8_descriptor(true, 0x1234)), Some((4, true)));
        assert_eq!(read_vp8_descriptor(&vp8_descriptor(false, 7)), Some((4, false)));
        assert_eq!(read_vp8_descriptor(&[0x10, 0]), Some((1, true)));
        assert_eq!(read_vp8_descriptor(&[0x90, 0xF0, 0x81, 0x02, 0, 0]), Some((6, true)));
        assert_eq!(read_vp8_descriptor(&[0x90, 0xF0, 0x81, 0x02, 0]), None);
        assert_eq!(read_vp8_descriptor(&[]), None);
    }

    #[test]
    fn sequence_numbers_are_extended_over_the_wrap_and_back() {
        let mut extender = Extender::starting_at(65_534);
        let seen: Vec<u64> =
            [65_534, 0, 65_535, 1, 65_533].map(|sequence| extender.extend(sequence)).to_vec();
        assert_eq!(seen, [65_534, 65_536, 65_535, 65_537, 65_533]);
        assert_eq!(extender.highest(), 65_537);
        assert_eq!(Extender::starting_at(3).extend(65_535), 0, "before the first there is nothing");
    }
}

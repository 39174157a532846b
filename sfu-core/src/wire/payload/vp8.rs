//! VP8 (RFC 7741 §4.2, §4.3).
//!
//! ```text
//! |X|R|N|S|R| PID |     X: extension follows; N: not a reference; S: starts a partition; PID: which one
//! |I|L|T|K| RSV   |     with X
//! |M| PictureID   |     with I; with M two bytes, 15 bits
//! |   TL0PICIDX   |     with L
//! |TID|Y| KEYIDX  |     with T or K
//! |Size0|H| VER |P|     first byte of the frame, when S is set and PID is 0; P = 0: key frame
//! ```
#![forbid(unsafe_code)]

/// The payload descriptor. Offsets count from the start of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// First packet of the frame: S is set and the partition is 0.
    pub starts_frame: bool,
    /// No other frame refers to this one.
    pub non_reference: bool,
    /// Picture number, 7 or 15 bits.
    pub picture_id: Option<PictureId>,
    /// Running number of base-layer frames, and where it lies.
    pub tl0_pic_idx: Option<(u8, usize)>,
    /// Temporal layer, 0..=3.
    pub temporal_id: Option<u8>,
    /// This frame needs nothing but the base layer: switching up is safe here.
    pub layer_sync: bool,
    /// Bytes of the descriptor.
    pub len: usize,
}

/// A picture number as it stands in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PictureId {
    /// Its value.
    pub value: u16,
    /// It has 15 bits (two bytes with the M bit) instead of 7.
    pub long: bool,
    /// Offset of its first byte.
    pub at: usize,
}

impl Descriptor {
    /// Reads the descriptor; `None` when the payload ends within it.
    pub fn parse(payload: &[u8]) -> Option<Descriptor> {
        let &first = payload.first()?;
        let mut descriptor = Descriptor {
            starts_frame: first & 0x17 == 0x10,
            non_reference: first & 0x20 != 0,
            picture_id: None,
            tl0_pic_idx: None,
            temporal_id: None,
            layer_sync: false,
            len: 1,
        };
        if first & 0x80 != 0 {
            descriptor.parse_extension(payload)?;
        }
        Some(descriptor)
    }

    fn parse_extension(&mut self, payload: &[u8]) -> Option<()> {
        let &flags = payload.get(1)?;
        self.len = 2;
        if flags & 0x80 != 0 {
            let picture_id = read_picture_id(payload, self.len)?;
            self.len += if picture_id.long { 2 } else { 1 };
            self.picture_id = Some(picture_id);
        }
        if flags & 0x40 != 0 {
            self.tl0_pic_idx = Some((*payload.get(self.len)?, self.len));
            self.len += 1;
        }
        if flags & 0x30 != 0 {
            let &layer = payload.get(self.len)?;
            self.len += 1;
            if flags & 0x20 != 0 {
                self.temporal_id = Some(layer >> 6);
                self.layer_sync = layer & 0x20 != 0;
            }
        }
        Some(())
    }
}

/// A picture number of 7 or 15 bits; VP9 writes it the same way.
pub(super) fn read_picture_id(payload: &[u8], at: usize) -> Option<PictureId> {
    let &first = payload.get(at)?;
    if first & 0x80 == 0 {
        return Some(PictureId { value: u16::from(first), long: false, at });
    }
    let &second = payload.get(at + 1)?;
    Some(PictureId { value: u16::from_be_bytes([first & 0x7f, second]), long: true, at })
}

/// Whether this packet starts a key frame.
#[inline]
pub fn is_key_frame(payload: &[u8]) -> bool {
    let Some(descriptor) = Descriptor::parse(payload) else { return false };
    descriptor.starts_frame && payload.get(descriptor.len).is_some_and(|first| first & 1 == 0)
}

/// Whether this packet is the first of its frame.
#[inline]
pub fn starts_frame(payload: &[u8]) -> bool {
    Descriptor::parse(payload).is_some_and(|descriptor| descriptor.starts_frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_frames() {
        for (payload, key, starts) in [
            // Without extension: key frame, delta frame, second partition, continuation.
            (&[0x10, 0x50, 0x01][..], true, true),
            (&[0x10, 0x51, 0x01], false, true),
            (&[0x11, 0x50, 0x01], false, false),
            (&[0x00, 0x50, 0x01], false, false),
            (&[0x10], false, true),
            // As Chromium sends: picture ID of 15 bits, TL0PICIDX, layer.
            (&[0x90, 0xe0, 0x81, 0x02, 0x07, 0x20, 0x50], true, true),
            (&[0x90, 0xe0, 0x81, 0x02, 0x07, 0x20, 0x51], false, true),
            (&[0x80, 0xe0, 0x81, 0x02, 0x07, 0x20, 0x50], false, false),
            // Picture ID of 7 bits.
            (&[0x90, 0x80, 0x12, 0x10], true, true),
            // KEYIDX alone.
            (&[0x90, 0x10, 0x05, 0x11], false, true),
            // Ends within the descriptor.
            (&[0x90], false, false),
            (&[0x90, 0xe0, 0x81], false, false),
            (&[0x90, 0xe0, 0x81, 0x02, 0x07], false, false),
        ] {
            assert_eq!((is_key_frame(payload), starts_frame(payload)), (key, starts), "{payload:x?}");
        }
    }

    #[test]
    fn descriptor_fields() {
        let descriptor = Descriptor::parse(&[0xb0, 0xf0, 0x81, 0x02, 0x07, 0xa5, 0x51]).unwrap();
        let expected = Descriptor {
            starts_frame: true,
            non_reference: true,
            picture_id: Some(PictureId { value: 0x102, long: true, at: 2 }),
            tl0_pic_idx: Some((7, 4)),
            temporal_id: Some(2),
            layer_sync: true,
            len: 6,
        };
        assert_eq!(descriptor, expected);
        let short = Descriptor::parse(&[0x80, 0x80, 0x7f]).unwrap();
        assert_eq!(short.picture_id, Some(PictureId { value: 0x7f, long: false, at: 2 }));
        assert_eq!((short.len, short.temporal_id, short.tl0_pic_idx), (3, None, None));
    }

    #[test]
    fn agrees_with_the_rtp_crate() {
        use rtp::codecs::vp8::Vp8Packet;
        use rtp::packetizer::Depacketizer;

        for flags in 0..=255u8 {
            for (first, tail) in [(0x90u8, 0x00u8), (0xb1, 0x81), (0x80, 0x7f)] {
                let payload = [first, flags, 0x83, 0x21, tail, 0x65, 0x50, 0x51, 0x52];
                let ours = Descriptor::parse(&payload).unwrap();
                let mut theirs = Vp8Packet::default();
                let frame = theirs.depacketize(&bytes::Bytes::copy_from_slice(&payload)).unwrap();
                assert_eq!(frame[..], payload[ours.len..], "{payload:x?}");
                assert_eq!(ours.picture_id.map_or(0, |id| id.value), theirs.picture_id);
                assert_eq!(ours.tl0_pic_idx.map_or(0, |(idx, _)| idx), theirs.tl0_pic_idx);
                assert_eq!(ours.temporal_id.unwrap_or(0), theirs.tid);
            }
        }
    }
}

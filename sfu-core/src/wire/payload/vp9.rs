//! VP9 (RFC 9628 §4.2).
//!
//! ```text
//! |I|P|L|F|B|E|V|Z|     P: predicted from earlier pictures; B, E: start and end of a layer frame
//! |M| PictureID   |     with I; with M two bytes, 15 bits
//! | TID |U| SID |D|     with L; temporal and spatial layer, switching up point, depends on the layer below
//! |   TL0PICIDX   |     with L, unless F
//! ```
//!
//! The scalability structure (V) and the reference list (P and F) behind that are not read.
#![forbid(unsafe_code)]

use super::vp8::{PictureId, read_picture_id};

/// The payload descriptor, as far as it is of use to a forwarder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Depends on earlier pictures. A key frame's packets have this clear.
    pub inter_predicted: bool,
    /// First packet of a layer frame.
    pub starts_frame: bool,
    /// Last packet of a layer frame.
    pub ends_frame: bool,
    /// Picture number, 7 or 15 bits, shared by all layers of a picture.
    pub picture_id: Option<PictureId>,
    /// Temporal and spatial layer; `None` stands for a stream without layers.
    pub layer: Option<Layer>,
    /// Running number of base-layer pictures, and where it lies.
    pub tl0_pic_idx: Option<(u8, usize)>,
}

/// Where a packet belongs among the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Temporal layer, 0..=7.
    pub temporal: u8,
    /// Spatial layer, 0..=7.
    pub spatial: u8,
    /// Switching up to this temporal layer is safe here.
    pub switching_up: bool,
    /// Needs the spatial layer below of the same picture.
    pub inter_layer: bool,
}

impl Descriptor {
    /// Reads the descriptor; `None` when the payload ends within it.
    pub fn parse(payload: &[u8]) -> Option<Descriptor> {
        let &first = payload.first()?;
        let mut descriptor = Descriptor {
            inter_predicted: first & 0x40 != 0,
            starts_frame: first & 0x08 != 0,
            ends_frame: first & 0x04 != 0,
            picture_id: None,
            layer: None,
            tl0_pic_idx: None,
        };
        let mut at = 1;
        if first & 0x80 != 0 {
            let picture_id = read_picture_id(payload, at)?;
            at += if picture_id.long { 2 } else { 1 };
            descriptor.picture_id = Some(picture_id);
        }
        if first & 0x20 != 0 {
            let &layer = payload.get(at)?;
            at += 1;
            descriptor.layer = Some(Layer {
                temporal: layer >> 5,
                spatial: layer >> 1 & 7,
                switching_up: layer & 0x10 != 0,
                inter_layer: layer & 1 != 0,
            });
            if first & 0x10 == 0 {
                descriptor.tl0_pic_idx = Some((*payload.get(at)?, at));
            }
        }
        Some(descriptor)
    }

    fn is_base(&self) -> bool {
        self.layer.is_none_or(|layer| layer.spatial == 0)
    }
}

/// Whether this packet starts a key picture: not predicted, on the lowest spatial layer.
#[inline]
pub fn is_key_frame(payload: &[u8]) -> bool {
    Descriptor::parse(payload).is_some_and(|d| d.starts_frame && !d.inter_predicted && d.is_base())
}

/// Whether this packet is the first of its layer frame. A picture of several spatial layers has several such.
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
            (&[0x08, 0][..], true, true),
            (&[0x00, 0], false, false),
            (&[0x48, 0], false, true),
            // As Chromium sends a single layer: 15-bit picture ID, layer byte, TL0PICIDX, structure.
            (&[0xaa, 0x81, 0x02, 0x00, 0x07], true, true),
            (&[0xec, 0x81, 0x03, 0x00, 0x07], false, true),
            // The second spatial layer of the key picture starts a frame, but nobody can start there.
            (&[0xa8, 0x81, 0x02, 0x03, 0x07], false, true),
            // Flexible mode has no TL0PICIDX.
            (&[0xb8, 0x01, 0x00], true, true),
            // Ends within the descriptor.
            (&[0xa8], false, false),
            (&[0xa8, 0x81], false, false),
            (&[0xa8, 0x81, 0x02], false, false),
            (&[0xa8, 0x81, 0x02, 0x00], false, false),
        ] {
            assert_eq!((is_key_frame(payload), starts_frame(payload)), (key, starts), "{payload:x?}");
        }
    }

    #[test]
    fn descriptor_fields() {
        let descriptor = Descriptor::parse(&[0xe4, 0x81, 0x02, 0x53, 0x07]).unwrap();
        let expected = Descriptor {
            inter_predicted: true,
            starts_frame: false,
            ends_frame: true,
            picture_id: Some(PictureId { value: 0x102, long: true, at: 1 }),
            layer: Some(Layer { temporal: 2, spatial: 1, switching_up: true, inter_layer: true }),
            tl0_pic_idx: Some((7, 4)),
        };
        assert_eq!(descriptor, expected);
    }

    #[test]
    fn agrees_with_the_rtp_crate() {
        use rtp::codecs::vp9::Vp9Packet;
        use rtp::packetizer::Depacketizer;

        // Without V, and without P in flexible mode: what follows the bytes we read must not be there.
        for first in (0..=255u8).filter(|first| first & 0x02 == 0 && first & 0x50 != 0x50) {
            let payload = [first, 0x83, 0x21, 0x65, 0x07, 0x50, 0x51];
            let ours = Descriptor::parse(&payload).unwrap();
            let mut theirs = Vp9Packet::default();
            theirs.depacketize(&bytes::Bytes::copy_from_slice(&payload)).unwrap();
            assert_eq!(
                (ours.inter_predicted, ours.starts_frame, ours.ends_frame),
                (theirs.p, theirs.b, theirs.e)
            );
            assert_eq!(ours.picture_id.map_or(0, |id| id.value), theirs.picture_id);
            assert_eq!(ours.layer.map_or(0, |layer| layer.temporal), theirs.tid, "{payload:x?}");
            assert_eq!(ours.layer.map_or(0, |layer| layer.spatial), theirs.sid);
            assert_eq!(ours.tl0_pic_idx.map_or(0, |(idx, _)| idx), theirs.tl0picidx);
        }
    }
}

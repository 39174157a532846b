//! What a forwarder reads of a video payload: where a frame starts, whether it is a key frame, which layer it is on.
//!
//! Everything is looked up in the first bytes; the coded picture itself is not read. A payload that contradicts its
//! format is no key frame and starts nothing, so a stream of such is never forwarded to anyone who waits for one.
#![forbid(unsafe_code)]

pub mod av1;
pub mod h264;
pub mod vp8;
pub mod vp9;

/// A video format whose key frames we can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoFormat {
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184, packetization modes 0 and 1.
    H264,
    /// AV1 RTP payload format 1.0.
    Av1,
}

impl VideoFormat {
    /// The format that SDP calls `name` (any case), without clock rate.
    pub fn of_name(name: &str) -> Option<VideoFormat> {
        let formats = [
            ("VP8", VideoFormat::Vp8),
            ("VP9", VideoFormat::Vp9),
            ("H264", VideoFormat::H264),
            ("AV1", VideoFormat::Av1),
        ];
        formats.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, format)| format)
    }

    /// Whether a decoder that knows nothing can start with the packet that carries `payload` (without RTP padding).
    #[inline]
    pub fn is_key_frame(self, payload: &[u8]) -> bool {
        match self {
            VideoFormat::Vp8 => vp8::is_key_frame(payload),
            VideoFormat::Vp9 => vp9::is_key_frame(payload),
            VideoFormat::H264 => h264::is_key_frame(payload),
            VideoFormat::Av1 => av1::is_key_frame(payload),
        }
    }

    /// Whether `payload` is the first of its frame, as far as the payload alone tells; see the modules.
    #[inline]
    pub fn starts_frame(self, payload: &[u8]) -> bool {
        match self {
            VideoFormat::Vp8 => vp8::starts_frame(payload),
            VideoFormat::Vp9 => vp9::starts_frame(payload),
            VideoFormat::H264 => h264::starts_unit(payload),
            VideoFormat::Av1 => av1::starts_unit(payload),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [VideoFormat; 4] = [VideoFormat::Vp8, VideoFormat::Vp9, VideoFormat::H264, VideoFormat::Av1];

    #[test]
    fn names() {
        for (name, format) in [
            ("vp8", Some(VideoFormat::Vp8)),
            ("VP9", Some(VideoFormat::Vp9)),
            ("H264", Some(VideoFormat::H264)),
            ("av1", Some(VideoFormat::Av1)),
            ("rtx", None),
            ("opus", None),
        ] {
            assert_eq!(VideoFormat::of_name(name), format, "{name}");
        }
    }

    #[test]
    fn nothing_is_no_key_frame() {
        for format in ALL {
            assert!(!format.is_key_frame(&[]) && !format.starts_frame(&[]), "{format:?}");
        }
    }

    proptest! {
        /// Any bytes: no panic, and a key frame starts where its frame starts.
        #[test]
        fn a_key_frame_starts_a_frame(payload in prop::collection::vec(any::<u8>(), 0..1200)) {
            for format in ALL {
                prop_assert!(!format.is_key_frame(&payload) || format.starts_frame(&payload), "{:?}", format);
            }
        }

        /// Cutting a packet short makes no key frame of it. (In H264 and AV1 an aggregate may lose its first unit.)
        #[test]
        fn no_prefix_of_a_delta_frame_is_a_key_frame(payload in prop::collection::vec(any::<u8>(), 1..40)) {
            for format in [VideoFormat::Vp8, VideoFormat::Vp9] {
                if !format.is_key_frame(&payload) {
                    for len in 0..payload.len() {
                        prop_assert!(!format.is_key_frame(&payload[..len]), "{:?} {}", format, len);
                    }
                }
            }
        }
    }
}

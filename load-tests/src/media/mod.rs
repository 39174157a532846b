//! The clip that publishers send: encoded VP8 and Opus, looped.
//!
//! Frames are as the encoder made them; cutting into RTP packets, timestamps, sequence numbers and picture ids are the
//! publisher's (`client/`). A key frame request jumps to the next key frame of the clip, which decodes from there on.

use std::sync::Arc;

/// One encoded video frame.
#[derive(Clone, Debug)]
pub(crate) struct VideoFrame {
    /// Decodes without what was before it.
    pub(crate) key: bool,
    /// The VP8 frame (RFC 6386), without RTP payload descriptor.
    pub(crate) data: Vec<u8>,
}

/// Encoded media of some seconds, shared by all publishers.
#[derive(Clone, Debug)]
pub(crate) struct Clip {
    /// What it is, for reports: size, frame rate, bit rate, where it comes from.
    pub(crate) label: String,
    /// Frames in coding order; the first is a key frame.
    pub(crate) video: Vec<VideoFrame>,
    /// Frames per second.
    pub(crate) video_fps: u32,
    /// Opus packets (RFC 6716) of 20 ms each.
    pub(crate) audio: Vec<Vec<u8>>,
}

impl Clip {
    /// The clip that all runs use.
    ///
    /// # Errors
    /// When the clip cannot be read.
    pub(crate) fn load() -> anyhow::Result<Arc<Clip>> {
        Ok(Arc::new(synthetic()))
    }
}

/// Position in a looped clip's video.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VideoCursor {
    next: usize,
    key_wanted: bool,
}

impl VideoCursor {
    /// A cursor that starts at the key frame at or after `offset` (modulo the clip), so that publishers do not beat in step.
    pub(crate) fn starting_at(clip: &Clip, offset: usize) -> VideoCursor {
        let start = offset % clip.video.len();
        VideoCursor { next: next_key(clip, start), key_wanted: false }
    }

    /// The next frame shall be a key frame.
    pub(crate) fn want_key_frame(&mut self) {
        self.key_wanted = true;
    }

    /// Index of the frame to send now.
    pub(crate) fn advance(&mut self, clip: &Clip) -> usize {
        if std::mem::take(&mut self.key_wanted) {
            self.next = next_key(clip, self.next);
        }
        let index = self.next;
        self.next = (index + 1) % clip.video.len();
        index
    }
}

/// The key frame at or after `start`, past the end from the beginning; frame 0 is one.
fn next_key(clip: &Clip, start: usize) -> usize {
    (start..clip.video.len()).find(|index| clip.video[*index].key).unwrap_or(0)
}

/// Bytes of the shape of a 540x360 clip that no decoder would take: until the encoded one is there.
fn synthetic() -> Clip {
    let mut state = 0x9e37_79b9_u32;
    let mut bytes = |count: usize| -> Vec<u8> {
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect()
    };
    let video = (0..240)
        .map(|index| {
            let key = index % 120 == 0;
            let mut data = bytes(if key { 14_000 } else { 2_900 + index % 7 * 90 });
            data[0] = if key { data[0] & !1 } else { data[0] | 1 };
            VideoFrame { key, data }
        })
        .collect();
    let audio = (0..400).map(|_| bytes(80)).collect();
    Clip { label: "synthetic bytes, not decodable".to_owned(), video, video_fps: 30, audio }
}

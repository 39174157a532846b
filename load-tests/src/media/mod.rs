//! The clip that publishers send: 4 s of encoded VP8 and Opus (`load-tests/media/`), looped without a seam in its numbers.
//!
//! Frames are as the encoder made them; cutting into RTP packets, timestamps, sequence numbers and picture ids are the
//! clients'. A key frame request jumps to the next key frame of the clip, which decodes from there on.

mod container;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

const PICTURE: &[u8] = include_bytes!("../../media/picture.ivf");
const TONE: &[u8] = include_bytes!("../../media/tone.opus");
/// Opus packets per second.
const AUDIO_RATE: usize = 50;

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
    /// What it is, for reports: size, frame rate, bit rate.
    pub(crate) label: String,
    /// Frames in coding order; the first is a key frame.
    pub(crate) video: Vec<VideoFrame>,
    /// Frames per second.
    pub(crate) video_fps: u32,
    /// Opus packets (RFC 6716) of 20 ms each, as long as the picture.
    pub(crate) audio: Vec<Vec<u8>>,
}

impl Clip {
    /// The clip that all runs use.
    ///
    /// # Errors
    /// When the files it was built with are not what `media/make.sh` writes.
    pub(crate) fn load() -> Result<Arc<Clip>> {
        let picture = container::read_ivf(PICTURE).context("media/picture.ivf")?;
        let mut audio = container::read_opus(TONE).context("media/tone.opus")?;
        let fps = picture.fps;
        let video: Vec<_> =
            picture.frames.into_iter().map(|data| VideoFrame { key: is_key_frame(&data), data }).collect();
        ensure!(
            video.first().is_some_and(|frame| frame.key),
            "media/picture.ivf does not begin with a key frame"
        );
        // The encoder's last packets only flush it.
        audio.truncate(video.len() * AUDIO_RATE / fps as usize);
        ensure!(!audio.is_empty(), "media/tone.opus is empty");
        let mut clip = Clip { label: String::new(), video, video_fps: fps, audio };
        clip.label = format!(
            "VP8 {}x{} {fps} fps {} kbit/s, Opus 20 ms",
            picture.width,
            picture.height,
            clip.video_bits_per_s() / 1000
        );
        Ok(Arc::new(clip))
    }

    /// Mean rate of the coded picture.
    fn video_bits_per_s(&self) -> u64 {
        let bytes: u64 = self.video.iter().map(|frame| frame.data.len() as u64).sum();
        bytes * 8 * u64::from(self.video_fps) / self.video.len() as u64
    }
}

/// The frame tag's first bit (RFC 6386 §9.1).
fn is_key_frame(frame: &[u8]) -> bool {
    frame.first().is_some_and(|byte| byte & 1 == 0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_clip_is_what_the_docs_say() {
        let clip = Clip::load().expect("the shipped clip");
        let keys: Vec<_> = (0..clip.video.len()).filter(|index| clip.video[*index].key).collect();
        assert_eq!((clip.video.len(), clip.video_fps, keys, clip.audio.len()), (120, 30, vec![0, 60], 200));
        assert!((700_000..900_000).contains(&clip.video_bits_per_s()), "{}", clip.video_bits_per_s());
        assert!(clip.label.starts_with("VP8 540x360 30 fps"), "{}", clip.label);
        assert!(clip.audio.iter().all(|packet| (30..200).contains(&packet.len())));
    }

    #[test]
    fn a_cursor_starts_and_restarts_at_key_frames() {
        let clip = Clip::load().expect("the shipped clip");
        for (offset, first) in [(0, 0), (1, 60), (60, 60), (61, 0), (119, 0), (121, 60)] {
            let mut cursor = VideoCursor::starting_at(&clip, offset);
            assert_eq!(cursor.advance(&clip), first, "{offset}");
            assert_eq!(cursor.advance(&clip), first + 1);
            cursor.want_key_frame();
            assert_eq!(cursor.advance(&clip), 60 - first);
        }
    }
}

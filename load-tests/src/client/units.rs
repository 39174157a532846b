//! What the publishers' packets carry, numbered, so that a receiver can tell from a decrypted payload when it was sent.
//!
//! A *unit* is one fragment of a video frame or one audio packet of the clip. Servers rewrite SSRC, sequence number, timestamp
//! and picture id, but not the media: the payload's end names the unit. Each publisher notes when it last sent each unit,
//! and the clip is longer than any delay, so the last time is the right one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::rtp::{PACKET_MAX, VP8_DESCRIPTOR, split};
use crate::media::Clip;

/// Room in a packet for RTP header, extensions and payload descriptor; the same in all packets, so that fragments are too.
const HEADER_ROOM: usize = 32 + VP8_DESCRIPTOR;
/// Payload bytes that name a unit.
const NAME_BYTES: usize = 16;

/// The clip cut into units.
pub(crate) struct Units {
    pub(crate) clip: Arc<Clip>,
    /// Per frame: number of its first unit, and its fragments.
    frames: Vec<(u32, Vec<Range<usize>>)>,
    first_audio: u32,
    count: usize,
    by_name: HashMap<u64, u32>,
}

impl Units {
    /// Cuts a clip. Units whose name is not unique (silence repeats itself) are never used to measure.
    pub(crate) fn new(clip: Arc<Clip>) -> Units {
        let mut frames = Vec::with_capacity(clip.video.len());
        let mut names: HashMap<u64, Option<u32>> = HashMap::new();
        let mut count = 0_u32;
        let mut add = |payload: &[u8]| {
            match names.entry(name(payload)) {
                Entry::Vacant(entry) => {
                    entry.insert(Some(count));
                }
                Entry::Occupied(mut entry) => {
                    entry.insert(None);
                }
            }
            count += 1;
            count - 1
        };
        for frame in &clip.video {
            let mut at = 0;
            let fragments: Vec<_> = split(frame.data.len(), PACKET_MAX - HEADER_ROOM)
                .map(|size| {
                    at += size;
                    at - size..at
                })
                .collect();
            let numbers: Vec<_> = fragments.iter().map(|range| add(&frame.data[range.clone()])).collect();
            frames.push((numbers.first().copied().unwrap_or(0), fragments));
        }
        let numbers: Vec<_> = clip.audio.iter().map(|packet| add(packet)).collect();
        let first_audio = numbers.first().copied().unwrap_or(0);
        let by_name = names.into_iter().filter_map(|(name, unit)| Some((name, unit?))).collect();
        Units { clip, frames, first_audio, count: count as usize, by_name }
    }

    /// Fragments of a frame with the number of its first unit.
    pub(crate) fn frame(&self, index: usize) -> (u32, &[Range<usize>]) {
        let (first, fragments) = &self.frames[index];
        (*first, fragments)
    }

    /// Unit number of an audio packet of the clip.
    pub(crate) fn audio(&self, index: usize) -> u32 {
        self.first_audio + index as u32
    }

    /// Which unit a payload (without payload descriptor) is.
    pub(crate) fn find(&self, payload: &[u8]) -> Option<u32> {
        self.by_name.get(&name(payload)).copied()
    }

    /// The first unit of a whole frame, if it is one of the clip, byte for byte.
    pub(crate) fn find_frame(&self, frame: &[u8]) -> Option<u32> {
        let first = split(frame.len(), PACKET_MAX - HEADER_ROOM).next().and_then(|size| frame.get(..size))?;
        let unit = self.find(first)?;
        let index = self.frames.binary_search_by_key(&unit, |(first, _)| *first).ok()?;
        (self.clip.video[index].data == frame).then_some(unit)
    }

    /// A log for a publisher of this clip.
    pub(crate) fn log(&self) -> Arc<SendLog> {
        Arc::new(SendLog { at: (0..self.count).map(|_| AtomicU64::new(0)).collect() })
    }
}

/// FNV-1a over length and end of a payload.
fn name(payload: &[u8]) -> u64 {
    let end = &payload[payload.len().saturating_sub(NAME_BYTES)..];
    let length = (payload.len() as u64).to_le_bytes();
    end.iter().chain(&length).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// When a publisher last sent each unit.
pub(crate) struct SendLog {
    at: Box<[AtomicU64]>,
}

impl SendLog {
    /// Notes that `unit` is sent now, nanoseconds since the epoch.
    pub(crate) fn sent(&self, unit: u32, now_ns: u64) {
        if let Some(at) = self.at.get(unit as usize) {
            at.store(now_ns, Ordering::Relaxed);
        }
    }

    /// Delay of a unit that arrived at `arrival_ns`; `None` if it was not sent before.
    pub(crate) fn delay_ns(&self, unit: u32, arrival_ns: u64) -> Option<u64> {
        let sent = self.at.get(unit as usize)?.load(Ordering::Relaxed);
        (sent != 0).then(|| arrival_ns.checked_sub(sent)).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::VideoFrame;

    fn clip() -> Arc<Clip> {
        let frame = |key, size: usize, seed: u8| VideoFrame {
            key,
            data: (0..size).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect(),
        };
        Arc::new(Clip {
            label: "test".into(),
            video: vec![frame(true, 3000, 1), frame(false, 100, 2)],
            video_fps: 30,
            audio: vec![vec![1; 80], vec![2; 80], vec![1; 80]],
        })
    }

    #[test]
    fn payloads_name_their_unit_and_ambiguous_ones_do_not() {
        let units = Units::new(clip());
        let (first, fragments) = units.frame(0);
        assert_eq!((first, fragments.len()), (0, 3));
        let data = &units.clip.video[0].data;
        assert_eq!(units.find(&data[fragments[2].clone()]), Some(2));
        assert_eq!(units.frame(1).0, 3);
        assert_eq!(units.find(&units.clip.audio[1]), Some(units.audio(1)));
        assert_eq!(units.find(&units.clip.audio[0]), None, "two packets of the clip look like this");
        assert_eq!(units.find(b"something else"), None);
        assert_eq!(units.find_frame(data), Some(0));
        let mut broken = data.clone();
        broken[2_000] ^= 1;
        assert_eq!(units.find_frame(&broken), None);
        assert_eq!(units.find_frame(&[]), None);
    }

    #[test]
    fn delays_are_counted_from_the_last_time_a_unit_was_sent() {
        let log = Units::new(clip()).log();
        assert_eq!(log.delay_ns(2, 100), None);
        log.sent(2, 100);
        log.sent(2, 1_000);
        assert_eq!(log.delay_ns(2, 1_250), Some(250));
        assert_eq!(log.delay_ns(2, 900), None, "it was sent again meanwhile");
        assert_eq!(log.delay_ns(9_999, 900), None);
    }
}

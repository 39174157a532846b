//! A publisher's RTP payloads in time: the clip looped, cut as a browser cuts it, with its own numbers.
//!
//! ```text
//! VP8 payload descriptor (RFC 7741 §4.2), as Chromium sends it for one temporal layer: a 15-bit picture id, no TL0PICIDX
//!   0x90 first packet of a frame, 0x80 others │ 0x80 "I" │ 1ppppppp │ pppppppp │ part of the frame ...
//! ```
//!
//! A frame becomes packets of equal size, give or take one byte (libwebrtc's rule), which leave together as its pacer lets
//! them: a burst of 40 ms worth, the rest (of key frames) at 2.5 times the bit rate. No clock in here, no allocation.

use std::sync::Arc;
use std::time::Duration;

use super::{Clip, VideoCursor};

/// Longest RTP payload, descriptor included: with header, extensions and SRTP tag the datagram stays under 1200 bytes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1160;
const DESCRIPTOR_BYTES: usize = 4;
/// What the pacer sends at once, in time at its rate.
const BURST: Duration = Duration::from_millis(40);
/// The pacer's rate as a multiple of the media's, in tenths.
const PACING_TENTHS: u64 = 25;
/// Ticks of the Opus clock (RFC 7587) per packet of 20 ms.
const OPUS_TICKS: u32 = 960;
const OPUS_INTERVAL: Duration = Duration::from_millis(20);
const VIDEO_CLOCK: u32 = 90_000;
const AUDIO_CLOCK: u32 = 48_000;

/// Which of a publisher's two RTP streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    /// Opus.
    Audio,
    /// VP8.
    Video,
}

/// What goes into one RTP packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MediaPacket<'clip> {
    /// Its stream.
    pub(crate) media: Media,
    /// RTP sequence number.
    pub(crate) sequence: u16,
    /// RTP timestamp.
    pub(crate) timestamp: u32,
    /// RTP marker: last packet of a frame.
    pub(crate) marker: bool,
    /// Begins a key frame.
    pub(crate) key_frame_start: bool,
    descriptor: [u8; DESCRIPTOR_BYTES],
    data: &'clip [u8],
}

impl MediaPacket<'_> {
    /// Length of the RTP payload.
    pub(crate) fn payload_bytes(&self) -> usize {
        self.data.len() + if self.media == Media::Video { DESCRIPTOR_BYTES } else { 0 }
    }

    /// Writes the RTP payload to the front of `out`, at least [`Self::payload_bytes`] long, and returns its length.
    pub(crate) fn write_payload(&self, out: &mut [u8]) -> usize {
        let total = self.payload_bytes();
        let head = total - self.data.len();
        out[..head].copy_from_slice(&self.descriptor[..head]);
        out[head..total].copy_from_slice(self.data);
        total
    }
}

/// One publisher's media. Times are those of its caller's clock, whatever its zero.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    clip: Arc<Clip>,
    video: VideoTrack,
    audio: AudioTrack,
    start: Duration,
}

#[derive(Clone, Debug)]
struct VideoTrack {
    cursor: VideoCursor,
    /// Index in the clip of the frame being sent.
    frame: usize,
    /// How often a frame began.
    frames: u64,
    /// Packets of `frame` that are sent, and how many it has.
    sent: usize,
    packets: usize,
    offset: usize,
    sequence: u16,
    picture_id: u16,
    timestamp_base: u32,
}

#[derive(Clone, Debug)]
struct AudioTrack {
    index: usize,
    packets: u64,
    sequence: u16,
    timestamp_base: u32,
}

impl Publication {
    /// Media that starts at `start`. `seed` gives first numbers, the place in the clip, and a phase under one frame's time, so
    /// that publishers do not beat in step.
    pub(crate) fn new(clip: Arc<Clip>, seed: u64, start: Duration) -> Publication {
        let mut random = SplitMix(seed);
        let frame_ns = 1_000_000_000 / u64::from(clip.video_fps);
        let start = start + Duration::from_nanos(random.next() % frame_ns);
        let mut cursor = VideoCursor::starting_at(&clip, random.below(clip.video.len()));
        let frame = cursor.advance(&clip);
        let video = VideoTrack {
            cursor,
            frame,
            frames: 0,
            sent: 0,
            packets: packets_of(clip.video[frame].data.len()),
            offset: 0,
            sequence: random.u16() & 0x7fff,
            picture_id: random.u16() & 0x7fff,
            timestamp_base: random.u32(),
        };
        let audio = AudioTrack {
            index: random.below(clip.audio.len()),
            packets: 0,
            sequence: random.u16() & 0x7fff,
            timestamp_base: random.u32(),
        };
        Publication { clip, video, audio, start }
    }

    /// When the next packet is to leave.
    pub(crate) fn next_due(&self) -> Duration {
        self.video_due().min(self.audio_due())
    }

    /// The next packet, when its time has come; to be called until it gives none.
    pub(crate) fn poll(&mut self, now: Duration) -> Option<MediaPacket<'_>> {
        let (video, audio) = (self.video_due(), self.audio_due());
        if video.min(audio) > now {
            return None;
        }
        Some(if audio <= video { self.audio.next(&self.clip) } else { self.video.next(&self.clip) })
    }

    /// The next frame shall be a key frame (PLI, FIR).
    pub(crate) fn want_key_frame(&mut self) {
        self.video.cursor.want_key_frame();
    }

    /// RTP timestamp of `now` on a stream's clock, for sender reports.
    pub(crate) fn rtp_time(&self, media: Media, now: Duration) -> u32 {
        let (base, clock) = match media {
            Media::Audio => (self.audio.timestamp_base, AUDIO_CLOCK),
            Media::Video => (self.video.timestamp_base, VIDEO_CLOCK),
        };
        let ticks = now.saturating_sub(self.start).as_nanos() * u128::from(clock) / 1_000_000_000;
        base.wrapping_add((ticks & u128::from(u32::MAX)) as u32)
    }

    fn video_due(&self) -> Duration {
        let video = &self.video;
        let frame = Duration::from_nanos(video.frames * 1_000_000_000 / u64::from(self.clip.video_fps));
        self.start + frame + pacing(video.offset, self.clip.video_bits_per_s())
    }

    fn audio_due(&self) -> Duration {
        self.start + Duration::from_nanos(self.audio.packets * OPUS_INTERVAL.as_nanos() as u64)
    }
}

impl VideoTrack {
    fn next<'clip>(&mut self, clip: &'clip Clip) -> MediaPacket<'clip> {
        let frame = &clip.video[self.frame];
        let first = self.sent == 0;
        let length = share_of(frame.data.len(), self.packets, self.sent);
        let [high, low] = self.picture_id.to_be_bytes();
        // The timestamp steps by whole frames: 30 does not divide a second of nanoseconds, but it divides the RTP clock.
        let ticks = self.frames.wrapping_mul(u64::from(VIDEO_CLOCK / clip.video_fps));
        let packet = MediaPacket {
            media: Media::Video,
            sequence: self.sequence,
            timestamp: self.timestamp_base.wrapping_add((ticks & u64::from(u32::MAX)) as u32),
            marker: self.sent + 1 == self.packets,
            key_frame_start: first && frame.key,
            descriptor: [if first { 0x90 } else { 0x80 }, 0x80, 0x80 | high, low],
            data: &frame.data[self.offset..self.offset + length],
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.sent += 1;
        self.offset += length;
        if packet.marker {
            self.begin_frame(clip);
        }
        packet
    }

    fn begin_frame(&mut self, clip: &Clip) {
        self.frame = self.cursor.advance(clip);
        self.frames += 1;
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        self.sent = 0;
        self.offset = 0;
        self.packets = packets_of(clip.video[self.frame].data.len());
    }
}

impl AudioTrack {
    fn next<'clip>(&mut self, clip: &'clip Clip) -> MediaPacket<'clip> {
        let ticks = self.packets.wrapping_mul(u64::from(OPUS_TICKS));
        let packet = MediaPacket {
            media: Media::Audio,
            sequence: self.sequence,
            timestamp: self.timestamp_base.wrapping_add((ticks & u64::from(u32::MAX)) as u32),
            // The first packet of a talk spurt (RFC 3551 §4.1): this publisher never falls silent.
            marker: self.packets == 0,
            key_frame_start: false,
            descriptor: [0; DESCRIPTOR_BYTES],
            data: &clip.audio[self.index],
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.index = (self.index + 1) % clip.audio.len();
        self.packets += 1;
        packet
    }
}

/// How many packets a frame of `bytes` takes.
fn packets_of(bytes: usize) -> usize {
    bytes.div_ceil(PAYLOAD_BYTES_MAX - DESCRIPTOR_BYTES).max(1)
}

/// Bytes of packet `index` of `packets`: all the same, the last ones longer by one where the frame does not divide.
fn share_of(bytes: usize, packets: usize, index: usize) -> usize {
    bytes / packets + usize::from(index >= packets - bytes % packets)
}

/// How long after its frame's time a packet leaves that has `before` bytes of the frame in front of it.
fn pacing(before: usize, media_bits_per_s: u64) -> Duration {
    let bits_per_s = (media_bits_per_s * PACING_TENTHS / 10).max(1);
    let drained = Duration::from_nanos(before as u64 * 8 * 1_000_000_000 / bits_per_s);
    drained.saturating_sub(BURST)
}

/// The generator of Steele, Lea and Flood: a seed gives the same numbers on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn u16(&mut self) -> u16 {
        (self.next() >> 48) as u16
    }

    fn u32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip() -> Arc<Clip> {
        Clip::load().expect("the shipped clip")
    }

    /// Everything that leaves until `end`, with the time it left.
    fn run(publication: &mut Publication, end: Duration) -> Vec<(Duration, Media, u16, u32, bool, Vec<u8>)> {
        let mut sent = Vec::new();
        while publication.next_due() < end {
            let now = publication.next_due();
            while let Some(packet) = publication.poll(now) {
                let mut payload = vec![0; packet.payload_bytes()];
                assert_eq!(packet.write_payload(&mut payload), payload.len());
                sent.push((now, packet.media, packet.sequence, packet.timestamp, packet.marker, payload));
            }
        }
        sent
    }

    #[test]
    fn numbers_stay_continuous_over_the_loop() {
        let mut publication = Publication::new(clip(), 7, Duration::from_secs(5));
        let sent = run(&mut publication, Duration::from_secs(15));
        for media in [Media::Audio, Media::Video] {
            let of: Vec<_> = sent.iter().filter(|packet| packet.1 == media).collect();
            for pair in of.windows(2) {
                assert_eq!(pair[1].2, pair[0].2.wrapping_add(1));
                let step = if media == Media::Audio {
                    960
                } else if pair[0].4 {
                    3000
                } else {
                    0
                };
                assert_eq!(pair[1].3, pair[0].3.wrapping_add(step));
            }
        }
        let frames = sent.iter().filter(|packet| packet.1 == Media::Video && packet.4).count();
        assert!((299..=300).contains(&frames), "{frames}");
        assert_eq!(sent.iter().filter(|packet| packet.1 == Media::Audio).count(), 499 + 1);
    }

    #[test]
    fn frames_are_put_together_again_with_rising_picture_ids() {
        let clip = clip();
        let mut publication = Publication::new(Arc::clone(&clip), 3, Duration::ZERO);
        let (mut frame, mut last_id, mut position) = (Vec::new(), None, None);
        for (_, media, _, _, marker, payload) in run(&mut publication, Duration::from_secs(9)) {
            if media == Media::Audio {
                continue;
            }
            assert!(payload.len() <= PAYLOAD_BYTES_MAX);
            assert_eq!(payload[0], if frame.is_empty() { 0x90 } else { 0x80 });
            assert_eq!((payload[1], payload[2] & 0x80), (0x80, 0x80));
            frame.extend_from_slice(&payload[4..]);
            if !marker {
                continue;
            }
            let id = u16::from_be_bytes([payload[2] & 0x7f, payload[3]]);
            assert!(last_id.is_none_or(|last: u16| id == (last + 1) & 0x7fff));
            last_id = Some(id);
            let at = position.map_or_else(
                || clip.video.iter().position(|one| one.data == frame).expect("a frame of the clip"),
                |last: usize| (last + 1) % clip.video.len(),
            );
            assert!(position.is_some() || clip.video[at].key, "the first frame decodes alone");
            assert!(clip.video[at].data == frame, "frame {at} is whole");
            position = Some(at);
            frame.clear();
        }
    }

    #[test]
    fn the_picture_id_wraps_at_15_bits() {
        let clip = clip();
        let mut publication = Publication::new(Arc::clone(&clip), 1, Duration::ZERO);
        publication.video.picture_id = 0x7fff;
        publication.video.begin_frame(&clip);
        assert_eq!(publication.video.picture_id, 0);
    }

    #[test]
    fn a_key_frame_comes_with_the_next_frame_when_wanted() {
        let mut publication = Publication::new(clip(), 5, Duration::ZERO);
        run(&mut publication, Duration::from_millis(700));
        while publication.video.sent > 0 {
            let now = publication.next_due();
            publication.poll(now);
        }
        publication.want_key_frame();
        // The frame at hand was chosen before; the one after it is the key frame.
        let mut starts = Vec::new();
        while starts.len() < 2 {
            let now = publication.next_due();
            let packet = publication.poll(now).expect("it is due");
            if packet.media == Media::Video && packet.descriptor[0] == 0x90 {
                starts.push(packet.key_frame_start);
            }
        }
        assert_eq!(starts, [false, true]);
    }

    #[test]
    fn sizes_in_a_frame_differ_by_one_at_most() {
        for (bytes, expected) in
            [(1, vec![1]), (1156, vec![1156]), (1157, vec![578, 579]), (3470, vec![867, 867, 868, 868])]
        {
            let packets = packets_of(bytes);
            let sizes: Vec<_> = (0..packets).map(|index| share_of(bytes, packets, index)).collect();
            assert_eq!(sizes, expected);
            assert_eq!(sizes.iter().sum::<usize>(), bytes);
        }
    }

    #[test]
    fn a_frame_leaves_at_once_and_a_key_frame_over_some_time() {
        assert_eq!(pacing(3300, 800_000), Duration::ZERO);
        assert_eq!(pacing(10_000, 800_000), Duration::ZERO);
        assert_eq!(pacing(20_000, 800_000), Duration::from_millis(40));
    }

    #[test]
    fn sender_report_time_is_on_the_packets_clock() {
        let mut publication = Publication::new(clip(), 11, Duration::from_secs(1));
        let first = run(&mut publication, Duration::from_millis(1040));
        for (now, media, _, timestamp, ..) in first {
            let ahead = publication.rtp_time(media, now).wrapping_sub(timestamp);
            assert!(ahead < 3001, "{media:?} {ahead}");
        }
    }
}

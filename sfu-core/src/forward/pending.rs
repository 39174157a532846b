//! Packets of one publication that wait for the drain, and how long audio may wait for a frame to ride behind.
//!
//! ```text
//!            audio, a frame is due soon           video, or the deadline
//! Nothing ───────────────────────────▶ Held ───────────────────────────▶ Listed
//!    │                                                                      ▲ │
//!    └──────────────────────── any other packet ────────────────────────────┘ │
//!    ▲──────────────────────────────── drained ───────────────────────────────┘
//! ```
//!
//! A message to the kernel costs about the same whether it carries one datagram or four, and an audio packet alone is a
//! message to each subscriber. The last segment of a run may be shorter than the rest, so audio behind a frame costs next
//! to nothing. Audio therefore goes out behind the video that waits with it, and a loaded core lets it wait for a frame
//! that is due within the bound it sets. An idle core holds nothing.
//!
//! For the same reason packets are made equal: browsers cut a frame into fragments that differ by a byte, the longer ones last,
//! and a segment longer than those before it begins a new message. [`PendingList::even_out`] says how much RTP padding (RFC 3550
//! §5.1) makes each as long as the one behind it.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::buf::SlotId;
use crate::control::proto::MediaKind;
use crate::forward::seq_map::SourceId;
use crate::ids::ExtSeq;
use crate::time::Timestamp;
use crate::wire::rtp::RtpHeader;

/// Packets of one publication that may wait between two drains: a 4K key frame has about 400.
pub const MAX_PENDING: usize = 1024;

/// Most padding that makes a packet as long as the next, bytes. It is written behind the payload, where the shortest
/// authentication tag (10 bytes) was received.
pub const MAX_PADDING: u16 = 8;

/// Frames further apart than this are no rhythm to wait for.
const INTERVAL_MAX: Duration = Duration::from_millis(70);
/// How late a frame may be and still be waited for.
const LATE_MAX: Duration = Duration::from_millis(4);
/// Weight of a new interval in the average.
const SMOOTHING: u32 = 8;

/// A packet that waits for the drain. Holds one reference to its slot.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// Where the datagram lies.
    pub slot: SlotId,
    /// Offset of the RTP header in the slot.
    pub start: u16,
    /// Its header. A packet that came by RTX has the original's numbers in here.
    pub header: RtpHeader,
    /// Offset of the payload from `start`.
    pub payload_start: u16,
    /// Length of the payload, padding stripped.
    pub payload_len: u16,
    /// When it was received.
    pub arrived: Timestamp,
    /// Audio or video.
    pub kind: MediaKind,
    /// A subscriber can start decoding here. Always true for audio.
    pub key_frame: bool,
    /// Which source the sequence number belongs to; changes with layer and transport.
    pub source: SourceId,
    /// Its extended sequence number in that source.
    pub seq: ExtSeq,
    /// Audio that waits, or waited, for a frame.
    pub held: bool,
    /// Padding behind the payload, bytes, of at most [`MAX_PADDING`].
    pub padding: u8,
}

/// What the packet that was put in means for the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The publication waits for the drain already, or for a frame.
    Waits,
    /// From now on the publication waits for the drain.
    List,
    /// From now on it waits for a frame, no longer than this.
    Hold(Timestamp),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Nothing,
    Held(Timestamp),
    Listed,
}

/// The packets that wait: video first, then audio, each as they came.
#[derive(Debug)]
pub struct PendingList {
    video: Vec<Pending>,
    audio: Vec<Pending>,
    state: State,
}

impl Default for PendingList {
    fn default() -> Self {
        Self { video: Vec::with_capacity(16), audio: Vec::with_capacity(4), state: State::Nothing }
    }
}

impl PendingList {
    /// Whether it takes no more.
    pub fn is_full(&self) -> bool {
        self.video.len() + self.audio.len() == MAX_PENDING
    }

    /// Adds a packet. `hold_until`: how long it may wait for video, if it may.
    ///
    /// # Panics
    /// It is full.
    pub fn put(&mut self, packet: Pending, hold_until: Option<Timestamp>) -> Put {
        assert!(!self.is_full(), "a full list takes no more");
        let video = packet.kind == MediaKind::Video;
        let (state, put) = match (self.state, hold_until) {
            (State::Nothing, Some(until)) if !video => (State::Held(until), Put::Hold(until)),
            (State::Nothing, _) => (State::Listed, Put::List),
            (State::Held(_), _) if video => (State::Listed, Put::List),
            (state, _) => (state, Put::Waits),
        };
        self.state = state;
        let held = matches!(state, State::Held(_));
        if video { &mut self.video } else { &mut self.audio }.push(Pending { held, ..packet });
        put
    }

    /// The wait that was to end at `until` is over. False: it has ended before.
    pub fn end_hold(&mut self, until: Timestamp) -> bool {
        let held = self.state == State::Held(until);
        if held {
            self.state = State::Listed;
        }
        held
    }

    /// The packet at position `at`, in the order they are sent.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Pending> {
        match at.checked_sub(self.video.len()) {
            None => Some(&self.video[at]),
            Some(at) => self.audio.get(at),
        }
    }

    /// Gives video packets that are a little shorter than the one behind them padding, and each of these to `write`.
    /// Calling it again changes nothing.
    pub fn even_out(&mut self, mut write: impl FnMut(&Pending)) {
        let mut wanted = 0;
        for packet in self.video.iter_mut().rev() {
            let missing = wanted.max(packet.payload_len) - packet.payload_len;
            let pads = (1..=MAX_PADDING).contains(&missing) && packet.payload_len > 0;
            packet.padding = if pads { missing as u8 } else { 0 };
            wanted = packet.payload_len + u16::from(packet.padding);
            if pads {
                write(packet);
            }
        }
    }

    /// Takes all of them out.
    pub fn drain(&mut self) -> impl Iterator<Item = Pending> + '_ {
        self.state = State::Nothing;
        self.video.drain(..).chain(self.audio.drain(..))
    }
}

/// The rhythm of a publication's video frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameClock {
    rtp_timestamp: u32,
    last: Option<Timestamp>,
    interval: Option<Duration>,
    /// Payload bytes of the newest packet.
    len: u16,
    /// The newest packet is shorter than the one before it in its frame.
    short: bool,
    /// The last whole frame ended so.
    ends_short: bool,
}

impl FrameClock {
    /// Takes a packet of the layer that is forwarded. `len`: of its payload, bytes.
    #[inline]
    pub fn on_packet(&mut self, now: Timestamp, rtp_timestamp: u32, len: u16) {
        let same = self.last.is_some() && rtp_timestamp == self.rtp_timestamp;
        let before = std::mem::replace(&mut self.len, len);
        if same {
            self.short = len < before;
            return;
        }
        self.ends_short = std::mem::take(&mut self.short);
        if let Some(last) = self.last {
            let measured = now.since(last);
            // A longer one is a pause, after which the rhythm is likely the old one.
            if measured <= 2 * INTERVAL_MAX {
                let average = self.interval.unwrap_or(measured);
                self.interval = Some((average * (SMOOTHING - 1) + measured) / SMOOTHING);
            }
        }
        (self.rtp_timestamp, self.last) = (rtp_timestamp, Some(now));
    }

    /// Until when audio that is here at `now` may wait for the next frame: `at_most` later if the frame is due by then.
    /// `None` as well when frames end with a shorter packet: it ends the run, and nothing can go behind it.
    #[inline]
    pub fn hold_until(&self, now: Timestamp, at_most: Duration) -> Option<Timestamp> {
        let interval = self.interval.filter(|interval| *interval <= INTERVAL_MAX)?;
        let due = self.last? + interval;
        let until = now + at_most;
        (!at_most.is_zero() && !self.ends_short && due <= until && now < due + LATE_MAX).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::rtp::RtpHeader;

    const MS: fn(u64) -> Timestamp = Timestamp::from_millis;

    fn packet(kind: MediaKind, seq: u64) -> Pending {
        let bytes = [0x80, 96, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        Pending {
            slot: SlotId(seq as u32),
            start: 0,
            header: RtpHeader::parse(&bytes).unwrap(),
            payload_start: 12,
            payload_len: 0,
            arrived: MS(0),
            kind,
            key_frame: true,
            source: SourceId(0),
            seq: ExtSeq(seq),
            held: false,
            padding: 0,
        }
    }

    #[test]
    fn fragments_become_as_long_as_the_longest_behind_them() {
        for (lens, paddings) in [
            (&[][..], &[][..]),
            (&[1000], &[0]),
            (&[1000, 1000, 1001, 1001], &[1, 1, 0, 0]),
            // A shorter end stays: it may end a run.
            (&[1000, 1001, 300], &[1, 0, 0]),
            // Steps add up, but only to the bound.
            (&[990, 996, 1000], &[0, 4, 0]),
            (&[993, 996, 1000], &[7, 4, 0]),
            (&[900, 1001, 0, 3], &[0, 0, 0, 0]),
        ] {
            let mut list = PendingList::default();
            for len in lens {
                list.put(Pending { payload_len: *len, ..packet(MediaKind::Video, 1) }, None);
            }
            list.put(packet(MediaKind::Audio, 2), None);
            for _ in 0..2 {
                let mut written = 0;
                list.even_out(|packet| {
                    assert!(packet.padding > 0);
                    written += 1;
                });
                assert_eq!(written, paddings.iter().filter(|padding| **padding > 0).count());
                let got: Vec<_> = (0..lens.len()).map(|at| list.get(at).unwrap().padding).collect();
                assert_eq!(got, paddings, "{lens:?}");
            }
        }
    }

    #[test]
    fn audio_goes_behind_video_whatever_came_first() {
        let mut list = PendingList::default();
        let kinds = [MediaKind::Audio, MediaKind::Video, MediaKind::Video, MediaKind::Audio];
        for (seq, kind) in kinds.into_iter().enumerate() {
            list.put(packet(kind, seq as u64), None);
        }
        let order: Vec<_> = (0..5).map(|at| list.get(at).map(|p| p.seq.0)).collect();
        assert_eq!(order, [Some(1), Some(2), Some(0), Some(3), None]);
        assert_eq!(list.drain().map(|p| p.seq.0).collect::<Vec<_>>(), [1, 2, 0, 3]);
        assert!(list.get(0).is_none());
    }

    #[test]
    fn every_state_and_packet() {
        use MediaKind::{Audio, Video};
        // (packets so far with their hold) -> what the last one meant
        let until = Some(MS(10));
        for (steps, expected) in [
            (vec![(Audio, None)], Put::List),
            (vec![(Video, None)], Put::List),
            (vec![(Video, until)], Put::List),
            (vec![(Audio, until)], Put::Hold(MS(10))),
            (vec![(Audio, until), (Audio, Some(MS(30)))], Put::Waits),
            (vec![(Audio, until), (Audio, None)], Put::Waits),
            (vec![(Audio, until), (Video, None)], Put::List),
            (vec![(Audio, until), (Video, None), (Video, None)], Put::Waits),
            (vec![(Video, None), (Audio, until)], Put::Waits),
        ] {
            let mut list = PendingList::default();
            let puts: Vec<_> = steps.iter().map(|(kind, hold)| list.put(packet(*kind, 1), *hold)).collect();
            assert_eq!(puts.last(), Some(&expected), "{steps:?}");
        }
    }

    #[test]
    fn a_hold_ends_once_and_only_the_one_that_is_meant() {
        let mut list = PendingList::default();
        list.put(packet(MediaKind::Audio, 1), Some(MS(10)));
        assert!(!list.end_hold(MS(9)));
        assert!(list.end_hold(MS(10)));
        assert!(!list.end_hold(MS(10)));
        assert_eq!(list.put(packet(MediaKind::Video, 2), None), Put::Waits);
        list.drain().for_each(drop);
        assert!(!list.end_hold(MS(10)));
        assert_eq!(list.put(packet(MediaKind::Audio, 3), Some(MS(50))), Put::Hold(MS(50)));
    }

    #[test]
    fn it_is_bounded() {
        let mut list = PendingList::default();
        for seq in 0..MAX_PENDING as u64 {
            assert!(!list.is_full());
            list.put(packet(MediaKind::Video, seq), None);
        }
        assert!(list.is_full());
    }

    #[test]
    fn audio_waits_only_for_a_frame_that_is_due() {
        let mut clock = FrameClock::default();
        let hold = Duration::from_millis(10);
        assert_eq!(clock.hold_until(MS(0), hold), None, "no frame yet");
        for frame in 0..20 {
            for _ in 0..3 {
                clock.on_packet(MS(frame * 33), frame as u32, 1000);
            }
        }
        let last = 19 * 33;
        // (ms after the last frame, may wait)
        for (after, waits) in
            [(0, false), (22, false), (23, true), (32, true), (36, true), (37, false), (200, false)]
        {
            let expected = waits.then(|| MS(last + after + 10));
            assert_eq!(clock.hold_until(MS(last + after), hold), expected, "{after}");
        }
        assert_eq!(clock.hold_until(MS(last + 30), Duration::ZERO), None, "an idle core");
        // A pause is no rhythm, and does not spoil the one that was.
        clock.on_packet(MS(last + 5_000), 99, 1000);
        assert!(clock.hold_until(MS(last + 5_030), hold).is_some());
    }

    #[test]
    fn audio_does_not_wait_for_frames_that_end_a_run() {
        // (bytes of a frame's packets, may wait)
        for (frame, waits) in
            [(vec![900], true), (vec![900, 900], true), (vec![900, 901], true), (vec![900, 900, 40], false)]
        {
            let mut clock = FrameClock::default();
            for n in 0..10 {
                frame.iter().for_each(|len| clock.on_packet(MS(n * 33), n as u32, *len));
            }
            assert_eq!(
                clock.hold_until(MS(9 * 33 + 30), Duration::from_millis(10)).is_some(),
                waits,
                "{frame:?}"
            );
        }
    }

    #[test]
    fn slow_frames_are_not_waited_for() {
        let mut clock = FrameClock::default();
        for frame in 0..20 {
            clock.on_packet(MS(frame * 100), frame as u32, 1000);
        }
        assert_eq!(clock.hold_until(MS(1_995), Duration::from_millis(10)), None);
    }
}

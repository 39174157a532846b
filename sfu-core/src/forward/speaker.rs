//! Who speaks: audio levels smoothed over time, and the loudest of a room (RFC 6464).
//!
//! ```text
//! loudness  127 ┤      ┌──╮
//!      start 77 ┤ ─ ─ /─ ─ ╲─ ─ ─ ─   speaking begins above, and
//!       stop 67 ┤ ─ ┌╯─ ─ ─ ╲─ ─ ─   ends below: a pause for breath is no end
//!             0 ┴────────────────▶ t
//! ```
//!
//! Rises within a syllable, falls within half a second. Levels come with packets; a stream that stops sending (mute,
//! discontinuous transmission) falls by the time that passes.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::time::Timestamp;
use crate::wire::rtp_ext::AudioLevel;

/// Loudness of an element's level 0, which is 0 dBov. Silence is 0.
pub const LOUDNESS_MAX: f32 = 127.0;
/// Speaking begins here: -50 dBov, quiet speech near a microphone.
const SPEAKING_START: f32 = LOUDNESS_MAX - 50.0;
/// Speaking ends here.
const SPEAKING_STOP: f32 = LOUDNESS_MAX - 60.0;
/// Time constants of rise and fall, seconds.
const RISE_S: f32 = 0.1;
const FALL_S: f32 = 0.4;
/// A longer gap between packets counts as this much: the first packet after it begins afresh.
const GAP_MAX: Duration = Duration::from_secs(2);

/// Smoothed level of one audio stream.
#[derive(Clone, Copy, Debug)]
pub struct Speaker {
    loudness: f32,
    at: Timestamp,
    speaking: bool,
}

impl Speaker {
    /// Silent so far.
    pub fn new(now: Timestamp) -> Speaker {
        Speaker { loudness: 0.0, at: now, speaking: false }
    }

    /// Takes the level of one packet. True when the speaker began or stopped speaking by it.
    #[inline]
    pub fn on_level(&mut self, now: Timestamp, level: AudioLevel) -> bool {
        let target = LOUDNESS_MAX - f32::from(level.level.min(127));
        self.approach(now, target)
    }

    /// Lets time pass without packets. True when the speaker stopped speaking by it. Call it a few times per second.
    pub fn on_silence(&mut self, now: Timestamp) -> bool {
        self.approach(now, 0.0)
    }

    fn approach(&mut self, now: Timestamp, target: f32) -> bool {
        let elapsed_s = now.since(self.at).min(GAP_MAX).as_secs_f32();
        self.at = self.at.max(now);
        let constant_s = if target > self.loudness { RISE_S } else { FALL_S };
        // The step of a first-order low-pass whose input is sampled unevenly.
        self.loudness += (target - self.loudness) * elapsed_s / (constant_s + elapsed_s);
        let speaking = self.loudness >= if self.speaking { SPEAKING_STOP } else { SPEAKING_START };
        std::mem::replace(&mut self.speaking, speaking) != speaking
    }

    /// Smoothed loudness, 0 to [`LOUDNESS_MAX`].
    pub fn loudness(&self) -> f32 {
        self.loudness
    }

    /// Whether this is speech.
    pub fn is_speaking(&self) -> bool {
        self.speaking
    }
}

/// Fills `loudest` with the loudest of `speakers` who speak, loudest first, and returns how many there are. Equal ones
/// stay in the order they come in.
pub fn loudest<I: Copy>(
    speakers: impl IntoIterator<Item = (I, Speaker)>,
    loudest: &mut [Option<(I, f32)>],
) -> usize {
    loudest.fill(None);
    let mut found = 0;
    for (id, speaker) in speakers.into_iter().filter(|(_, speaker)| speaker.is_speaking()) {
        let louder =
            |entry: &Option<(I, f32)>| entry.is_some_and(|(_, loudness)| loudness >= speaker.loudness);
        let at = loudest.partition_point(louder);
        if let Some(rest) = loudest.get_mut(at..).filter(|rest| !rest.is_empty()) {
            rest.rotate_right(1);
            rest[0] = Some((id, speaker.loudness));
            found = (found + 1).min(loudest.len());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn level(level: u8) -> AudioLevel {
        AudioLevel { voice: true, level }
    }

    /// Packets every 20 ms at `dbov` from `from` for `count`; when the state changed.
    fn feed(speaker: &mut Speaker, from: u64, count: u64, dbov: u8) -> Vec<u64> {
        (1..=count).map(|i| from + i * 20).filter(|at| speaker.on_level(ms(*at), level(dbov))).collect()
    }

    #[test]
    fn speech_begins_within_a_syllable_and_survives_a_breath() {
        let mut speaker = Speaker::new(ms(0));
        assert!(feed(&mut speaker, 0, 20, 127).is_empty());
        let began = feed(&mut speaker, 400, 50, 25);
        assert_eq!(began.len(), 1);
        assert!((500..=700).contains(&began[0]), "{began:?}");
        assert!((speaker.loudness() - 102.0).abs() < 1.0);
        // 100 ms of breath, speech, then silence.
        assert!(feed(&mut speaker, 1_400, 5, 100).is_empty());
        assert!(feed(&mut speaker, 1_500, 25, 25).is_empty());
        let ended = feed(&mut speaker, 2_000, 50, 127);
        assert_eq!(ended.len(), 1);
        assert!((2_100..=2_500).contains(&ended[0]), "{ended:?}");
    }

    #[test]
    fn a_click_and_background_noise_are_no_speech() {
        let mut speaker = Speaker::new(ms(0));
        assert!(!speaker.on_level(ms(20), level(0)));
        assert!(feed(&mut speaker, 20, 50, 90).is_empty());
        assert!(feed(&mut speaker, 1_020, 500, 60).is_empty());
    }

    #[test]
    fn a_stream_that_stops_falls_silent() {
        let mut speaker = Speaker::new(ms(0));
        feed(&mut speaker, 0, 50, 20);
        assert!(speaker.is_speaking());
        let changes: Vec<_> = (0..20).filter(|i| speaker.on_silence(ms(1_000 + i * 250))).collect();
        assert_eq!(changes.len(), 1);
        assert!(!speaker.is_speaking() && speaker.loudness() < 10.0);
        // Time that runs back changes nothing.
        let before = speaker.loudness();
        assert!(!speaker.on_level(ms(5), level(0)));
        assert_eq!(speaker.loudness(), before);
    }

    #[test]
    fn picks_the_loudest_who_speak() {
        let made = |loudness: f32| Speaker { loudness, at: ms(0), speaking: loudness >= SPEAKING_START };
        let room = [(1, made(80.0)), (2, made(100.0)), (3, made(20.0)), (4, made(80.0)), (5, made(90.0))];
        for (places, expected) in
            [(0, vec![]), (1, vec![2]), (3, vec![2, 5, 1]), (4, vec![2, 5, 1, 4]), (6, vec![2, 5, 1, 4])]
        {
            let mut out = vec![Some((9, 9.0)); places];
            let found = loudest(room, &mut out);
            let ids: Vec<_> = out.iter().flatten().map(|(id, _)| *id).collect();
            assert_eq!((found, ids), (expected.len(), expected), "{places} places");
        }
    }
}

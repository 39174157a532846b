//! Which packets of a stream are missing, and when to ask for them (RFC 4585 §6.2.1).
//!
//! ```text
//!  gap seen ──(5 ms, or 2 later packets)──▶ ask ──every max(rtt, 20 ms)──▶ ask ... ──10 times or 1 s──▶ give up
//!      │                                     │                                                          │
//!      └──────────── packet arrives: forgotten ─────────────────────────────────────▶        key frame request
//! ```
//!
//! The small wait keeps ordinary reordering from costing a retransmission. The list is bounded: a gap too wide for it
//! is not repaired packet by packet; the caller asks for a key frame instead.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::ids::ExtSeq;
use crate::time::Timestamp;

/// Most packets asked for at a time, for video.
pub const OUTSTANDING_MAX: usize = 256;
/// A wider gap than this is a restart: nothing of it is asked for.
pub const GAP_MAX: u64 = 1000;
/// How long a packet may be overtaken before it is asked for.
pub const REORDER_TIME: Duration = Duration::from_millis(5);
/// By how many later packets it may be overtaken.
pub const REORDER_PACKETS: u64 = 2;
/// Shortest time between two requests for the same packet.
pub const RETRY_MIN: Duration = Duration::from_millis(20);
/// Round trip assumed while none is known.
pub const RTT_UNKNOWN: Duration = Duration::from_millis(100);
/// Requests for the same packet.
pub const TRIES_MAX: u8 = 10;
/// Age at which a missing packet is of no use any more.
pub const AGE_MAX: Duration = Duration::from_secs(1);

/// Whether the stream can still be repaired packet by packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Repair {
    /// Nothing is lost for good.
    Possible,
    /// At least one packet is: video needs a key frame, audio goes on.
    GivenUp,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    seq: ExtSeq,
    due: Timestamp,
    found: Timestamp,
    /// When it was asked for last.
    asked: Timestamp,
    tries: u8,
}

/// Counters since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NackCounters {
    /// Sequence numbers asked for, each request counted.
    pub requested: u64,
    /// Missing packets that came after all.
    pub filled: u64,
    /// Missing packets given up.
    pub given_up: u64,
}

/// The missing packets of one stream.
#[derive(Clone, Debug)]
pub struct NackTracker {
    highest: Option<ExtSeq>,
    /// Ascending by `seq`; its memory is taken with the first gap and never grows.
    missing: Vec<Missing>,
    outstanding_max: usize,
    /// No entry is due earlier.
    next_due: Option<Timestamp>,
    /// Smoothed time from request to answer.
    rtt: Option<Duration>,
    counters: NackCounters,
}

impl NackTracker {
    /// Tracks at most `outstanding_max` missing packets; see [`OUTSTANDING_MAX`].
    pub fn new(outstanding_max: usize) -> NackTracker {
        NackTracker {
            highest: None,
            missing: Vec::new(),
            outstanding_max,
            next_due: None,
            rtt: None,
            counters: NackCounters::default(),
        }
    }

    /// Missing packets now.
    pub fn outstanding(&self) -> usize {
        self.missing.len()
    }

    /// Counters for statistics.
    pub fn counters(&self) -> NackCounters {
        self.counters
    }

    /// Takes a packet that arrived, original or retransmitted.
    #[inline]
    pub fn on_packet(&mut self, now: Timestamp, seq: ExtSeq) -> Repair {
        let Some(highest) = self.highest else {
            self.highest = Some(seq);
            return Repair::Possible;
        };
        if seq <= highest {
            self.on_received(now, seq);
            return Repair::Possible;
        }
        self.highest = Some(seq);
        let repair = if seq.0 == highest.0 + 1 { Repair::Possible } else { self.on_gap(now, highest, seq) };
        if !self.missing.is_empty() {
            self.hasten_overtaken(now, seq);
        }
        repair
    }

    /// Smoothed time from a request to its answer: the round trip to a publisher, which reports none of its own.
    /// `None` until a packet came on the first request.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    fn on_received(&mut self, now: Timestamp, seq: ExtSeq) {
        if let Ok(at) = self.missing.binary_search_by_key(&seq, |m| m.seq) {
            let missing = self.missing.remove(at);
            // After a second request it is not known which one was answered.
            if missing.tries == 1 {
                let sample = now.since(missing.asked);
                self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
            }
            self.counters.filled += 1;
            if self.missing.is_empty() {
                self.next_due = None;
            }
        }
    }

    fn on_gap(&mut self, now: Timestamp, highest: ExtSeq, seq: ExtSeq) -> Repair {
        let gap = seq.0 - highest.0 - 1;
        if gap > GAP_MAX {
            self.counters.given_up += self.missing.len() as u64 + gap;
            self.clear();
            return Repair::GivenUp;
        }
        let repair = self.make_room(gap);
        let first = (highest.0 + 1).max(seq.0.saturating_sub(self.outstanding_max as u64));
        let due = now + REORDER_TIME;
        self.missing.reserve_exact(self.outstanding_max - self.missing.len());
        for missing in first..seq.0 {
            self.missing.push(Missing { seq: ExtSeq(missing), due, found: now, asked: now, tries: 0 });
        }
        self.lower_next_due(due);
        repair
    }

    /// Drops the oldest entries so that `gap` more fit.
    fn make_room(&mut self, gap: u64) -> Repair {
        let over = (self.missing.len() as u64 + gap).saturating_sub(self.outstanding_max as u64);
        if over == 0 {
            return Repair::Possible;
        }
        self.counters.given_up += over;
        self.missing.drain(..self.missing.len().min(over as usize));
        Repair::GivenUp
    }

    /// Makes entries due at once that were overtaken by enough packets.
    fn hasten_overtaken(&mut self, now: Timestamp, highest: ExtSeq) {
        let mut hastened = false;
        for missing in self.missing.iter_mut().rev() {
            if missing.tries > 0 || missing.due <= now {
                break;
            }
            if missing.seq.0 + REORDER_PACKETS <= highest.0 {
                missing.due = now;
                hastened = true;
            }
        }
        if hastened {
            self.lower_next_due(now);
        }
    }

    fn lower_next_due(&mut self, due: Timestamp) {
        self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
    }

    /// Forgets what is older than `seq`, the first packet of a key frame: nothing depends on it any more.
    pub fn forget_before(&mut self, seq: ExtSeq) {
        let count = self.missing.partition_point(|m| m.seq < seq);
        self.missing.drain(..count);
        if self.missing.is_empty() {
            self.next_due = None;
        }
    }

    /// Another stream takes the place of this one; the path is the same.
    pub fn restart(&mut self) {
        self.clear();
        self.highest = None;
    }

    /// Forgets everything that is missing.
    pub fn clear(&mut self) {
        self.missing.clear();
        self.next_due = None;
    }

    /// When [`NackTracker::poll`] has something to do. May be early, never late.
    #[inline]
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.next_due
    }

    /// Hands each sequence number that is due now to `request`, in ascending order, and gives up the hopeless ones.
    ///
    /// `rtt` is the publisher's last round-trip time; zero when unknown, [`NackTracker::rtt`] is taken then.
    pub fn poll(&mut self, now: Timestamp, rtt: Duration, mut request: impl FnMut(ExtSeq)) -> Repair {
        if self.next_due.is_none_or(|due| due > now) {
            return Repair::Possible;
        }
        let known = if rtt.is_zero() { self.rtt.unwrap_or(RTT_UNKNOWN) } else { rtt };
        let retry = known.clamp(RETRY_MIN, AGE_MAX);
        let before = self.missing.len();
        let mut requested = 0;
        self.missing.retain_mut(|missing| {
            if missing.due > now {
                return true;
            }
            if missing.tries >= TRIES_MAX || now.since(missing.found) >= AGE_MAX {
                return false;
            }
            missing.tries += 1;
            missing.asked = now;
            missing.due = now + retry;
            requested += 1;
            request(missing.seq);
            true
        });
        self.counters.requested += requested;
        self.next_due = self.missing.iter().map(|m| m.due).min();
        let given_up = before - self.missing.len();
        self.counters.given_up += given_up as u64;
        if given_up == 0 { Repair::Possible } else { Repair::GivenUp }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn due(tracker: &mut NackTracker, at: u64) -> Vec<u64> {
        let mut list = Vec::new();
        let _ = tracker.poll(ms(at), RTT, |seq| list.push(seq.0));
        list
    }

    fn tracker(packets: &[(u64, u64)]) -> NackTracker {
        let mut tracker = NackTracker::new(OUTSTANDING_MAX);
        for (at, seq) in packets {
            assert_eq!(tracker.on_packet(ms(*at), ExtSeq(*seq)), Repair::Possible);
        }
        tracker
    }

    #[test]
    fn waits_for_reordering_by_time_or_packets() {
        // (packets as (ms, seq), poll at ms, expected)
        type Case<'a> = (&'a [(u64, u64)], u64, &'a [u64]);
        let cases: &[Case] = &[
            (&[(0, 10), (0, 11)], 100, &[]),
            (&[(0, 10), (0, 12)], 4, &[]),
            (&[(0, 10), (0, 12)], 5, &[11]),
            (&[(0, 10), (0, 12), (1, 13)], 1, &[11]),
            (&[(0, 10), (0, 12), (1, 11)], 9, &[]),
            // Of a wider gap only the last may still be on its way.
            (&[(0, 10), (0, 14)], 0, &[11, 12]),
            (&[(0, 10), (0, 14)], 5, &[11, 12, 13]),
            (&[(0, 65_534), (0, 65_539)], 9, &[65_535, 65_536, 65_537, 65_538]),
        ];
        for (packets, at, expected) in cases {
            assert_eq!(due(&mut tracker(packets), *at), *expected, "{packets:?} at {at}");
        }
    }

    #[test]
    fn asks_again_every_rtt_until_tries_run_out() {
        let mut tracker = tracker(&[(0, 1), (0, 3)]);
        let mut asked = Vec::new();
        let mut gave_up_at = None;
        while let Some(at) = tracker.next_timeout() {
            if tracker.poll(at, RTT, |_| asked.push(at.as_millis())) == Repair::GivenUp {
                gave_up_at = Some(at.as_millis());
            }
        }
        assert_eq!(asked, [5, 55, 105, 155, 205, 255, 305, 355, 405, 455]);
        assert_eq!(gave_up_at, Some(505));
        assert_eq!(tracker.counters(), NackCounters { requested: 10, filled: 0, given_up: 1 });
    }

    #[test]
    fn a_long_round_trip_gives_up_by_age_and_a_short_one_is_not_hammered() {
        for (rtt, tries) in [(300, 4), (2_000, 1), (1, 10), (0, 10)] {
            let mut tracker = tracker(&[(0, 1), (0, 3)]);
            let mut asked = Vec::new();
            while let Some(at) = tracker.next_timeout() {
                let _ = tracker.poll(at, Duration::from_millis(rtt), |_| asked.push(at));
            }
            assert_eq!(asked.len(), tries, "rtt {rtt}");
            assert!(asked.windows(2).all(|w| w[1].since(w[0]) >= RETRY_MIN));
        }
    }

    #[test]
    fn answers_tell_the_round_trip() {
        let retries_after = |tracker: &mut NackTracker, from: u64| {
            assert_eq!(tracker.on_packet(ms(from), ExtSeq(from + 100)), Repair::Possible);
            assert_eq!(tracker.on_packet(ms(from), ExtSeq(from + 102)), Repair::Possible);
            let _ = tracker.poll(ms(from + 5), Duration::ZERO, |_| {});
            tracker.next_timeout().map(|at| at.as_millis() - from - 5)
        };
        let mut tracker = NackTracker::new(OUTSTANDING_MAX);
        assert_eq!(retries_after(&mut tracker, 0), Some(100));
        assert_eq!(tracker.on_packet(ms(45), ExtSeq(101)), Repair::Possible);
        assert_eq!(tracker.rtt(), Some(Duration::from_millis(40)));
        tracker.clear();
        assert_eq!(retries_after(&mut tracker, 200), Some(40));
        // Asked for twice: no sample.
        let _ = tracker.poll(ms(245), Duration::ZERO, |_| {});
        assert_eq!(tracker.on_packet(ms(250), ExtSeq(301)), Repair::Possible);
        assert_eq!(tracker.rtt(), Some(Duration::from_millis(40)));
    }

    #[test]
    fn wide_gaps_ask_for_a_key_frame() {
        let mut tracker = NackTracker::new(4);
        assert_eq!(tracker.on_packet(ms(0), ExtSeq(10)), Repair::Possible);
        assert_eq!(tracker.on_packet(ms(0), ExtSeq(13)), Repair::Possible);
        assert_eq!(tracker.on_packet(ms(0), ExtSeq(17)), Repair::GivenUp);
        assert_eq!(due(&mut tracker, 9), [12, 14, 15, 16]);
        assert_eq!(tracker.on_packet(ms(0), ExtSeq(27)), Repair::GivenUp);
        assert_eq!(due(&mut tracker, 9), [23, 24, 25, 26]);
        assert_eq!(tracker.on_packet(ms(0), ExtSeq(27 + 1002)), Repair::GivenUp);
        assert_eq!((tracker.outstanding(), tracker.next_timeout()), (0, None));
        // In order again: nothing lingers.
        assert_eq!(tracker.on_packet(ms(0), ExtSeq(27 + 1003)), Repair::Possible);
        assert_eq!(tracker.outstanding(), 0);
    }

    #[test]
    fn a_key_frame_makes_older_holes_pointless() {
        let mut tracker = tracker(&[(0, 1), (0, 4), (0, 6)]);
        tracker.forget_before(ExtSeq(5));
        assert_eq!(due(&mut tracker, 9), [5]);
        tracker.forget_before(ExtSeq(6));
        assert_eq!(tracker.next_timeout(), None);
    }

    proptest! {
        /// Every request is for a packet that has not arrived, none comes too often, and the list stays bounded.
        #[test]
        fn never_asks_for_what_is_there(steps in prop::collection::vec((-20i64..25, 0u64..30), 1..400)) {
            let mut tracker = NackTracker::new(32);
            let mut here = std::collections::HashSet::new();
            let mut tries = std::collections::HashMap::new();
            let (mut highest, mut now) = (1000u64, 0);
            for (step, wait) in steps {
                now += wait;
                let seq = highest.saturating_add_signed(step);
                highest = highest.max(seq);
                here.insert(seq);
                let _ = tracker.on_packet(ms(now), ExtSeq(seq));
                let mut last = 0;
                let mut asked = Vec::new();
                let _ = tracker.poll(ms(now), RTT, |seq| asked.push(seq.0));
                for seq in asked {
                    prop_assert!(!here.contains(&seq) && seq < highest && seq > last);
                    last = seq;
                    let (count, at) = tries.entry(seq).or_insert((0, None));
                    prop_assert!(at.is_none_or(|at| now - at >= 50));
                    (*count, *at) = (*count + 1, Some(now));
                    prop_assert!(*count <= TRIES_MAX);
                }
                prop_assert!(tracker.outstanding() <= 32);
                prop_assert_eq!(tracker.outstanding() == 0, tracker.next_timeout().is_none());
                prop_assert!(tracker.next_timeout().is_none_or(|at| at > ms(now)));
            }
        }
    }
}

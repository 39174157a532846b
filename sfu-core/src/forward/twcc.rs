//! When each packet of a publisher came, for its congestion control
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01).
//!
//! ```text
//!   arrivals   1 2 3   5 6 │ 7 8   10 11          a feedback message takes what is behind the mark: base 7, statuses
//!              reported ───┘ └─ not yet           7 8 (9 missing) 10 11, and moves the mark
//! ```
//!
//! A packet that comes late moves the mark back to it: what follows is reported again, rightly this time. The encoding
//! is `wire::rtcp::twcc`'s; this file decides what is reported when.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::ids::{ExtSeq, SeqNo, Ssrc};
use crate::time::Timestamp;
use crate::wire::WriteError;
use crate::wire::rtcp::{TwccFeedback, write_twcc};

/// Between two messages while packets come: Chromium's estimator wants 50 to 250 ms.
pub const INTERVAL: Duration = Duration::from_millis(50);
/// Arrivals kept at most, reported ones included.
pub const ARRIVALS_MAX: usize = 512;
/// Arrivals waiting for their report that make one due at once.
const PENDING_MAX: usize = 256;
/// Reported arrivals kept for packets that come late.
const HISTORY: usize = 64;

/// Arrivals on one transport.
#[derive(Clone, Debug)]
pub struct ArrivalRecorder {
    /// Ascending by sequence number; its memory is taken with the first packet, for publishers only.
    arrivals: Vec<(ExtSeq, Timestamp)>,
    /// Arrivals in front that were reported.
    reported: usize,
    /// First number of the next message.
    base: ExtSeq,
    /// Everything below was let go.
    forgotten: ExtSeq,
    feedback_count: u8,
    due: Option<Timestamp>,
}

impl Default for ArrivalRecorder {
    fn default() -> ArrivalRecorder {
        ArrivalRecorder::new()
    }
}

impl ArrivalRecorder {
    /// Nothing arrived yet.
    pub fn new() -> ArrivalRecorder {
        ArrivalRecorder {
            arrivals: Vec::new(),
            reported: 0,
            base: ExtSeq(0),
            forgotten: ExtSeq(0),
            feedback_count: 0,
            due: None,
        }
    }

    /// Takes the transport-wide sequence number of one packet. Returns when the next message is due, if there is
    /// anything new to report.
    #[inline]
    pub fn on_packet(&mut self, now: Timestamp, seq: u16) -> Option<Timestamp> {
        self.record(now, SeqNo(seq));
        let at = match self.arrivals.len() - self.reported {
            0 => return None,
            1..PENDING_MAX => now + INTERVAL,
            _ => now,
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
        self.due
    }

    fn record(&mut self, now: Timestamp, seq: SeqNo) {
        let Some(&(highest, _)) = self.arrivals.last() else {
            // Away from zero, so that packets from before the first one have a number too.
            let seq = ExtSeq((1 << 16) + u64::from(seq.0));
            self.arrivals.reserve_exact(ARRIVALS_MAX);
            (self.base, self.forgotten) = (seq, ExtSeq(0));
            self.arrivals.push((seq, now));
            return;
        };
        let seq = highest.extend(seq);
        if self.arrivals.len() == ARRIVALS_MAX {
            self.forget(ARRIVALS_MAX / 4);
        }
        if seq > highest {
            self.arrivals.push((seq, now));
            return;
        }
        if seq < self.forgotten {
            return;
        }
        if let Err(at) = self.arrivals.binary_search_by_key(&seq, |(seq, _)| *seq) {
            self.arrivals.insert(at, (seq, now));
            self.reported = self.reported.min(at);
            self.base = self.base.min(seq);
        }
    }

    /// Lets the first `count` arrivals go, and never the last one.
    fn forget(&mut self, count: usize) {
        let Some(&(first, _)) = self.arrivals.get(count).filter(|_| count > 0) else { return };
        self.arrivals.drain(..count);
        self.reported = self.reported.saturating_sub(count);
        self.forgotten = first;
        self.base = self.base.max(first);
    }

    /// When the next message is due; `None` when there is nothing to report.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    /// Whether a message is due.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Writes one message and returns its length. Call it while [`ArrivalRecorder::is_due`]: what does not fit one
    /// message stays due.
    ///
    /// `sender`: our SSRC; `media`: any of the transport's.
    /// # Errors
    /// `OutOfRange` when there is nothing to report; `NoSpace` when `out` is too small for anything, the arrivals are
    /// then given up so that nothing is due for ever.
    pub fn write(&mut self, out: &mut [u8], sender: Ssrc, media: Ssrc) -> Result<usize, WriteError> {
        let feedback = TwccFeedback { sender, media, base: self.base, feedback_count: self.feedback_count };
        let written = write_twcc(out, &feedback, &self.arrivals[self.reported..]).inspect_err(|_| {
            self.reported = self.arrivals.len();
            self.due = None;
        })?;
        self.feedback_count = self.feedback_count.wrapping_add(1);
        self.reported += written.arrivals;
        if let Some((last, _)) = self.reported.checked_sub(1).and_then(|at| self.arrivals.get(at)) {
            self.base = ExtSeq(last.0 + 1);
        }
        if self.reported == self.arrivals.len() {
            self.due = None;
        }
        self.forget(self.reported.saturating_sub(HISTORY));
        Ok(written.len)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::rtcp::{Compound, Message};

    const OURS: Ssrc = Ssrc(1);
    const MEDIA: Ssrc = Ssrc(2);

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    /// One message as (base, feedback count, list of received).
    fn message(recorder: &mut ArrivalRecorder, out_bytes: usize) -> (u16, u8, Vec<u16>) {
        let mut out = vec![0; out_bytes];
        let len = recorder.write(&mut out, OURS, MEDIA).unwrap();
        let compound = Compound::parse(&out[..len]).unwrap();
        let Some(Ok(Message::Twcc(twcc))) = compound.messages().next() else { panic!("no feedback") };
        let received = twcc.arrivals().map(|arrival| arrival.seq.0).collect();
        (twcc.base.0, twcc.feedback_count, received)
    }

    #[test]
    fn reports_every_interval_while_packets_come() {
        let mut recorder = ArrivalRecorder::new();
        assert_eq!(recorder.next_timeout(), None);
        assert_eq!(recorder.on_packet(ms(10), 65_534), Some(ms(60)));
        assert_eq!(recorder.on_packet(ms(30), 1), Some(ms(60)));
        assert!(!recorder.is_due(ms(59)) && recorder.is_due(ms(60)));
        assert_eq!(message(&mut recorder, 100), (65_534, 0, vec![65_534, 1]));
        assert_eq!(recorder.next_timeout(), None);
        assert_eq!(recorder.write(&mut [0; 100], OURS, MEDIA), Err(WriteError::OutOfRange));
        // Statuses go on behind the last message, missing ones included.
        assert_eq!(recorder.on_packet(ms(70), 4), Some(ms(120)));
        assert_eq!(message(&mut recorder, 100), (2, 1, vec![4]));
    }

    #[test]
    fn late_packets_are_reported_with_what_followed() {
        let mut recorder = ArrivalRecorder::new();
        for seq in [10, 11, 14] {
            recorder.on_packet(ms(0), seq);
        }
        assert_eq!(message(&mut recorder, 100), (10, 0, vec![10, 11, 14]));
        recorder.on_packet(ms(60), 15);
        assert_eq!(recorder.on_packet(ms(61), 12), Some(ms(110)));
        assert_eq!(recorder.on_packet(ms(61), 12), Some(ms(110)));
        assert_eq!(message(&mut recorder, 100), (12, 1, vec![12, 14, 15]));
        assert_eq!(recorder.on_packet(ms(62), 12), None);
        // From before the first one.
        recorder.on_packet(ms(62), 9);
        assert_eq!(message(&mut recorder, 100), (9, 2, vec![9, 10, 11, 12, 14, 15]));
    }

    #[test]
    fn what_does_not_fit_stays_due() {
        let mut recorder = ArrivalRecorder::new();
        for seq in 0..20u16 {
            recorder.on_packet(ms(0), seq);
        }
        assert_eq!(message(&mut recorder, 32).2, (0..10).collect::<Vec<_>>());
        assert!(recorder.is_due(ms(50)));
        assert_eq!(message(&mut recorder, 1200).2, (10..20).collect::<Vec<_>>());
        assert_eq!(recorder.next_timeout(), None);
        recorder.on_packet(ms(100), 20);
        assert_eq!(recorder.write(&mut [0; 8], OURS, MEDIA), Err(WriteError::NoSpace));
        assert_eq!(recorder.next_timeout(), None);
    }

    #[test]
    fn many_packets_make_a_message_due_at_once() {
        let mut recorder = ArrivalRecorder::new();
        for seq in 0..255u16 {
            assert_eq!(recorder.on_packet(ms(1), seq), Some(ms(51)));
        }
        assert_eq!(recorder.on_packet(ms(2), 255), Some(ms(2)));
        assert_eq!(message(&mut recorder, 1200).2.len(), 256);
    }

    #[test]
    fn memory_stays_bounded_without_reports() {
        let mut recorder = ArrivalRecorder::new();
        for seq in 0..=u16::MAX {
            recorder.on_packet(ms(1), seq);
            assert!(recorder.arrivals.len() <= ARRIVALS_MAX && recorder.arrivals.capacity() <= ARRIVALS_MAX);
        }
        let (base, _, received) = message(&mut recorder, 1200);
        assert_eq!(base, received[0]);
        assert!(received.len() > ARRIVALS_MAX / 2);
    }

    proptest! {
        /// In whatever order they come, every packet is reported, and none that did not come.
        #[test]
        fn reports_exactly_what_came(steps in prop::collection::vec((-30i32..30, prop::bool::weighted(0.1)), 1..200), start: u16) {
            let mut recorder = ArrivalRecorder::new();
            let (mut came, mut reported) = (std::collections::HashSet::new(), std::collections::HashSet::new());
            let (mut highest, mut now) = (i32::from(start), 0);
            for (step, report) in steps.into_iter().chain([(1, true)]) {
                now += 3;
                let seq = highest + step;
                highest = highest.max(seq);
                came.insert(seq as u16);
                recorder.on_packet(ms(now), seq as u16);
                while report && recorder.next_timeout().is_some() {
                    let (_, _, received) = message(&mut recorder, 64);
                    prop_assert!(received.iter().all(|seq| came.contains(seq)));
                    reported.extend(received);
                }
            }
            prop_assert_eq!(came, reported);
        }
    }
}

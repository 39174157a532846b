//! What a worker counted between two questions.

use hdrhistogram::Histogram;

/// Longest delay that the histogram can hold, us.
const DELAY_MAX_US: u64 = 60_000_000;

/// Counters and distributions of one measured interval; several workers' are added up.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    pub(crate) sent_packets: u64,
    pub(crate) sent_bytes: u64,
    /// Packets that the socket refused to take.
    pub(crate) send_refused: u64,
    pub(crate) received_packets: u64,
    pub(crate) received_bytes: u64,
    /// Receive calls that brought something.
    pub(crate) receives: u64,
    /// Packets that were decrypted and verified.
    pub(crate) sampled: u64,
    pub(crate) auth_failed: u64,
    /// Frames put together by full clients that are not the clip's.
    pub(crate) corrupt: u64,
    /// RTP packets that belong to no track we know.
    pub(crate) unknown: u64,
    pub(crate) expected: u64,
    /// Of the expected ones, those that came, repaired ones too.
    pub(crate) arrived: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    /// Came only after they were asked for again.
    pub(crate) repaired: u64,
    pub(crate) nacks_sent: u64,
    pub(crate) plis_sent: u64,
    pub(crate) nacks_received: u64,
    pub(crate) key_frames_asked: u64,
    pub(crate) freezes: u64,
    pub(crate) frames: u64,
    /// Tracks that received nothing for a second or more when the interval ended.
    pub(crate) stalled: u64,
    /// Tracks that are in the figures.
    pub(crate) tracks: u64,
    /// Datagrams that a client's own full buffer refused: lost by the generator, not by the server.
    pub(crate) overflowed: u64,
    /// Peer connections that ended by themselves.
    pub(crate) failed: u64,
    /// Peer connections that the server closed before we did.
    pub(crate) closed: u64,
    /// Milliseconds by which the worker was behind its own timetable, worst case.
    pub(crate) late_ms: u64,
    /// One-way delay, us, of sampled packets.
    pub(crate) delay_us: Histogram<u32>,
    /// Interarrival jitter of the video tracks when the interval ended, us.
    pub(crate) jitter_us: Histogram<u32>,
}

impl Default for Stats {
    fn default() -> Stats {
        let histogram =
            || Histogram::new_with_bounds(1, DELAY_MAX_US, 3).expect("bounds are in order, three digits");
        Stats {
            sent_packets: 0,
            sent_bytes: 0,
            send_refused: 0,
            received_packets: 0,
            received_bytes: 0,
            receives: 0,
            sampled: 0,
            auth_failed: 0,
            corrupt: 0,
            unknown: 0,
            expected: 0,
            arrived: 0,
            duplicates: 0,
            reordered: 0,
            repaired: 0,
            nacks_sent: 0,
            plis_sent: 0,
            nacks_received: 0,
            key_frames_asked: 0,
            freezes: 0,
            frames: 0,
            stalled: 0,
            tracks: 0,
            overflowed: 0,
            failed: 0,
            closed: 0,
            late_ms: 0,
            delay_us: histogram(),
            jitter_us: histogram(),
        }
    }
}

impl Stats {
    /// Adds another worker's interval.
    pub(crate) fn add(&mut self, other: &Stats) {
        for (own, others) in [
            (&mut self.sent_packets, other.sent_packets),
            (&mut self.sent_bytes, other.sent_bytes),
            (&mut self.send_refused, other.send_refused),
            (&mut self.received_packets, other.received_packets),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.receives, other.receives),
            (&mut self.sampled, other.sampled),
            (&mut self.auth_failed, other.auth_failed),
            (&mut self.corrupt, other.corrupt),
            (&mut self.unknown, other.unknown),
            (&mut self.expected, other.expected),
            (&mut self.arrived, other.arrived),
            (&mut self.duplicates, other.duplicates),
            (&mut self.reordered, other.reordered),
            (&mut self.repaired, other.repaired),
            (&mut self.nacks_sent, other.nacks_sent),
            (&mut self.plis_sent, other.plis_sent),
            (&mut self.nacks_received, other.nacks_received),
            (&mut self.key_frames_asked, other.key_frames_asked),
            (&mut self.freezes, other.freezes),
            (&mut self.frames, other.frames),
            (&mut self.stalled, other.stalled),
            (&mut self.tracks, other.tracks),
            (&mut self.overflowed, other.overflowed),
            (&mut self.failed, other.failed),
            (&mut self.closed, other.closed),
        ] {
            *own += others;
        }
        self.late_ms = self.late_ms.max(other.late_ms);
        // Same bounds on both sides: adding cannot fail.
        let _ = self.delay_us.add(&other.delay_us);
        let _ = self.jitter_us.add(&other.jitter_us);
    }

    /// Share of the expected packets that did not come, 0 to 1.
    pub(crate) fn loss(&self) -> f64 {
        if self.expected == 0 {
            return 0.0;
        }
        self.expected.saturating_sub(self.arrived) as f64 / self.expected as f64
    }

    /// Notes a delay.
    pub(crate) fn delay(&mut self, nanoseconds: u64) {
        self.delay_us.saturating_record((nanoseconds / 1_000).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_workers_add_up() {
        let mut one = Stats { expected: 100, arrived: 99, late_ms: 3, ..Stats::default() };
        one.delay(2_000_000);
        let mut sum = Stats { expected: 100, arrived: 100, late_ms: 9, ..Stats::default() };
        sum.delay(500);
        sum.add(&one);
        assert_eq!((sum.expected, sum.late_ms, sum.delay_us.len()), (200, 9, 2));
        assert!((sum.loss() - 0.005).abs() < 1e-9);
        assert_eq!(Stats::default().loss(), 0.0);
    }
}

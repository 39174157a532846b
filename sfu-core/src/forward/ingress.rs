//! Reception state of one RTP stream: loss, jitter, duplicates, and the publisher's clock (RFC 3550 A.1, A.3, A.8).
//!
//! ```text
//! packets ─▶ on_packet ─────────▶ New | Late | Duplicate
//! SR      ─▶ on_sender_report ─┐
//!                              ├▶ report_block()  what our RR says about the stream
//!                              └▶ sender_clock()  (NTP, RTP) of the publisher now, for the SRs we send on
//! ```
//!
//! Sequence numbers arrive extended: SRTP had to find the rollover count to authenticate the packet, so A.1's
//! probation and guessing are not needed. What is left of A.1 is the duplicate check, because a packet that came as a
//! retransmission (RFC 4588) has passed SRTP's replay window under another SSRC.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::ids::{ExtSeq, SeqNo, Ssrc};
use crate::time::{NtpTime, Timestamp};
use crate::wire::rtcp::ReportBlock;

/// Sequence numbers behind the highest in which a duplicate is recognised; older packets count as duplicates.
pub const WINDOW: u64 = 1024;
/// A jump forward of more than this is a restart, not loss (MAX_DROPOUT of RFC 3550 A.1).
pub const DROPOUT_MAX: u64 = 3000;
/// How far beyond the highest sequence number a retransmission may lie.
const RETRANSMISSION_AHEAD_MAX: u64 = 1000;
/// A transit time that changes by more than this is a new clock, not jitter.
const TRANSIT_STEP_MAX_S: u32 = 5;

/// What a packet is to its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Above every sequence number before.
    New,
    /// Below the highest, not seen yet.
    Late,
    /// Seen already, or too old to tell.
    Duplicate,
}

/// The publisher's clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderClock {
    /// Its wall clock.
    pub ntp: NtpTime,
    /// Its media timestamp, in the source's numbering.
    pub rtp_timestamp: u32,
}

/// Counters since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IngressCounters {
    /// Packets that were not duplicates, retransmissions included.
    pub packets: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Packets that came behind a higher sequence number.
    pub late: u64,
    /// Packets refused as duplicates or too old.
    pub duplicates: u64,
    /// Packets that came by RTX and filled a hole.
    pub recovered: u64,
    /// Jumps of more than [`DROPOUT_MAX`].
    pub restarts: u64,
}

#[derive(Clone, Copy, Debug)]
struct LastReport {
    ntp: NtpTime,
    rtp_timestamp: u32,
    at: Timestamp,
}

/// Reception state of one SSRC.
#[derive(Clone, Debug)]
pub struct Ingress {
    clock_rate: u32,
    highest: Option<ExtSeq>,
    /// Bit `seq % WINDOW` says whether `seq` came, for the last `WINDOW` sequence numbers.
    seen: [u64; (WINDOW / 64) as usize],
    /// First sequence number that counts as expected; moves up over a restart.
    base: u64,
    /// Packets of the original stream, duplicates excluded.
    received: u64,
    expected_prior: u64,
    received_prior: u64,
    transit: Option<u32>,
    /// Jitter times 16, as A.8 keeps it.
    jitter_scaled: u32,
    last_packet: (Timestamp, u32),
    last_report: Option<LastReport>,
    counters: IngressCounters,
}

impl Ingress {
    /// A stream that nothing was received of yet. `clock_rate` in Hz, 1 at least.
    pub fn new(clock_rate: u32, now: Timestamp) -> Ingress {
        Ingress {
            clock_rate: clock_rate.max(1),
            highest: None,
            seen: [0; (WINDOW / 64) as usize],
            base: 0,
            received: 0,
            expected_prior: 0,
            received_prior: 0,
            transit: None,
            jitter_scaled: 0,
            last_packet: (now, 0),
            last_report: None,
            counters: IngressCounters::default(),
        }
    }

    /// RTP clock rate, Hz.
    pub fn clock_rate(&self) -> u32 {
        self.clock_rate
    }

    /// Highest sequence number so far.
    pub fn highest(&self) -> Option<ExtSeq> {
        self.highest
    }

    /// When the last packet of the original stream came, or the stream was made.
    pub fn last_packet_at(&self) -> Timestamp {
        self.last_packet.0
    }

    /// Counters for statistics.
    pub fn counters(&self) -> IngressCounters {
        self.counters
    }

    /// Takes one authenticated packet. `seq` is SRTP's packet index, `bytes` the payload's length.
    #[inline]
    pub fn on_packet(&mut self, now: Timestamp, seq: ExtSeq, rtp_timestamp: u32, bytes: usize) -> Received {
        let received = self.place(seq);
        match received {
            Received::Duplicate => {
                self.counters.duplicates += 1;
                return received;
            }
            Received::Late => self.counters.late += 1,
            Received::New => {}
        }
        self.received += 1;
        self.counters.packets += 1;
        self.counters.bytes += bytes as u64;
        self.update_jitter(now, rtp_timestamp);
        if received == Received::New {
            self.last_packet = (now, rtp_timestamp);
        }
        received
    }

    /// Takes one packet that came by RTX under its original sequence number (RFC 4588 §4).
    ///
    /// Returns the extended number with the verdict. It does not count as received in our reports, since the original
    /// was lost, and its arrival time says nothing about jitter.
    #[inline]
    pub fn on_retransmission(&mut self, original: SeqNo, bytes: usize) -> (ExtSeq, Received) {
        let Some(highest) = self.highest else {
            // Without one original packet there is nothing to extend the number from.
            self.counters.duplicates += 1;
            return (ExtSeq(u64::from(original.0)), Received::Duplicate);
        };
        let seq = highest.extend(original);
        let too_far = seq.0 > highest.0 + RETRANSMISSION_AHEAD_MAX;
        let received = if too_far { Received::Duplicate } else { self.place(seq) };
        if received == Received::Duplicate {
            self.counters.duplicates += 1;
        } else {
            self.counters.packets += 1;
            self.counters.bytes += bytes as u64;
            self.counters.recovered += 1;
        }
        (seq, received)
    }

    /// Enters `seq` into the window.
    #[inline]
    fn place(&mut self, seq: ExtSeq) -> Received {
        let Some(highest) = self.highest else {
            self.base = seq.0;
            self.highest = Some(seq);
            self.mark(seq.0);
            return Received::New;
        };
        if seq > highest {
            self.advance(highest.0, seq.0);
            self.highest = Some(seq);
            self.mark(seq.0);
            return Received::New;
        }
        if highest.0 - seq.0 >= WINDOW || self.is_marked(seq.0) {
            return Received::Duplicate;
        }
        // Packets from before the first one: they were expected too.
        self.base = self.base.min(seq.0);
        self.mark(seq.0);
        Received::Late
    }

    /// Clears the window's bits for the numbers above `highest` up to `seq`.
    #[inline]
    fn advance(&mut self, highest: u64, seq: u64) {
        let step = seq - highest;
        if step == 1 {
            self.clear(seq);
            return;
        }
        if step >= WINDOW {
            self.seen = [0; (WINDOW / 64) as usize];
        } else {
            (highest + 1..=seq).for_each(|s| self.clear(s));
        }
        if step > DROPOUT_MAX {
            self.counters.restarts += 1;
            // The numbers in between were never sent: shift the base so that they are not expected.
            self.base += step - 1;
        }
    }

    #[inline]
    fn mark(&mut self, seq: u64) {
        self.seen[(seq % WINDOW / 64) as usize] |= 1 << (seq % 64);
    }

    #[inline]
    fn clear(&mut self, seq: u64) {
        self.seen[(seq % WINDOW / 64) as usize] &= !(1 << (seq % 64));
    }

    #[inline]
    fn is_marked(&self, seq: u64) -> bool {
        self.seen[(seq % WINDOW / 64) as usize] & (1 << (seq % 64)) != 0
    }

    /// RFC 3550 A.8.
    #[inline]
    fn update_jitter(&mut self, now: Timestamp, rtp_timestamp: u32) {
        let arrival = ticks(Duration::from_nanos(now.0), self.clock_rate);
        let transit = arrival.wrapping_sub(rtp_timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let d = (transit.wrapping_sub(before) as i32).unsigned_abs();
            if d < self.clock_rate.saturating_mul(TRANSIT_STEP_MAX_S) {
                self.jitter_scaled = self.jitter_scaled + d - ((self.jitter_scaled + 8) >> 4);
            }
        }
    }

    /// Interarrival jitter, RTP clock ticks.
    pub fn jitter(&self) -> u32 {
        self.jitter_scaled >> 4
    }

    /// Packets expected so far (RFC 3550 A.3).
    pub fn expected(&self) -> u64 {
        self.highest.map_or(0, |highest| highest.0 - self.base + 1)
    }

    /// Packets lost so far: expected less received. Negative when packets came more than once.
    pub fn lost(&self) -> i64 {
        self.expected() as i64 - self.received as i64
    }

    /// The block about this stream in our next report (RFC 3550 A.3). The lost share restarts with each call.
    pub fn report_block(&mut self, now: Timestamp, ssrc: Ssrc) -> ReportBlock {
        let expected = self.expected();
        let interval_expected = expected.saturating_sub(self.expected_prior);
        let interval_received = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let interval_lost = interval_expected.saturating_sub(interval_received);
        let share = (interval_lost << 8).checked_div(interval_expected).unwrap_or(0);
        let (last_sr, delay_since_last_sr) = match self.last_report {
            Some(report) => (report.ntp.middle(), ticks(now.since(report.at), 1 << 16)),
            None => (0, 0),
        };
        ReportBlock {
            ssrc,
            // All lost would be 256.
            fraction_lost: share.min(255) as u8,
            cumulative_lost: self.lost().clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest_seq: self.highest.map_or(0, |highest| highest.0 as u32),
            jitter: self.jitter(),
            last_sr,
            delay_since_last_sr,
        }
    }

    /// Takes the publisher's sender report.
    pub fn on_sender_report(&mut self, now: Timestamp, ntp: NtpTime, rtp_timestamp: u32) {
        self.last_report = Some(LastReport { ntp, rtp_timestamp, at: now });
    }

    /// The publisher's clocks at `now`, carried on from its last sender report; `None` before the first.
    ///
    /// Both values move on by the same time, so the pair lies on the publisher's own line between the two clocks and
    /// its audio and video stay aligned at the subscriber.
    pub fn sender_clock(&self, now: Timestamp) -> Option<SenderClock> {
        let report = self.last_report?;
        let elapsed = now.since(report.at);
        Some(SenderClock {
            ntp: report.ntp.advanced(elapsed),
            rtp_timestamp: report.rtp_timestamp.wrapping_add(ticks(elapsed, self.clock_rate)),
        })
    }

    /// The media timestamp at `now`, carried on from the newest packet. `None` before the first packet.
    pub fn rtp_timestamp_at(&self, now: Timestamp) -> Option<u32> {
        self.highest?;
        let (at, rtp_timestamp) = self.last_packet;
        Some(rtp_timestamp.wrapping_add(ticks(now.since(at), self.clock_rate)))
    }
}

/// `elapsed` in ticks of a clock of `rate` Hz, modulo 2^32.
#[inline]
pub fn ticks(elapsed: Duration, rate: u32) -> u32 {
    let whole = elapsed.as_secs().wrapping_mul(u64::from(rate));
    let part = u64::from(elapsed.subsec_nanos()) * u64::from(rate) / 1_000_000_000;
    whole.wrapping_add(part) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn fed(seqs: &[u64]) -> (Ingress, Vec<Received>) {
        let mut ingress = Ingress::new(90_000, ms(0));
        let verdicts = seqs.iter().map(|seq| ingress.on_packet(ms(0), ExtSeq(*seq), 0, 10)).collect();
        (ingress, verdicts)
    }

    #[test]
    fn verdicts_and_loss() {
        use Received::*;
        let cases: &[(&[u64], &[Received], i64)] = &[
            (&[10, 11, 12], &[New, New, New], 0),
            (&[10, 12, 11], &[New, New, Late], 0),
            (&[10, 12, 12], &[New, New, Duplicate], 1),
            (&[65_534, 65_537, 65_535, 65_535], &[New, New, Late, Duplicate], 1),
            (&[10, 9], &[New, Late], 0),
            (&[5000, 5000 - 1023, 5000 - 1024], &[New, Late, Duplicate], 1022),
            (&[10, 10 + 1024, 10], &[New, New, Duplicate], 1023),
            (&[10, 10 + 3000], &[New, New], 2999),
            (&[10, 10 + 3001], &[New, New], 0),
        ];
        for (seqs, verdicts, lost) in cases {
            let (ingress, found) = fed(seqs);
            assert_eq!(found, *verdicts, "{seqs:?}");
            assert_eq!(ingress.lost(), *lost, "{seqs:?}");
        }
    }

    #[test]
    fn reports_follow_a3() {
        let mut ingress = Ingress::new(8_000, ms(0));
        assert_eq!(ingress.report_block(ms(0), Ssrc(0)), ReportBlock::default());
        for seq in [65_530, 65_531, 65_533, 65_537] {
            ingress.on_packet(ms(0), ExtSeq(seq), 0, 1);
        }
        let first = ingress.report_block(ms(0), Ssrc(9));
        assert_eq!((first.fraction_lost, first.cumulative_lost, first.highest_seq), (128, 4, 65_537));
        let quiet = ingress.report_block(ms(0), Ssrc(9));
        assert_eq!((quiet.fraction_lost, quiet.cumulative_lost), (0, 4));
        ingress.on_packet(ms(0), ExtSeq(65_541), 0, 1);
        let second = ingress.report_block(ms(0), Ssrc(9));
        assert_eq!((second.fraction_lost, second.cumulative_lost), (192, 7));
        // A late packet makes the loss smaller, never the fraction negative.
        ingress.on_packet(ms(0), ExtSeq(65_540), 0, 1);
        let third = ingress.report_block(ms(0), Ssrc(9));
        assert_eq!((third.fraction_lost, third.cumulative_lost), (0, 6));
    }

    #[test]
    fn jitter_follows_a8() {
        let mut ingress = Ingress::new(8_000, ms(0));
        // 20 ms packets of 160 ticks; every other one comes 5 ms (40 ticks) late.
        let mut reference = 0f64;
        for i in 0..200u64 {
            let late = if i % 2 == 1 { 5 } else { 0 };
            ingress.on_packet(ms(1_000 + i * 20 + late), ExtSeq(i), (i * 160) as u32, 1);
            if i > 0 {
                reference += (40.0 - reference) / 16.0;
            }
        }
        assert!((f64::from(ingress.jitter()) - reference).abs() <= 1.0, "{} {reference}", ingress.jitter());
        // A source that starts a new timestamp base does not wreck it.
        ingress.on_packet(ms(5_000), ExtSeq(200), 3_000_000_000, 1);
        assert!(ingress.jitter() <= 40);
    }

    #[test]
    fn retransmissions_fill_holes_without_touching_reports() {
        let mut ingress = Ingress::new(90_000, ms(0));
        assert_eq!(ingress.on_retransmission(SeqNo(5), 1).1, Received::Duplicate);
        for seq in [65_534u64, 65_537] {
            ingress.on_packet(ms(0), ExtSeq(seq), 0, 100);
        }
        assert_eq!(ingress.on_retransmission(SeqNo(65_535), 100), (ExtSeq(65_535), Received::Late));
        assert_eq!(ingress.on_retransmission(SeqNo(65_535), 100), (ExtSeq(65_535), Received::Duplicate));
        assert_eq!(ingress.on_packet(ms(1), ExtSeq(65_535), 0, 100), Received::Duplicate);
        assert_eq!(ingress.on_retransmission(SeqNo(3), 100), (ExtSeq(65_539), Received::New));
        assert_eq!(ingress.on_retransmission(SeqNo(1010), 100).1, Received::Duplicate);
        let counters = ingress.counters();
        assert_eq!(
            (counters.recovered, counters.packets, counters.bytes, counters.duplicates),
            (2, 4, 400, 4)
        );
        assert_eq!(ingress.lost(), 4);
    }

    #[test]
    fn publisher_clock_moves_on() {
        let mut ingress = Ingress::new(90_000, ms(0));
        assert_eq!(ingress.sender_clock(ms(5)), None);
        assert_eq!(ingress.rtp_timestamp_at(ms(5)), None);
        ingress.on_packet(ms(10), ExtSeq(1), u32::MAX - 89, 1);
        assert_eq!(ingress.rtp_timestamp_at(ms(11)), Some(0));
        ingress.on_sender_report(ms(20), NtpTime(0x1234_5678 << 16), 1_000);
        assert_eq!(
            ingress.sender_clock(ms(520)),
            Some(SenderClock { ntp: NtpTime((0x1234_5678 << 16) + (1 << 31)), rtp_timestamp: 46_000 })
        );
        let block = ingress.report_block(ms(520), Ssrc(9));
        assert_eq!((block.last_sr, block.delay_since_last_sr), (0x1234_5678, 1 << 15));
    }

    proptest! {
        /// The window agrees with a plain set, whatever the order.
        #[test]
        fn duplicates_are_found(steps in prop::collection::vec(-40i64..60, 1..300), start in 0u64..200_000) {
            let mut ingress = Ingress::new(90_000, ms(0));
            let mut seen = std::collections::HashSet::new();
            let mut highest = start;
            for step in steps {
                let seq = highest.saturating_add_signed(step);
                let first = seen.insert(seq);
                let expected = match (first, seq > highest || seen.len() == 1) {
                    (false, _) => Received::Duplicate,
                    (true, true) => Received::New,
                    (true, false) => Received::Late,
                };
                prop_assert_eq!(ingress.on_packet(ms(0), ExtSeq(seq), 0, 1), expected);
                highest = if seen.len() == 1 { seq } else { highest.max(seq) };
            }
            let span = highest - seen.iter().min().unwrap() + 1;
            prop_assert_eq!(ingress.lost(), span as i64 - seen.len() as i64);
        }
    }
}

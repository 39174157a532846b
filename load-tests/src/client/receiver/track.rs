//! One received stream: which packets came, what they say of loss, jitter and the picture, and what is asked for in return.

use super::SAMPLE_EVERY;
use super::frames::Frames;
use super::missing::Missing;
use crate::client::rtcp::{self, ReportBlock};
use crate::client::rtp::{self, Extender, Header};
use crate::client::sdp::Kind;
use crate::client::srtp::Srtp;
use crate::client::stats::Stats;

/// A key frame is asked for again after this.
const PLI_INTERVAL_NS: u64 = 1_000_000_000;
/// A track without packets for so long has stalled.
const STALLED_NS: u64 = 1_000_000_000;

/// One received stream.
pub(super) struct Track {
    pub(super) kind: Kind,
    pub(super) ssrc: Option<u32>,
    pub(super) payload_type: u8,
    pub(super) rtx: Option<(Option<u32>, u8)>,
    clock: u64,
    sequence: Option<Extender>,
    rtx_sequence: Option<Extender>,
    /// Highest number when the interval began; what is above is in the interval.
    interval_base: u64,
    interval_arrived: u64,
    /// Was there when the interval began.
    old: bool,
    missing: Missing,
    frames: Frames,
    until_sample: u32,
    last_arrival_ns: u64,
    pub(super) playing: bool,
    wants_key_frame: bool,
    asked_key_frame_ns: u64,
    jitter: u64,
    transit: Option<i64>,
    pub(super) last_sr: Option<(u32, u64)>,
    report_base: u64,
    report_arrived: u64,
    lost_total: u64,
}

impl Track {
    pub(super) fn new(
        kind: Kind,
        ssrc: Option<u32>,
        payload_type: u8,
        rtx: Option<(Option<u32>, u8)>,
    ) -> Track {
        Track {
            kind,
            ssrc,
            payload_type,
            rtx,
            clock: if kind == Kind::Audio { 48_000 } else { 90_000 },
            sequence: None,
            rtx_sequence: None,
            interval_base: 0,
            interval_arrived: 0,
            missing: Missing::default(),
            frames: Frames::default(),
            until_sample: 0,
            old: false,
            last_arrival_ns: 0,
            playing: false,
            wants_key_frame: kind == Kind::Video,
            asked_key_frame_ns: 0,
            jitter: 0,
            transit: None,
            last_sr: None,
            report_base: 0,
            report_arrived: 0,
            lost_total: 0,
        }
    }

    /// Accounts a packet; its extended sequence number.
    pub(super) fn count(&mut self, header: &Header, arrival_ns: u64, stats: &mut Stats) -> u64 {
        self.last_arrival_ns = arrival_ns;
        let Some(sequence) = &mut self.sequence else {
            let first = Extender::starting_at(header.sequence);
            (self.interval_base, self.report_base) = (first.highest(), first.highest());
            self.sequence = Some(first);
            return first.highest();
        };
        let highest = sequence.highest();
        let index = sequence.extend(header.sequence);
        if index > highest {
            if self.missing.add(highest + 1..index, arrival_ns) {
                self.wants_key_frame = self.kind == Kind::Video;
            }
            self.arrived(index);
            self.measure_jitter(header, arrival_ns);
        } else if let Some(tries) = self.missing.take(index) {
            stats.reordered += u64::from(tries == 0);
            stats.repaired += u64::from(tries > 0);
            self.arrived(index);
        } else {
            stats.duplicates += 1;
        }
        index
    }

    fn arrived(&mut self, index: u64) {
        self.interval_arrived += u64::from(index > self.interval_base);
        self.report_arrived += u64::from(index > self.report_base);
    }

    /// A retransmission (RFC 4588): decrypted, for its first two bytes say which packet it is.
    pub(super) fn on_rtx(
        &mut self,
        packet: &[u8],
        header: &Header,
        arrival_ns: u64,
        rx: &Srtp,
        scratch: &mut Vec<u8>,
        stats: &mut Stats,
    ) {
        let index = match &mut self.rtx_sequence {
            Some(sequence) => sequence.extend(header.sequence),
            None => self.rtx_sequence.insert(Extender::starting_at(header.sequence)).highest(),
        };
        scratch.clear();
        scratch.extend_from_slice(packet);
        stats.sampled += 1;
        let Some(end) = rx.open_rtp(scratch, header.length, header.ssrc, index) else {
            stats.auth_failed += 1;
            return;
        };
        // Without an original it is padding, sent to probe.
        let Some(&[high, low]) =
            scratch.get(header.length..header.length + 2).filter(|_| end > header.length + 2)
        else {
            return;
        };
        let original = Header { sequence: u16::from_be_bytes([high, low]), ..*header };
        if self.sequence.is_some() {
            self.count(&original, arrival_ns, stats);
        }
    }

    pub(super) fn due_for_sample(&mut self) -> bool {
        if !self.playing || self.until_sample == 0 {
            self.until_sample = SAMPLE_EVERY - 1;
            return true;
        }
        self.until_sample -= 1;
        false
    }

    /// Looks at a decrypted payload; the media in it.
    pub(super) fn on_payload<'a>(&mut self, payload: &'a [u8], header: &Header) -> Option<&'a [u8]> {
        if self.kind == Kind::Audio {
            self.playing = true;
            return Some(payload);
        }
        let (descriptor, starts_frame) = rtp::read_vp8_descriptor(payload)?;
        let media = &payload[descriptor..];
        if starts_frame && rtp::vp8_is_key(media) {
            self.frames.begin_key(header.timestamp);
            self.wants_key_frame = false;
        }
        Some(media)
    }

    /// Watches frames end.
    pub(super) fn on_frame(&mut self, header: &Header, arrival_ns: u64, stats: &mut Stats) {
        if self.kind != Kind::Video || !self.frames.ends(header) {
            return;
        }
        if self.frames.is_key(header.timestamp) && self.missing.is_empty() {
            self.playing = true;
        }
        if self.playing {
            self.frames.count(arrival_ns, stats);
        }
    }

    /// RFC 3550 §A.8, in RTP ticks times 16.
    fn measure_jitter(&mut self, header: &Header, arrival_ns: u64) {
        let (seconds, rest) = (arrival_ns / 1_000_000_000, arrival_ns % 1_000_000_000);
        let arrival = (seconds * self.clock + rest * self.clock / 1_000_000_000) as u32;
        let transit = i64::from(arrival.wrapping_sub(header.timestamp) as i32);
        if let Some(last) = self.transit.replace(transit) {
            let difference = last.abs_diff(transit).min(self.clock);
            self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4);
        }
    }

    /// Appends requests for missing packets and for a key frame, where they are due; audio asks for nothing.
    pub(super) fn requests(&mut self, out: &mut Vec<u8>, own: u32, now_ns: u64, stats: &mut Stats) {
        let Some(ssrc) = self.ssrc.filter(|_| self.kind == Kind::Video) else { return };
        self.wants_key_frame |= self.missing.give_up(now_ns);
        let wanted = self.missing.due(now_ns);
        if !wanted.is_empty() {
            stats.nacks_sent += wanted.len() as u64;
            rtcp::nack(out, own, ssrc, &wanted);
        }
        let waited = now_ns.saturating_sub(self.asked_key_frame_ns) > PLI_INTERVAL_NS;
        if self.wants_key_frame && self.sequence.is_some() && waited {
            rtcp::picture_loss(out, own, ssrc);
            self.asked_key_frame_ns = now_ns;
            stats.plis_sent += 1;
        }
    }

    /// Its block of a receiver report (RFC 3550 §6.4.1), once a packet has come.
    pub(super) fn report(&mut self, now_ns: u64) -> Option<ReportBlock> {
        let (ssrc, highest) = (self.ssrc?, self.sequence?.highest());
        let expected = highest - self.report_base;
        let lost = expected.saturating_sub(self.report_arrived);
        self.lost_total += lost;
        (self.report_base, self.report_arrived) = (highest, 0);
        if self.kind == Kind::Audio {
            // Nobody asks for audio again: its gaps end with the report.
            self.missing.clear();
        }
        let (last_sr, since) = self.last_sr.map_or((0, 0), |(sr, at)| (sr, now_ns.saturating_sub(at)));
        Some(ReportBlock {
            ssrc,
            fraction_lost: (lost * 256).checked_div(expected).unwrap_or(0).min(255) as u8,
            total_lost: self.lost_total.min(0x7F_FFFF) as u32,
            highest: highest as u32,
            jitter: (self.jitter >> 4) as u32,
            last_sr,
            delay_since_sr: (since * 65_536 / 1_000_000_000) as u32,
        })
    }

    /// Begins an interval of measurement.
    pub(super) fn begin_interval(&mut self) {
        self.interval_base = self.sequence.map_or(0, |sequence| sequence.highest());
        self.interval_arrived = 0;
        self.old = true;
    }

    /// Adds this track's share of the interval.
    pub(super) fn end_interval(&self, now_ns: u64, stats: &mut Stats) {
        stats.tracks += 1;
        let highest = self.sequence.map_or(0, |sequence| sequence.highest());
        // A track that began within the interval is counted from its second packet on.
        if self.interval_base > 0 {
            stats.expected += highest - self.interval_base;
            stats.arrived += self.interval_arrived;
        }
        // One that was negotiated within the interval may still be on its way.
        let silent = now_ns.saturating_sub(self.last_arrival_ns) > STALLED_NS;
        let stalled = silent && (self.old || self.last_arrival_ns > 0);
        stats.stalled += u64::from(stalled);
        if self.kind == Kind::Video && !stalled {
            stats.jitter_us.saturating_record((self.jitter * 1_000_000 / self.clock / 16).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track() -> Track {
        Track::new(Kind::Video, Some(7), 96, None)
    }

    fn packet(sequence: u16) -> Header {
        Header {
            payload_type: 96,
            marker: true,
            padding: false,
            sequence,
            timestamp: u32::from(sequence) * 3_000,
            ssrc: 7,
            length: 12,
        }
    }

    #[test]
    fn loss_is_what_is_still_missing() {
        let (mut track, mut stats) = (track(), Stats::default());
        for sequence in [65_533, 65_534, 0, 1, 65_535, 1, 4] {
            track.count(&packet(sequence), 1_000, &mut stats);
        }
        assert_eq!((stats.reordered, stats.duplicates), (1, 1));
        assert_eq!(track.missing.due(1_000_000_000), [2, 3]);
        let block = track.report(2_000).expect("it has begun");
        assert_eq!((block.total_lost, block.highest), (2, 65_540));
        assert_eq!(block.fraction_lost, (2 * 256 / 7) as u8);
        assert_eq!(track.report(3_000).map(|block| block.fraction_lost), Some(0));
    }

    #[test]
    fn a_packet_is_repaired_and_a_lost_one_costs_a_key_frame() {
        let (mut track, mut stats) = (track(), Stats::default());
        track.wants_key_frame = false;
        track.count(&packet(1), 0, &mut stats);
        track.count(&packet(3), 0, &mut stats);
        let (mut out, second) = (Vec::new(), 1_000_000_000);
        track.requests(&mut out, 9, second / 2, &mut stats);
        assert_eq!((stats.nacks_sent, stats.plis_sent), (1, 0));
        track.count(&packet(2), second / 2, &mut stats);
        assert_eq!((stats.repaired, track.missing.is_empty()), (1, true));
        track.count(&packet(5), second, &mut stats);
        track.requests(&mut out, 9, 3 * second, &mut stats);
        assert_eq!((stats.nacks_sent, stats.plis_sent, track.missing.is_empty()), (1, 1, true));
    }

    #[test]
    fn a_whole_key_frame_begins_the_picture() {
        let (mut track, mut stats) = (track(), Stats::default());
        track.count(&packet(1), 1, &mut stats);
        track.on_frame(&packet(1), 1, &mut stats);
        // Payload descriptor with the start bit, then the first byte of a key frame (RFC 7741 §4.2, RFC 6386 §9.1).
        track.on_payload(&[0x10, 0x00, 0, 0], &packet(2));
        track.count(&packet(2), 2, &mut stats);
        assert!(!track.playing && !track.wants_key_frame);
        track.on_frame(&packet(2), 2, &mut stats);
        assert!(track.playing);
        assert_eq!(stats.frames, 1);
    }
}

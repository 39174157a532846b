//! The receiving side of a light client: counts every packet by its clear header, decrypts and verifies a sample.
//!
//! Loss, order, frames and freezes come from sequence numbers, timestamps and marker bits of all packets; those are
//! authenticated but not encrypted. Until the picture runs every packet is decrypted, afterwards one in [`SAMPLE_EVERY`]: it
//! proves the keys, and its payload tells when it was sent.

use std::sync::Arc;

use super::rtcp::{self, Item, ReportBlock};
use super::rtp::{self, Extender, Header};
use super::sdp::{Kind, Remote, extension};
use super::srtp::Srtp;
use super::stats::Stats;
use super::units::{SendLog, Units};

/// One packet in so many is decrypted.
pub(crate) const SAMPLE_EVERY: u32 = 16;
/// Packets of a track that may be missing at a time; beyond, the oldest are given up.
const MISSING_MAX: usize = 256;
/// How often a packet is asked for again.
const NACK_TRIES: u8 = 8;
/// Pause between two requests for the same packet.
const NACK_INTERVAL_NS: u64 = 100_000_000;
/// A packet is given up after this.
const MISSING_AGE_NS: u64 = 1_000_000_000;
/// A key frame is asked for again after this.
const PLI_INTERVAL_NS: u64 = 1_000_000_000;
/// Additional pause between frames that libwebrtc counts as a freeze.
const FREEZE_EXTRA_NS: u64 = 150_000_000;
/// A track without packets for so long has stalled.
const STALLED_NS: u64 = 1_000_000_000;

struct Missing {
    index: u64,
    since_ns: u64,
    asked_ns: u64,
    tries: u8,
}

/// One received stream.
struct Track {
    kind: Kind,
    ssrc: Option<u32>,
    payload_type: u8,
    rtx: Option<(Option<u32>, u8)>,
    clock: u64,
    sequence: Option<Extender>,
    rtx_sequence: Option<Extender>,
    /// Highest number when the interval began; what is above is in the interval.
    interval_base: u64,
    interval_arrived: u64,
    /// Was there when the interval began.
    old: bool,
    missing: Vec<Missing>,
    until_sample: u32,
    last_arrival_ns: u64,
    frame_timestamp: Option<u32>,
    frame_complete_ns: u64,
    frame_interval_ns: u64,
    /// Timestamp of a key frame whose first packet was seen.
    key_frame: Option<u32>,
    playing: bool,
    wants_key_frame: bool,
    asked_key_frame_ns: u64,
    jitter: u64,
    transit: Option<i64>,
    last_sr: Option<(u32, u64)>,
    report_base: u64,
    report_arrived: u64,
    lost_total: u64,
}

/// Receiver of one peer connection's streams.
pub(crate) struct Receiver {
    tracks: Vec<Track>,
    /// M-lines that have a track.
    mids: Vec<String>,
    units: Arc<Units>,
    log: Option<Arc<SendLog>>,
    own_ssrc: u32,
    remb: bool,
    transport_cc: Option<TransportCc>,
    overflowed: u32,
    scratch: Vec<u8>,
}

/// Arrivals to be reported when the server asked for transport-wide feedback.
struct TransportCc {
    id: u8,
    base: Option<u16>,
    arrivals: Vec<Option<i64>>,
    reference_ns: u64,
    count: u8,
}

impl Receiver {
    /// For what `offer` sends. `log`: of the publisher behind it, when there is only one.
    pub(crate) fn new(
        offer: &Remote,
        units: Arc<Units>,
        log: Option<Arc<SendLog>>,
        own_ssrc: u32,
    ) -> Receiver {
        let video = offer.section(Kind::Video);
        let has = |name: &str| video.is_some_and(|video| video.feedback.iter().any(|line| line == name));
        let transport_cc = video.filter(|_| has("transport-cc")).and_then(|video| {
            let id = video.extension(extension::TRANSPORT_CC)?;
            Some(TransportCc { id, base: None, arrivals: Vec::new(), reference_ns: 0, count: 0 })
        });
        let mut receiver = Receiver {
            tracks: Vec::new(),
            mids: Vec::new(),
            units,
            log,
            own_ssrc,
            remb: has("goog-remb") && transport_cc.is_none(),
            transport_cc,
            overflowed: 0,
            scratch: Vec::with_capacity(2048),
        };
        receiver.add_tracks(offer);
        receiver
    }

    /// Adds the streams of a (re)negotiated offer that are not known yet.
    pub(crate) fn add_tracks(&mut self, offer: &Remote) {
        for section in &offer.sections {
            if let (Some(kind), Some(payload_type)) = (section.kind(), section.payload_type)
                && !self.mids.contains(&section.mid)
            {
                let rtx = section.rtx_payload_type.map(|number| (section.rtx_ssrc, number));
                self.mids.push(section.mid.clone());
                self.tracks.push(Track::new(kind, section.ssrc, payload_type, rtx));
            }
        }
    }

    /// Whether each video track (or, without one, each audio track) has shown a whole key frame.
    pub(crate) fn is_playing(&self) -> bool {
        let has_video = self.tracks.iter().any(|track| track.kind == Kind::Video);
        let shown = |track: &Track| track.playing || (has_video && track.kind == Kind::Audio);
        !self.tracks.is_empty() && self.tracks.iter().all(shown)
    }

    /// Notes how many datagrams the socket's full buffer has refused so far.
    pub(crate) fn on_overflow(&mut self, total: u32, stats: &mut Stats) {
        stats.overflowed += u64::from(total.wrapping_sub(self.overflowed));
        self.overflowed = total;
    }

    /// Takes one protected RTP packet.
    pub(crate) fn on_rtp(&mut self, packet: &[u8], arrival_ns: u64, rx: &Srtp, stats: &mut Stats) {
        stats.received_packets += 1;
        stats.received_bytes += packet.len() as u64;
        let Some(header) = rtp::read(packet) else {
            stats.unknown += 1;
            return;
        };
        if let Some(feedback) = &mut self.transport_cc {
            feedback.on_packet(packet, arrival_ns);
        }
        let Some((number, is_rtx)) = self.find(&header) else {
            stats.unknown += 1;
            return;
        };
        let track = &mut self.tracks[number];
        if is_rtx {
            return track.on_rtx(packet, &header, arrival_ns, rx, &mut self.scratch, stats);
        }
        let index = track.count(&header, arrival_ns, stats);
        let sample = track.due_for_sample();
        if sample {
            self.scratch.clear();
            self.scratch.extend_from_slice(packet);
            stats.sampled += 1;
            match rx.open_rtp(&mut self.scratch, header.length, header.ssrc, index) {
                None => stats.auth_failed += 1,
                Some(end) => {
                    let payload = without_padding(&self.scratch[header.length..end], header.padding);
                    let unit = track.on_payload(payload, &header).and_then(|media| self.units.find(media));
                    if let (Some(unit), Some(log)) = (unit, &self.log)
                        && let Some(delay) = log.delay_ns(unit, arrival_ns)
                    {
                        stats.delay(delay);
                    }
                }
            }
        }
        track.on_frame(&header, arrival_ns, stats);
    }

    fn find(&mut self, header: &Header) -> Option<(usize, bool)> {
        let by_ssrc = |track: &Track| {
            if track.ssrc == Some(header.ssrc) {
                return Some(false);
            }
            matches!(track.rtx, Some((Some(ssrc), _)) if ssrc == header.ssrc).then_some(true)
        };
        if let Some(found) =
            self.tracks.iter().enumerate().find_map(|(number, track)| Some((number, by_ssrc(track)?)))
        {
            return Some(found);
        }
        // An SDP without a=ssrc: the payload type decides (RFC 9143 §9.2), once.
        self.tracks.iter_mut().enumerate().find_map(|(number, track)| {
            if track.ssrc.is_none() && track.payload_type == header.payload_type {
                track.ssrc = Some(header.ssrc);
                return Some((number, false));
            }
            match &mut track.rtx {
                Some((ssrc @ None, payload_type)) if *payload_type == header.payload_type => {
                    *ssrc = Some(header.ssrc);
                    Some((number, true))
                }
                _ => None,
            }
        })
    }

    /// Takes the server's sender reports.
    pub(crate) fn on_rtcp(&mut self, item: &Item, arrival_ns: u64) {
        if let Item::SenderReport(ssrc, middle) = item
            && let Some(track) = self.tracks.iter_mut().find(|track| track.ssrc == Some(*ssrc))
        {
            track.last_sr = Some((*middle, arrival_ns));
        }
    }

    /// Appends what has to be asked for now: missing packets, key frames, transport-wide feedback.
    pub(crate) fn requests(&mut self, out: &mut Vec<u8>, now_ns: u64, stats: &mut Stats) {
        let own = self.own_ssrc;
        for track in self.tracks.iter_mut().filter(|track| track.kind == Kind::Video) {
            let Some(ssrc) = track.ssrc else { continue };
            if !track.missing.is_empty() {
                track.nacks(out, own, ssrc, now_ns, stats);
            }
            let waited = now_ns.saturating_sub(track.asked_key_frame_ns) > PLI_INTERVAL_NS;
            if track.wants_key_frame && track.sequence.is_some() && waited {
                rtcp::picture_loss(out, own, ssrc);
                track.asked_key_frame_ns = now_ns;
                stats.plis_sent += 1;
            }
        }
        if let (Some(feedback), Some(ssrc)) =
            (&mut self.transport_cc, self.tracks.iter().find_map(|t| t.ssrc))
        {
            feedback.flush(out, own, ssrc);
        }
    }

    /// Appends the receiver report of all tracks, and the estimate where the server wants one.
    pub(crate) fn reports(&mut self, out: &mut Vec<u8>, now_ns: u64) {
        let blocks: Vec<_> = self.tracks.iter_mut().filter_map(|track| track.report(now_ns)).collect();
        if blocks.is_empty() {
            return;
        }
        rtcp::receiver_report(out, self.own_ssrc, &blocks);
        rtcp::description(out, self.own_ssrc);
        let video = self.tracks.iter().find(|track| track.kind == Kind::Video).and_then(|track| track.ssrc);
        if let Some(ssrc) = video.filter(|_| self.remb) {
            // A browser on a wide link: above all that is sent here.
            rtcp::remb(out, self.own_ssrc, 5_000_000, ssrc);
        }
    }

    /// Begins an interval of measurement.
    pub(crate) fn begin_interval(&mut self) {
        for track in &mut self.tracks {
            track.interval_base = track.sequence.map_or(0, |sequence| sequence.highest());
            track.interval_arrived = 0;
            track.old = true;
        }
    }

    /// Adds this receiver's share of the interval.
    pub(crate) fn end_interval(&mut self, now_ns: u64, stats: &mut Stats) {
        for track in &self.tracks {
            stats.tracks += 1;
            let highest = track.sequence.map_or(0, |sequence| sequence.highest());
            // A track that began within the interval is counted from its second packet on.
            if track.interval_base > 0 {
                stats.expected += highest - track.interval_base;
                stats.arrived += track.interval_arrived;
            }
            // One that was negotiated within the interval may still be on its way.
            let silent = now_ns.saturating_sub(track.last_arrival_ns) > STALLED_NS;
            let stalled = silent && (track.old || track.last_arrival_ns > 0);
            stats.stalled += u64::from(stalled);
            if track.kind == Kind::Video && !stalled {
                stats.jitter_us.saturating_record((track.jitter * 1_000_000 / track.clock / 16).max(1));
            }
        }
    }
}

impl Track {
    fn new(kind: Kind, ssrc: Option<u32>, payload_type: u8, rtx: Option<(Option<u32>, u8)>) -> Track {
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
            missing: Vec::new(),
            until_sample: 0,
            old: false,
            last_arrival_ns: 0,
            frame_timestamp: None,
            frame_complete_ns: 0,
            frame_interval_ns: 0,
            key_frame: None,
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
    fn count(&mut self, header: &Header, arrival_ns: u64, stats: &mut Stats) -> u64 {
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
            for missing in highest + 1..index {
                if self.missing.len() == MISSING_MAX {
                    self.missing.remove(0);
                    self.wants_key_frame = self.kind == Kind::Video;
                }
                self.missing.push(Missing { index: missing, since_ns: arrival_ns, asked_ns: 0, tries: 0 });
            }
            self.arrived(index);
            self.measure_jitter(header, arrival_ns);
        } else if let Some(at) = self.missing.iter().position(|missing| missing.index == index) {
            let missing = self.missing.remove(at);
            stats.reordered += u64::from(missing.tries == 0);
            stats.repaired += u64::from(missing.tries > 0);
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
    fn on_rtx(
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

    fn due_for_sample(&mut self) -> bool {
        if !self.playing || self.until_sample == 0 {
            self.until_sample = SAMPLE_EVERY - 1;
            return true;
        }
        self.until_sample -= 1;
        false
    }

    /// Looks at a decrypted payload; the media in it.
    fn on_payload<'a>(&mut self, payload: &'a [u8], header: &Header) -> Option<&'a [u8]> {
        if self.kind == Kind::Audio {
            self.playing = true;
            return Some(payload);
        }
        let (descriptor, starts_frame) = rtp::read_vp8_descriptor(payload)?;
        let media = &payload[descriptor..];
        if starts_frame && rtp::vp8_is_key(media) {
            self.key_frame = Some(header.timestamp);
            self.wants_key_frame = false;
        }
        Some(media)
    }

    /// Watches frames end.
    fn on_frame(&mut self, header: &Header, arrival_ns: u64, stats: &mut Stats) {
        if self.kind != Kind::Video || !header.marker || self.frame_timestamp == Some(header.timestamp) {
            return;
        }
        self.frame_timestamp = Some(header.timestamp);
        if self.key_frame == Some(header.timestamp) && self.missing.is_empty() {
            self.playing = true;
        }
        if !self.playing {
            return;
        }
        stats.frames += 1;
        if self.frame_complete_ns > 0 {
            let interval = arrival_ns.saturating_sub(self.frame_complete_ns);
            let usual = self.frame_interval_ns;
            if usual > 0 && interval > (3 * usual).max(usual + FREEZE_EXTRA_NS) {
                stats.freezes += 1;
            } else {
                self.frame_interval_ns = if usual == 0 { interval } else { (usual * 15 + interval) / 16 };
            }
        }
        self.frame_complete_ns = arrival_ns;
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

    fn nacks(&mut self, out: &mut Vec<u8>, own: u32, ssrc: u32, now_ns: u64, stats: &mut Stats) {
        let before = self.missing.len();
        self.missing.retain(|missing| now_ns.saturating_sub(missing.since_ns) < MISSING_AGE_NS);
        if self.missing.len() < before {
            self.wants_key_frame = true;
        }
        let mut wanted: Vec<u16> = Vec::new();
        for missing in &mut self.missing {
            if missing.tries < NACK_TRIES && now_ns.saturating_sub(missing.asked_ns) >= NACK_INTERVAL_NS {
                (missing.tries, missing.asked_ns) = (missing.tries + 1, now_ns);
                wanted.push(missing.index as u16);
            }
        }
        if !wanted.is_empty() {
            stats.nacks_sent += wanted.len() as u64;
            rtcp::nack(out, own, ssrc, &wanted);
        }
    }

    fn report(&mut self, now_ns: u64) -> Option<ReportBlock> {
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
}

impl TransportCc {
    fn on_packet(&mut self, packet: &[u8], arrival_ns: u64) {
        let Some(sequence) = one_byte_extension(packet, self.id).and_then(|value| value.try_into().ok())
        else {
            return;
        };
        let sequence = u16::from_be_bytes(sequence);
        let base = *self.base.get_or_insert_with(|| {
            self.reference_ns = arrival_ns / 64_000_000 * 64_000_000;
            sequence
        });
        let at = usize::from(sequence.wrapping_sub(base));
        // Older than the base, or a jump that one message cannot hold.
        if at >= 512 {
            return;
        }
        if self.arrivals.len() <= at {
            self.arrivals.resize(at + 1, None);
        }
        self.arrivals[at] = Some((arrival_ns.saturating_sub(self.reference_ns) / 250_000) as i64);
    }

    fn flush(&mut self, out: &mut Vec<u8>, own: u32, media: u32) {
        let Some(base) = self.base.take() else { return };
        let feedback = rtcp::TransportFeedback {
            base,
            reference: (self.reference_ns / 64_000_000) as u32,
            count: self.count,
            arrivals: &self.arrivals,
        };
        rtcp::transport_feedback(out, own, media, &feedback);
        self.count = self.count.wrapping_add(1);
        self.arrivals.clear();
    }
}

/// Value of a one-byte header extension (RFC 8285 §4.2).
fn one_byte_extension(packet: &[u8], id: u8) -> Option<&[u8]> {
    let start = rtp::FIXED_HEADER + 4 * usize::from(packet[0] & 0x0F);
    if packet[0] & 0x10 == 0 || packet.get(start..start + 2)? != [0xBE, 0xDE] {
        return None;
    }
    let end = start + 4 + 4 * usize::from(u16::from_be_bytes([packet[start + 2], packet[start + 3]]));
    let mut at = start + 4;
    while at < end {
        let byte = *packet.get(at)?;
        let length = if byte == 0 { 0 } else { usize::from(byte & 0x0F) + 1 };
        if byte >> 4 == id && byte != 0 {
            return packet.get(at + 1..at + 1 + length);
        }
        at += 1 + length;
    }
    None
}

fn without_padding(payload: &[u8], padded: bool) -> &[u8] {
    let padding = if padded { payload.last().map_or(0, |count| usize::from(*count)) } else { 0 };
    &payload[..payload.len().saturating_sub(padding)]
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
        let missing: Vec<_> = track.missing.iter().map(|missing| missing.index).collect();
        assert_eq!(missing, [65_538, 65_539]);
        let block = track.report(2_000).expect("it has begun");
        assert_eq!((block.total_lost, block.highest), (2, 65_540));
        assert_eq!(block.fraction_lost, (2 * 256 / 7) as u8);
        assert_eq!(track.report(3_000).map(|block| block.fraction_lost), Some(0));
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes() {
        let (mut track, mut stats) = (track(), Stats::default());
        track.count(&packet(1), 0, &mut stats);
        track.count(&packet(3), 0, &mut stats);
        let mut out = Vec::new();
        let at = NACK_INTERVAL_NS;
        track.nacks(&mut out, 9, 7, at, &mut stats);
        track.nacks(&mut out, 9, 7, at + 1, &mut stats);
        assert_eq!(stats.nacks_sent, 1);
        track.count(&packet(2), at + 2, &mut stats);
        assert_eq!((stats.repaired, track.missing.len()), (1, 0));
        track.count(&packet(5), at + 2, &mut stats);
        track.nacks(&mut out, 9, 7, at + 2 + MISSING_AGE_NS, &mut stats);
        assert!(track.missing.is_empty() && track.wants_key_frame);
    }

    #[test]
    fn a_pause_of_the_picture_is_a_freeze() {
        let (mut track, mut stats) = (track(), Stats::default());
        track.playing = true;
        let mut now = 1_000_000_000;
        for sequence in 0..40 {
            now += 33_000_000;
            track.on_frame(&packet(sequence), now, &mut stats);
        }
        assert_eq!(stats.freezes, 0);
        track.on_frame(&packet(41), now + 190_000_000, &mut stats);
        assert_eq!((stats.freezes, stats.frames), (1, 41));
    }

    #[test]
    fn padding_and_extensions() {
        assert_eq!(without_padding(&[1, 2, 3, 2], true), [1, 2]);
        assert_eq!(without_padding(&[1, 2, 3, 9], true), [0; 0]);
        assert_eq!(without_padding(&[1, 2], false), [1, 2]);
        let mut out = Vec::new();
        let extensions =
            [rtp::Extension { id: 2, value: &[1, 2, 3] }, rtp::Extension { id: 3, value: &[4, 5] }];
        rtp::write(&mut out, &packet(1), &extensions);
        assert_eq!(one_byte_extension(&out, 3), Some(&[4, 5][..]));
        assert_eq!(one_byte_extension(&out, 5), None);
    }
}

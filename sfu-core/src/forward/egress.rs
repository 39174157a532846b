//! State of one sent RTP stream: what rewriting, retransmission and reports share.
//!
//! ```text
//!            resume, switch, start                     key frame (audio: any packet)
//!   Paused ─────────────────────────▶ AwaitingKeyFrame ─────────────────────────────▶ Open
//!     ▲                                     │  ▲                                        │
//!     └──────────────── pause ──────────────┘  └──────────── switch source ─────────────┤
//!     └──────────────────────────────── pause ──────────────────────────────────────────┘
//! ```
//!
//! Nothing in here looks at the payload: the caller says whether a packet begins a key frame.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::control::proto::MediaKind;
use crate::drop_reason::DropReason;
use crate::forward::ingress::SenderClock;
use crate::forward::rewrite::ExtensionMap;
use crate::forward::room::Format;
use crate::forward::rtx::ResendLimiter;
use crate::forward::seq_map::{Mapped, SeqMap, SourceId};
use crate::ids::{ExtSeq, PayloadType, SeqNo, Ssrc};
use crate::time::Timestamp;
use crate::wire::rtcp::{ReportBlock, SenderInfo};
use crate::wire::rtp::{HeaderFields, RtpHeader};

/// Sender reports whose time is remembered, so that the peer may answer an older one.
const REPORTS: usize = 4;
/// A round trip beyond this is a wrong clock, not a path.
const RTT_MAX: Duration = Duration::from_secs(10);

/// What the subscriber negotiated for one track.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// Audio or video: video starts at key frames.
    pub kind: MediaKind,
    /// Payload format that was negotiated.
    pub format: Format,
    /// SSRC to send with.
    pub ssrc: Ssrc,
    /// Payload type to send with.
    pub payload_type: PayloadType,
    /// Clock rate of the codec, Hz.
    pub clock_rate: u32,
    /// SSRC and payload type of retransmissions; plain resend without.
    pub rtx: Option<(Ssrc, PayloadType)>,
    /// Header extensions towards this subscriber.
    pub extensions: ExtensionMap,
    /// First sequence number, random (RFC 3550 §5.1).
    pub first_seq: u16,
    /// First sequence number of the RTX stream, random.
    pub first_rtx_seq: u16,
}

/// A received packet, as far as the decision to forward it goes.
#[derive(Clone, Copy, Debug)]
pub struct Incoming {
    /// Stream it came on.
    pub source: SourceId,
    /// Its sequence number there.
    pub seq: ExtSeq,
    /// Its media timestamp there.
    pub timestamp: u32,
    /// It begins a key frame.
    pub key_frame: bool,
    /// It has no payload (padding only).
    pub empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Paused,
    AwaitingKeyFrame,
    Open,
}

/// Counters since the stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EgressCounters {
    /// Packets sent, resends excluded.
    pub packets: u64,
    /// Payload bytes of those.
    pub bytes: u64,
    /// Packets sent again.
    pub resent: u64,
    /// Payload bytes of those.
    pub resent_bytes: u64,
    /// Sequence numbers the peer asked for.
    pub nacked: u64,
    /// Key frame requests of the peer.
    pub key_frame_requests: u64,
}

/// What the peer's last report said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerReport {
    /// Lost share of its last interval, 1/256.
    pub fraction_lost: u8,
    /// Lost in all.
    pub cumulative_lost: i32,
    /// Its jitter, RTP clock ticks.
    pub jitter: u32,
}

/// One sent SSRC.
#[derive(Clone, Debug)]
pub struct Egress {
    config: EgressConfig,
    gate: Gate,
    /// The publisher sends another codec than was negotiated here.
    foreign: bool,
    map: SeqMap,
    limiter: ResendLimiter,
    next_rtx: ExtSeq,
    counters: EgressCounters,
    /// (middle bits of the NTP time, when it was sent), by turns.
    reports: [(u32, Timestamp); REPORTS],
    reports_next: usize,
    peer: Option<PeerReport>,
    rtt: Option<Duration>,
}

impl Egress {
    /// A stream that forwards `source`, from its next key frame on for video.
    pub fn new(config: EgressConfig, source: SourceId) -> Egress {
        Egress {
            gate: Gate::AwaitingKeyFrame,
            foreign: false,
            map: SeqMap::new(config.clock_rate, config.first_seq, source),
            limiter: ResendLimiter::new(),
            next_rtx: ExtSeq(u64::from(config.first_rtx_seq & 0x7fff)),
            counters: EgressCounters::default(),
            reports: [(0, Timestamp::ZERO); REPORTS],
            reports_next: 0,
            peer: None,
            rtt: None,
            config,
        }
    }

    /// What was negotiated.
    pub fn config(&self) -> &EgressConfig {
        &self.config
    }

    /// Replaces the extension map, when the publisher moved and numbers its extensions otherwise.
    ///
    /// Without RTX, packets sent before must not be sent again after this: they would differ under the same index.
    /// [`Egress::switch_source`] comes with a change of publisher, and the packets of the old source leave with its cache.
    pub fn set_extensions(&mut self, extensions: ExtensionMap) {
        self.config.extensions = extensions;
    }

    /// Says whether the publisher sends another codec than was negotiated here, after it moved. None of it goes out under
    /// a payload type that means something else; whoever negotiates decides what happens to the stream.
    pub fn set_foreign(&mut self, foreign: bool) {
        self.foreign = foreign;
        if foreign && self.gate == Gate::Open {
            self.map.hold();
            self.gate = Gate::AwaitingKeyFrame;
        }
    }

    /// The stream forwarded now.
    pub fn source(&self) -> SourceId {
        self.map.source()
    }

    /// Counters for statistics.
    pub fn counters(&self) -> EgressCounters {
        self.counters
    }

    /// The peer's last report about this stream.
    pub fn peer_report(&self) -> Option<PeerReport> {
        self.peer
    }

    /// Last round-trip time to the peer.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Whether it can go on only with a key frame.
    #[inline]
    pub fn awaits_key_frame(&self) -> bool {
        self.gate == Gate::AwaitingKeyFrame && self.config.kind == MediaKind::Video
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.gate == Gate::Paused
    }

    /// Stops or goes on. Afterwards ask [`Egress::awaits_key_frame`].
    pub fn set_paused(&mut self, paused: bool) {
        match (paused, self.gate) {
            (true, _) => {
                self.map.hold();
                self.gate = Gate::Paused;
            }
            (false, Gate::Paused) => self.gate = Gate::AwaitingKeyFrame,
            (false, _) => {}
        }
    }

    /// Forwards another received stream from now on. Sequence numbers and timestamps go on without a step.
    pub fn switch_source(&mut self, source: SourceId) {
        if source == self.map.source() {
            return;
        }
        self.map.switch(source);
        if self.gate == Gate::Open {
            self.gate = Gate::AwaitingKeyFrame;
        }
    }

    /// Decides about one packet and gives it its place.
    ///
    /// # Errors
    /// `Paused` at a closed gate and for a foreign codec, `Duplicate` for padding, `TooOld` when it came too late to have a place.
    #[inline]
    pub fn rewrite(&mut self, now: Timestamp, packet: &Incoming) -> Result<Mapped, DropReason> {
        if self.gate != Gate::Open {
            self.try_open(packet)?;
        }
        // Padding whose number is spent already goes out empty rather than leaving a hole.
        if packet.empty && self.map.drop_packet(packet.source, packet.seq) {
            return Err(DropReason::Duplicate);
        }
        self.map.forward(now, packet.source, packet.seq, packet.timestamp).ok_or(DropReason::TooOld)
    }

    fn try_open(&mut self, packet: &Incoming) -> Result<(), DropReason> {
        let starts = packet.key_frame || self.config.kind == MediaKind::Audio;
        let takes = self.gate == Gate::AwaitingKeyFrame && !self.foreign && starts && !packet.empty;
        if !takes || !self.map.is_new(packet.source, packet.seq) {
            return Err(DropReason::Paused);
        }
        self.gate = Gate::Open;
        Ok(())
    }

    /// The place of a packet that was sent before, for a plain resend (same number, same bytes) and for the timestamp
    /// and OSN of an RTX packet.
    pub fn place(&self, source: SourceId, seq: ExtSeq, timestamp: u32) -> Option<Mapped> {
        self.map.lookup(source, seq, timestamp)
    }

    /// Header fields of a packet sent the first time, or resent plainly.
    #[inline]
    pub fn fields(&self, header: &RtpHeader, mapped: Mapped) -> HeaderFields {
        HeaderFields {
            marker: header.marker,
            padding: false,
            payload_type: self.config.payload_type,
            seq: mapped.seq.seq(),
            timestamp: mapped.timestamp,
            ssrc: self.config.ssrc,
        }
    }

    /// Header fields and SRTP index of the next RTX packet, which carries the packet placed at `mapped`. `None` when
    /// RTX is not negotiated.
    pub fn next_rtx(&mut self, header: &RtpHeader, mapped: Mapped) -> Option<(HeaderFields, ExtSeq)> {
        let (ssrc, payload_type) = self.config.rtx?;
        let index = self.next_rtx;
        self.next_rtx.0 += 1;
        Some((HeaderFields { ssrc, payload_type, seq: index.seq(), ..self.fields(header, mapped) }, index))
    }

    /// Counts a packet that was sealed for the first time.
    #[inline]
    pub fn on_sent(&mut self, payload_bytes: usize) {
        self.counters.packets += 1;
        self.counters.bytes += payload_bytes as u64;
        self.limiter.on_sent();
    }

    /// Counts a packet that was sealed again.
    pub fn on_resent(&mut self, payload_bytes: usize) {
        self.counters.resent += 1;
        self.counters.resent_bytes += payload_bytes as u64;
    }

    /// Takes one sequence number of a NACK. Returns the source packet to look up and send again, unless it is unknown,
    /// was sent again just now, or the budget for resends is used up.
    pub fn on_nack(&mut self, now: Timestamp, seq: SeqNo) -> Option<(SourceId, ExtSeq)> {
        self.counters.nacked += 1;
        let packet = self.map.reverse(seq)?;
        self.limiter.admit(now, self.rtt.unwrap_or_default(), seq).then_some(packet)
    }

    /// Counts a PLI or FIR of the peer.
    pub fn on_key_frame_request(&mut self) {
        self.counters.key_frame_requests += 1;
    }

    /// Sender info for a report sent at `now`. `None` while nothing can be said: nothing was sent, or the source's first
    /// packet after a switch is still to come.
    ///
    /// `clock`: the publisher's, of its stream `source` (`Ingress::sender_clock`). Nothing is said about another stream
    /// than the one forwarded: its timestamps count from elsewhere.
    pub fn sender_info(
        &mut self,
        now: Timestamp,
        source: SourceId,
        clock: SenderClock,
    ) -> Option<SenderInfo> {
        if self.counters.packets == 0 {
            return None;
        }
        let rtp_timestamp = self.map.map_timestamp(source, clock.rtp_timestamp)?;
        self.reports[self.reports_next] = (clock.ntp.middle(), now);
        self.reports_next = (self.reports_next + 1) % REPORTS;
        let (packets, octets) = (self.counters.packets as u32, self.counters.bytes as u32);
        Some(SenderInfo { ntp: clock.ntp, rtp_timestamp, packets, octets })
    }

    /// Takes the peer's report block about this SSRC.
    ///
    /// The round trip is measured against the moment our report left, not against the publisher's NTP clock in it.
    pub fn on_report_block(&mut self, now: Timestamp, block: &ReportBlock) {
        self.peer = Some(PeerReport {
            fraction_lost: block.fraction_lost,
            cumulative_lost: block.cumulative_lost,
            jitter: block.jitter,
        });
        if block.last_sr == 0 {
            return;
        }
        let sent = self.reports.iter().filter(|(ntp, _)| *ntp == block.last_sr).map(|(_, at)| *at).max();
        if let Some(sent) = sent {
            let held = Duration::from_nanos((u64::from(block.delay_since_last_sr) * 1_000_000_000) >> 16);
            let rtt = now.since(sent).saturating_sub(held);
            if rtt <= RTT_MAX {
                self.rtt = Some(rtt);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::NtpTime;

    const SOURCE: SourceId = SourceId(1);

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn egress(kind: MediaKind) -> Egress {
        let config = EgressConfig {
            kind,
            format: Format::Vp8,
            ssrc: Ssrc(5),
            payload_type: PayloadType(100),
            clock_rate: 90_000,
            rtx: Some((Ssrc(6), PayloadType(101))),
            extensions: ExtensionMap::default(),
            first_seq: 50,
            first_rtx_seq: 0xffff,
        };
        Egress::new(config, SOURCE)
    }

    fn packet(seq: u64, key_frame: bool) -> Incoming {
        Incoming { source: SOURCE, seq: ExtSeq(seq), timestamp: seq as u32 * 10, key_frame, empty: false }
    }

    fn seqs(egress: &mut Egress, packets: &[Incoming]) -> Vec<Result<u64, DropReason>> {
        packets.iter().map(|p| egress.rewrite(ms(0), p).map(|m| m.seq.0)).collect()
    }

    #[test]
    fn video_starts_at_a_key_frame() {
        let mut video = egress(MediaKind::Video);
        assert!(video.awaits_key_frame());
        let packets = [packet(1, false), packet(2, true), packet(3, false), packet(1, false)];
        assert_eq!(
            seqs(&mut video, &packets),
            [Err(DropReason::Paused), Ok(50), Ok(51), Err(DropReason::TooOld)]
        );
        assert!(!video.awaits_key_frame());

        let mut audio = egress(MediaKind::Audio);
        assert!(!audio.awaits_key_frame());
        assert_eq!(seqs(&mut audio, &[packet(1, false), packet(2, false)]), [Ok(50), Ok(51)]);
    }

    #[test]
    fn a_pause_leaves_no_gap_and_ends_at_a_key_frame() {
        let mut video = egress(MediaKind::Video);
        assert_eq!(
            seqs(&mut video, &[packet(1, true), packet(2, false), packet(4, false)]),
            [Ok(50), Ok(51), Ok(53)]
        );
        video.set_paused(true);
        assert!(!video.awaits_key_frame());
        assert_eq!(seqs(&mut video, &[packet(5, true)]), [Err(DropReason::Paused)]);
        video.set_paused(false);
        video.set_paused(false);
        assert!(video.awaits_key_frame());
        // A late key frame from before the pause does not open the gate.
        let after = [packet(3, true), packet(6, false), packet(7, true), packet(3, false)];
        assert_eq!(
            seqs(&mut video, &after),
            [Err(DropReason::Paused), Err(DropReason::Paused), Ok(54), Ok(52)]
        );
    }

    #[test]
    fn a_move_of_the_publisher_waits_for_its_key_frame() {
        let mut video = egress(MediaKind::Video);
        let moved = |seq, key_frame| Incoming { source: SourceId(2), ..packet(seq, key_frame) };
        assert_eq!(seqs(&mut video, &[packet(1, true)]), [Ok(50)]);
        video.switch_source(SOURCE);
        assert!(!video.awaits_key_frame());
        video.switch_source(SourceId(2));
        assert!(video.awaits_key_frame());
        let after = [packet(2, true), moved(900, false), moved(901, true), packet(2, false)];
        assert_eq!(
            seqs(&mut video, &after),
            [Err(DropReason::Paused), Err(DropReason::Paused), Ok(51), Err(DropReason::TooOld)]
        );
        // Paused stays paused over a move.
        video.set_paused(true);
        video.switch_source(SOURCE);
        assert!(video.is_paused());
    }

    #[test]
    fn another_codec_waits_for_one_that_was_negotiated() {
        for kind in [MediaKind::Audio, MediaKind::Video] {
            let mut stream = egress(kind);
            let moved = |source, seq| Incoming { source: SourceId(source), ..packet(seq, true) };
            assert_eq!(seqs(&mut stream, &[packet(1, true)]), [Ok(50)]);
            stream.set_foreign(true);
            stream.switch_source(SourceId(2));
            stream.set_paused(true);
            stream.set_paused(false);
            assert_eq!(seqs(&mut stream, &[moved(2, 7), packet(2, true)]), [Err(DropReason::Paused); 2]);
            // It comes back with the codec it had.
            stream.set_foreign(false);
            stream.switch_source(SourceId(3));
            assert_eq!(seqs(&mut stream, &[moved(3, 90), moved(3, 91)]), [Ok(51), Ok(52)]);
        }
    }

    #[test]
    fn padding_leaves_no_gap() {
        let mut video = egress(MediaKind::Video);
        let empty = |seq| Incoming { empty: true, ..packet(seq, false) };
        let packets = [empty(1), packet(2, true), empty(3), packet(4, false), packet(6, false), empty(5)];
        assert_eq!(
            seqs(&mut video, &packets),
            [Err(DropReason::Paused), Ok(50), Err(DropReason::Duplicate), Ok(51), Ok(53), Ok(52)]
        );
    }

    #[test]
    fn nacks_lead_back_to_the_source_and_rtx_numbers_count_up() {
        let mut video = egress(MediaKind::Video);
        seqs(&mut video, &[packet(10, true), packet(11, false)]);
        assert_eq!(video.on_nack(ms(0), SeqNo(51)), Some((SOURCE, ExtSeq(11))));
        assert_eq!(video.on_nack(ms(5), SeqNo(51)), None);
        assert_eq!(video.on_nack(ms(5), SeqNo(52)), None);
        assert_eq!(video.counters().nacked, 3);

        let bytes = [0x80, 0x80 | 96, 0, 11, 0, 0, 0, 110, 0, 0, 0, 1];
        let header = RtpHeader::parse(&bytes).unwrap();
        let place = video.place(SOURCE, ExtSeq(11), 110).unwrap();
        let fields = video.fields(&header, place);
        assert_eq!((fields.ssrc, fields.payload_type, fields.seq), (Ssrc(5), PayloadType(100), SeqNo(51)));
        let (rtx, index) = video.next_rtx(&header, place).unwrap();
        assert_eq!((rtx.ssrc, rtx.payload_type, rtx.timestamp), (Ssrc(6), PayloadType(101), 110));
        assert_eq!((rtx.seq, index, rtx.marker), (SeqNo(0x7fff), ExtSeq(0x7fff), true));
        assert_eq!(video.next_rtx(&header, place).map(|(_, index)| index), Some(ExtSeq(0x8000)));
    }

    #[test]
    fn reports_carry_mapped_time_and_give_the_round_trip() {
        let mut video = egress(MediaKind::Video);
        let clock = |ntp, rtp_timestamp| SenderClock { ntp: NtpTime(ntp), rtp_timestamp };
        assert_eq!(video.sender_info(ms(0), SOURCE, clock(1 << 40, 5)), None);
        assert!(video.rewrite(ms(0), &packet(1, true)).is_ok());
        video.on_sent(700);
        let info = video.sender_info(ms(100), SOURCE, clock(1 << 40, 5)).unwrap();
        assert_eq!((info.rtp_timestamp, info.packets, info.octets), (5, 1, 700));

        // (at ms, last SR, delay in 1/65536 s, round trip)
        let middle = NtpTime(1 << 40).middle();
        for (at, last_sr, delay, rtt) in [
            (150, 0, 0, None),
            (150, middle + 1, 0, None),
            (700, middle, 1 << 15, Some(Duration::from_millis(100))),
            (550, middle, 1 << 15, Some(Duration::ZERO)),
            (90_000, middle, 0, Some(Duration::ZERO)),
        ] {
            let block =
                ReportBlock { last_sr, delay_since_last_sr: delay, jitter: 9, ..ReportBlock::default() };
            video.on_report_block(ms(at), &block);
            assert_eq!(video.rtt(), rtt, "at {at}");
        }
        assert_eq!(video.peer_report().map(|p| p.jitter), Some(9));
        // A move that is still to come: the new source's clock says nothing about the old one's packets.
        assert_eq!(video.sender_info(ms(200), SourceId(2), clock(2 << 40, 5)), None);
        // After it nothing is said until the new source has a place.
        video.switch_source(SourceId(2));
        for source in [SOURCE, SourceId(2)] {
            assert_eq!(video.sender_info(ms(200), source, clock(2 << 40, 5)), None);
        }
    }
}

//! The receiving side of a light client: counts every packet by its clear header, decrypts and verifies a sample.
//!
//! Loss, order, frames and freezes come from sequence numbers, timestamps and marker bits of all packets; those are
//! authenticated but not encrypted. Until the picture runs every packet is decrypted, afterwards one in [`SAMPLE_EVERY`]: it
//! proves the keys, and its payload tells when it was sent.
//!
//! `track.rs` has what is kept of a stream, with `missing.rs` (what is asked for again) and `frames.rs` (freezes);
//! `transport_cc.rs` the feedback of the whole connection.

mod frames;
mod missing;
mod track;
mod transport_cc;

use std::sync::Arc;

use self::track::Track;
use self::transport_cc::TransportCc;
use super::fetch::fetch;
use super::rtcp::{self, Item};
use super::rtp::{self, Header};
use super::sdp::{Kind, Remote, extension};
use super::srtp::Srtp;
use super::stats::Stats;
use super::units::{SendLog, Units};

/// One packet in so many is decrypted.
pub(crate) const SAMPLE_EVERY: u32 = 32;

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
            Some(TransportCc::new(id))
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

    /// Has what is kept of each stream fetched.
    pub(super) fn approach(&self) {
        self.tracks.iter().for_each(fetch);
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
        for track in &mut self.tracks {
            track.requests(out, own, now_ns, stats);
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
        self.tracks.iter_mut().for_each(Track::begin_interval);
    }

    /// Adds this receiver's share of the interval.
    pub(crate) fn end_interval(&mut self, now_ns: u64, stats: &mut Stats) {
        self.tracks.iter().for_each(|track| track.end_interval(now_ns, stats));
    }
}

fn without_padding(payload: &[u8], padded: bool) -> &[u8] {
    let padding = if padded { payload.last().map_or(0, |count| usize::from(*count)) } else { 0 };
    &payload[..payload.len().saturating_sub(padding)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_no_payload() {
        assert_eq!(without_padding(&[1, 2, 3, 2], true), [1, 2]);
        assert_eq!(without_padding(&[1, 2, 3, 9], true), [0; 0]);
        assert_eq!(without_padding(&[1, 2], false), [1, 2]);
    }
}

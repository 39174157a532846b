//! What goes out by the clock: retransmitted handshakes, NACKs, key frame requests, arrival feedback and reports.
//!
//! Every transport has one entry in the timer heap, the earliest of its deadlines. When it fires, everything that is due
//! runs and the next deadline is entered.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::buf::RxPool;
use crate::control::proto::MediaKind;
use crate::forward::feedback::write_reports;
use crate::forward::nack::{OUTSTANDING_MAX, Repair};
use crate::forward::room::{PerKind, Publication, Subscription, Track};
use crate::ids::{SeqNo, Ssrc};
use crate::time::Timestamp;
use crate::transport::Transport;
use crate::transport::outbox::Outbox;
use crate::wire::WriteError;
use crate::wire::rtcp::{
    CompoundWriter, FirEntry, ReportBlock, SenderInfo, write_fir, write_nack, write_pli, write_remb,
};

use super::{Peer, Shard};

/// Largest RTCP compound packet we write.
const RTCP_BYTES: usize = 1200;
/// Sequence numbers asked for in one NACK packet: all that can be due, since each that is counts as asked for. Four bytes
/// each at worst.
const NACKS_PER_PACKET: usize = OUTSTANDING_MAX;
const _: () = assert!(12 + 4 * NACKS_PER_PACKET <= RTCP_BYTES, "a NACK has to fit");
/// Streams of one publication: audio and up to four layers.
const MAX_BLOCKS: usize = 8;
/// A deadline that stays in the past runs again this much later, rather than at once and for ever.
const AGAIN_AFTER: Duration = Duration::from_millis(1);
/// Our CNAME (RFC 7022 wants it unguessable and short-lived; one name for all says nothing about anybody).
const CNAME: &str = "weir";

impl Track {
    /// When something about this track is due.
    pub(super) fn next_timeout(&self, encoding: u8) -> Option<Timestamp> {
        let nack = self.layers.get(usize::from(encoding)).and_then(|layer| layer.nack.next_timeout());
        nack.into_iter().chain(self.key_frames.next_timeout()).min()
    }

    /// An SSRC of the track that was heard or signaled.
    fn any_ssrc(&self) -> Option<Ssrc> {
        self.layers.iter().rev().find_map(|layer| layer.ssrc)
    }
}

impl Shard {
    /// Runs every deadline that has passed.
    pub(super) fn run_timers(&mut self, now: Timestamp, pool: &mut RxPool) {
        while let Some(index) = self.timers.pop_due(now) {
            if !self.peers.contains(index as usize) {
                continue;
            }
            let worked = self.guarded(index, |transport, outbox| transport.handle_timeout(now, outbox));
            if let Some(change) = worked.unwrap_or_else(|failed| failed) {
                self.on_state_change(now, pool, index, change);
            }
            if self.peers[index as usize].transport.srtp.is_some() {
                self.repair(now, index);
                self.report_arrivals(now, index);
                self.report(now, pool, index);
            }
            if let Some(at) = self.deadline(now, index) {
                self.timers.schedule(index, at.max(now + AGAIN_AFTER));
            }
        }
    }

    /// Enters the peer's next deadline.
    pub(super) fn reschedule(&mut self, now: Timestamp, index: u32) {
        if let Some(at) = self.deadline(now, index) {
            self.timers.schedule(index, at);
        }
    }

    /// When something about the peer is due.
    fn deadline(&self, now: Timestamp, index: u32) -> Option<Timestamp> {
        let peer = &self.peers[index as usize];
        let mut next = peer.transport.next_timeout(now);
        if peer.transport.srtp.is_some() {
            let publications = peer.publications.iter().map(|at| &self.publications[*at as usize]);
            let tracks = publications.flat_map(|publication| publication.tracks.iter());
            let repairs = tracks.flat_map(|track| {
                (0..track.layers.len() as u8).filter_map(|encoding| track.next_timeout(encoding))
            });
            let others = [peer.arrivals.next_timeout(), Some(peer.reports.next_timeout())];
            next = next.into_iter().chain(repairs).chain(others.into_iter().flatten()).min();
        }
        next
    }

    /// Asks the publisher for what is missing: single packets, or a key frame.
    fn repair(&mut self, now: Timestamp, index: u32) {
        let peer = &mut self.peers[index as usize];
        for at in 0..peer.publications.len() {
            let publication = &mut self.publications[peer.publications[at] as usize];
            for track in publication.tracks.iter_mut() {
                for layer in 0..track.layers.len() {
                    self.counters.nacked += ask_for_missing(now, peer, track, layer, &mut self.outbox);
                }
                self.counters.key_frame_requests += ask_for_key_frame(now, peer, track, &mut self.outbox);
            }
        }
    }

    /// Transport-wide feedback: when each packet of the publisher came.
    fn report_arrivals(&mut self, now: Timestamp, index: u32) {
        let peer = &mut self.peers[index as usize];
        let mut publications = peer.publications.iter().map(|at| &self.publications[*at as usize]);
        let heard = publications.find_map(|publication| first_ssrc(&publication.tracks));
        let Peer { transport, arrivals, ssrc, .. } = peer;
        // The field carries no meaning; what came before an unpublish is reported all the same.
        let media = heard.unwrap_or(*ssrc);
        while arrivals.is_due(now) {
            let sent = send(transport, &mut self.outbox, |out| arrivals.write(out, *ssrc, media));
            if !sent {
                return;
            }
        }
    }

    /// Sender reports about what we send to the peer, receiver reports about what it sends to us.
    fn report(&mut self, now: Timestamp, pool: &mut RxPool, index: u32) {
        let peer = &mut self.peers[index as usize];
        if !peer.reports.poll(now) {
            return;
        }
        let Peer { transport, ssrc, .. } = peer;
        for at in &peer.subscriptions {
            let subscription = &mut self.subscriptions[*at as usize];
            let source = &self.publications[subscription.publication as usize];
            send_sender_reports(now, transport, *ssrc, subscription, source, &mut self.outbox);
        }
        for at in &peer.publications {
            let publication = &mut self.publications[*at as usize];
            send_receiver_report(now, transport, *ssrc, publication, &mut self.outbox);
            for layer in publication.tracks.iter_mut().flat_map(|track| &mut track.layers) {
                layer.cache.expire(now, |slot| pool.release(slot));
            }
        }
    }
}

/// Protects and queues what `write` puts into the buffer. False: nothing was queued.
fn send(
    transport: &mut Transport,
    outbox: &mut Outbox,
    write: impl FnOnce(&mut [u8]) -> Result<usize, WriteError>,
) -> bool {
    let (Some(pair), Some(srtp)) = (transport.ice.selected(), transport.srtp.as_mut()) else { return false };
    let mut written = false;
    outbox.push_with(pair, RTCP_BYTES + srtp.tx.rtcp_overhead(), |out| {
        let len = write(&mut out[..RTCP_BYTES]).ok().filter(|len| *len > 0)?;
        let protected = srtp.tx.protect_rtcp(out, len);
        written = protected > 0;
        written.then_some(protected)
    });
    written
}

/// Sends a NACK for what is due of one layer. Returns how many packets it asks for.
fn ask_for_missing(
    now: Timestamp,
    peer: &mut Peer,
    track: &mut Track,
    layer: usize,
    outbox: &mut Outbox,
) -> u64 {
    let layer = &mut track.layers[layer];
    let mut missing = [SeqNo(0); NACKS_PER_PACKET];
    let mut count = 0;
    // Zero: the tracker goes by the time its own requests took to be answered.
    let repair = layer.nack.poll(now, Duration::ZERO, |seq| {
        if count < NACKS_PER_PACKET {
            missing[count] = seq.seq();
            count += 1;
        }
    });
    if repair == Repair::GivenUp && track.kind == MediaKind::Video {
        track.key_frames.request(now);
    }
    let Some(media) = layer.ssrc.filter(|_| count > 0) else { return 0 };
    let (sender, missing) = (peer.ssrc, missing[..count].iter().copied());
    send(&mut peer.transport, outbox, |out| write_nack(out, sender, media, missing));
    count as u64
}

/// Sends a PLI, or a FIR to those who know nothing else, when one is due. Returns how many were sent.
fn ask_for_key_frame(now: Timestamp, peer: &mut Peer, track: &mut Track, outbox: &mut Outbox) -> u64 {
    if !track.key_frames.poll(now) {
        return 0;
    }
    let layer = usize::from(track.key_frame_layer(now));
    let Some(media) = track.layers[layer].ssrc.or_else(|| track.any_ssrc()) else { return 0 };
    let sender = peer.ssrc;
    let command = track.key_frames.sent() as u8;
    let pli = track.feedback.pli || !track.feedback.fir;
    send(&mut peer.transport, outbox, |out| {
        if pli {
            write_pli(out, sender, media)
        } else {
            write_fir(out, sender, &[FirEntry { media, command }])
        }
    });
    1
}

fn first_ssrc(tracks: &PerKind<Track>) -> Option<Ssrc> {
    tracks.video.iter().chain(&tracks.audio).find_map(Track::any_ssrc)
}

/// Sender reports about both streams of a subscription in one datagram: the browser syncs them by these.
fn send_sender_reports(
    now: Timestamp,
    transport: &mut Transport,
    sender: Ssrc,
    subscription: &mut Subscription,
    source: &Publication,
    outbox: &mut Outbox,
) {
    let mut reports = [(Ssrc(0), SenderInfo::default()); 2];
    let mut count = 0;
    for kind in [MediaKind::Audio, MediaKind::Video] {
        let (Some(egress), Some(track)) = (subscription.egress.get_mut(kind), source.tracks.get(kind)) else {
            continue;
        };
        let layer = &track.layers[usize::from(track.current)];
        let clock = layer.ingress.sender_clock(now);
        if let Some(info) = clock.and_then(|clock| egress.sender_info(now, layer.source, clock)) {
            reports[count] = (egress.config().ssrc, info);
            count += 1;
        }
    }
    if count > 0 {
        send(transport, outbox, |out| write_reports(out, sender, CNAME, &reports[..count], &[]));
    }
}

/// What was received of a publication, and how much of it is welcome.
fn send_receiver_report(
    now: Timestamp,
    transport: &mut Transport,
    sender: Ssrc,
    publication: &mut Publication,
    outbox: &mut Outbox,
) {
    let mut blocks = [ReportBlock::default(); MAX_BLOCKS];
    let mut count = 0;
    let mut cap = None;
    for track in publication.tracks.iter_mut() {
        // A cap, not an estimate: below it the publisher goes by transport-wide feedback, or without that by our loss reports.
        if track.feedback.remb && track.kind == MediaKind::Video {
            cap = track.max_bitrate_bps.zip(track.any_ssrc());
        }
        for layer in &mut track.layers {
            if let (Some(ssrc), Some(_), true) = (layer.ssrc, layer.ingress.highest(), count < MAX_BLOCKS) {
                blocks[count] = layer.ingress.report_block(now, ssrc);
                count += 1;
            }
        }
    }
    send(transport, outbox, |out| {
        let mut compound = CompoundWriter::new(out);
        compound.push(|out| write_reports(out, sender, CNAME, &[], &blocks[..count]))?;
        if let Some((bitrate, media)) = cap {
            compound.push(|out| write_remb(out, sender, bitrate, &[media]))?;
        }
        Ok(compound.len())
    });
}

//! Feedback that comes in: reports, NACKs, key frame requests.
//!
//! RTCP ends here (RFC 7667 §3.7): nothing of it is forwarded, each side gets reports of its own.
#![forbid(unsafe_code)]

use crate::buf::{Datagram, RxPool};
use crate::control::proto::MediaKind;
use crate::drop_reason::DropReason;
use crate::ids::{SeqNo, Ssrc};
use crate::time::Timestamp;
use crate::wire::rtcp::{Compound, Message, ReportBlock, SenderInfo};

use super::Shard;
use super::drain::Resend;

/// Sequence numbers of one datagram's NACKs that are looked at: a peer that has lost more needs a key frame.
const NACK_MAX: usize = 256;

impl Shard {
    /// Handles the plaintext compound packet in the first `len` bytes of `datagram`.
    pub(super) fn rtcp(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        peer: u32,
        datagram: &Datagram,
        len: usize,
    ) -> Result<(), DropReason> {
        let mut missing = [(Ssrc(0), SeqNo(0)); NACK_MAX];
        let mut count = 0;
        let mut result = Ok(());
        // The walk borrows the pool, resending changes it: NACKs are copied out and worked on behind the walk.
        let compound = Compound::parse(&datagram.bytes(pool)[..len])?;
        for message in compound.messages() {
            match message {
                Ok(Message::SenderReport(report)) => {
                    self.on_sender_report(now, peer, report.ssrc, &report.info);
                    report.blocks().for_each(|block| self.on_report_block(now, peer, &block));
                }
                Ok(Message::ReceiverReport(report)) => {
                    report.blocks().for_each(|block| self.on_report_block(now, peer, &block));
                }
                Ok(Message::Pli(pli)) => self.on_key_frame_request(now, peer, pli.media),
                Ok(Message::Fir(fir)) => {
                    fir.entries().for_each(|entry| self.on_key_frame_request(now, peer, entry.media));
                }
                Ok(Message::Nack(nack)) => {
                    for (place, seq) in missing[count..].iter_mut().zip(nack.lost()) {
                        *place = (nack.media, seq);
                        count += 1;
                    }
                }
                // Estimates choose no layer yet.
                Ok(_) => {}
                // What stands beside it holds.
                Err(reason) => result = Err(reason),
            }
        }
        for nacks in missing[..count].chunk_by(|a, b| a.0 == b.0) {
            self.on_nack(now, pool, peer, nacks);
        }
        result
    }

    fn on_sender_report(&mut self, now: Timestamp, peer: u32, ssrc: Ssrc, info: &SenderInfo) {
        let Some(target) = self.peers[peer as usize].routes.lookup(ssrc).filter(|target| !target.repair)
        else {
            return;
        };
        let publication = &mut self.publications[target.publication as usize];
        if let Some(track) = publication.tracks.get_mut(target.kind) {
            let layer = &mut track.layers[usize::from(target.encoding)];
            layer.ingress.on_sender_report(now, info.ntp, info.rtp_timestamp);
        }
    }

    fn on_report_block(&mut self, now: Timestamp, peer: u32, block: &ReportBlock) {
        if let Some((subscription, kind)) = self.find_egress(peer, block.ssrc) {
            let egress = self.subscriptions[subscription as usize].egress.get_mut(kind);
            egress.expect("found just now").on_report_block(now, block);
        }
    }

    fn on_key_frame_request(&mut self, now: Timestamp, peer: u32, media: Ssrc) {
        if let Some((subscription, MediaKind::Video)) = self.find_egress(peer, media) {
            let subscription = &mut self.subscriptions[subscription as usize];
            let publication = subscription.publication;
            subscription.egress.video.as_mut().expect("found just now").on_key_frame_request();
            self.request_key_frame(now, publication);
        }
    }

    /// Queues what a subscriber lost, as far as it is still kept, for the next drain.
    fn on_nack(&mut self, now: Timestamp, pool: &mut RxPool, peer: u32, missing: &[(Ssrc, SeqNo)]) {
        let Some((media, _)) = missing.first() else { return };
        let Some((index, kind)) = self.find_egress(peer, *media) else { return };
        let subscription = &mut self.subscriptions[index as usize];
        let publication = &mut self.publications[subscription.publication as usize];
        let (Some(egress), Some(track)) =
            (subscription.egress.get_mut(kind), publication.tracks.get_mut(kind))
        else {
            return;
        };
        for (source, seq) in missing.iter().filter_map(|(_, seq)| egress.on_nack(now, *seq)) {
            // A source of an earlier transport or SSRC went away with its cache.
            let layer = track.layers.iter().find(|layer| layer.source == source);
            // Mostly lost on its way to us as well: it is forwarded when it comes, and who cannot wait sends a PLI.
            let Some(packet) = layer.and_then(|layer| layer.cache.lookup(now, seq)) else {
                self.counters.resend_missed += 1;
                continue;
            };
            if self.resends.push(Resend { subscription: index, kind, source, seq, packet }) {
                pool.retain(packet.slot);
            } else {
                self.counters.resend_overflow += 1;
            }
        }
    }

    fn find_egress(&self, peer: u32, ssrc: Ssrc) -> Option<(u32, MediaKind)> {
        self.peers[peer as usize].subscriptions.iter().find_map(|index| {
            let egress = &self.subscriptions[*index as usize].egress;
            let kind = [MediaKind::Audio, MediaKind::Video]
                .into_iter()
                .find(|kind| egress.get(*kind).is_some_and(|egress| egress.config().ssrc == ssrc))?;
            Some((*index, kind))
        })
    }

    /// Asks the publisher of `publication` for a key frame, as soon as the throttle allows.
    pub(super) fn request_key_frame(&mut self, now: Timestamp, publication: u32) {
        let publication = &mut self.publications[publication as usize];
        if let Some(track) = publication.tracks.get_mut(MediaKind::Video) {
            track.key_frames.request(now);
            if let Some(at) = track.key_frames.next_timeout() {
                self.timers.schedule(publication.transport, at);
            }
        }
    }
}

//! The packet path, first half: one datagram from the socket to its publication's list of waiting packets.
//!
//! ```text
//! classify ─┬─ RTP ──▶ by address ─▶ unprotect in place ─▶ by SSRC ─▶ ingress ─▶ pending (drain.rs seals it per subscriber)
//!           ├─ RTCP ─▶ by address ─▶ unprotect in place ─▶ rtcp.rs
//!           ├─ STUN ─▶ by ufrag ───▶ transport
//!           └─ DTLS ─▶ by address ─▶ queue, a few per turn ─▶ transport
//! ```
//!
//! A datagram that is not forwarded counts exactly once, under its [`DropReason`].
#![forbid(unsafe_code)]

use crate::buf::{Datagram, RxPool};
use crate::control::proto::MediaKind;
use crate::drop_reason::DropReason;
use crate::forward::ingress::Received;
use crate::forward::layers::Choice;
use crate::forward::nack::Repair;
use crate::forward::pending::{Pending, Put};
use crate::forward::resend_cache::CachedPacket;
use crate::forward::room::{Format, Track};
use crate::forward::route::Target;
use crate::forward::rtx::{self, OSN_BYTES};
use crate::forward::seq_map::SourceId;
use crate::ids::ExtSeq;
use crate::time::Timestamp;
use crate::transport::Pair;
use crate::wire::demux::{Protocol, classify};
use crate::wire::rtp::RtpHeader;
use crate::wire::{payload, rtp_ext, stun};

use super::{HANDSHAKE_QUEUE, Shard};

/// Who holds the datagram's slot after it was handled.
enum Slot {
    /// Somebody keeps the reference.
    Kept,
    /// Nobody needs it.
    Free,
}

impl Shard {
    /// Handles one datagram and gives its slot back unless somebody keeps it.
    pub(super) fn datagram(&mut self, now: Timestamp, pool: &mut RxPool, datagram: Datagram) {
        let pair = Pair { remote: datagram.from, local: datagram.local };
        let outcome = match classify(datagram.bytes(pool)) {
            Protocol::Rtp => self.rtp(now, pool, pair, &datagram),
            Protocol::Rtcp => self.protected_rtcp(now, pool, pair, &datagram),
            Protocol::Stun => self.stun(now, pool, pair, &datagram),
            Protocol::Dtls => self.queue_dtls(pair, datagram),
            Protocol::Unknown => Err(DropReason::UnknownProtocol),
        };
        match outcome {
            Ok(Slot::Kept) => {}
            Ok(Slot::Free) => pool.release(datagram.slot),
            Err(reason) => {
                self.counters.drop(reason);
                pool.release(datagram.slot);
            }
        }
    }

    /// One media packet: the steps of the path in order.
    fn rtp(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        pair: Pair,
        datagram: &Datagram,
    ) -> Result<Slot, DropReason> {
        let index = self.demux.by_pair(&pair).ok_or(DropReason::UnknownAddress)?;
        let mut peer = &mut self.peers[index as usize];
        let srtp = peer.transport.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        let mut packet = datagram.bytes_mut(pool);
        let header = RtpHeader::parse(packet)?;
        let (len, seq) = srtp.rx.unprotect_rtp(packet, header.header_len, header.ssrc, header.seq)?;
        self.counters.rtp_in += 1;

        let target = match peer.routes.lookup(header.ssrc) {
            Some(target) => target,
            None => {
                let target = self.learn(now, pool, index, &header, datagram, len)?;
                (peer, packet) = (&mut self.peers[index as usize], datagram.bytes_mut(pool));
                target
            }
        };
        let packet = &packet[..len];
        let publication = &mut self.publications[target.publication as usize];
        let track = publication.tracks.get_mut(target.kind).ok_or(DropReason::UnknownStream)?;
        if let Some(value) = rtp_ext::find(&header, packet, track.extensions.transport_seq)
            && let Some(transport_seq) = rtp_ext::transport_seq(value)
            && let Some(deadline) = peer.arrivals.on_packet(now, transport_seq)
        {
            self.timers.schedule(index, deadline);
        }

        let arrived = receive(now, track, target, header, packet, seq)?;
        if arrived.broken {
            track.key_frames.request(now);
        }
        let choice = track.choose(now, target.encoding, arrived.key_frame, arrived.late);
        if let Some(at) = track.next_timeout(target.encoding) {
            self.timers.schedule(index, at);
        }
        let mut waiting = arrived.pending(now, datagram, target.kind);
        match choice {
            Choice::Forward | Choice::Switch => {}
            // It is no reason to go back.
            Choice::Fill => waiting.key_frame = false,
            Choice::Keep => {
                self.keep_for_resending(pool, target, waiting);
                return Err(DropReason::Paused);
            }
            Choice::Skip => return Err(DropReason::Paused),
        }
        let slot = self.forward(now, pool, target, waiting)?;
        if choice == Choice::Switch {
            self.forward_kept(now, pool, target, waiting.seq);
        }
        Ok(slot)
    }

    /// Puts a packet of the layer that is forwarded onto its publication's list.
    #[inline]
    fn forward(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        target: Target,
        waiting: Pending,
    ) -> Result<Slot, DropReason> {
        let publication = &mut self.publications[target.publication as usize];
        if publication.subscriptions.is_empty() {
            return Err(DropReason::NoSubscriber);
        }
        if publication.pending.is_full() {
            return Err(DropReason::BatchFull);
        }
        let hold = match target.kind {
            MediaKind::Audio if !self.held.is_full() => {
                publication.frames.hold_until(now, self.load.audio_hold())
            }
            MediaKind::Audio => None,
            MediaKind::Video => {
                publication.frames.on_packet(now, waiting.header.timestamp, waiting.payload_len);
                None
            }
        };
        match publication.pending.put(waiting, hold) {
            Put::Waits => {}
            Put::List => self.dirty.push(target.publication),
            Put::Hold(until) => self.held.push(until, target.publication),
        }
        self.keep_for_resending(pool, target, waiting);
        Ok(Slot::Kept)
    }

    /// The layer has changed at `first`, a key frame's first packet. Others that overtook it go out behind it: nobody else
    /// has them, and a picture with holes is none.
    #[cold]
    fn forward_kept(&mut self, now: Timestamp, pool: &mut RxPool, target: Target, first: ExtSeq) {
        let publication = &mut self.publications[target.publication as usize];
        let Some(track) = publication.tracks.get(target.kind) else { return };
        let layer = &track.layers[usize::from(target.encoding)];
        let newest = layer.ingress.highest().unwrap_or(first);
        for seq in (first.0 + 1..=newest.0).map(ExtSeq) {
            let Some(kept) = layer.cache.lookup(now, seq).filter(|_| !publication.pending.is_full()) else {
                continue;
            };
            let bytes = &pool.bytes(kept.slot)[usize::from(kept.start)..][..usize::from(kept.len)];
            let header = RtpHeader::parse(bytes).expect("parsed when it was received");
            pool.retain(kept.slot);
            // The first one was put just now, so the list waits for the drain already.
            publication.pending.put(
                Pending {
                    slot: kept.slot,
                    start: kept.start,
                    header: RtpHeader { seq: seq.seq(), ..header },
                    payload_start: kept.payload_start,
                    payload_len: kept.payload_len,
                    arrived: kept.arrived,
                    kind: target.kind,
                    key_frame: false,
                    source: layer.source,
                    seq,
                    held: false,
                    padding: 0,
                },
                None,
            );
        }
    }

    /// The first packet of an SSRC that signaling did not tell, or under which a stream goes on that had another: its
    /// sender has met a collision (RFC 3550 §8.2), or begun anew.
    #[cold]
    fn learn(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        index: u32,
        header: &RtpHeader,
        datagram: &Datagram,
        len: usize,
    ) -> Result<Target, DropReason> {
        let peer = &mut self.peers[index as usize];
        let packet = &datagram.bytes(pool)[..len];
        let target = peer.routes.recognise(header, packet).ok_or(DropReason::UnknownStream)?;
        let publication = &mut self.publications[target.publication as usize];
        let track = publication.tracks.get_mut(target.kind).ok_or(DropReason::UnknownStream)?;
        let layer = &mut track.layers[usize::from(target.encoding)];
        let srtp = peer.transport.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        let takes_over = target.repair || !layer.is_live(now);
        if !takes_over || !peer.routes.replace(header.ssrc, target, |left| srtp.rx.retire(left)) {
            return Err(DropReason::UnknownStream);
        }
        if target.repair {
            layer.rtx_ssrc = Some(header.ssrc);
            return Ok(target);
        }
        layer.ssrc = Some(header.ssrc);
        if layer.ingress.highest().is_some() {
            publication.sources += 1;
            layer.restart(now, SourceId(publication.sources), |slot| pool.release(slot));
            if target.kind == MediaKind::Video {
                track.key_frames.request(now);
            }
        }
        Ok(target)
    }

    /// Puts the packet into its layer's resend cache, unless nobody will ask for it or receive slots are short: live media
    /// comes first.
    fn keep_for_resending(&mut self, pool: &mut RxPool, target: Target, packet: Pending) {
        let publication = &mut self.publications[target.publication as usize];
        if packet.payload_len == 0
            || publication.subscriptions.is_empty()
            || (target.kind == MediaKind::Audio && !publication.audio_resends)
        {
            return;
        }
        if pool.free() < pool.capacity() / 8 {
            self.counters.cache_skipped += 1;
            return;
        }
        let track = publication.tracks.get_mut(target.kind);
        let track = track.expect("the packet was received on this track");
        pool.retain(packet.slot);
        let cached = CachedPacket {
            slot: packet.slot,
            start: packet.start,
            len: packet.payload_start + packet.payload_len,
            payload_start: packet.payload_start,
            payload_len: packet.payload_len,
            arrived: packet.arrived,
        };
        let cache = &mut track.layers[usize::from(target.encoding)].cache;
        cache.insert(packet.seq, cached, |slot| pool.release(slot));
    }

    fn protected_rtcp(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        pair: Pair,
        datagram: &Datagram,
    ) -> Result<Slot, DropReason> {
        let index = self.demux.by_pair(&pair).ok_or(DropReason::UnknownAddress)?;
        let srtp = self.peers[index as usize].transport.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        let len = srtp.rx.unprotect_rtcp(datagram.bytes_mut(pool))?;
        self.counters.rtcp_in += 1;
        self.rtcp(now, pool, index, datagram, len)?;
        Ok(Slot::Free)
    }

    fn stun(
        &mut self,
        now: Timestamp,
        pool: &mut RxPool,
        pair: Pair,
        datagram: &Datagram,
    ) -> Result<Slot, DropReason> {
        let bytes = datagram.bytes(pool);
        let (local_ufrag, _) = stun::peek_username(bytes).ok_or(DropReason::StunMalformed)?;
        let index = self.demux.by_ufrag(local_ufrag).ok_or(DropReason::StunUnknownUser)?;
        let owner = self.demux.by_pair(&pair).filter(|owner| *owner != index);
        let held = owner.is_some_and(|owner| self.peers[owner as usize].transport.ice.holds(now, pair));
        let peer = &mut self.peers[index as usize];
        let (outcome, change) = peer.transport.handle_stun(now, pair, held, bytes, &mut self.outbox)?;
        self.counters.stun_checks += 1;
        if let Some(old) = outcome.removed {
            self.demux.remove_pair(old, index);
        }
        // Also one that has been valid for long: it may have passed to another transport meanwhile.
        if let Some(valid) = outcome.valid {
            self.demux.insert_pair(valid, index);
        }
        if let Some(change) = change {
            self.on_state_change(now, pool, index, change);
        }
        self.reschedule(now, index);
        Ok(Slot::Free)
    }

    /// DTLS is worked on a few datagrams a turn, so that a join storm does not hold up media.
    fn queue_dtls(&mut self, pair: Pair, datagram: Datagram) -> Result<Slot, DropReason> {
        let index = self.demux.by_pair(&pair).ok_or(DropReason::UnknownAddress)?;
        let peer = &mut self.peers[index as usize];
        if !peer.transport.knows_peer() {
            return Err(DropReason::DtlsRefused);
        }
        let starts = !peer.handshaking && peer.transport.is_handshaking();
        if self.handshake_queue.len() == HANDSHAKE_QUEUE
            || (starts && self.handshakes == self.limits.handshakes)
        {
            return Err(DropReason::DtlsOverload);
        }
        if starts {
            peer.handshaking = true;
            self.handshakes += 1;
        }
        self.handshake_queue.push_back((index, datagram));
        Ok(Slot::Kept)
    }

    /// Works on the handshake datagrams that this turn has time for.
    pub(super) fn work_on_handshakes(&mut self, now: Timestamp, pool: &mut RxPool) {
        for _ in 0..self.limits.handshakes_per_turn {
            let Some((index, datagram)) = self.handshake_queue.pop_front() else { return };
            let bytes = datagram.bytes(pool);
            let worked = self.guarded(index, |transport, outbox| transport.handle_dtls(now, bytes, outbox));
            match worked.unwrap_or_else(Ok) {
                Ok(Some(change)) => self.on_state_change(now, pool, index, change),
                Ok(None) => {}
                Err(reason) => self.counters.drop(reason),
            }
            pool.release(datagram.slot);
            self.note_handshake(index);
            self.reschedule(now, index);
        }
    }
}

/// What a packet is, after reception was accounted. Offsets count from the RTP header.
struct Arrived {
    header: RtpHeader,
    payload_start: u16,
    payload_len: u16,
    source: SourceId,
    seq: ExtSeq,
    /// A later one came before.
    late: bool,
    key_frame: bool,
    /// Packets are lost for good: decoders need a key frame.
    broken: bool,
}

impl Arrived {
    /// The packet as it waits for the drain.
    #[inline]
    fn pending(&self, now: Timestamp, datagram: &Datagram, kind: MediaKind) -> Pending {
        Pending {
            slot: datagram.slot,
            start: datagram.start,
            header: self.header,
            payload_start: self.payload_start,
            payload_len: self.payload_len,
            arrived: now,
            kind,
            key_frame: self.key_frame,
            source: self.source,
            seq: self.seq,
            held: false,
            padding: 0,
        }
    }
}

/// Accounts one unprotected packet of `track`: unwraps retransmissions, strips padding, sorts out duplicates.
fn receive(
    now: Timestamp,
    track: &mut Track,
    target: Target,
    mut header: RtpHeader,
    packet: &[u8],
    mut seq: ExtSeq,
) -> Result<Arrived, DropReason> {
    let mut payload = header.payload(packet)?;
    let mut payload_start = header.header_len;
    let layer = &mut track.layers[usize::from(target.encoding)];
    let received = if target.repair {
        // Without an original inside it only probes for bandwidth.
        header.seq = rtx::decapsulate(payload).ok_or(DropReason::Duplicate)?;
        payload = &payload[OSN_BYTES..];
        payload_start += OSN_BYTES;
        let (original, received) = layer.ingress.on_retransmission(header.seq, payload.len());
        seq = original;
        received
    } else if header.payload_type == track.payload_type {
        layer.ingress.on_packet(now, seq, header.timestamp, payload.len())
    } else {
        return Err(DropReason::UnknownPayloadType);
    };
    if received == Received::Duplicate {
        return Err(DropReason::Duplicate);
    }
    let video = target.kind == MediaKind::Video;
    let lost = track.feedback.nack && layer.nack.on_packet(now, seq) == Repair::GivenUp;
    let key_frame = !video || is_key_frame(track.format, payload);
    if video && key_frame {
        track.key_frames.on_key_frame(now);
    }
    Ok(Arrived {
        header,
        payload_start: payload_start as u16,
        payload_len: payload.len() as u16,
        source: layer.source,
        seq,
        late: received == Received::Late,
        key_frame,
        broken: lost && video,
    })
}

fn is_key_frame(format: Format, payload: &[u8]) -> bool {
    match format {
        Format::Audio => true,
        Format::Vp8 => payload::vp8::is_key_frame(payload),
        Format::Vp9 => payload::vp9::is_key_frame(payload),
        Format::H264 => payload::h264::is_key_frame(payload),
        Format::Av1 => payload::av1::is_key_frame(payload),
    }
}

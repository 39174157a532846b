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
use crate::forward::nack::Repair;
use crate::forward::pending::{Pending, Put};
use crate::forward::room::{Format, Track};
use crate::forward::route::Target;
use crate::forward::rtx::{self, CachedPacket, OSN_BYTES};
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
        let peer = &mut self.peers[index as usize];
        let srtp = peer.transport.srtp.as_mut().ok_or(DropReason::NoKeys)?;
        let packet = datagram.bytes_mut(pool);
        let header = RtpHeader::parse(packet)?;
        let (len, seq) = srtp.rx.unprotect_rtp(packet, header.header_len, header.ssrc, header.seq)?;
        self.counters.rtp_in += 1;

        let packet = &mut packet[..len];
        let target = match peer.routes.lookup(header.ssrc) {
            Some(target) => target,
            None => peer.routes.learn(&header, packet).ok_or(DropReason::UnknownStream)?,
        };
        let publication = &mut self.publications[target.publication as usize];
        let source = publication.source(target.encoding);
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
        let forwards = track.forwards(now, target.encoding, arrived.key_frame);
        if let Some(at) = track.next_timeout(target.encoding) {
            self.timers.schedule(index, at);
        }
        if !forwards {
            return Err(DropReason::Paused);
        }
        let waiting = Pending {
            slot: datagram.slot,
            start: datagram.start,
            header: arrived.header,
            payload_start: arrived.payload_start,
            payload_len: arrived.payload_len,
            arrived: now,
            kind: target.kind,
            key_frame: arrived.key_frame,
            source,
            seq: arrived.seq,
            held: false,
            padding: 0,
        };
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
                publication.frames.on_packet(now, arrived.header.timestamp, arrived.payload_len);
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

    /// Puts the packet into its layer's resend cache, unless nobody will ask for it or receive slots are short: live media
    /// comes first.
    fn keep_for_resending(&mut self, pool: &mut RxPool, target: Target, packet: Pending) {
        let publication = &mut self.publications[target.publication as usize];
        if packet.payload_len == 0 || (target.kind == MediaKind::Audio && !publication.audio_resends) {
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
        if let Some(evicted) = track.layers[usize::from(target.encoding)].cache.insert(packet.seq, cached) {
            pool.release(evicted);
        }
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
    seq: ExtSeq,
    key_frame: bool,
    /// Packets are lost for good: decoders need a key frame.
    broken: bool,
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
        layer.ssrc = Some(header.ssrc);
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
        seq,
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

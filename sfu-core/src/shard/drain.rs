//! The packet path, second half: waiting packets become sealed datagrams, one run per subscriber.
//!
//! ```text
//! dirty publications ─▶ per subscriber: open its address ─▶ per waiting packet: place, header, seal ─▶ TX batch
//! ```
//!
//! Destination first, packet second: the subscriber's key schedule, sequence map and counters stay hot, and its packets
//! lie in a row, which is what makes a GSO run. A full batch stops the walk at the cursor; the next call goes on there.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use slab::Slab;

use crate::buf::{RxPool, SlotId, TxBatch};
use crate::control::proto::MediaKind;
use crate::crypto::srtp::SrtpTx;
use crate::engine::Drain;
use crate::forward::egress::{Egress, Incoming};
use crate::forward::pending::Pending;
use crate::forward::resend_cache::CachedPacket;
use crate::forward::rewrite::write_header;
use crate::forward::room::{Publication, Subscription};
use crate::forward::rtx::{self, OSN_BYTES};
use crate::forward::seq_map::SourceId;
use crate::ids::ExtSeq;
use crate::time::Timestamp;
use crate::wire::rtp::{HeaderFields, RtpHeader};

use super::lookahead::{DISTANCE, Lookahead};
use super::{Peer, Shard};

/// Resends that may wait for one drain.
const MAX_RESENDS: usize = 4096;
/// Publications whose audio may wait at once; each enters once in its wait, so this is one for each of 300 audio packets
/// in a ms.
const MAX_HELD: usize = 4096;
/// Largest payload that is sent again: a slot's worth.
const RTX_SCRATCH_BYTES: usize = crate::buf::SLOT_BYTES;

/// Where the walk over the waiting packets stands.
#[derive(Default)]
pub(super) struct Cursor {
    pub(super) publication: usize,
    pub(super) subscriber: usize,
    packet: usize,
}

/// Publications whose audio waits for a frame, in the order they began to.
pub(super) struct Held(VecDeque<(Timestamp, u32)>);

impl Default for Held {
    fn default() -> Self {
        Held(VecDeque::with_capacity(MAX_HELD))
    }
}

impl Held {
    /// Whether no further publication may wait.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() == MAX_HELD
    }

    pub(super) fn push(&mut self, until: Timestamp, publication: u32) {
        self.0.push_back((until, publication));
    }

    /// When the first wait ends. The bound of a wait moves slowly, so later ones end later, but for a fraction of it.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.0.front().map(|(until, _)| *until)
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<(Timestamp, u32)> {
        self.0.pop_front_if(|(until, _)| *until <= now)
    }
}

/// A packet to be sent again to one subscriber. Holds one reference to its slot.
#[derive(Clone, Copy)]
pub(super) struct Resend {
    pub(super) subscription: u32,
    pub(super) kind: MediaKind,
    pub(super) source: SourceId,
    pub(super) seq: ExtSeq,
    pub(super) packet: CachedPacket,
}

/// Packets that wait to be sent again.
#[derive(Default)]
pub(super) struct Resends(VecDeque<Resend>);

impl Resends {
    /// False: too many wait already, and the slot is the caller's to release.
    pub(super) fn push(&mut self, resend: Resend) -> bool {
        let room = self.0.len() < MAX_RESENDS;
        if room {
            self.0.push_back(resend);
        }
        room
    }

    /// Drops what waits for a subscription that ends.
    pub(super) fn forget(&mut self, subscription: u32, mut release: impl FnMut(SlotId)) {
        self.0.retain(|resend| {
            let keep = resend.subscription != subscription;
            if !keep {
                release(resend.packet.slot);
            }
            keep
        });
    }
}

impl Shard {
    /// Writes everything that waits into `tx`, as far as it fits.
    pub(super) fn seal_pending(&mut self, now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> Drain {
        if !self.outbox.drain(tx) || !self.seal_resends(now, pool, tx) {
            return Drain::More;
        }
        self.end_holds(now);
        let mut ahead = Lookahead::from(&self.cursor);
        for _ in 0..DISTANCE {
            ahead.advance(&self.dirty, &self.publications, &self.subscriptions, &self.peers);
        }
        while let Some(&index) = self.dirty.get(self.cursor.publication) {
            // A publication can have ended since it was listed.
            if let Some(publication) = self.publications.get_mut(index as usize) {
                publication.pending.even_out(|packet| write_padding(pool, packet));
                let mut walk = Walk {
                    now,
                    pool,
                    tx,
                    dirty: &self.dirty,
                    publications: &self.publications,
                    peers: &mut self.peers,
                    subscriptions: &mut self.subscriptions,
                    ahead: &mut ahead,
                    forwarded: 0,
                };
                let done = walk.publication(&self.publications[index as usize], &mut self.cursor);
                self.counters.rtp_forwarded += walk.forwarded;
                if !done {
                    return Drain::More;
                }
                for packet in self.publications[index as usize].pending.drain() {
                    if packet.held {
                        self.counters.audio_held += 1;
                        self.counters.audio_held_us += now.since(packet.arrived).as_micros() as u64;
                    }
                    pool.release(packet.slot);
                }
            }
            self.cursor = Cursor { publication: self.cursor.publication + 1, ..Cursor::default() };
        }
        self.dirty.clear();
        self.cursor = Cursor::default();
        Drain::Done
    }

    /// Lists publications whose audio has waited long enough.
    fn end_holds(&mut self, now: Timestamp) {
        while let Some((until, index)) = self.held.pop_due(now) {
            // The frame came, or the publication ended.
            let publication = self.publications.get_mut(index as usize);
            if publication.is_some_and(|publication| publication.pending.end_hold(until)) {
                self.dirty.push(index);
            }
        }
    }

    fn seal_resends(&mut self, now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> bool {
        while let Some(resend) = self.resends.0.front().copied() {
            let subscription = &mut self.subscriptions[resend.subscription as usize];
            let transport = &mut self.peers[subscription.transport as usize].transport;
            if let (Some(pair), Some(srtp), Some(egress)) =
                (transport.ice.selected(), transport.srtp.as_mut(), subscription.egress.get_mut(resend.kind))
            {
                tx.open(pair.remote, pair.local);
                if !seal_again(now, &resend, egress, &mut srtp.tx, pool, tx) {
                    return false;
                }
                self.counters.resent += 1;
            }
            pool.release(resend.packet.slot);
            self.resends.0.pop_front();
        }
        true
    }
}

/// One walk over a publication's subscribers.
struct Walk<'a> {
    now: Timestamp,
    pool: &'a RxPool,
    tx: &'a mut TxBatch,
    dirty: &'a [u32],
    publications: &'a Slab<Publication>,
    peers: &'a mut Slab<Peer>,
    subscriptions: &'a mut Slab<Subscription>,
    ahead: &'a mut Lookahead,
    forwarded: u64,
}

impl Walk<'_> {
    /// False: the batch is full, go on from the cursor.
    fn publication(&mut self, publication: &Publication, cursor: &mut Cursor) -> bool {
        while let Some(&index) = publication.subscriptions.get(cursor.subscriber) {
            self.ahead.advance(self.dirty, self.publications, self.subscriptions, self.peers);
            let subscription = &mut self.subscriptions[index as usize];
            let transport = &mut self.peers[subscription.transport as usize].transport;
            if let (Some(pair), Some(srtp)) = (transport.ice.selected(), transport.srtp.as_mut()) {
                self.tx.open(pair.remote, pair.local);
                while let Some(packet) = publication.pending.get(cursor.packet) {
                    if let Some(egress) = subscription.egress.get_mut(packet.kind) {
                        match seal(self.now, packet, egress, &mut srtp.tx, self.pool, self.tx) {
                            Sealed::Yes => self.forwarded += 1,
                            Sealed::Held => {}
                            Sealed::Full => return false,
                        }
                    }
                    cursor.packet += 1;
                }
            }
            cursor.packet = 0;
            cursor.subscriber += 1;
        }
        true
    }
}

/// Writes a packet's padding behind its payload, where its authentication tag was: zeros, and their count (RFC 3550 §5.1).
fn write_padding(pool: &mut RxPool, packet: &Pending) {
    let end = usize::from(packet.start + packet.payload_start + packet.payload_len);
    let padding = &mut pool.bytes_mut(packet.slot)[end..end + usize::from(packet.padding)];
    padding.fill(0);
    if let Some(count) = padding.last_mut() {
        *count = packet.padding;
    }
}

enum Sealed {
    /// It is in the batch.
    Yes,
    /// This subscriber does not get it: paused, waiting for a key frame, padding, too late.
    Held,
    /// The batch has no room; nothing changed.
    Full,
}

/// Seals one packet for one subscriber behind the last packet of the batch.
#[inline]
fn seal(
    now: Timestamp,
    packet: &Pending,
    egress: &mut Egress,
    srtp: &mut SrtpTx,
    pool: &RxPool,
    tx: &mut TxBatch,
) -> Sealed {
    let bytes = &pool.bytes(packet.slot)[usize::from(packet.start)..];
    let payload = &bytes[usize::from(packet.payload_start)..][..usize::from(packet.payload_len)];
    let bound = egress.config().extensions.header_len_max(&packet.header)
        + payload.len()
        + usize::from(packet.padding)
        + srtp.rtp_overhead();
    let Some(out) = tx.space(bound) else { return Sealed::Full };
    // The publisher moved, or another layer was chosen: go over at a packet that can be decoded alone.
    if packet.key_frame && egress.source() != packet.source {
        egress.switch_source(packet.source);
    }
    let incoming = Incoming {
        source: packet.source,
        seq: packet.seq,
        timestamp: packet.header.timestamp,
        key_frame: packet.key_frame,
        empty: payload.is_empty(),
    };
    let Ok(mapped) = egress.rewrite(now, &incoming) else { return Sealed::Held };
    let config = egress.config();
    // A plain resend has to repeat the same bytes, and the cache knows nothing of padding.
    let padding = if config.rtx.is_some() { usize::from(packet.padding) } else { 0 };
    let padded = &bytes[usize::from(packet.payload_start)..][..payload.len() + padding];
    let fields = HeaderFields { padding: padding > 0, ..egress.fields(&packet.header, mapped) };
    let header_len = write_header(&fields, &config.extensions, &packet.header, bytes, packet.arrived, out)
        .expect("space is the upper bound");
    let len = srtp.protect_rtp(out, header_len, padded, fields.ssrc, mapped.seq);
    tx.push(len);
    egress.on_sent(payload.len());
    Sealed::Yes
}

/// Seals a packet again: by RTX where that is negotiated, else byte for byte as before. False: no room.
fn seal_again(
    now: Timestamp,
    resend: &Resend,
    egress: &mut Egress,
    srtp: &mut SrtpTx,
    pool: &RxPool,
    tx: &mut TxBatch,
) -> bool {
    let packet = &resend.packet;
    let bytes = &pool.bytes(packet.slot)[usize::from(packet.start)..][..usize::from(packet.len)];
    let payload = &bytes[usize::from(packet.payload_start)..][..usize::from(packet.payload_len)];
    let header = RtpHeader::parse(bytes).expect("parsed when it was received");
    let bound =
        egress.config().extensions.header_len_max(&header) + OSN_BYTES + payload.len() + srtp.rtp_overhead();
    let Some(out) = tx.space(bound) else { return false };
    let Some(mapped) = egress.place(resend.source, resend.seq, header.timestamp) else { return true };
    let len = match egress.next_rtx(&header, mapped) {
        Some((fields, index)) => {
            let mut wrapped = [0; RTX_SCRATCH_BYTES + OSN_BYTES];
            let wrapped_len =
                rtx::encapsulate(mapped.seq.seq(), payload, &mut wrapped).expect("a payload fits a slot");
            let header_len = write_header(&fields, &egress.config().extensions, &header, bytes, now, out)
                .expect("space is the upper bound");
            srtp.protect_rtp(out, header_len, &wrapped[..wrapped_len], fields.ssrc, index)
        }
        None => {
            let fields = egress.fields(&header, mapped);
            let extensions = &egress.config().extensions;
            let header_len = write_header(&fields, extensions, &header, bytes, packet.arrived, out)
                .expect("space is the upper bound");
            srtp.protect_rtp(out, header_len, payload, fields.ssrc, mapped.seq)
        }
    };
    tx.push(len);
    egress.on_resent(payload.len());
    true
}

//! Sending packets again: the cache they come from, the format they travel in, the limit on how many (RFC 4588).
//!
//! ```text
//! received packet ─▶ ResendCache (slots, not copies) ◀─ lookup ─ source number ◀─ seq_map ◀─ NACK from a subscriber
//!                                                        │
//!                                    ResendLimiter ──────┴─▶ RTX: new SSRC, PT, number; payload = OSN + payload
//!                                                            else plain: the very same bytes as before
//!
//! RTX payload   | OSN (2 bytes) | original payload ...
//! ```
//!
//! The cache owns one reference per slot. Whatever hands a slot back says so in its return value, and the caller gives
//! that reference to `RxPool::release`; [`ResendCache::drain`] must run before a cache is let go.
#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::time::Duration;

use crate::buf::SlotId;
use crate::ids::{ExtSeq, SeqNo};
use crate::time::Timestamp;

/// Entries for a video stream: one second at 1.2 Mbit/s.
pub const VIDEO_ENTRIES: usize = 128;
/// Entries for an audio stream, where NACK is negotiated for it.
pub const AUDIO_ENTRIES: usize = 32;
/// Packets older than this are not sent again: they would come too late to be played.
pub const AGE_MAX: Duration = Duration::from_secs(1);
/// Bytes of the original sequence number in front of an RTX payload.
pub const OSN_BYTES: usize = 2;

/// One cached packet: plaintext as it lies in its receive slot. Offsets in `len` and `payload_*` count from `start`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedPacket {
    /// The slot, of which the cache holds one reference.
    pub slot: SlotId,
    /// Where the packet begins in the slot.
    pub start: u16,
    /// Length of the plaintext packet, header to padding.
    pub len: u16,
    /// Where the payload begins: behind the header, and behind the OSN of a packet that itself came by RTX.
    pub payload_start: u16,
    /// Payload length without padding.
    pub payload_len: u16,
    /// When it was received.
    pub arrived: Timestamp,
}

/// Recent packets of one received stream, by source sequence number.
#[derive(Clone, Debug)]
pub struct ResendCache {
    /// `seq` lies at `seq % len`; the length is a power of two.
    ring: Box<[Option<(ExtSeq, CachedPacket)>]>,
    used: usize,
}

impl ResendCache {
    /// Room for `entries` packets, rounded up to a power of two.
    pub fn new(entries: usize) -> ResendCache {
        ResendCache { ring: vec![None; entries.max(1).next_power_of_two()].into(), used: 0 }
    }

    /// Packets held.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    #[inline]
    fn index(&self, seq: ExtSeq) -> usize {
        seq.0 as usize & (self.ring.len() - 1)
    }

    /// Takes a packet and with it one reference to its slot. Returns the slot to release, if any: the one that had to
    /// make room, or the packet's own when it is older than what lies in its place.
    #[inline]
    #[must_use = "the slot has to be released"]
    pub fn insert(&mut self, seq: ExtSeq, packet: CachedPacket) -> Option<SlotId> {
        let index = self.index(seq);
        let entry = &mut self.ring[index];
        match entry {
            Some((held, _)) if *held >= seq => Some(packet.slot),
            Some((_, old)) => {
                let evicted = old.slot;
                *entry = Some((seq, packet));
                Some(evicted)
            }
            None => {
                *entry = Some((seq, packet));
                self.used += 1;
                None
            }
        }
    }

    /// The packet `seq`, unless it is gone or older than [`AGE_MAX`]. The reference stays with the cache.
    #[inline]
    pub fn lookup(&self, now: Timestamp, seq: ExtSeq) -> Option<CachedPacket> {
        let (held, packet) = self.ring[self.index(seq)]?;
        (held == seq && now.since(packet.arrived) <= AGE_MAX).then_some(packet)
    }

    /// Hands over the slots of all packets older than [`AGE_MAX`]. Call it a few times per second.
    pub fn expire(&mut self, now: Timestamp, mut release: impl FnMut(SlotId)) {
        if self.used == 0 {
            return;
        }
        for entry in &mut self.ring {
            if let Some((_, packet)) = entry.take_if(|(_, packet)| now.since(packet.arrived) > AGE_MAX) {
                self.used -= 1;
                release(packet.slot);
            }
        }
    }

    /// Hands over all slots and is empty.
    pub fn drain(&mut self, mut release: impl FnMut(SlotId)) {
        for (_, packet) in self.ring.iter_mut().filter_map(Option::take) {
            release(packet.slot);
        }
        self.used = 0;
    }
}

/// Writes an RTX payload: the original sequence number, then the original payload. Returns its length, or `None` when
/// `out` is too small (RFC 4588 §4).
pub fn encapsulate(original: SeqNo, payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let len = OSN_BYTES + payload.len();
    let out = out.get_mut(..len)?;
    out[..OSN_BYTES].copy_from_slice(&original.0.to_be_bytes());
    out[OSN_BYTES..].copy_from_slice(payload);
    Some(len)
}

/// The original sequence number of an RTX payload; the original payload follows [`OSN_BYTES`] later. `None` for
/// payloads without content: Chromium probes for bandwidth with RTX packets that are padding only.
pub fn decapsulate(payload: &[u8]) -> Option<SeqNo> {
    match payload {
        [high, low, _, ..] => Some(SeqNo(u16::from_be_bytes([*high, *low]))),
        _ => None,
    }
}

/// Shortest time between two resends of one packet.
const RESEND_INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Resends whose time is remembered.
const RECENT: usize = 64;
/// Resends allowed in one go.
pub const RESEND_BURST: u32 = 128;
/// Packets that must be sent for each further resend: resends are at most half of the stream in the long run.
const PACKETS_PER_RESEND: u32 = 2;

#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    seq: SeqNo,
    /// Milliseconds plus one, modulo 2^32.
    at: Option<NonZeroU32>,
}

/// Decides whether one subscriber gets a packet again, so that a storm of NACKs cannot be turned into a flood.
#[derive(Clone, Debug)]
pub struct ResendLimiter {
    /// By `seq % RECENT`; a collision only forgets, and the budget still holds.
    recent: Box<[Recent; RECENT]>,
    /// In sent packets: a resend costs [`PACKETS_PER_RESEND`].
    budget: u32,
}

impl Default for ResendLimiter {
    fn default() -> ResendLimiter {
        ResendLimiter {
            recent: Box::new([Recent::default(); RECENT]),
            budget: RESEND_BURST * PACKETS_PER_RESEND,
        }
    }
}

impl ResendLimiter {
    /// A limiter with its full budget.
    pub fn new() -> ResendLimiter {
        ResendLimiter::default()
    }

    /// Earns budget for a packet sent the first time.
    #[inline]
    pub fn on_sent(&mut self) {
        self.budget = (self.budget + 1).min(RESEND_BURST * PACKETS_PER_RESEND);
    }

    /// Whether outgoing packet `seq` may be sent again now; if so, it counts as sent.
    ///
    /// Refuses when it was sent again less than `max(rtt / 2, 10 ms)` ago (the NACK crossed it), or without budget.
    pub fn admit(&mut self, now: Timestamp, rtt: Duration, seq: SeqNo) -> bool {
        let now_ms = now.as_millis() as u32;
        let recent = &mut self.recent[usize::from(seq.0) % RECENT];
        if let (true, Some(at)) = (recent.seq == seq, recent.at) {
            let elapsed = Duration::from_millis(u64::from(now_ms.wrapping_sub(at.get() - 1)));
            if elapsed < (rtt / 2).max(RESEND_INTERVAL_MIN) {
                return false;
            }
        }
        let Some(budget) = self.budget.checked_sub(PACKETS_PER_RESEND) else {
            return false;
        };
        self.budget = budget;
        // At the one moment in 49 days that has no successor, the entry stays empty.
        *recent = Recent { seq, at: NonZeroU32::new(now_ms.wrapping_add(1)) };
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn packet(slot: u32, at: u64) -> CachedPacket {
        CachedPacket {
            slot: SlotId(slot),
            start: 0,
            len: 20,
            payload_start: 12,
            payload_len: 8,
            arrived: ms(at),
        }
    }

    #[test]
    fn keeps_the_newest_in_each_place() {
        let mut cache = ResendCache::new(3);
        // (seq, slot to release)
        for (slot, (seq, released)) in
            [(8u64, None), (9, None), (12, Some(0)), (8, Some(3)), (12, Some(4)), (65_537, Some(1))]
                .iter()
                .enumerate()
        {
            let found = cache.insert(ExtSeq(*seq), packet(slot as u32, 0));
            assert_eq!(found.map(|s| s.0), *released, "seq {seq}");
        }
        let held = |seq| cache.lookup(ms(0), ExtSeq(seq)).map(|p| p.slot.0);
        assert_eq!([held(8), held(9), held(12), held(65_537), held(1)], [None, None, Some(2), Some(5), None]);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn age_ends_a_packet() {
        let mut cache = ResendCache::new(4);
        assert_eq!(cache.insert(ExtSeq(1), packet(1, 0)), None);
        assert_eq!(cache.insert(ExtSeq(2), packet(2, 500)), None);
        assert!(cache.lookup(ms(1000), ExtSeq(1)).is_some());
        assert!(cache.lookup(ms(1001), ExtSeq(1)).is_none());
        let mut released = Vec::new();
        cache.expire(ms(1000), |slot| released.push(slot.0));
        assert!(released.is_empty());
        cache.expire(ms(1001), |slot| released.push(slot.0));
        assert_eq!(released, [1]);
        cache.drain(|slot| released.push(slot.0));
        assert_eq!(released, [1, 2]);
        assert!(cache.is_empty());
    }

    #[test]
    fn rtx_payload() {
        let mut out = [0; 5];
        assert_eq!(encapsulate(SeqNo(0x1234), &[7, 8, 9], &mut out), Some(5));
        assert_eq!(out, [0x12, 0x34, 7, 8, 9]);
        assert_eq!(encapsulate(SeqNo(1), &[0; 4], &mut out), None);
        for (payload, expected) in
            [(&[][..], None), (&[1, 2], None), (&[1, 2, 3], Some(SeqNo(0x0102))), (&out, Some(SeqNo(0x1234)))]
        {
            assert_eq!(decapsulate(payload), expected, "{payload:?}");
        }
    }

    #[test]
    fn one_packet_is_not_sent_again_too_soon() {
        let rtt = Duration::from_millis(60);
        let mut limiter = ResendLimiter::new();
        // (at ms, seq, rtt, admitted)
        for (at, seq, rtt, admitted) in [
            (0, 7, rtt, true),
            (29, 7, rtt, false),
            (29, 8, rtt, true),
            (30, 7, rtt, true),
            (39, 7, Duration::ZERO, false),
            (40, 7, Duration::ZERO, true),
        ] {
            assert_eq!(limiter.admit(ms(at), rtt, SeqNo(seq)), admitted, "{seq} at {at}");
        }
        // The millisecond counter wraps.
        let wrap = u64::from(u32::MAX) + 1;
        assert!(limiter.admit(ms(wrap - 3), rtt, SeqNo(9)));
        assert!(!limiter.admit(ms(wrap + 3), rtt, SeqNo(9)));
        assert!(limiter.admit(ms(wrap + 30), rtt, SeqNo(9)));
    }

    #[test]
    fn a_storm_ends_with_the_budget() {
        let mut limiter = ResendLimiter::new();
        let storm = |limiter: &mut ResendLimiter, at| {
            (0..1000u16).filter(|seq| limiter.admit(ms(at), Duration::ZERO, SeqNo(*seq))).count()
        };
        assert_eq!(storm(&mut limiter, 0), RESEND_BURST as usize);
        assert_eq!(storm(&mut limiter, 10_000), 0);
        (0..20).for_each(|_| limiter.on_sent());
        assert_eq!(storm(&mut limiter, 20_000), 10);
        (0..10_000).for_each(|_| limiter.on_sent());
        assert_eq!(storm(&mut limiter, 30_000), RESEND_BURST as usize);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(i64),
        Wait(u64),
        Expire,
        Drain,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            30 => prop_oneof![8 => 1..2i64, 2 => -20..20i64, 1 => 20..5000i64].prop_map(Op::Insert),
            6 => (0..400u64).prop_map(Op::Wait),
            3 => Just(Op::Expire),
            1 => Just(Op::Drain),
        ]
    }

    proptest! {
        /// Every reference that goes in comes out exactly once.
        #[test]
        fn no_slot_is_lost_or_released_twice(ops in prop::collection::vec(any_op(), 1..300)) {
            let mut cache = ResendCache::new(16);
            let mut held = std::collections::HashSet::new();
            let (mut seq, mut now, mut next_slot) = (1_000u64, 0, 0u32);
            for op in ops {
                let mut released = Vec::new();
                match op {
                    Op::Insert(step) => {
                        seq = seq.saturating_add_signed(step);
                        held.insert(next_slot);
                        released.extend(cache.insert(ExtSeq(seq), packet(next_slot, now)));
                        if let Some(found) = cache.lookup(ms(now), ExtSeq(seq)) {
                            prop_assert!(held.contains(&found.slot.0));
                        }
                        next_slot += 1;
                    }
                    Op::Wait(time) => now += time,
                    Op::Expire => cache.expire(ms(now), |slot| released.push(slot)),
                    Op::Drain => {
                        cache.drain(|slot| released.push(slot));
                        prop_assert!(cache.is_empty());
                    }
                }
                for slot in released {
                    prop_assert!(held.remove(&slot.0), "slot {} released twice", slot.0);
                }
                prop_assert_eq!(held.len(), cache.len());
                prop_assert!(cache.len() <= 16);
            }
            cache.drain(|slot| assert!(held.remove(&slot.0)));
            prop_assert!(held.is_empty());
        }
    }
}

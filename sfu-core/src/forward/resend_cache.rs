//! Recent packets of a received stream, kept to be sent again: slots, not copies.
//!
//! ```text
//! received packet ─▶ ResendCache ◀─ lookup ─ source number ◀─ seq_map ◀─ NACK from a subscriber
//! ```
//!
//! The cache owns one reference per slot. Whatever hands a slot back says so in its return value, and the caller gives
//! that reference to `RxPool::release`; [`ResendCache::drain`] must run before a cache is let go.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::buf::SlotId;
use crate::ids::ExtSeq;
use crate::time::Timestamp;

/// Entries for a video stream to begin with: [`YOUNG`] at 1.2 Mbit/s. Each is a slot of 2 KiB, most of what a stream costs.
pub const VIDEO_ENTRIES: usize = 64;
/// Entries that it may grow to: a key frame of a screen share, or half a second at 16 Mbit/s.
pub const VIDEO_ENTRIES_MAX: usize = 1024;
/// Entries for an audio stream, where NACK is negotiated for it.
pub const AUDIO_ENTRIES: usize = 32;
/// A cache that has to let go of packets younger than this is too small: twice a long round trip, so that a second NACK
/// finds them. One that has grown keeps no older ones beyond its first size.
const YOUNG: Duration = Duration::from_millis(500);
/// Packets older than this are not sent again: they would come too late to be played.
pub const AGE_MAX: Duration = Duration::from_secs(1);

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
///
/// It begins small and doubles when a burst would push out its own beginning; so a stream without bursts stays small, and
/// one with them takes memory a few times in its life.
#[derive(Clone, Debug)]
pub struct ResendCache {
    /// `seq` lies at `seq % len`; the length is a power of two.
    ring: Box<[Entry]>,
    used: usize,
    entries: usize,
    entries_max: usize,
    /// In a ring that has grown: nothing below is held.
    tail: u64,
}

/// `None` as a number, so that an entry is as large as its contents.
const EMPTY: ExtSeq = ExtSeq(u64::MAX);

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: ExtSeq,
    packet: CachedPacket,
}

impl Entry {
    const NONE: Entry = Entry {
        seq: EMPTY,
        packet: CachedPacket {
            slot: SlotId(0),
            start: 0,
            len: 0,
            payload_start: 0,
            payload_len: 0,
            arrived: Timestamp::ZERO,
        },
    };

    /// Empties it and hands over its packet, if there is one that `leaves`.
    fn take_if(&mut self, leaves: impl FnOnce(&CachedPacket) -> bool) -> Option<CachedPacket> {
        let taken = (self.seq != EMPTY && leaves(&self.packet)).then_some(self.packet);
        if taken.is_some() {
            self.seq = EMPTY;
        }
        taken
    }
}

impl ResendCache {
    /// Room for `entries` packets, and for up to `entries_max` when they come in bursts; both rounded up to a power of two.
    pub fn new(entries: usize, entries_max: usize) -> ResendCache {
        let entries = entries.max(1).next_power_of_two();
        let entries_max = entries_max.next_power_of_two();
        ResendCache { ring: vec![Entry::NONE; entries].into(), used: 0, entries, entries_max, tail: 0 }
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

    /// Takes a packet and with it one reference to its slot. Hands `release` the slots that are let go: what had to make
    /// room, or the packet's own when it is older than what lies in its place.
    #[inline]
    pub fn insert(&mut self, seq: ExtSeq, packet: CachedPacket, mut release: impl FnMut(SlotId)) {
        let held = self.ring[self.index(seq)];
        if held.seq == EMPTY {
            self.used += 1;
        } else if held.seq >= seq {
            return release(packet.slot);
        } else if packet.arrived.since(held.packet.arrived) < YOUNG && self.grows() {
            // Twice the ring, and another place for one of the two.
            return self.insert(seq, packet, release);
        } else {
            release(held.packet.slot);
        }
        let index = self.index(seq);
        self.ring[index] = Entry { seq, packet };
        if self.ring.len() > self.entries {
            self.forget_old(seq, packet.arrived, release);
        }
    }

    /// Doubles the ring if it is full and may. What it holds stays.
    #[cold]
    fn grows(&mut self) -> bool {
        let len = self.ring.len();
        if len >= self.entries_max || self.used < len / 2 {
            return false;
        }
        let old = std::mem::replace(&mut self.ring, vec![Entry::NONE; 2 * len].into());
        for entry in old.iter().filter(|entry| entry.seq != EMPTY) {
            let index = self.index(entry.seq);
            self.ring[index] = *entry;
        }
        if len == self.entries {
            let held = old.iter().filter(|entry| entry.seq != EMPTY);
            self.tail = held.map(|entry| entry.seq.0).min().unwrap_or(0);
        }
        true
    }

    /// A ring that a burst has made large holds no more of a quiet stream than a small one does: slots are dear. Two for
    /// each that comes, so that it catches up.
    fn forget_old(&mut self, seq: ExtSeq, now: Timestamp, mut release: impl FnMut(SlotId)) {
        // Behind a jump nothing is left of what was before, but by expiry.
        self.tail = self.tail.max((seq.0 + 1).saturating_sub(self.ring.len() as u64)).min(seq.0);
        for _ in 0..2 {
            if self.tail + self.entries as u64 > seq.0 {
                return;
            }
            let entry = &mut self.ring[self.tail as usize & (self.ring.len() - 1)];
            if entry.seq.0 == self.tail {
                let Some(old) = entry.take_if(|packet| now.since(packet.arrived) >= YOUNG) else { return };
                self.used -= 1;
                release(old.slot);
            }
            self.tail += 1;
        }
    }

    /// The packet `seq`, unless it is gone or older than [`AGE_MAX`]. The reference stays with the cache.
    #[inline]
    pub fn lookup(&self, now: Timestamp, seq: ExtSeq) -> Option<CachedPacket> {
        let Entry { seq: held, packet } = self.ring[self.index(seq)];
        (held == seq && now.since(packet.arrived) <= AGE_MAX).then_some(packet)
    }

    /// Hands over the slots of all packets older than [`AGE_MAX`]. Call it a few times per second.
    pub fn expire(&mut self, now: Timestamp, mut release: impl FnMut(SlotId)) {
        if self.used == 0 {
            return;
        }
        for entry in &mut self.ring {
            if let Some(packet) = entry.take_if(|packet| now.since(packet.arrived) > AGE_MAX) {
                self.used -= 1;
                release(packet.slot);
            }
        }
    }

    /// Hands over all slots and is empty.
    pub fn drain(&mut self, mut release: impl FnMut(SlotId)) {
        for packet in self.ring.iter_mut().filter_map(|entry| entry.take_if(|_| true)) {
            release(packet.slot);
        }
        self.used = 0;
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

    /// Inserts and returns the slots that are let go.
    fn insert(cache: &mut ResendCache, seq: u64, slot: u32, at: u64) -> Vec<u32> {
        let mut released = Vec::new();
        cache.insert(ExtSeq(seq), packet(slot, at), |slot| released.push(slot.0));
        released
    }

    #[test]
    fn keeps_the_newest_in_each_place() {
        let mut cache = ResendCache::new(3, 3);
        // (seq, slot to release)
        for (slot, (seq, released)) in
            [(8u64, None), (9, None), (12, Some(0)), (8, Some(3)), (12, Some(4)), (65_537, Some(1))]
                .iter()
                .enumerate()
        {
            assert_eq!(insert(&mut cache, *seq, slot as u32, 0), *released.as_slice(), "seq {seq}");
        }
        let held = |seq| cache.lookup(ms(0), ExtSeq(seq)).map(|p| p.slot.0);
        assert_eq!([held(8), held(9), held(12), held(65_537), held(1)], [None, None, Some(2), Some(5), None]);
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn age_ends_a_packet() {
        let mut cache = ResendCache::new(4, 4);
        assert!(insert(&mut cache, 1, 1, 0).is_empty() && insert(&mut cache, 2, 2, 500).is_empty());
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
    fn a_burst_does_not_push_out_its_own_beginning() {
        let mut cache = ResendCache::new(VIDEO_ENTRIES, VIDEO_ENTRIES_MAX);
        assert_eq!(size_of_val(&cache.ring[0]), 32, "an entry is what it holds");
        // A quiet stream stays small: 64 packets in more than half a second.
        for seq in 0..1000 {
            insert(&mut cache, seq, seq as u32, seq * 10);
        }
        assert_eq!((cache.ring.len(), cache.len()), (VIDEO_ENTRIES, VIDEO_ENTRIES));
        // A key frame of 800 packets at once.
        for seq in 1000..1800 {
            insert(&mut cache, seq, seq as u32, 10_000);
        }
        assert!((1000..1800).all(|seq| cache.lookup(ms(10_100), ExtSeq(seq)).is_some()));
        assert_eq!(cache.ring.len(), VIDEO_ENTRIES_MAX);
        // More than it may ever hold: the newest.
        for seq in 1800..4000 {
            insert(&mut cache, seq, seq as u32, 10_010);
        }
        assert_eq!((cache.ring.len(), cache.len()), (VIDEO_ENTRIES_MAX, VIDEO_ENTRIES_MAX));
        // The quiet stream again: the large ring holds no more of it than the small one did.
        for n in 0..2000 {
            insert(&mut cache, 4000 + n, n as u32, 10_010 + n * 10);
        }
        assert_eq!(cache.len(), VIDEO_ENTRIES);
        assert!(
            (6000 - VIDEO_ENTRIES as u64..6000).all(|seq| cache.lookup(ms(30_005), ExtSeq(seq)).is_some())
        );
    }

    #[test]
    fn a_jump_makes_it_no_larger() {
        let mut cache = ResendCache::new(4, 64);
        for seq in [1, 5, 9, 13, (1 << 20) + 1, (1 << 20) + 5] {
            insert(&mut cache, seq, 0, 0);
        }
        assert_eq!((cache.ring.len(), cache.len()), (4, 1));
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
        fn no_slot_is_lost_or_released_twice(
            ops in prop::collection::vec(any_op(), 1..300),
            max in prop::sample::select(vec![4usize, 16, 64]),
        ) {
            let mut cache = ResendCache::new(4, max);
            let mut held = std::collections::HashSet::new();
            let (mut seq, mut now, mut next_slot) = (1_000u64, 0, 0u32);
            for op in ops {
                let mut released = Vec::new();
                match op {
                    Op::Insert(step) => {
                        seq = seq.saturating_add_signed(step);
                        held.insert(next_slot);
                        cache.insert(ExtSeq(seq), packet(next_slot, now), |slot| released.push(slot));
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
                prop_assert!(cache.len() <= max);
            }
            cache.drain(|slot| assert!(held.remove(&slot.0)));
            prop_assert!(held.is_empty());
        }
    }
}

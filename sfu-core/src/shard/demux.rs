//! Who sent a datagram: by its 5-tuple, or for STUN by the ufrag it names.
//!
//! Pairs enter the table only after an authenticated ICE check, so a stranger can look up but never insert: a fast hash
//! without a secret is enough.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::transport::Pair;

/// Finds a transport's index.
#[derive(Default)]
pub(super) struct Demux {
    by_pair: HashMap<Pair, u32, BuildHasherDefault<PairHasher>>,
    by_ufrag: HashMap<Box<str>, u32>,
}

impl Demux {
    /// Enters a transport under its local ufrag. False: the ufrag is taken.
    pub(super) fn insert_ufrag(&mut self, ufrag: &str, transport: u32) -> bool {
        if self.by_ufrag.contains_key(ufrag) {
            return false;
        }
        self.by_ufrag.insert(ufrag.into(), transport);
        true
    }

    pub(super) fn remove_ufrag(&mut self, ufrag: &str) {
        self.by_ufrag.remove(ufrag);
    }

    /// Routes `pair` to `transport`. The last check that was taken decides: an address can be reused by another peer.
    pub(super) fn insert_pair(&mut self, pair: Pair, transport: u32) {
        self.by_pair.insert(pair, transport);
    }

    /// Forgets `pair`, unless it has passed to another transport.
    pub(super) fn remove_pair(&mut self, pair: Pair, transport: u32) {
        if self.by_pair.get(&pair) == Some(&transport) {
            self.by_pair.remove(&pair);
        }
    }

    #[inline]
    pub(super) fn by_pair(&self, pair: &Pair) -> Option<u32> {
        self.by_pair.get(pair).copied()
    }

    pub(super) fn by_ufrag(&self, ufrag: &str) -> Option<u32> {
        self.by_ufrag.get(ufrag).copied()
    }
}

/// Multiply-and-rotate over eight-byte words; addresses differ in their low bytes, which the multiplication spreads.
#[derive(Default)]
pub(super) struct PairHasher(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

impl PairHasher {
    #[inline]
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(MULTIPLIER);
    }
}

impl Hasher for PairHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.add(u64::from_le_bytes(chunk.try_into().expect("chunks of eight")));
        }
        let mut rest = [0; 8];
        rest[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
        self.add(u64::from_le_bytes(rest));
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.add(u64::from(value));
    }

    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.add(u64::from(value));
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.add(u64::from(value));
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }

    #[inline]
    fn write_isize(&mut self, value: isize) {
        self.add(value as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // Hash tables look at the top bits, where the multiplication has put most of the entropy, and at the low ones.
        self.0 ^ (self.0 >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LocalId;

    fn pair(host: u8, port: u16) -> Pair {
        Pair { remote: ([10, 0, 0, host], port).into(), local: LocalId(0) }
    }

    #[test]
    fn a_pair_that_moved_on_is_not_removed_by_its_old_owner() {
        let mut demux = Demux::default();
        demux.insert_pair(pair(1, 9), 1);
        demux.insert_pair(pair(1, 9), 2);
        demux.remove_pair(pair(1, 9), 1);
        assert_eq!(demux.by_pair(&pair(1, 9)), Some(2));
        demux.remove_pair(pair(1, 9), 2);
        assert_eq!(demux.by_pair(&pair(1, 9)), None);
    }

    #[test]
    fn ufrags_are_unique() {
        let mut demux = Demux::default();
        assert!(demux.insert_ufrag("abcd", 1));
        assert!(!demux.insert_ufrag("abcd", 2));
        demux.remove_ufrag("abcd");
        assert!(demux.insert_ufrag("abcd", 2));
    }

    #[test]
    fn neighbouring_addresses_spread() {
        use std::hash::BuildHasher;
        let build = BuildHasherDefault::<PairHasher>::default();
        for bits in [0..7, 57..64] {
            let mask = bits.clone().fold(0_u64, |mask, bit| mask | 1 << bit);
            let buckets: std::collections::HashSet<_> =
                (0..2000).map(|i| build.hash_one(pair((i % 50) as u8, 10_000 + i as u16)) & mask).collect();
            assert_eq!(buckets.len(), 128, "{bits:?}");
        }
    }
}

//! Fixed slots in one memory mapping, a LIFO free list and reference counts without atomics.
//!
//! LIFO, because the slot freed last is the one still in the cache. Counts are plain numbers, because a pool belongs to
//! one shard thread. A slot that lies in the kernel's buffer ring has an owner of its own: neither [`RxPool::bytes`] nor
//! [`RxPool::release`] accepts it, so the engine cannot read what the kernel may be writing.

use std::io;
use std::ptr::NonNull;

use super::slot::{SLOT_BYTES, SlotId};

/// Count of a slot that is nobody's.
const FREE: u16 = 0;
/// Mark of a slot the kernel may write to.
const KERNEL: u16 = u16::MAX;

/// The receive slots of one shard.
///
/// Invariant: a slot is in `free` exactly when its count is zero; a slot with the kernel's mark is in nobody else's hands.
pub struct RxPool {
    region: Region,
    counts: Box<[u16]>,
    free: Vec<u32>,
}

impl RxPool {
    /// Maps `slots` slots of [`SLOT_BYTES`]; the kernel backs them with memory as they are first used.
    ///
    /// # Errors
    /// The kernel refused the mapping, or `slots` is zero.
    pub fn new(slots: u32) -> io::Result<RxPool> {
        if slots == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pool needs at least one slot"));
        }
        let region = Region::map(slots as usize * SLOT_BYTES)?;
        // Reversed, so that low slots are handed out first and a quiet shard touches little memory.
        Ok(RxPool { region, counts: vec![FREE; slots as usize].into(), free: (0..slots).rev().collect() })
    }

    /// Takes a free slot with one reference; `None` when there is none left.
    pub fn alloc(&mut self) -> Option<SlotId> {
        let id = self.free.pop()?;
        self.counts[id as usize] = 1;
        Some(SlotId(id))
    }

    /// Adds one reference.
    ///
    /// # Panics
    /// The slot is free, the kernel's, or has 65 534 references already.
    pub fn retain(&mut self, slot: SlotId) {
        let count = &mut self.counts[slot.0 as usize];
        assert!(*count != FREE && *count < KERNEL - 1, "retain of slot {} with count {count}", slot.0);
        *count += 1;
    }

    /// Drops one reference; the last one frees the slot.
    ///
    /// # Panics
    /// The slot is free or the kernel's: somebody released twice.
    pub fn release(&mut self, slot: SlotId) {
        let count = &mut self.counts[slot.0 as usize];
        assert!(*count != FREE && *count != KERNEL, "release of slot {} with count {count}", slot.0);
        *count -= 1;
        if *count == FREE {
            self.free.push(slot.0);
        }
    }

    /// All [`SLOT_BYTES`] bytes of a slot.
    ///
    /// # Panics
    /// The slot is free or the kernel's.
    pub fn bytes(&self, slot: SlotId) -> &[u8] {
        self.assert_held(slot);
        self.region.slot(slot)
    }

    /// All [`SLOT_BYTES`] bytes of a slot, to write. Whoever shares the slot sees the change.
    ///
    /// # Panics
    /// The slot is free or the kernel's.
    pub fn bytes_mut(&mut self, slot: SlotId) -> &mut [u8] {
        self.assert_held(slot);
        self.region.slot_mut(slot)
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many slots there are.
    pub fn capacity(&self) -> usize {
        self.counts.len()
    }

    /// References held to a slot; zero when it is free or the kernel's.
    pub fn references(&self, slot: SlotId) -> usize {
        match self.counts[slot.0 as usize] {
            KERNEL => 0,
            count => usize::from(count),
        }
    }

    /// Takes a free slot for the kernel to write to. It comes back by [`RxPool::take_back`].
    pub(crate) fn lend(&mut self) -> Option<SlotId> {
        let id = self.free.pop()?;
        self.counts[id as usize] = KERNEL;
        Some(SlotId(id))
    }

    /// The kernel has filled a lent slot: it is the shard's now, with one reference.
    ///
    /// # Panics
    /// The slot was not lent.
    pub(crate) fn take_back(&mut self, slot: SlotId) {
        let count = &mut self.counts[slot.0 as usize];
        assert!(*count == KERNEL, "slot {} was not lent", slot.0);
        *count = 1;
    }

    /// Where a slot begins, for the kernel. Valid for [`SLOT_BYTES`] bytes as long as the pool lives.
    pub(crate) fn address(&self, slot: SlotId) -> *mut u8 {
        assert!((slot.0 as usize) < self.counts.len(), "no slot {}", slot.0);
        self.region.slot_ptr(slot)
    }

    fn assert_held(&self, slot: SlotId) {
        let count = self.counts[slot.0 as usize];
        assert!(count != FREE && count != KERNEL, "use of slot {} with count {count}", slot.0);
    }
}

/// An anonymous, private, zeroed mapping.
struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping has one owner, and every access goes through `&self` or `&mut self` of that owner.
unsafe impl Send for Region {}

impl Region {
    fn map(bytes: usize) -> io::Result<Region> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast::<u8>()).expect("mmap without MAP_FIXED never returns null");
        Ok(Region { base, bytes })
    }

    fn slot_ptr(&self, slot: SlotId) -> *mut u8 {
        let offset = slot.0 as usize * SLOT_BYTES;
        debug_assert!(offset + SLOT_BYTES <= self.bytes);
        // SAFETY: callers check the slot against the pool's count array, so the offset lies in the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    fn slot(&self, slot: SlotId) -> &[u8] {
        let start = self.slot_ptr(slot);
        // SAFETY: SLOT_BYTES bytes from `start` lie in the mapping and are initialised (it is zeroed); the caller has
        // checked that the kernel does not own the slot, and `&self` keeps writers of ours out.
        unsafe { std::slice::from_raw_parts(start, SLOT_BYTES) }
    }

    fn slot_mut(&mut self, slot: SlotId) -> &mut [u8] {
        let start = self.slot_ptr(slot);
        // SAFETY: as in `slot`; `&mut self` makes this the only reference into the mapping.
        unsafe { std::slice::from_raw_parts_mut(start, SLOT_BYTES) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of the mapping, which nobody unmaps but this; references into it cannot
        // outlive it, and a ring that may write to it is dropped before its pool (`reactor/ring.rs`).
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_out_every_slot_once_and_then_none() {
        let mut pool = RxPool::new(3).unwrap();
        let mut ids: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert_eq!(pool.free(), 0);
        assert_eq!(pool.capacity(), 3);
        ids.sort();
        assert_eq!(ids, [SlotId(0), SlotId(1), SlotId(2)]);
    }

    #[test]
    fn last_release_frees_and_the_freshest_slot_comes_first() {
        let mut pool = RxPool::new(4).unwrap();
        let (a, b) = (pool.alloc().unwrap(), pool.alloc().unwrap());
        pool.retain(a);
        pool.release(a);
        assert_eq!((pool.references(a), pool.free()), (1, 2));
        pool.release(b);
        pool.release(a);
        assert_eq!((pool.references(a), pool.free()), (0, 4));
        assert_eq!(pool.alloc(), Some(a));
        assert_eq!(pool.alloc(), Some(b));
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut pool = RxPool::new(8).unwrap();
        let ids: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        for id in &ids {
            pool.bytes_mut(*id).fill(id.0 as u8 + 1);
        }
        for id in &ids {
            assert!(pool.bytes(*id).iter().all(|&b| b == id.0 as u8 + 1));
            assert_eq!(pool.bytes(*id).len(), SLOT_BYTES);
        }
    }

    #[test]
    fn a_lent_slot_is_out_of_reach_until_it_comes_back() {
        let mut pool = RxPool::new(1).unwrap();
        let slot = pool.lend().unwrap();
        assert_eq!((pool.free(), pool.references(slot)), (0, 0));
        assert!(pool.alloc().is_none());
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.bytes(slot).len()));
        assert!(read.is_err());
        pool.take_back(slot);
        assert_eq!(pool.bytes(slot).len(), SLOT_BYTES);
        pool.release(slot);
        assert_eq!(pool.free(), 1);
    }

    #[test]
    #[should_panic(expected = "release of slot 0 with count 0")]
    fn double_release_is_found() {
        let mut pool = RxPool::new(1).unwrap();
        let slot = pool.alloc().unwrap();
        pool.release(slot);
        pool.release(slot);
    }

    #[test]
    fn no_pool_without_slots() {
        assert!(RxPool::new(0).is_err());
    }
}

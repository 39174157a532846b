//! The receiving half of the ring: a provided-buffer ring whose entries are slots, and multishot `RECVMSG` on it.
//!
//! ```text
//!   pool ──lend──▶ buffer ring ──▶ kernel fills a slot ──▶ completion (buffer id)
//!     ▲                 ▲                                        │ take_back
//!     │ release         └── a freshly lent slot, same id ◀───────┤
//!     └──────────── engine keeps the slot as long as it likes ◀──┘
//! ```
//!
//! When the pool has nothing to lend, the ring would run dry and datagrams would age in the socket. So its last entries
//! then point to one discard slot: what lands there is counted as `no_slot` and forgotten, and fresh slots queue up
//! behind as soon as they come back.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::headers::empty_header;
use super::op::Op;
use super::{MAX_SOCKETS, Received, addr};
use crate::buf::{Datagram, PAYLOAD_START, RxPool, SLOT_BYTES, SlotId};
use crate::ids::LocalId;

/// The only buffer group.
const GROUP: u16 = 0;
/// Bytes of the kernel's `io_uring_recvmsg_out`: name length, control length, payload length, flags.
const OUT_BYTES: usize = 16;
/// Room for the sender's address, so that the datagram begins at [`PAYLOAD_START`].
const NAME_BYTES: usize = PAYLOAD_START - OUT_BYTES;
/// Most entries of the buffer ring.
const MAX_ENTRIES: u32 = 1024;
/// Entries that point to the discard slot when the pool is exhausted: what may still be lost once slots are back.
const DISCARDS: usize = 8;
/// The kernel wants the buffer ring on a page.
const PAGE: usize = 4096;

const _: () = assert!(NAME_BYTES >= addr::MAX_BYTES);

/// Everything that receives.
pub(super) struct Inbound {
    entries: BufferRing,
    /// Which slot a buffer id stands for while the kernel has it.
    slots: Box<[SlotId]>,
    /// Ids the kernel does not have.
    idle: Vec<u16>,
    /// Lent for ever; any number of ids may stand for it.
    discard: SlotId,
    /// What multishot receive reads its name length from.
    header: Box<libc::msghdr>,
    /// Sockets with a receive in flight.
    armed: [bool; MAX_SOCKETS],
    sockets: usize,
    ready: Vec<Datagram>,
    no_slot: u32,
    truncated: u32,
    fatal: Option<Errno>,
}

impl Inbound {
    /// Registers a buffer ring for `pool` with `ring`. Unregister it before this is dropped; if that cannot be had, never
    /// drop it.
    pub(super) fn new(ring: &IoUring, pool: &mut RxPool, sockets: usize) -> io::Result<Inbound> {
        let half = (pool.capacity() as u32 / 2).max(2);
        let count = (1 << half.ilog2()).min(MAX_ENTRIES) as u16;
        let discard = pool.lend().ok_or(io::ErrorKind::InvalidInput)?;
        let entries = BufferRing::new(count);
        entries.register(ring)?;
        let mut header = empty_header();
        header.msg_namelen = NAME_BYTES as libc::socklen_t;
        let mut inbound = Inbound {
            entries,
            slots: vec![discard; usize::from(count)].into(),
            idle: (0..count).rev().collect(),
            discard,
            header: Box::new(header),
            armed: [false; MAX_SOCKETS],
            sockets,
            ready: Vec::with_capacity(usize::from(count)),
            no_slot: 0,
            truncated: 0,
            fatal: None,
        };
        inbound.refill(pool);
        Ok(inbound)
    }

    /// Takes one completion of a receive.
    pub(super) fn on_completion(&mut self, local: LocalId, completion: &cqueue::Entry, pool: &mut RxPool) {
        if !cqueue::more(completion.flags()) {
            self.armed[usize::from(local.0)] = false;
        }
        let buffer = cqueue::buffer_select(completion.flags());
        match (completion.result(), buffer) {
            (result, Some(id)) if result >= 0 => self.take(id, result as usize, local, pool),
            (result, None) if result < 0 => self.on_error(Errno::from_raw_os_error(-result)),
            // No success without a buffer, and no buffer with an error.
            _ => {}
        }
    }

    /// Moves what has been taken in to `received`, as far as it has room.
    pub(super) fn hand_over(&mut self, received: &mut Received) {
        received.no_slot += std::mem::take(&mut self.no_slot);
        received.truncated += std::mem::take(&mut self.truncated);
        let count = received.room().min(self.ready.len());
        received.datagrams.extend(self.ready.drain(..count));
    }

    /// Whether datagrams wait for [`Inbound::hand_over`].
    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The error that made receiving impossible.
    pub(super) fn fatal(&self) -> Option<Errno> {
        self.fatal
    }

    /// Gives the kernel a slot for every id it does not have; discards if the pool has none and the kernel neither.
    pub(super) fn refill(&mut self, pool: &mut RxPool) {
        if self.idle.is_empty() {
            return;
        }
        while let Some(&id) = self.idle.last() {
            let Some(slot) = pool.lend() else { break };
            self.idle.pop();
            self.provide(id, slot, pool);
        }
        if self.idle.len() == self.slots.len() {
            for _ in 0..DISCARDS.min(self.idle.len()) {
                let id = self.idle.pop().expect("counted in the loop's range");
                self.provide(id, self.discard, pool);
            }
        }
        self.entries.publish();
    }

    /// Sockets without a receive in flight.
    pub(super) fn unarmed(&self) -> impl Iterator<Item = LocalId> + use<> {
        let armed = self.armed;
        (0..self.sockets).filter(move |&i| !armed[i]).map(|i| LocalId(i as u8))
    }

    /// The entry that starts a multishot receive; counts as in flight from now on.
    pub(super) fn arm(&mut self, local: LocalId) -> squeue::Entry {
        self.armed[usize::from(local.0)] = true;
        opcode::RecvMsgMulti::new(Fixed(u32::from(local.0)), &raw const *self.header, GROUP)
            .build()
            .user_data(Op::Receive(local).encode())
    }

    /// Whether any receive is in flight.
    pub(super) fn any_armed(&self) -> bool {
        self.armed.contains(&true)
    }

    fn provide(&mut self, id: u16, slot: SlotId, pool: &RxPool) {
        self.slots[usize::from(id)] = slot;
        self.entries.push(id, pool.address(slot));
    }

    /// A filled buffer: `result` bytes of header, address and datagram.
    fn take(&mut self, id: u16, result: usize, local: LocalId, pool: &mut RxPool) {
        let slot = self.slots[usize::from(id)];
        self.idle.push(id);
        if slot == self.discard {
            self.no_slot += 1;
            return;
        }
        pool.take_back(slot);
        match Head::parse(pool.bytes(slot)) {
            Some(head) if head.flags & libc::MSG_TRUNC != 0 => {
                self.truncated += 1;
                pool.release(slot);
            }
            Some(Head { from, .. }) if result >= PAYLOAD_START => {
                let len = (result - PAYLOAD_START) as u16;
                self.ready.push(Datagram { slot, start: PAYLOAD_START as u16, len, from, local });
            }
            // A UDP socket of ours has no other family, and the kernel writes the whole head.
            _ => pool.release(slot),
        }
    }

    fn on_error(&mut self, errno: Errno) {
        match errno {
            // The buffer ring ran dry within one batch; or an ICMP error of an earlier send; or we cancelled.
            Errno::NOBUFS | Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH => {}
            Errno::CANCELED | Errno::INTR | Errno::AGAIN | Errno::NOMEM => {}
            errno => self.fatal = Some(errno),
        }
    }
}

/// What the kernel puts in front of a datagram.
struct Head {
    flags: i32,
    from: std::net::SocketAddr,
}

impl Head {
    fn parse(slot: &[u8]) -> Option<Head> {
        let flags = i32::from_ne_bytes(*slot.get(12..)?.first_chunk()?);
        let from = addr::decode(slot.get(OUT_BYTES..PAYLOAD_START)?)?;
        Some(Head { flags, from })
    }
}

/// The array the kernel takes buffers from. We alone write it; the kernel reads up to the tail we publish.
struct BufferRing {
    base: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
}

impl BufferRing {
    fn new(count: u16) -> BufferRing {
        assert!(count.is_power_of_two());
        let layout = Self::layout(count);
        // SAFETY: the layout is not of size zero.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base.cast()) else { handle_alloc_error(layout) };
        BufferRing { base, count, tail: 0 }
    }

    fn layout(count: u16) -> Layout {
        Layout::array::<BufRingEntry>(usize::from(count))
            .and_then(|layout| layout.align_to(PAGE))
            .expect("at most 32 768 entries of 16 bytes")
    }

    fn register(&self, ring: &IoUring) -> io::Result<()> {
        let base = self.base.as_ptr() as u64;
        // SAFETY: the array is page aligned, of `count` entries, and freed only after it was unregistered, by
        // `RingReactor::drop`.
        unsafe { ring.submitter().register_buf_ring_with_flags(base, self.count, GROUP, 0) }
    }

    /// Writes one entry behind the last. The kernel sees it after [`BufferRing::publish`].
    fn push(&mut self, id: u16, slot: *mut u8) {
        let at = usize::from(self.tail & (self.count - 1));
        let entry = &mut self.entries()[at];
        entry.set_addr(slot as u64);
        entry.set_len(SLOT_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: `base` points to the first, zeroed, entry of the ring; the tail lies in its padding.
        let tail = unsafe { BufRingEntry::tail(self.base.as_ptr()) };
        // SAFETY: aligned for u16 and alive as long as `self`; on our side only this function touches it.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    fn entries(&mut self) -> &mut [BufRingEntry] {
        // SAFETY: `count` zeroed entries were allocated at `base`; the kernel only reads them, and not those beyond the
        // published tail, the only ones that change.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), usize::from(self.count)) }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; no kernel reads it, see `Inbound::new`.
        unsafe { dealloc(self.base.as_ptr().cast(), Self::layout(self.count)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_read_as_the_kernel_writes_it() {
        let mut slot = vec![0; SLOT_BYTES];
        assert!(Head::parse(&slot).is_none(), "no family");
        let mut raw = addr::RawAddr::ZERO;
        let from = "[2001:db8::9]:4000".parse().unwrap();
        raw.set(from);
        slot[12..16].copy_from_slice(&libc::MSG_TRUNC.to_ne_bytes());
        slot[16..16 + addr::MAX_BYTES].copy_from_slice(raw.bytes());
        let head = Head::parse(&slot).unwrap();
        assert_eq!((head.flags, head.from), (libc::MSG_TRUNC, from));
    }
}

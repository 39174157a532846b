//! The reactor without a ring: `poll`, `recvmmsg`, `sendmmsg`. It runs wherever io_uring is forbidden, and it is the
//! baseline every claim about io_uring is measured against.
//!
//! `ppoll` rather than epoll: a shard watches two or three descriptors, so a set kept in the kernel saves nothing, and
//! `ppoll` takes its timeout in nanoseconds on every kernel.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::thread::nanosleep;
use rustix::time::Timespec;

use super::addr::{MAX_BYTES, RawAddr};
use super::gso::{Piece, Pieces, Refusal};
use super::headers::{Headers, empty_header};
use super::ways::{Message, Ways};
use super::{MAX_SOCKETS, Reactor, Received, Setup, Socket, Waker};
use crate::buf::{Datagram, PAYLOAD_START, RxPool, SLOT_BYTES, SlotId, TxBatch, TxMessage};
use crate::engine::Turn;
use crate::ids::LocalId;

/// Messages per system call: beyond 64 nothing is gained, and the headers stay in the first-level cache.
const BATCH: usize = 64;

/// `poll` + `recvmmsg` + `sendmmsg`.
pub struct MmsgReactor {
    pool: RxPool,
    sockets: Vec<Socket>,
    waker: Arc<Waker>,
    inbound: Inbound,
    outbound: Outbound,
    /// The socket that is received from first, in rotation, so that a flooded one starves no other.
    first: usize,
}

impl MmsgReactor {
    /// Makes the pool; needs nothing of the kernel but memory.
    ///
    /// # Errors
    /// No memory, no slots, or more than [`MAX_SOCKETS`] sockets.
    pub fn new(setup: Setup) -> io::Result<MmsgReactor> {
        setup.check()?;
        Ok(MmsgReactor {
            first: 0,
            pool: RxPool::new(setup.slots)?,
            outbound: Outbound {
                headers: Headers::with_capacity(BATCH),
                ways: Ways::new(setup.sockets.len(), setup.frames),
            },
            inbound: Inbound::new(),
            sockets: setup.sockets,
            waker: setup.waker,
        })
    }
}

impl Reactor for MmsgReactor {
    fn name(&self) -> &'static str {
        "mmsg"
    }

    fn pool(&mut self) -> &mut RxPool {
        &mut self.pool
    }

    fn receive(&mut self, received: &mut Received) -> io::Result<()> {
        let count = self.sockets.len();
        for i in 0..count {
            let at = (self.first + i) % count;
            let local = LocalId(at as u8);
            while !received.is_full()
                && self.inbound.receive(&self.sockets[at], local, &mut self.pool, received)?
            {}
        }
        self.first = (self.first + 1) % count.max(1);
        Ok(())
    }

    fn send(&mut self, tx: &TxBatch, turn: &mut Turn) -> io::Result<()> {
        self.outbound.send_all(&self.sockets, tx, turn);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(timespec);
        // On the stack, because a wait allocates nothing.
        let mut fds: [PollFd<'_>; MAX_SOCKETS + 1] =
            std::array::from_fn(|i| match i.checked_sub(1).and_then(|i| self.sockets.get(i)) {
                Some(socket) => PollFd::new(socket, PollFlags::IN),
                None => PollFd::new(&*self.waker, PollFlags::IN),
            });
        match poll(&mut fds[..=self.sockets.len()], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[0].revents().is_empty() {
            self.waker.clear();
        }
        Ok(())
    }

    fn pause(&mut self, time: Duration) -> io::Result<()> {
        // Interrupted by a signal: early is allowed.
        let _ = nanosleep(&timespec(time));
        Ok(())
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() }
}

/// Slots and headers for one `recvmmsg`.
struct Inbound {
    headers: Box<[libc::mmsghdr]>,
    iovs: Box<[libc::iovec]>,
    addrs: Box<[RawAddr]>,
    /// Slots lent to the headers, in their order: the rest of the last call, topped up before the next.
    slots: Vec<SlotId>,
}

impl Inbound {
    fn new() -> Inbound {
        let iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Inbound {
            headers: vec![libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }; BATCH].into(),
            iovs: vec![iov; BATCH].into(),
            addrs: vec![RawAddr::ZERO; BATCH].into(),
            slots: Vec::with_capacity(BATCH),
        }
    }

    /// One `recvmmsg`. `false`: the socket is dry.
    fn receive(
        &mut self,
        socket: &Socket,
        local: LocalId,
        pool: &mut RxPool,
        received: &mut Received,
    ) -> io::Result<bool> {
        let want = BATCH.min(received.room());
        self.top_up(pool, want);
        let room = want.min(self.slots.len());
        if room == 0 {
            return discard(socket, received);
        }
        for i in 0..room {
            self.point(i, pool.address(self.slots[i]));
        }
        let Some(count) = recvmmsg(socket, &mut self.headers[..room])? else { return Ok(false) };
        for i in 0..count {
            self.take(i, local, pool, received);
        }
        self.slots.drain(..count);
        Ok(count == room)
    }

    fn top_up(&mut self, pool: &mut RxPool, want: usize) {
        while self.slots.len() < want {
            let Some(slot) = pool.lend() else { break };
            self.slots.push(slot);
        }
    }

    fn point(&mut self, i: usize, slot: *mut u8) {
        self.iovs[i] = libc::iovec {
            iov_base: slot.wrapping_add(PAYLOAD_START).cast(),
            iov_len: SLOT_BYTES - PAYLOAD_START,
        };
        let mut header = empty_header();
        header.msg_name = std::ptr::from_mut(&mut self.addrs[i]).cast();
        header.msg_namelen = MAX_BYTES as libc::socklen_t;
        header.msg_iov = &mut self.iovs[i];
        header.msg_iovlen = 1;
        self.headers[i] = libc::mmsghdr { msg_hdr: header, msg_len: 0 };
    }

    fn take(&mut self, i: usize, local: LocalId, pool: &mut RxPool, received: &mut Received) {
        let slot = self.slots[i];
        pool.take_back(slot);
        let header = &self.headers[i];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            received.truncated += 1;
            return pool.release(slot);
        }
        match self.addrs[i].get() {
            Some(from) => {
                let len = header.msg_len as u16;
                received.datagrams.push(Datagram { slot, start: PAYLOAD_START as u16, len, from, local });
            }
            // A UDP socket of ours has no other family.
            None => pool.release(slot),
        }
    }
}

/// Receives into the headers; how many, or `None` when there is nothing.
fn recvmmsg(socket: &Socket, headers: &mut [libc::mmsghdr]) -> io::Result<Option<usize>> {
    // SAFETY: every header points to an address, an iovec and a buffer that outlive the call; the buffers are slots lent
    // from the pool, so nobody else reads or writes them, or a scratch array of the caller's.
    let count = unsafe {
        libc::recvmmsg(
            socket.raw(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    if count >= 0 {
        return Ok(Some(count as usize));
    }
    let error = io::Error::last_os_error();
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
        // An ICMP error that belongs to some earlier send; the next call receives again.
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Ok(Some(0)),
        _ => Err(error),
    }
}

/// Takes datagrams off a socket when no slot is free: late media is worth nothing. `false`: the socket is dry.
fn discard(socket: &Socket, received: &mut Received) -> io::Result<bool> {
    let mut headers = [libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }; BATCH];
    let Some(count) = recvmmsg(socket, &mut headers)? else { return Ok(false) };
    received.no_slot += count as u32;
    Ok(count == BATCH)
}

/// Headers for one `sendmmsg`, and the ways out.
struct Outbound {
    headers: Headers,
    ways: Ways,
}

impl Outbound {
    fn send_all(&mut self, sockets: &[Socket], tx: &TxBatch, turn: &mut Turn) {
        self.ways.begin();
        let mut pieces = Pieces::default();
        let mut next = self.ways.next(&mut pieces, tx, sockets);
        while let Some(first) = next {
            self.headers.clear();
            while let Some(message) = next
                && message.goes_with(&first)
                && !self.headers.is_full()
            {
                self.headers.push(tx, &message);
                next = self.ways.next(&mut pieces, tx, sockets);
            }
            self.send_chunk(sockets, &first, tx, turn);
        }
    }

    /// Sends what the headers hold, past messages the kernel refuses.
    fn send_chunk(&mut self, sockets: &[Socket], first: &Message<'_>, tx: &TxBatch, turn: &mut Turn) {
        let socket = &sockets[usize::from(first.run.local.0)];
        let descriptor = match self.ways.frames() {
            Some(frames) if first.piece.framed => frames.socket().raw(),
            _ => socket.raw(),
        };
        let mut done = 0;
        while done < self.headers.pieces().len() {
            match sendmmsg(descriptor, self.headers.remaining(done)) {
                Ok(count) => {
                    for piece in &self.headers.pieces()[done..done + count] {
                        self.ways.on_sent(tx, piece, turn);
                    }
                    done += count;
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    let piece = self.headers.pieces()[done];
                    let socket = &sockets[usize::from(tx.messages()[piece.message as usize].local.0)];
                    match self.ways.on_refused(errno, tx, &piece) {
                        Refusal::Singles => send_singles(socket, tx, &piece, turn),
                        Refusal::Failed => turn.send_failed += u32::from(piece.datagrams),
                        Refusal::SocketFull => return on_socket_full(&self.headers.pieces()[done..], turn),
                    }
                    done += 1;
                }
            }
        }
    }
}

fn on_socket_full(rest: &[Piece], turn: &mut Turn) {
    turn.send_failed += rest.iter().map(|p| u32::from(p.datagrams)).sum::<u32>();
}

/// Sends the segments of a refused run one by one.
pub(super) fn send_singles(socket: &Socket, tx: &TxBatch, piece: &Piece, turn: &mut Turn) {
    let run: &TxMessage = &tx.messages()[piece.message as usize];
    let bytes = &tx.bytes(run)[piece.offset as usize..][..piece.len as usize];
    for segment in bytes.chunks(usize::from(run.segment)) {
        match rustix::net::sendto(socket, segment, SendFlags::DONTWAIT, &run.to) {
            Ok(_) => {
                turn.sent += 1;
                turn.sent_bytes += segment.len() as u64;
                turn.messages += 1;
            }
            Err(_) => turn.send_failed += 1,
        }
    }
}

fn sendmmsg(descriptor: RawFd, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    // SAFETY: `Headers` keeps every pointer in the headers valid, and the batch they point into is borrowed by the
    // caller for longer than this call.
    let count = unsafe {
        libc::sendmmsg(descriptor, headers.as_mut_ptr(), headers.len() as libc::c_uint, libc::MSG_DONTWAIT)
    };
    if count >= 0 {
        return Ok(count as usize);
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

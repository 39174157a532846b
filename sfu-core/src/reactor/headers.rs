//! Message headers for the kernel: what `sendmmsg` and an io_uring `SENDMSG` read, in arrays that never move.
//!
//! ```text
//! for a UDP socket:                                    for a packet socket:
//! headers[i] ──▶ addrs[i]      destination             headers[i] ──▶ links[i]     interface
//!            ──▶ iovs[i][1] ──▶ the batch's arena                 ──▶ iovs[i][0] ──▶ frames[i]  Ethernet, IP, UDP
//!            ──▶ controls[i]   UDP_SEGMENT, for a run             ──▶ iovs[i][1] ──▶ the batch's arena
//! ```

use std::ptr;

use super::addr::RawAddr;
use super::frame::{FrameHeader, Framing, LinkAddr, Payload};
use super::gso::Piece;
use super::ways::Message;
use crate::buf::{TxBatch, TxMessage};

/// `CMSG_SPACE(2)` on 64-bit Linux: a header of 16 bytes, the segment size, padding to 8.
const CONTROL_BYTES: usize = 24;
/// `CMSG_LEN(2)`.
const CONTROL_LEN: usize = 18;

/// One `UDP_SEGMENT` control message, as `struct cmsghdr` lays it out on 64-bit Linux.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    segment: u16,
    padding: [u16; 3],
}

const _: () = assert!(size_of::<Control>() == CONTROL_BYTES && cfg!(target_pointer_width = "64"));

impl Control {
    const NEW: Control = Control {
        len: CONTROL_LEN,
        level: libc::SOL_UDP,
        kind: libc::UDP_SEGMENT,
        segment: 0,
        padding: [0; 3],
    };
}

/// Headers of up to `capacity` messages. The arrays are boxed and never replaced, so the pointers between them and the
/// kernel's pointers to them stay valid as long as this lives.
pub(super) struct Headers {
    headers: Box<[libc::mmsghdr]>,
    iovs: Box<[[libc::iovec; 2]]>,
    addrs: Box<[RawAddr]>,
    controls: Box<[Control]>,
    frames: Box<[FrameHeader]>,
    links: Box<[LinkAddr]>,
    pieces: Vec<Piece>,
}

impl Headers {
    pub(super) fn with_capacity(capacity: usize) -> Headers {
        let iov = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 2];
        Headers {
            headers: vec![libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }; capacity].into(),
            iovs: vec![iov; capacity].into(),
            addrs: vec![RawAddr::ZERO; capacity].into(),
            controls: vec![Control::NEW; capacity].into(),
            frames: vec![FrameHeader::ZERO; capacity].into(),
            links: vec![LinkAddr::ZERO; capacity].into(),
            pieces: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn clear(&mut self) {
        self.pieces.clear();
    }

    pub(super) fn is_full(&self) -> bool {
        self.pieces.len() == self.headers.len()
    }

    /// What was added, in order.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Adds one message. The kernel may read its header as long as `tx` is neither filled further nor cleared.
    ///
    /// # Panics
    /// It is full.
    pub(super) fn push(&mut self, tx: &TxBatch, message: &Message<'_>) {
        match &message.framing {
            None => self.push_datagrams(tx, message.piece, message.run),
            Some(framing) => self.push_frame(tx, message.piece, message.run, framing),
        }
    }

    fn push_datagrams(&mut self, tx: &TxBatch, piece: Piece, run: &TxMessage) {
        let i = self.pieces.len();
        self.iovs[i][1] = payload(tx, piece, run);
        let addr_len = self.addrs[i].set(run.to);
        let mut header = empty_header();
        header.msg_name = ptr::from_mut(&mut self.addrs[i]).cast();
        header.msg_namelen = addr_len as libc::socklen_t;
        header.msg_iov = &mut self.iovs[i][1];
        header.msg_iovlen = 1;
        if piece.datagrams > 1 {
            self.controls[i].segment = run.segment;
            header.msg_control = ptr::from_mut(&mut self.controls[i]).cast();
            header.msg_controllen = CONTROL_BYTES as _;
        }
        self.add(header, piece);
    }

    fn push_frame(&mut self, tx: &TxBatch, piece: Piece, run: &TxMessage, framing: &Framing) {
        let i = self.pieces.len();
        let bytes = Payload {
            len: piece.len,
            segment: run.segment,
            datagrams: piece.datagrams,
            identification: framing.identification,
        };
        let len = self.frames[i].set(&framing.hop, framing.from, run.to, bytes);
        let frame = self.frames[i].as_mut_ptr();
        self.iovs[i] = [libc::iovec { iov_base: frame.cast(), iov_len: len }, payload(tx, piece, run)];
        self.links[i] = LinkAddr::new(&framing.hop, run.to.is_ipv4());
        let mut header = empty_header();
        header.msg_name = ptr::from_mut(&mut self.links[i]).cast();
        header.msg_namelen = LinkAddr::BYTES as libc::socklen_t;
        header.msg_iov = self.iovs[i].as_mut_ptr();
        header.msg_iovlen = 2;
        self.add(header, piece);
    }

    fn add(&mut self, header: libc::msghdr, piece: Piece) {
        self.headers[self.pieces.len()] = libc::mmsghdr { msg_hdr: header, msg_len: 0 };
        self.pieces.push(piece);
    }

    /// The headers from `from` on, for `sendmmsg`.
    pub(super) fn remaining(&mut self, from: usize) -> &mut [libc::mmsghdr] {
        &mut self.headers[from..self.pieces.len()]
    }

    /// Bytes and destination of a message of one datagram for a UDP socket, for a `SEND` entry.
    pub(super) fn single(&self, i: usize) -> (*const u8, *const libc::sockaddr, libc::socklen_t) {
        let bytes = self.iovs[i][1].iov_base.cast_const().cast();
        (bytes, ptr::from_ref(&self.addrs[i]).cast(), self.headers[i].msg_hdr.msg_namelen)
    }

    /// One header, for a `SENDMSG` entry.
    pub(super) fn header(&self, i: usize) -> *const libc::msghdr {
        &self.headers[i].msg_hdr
    }
}

fn payload(tx: &TxBatch, piece: Piece, run: &TxMessage) -> libc::iovec {
    let bytes = &tx.bytes(run)[piece.offset as usize..][..piece.len as usize];
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

/// A header without anything.
pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: msghdr is plain integers and pointers, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_message_is_what_the_macros_make() {
        // SAFETY: CMSG_SPACE is arithmetic.
        let space = unsafe { libc::CMSG_SPACE(2) };
        // SAFETY: CMSG_LEN is arithmetic.
        let len = unsafe { libc::CMSG_LEN(2) };
        assert_eq!((space as usize, len as usize), (CONTROL_BYTES, CONTROL_LEN));
        assert_eq!(std::mem::offset_of!(Control, segment), size_of::<libc::cmsghdr>());
        assert_eq!(std::mem::offset_of!(Control, level), std::mem::offset_of!(libc::cmsghdr, cmsg_level));
        assert_eq!(std::mem::offset_of!(Control, kind), std::mem::offset_of!(libc::cmsghdr, cmsg_type));
    }
}

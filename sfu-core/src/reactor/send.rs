//! The sending half of the ring: `SENDMSG` with `MSG_DONTWAIT` and no completion on success.
//!
//! The two flags together mean: when the submitting `enter` returns, each send has been executed, and only failures have
//! left a completion. So the batch's memory is free again at once. This rests on the kernel executing a non-blocking send
//! inline; a test in `tests/reactor_ring.rs` checks it on the kernel at hand, and completions that come late are
//! recognised by their generation.

use io_uring::opcode;
use io_uring::squeue::{self, Flags};
use io_uring::types::Fixed;
use rustix::io::Errno;

use super::Socket;
use super::frame::Frames;
use super::gso::{Pieces, Refusal};
use super::headers::Headers;
use super::mmsg::send_singles;
use super::op::{GENERATIONS, Op};
use super::ways::Ways;
use crate::buf::TxBatch;
use crate::engine::Turn;

/// Messages handed over at once: the submission queue's length.
pub(super) const CHUNK: usize = 256;

/// Everything that sends.
pub(super) struct Outbound {
    headers: Headers,
    /// Errno of each message of the chunk; zero means sent.
    errors: Box<[i32]>,
    generation: u32,
    ways: Ways,
    /// Registered file of the packet socket: the one after those of the UDP sockets.
    packet_socket: u32,
}

impl Outbound {
    pub(super) fn new(sockets: usize, frames: Option<Frames>) -> Outbound {
        Outbound {
            headers: Headers::with_capacity(CHUNK),
            errors: vec![0; CHUNK].into(),
            generation: 0,
            ways: Ways::new(sockets, frames),
            packet_socket: sockets as u32,
        }
    }

    /// Call it once before a batch.
    pub(super) fn begin(&mut self) {
        self.ways.begin();
    }

    /// Fills the next chunk; returns how many messages it has.
    pub(super) fn fill(&mut self, tx: &TxBatch, pieces: &mut Pieces, sockets: &[Socket]) -> usize {
        self.headers.clear();
        self.generation = (self.generation + 1) % GENERATIONS;
        while !self.headers.is_full()
            && let Some(message) = self.ways.next(pieces, tx, sockets)
        {
            self.headers.push(tx, &message);
        }
        let count = self.headers.pieces().len();
        self.errors[..count].fill(0);
        count
    }

    /// The entry for message `i` of the chunk. It may be submitted as long as the chunk and its batch stand.
    ///
    /// A single datagram for a UDP socket needs no control message, and `SEND` with an address spares the kernel the copy of a header and
    /// an iovec (docs/BENCHMARKS.md).
    pub(super) fn entry(&self, i: usize, tx: &TxBatch) -> squeue::Entry {
        let piece = &self.headers.pieces()[i];
        let socket = match piece.framed {
            true => Fixed(self.packet_socket),
            false => Fixed(u32::from(tx.messages()[piece.message as usize].local.0)),
        };
        let entry = if piece.datagrams == 1 && !piece.framed {
            let (bytes, addr, addr_len) = self.headers.single(i);
            opcode::Send::new(socket, bytes, piece.len)
                .dest_addr(addr)
                .dest_addr_len(addr_len)
                .flags(libc::MSG_DONTWAIT)
                .build()
        } else {
            opcode::SendMsg::new(socket, self.headers.header(i)).flags(libc::MSG_DONTWAIT as u32).build()
        };
        entry
            .flags(Flags::SKIP_SUCCESS)
            .user_data(Op::Send { generation: self.generation, index: i as u32 }.encode())
    }

    /// Takes one completion of a send: a failure.
    pub(super) fn on_completion(&mut self, generation: u32, index: u32, result: i32) {
        if generation == self.generation
            && result < 0
            && let Some(error) = self.errors.get_mut(index as usize)
        {
            *error = -result;
        }
    }

    /// Counts what became of the chunk, and sends refused runs again as singles: behind the rest of the chunk, so a peer
    /// that such a run was for sees its packets reordered, as RTP allows.
    pub(super) fn settle(&mut self, sockets: &[Socket], tx: &TxBatch, turn: &mut Turn) {
        for (piece, &error) in self.headers.pieces().iter().zip(&self.errors) {
            if error == 0 {
                self.ways.on_sent(tx, piece, turn);
                continue;
            }
            let local = usize::from(tx.messages()[piece.message as usize].local.0);
            match self.ways.on_refused(Errno::from_raw_os_error(error), tx, piece) {
                Refusal::Singles => send_singles(&sockets[local], tx, piece, turn),
                Refusal::Failed | Refusal::SocketFull => turn.send_failed += u32::from(piece.datagrams),
            }
        }
    }
}

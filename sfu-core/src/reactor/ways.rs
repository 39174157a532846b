//! The ways out of a shard: for each message a UDP socket, or frames where the hop is known; and what becomes of one that
//! the kernel refuses.

use rustix::io::Errno;

use super::Socket;
use super::clock;
use super::frame::{Frames, Framing};
use super::gso::{Gso, Piece, Pieces, Refusal};
use crate::buf::{TxBatch, TxMessage};
use crate::engine::Turn;
use crate::time::Timestamp;

/// What a shard has learnt about its ways out.
pub(super) struct Ways {
    gso: Vec<Gso>,
    frames: Option<Frames>,
    now: Timestamp,
}

/// One message on its way.
#[derive(Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) piece: Piece,
    pub(super) run: &'a TxMessage,
    pub(super) framing: Option<Framing>,
}

impl Message<'_> {
    /// Whether two messages leave by the same descriptor.
    pub(super) fn goes_with(&self, other: &Message<'_>) -> bool {
        match (self.framing, other.framing) {
            (None, None) => self.run.local == other.run.local,
            (Some(_), Some(_)) => true,
            _ => false,
        }
    }
}

impl Ways {
    pub(super) fn new(sockets: usize, frames: Option<Frames>) -> Ways {
        Ways { gso: vec![Gso::default(); sockets], frames, now: Timestamp::ZERO }
    }

    /// What sends frames, if anything does.
    pub(super) fn frames(&self) -> Option<&Frames> {
        self.frames.as_ref()
    }

    /// Call it once before a batch.
    pub(super) fn begin(&mut self) {
        if let Some(frames) = &mut self.frames {
            self.now = clock::now();
            frames.refresh(self.now);
        }
    }

    /// The next message of a batch; `None` at the end.
    pub(super) fn next<'a>(
        &mut self,
        pieces: &mut Pieces,
        tx: &'a TxBatch,
        sockets: &[Socket],
    ) -> Option<Message<'a>> {
        let (mut piece, run) = pieces.next(tx, &self.gso)?;
        let framing = self.frames.as_mut().and_then(|frames| {
            let from = sockets[usize::from(run.local.0)].local_addr();
            frames.framing(from, &piece, run, self.now)
        });
        piece.framed = framing.is_some();
        Some(Message { piece, run, framing })
    }

    /// The kernel took a piece.
    pub(super) fn on_sent(&mut self, tx: &TxBatch, piece: &Piece, turn: &mut Turn) {
        turn.sent += u32::from(piece.datagrams);
        turn.sent_bytes += u64::from(piece.len);
        turn.messages += 1;
        turn.frames += u32::from(piece.framed);
        match &mut self.frames {
            Some(frames) if piece.framed => frames.on_accepted(piece),
            _ if piece.datagrams > 1 => self.gso_of(tx, piece).on_accepted(),
            _ => {}
        }
    }

    /// The kernel refused a piece.
    pub(super) fn on_refused(&mut self, errno: Errno, tx: &TxBatch, piece: &Piece) -> Refusal {
        match &mut self.frames {
            Some(frames) if piece.framed => {
                frames.on_refused(errno, piece, &tx.messages()[piece.message as usize])
            }
            _ => self.gso_of(tx, piece).on_refused(errno, piece.datagrams),
        }
    }

    fn gso_of(&mut self, tx: &TxBatch, piece: &Piece) -> &mut Gso {
        &mut self.gso[usize::from(tx.messages()[piece.message as usize].local.0)]
    }
}

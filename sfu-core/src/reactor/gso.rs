//! Generic segmentation offload per socket: which runs leave whole, and what to do when the kernel refuses one.
//!
//! | refused with | means | then |
//! |---|---|---|
//! | `EIO` | the route has no checksum offload (before 6.11), or IPsec | singles, and no more runs on this socket |
//! | `EINVAL` | the same on other kernels, or a segment above the path MTU | singles; after a few without a success in between, no more runs |
//! | `EMSGSIZE` | a segment above the path MTU of this one peer | singles, which may be fragmented |
//! | anything else | the datagram's own fault, or a full buffer | failed |

use rustix::io::Errno;

use crate::buf::{TxBatch, TxMessage};

/// Runs refused with `EINVAL`, with none accepted in between, before a socket gives up on GSO. One peer behind a narrow
/// path must not be enough.
const STRIKES: u8 = 16;

/// Whether one socket sends GSO runs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gso {
    off: bool,
    strikes: u8,
}

/// What to do with a message the kernel refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Send its segments one by one.
    Singles,
    /// Count it as failed.
    Failed,
    /// Count it as failed, and whatever else waits for this socket: its buffer is full.
    SocketFull,
}

impl Gso {
    pub(super) fn is_on(&self) -> bool {
        !self.off
    }

    /// The kernel took a run.
    pub(super) fn on_accepted(&mut self) {
        self.strikes = 0;
    }

    /// The kernel refused a message of `datagrams` segments.
    pub(super) fn on_refused(&mut self, errno: Errno, datagrams: u16) -> Refusal {
        match errno {
            Errno::AGAIN => Refusal::SocketFull,
            Errno::IO | Errno::INVAL | Errno::MSGSIZE if datagrams > 1 => {
                self.note(errno);
                Refusal::Singles
            }
            _ => Refusal::Failed,
        }
    }

    fn note(&mut self, errno: Errno) {
        match errno {
            Errno::IO => self.strikes = STRIKES,
            Errno::INVAL => self.strikes = self.strikes.saturating_add(1),
            _ => {}
        }
        if self.strikes >= STRIKES && !self.off {
            self.off = true;
            tracing::warn!(%errno, "the kernel refuses UDP segmentation here: datagrams leave one by one, at more CPU");
        }
    }
}

/// What one kernel message carries: a whole run, or one segment of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Position of the run in the batch.
    pub(super) message: u32,
    /// Offset in the run's bytes.
    pub(super) offset: u32,
    /// Bytes.
    pub(super) len: u32,
    /// Datagrams.
    pub(super) datagrams: u16,
    /// Whether it leaves as a frame, by the packet socket.
    pub(super) framed: bool,
}

/// Walks a batch piece by piece. A socket that turns GSO off on the way gets singles from the next run on.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    message: usize,
    offset: u32,
}

impl Pieces {
    /// The next piece and its run; `None` at the end.
    pub(super) fn next<'a>(&mut self, tx: &'a TxBatch, gso: &[Gso]) -> Option<(Piece, &'a TxMessage)> {
        let message = self.message;
        let run = tx.messages().get(message)?;
        let whole = gso[usize::from(run.local.0)].is_on() && self.offset == 0;
        let (len, datagrams) = if whole || run.segments == 1 {
            (run.len, run.segments)
        } else {
            (u32::from(run.segment).min(run.len - self.offset), 1)
        };
        let piece = Piece { message: message as u32, offset: self.offset, len, datagrams, framed: false };
        self.offset += len;
        if self.offset == run.len {
            self.message += 1;
            self.offset = 0;
        }
        Some((piece, run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LocalId;

    #[test]
    fn refusals_follow_the_table() {
        for (errno, datagrams, expected) in [
            (Errno::IO, 3, Refusal::Singles),
            (Errno::INVAL, 3, Refusal::Singles),
            (Errno::MSGSIZE, 3, Refusal::Singles),
            (Errno::IO, 1, Refusal::Failed),
            (Errno::INVAL, 1, Refusal::Failed),
            (Errno::AGAIN, 3, Refusal::SocketFull),
            (Errno::NOBUFS, 3, Refusal::Failed),
            (Errno::NETUNREACH, 1, Refusal::Failed),
            (Errno::PERM, 2, Refusal::Failed),
        ] {
            assert_eq!(Gso::default().on_refused(errno, datagrams), expected, "{errno:?} {datagrams}");
        }
    }

    #[test]
    fn eio_turns_it_off_at_once_and_einval_only_without_success() {
        let mut gso = Gso::default();
        gso.on_refused(Errno::IO, 2);
        assert!(!gso.is_on());

        let mut gso = Gso::default();
        for _ in 0..3 {
            for _ in 0..STRIKES - 1 {
                gso.on_refused(Errno::INVAL, 2);
            }
            gso.on_accepted();
        }
        assert!(gso.is_on());
        for _ in 0..STRIKES {
            gso.on_refused(Errno::INVAL, 2);
        }
        assert!(!gso.is_on());

        let mut gso = Gso::default();
        for _ in 0..1000 {
            gso.on_refused(Errno::MSGSIZE, 2);
            gso.on_refused(Errno::INVAL, 1);
        }
        assert!(gso.is_on());
    }

    #[test]
    fn pieces_are_runs_or_their_segments() {
        let mut tx = TxBatch::with_capacity(4096, 8);
        for (port, len) in [(1, 900), (1, 900), (1, 100), (2, 50)] {
            tx.open(([127, 0, 0, 1], port).into(), LocalId(0));
            tx.space(len).unwrap();
            tx.push(len);
        }
        let walk = |gso: &[Gso]| {
            let mut pieces = Pieces::default();
            std::iter::from_fn(|| {
                pieces.next(&tx, gso).map(|(p, _)| (p.message, p.offset, p.len, p.datagrams))
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(walk(&[Gso::default()]), [(0, 0, 1900, 3), (1, 0, 50, 1)]);
        let off = Gso { off: true, strikes: 0 };
        assert_eq!(walk(&[off]), [(0, 0, 900, 1), (0, 900, 900, 1), (0, 1800, 100, 1), (1, 0, 50, 1)]);
    }
}

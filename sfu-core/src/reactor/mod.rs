//! The kernel's side of a shard: sockets, two ways to move datagrams in batches, and the turn loop that drives an
//! [`Engine`](crate::engine::Engine).
//!
//! ```text
//!                 ┌──────────── run ────────────┐
//!   Inbox ──────▶ │ receive ▶ engine ▶ send ▶ wait │ ◀──▶ Reactor: ring::RingReactor | mmsg::MmsgReactor
//!                 └─────────────────────────────┘
//! ```
//!
//! Both reactors do the same with the same counters: multishot `recvmsg` and `sendmsg` on an io_uring, or `poll`,
//! `recvmmsg` and `sendmmsg`. Both send GSO runs, and both cost about the same (`docs/decisions`). A shard's reactor is
//! made and used on the shard's own thread.
//!
//! What is not here: any knowledge of what a datagram means.

#![allow(unsafe_code)]

mod addr;
pub mod clock;
pub mod frame;
mod gso;
mod headers;
mod inbox;
pub mod interfaces;
mod mmsg;
mod op;
mod recv;
mod ring;
mod send;
mod socket;
pub mod thread;
mod turn;
mod ways;

use std::io;
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::{ReactorChoice, SendPath};
pub use inbox::{Full, Inbox, InboxSender, Waker, channel};
pub use mmsg::MmsgReactor;
pub use ring::{RingError, RingReactor};
pub use socket::{BindError, RECEIVE_BUFFER, SEND_BUFFER, Socket};
pub use turn::{MAX_COMMANDS, TURN_DATAGRAMS, TX_BYTES, TX_MESSAGES, TurnLoop, run};

use crate::buf::{Datagram, RxPool, TxBatch};
use crate::engine::Turn;

/// Moves datagrams between the kernel and the slots of one shard. Never blocks but in [`Reactor::wait`] and
/// [`Reactor::pause`].
pub trait Reactor {
    /// Which one it is, for people.
    fn name(&self) -> &'static str;

    /// The slots datagrams are received into. The reactor owns them, because the kernel may be writing to some.
    fn pool(&mut self) -> &mut RxPool;

    /// Appends datagrams that have arrived to `received`, until there are none or `received` is full. Whoever takes a
    /// datagram out holds one reference to its slot. Datagrams that find no free slot or are larger than one are counted
    /// in `received` and gone.
    ///
    /// # Errors
    /// The kernel refuses to receive at all: the shard cannot go on.
    fn receive(&mut self, received: &mut Received) -> io::Result<()>;

    /// Hands all of `tx` to the kernel and counts what became of it. `tx` may be cleared afterwards.
    ///
    /// # Errors
    /// The kernel refuses every send for a reason that is not the datagram's: the shard cannot go on.
    fn send(&mut self, tx: &TxBatch, turn: &mut Turn) -> io::Result<()>;

    /// Sleeps until a datagram is there, the inbox wakes it, or `timeout` is over. May return early.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Sleeps for `time`, and lets datagrams come in meanwhile: one wake-up for all of them. May return early.
    ///
    /// # Errors
    /// The kernel refuses to wait.
    fn pause(&mut self, time: Duration) -> io::Result<()>;
}

/// What [`Reactor::receive`] took in.
#[derive(Debug)]
pub struct Received {
    /// The datagrams, oldest first for each socket.
    pub datagrams: Vec<Datagram>,
    limit: usize,
    /// Datagrams that found no free slot.
    pub no_slot: u32,
    /// Datagrams that were larger than a slot.
    pub truncated: u32,
}

impl Received {
    /// Empty, for `limit` datagrams at a time. Allocates now and nothing later.
    pub fn with_limit(limit: usize) -> Received {
        Received { datagrams: Vec::with_capacity(limit), limit, no_slot: 0, truncated: 0 }
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        self.no_slot = 0;
        self.truncated = 0;
    }

    /// Whether the limit is reached: there may be more.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// How many more datagrams may be taken in. Those that were dropped count, so that a flood ends a turn too.
    fn room(&self) -> usize {
        let taken = self.datagrams.len() + self.no_slot as usize + self.truncated as usize;
        self.limit.saturating_sub(taken)
    }
}

/// Most sockets of one shard: a few addresses of each family.
pub const MAX_SOCKETS: usize = 16;

/// What a reactor is made from.
pub struct Setup {
    /// Receive slots of the shard, [`SLOT_BYTES`](crate::buf::SLOT_BYTES) each.
    pub slots: u32,
    /// The shard's sockets; a [`LocalId`](crate::ids::LocalId) is a position in this list.
    pub sockets: Vec<Socket>,
    /// What wakes the shard: [`Inbox::waker`].
    pub waker: Arc<Waker>,
    /// What it needs to send frames; without it everything leaves by the sockets.
    pub frames: Option<frame::Frames>,
}

/// Makes the reactor that was chosen. Call it on the thread that will run it.
///
/// # Errors
/// No memory, no sockets or too many, or a kernel that refuses io_uring when nothing else was allowed.
pub fn open(choice: ReactorChoice, setup: Setup) -> io::Result<Box<dyn Reactor>> {
    if choice == ReactorChoice::Mmsg {
        return Ok(Box::new(MmsgReactor::new(setup)?));
    }
    match RingReactor::new(setup) {
        Ok(reactor) => Ok(Box::new(reactor)),
        Err(refusal) if choice == ReactorChoice::IoUring => Err(io::Error::other(refusal.0)),
        Err(refusal) => {
            let (error, setup) = *refusal;
            tracing::warn!("{error}; running the mmsg reactor, at about the same cost");
            Ok(Box::new(MmsgReactor::new(setup)?))
        }
    }
}

impl Setup {
    fn check(&self) -> io::Result<()> {
        if self.sockets.is_empty() || self.sockets.len() > MAX_SOCKETS {
            let text = format!("a shard has 1 to {MAX_SOCKETS} sockets, not {}", self.sockets.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_read_as_it_is_written() {
        for choice in [ReactorChoice::Auto, ReactorChoice::IoUring, ReactorChoice::Mmsg] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert!("epoll".parse::<ReactorChoice>().unwrap_err().contains("use auto"));
    }

    #[test]
    fn dropped_datagrams_fill_a_turn_too() {
        let mut received = Received::with_limit(3);
        received.no_slot = 2;
        assert!(!received.is_full());
        received.truncated = 1;
        assert!(received.is_full());
        received.clear();
        assert_eq!(received.room(), 3);
    }
}

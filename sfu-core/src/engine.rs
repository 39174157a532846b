//! The seam between the pure engine and the kernel: datagrams, commands and time in, batches and events out.
//!
//! ```text
//! one turn of the reactor:
//!   receive until dry ─▶ handle_datagram * ─▶ handle_command * ─▶ handle_timeout ─▶ drain until Done ─▶ wait
//! ```
//!
//! Drain rule: after every group of inputs the reactor calls [`Engine::drain`] until it answers [`Drain::Done`], then
//! [`Engine::poll_event`] until `None`, then sleeps until [`Engine::next_timeout`].
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::buf::{Datagram, RxPool, TxBatch};
use crate::drop_reason::DropReason;
use crate::time::Timestamp;

/// Whether [`Engine::drain`] wrote all it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Nothing is left.
    Done,
    /// The batch is full: send it, clear it, call again.
    More,
}

/// What one turn of the reactor cost; the engine turns it into the per-core load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn {
    /// From the first datagram or timer to the return of the last send.
    pub busy: Duration,
    /// From the end of the turn before to the end of this one.
    pub wall: Duration,
    /// Datagrams received.
    pub received: u32,
    /// UDP payload bytes received.
    pub received_bytes: u64,
    /// Datagrams handed to the kernel (GSO segments counted one by one).
    pub sent: u32,
    /// UDP payload bytes handed to the kernel.
    pub sent_bytes: u64,
    /// Messages (GSO runs) those datagrams went out in.
    pub messages: u32,
    /// Those of the messages that left as frames, by a packet socket.
    pub frames: u32,
    /// Datagrams the kernel refused to send.
    pub send_failed: u32,
    /// Datagrams that found no free slot.
    pub no_slot: u32,
    /// Datagrams that were larger than a slot.
    pub truncated: u32,
}

/// A sans-IO engine that one reactor drives. Opens no socket, reads no clock.
pub trait Engine {
    /// What the control thread may ask.
    type Command: Send + 'static;
    /// What it is told.
    type Event: Send + 'static;

    /// Takes one datagram and, with it, one reference to its slot.
    fn handle_datagram(&mut self, now: Timestamp, pool: &mut RxPool, datagram: Datagram);
    /// Applies one command.
    fn handle_command(&mut self, now: Timestamp, pool: &mut RxPool, command: Self::Command);
    /// Runs every timer that is due.
    fn handle_timeout(&mut self, now: Timestamp, pool: &mut RxPool);
    /// When [`Engine::handle_timeout`] wants to run next.
    fn next_timeout(&self) -> Option<Timestamp>;
    /// Seals waiting packets into `tx`.
    fn drain(&mut self, now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> Drain;
    /// The next event for the control thread.
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// How long the reactor may go on collecting datagrams before it drains; zero when the core is idle.
    fn gather_window(&self) -> Duration;
    /// Reports what a turn cost.
    fn on_turn(&mut self, now: Timestamp, turn: Turn);
    /// Counts one datagram that never reached [`Engine::handle_datagram`].
    fn on_drop(&mut self, reason: DropReason);
}

//! The turn loop: one engine, one reactor, one inbox.
//!
//! ```text
//! ┌▶ receive until dry ▶ engine ─┬─ window open? pause ─┐
//! │                              ◀──────────────────────┘
//! │  ▶ commands ▶ timers ▶ drain, send, clear until Done ▶ on_turn ▶ events
//! └─────────── wait for a datagram, a command or the next timer ◀─┘
//! ```
//!
//! Everything a turn needs is allocated before the first one. A turn that did not come to an end of its input does not
//! wait, so nothing is left lying.

use std::io;
use std::time::Duration;

use super::{Inbox, Reactor, Received, clock};
use crate::buf::TxBatch;
use crate::drop_reason::DropReason;
use crate::engine::{Drain, Engine, Turn};
use crate::time::Timestamp;

/// Datagrams one turn takes in before it sends: a bound on the delay of the first.
pub const TURN_DATAGRAMS: usize = 512;

/// Commands one turn applies before it looks at datagrams again.
pub const MAX_COMMANDS: usize = 64;

/// Datagrams taken in at a time within a turn: what they hold is still in the cache when it is decrypted.
const RECEIVE_CHUNK: usize = 64;

/// Bytes of the send arena. A turn with more to send fills it several times. A quarter of a usual second-level cache: the
/// kernel copies what was sealed just before, and a larger arena only pushes out what the next packet needs.
pub const TX_BYTES: usize = 1 << 18;

/// Messages of the send batch.
pub const TX_MESSAGES: usize = 1024;

/// Wall time between two comparisons of busy time with the thread's CPU time; rare, because each is a system call.
const CPU_CHECK: Duration = Duration::from_millis(2);

/// Drives `engine` until [`InboxSender::stop`](super::InboxSender::stop), then applies the commands still queued, sends
/// what they led to and returns. Events go to `events`, which must not block.
///
/// # Errors
/// The reactor's: the kernel refuses to receive, send or wait at all.
pub fn run<E, R>(
    engine: &mut E,
    reactor: &mut R,
    inbox: &Inbox<E::Command>,
    events: impl FnMut(E::Event),
) -> io::Result<()>
where
    E: Engine,
    R: Reactor + ?Sized,
{
    let mut turns = TurnLoop::new(engine, reactor, inbox, events);
    loop {
        let stopping = inbox.stopped();
        let dry = turns.turn()?;
        if stopping && dry {
            return Ok(());
        }
        if dry {
            turns.sleep()?;
        }
    }
}

/// The loop of [`run`], turn by turn, for who wants to look in between.
pub struct TurnLoop<'a, E: Engine, R: ?Sized, F> {
    engine: &'a mut E,
    reactor: &'a mut R,
    inbox: &'a Inbox<E::Command>,
    events: F,
    received: Received,
    tx: TxBatch,
    meter: Meter,
}

impl<'a, E: Engine, R: Reactor + ?Sized, F: FnMut(E::Event)> TurnLoop<'a, E, R, F> {
    /// Allocates everything the turns will need.
    pub fn new(engine: &'a mut E, reactor: &'a mut R, inbox: &'a Inbox<E::Command>, events: F) -> Self {
        TurnLoop {
            engine,
            reactor,
            inbox,
            events,
            received: Received::with_limit(RECEIVE_CHUNK),
            tx: TxBatch::with_capacity(TX_BYTES, TX_MESSAGES),
            meter: Meter::new(clock::now(), clock::thread_cpu()),
        }
    }

    /// The engine between two turns.
    pub fn engine(&mut self) -> &mut E {
        self.engine
    }

    /// One turn but for the wait. Returns whether all input was taken.
    ///
    /// # Errors
    /// As [`run`].
    pub fn turn(&mut self) -> io::Result<bool> {
        let mut turn = Turn::default();
        let dry = self.collect(&mut turn)?;
        let idle = self.commands();
        let now = clock::now();
        if self.engine.next_timeout().is_some_and(|due| due <= now) {
            self.engine.handle_timeout(now, self.reactor.pool());
        }
        self.flush(now, &mut turn)?;
        let now = clock::now();
        self.meter.close(now, clock::thread_cpu, &mut turn);
        self.engine.on_turn(now, turn);
        while let Some(event) = self.engine.poll_event() {
            (self.events)(event);
        }
        Ok(dry && idle)
    }

    /// Receives until dry, and on until the gather window closes. Returns whether the sockets were dry at the end.
    fn collect(&mut self, turn: &mut Turn) -> io::Result<bool> {
        let first = clock::now();
        let mut dry = self.receive_all(first, turn)?;
        if turn.received == 0 {
            return Ok(dry);
        }
        let closes = first + self.engine.gather_window();
        while dry && taken(turn) < TURN_DATAGRAMS {
            let now = clock::now();
            if now >= closes {
                break;
            }
            self.reactor.pause(closes.since(now))?;
            let after = clock::now();
            self.meter.waited(after.since(now));
            dry = self.receive_all(after, turn)?;
        }
        Ok(dry)
    }

    /// Receives until dry or until the turn has enough. Returns whether the sockets are dry.
    fn receive_all(&mut self, now: Timestamp, turn: &mut Turn) -> io::Result<bool> {
        loop {
            let dry = self.receive(now, turn)?;
            if dry || taken(turn) >= TURN_DATAGRAMS {
                return Ok(dry);
            }
        }
    }

    /// Receives once and hands over. Returns whether the sockets are dry.
    fn receive(&mut self, now: Timestamp, turn: &mut Turn) -> io::Result<bool> {
        self.received.clear();
        self.reactor.receive(&mut self.received)?;
        for _ in 0..self.received.no_slot {
            self.engine.on_drop(DropReason::PoolExhausted);
        }
        for _ in 0..self.received.truncated {
            self.engine.on_drop(DropReason::Truncated);
        }
        turn.no_slot += self.received.no_slot;
        turn.truncated += self.received.truncated;
        turn.received += self.received.datagrams.len() as u32;
        let dry = !self.received.is_full();
        for datagram in self.received.datagrams.drain(..) {
            turn.received_bytes += u64::from(datagram.len);
            self.engine.handle_datagram(now, self.reactor.pool(), datagram);
        }
        Ok(dry)
    }

    /// Applies what is queued. Returns whether that was all.
    fn commands(&mut self) -> bool {
        for _ in 0..MAX_COMMANDS {
            let Some(command) = self.inbox.pop() else { return true };
            self.engine.handle_command(clock::now(), self.reactor.pool(), command);
        }
        false
    }

    fn flush(&mut self, now: Timestamp, turn: &mut Turn) -> io::Result<()> {
        loop {
            let drained = self.engine.drain(now, self.reactor.pool(), &mut self.tx);
            let empty = self.tx.is_empty();
            if !empty {
                self.reactor.send(&self.tx, turn)?;
                self.tx.clear();
            }
            match drained {
                Drain::Done => return Ok(()),
                // An engine that has more, but could not place a single packet in an empty batch, never will.
                Drain::More => assert!(!empty, "the engine does not fit one packet into an empty batch"),
            }
        }
    }

    /// Waits for a datagram, a command or the engine's next timer.
    ///
    /// # Errors
    /// As [`run`].
    pub fn sleep(&mut self) -> io::Result<()> {
        let now = clock::now();
        let timeout = self.engine.next_timeout().map(|due| due.since(now));
        if timeout != Some(Duration::ZERO) && self.inbox.may_sleep() {
            self.reactor.wait(timeout)?;
            self.meter.waited(clock::now().since(now));
        }
        self.inbox.awake();
        Ok(())
    }
}

/// Datagrams a turn has taken in. Those that were dropped count, so that a flood ends a turn too.
fn taken(turn: &Turn) -> usize {
    (turn.received + turn.no_slot + turn.truncated) as usize
}

/// Tells busy time from waiting.
///
/// Busy is wall time outside waits. A wait works too, as the kernel copies the first datagrams while the thread is still
/// inside it; so every [`CPU_CHECK`] the sum is compared with the thread's CPU time, and what is missing is added. Wall
/// time stays the floor: a shard that is kept from its core by others is busy, whatever its CPU time says.
struct Meter {
    turn_end: Timestamp,
    waited: Duration,
    check_at: Timestamp,
    busy: Duration,
    cpu: Duration,
}

impl Meter {
    fn new(now: Timestamp, cpu: Duration) -> Meter {
        Meter { turn_end: now, waited: Duration::ZERO, check_at: now + CPU_CHECK, busy: Duration::ZERO, cpu }
    }

    fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    fn close(&mut self, now: Timestamp, cpu: impl FnOnce() -> Duration, turn: &mut Turn) {
        turn.wall = now.since(self.turn_end);
        turn.busy = turn.wall.saturating_sub(self.waited);
        self.turn_end = now;
        self.waited = Duration::ZERO;
        self.busy += turn.busy;
        if now >= self.check_at {
            let cpu = cpu();
            turn.busy += (cpu - self.cpu).saturating_sub(self.busy);
            self.check_at = now + CPU_CHECK;
            self.busy = Duration::ZERO;
            self.cpu = cpu;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(n: u64) -> Duration {
        Duration::from_micros(n)
    }

    #[test]
    fn busy_is_wall_without_waits_and_no_less_than_cpu_time() {
        let mut meter = Meter::new(Timestamp::ZERO, us(0));
        // (waited, end of turn, CPU time then) -> (busy, wall), microseconds
        for (waited, end, cpu, busy, wall) in [
            (0, 100, 0, 100, 100),
            (850, 1100, 0, 150, 1000),
            // The check: 250 + 100 us counted, 400 us of CPU used: 50 us were work inside waits.
            (1900, 3100, 400, 150, 2000),
            // Kept from the core: wall counts, not CPU time.
            (0, 6100, 500, 3000, 3000),
            // Sums start anew after a check.
            (2000, 8200, 610, 110, 2100),
        ] {
            let mut turn = Turn::default();
            meter.waited(us(waited));
            meter.close(Timestamp(end * 1000), || us(cpu), &mut turn);
            assert_eq!((turn.busy, turn.wall), (us(busy), us(wall)), "turn that ends at {end}");
        }
    }
}

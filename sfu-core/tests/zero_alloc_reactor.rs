//! The turn loop and both reactors allocate nothing: receiving, handing over, timers, commands, sending in runs, waiting.
//!
//! Real sockets on loopback around an engine that sends each datagram to four targets; the shard's own part is in
//! `zero_alloc.rs`.
#![allow(clippy::disallowed_methods, reason = "a test of a real clock")]

mod counting;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use counting::allocations;
use sfu_core::buf::{Datagram, RxPool, TxBatch};
use sfu_core::drop_reason::DropReason;
use sfu_core::engine::{Drain, Engine, Turn};
use sfu_core::reactor::{self, ReactorChoice, Setup, Socket, TurnLoop};
use sfu_core::time::Timestamp;

const TARGETS: usize = 4;
const BURST: usize = 40;
const TICK: Duration = Duration::from_millis(2);

/// Sends what comes in to every target; a timer runs all the time.
struct Fan {
    targets: [SocketAddr; TARGETS],
    pending: Vec<Datagram>,
    /// Next (target, datagram) to send.
    at: (usize, usize),
    due: Timestamp,
    total: Turn,
    timers: u32,
    commands: u32,
    event: Option<u32>,
}

impl Engine for Fan {
    type Command = u32;
    type Event = u32;

    fn handle_datagram(&mut self, _now: Timestamp, _pool: &mut RxPool, datagram: Datagram) {
        self.pending.push(datagram);
    }

    fn handle_command(&mut self, _now: Timestamp, _pool: &mut RxPool, command: u32) {
        self.commands += 1;
        self.event = Some(command);
    }

    fn handle_timeout(&mut self, now: Timestamp, _pool: &mut RxPool) {
        self.timers += 1;
        self.due = now + TICK;
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        Some(self.due)
    }

    fn drain(&mut self, _now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> Drain {
        while let Some(to) = self.targets.get(self.at.0) {
            while let Some(datagram) = self.pending.get(self.at.1) {
                tx.open(*to, datagram.local);
                let bytes = datagram.bytes(pool);
                let Some(space) = tx.space(bytes.len()) else { return Drain::More };
                space.copy_from_slice(bytes);
                tx.push(bytes.len());
                self.at.1 += 1;
            }
            self.at = (self.at.0 + 1, 0);
        }
        self.at = (0, 0);
        self.pending.drain(..).for_each(|datagram| pool.release(datagram.slot));
        Drain::Done
    }

    fn poll_event(&mut self) -> Option<u32> {
        self.event.take()
    }

    fn gather_window(&self) -> Duration {
        Duration::from_micros(200)
    }

    fn on_turn(&mut self, _now: Timestamp, turn: Turn) {
        self.total.received += turn.received;
        self.total.sent += turn.sent;
        self.total.messages += turn.messages;
    }

    fn on_drop(&mut self, reason: DropReason) {
        panic!("{reason:?}");
    }
}

/// Nothing waits in it afterwards.
fn empty(socket: &UdpSocket) {
    while socket.recv(&mut [0; 2048]).is_ok() {}
}

fn allocates_nothing(choice: ReactorChoice) {
    let targets: [UdpSocket; TARGETS] = std::array::from_fn(|_| {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
        socket.set_nonblocking(true).expect("can be set");
        socket
    });
    let own = Socket::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("binds");
    let to = own.local_addr();
    let (commands, inbox) = reactor::channel(16).expect("an eventfd");
    let setup = Setup { slots: 1024, sockets: vec![own], waker: inbox.waker(), frames: None };
    let mut reactor = match reactor::open(choice, setup) {
        Ok(reactor) => reactor,
        // Containers commonly forbid it.
        Err(error) if choice == ReactorChoice::IoUring => {
            eprintln!("io_uring is not to be had here: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let mut fan = Fan {
        targets: std::array::from_fn(|i| targets[i].local_addr().expect("bound")),
        pending: Vec::with_capacity(1024),
        at: (0, 0),
        due: Timestamp::ZERO,
        total: Turn::default(),
        timers: 0,
        commands: 0,
        event: None,
    };
    let mut events = 0;
    let mut turns = TurnLoop::new(&mut fan, &mut *reactor, &inbox, |_| events += 1);
    let sender = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let mut round = |n: u32| {
        for i in 0..BURST {
            // Runs of equal size, and ends of runs.
            let len = if i % 7 == 0 { 90 } else { 1100 };
            sender.send_to(&[n as u8; 1100][..len], to).expect("sent");
        }
        commands.send(n).expect("room");
        turns.turn().expect("the kernel takes and gives");
        turns.sleep().expect("the kernel waits");
        targets.iter().for_each(empty);
    };
    (0..50).for_each(&mut round);
    let before = allocations();
    (50..550).for_each(&mut round);
    assert_eq!(allocations() - before, 0, "{choice}");
    turns.turn().expect("what is left");
    let (sent, received) = (fan.total.sent as usize, fan.total.received as usize);
    assert!(received > 500 * BURST && sent == received * TARGETS, "{sent} of {received}");
    assert!((fan.total.messages as usize) < sent / 2, "they left in runs");
    assert!(fan.timers > 100 && fan.commands == 550 && events == 550, "{} timers", fan.timers);
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn turns_on_recvmmsg_allocate_nothing() {
    allocates_nothing(ReactorChoice::Mmsg);
}

#[test]
fn turns_on_io_uring_allocate_nothing() {
    allocates_nothing(ReactorChoice::IoUring);
}

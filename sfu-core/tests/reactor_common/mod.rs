//! An engine that sends every datagram back or on to a list of targets, and a shard thread around it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests of a real clock")]

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sfu_core::buf::{Datagram, RxPool, SlotId, TxBatch};
use sfu_core::drop_reason::DropReason;
use sfu_core::engine::{Drain, Engine, Turn};
use sfu_core::ids::LocalId;
use sfu_core::reactor::frame::Frames;
use sfu_core::reactor::{self, InboxSender, ReactorChoice, Setup, Socket};
use sfu_core::time::Timestamp;

/// What the test asks the engine.
#[derive(Debug)]
pub(crate) enum Command {
    /// Answer [`Event::Pong`].
    Ping,
    /// Keep (true) or forward (false) what comes in.
    Hold(bool),
    /// Free everything kept.
    Release,
    /// Gather this long.
    Window(Duration),
    /// Call the timer this often from now on, at most so many times.
    Timer(Duration, u32),
    /// Send this to there.
    Send(Vec<u8>, SocketAddr),
    /// Answer [`Event::Report`].
    Report,
}

/// What it answers.
#[derive(Debug)]
pub(crate) enum Event {
    /// To [`Command::Ping`].
    Pong,
    /// The timer ran at this time.
    Fired(Timestamp),
    /// To [`Command::Report`].
    Report(Report),
}

/// Sums over all turns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Sum of all turns so far.
    pub(crate) total: Turn,
    /// Turns so far.
    pub(crate) turns: u32,
    /// Datagrams reported by `on_drop`.
    pub(crate) dropped: u32,
    /// Slots kept.
    pub(crate) held: usize,
    /// Slots free.
    pub(crate) free: usize,
    /// Socket each datagram came in at, last ones.
    pub(crate) locals: Vec<LocalId>,
}

/// The engine: to the sender when there are no targets, else to each of them.
pub(crate) struct Echo {
    targets: Vec<SocketAddr>,
    pending: Vec<Datagram>,
    extra: VecDeque<(Vec<u8>, SocketAddr)>,
    /// Next (target, datagram) to send.
    at: (usize, usize),
    hold: bool,
    held: Vec<SlotId>,
    window: Duration,
    timer: Option<(Timestamp, Duration, u32)>,
    events: VecDeque<Event>,
    report: Report,
}

impl Echo {
    pub(crate) fn new(targets: Vec<SocketAddr>) -> Echo {
        Echo {
            targets,
            pending: Vec::new(),
            extra: VecDeque::new(),
            at: (0, 0),
            hold: false,
            held: Vec::new(),
            window: Duration::ZERO,
            timer: None,
            events: VecDeque::new(),
            report: Report::default(),
        }
    }
}

impl Engine for Echo {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, _now: Timestamp, pool: &mut RxPool, datagram: Datagram) {
        assert_eq!(pool.references(datagram.slot), 1);
        self.report.locals.push(datagram.local);
        if self.hold {
            self.held.push(datagram.slot);
        } else {
            self.pending.push(datagram);
        }
    }

    fn handle_command(&mut self, now: Timestamp, pool: &mut RxPool, command: Command) {
        match command {
            Command::Ping => self.events.push_back(Event::Pong),
            Command::Hold(hold) => self.hold = hold,
            Command::Release => self.held.drain(..).for_each(|slot| pool.release(slot)),
            Command::Window(window) => self.window = window,
            Command::Timer(every, times) => self.timer = Some((now + every, every, times)),
            Command::Send(bytes, to) => self.extra.push_back((bytes, to)),
            Command::Report => {
                self.report.held = self.held.len();
                self.report.free = pool.free();
                self.events.push_back(Event::Report(self.report.clone()));
            }
        }
    }

    fn handle_timeout(&mut self, now: Timestamp, _pool: &mut RxPool) {
        let Some((due, every, left)) = self.timer else { panic!("no timer is set") };
        assert!(due <= now, "called early");
        self.events.push_back(Event::Fired(now));
        self.timer = (left > 1).then_some((due + every, every, left - 1));
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        self.timer.map(|(due, ..)| due)
    }

    fn drain(&mut self, _now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> Drain {
        while let Some((bytes, to)) = self.extra.front() {
            tx.open(*to, LocalId(0));
            let Some(space) = tx.space(bytes.len()) else { return Drain::More };
            space.copy_from_slice(bytes);
            tx.push(bytes.len());
            self.extra.pop_front();
        }
        let rounds = self.targets.len().max(1);
        while self.at.0 < rounds {
            while let Some(datagram) = self.pending.get(self.at.1) {
                let to = self.targets.get(self.at.0).copied().unwrap_or(datagram.from);
                tx.open(to, datagram.local);
                let bytes = &pool.bytes(datagram.slot)[datagram.range()];
                let Some(space) = tx.space(bytes.len()) else { return Drain::More };
                space.copy_from_slice(bytes);
                tx.push(bytes.len());
                self.at.1 += 1;
            }
            self.at = (self.at.0 + 1, 0);
        }
        self.at = (0, 0);
        self.pending.drain(..).for_each(|d| pool.release(d.slot));
        Drain::Done
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn gather_window(&self) -> Duration {
        self.window
    }

    fn on_turn(&mut self, _now: Timestamp, turn: Turn) {
        let total = &mut self.report.total;
        self.report.turns += 1;
        total.busy += turn.busy;
        total.wall += turn.wall;
        total.received += turn.received;
        total.received_bytes += turn.received_bytes;
        total.sent += turn.sent;
        total.sent_bytes += turn.sent_bytes;
        total.messages += turn.messages;
        total.frames += turn.frames;
        total.send_failed += turn.send_failed;
        total.no_slot += turn.no_slot;
        total.truncated += turn.truncated;
    }

    fn on_drop(&mut self, reason: DropReason) {
        assert!(matches!(reason, DropReason::PoolExhausted | DropReason::Truncated));
        self.report.dropped += 1;
    }
}

/// A running shard.
pub(crate) struct Shard {
    pub(crate) addrs: Vec<SocketAddr>,
    sender: InboxSender<Command>,
    events: mpsc::Receiver<Event>,
    thread: Option<JoinHandle<Duration>>,
}

impl Shard {
    /// One socket on IPv4 loopback.
    pub(crate) fn start(choice: ReactorChoice, slots: u32, targets: Vec<SocketAddr>) -> Shard {
        Self::start_at(choice, slots, targets, &["127.0.0.1:0"])
    }

    /// Sockets at `at`.
    pub(crate) fn start_at(
        choice: ReactorChoice,
        slots: u32,
        targets: Vec<SocketAddr>,
        at: &[&str],
    ) -> Shard {
        Self::start_with(choice, slots, targets, at, None)
    }

    /// Sockets at `at`, and frames.
    pub(crate) fn start_with(
        choice: ReactorChoice,
        slots: u32,
        targets: Vec<SocketAddr>,
        at: &[&str],
        frames: Option<Frames>,
    ) -> Shard {
        let sockets: Vec<_> = at.iter().map(|a| Socket::bind(a.parse().unwrap()).unwrap()).collect();
        let addrs = sockets.iter().map(Socket::local_addr).collect();
        let (sender, inbox) = reactor::channel(64).unwrap();
        let (event_sender, events) = mpsc::channel();
        let thread = reactor::thread::spawn("shard-test", None, move || {
            let setup = Setup { slots, sockets, waker: inbox.waker(), frames };
            let mut reactor = reactor::open(choice, setup).unwrap();
            let mut engine = Echo::new(targets);
            let before = thread_cpu();
            reactor::run(&mut engine, &mut *reactor, &inbox, |event| {
                let _ = event_sender.send(event);
            })
            .unwrap();
            thread_cpu() - before
        });
        Shard { addrs, sender, events, thread: Some(thread.unwrap()) }
    }

    pub(crate) fn command(&self, command: Command) {
        self.sender.send(command).map_err(|_| "full").unwrap();
    }

    pub(crate) fn event(&self) -> Event {
        self.events.recv_timeout(Duration::from_secs(10)).expect("the shard answers")
    }

    /// Waits until the commands before are applied.
    pub(crate) fn sync(&self) {
        self.command(Command::Ping);
        while !matches!(self.event(), Event::Pong) {}
    }

    pub(crate) fn report(&self) -> Report {
        self.command(Command::Report);
        loop {
            if let Event::Report(report) = self.event() {
                return report;
            }
        }
    }

    /// Waits until a report satisfies `done`, and returns it.
    pub(crate) fn report_when(&self, done: impl Fn(&Report) -> bool) -> Report {
        let start = Instant::now();
        loop {
            let report = self.report();
            if done(&report) {
                return report;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "never: {report:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it; returns the CPU time its loop used.
    pub(crate) fn stop(mut self) -> Duration {
        self.sender.stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        self.sender.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client socket that gives up after ten seconds.
pub(crate) fn client(at: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket
}

/// `len` bytes that tell packet `n` from others.
pub(crate) fn packet(n: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (n * 31 + i * 7) as u8).collect()
}

/// Receives one datagram.
pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let (len, _) = socket.recv_from(&mut buffer).expect("a datagram in time");
    buffer[..len].to_vec()
}

fn thread_cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

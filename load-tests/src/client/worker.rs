//! A worker: one pinned thread that drives thousands of light clients by a wheel of deadlines.
//!
//! Sockets are visited in turn, every 20 to 60 ms once connected, instead of being waited for: the kernel keeps what arrives and
//! stamps its arrival, so measured delays do not depend on when a visit comes, and a visit finds several packets at once.
//! It also means that the server's sends wake nobody up. The wire, where there is one, is read in between.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::net::{Buffers, Train};
use super::peer::{Context, Next, Peer};
use super::publisher::Batch;
use super::receiver::Receiver;
use super::sdp::Remote;
use super::stats::Stats;
use super::table::{Client, Handle, Table, What};
use super::wheel::Wheel;
use super::wire::{Delivery, FrameBuffers, Reader, STEPS, Wire};
use crate::clock;

/// Between two audio packets.
const AUDIO_PERIOD_US: u64 = 20_000;
/// How long an idle worker waits for commands.
const TICK: Duration = Duration::from_millis(1);
/// The same with a wire, which nobody wakes us up for: what has come is as much older than its stamp.
const WIRE_TICK: Duration = Duration::from_micros(200);

/// Deliveries of the wire that share one look at the clock: some ten microseconds' worth.
const CLOCK_EVERY: u32 = 8;
/// What a worker is told.
pub(crate) enum Command {
    Add(u64, Client),
    Redescribe(u64, Box<Remote>),
    Candidate(u64, SocketAddr),
    Close(u64),
    BeginInterval,
    EndInterval(oneshot::Sender<Stats>),
}

/// Runs until all senders of commands are gone.
pub(crate) fn run(commands: &Queue<Command>, wire: Option<Arc<Wire>>, video_fps: u32) {
    Worker {
        clients: Table::new(),
        tick: if wire.is_some() { WIRE_TICK } else { TICK },
        wire: wire.map(|wire| (wire, FrameBuffers::new())),
        wheel: Wheel::new(),
        start: clock::now(),
        video_period_us: 1_000_000 / u64::from(video_fps.max(1)),
        context: Context {
            buffers: Buffers::new(),
            batch: Batch::default(),
            packet: Vec::with_capacity(2048),
            stats: Stats::default(),
        },
    }
    .run(commands);
}

struct Worker {
    clients: Table,
    wire: Option<(Arc<Wire>, FrameBuffers)>,
    tick: Duration,
    wheel: Wheel<(Handle, What)>,
    start: Instant,
    video_period_us: u64,
    context: Context,
}

impl Worker {
    fn run(&mut self, commands: &Queue<Command>) {
        loop {
            let mut next = match commands.try_recv() {
                Ok(command) => Some(command),
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => None,
            };
            let more = self.read_wire();
            if next.is_none() && !more && self.wheel.behind_ms(self.now_us()) == 0 {
                next = match commands.recv_timeout(self.tick) {
                    Ok(command) => Some(command),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
            }
            if let Some(command) = next {
                self.on_command(command);
            }
            self.turn();
        }
    }

    /// Delivers what the wire brought; whether there may be more.
    fn read_wire(&mut self) -> bool {
        let Some((wire, buffers)) = &mut self.wire else { return false };
        let (clients, context) = (&mut self.clients, &mut self.context);
        let (now, now_ns) = (clock::now(), clock::wall_ns());
        wire.receive(buffers, &mut Inbox { clients, context, now, now_ns, taken: 0 })
    }

    fn now_us(&self) -> u64 {
        clock::now().duration_since(self.start).as_micros() as u64
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Add(key, mut client) => {
                let port = client.light().and_then(|peer| peer.wire_port());
                let handle = self.clients.insert(key, port, client);
                self.wheel.insert(self.now_us(), (handle, What::Visit));
            }
            Command::Redescribe(key, remote) => {
                if let Some(peer) = self.clients.light(key) {
                    peer.redescribe(*remote);
                }
            }
            Command::Candidate(key, candidate) => {
                if let Some(peer) = self.clients.light(key) {
                    peer.add_candidate(candidate);
                }
            }
            Command::Close(key) => self.clients.remove(key),
            Command::BeginInterval => {
                self.context.stats = Stats::default();
                for receiver in self.receivers() {
                    receiver.begin_interval();
                }
            }
            Command::EndInterval(reply) => {
                let (now, now_ns) = (clock::now(), clock::wall_ns());
                let stats = &mut self.context.stats;
                for client in self.clients.iter_mut() {
                    match client {
                        Client::Light(peer) => {
                            if let Some(receiver) = peer.receiver_mut() {
                                receiver.end_interval(now_ns, stats);
                            }
                        }
                        Client::Full(peer) => peer.end_interval(now, stats),
                    }
                }
                let _ = reply.send(std::mem::take(&mut self.context.stats));
            }
        }
    }

    /// Handles one slot of the wheel, if its time has come.
    fn turn(&mut self) {
        let now_us = self.now_us();
        let behind = self.wheel.behind_ms(now_us);
        self.context.stats.late_ms = self.context.stats.late_ms.max(behind);
        let Some(slot) = self.wheel.due(now_us) else { return };
        for number in 0..slot.len() {
            for step in 0..STEPS {
                if let Some((_, (handle, _))) = slot.get(number + STEPS - step) {
                    self.clients.approach_handle(*handle, step);
                }
            }
            let (due_us, (handle, what)) = slot[number];
            match what {
                What::Visit => self.visit(handle),
                What::Video => self.send(handle, what, due_us, self.video_period_us),
                What::Audio => self.send(handle, what, due_us, AUDIO_PERIOD_US),
            }
        }
        self.wheel.recycle(slot);
    }

    fn receivers(&mut self) -> impl Iterator<Item = &mut Receiver> {
        self.clients.iter_mut().filter_map(Client::light).filter_map(Peer::receiver_mut)
    }

    fn send(&mut self, handle: Handle, what: What, due_us: u64, period_us: u64) {
        let Some(client) = self.clients.get(handle) else { return };
        match client.send(what, clock::now(), &mut self.context) {
            Ok(()) => self.wheel.insert(due_us + period_us, (handle, what)),
            Err(_) => {
                self.context.stats.failed += 1;
                self.clients.remove(handle.key());
            }
        }
    }

    fn visit(&mut self, handle: Handle) {
        let Some(client) = self.clients.get(handle) else { return };
        let now = clock::now();
        let next = client.visit(now, clock::wall_ns(), &mut self.context);
        let now_us = now.duration_since(self.start).as_micros() as u64;
        let after = |wait: Duration| now_us + wait.as_micros() as u64;
        match next {
            Next::Visit(wait) => self.wheel.insert(after(wait), (handle, What::Visit)),
            Next::Secured(wait) => {
                let is_publisher = client.is_publisher();
                self.wheel.insert(after(wait), (handle, What::Visit));
                if is_publisher {
                    // Cameras and microphones do not beat in step.
                    let phase = |period: u64| now_us + rand::random::<u64>() % period;
                    self.wheel.insert(phase(self.video_period_us), (handle, What::Video));
                    self.wheel.insert(phase(AUDIO_PERIOD_US), (handle, What::Audio));
                }
            }
            Next::Failed => self.clients.remove(handle.key()),
        }
    }
}

/// The wire's reader.
struct Inbox<'a> {
    clients: &'a mut Table,
    context: &'a mut Context,
    now: Instant,
    now_ns: u64,
    taken: u32,
}

impl Reader for Inbox<'_> {
    fn approach(&mut self, port: u16, step: usize) {
        self.clients.approach_port(port, step);
    }

    fn deliver(&mut self, delivery: Delivery<'_>) {
        let Some((key, peer)) = self.clients.at_port(delivery.port) else { return };
        self.taken += 1;
        if self.taken.is_multiple_of(CLOCK_EVERY) {
            (self.now, self.now_ns) = (clock::now(), clock::wall_ns());
        }
        let train = Train {
            bytes: delivery.bytes,
            segment: delivery.segment,
            arrival_ns: Some(self.now_ns),
            overflowed: None,
            from: Some(delivery.from),
        };
        if let Err(error) = peer.deliver(train, self.now, self.now_ns, self.context) {
            peer.fail(&error, &mut self.context.stats);
            self.clients.remove(key);
        }
    }
}

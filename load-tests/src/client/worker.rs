//! A worker: one pinned thread that drives thousands of light clients by a wheel of deadlines.
//!
//! Sockets are visited in turn, every 20 to 60 ms once connected, instead of being waited for: the kernel keeps what arrives and
//! stamps its arrival, so measured delays do not depend on when a visit comes, and a visit finds several packets at once.
//! It also means that the server's sends wake nobody up. The wire, where there is one, is read in between.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::full::FullPeer;
use super::net::{Buffers, Train};
use super::peer::{Context, Next, Peer};
use super::publisher::Batch;
use super::receiver::Receiver;
use super::sdp::Remote;
use super::stats::Stats;
use super::wheel::Wheel;
use super::wire::{FrameBuffer, Wire};
use crate::clock;

/// Between two audio packets.
const AUDIO_PERIOD_US: u64 = 20_000;
/// How long an idle worker waits for commands.
const TICK: Duration = Duration::from_millis(1);
/// The same with a wire, which nobody wakes us up for: what has come is as much older than its stamp.
const WIRE_TICK: Duration = Duration::from_micros(200);

/// Deliveries of the wire that share one look at the clock: some ten microseconds' worth.
const CLOCK_EVERY: u32 = 8;
/// No client has this key.
const NOBODY: u64 = u64::MAX;

/// Keys are counted up, so they are their own hash: the low bits choose a place, the high ones (of a multiple) the tag.
#[derive(Default)]
struct CountingHasher(u64);

impl Hasher for CountingHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0 ^ key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

/// What a worker is told.
pub(crate) enum Command {
    Add(u64, Client),
    Redescribe(u64, Box<Remote>),
    Candidate(u64, SocketAddr),
    Close(u64),
    BeginInterval,
    EndInterval(oneshot::Sender<Stats>),
}

/// One client of either kind.
pub(crate) enum Client {
    Light(Box<Peer>),
    Full(Box<FullPeer>),
}

impl Client {
    fn light(&mut self) -> Option<&mut Peer> {
        match self {
            Client::Light(peer) => Some(peer),
            Client::Full(_) => None,
        }
    }

    fn visit(&mut self, now: Instant, now_ns: u64, context: &mut Context) -> Next {
        match self {
            Client::Light(peer) => peer.visit(now, now_ns, context),
            Client::Full(peer) => peer.visit(now, now_ns, context),
        }
    }

    /// An error ends the client.
    fn send(&mut self, what: What, now: Instant, context: &mut Context) -> anyhow::Result<()> {
        let now_ns = clock::wall_ns();
        match (self, what) {
            (Client::Light(peer), What::Video) => peer.send_video(now_ns, context),
            (Client::Light(peer), _) => peer.send_audio(now_ns, context),
            (Client::Full(peer), What::Video) => peer.send_video(now, now_ns, context)?,
            (Client::Full(peer), _) => peer.send_audio(now, now_ns, context)?,
        }
        Ok(())
    }

    fn is_publisher(&self) -> bool {
        match self {
            Client::Light(peer) => peer.is_publisher(),
            Client::Full(peer) => peer.is_publisher(),
        }
    }
}

#[derive(Clone, Copy)]
enum What {
    Visit,
    Video,
    Audio,
}

/// Runs until all senders of commands are gone.
pub(crate) fn run(commands: &Queue<Command>, wire: Option<Arc<Wire>>, video_fps: u32) {
    Worker {
        peers: HashMap::default(),
        ports: vec![NOBODY; usize::from(u16::MAX) + 1].into(),
        tick: if wire.is_some() { WIRE_TICK } else { TICK },
        wire: wire.map(|wire| (wire, FrameBuffer::new())),
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
    peers: HashMap<u64, Client, BuildHasherDefault<CountingHasher>>,
    wire: Option<(Arc<Wire>, FrameBuffer)>,
    /// Clients on the wire by port.
    ports: Box<[u64]>,
    tick: Duration,
    wheel: Wheel<(u64, What)>,
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
        let Some((wire, buffer)) = &mut self.wire else { return false };
        let (peers, ports, context) = (&mut self.peers, &mut self.ports, &mut self.context);
        let (mut now, mut now_ns) = (clock::now(), clock::wall_ns());
        let mut taken = 0;
        wire.receive(buffer, |delivery| {
            let key = ports[usize::from(delivery.port)];
            let Some(peer) = peers.get_mut(&key).and_then(Client::light) else { return };
            taken += 1;
            if taken % CLOCK_EVERY == 0 {
                (now, now_ns) = (clock::now(), clock::wall_ns());
            }
            let train = Train {
                bytes: delivery.bytes,
                segment: delivery.segment,
                arrival_ns: Some(now_ns),
                overflowed: None,
                from: Some(delivery.from),
            };
            if let Err(error) = peer.deliver(train, now, now_ns, context) {
                peer.fail(&error, &mut context.stats);
                peers.remove(&key);
                ports[usize::from(delivery.port)] = NOBODY;
            }
        })
    }

    fn remove(&mut self, key: u64) {
        if let Some(port) = self.peers.remove(&key).and_then(|mut client| client.light()?.wire_port()) {
            self.ports[usize::from(port)] = NOBODY;
        }
    }

    fn now_us(&self) -> u64 {
        clock::now().duration_since(self.start).as_micros() as u64
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Add(key, mut peer) => {
                if let Some(port) = peer.light().and_then(|peer| peer.wire_port()) {
                    self.ports[usize::from(port)] = key;
                }
                self.peers.insert(key, peer);
                self.wheel.insert(self.now_us(), (key, What::Visit));
            }
            Command::Redescribe(key, remote) => {
                if let Some(peer) = self.peers.get_mut(&key).and_then(Client::light) {
                    peer.redescribe(*remote);
                }
            }
            Command::Candidate(key, candidate) => {
                if let Some(peer) = self.peers.get_mut(&key).and_then(Client::light) {
                    peer.add_candidate(candidate);
                }
            }
            Command::Close(key) => self.remove(key),
            Command::BeginInterval => {
                self.context.stats = Stats::default();
                for receiver in self.receivers() {
                    receiver.begin_interval();
                }
            }
            Command::EndInterval(reply) => {
                let (now, now_ns) = (clock::now(), clock::wall_ns());
                let stats = &mut self.context.stats;
                for client in self.peers.values_mut() {
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
        let Some(mut slot) = self.wheel.due(now_us) else { return };
        for (due_us, (key, what)) in slot.drain(..) {
            match what {
                What::Visit => self.visit(key),
                What::Video => self.send(key, what, due_us, self.video_period_us),
                What::Audio => self.send(key, what, due_us, AUDIO_PERIOD_US),
            }
        }
        self.wheel.recycle(slot);
    }

    fn receivers(&mut self) -> impl Iterator<Item = &mut Receiver> {
        self.peers.values_mut().filter_map(Client::light).filter_map(Peer::receiver_mut)
    }

    fn send(&mut self, key: u64, what: What, due_us: u64, period_us: u64) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        match peer.send(what, clock::now(), &mut self.context) {
            Ok(()) => self.wheel.insert(due_us + period_us, (key, what)),
            Err(_) => {
                self.context.stats.failed += 1;
                self.remove(key);
            }
        }
    }

    fn visit(&mut self, key: u64) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let now = clock::now();
        let next = peer.visit(now, clock::wall_ns(), &mut self.context);
        let now_us = now.duration_since(self.start).as_micros() as u64;
        let after = |wait: Duration| now_us + wait.as_micros() as u64;
        match next {
            Next::Visit(wait) => self.wheel.insert(after(wait), (key, What::Visit)),
            Next::Secured(wait) => {
                let is_publisher = peer.is_publisher();
                self.wheel.insert(after(wait), (key, What::Visit));
                if is_publisher {
                    // Cameras and microphones do not beat in step.
                    let phase = |period: u64| now_us + rand::random::<u64>() % period;
                    self.wheel.insert(phase(self.video_period_us), (key, What::Video));
                    self.wheel.insert(phase(AUDIO_PERIOD_US), (key, What::Audio));
                }
            }
            Next::Failed => self.remove(key),
        }
    }
}

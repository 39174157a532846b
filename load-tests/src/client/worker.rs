//! A worker: one pinned thread that drives thousands of light clients by a wheel of deadlines.
//!
//! Sockets are visited in turn, every 20 to 60 ms once connected, instead of being waited for: the kernel keeps what arrives and
//! stamps its arrival, so measured delays do not depend on when a visit comes, and a visit finds several packets at once.
//! It also means that the server's sends wake nobody up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver as Queue, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::net::Buffers;
use super::peer::{Context, Next, Peer};
use super::publisher::Batch;
use super::sdp::Remote;
use super::stats::Stats;
use super::wheel::Wheel;
use crate::clock;

/// Between two audio packets.
const AUDIO_PERIOD_US: u64 = 20_000;
/// How long an idle worker waits for commands.
const TICK: Duration = Duration::from_millis(1);

/// What a worker is told.
pub(crate) enum Command {
    Add(u64, Box<Peer>),
    Redescribe(u64, Box<Remote>),
    Candidate(u64, SocketAddr),
    Close(u64),
    BeginInterval,
    EndInterval(oneshot::Sender<Stats>),
}

#[derive(Clone, Copy)]
enum What {
    Visit,
    Video,
    Audio,
}

/// Runs until all senders of commands are gone.
pub(crate) fn run(commands: &Queue<Command>, video_fps: u32) {
    Worker {
        peers: HashMap::new(),
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
    peers: HashMap<u64, Peer>,
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
            if next.is_none() && self.wheel.behind_ms(self.now_us()) == 0 {
                next = match commands.recv_timeout(TICK) {
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

    fn now_us(&self) -> u64 {
        clock::now().duration_since(self.start).as_micros() as u64
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Add(key, peer) => {
                self.peers.insert(key, *peer);
                self.wheel.insert(self.now_us(), (key, What::Visit));
            }
            Command::Redescribe(key, remote) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.redescribe(*remote);
                }
            }
            Command::Candidate(key, candidate) => {
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.add_candidate(candidate);
                }
            }
            Command::Close(key) => {
                self.peers.remove(&key);
            }
            Command::BeginInterval => {
                self.context.stats = Stats::default();
                for receiver in self.peers.values_mut().filter_map(Peer::receiver_mut) {
                    receiver.begin_interval();
                }
            }
            Command::EndInterval(reply) => {
                let now_ns = clock::wall_ns();
                for receiver in self.peers.values_mut().filter_map(Peer::receiver_mut) {
                    receiver.end_interval(now_ns, &mut self.context.stats);
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
            if let Some(peer) = self.peers.get_mut(&key) {
                match what {
                    What::Visit => self.visit(key),
                    What::Video => {
                        peer.send_video(clock::wall_ns(), &mut self.context);
                        self.wheel.insert(due_us + self.video_period_us, (key, What::Video));
                    }
                    What::Audio => {
                        peer.send_audio(clock::wall_ns(), &mut self.context);
                        self.wheel.insert(due_us + AUDIO_PERIOD_US, (key, What::Audio));
                    }
                }
            }
        }
        self.wheel.recycle(slot);
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
            Next::Failed => {
                self.peers.remove(&key);
            }
        }
    }
}

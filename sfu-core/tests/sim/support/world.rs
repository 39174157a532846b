//! The clock, the shard and everybody around it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

use sfu_core::buf::{Datagram, PAYLOAD_START, RxPool, SLOT_BYTES, TxBatch, TxMessage};
use sfu_core::control::proto::{Op, TransportState};
use sfu_core::drop_reason::DropReason;
use sfu_core::engine::{Drain, Engine};
use sfu_core::ids::{CoreId, LocalId};
use sfu_core::shard::{Answer, Command, Event, Limits, OpError, Shard, ShardConfig};
use sfu_core::time::Timestamp;
use sfu_core::transport::DtlsContext;
use sfu_core::wire::demux::{Protocol, classify};
use sfu_core::wire::rtp::RtpHeader;

use super::network::{Network, To};
use super::peer::{NODE, SimPeer, certificate, epoch};
use super::rng::Rng;
use super::room::Published;

/// More rounds than this at one moment: a timer that is due again at once, for ever.
const ROUNDS_AT_ONE_MOMENT: u32 = 5_000;

/// How a world is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) seed: u64,
    pub(crate) slots: u32,
    /// Bytes and messages of the send batch: a small one stops the drain often.
    pub(crate) batch: (usize, usize),
    pub(crate) limits: Limits,
}

impl Settings {
    pub(crate) fn new(seed: u64) -> Settings {
        Settings { seed, slots: 2048, batch: (1 << 20, 256), limits: Limits::default() }
    }
}

/// A transport's state as the controller heard it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at: Timestamp,
    pub(crate) transport: String,
    pub(crate) state: TransportState,
    pub(crate) reason: &'static str,
}

/// Everything of one run.
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now: Timestamp,
    pub(crate) shard: Shard,
    pub(crate) pool: RxPool,
    pub(crate) network: Network,
    pub(crate) peers: Vec<SimPeer>,
    pub(crate) rng: Rng,
    pub(crate) changes: Vec<Change>,
    pub(crate) published: HashMap<String, Published>,
    /// Ids, ports and SSRCs given out.
    pub(crate) given: u32,
    pub(crate) tap: Tap,
    /// Counts allocations, in the one test that does.
    pub(crate) probe: fn() -> u64,
    /// Allocations on the media path: RTP and RTCP in, timers, drain.
    pub(crate) allocated: u64,
    tx: TxBatch,
    by_addr: HashMap<SocketAddr, usize>,
    answer: Option<Result<Answer, OpError>>,
    token: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World::with(Settings::new(seed))
    }

    pub(crate) fn with(settings: Settings) -> World {
        let mut rng = Rng::new(settings.seed);
        let shard = Shard::new(ShardConfig {
            core: CoreId(0),
            dtls: DtlsContext { certificate: certificate(NODE), epoch: epoch() },
            limits: settings.limits,
            seed: rng.next(),
        });
        let mut world = World {
            seed: settings.seed,
            // Not zero: a clock that begins at its epoch hides mistakes.
            now: Timestamp::from_millis(5_000),
            shard,
            pool: RxPool::new(settings.slots).expect("memory for the slots"),
            network: Network::new(Rng::new(rng.next())),
            peers: Vec::new(),
            rng,
            changes: Vec::new(),
            published: HashMap::new(),
            given: 0,
            tap: Tap::default(),
            probe: || 0,
            allocated: 0,
            tx: TxBatch::with_capacity(settings.batch.0, settings.batch.1),
            by_addr: HashMap::new(),
            answer: None,
            token: 0,
        };
        world.apply(vec![Op::OpenRoom { core: 0 }]).expect("an empty shard takes a room");
        world
    }

    /// A number nobody has.
    pub(crate) fn give(&mut self) -> u32 {
        self.given += 1;
        self.given
    }

    /// Adds a peer to the network. The last one at an address gets what is sent there.
    pub(crate) fn enter(&mut self, peer: SimPeer) -> usize {
        let index = self.peers.len();
        self.tap.forget(peer.addr);
        self.by_addr.insert(peer.addr, index);
        self.peers.push(peer);
        index
    }

    /// Gives a peer another address, as a change of network does.
    pub(crate) fn rebind(&mut self, peer: usize, addr: SocketAddr) {
        self.by_addr.insert(addr, peer);
        self.peers[peer].addr = addr;
        self.peers[peer].addrs.push(addr);
    }

    /// Applies ops to the room and returns the shard's answer.
    pub(crate) fn apply(&mut self, ops: Vec<Op>) -> Result<(), OpError> {
        self.command(|token| Command::Apply { token, room: "room".into(), ops }).map(|_| ())
    }

    /// Gives a command and returns the shard's answer.
    pub(crate) fn command(&mut self, make: impl FnOnce(u64) -> Command) -> Result<Answer, OpError> {
        self.token += 1;
        self.shard.handle_command(self.now, &mut self.pool, make(self.token));
        self.turn();
        self.answer.take().expect("every command is answered")
    }

    /// Hands one datagram to the shard, without a turn of its own.
    pub(crate) fn deliver(&mut self, from: SocketAddr, local: LocalId, bytes: &[u8]) {
        if PAYLOAD_START + bytes.len() > SLOT_BYTES {
            self.shard.on_drop(DropReason::Truncated);
            return;
        }
        let Some(slot) = self.pool.alloc() else {
            self.shard.on_drop(DropReason::PoolExhausted);
            return;
        };
        self.pool.bytes_mut(slot)[PAYLOAD_START..PAYLOAD_START + bytes.len()].copy_from_slice(bytes);
        let datagram = Datagram { slot, start: PAYLOAD_START as u16, len: bytes.len() as u16, from, local };
        let media = matches!(classify(bytes), Protocol::Rtp | Protocol::Rtcp);
        let before = (self.probe)();
        self.shard.handle_datagram(self.now, &mut self.pool, datagram);
        if media {
            self.allocated += (self.probe)() - before;
        }
    }

    /// Hands one datagram to the shard as if it came from a peer, and ends the turn.
    pub(crate) fn inject(&mut self, from: SocketAddr, bytes: &[u8]) {
        self.deliver(from, LocalId(0), bytes);
        self.turn();
    }

    /// What the reactor does behind its inputs: timers, drain, events.
    pub(crate) fn turn(&mut self) {
        let before = (self.probe)();
        if self.shard.next_timeout().is_some_and(|due| due <= self.now) {
            self.shard.handle_timeout(self.now, &mut self.pool);
        }
        self.allocated += (self.probe)() - before;
        loop {
            let before = (self.probe)();
            let drained = self.shard.drain(self.now, &mut self.pool, &mut self.tx);
            self.allocated += (self.probe)() - before;
            assert!(drained == Drain::Done || !self.tx.is_empty(), "a packet does not fit an empty batch");
            self.send_batch();
            if drained == Drain::Done {
                break;
            }
        }
        while let Some(event) = self.shard.poll_event() {
            self.on_event(event);
        }
    }

    fn send_batch(&mut self) {
        self.tap.messages += self.tx.messages().len() as u64;
        for message in self.tx.messages() {
            for datagram in segments(message, self.tx.bytes(message)) {
                self.tap.see(message.to, datagram);
                let to = To::Peer { at: message.to, local: message.local };
                self.network.send(self.now, to, datagram.to_vec());
            }
        }
        self.tx.clear();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Reply { token, result } => {
                assert_eq!(token, self.token);
                self.answer = Some(result);
            }
            Event::TransportState { transport, state, reason, .. } => {
                self.changes.push(Change { at: self.now, transport: transport.into(), state, reason });
            }
        }
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    /// Lets time pass until `end`.
    pub(crate) fn run_until(&mut self, end: Timestamp) {
        let mut rounds = 0;
        while let Some(next) = self.next_timeout().filter(|next| *next <= end) {
            rounds = if next > self.now { 0 } else { rounds + 1 };
            assert!(rounds < ROUNDS_AT_ONE_MOMENT, "time stands still at {:?}", self.now);
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        let peers = self.peers.iter().filter_map(SimPeer::next_timeout);
        peers.chain(self.network.next()).chain(self.shard.next_timeout()).min()
    }

    fn step(&mut self) {
        while let Some((to, datagram)) = self.network.pop(self.now) {
            match to {
                To::Shard { from, local } => self.deliver(from, local, &datagram),
                To::Peer { at, local } => {
                    if let Some(index) = self.by_addr.get(&at) {
                        let peer = &mut self.peers[*index];
                        assert_eq!(peer.local, local, "the answer leaves by the socket that was asked");
                        peer.handle(self.now, datagram);
                    }
                }
            }
        }
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            if peer.next_timeout().is_some_and(|due| due <= self.now) {
                peer.tick(self.now);
            }
            self.flush(index);
        }
        self.turn();
    }

    /// Puts what a peer has to say on the network.
    pub(crate) fn flush(&mut self, index: usize) {
        let peer = &mut self.peers[index];
        let to = To::Shard { from: peer.addr, local: peer.local };
        for datagram in peer.out.drain(..) {
            self.network.send(self.now, to, datagram);
        }
    }

    /// Lets a peer say goodbye.
    pub(crate) fn hang_up(&mut self, index: usize) {
        let now = self.now;
        self.peers[index].close(now);
        self.flush(index);
    }

    /// Datagrams not forwarded for `reason`.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.shard.counters().dropped(reason)
    }

    /// States the controller heard of one transport.
    pub(crate) fn states(&self, name: &str) -> Vec<TransportState> {
        self.changes.iter().filter(|change| change.transport == name).map(|change| change.state).collect()
    }

    /// Closes everything; every slot must come back.
    pub(crate) fn close_and_check(&mut self) {
        self.command(|token| Command::CloseAll { token }).expect("closing cannot fail");
        let counters = self.shard.counters();
        let open = (counters.rooms, counters.transports, counters.publications, counters.subscriptions);
        assert_eq!(open, (0, 0, 0, 0));
        assert_eq!(self.pool.free(), self.pool.capacity(), "slots leaked");
        // Timers of what is gone may fire once more, and find nothing.
        self.run_for(Duration::from_secs(40));
        assert_eq!(self.shard.next_timeout(), None);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("simulation with seed {} at {:?}", self.seed, self.now);
        }
    }
}

/// The datagrams of one GSO run, under the kernel's rules.
fn segments<'a>(message: &TxMessage, bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let segments = bytes.chunks(usize::from(message.segment));
    assert_eq!(segments.len(), usize::from(message.segments));
    segments
}

/// Sees every RTP packet that leaves the shard. One number must never stand for two different packets: with AES-GCM that
/// gives the key away (RFC 7714 §8.1).
#[derive(Default)]
pub(crate) struct Tap {
    seen: HashMap<(SocketAddr, u32, u16), u64>,
    /// RTP packets.
    pub(crate) rtp: u64,
    /// GSO runs of any kind.
    pub(crate) messages: u64,
    /// RTP packets that left bit for bit again.
    pub(crate) repeated: u64,
    /// Datagrams of any kind, by receiver.
    pub(crate) to: HashMap<SocketAddr, u64>,
}

impl Tap {
    fn see(&mut self, to: SocketAddr, datagram: &[u8]) {
        *self.to.entry(to).or_default() += 1;
        if classify(datagram) != Protocol::Rtp {
            return;
        }
        self.rtp += 1;
        let header = RtpHeader::parse(datagram).expect("the shard writes headers that parse");
        let mut hasher = DefaultHasher::new();
        datagram.hash(&mut hasher);
        match self.seen.entry((to, header.ssrc.0, header.seq.0)) {
            Entry::Vacant(entry) => {
                entry.insert(hasher.finish());
            }
            Entry::Occupied(entry) => {
                assert_eq!(*entry.get(), hasher.finish(), "{header:?} left twice with different bytes");
                self.repeated += 1;
            }
        }
    }

    /// A peer at `addr` has other keys from now on.
    fn forget(&mut self, addr: SocketAddr) {
        self.seen.retain(|(to, _, _), _| *to != addr);
    }
}

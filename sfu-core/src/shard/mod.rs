//! The engine of one core: everything it owns, and nothing that another core touches.
//!
//! | file | what |
//! |---|---|
//! | `datagram` | the packet path: demux, unprotect, route |
//! | `drain` | the other half of it: rewrite, seal, batch |
//! | `rtcp` | feedback that comes in |
//! | `timers` | what goes out by the clock: reports, NACKs, key frame requests, retransmitted handshakes |
//! | `apply` | commands: rooms, transports, publications, subscriptions |
//! | `guard` | a DTLS engine that panics costs one peer |
//! | `snapshot` | what runs, for the control thread |
//! | `demux` `load` `stats` `command` | tables and figures |
#![forbid(unsafe_code)]

mod apply;
mod command;
mod datagram;
mod demux;
mod drain;
mod guard;
mod load;
mod lookahead;
mod rtcp;
mod snapshot;
mod stats;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use crate::buf::{Datagram, RxPool, TxBatch};
use crate::control::proto::TransportState;
use crate::drop_reason::DropReason;
use crate::engine::{Drain, Engine, Turn};
use crate::forward::feedback::ReportSchedule;
use crate::forward::room::{Publication, Room, Subscription};
use crate::forward::route::RouteTable;
use crate::forward::twcc::ArrivalRecorder;
use crate::ids::{CoreId, Ssrc};
use crate::time::Timestamp;
use crate::transport::outbox::Outbox;
use crate::transport::timers::TimerHeap;
use crate::transport::{DtlsContext, StateChange, Transport};

pub use command::{Answer, Command, Event, OpError};
pub use load::{LoadMeter, MAX_AUDIO_HOLD, MAX_GATHER_WINDOW};
pub use stats::{Counters, Gauges};

use demux::Demux;
use drain::Cursor;

/// DTLS datagrams that may wait for their turn; a browser's flight has two or three.
const HANDSHAKE_QUEUE: usize = 512;
/// Events that may wait for the control thread.
const EVENT_QUEUE: usize = 8192;

/// How much one shard may hold. What exceeds a limit is refused with an error, never with less service for the rest.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open transports.
    pub transports: usize,
    /// Open rooms.
    pub rooms: usize,
    /// Subscriptions of one publication.
    pub fan_out: usize,
    /// Handshakes under way.
    pub handshakes: usize,
    /// Handshake datagrams worked on in one turn: about 0.15 ms of CPU each at worst.
    pub handshakes_per_turn: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { transports: 20_000, rooms: 10_000, fan_out: 4_000, handshakes: 1_000, handshakes_per_turn: 8 }
    }
}

/// What a shard is made from.
pub struct ShardConfig {
    /// Which core it is.
    pub core: CoreId,
    /// Our certificate and the clock's epoch.
    pub dtls: DtlsContext,
    /// How much it may hold.
    pub limits: Limits,
    /// Seed of the numbers that need not be secret: first sequence numbers, RTCP SSRCs.
    pub seed: u64,
}

/// One peer connection and what hangs on it.
struct Peer {
    transport: Transport,
    routes: RouteTable,
    publications: Vec<u32>,
    subscriptions: Vec<u32>,
    /// Every SSRC that media was ever sent with here: none may come back under the same keys (RFC 3711 §9.1).
    sent_ssrcs: Vec<Ssrc>,
    /// SSRC we sign our own RTCP with.
    ssrc: Ssrc,
    arrivals: ArrivalRecorder,
    reports: ReportSchedule,
    /// Counts in `Shard::handshakes`.
    handshaking: bool,
}

/// The engine of one core.
pub struct Shard {
    core: CoreId,
    dtls: DtlsContext,
    limits: Limits,
    random: SmallRandom,
    demux: Demux,
    rooms: Slab<Room>,
    room_ids: HashMap<Box<str>, u32>,
    peers: Slab<Peer>,
    publications: Slab<Publication>,
    subscriptions: Slab<Subscription>,
    /// Publications with packets that wait for the drain.
    dirty: Vec<u32>,
    cursor: Cursor,
    held: drain::Held,
    resends: drain::Resends,
    outbox: Outbox,
    timers: TimerHeap,
    handshake_queue: VecDeque<(u32, Datagram)>,
    handshakes: usize,
    events: VecDeque<Event>,
    load: LoadMeter,
    counters: Counters,
    gauges: Arc<Gauges>,
}

impl Shard {
    /// An empty shard.
    pub fn new(config: ShardConfig) -> Self {
        Self {
            core: config.core,
            dtls: config.dtls,
            limits: config.limits,
            random: SmallRandom(config.seed | 1),
            demux: Demux::default(),
            rooms: Slab::new(),
            room_ids: HashMap::new(),
            peers: Slab::new(),
            publications: Slab::new(),
            subscriptions: Slab::new(),
            dirty: Vec::with_capacity(256),
            cursor: Cursor::default(),
            held: drain::Held::default(),
            resends: drain::Resends::default(),
            outbox: Outbox::default(),
            timers: TimerHeap::default(),
            handshake_queue: VecDeque::with_capacity(HANDSHAKE_QUEUE),
            handshakes: 0,
            events: VecDeque::with_capacity(256),
            load: LoadMeter::default(),
            counters: Counters::default(),
            gauges: Arc::default(),
        }
    }

    /// Figures for other threads; published once a turn.
    pub fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }

    /// Figures as they are now.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Which core this is.
    pub fn core(&self) -> CoreId {
        self.core
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() == EVENT_QUEUE {
            self.counters.events_dropped += 1;
            return;
        }
        self.events.push_back(event);
    }

    /// Tells the controller of a state change and does what it implies here.
    fn on_state_change(&mut self, now: Timestamp, pool: &mut RxPool, index: u32, change: StateChange) {
        let peer = &mut self.peers[index as usize];
        let transport = peer.transport.id.clone();
        let room = self.rooms[peer.transport.room as usize].id.clone();
        self.emit(Event::TransportState { room, transport, state: change.state, reason: change.reason });
        match change.state {
            TransportState::Connected => self.on_connected(now, index),
            TransportState::Failed | TransportState::Closed => self.on_over(pool, index, change),
            TransportState::New | TransportState::Connecting | TransportState::Disconnected => {}
        }
        self.note_handshake(index);
    }

    /// Media can flow: a new subscriber needs a key frame of everything it watches.
    fn on_connected(&mut self, now: Timestamp, index: u32) {
        for at in 0..self.peers[index as usize].subscriptions.len() {
            let subscription = self.peers[index as usize].subscriptions[at];
            let publication = self.subscriptions[subscription as usize].publication;
            self.request_key_frame(now, publication);
        }
    }

    /// Nothing comes or goes any more: routes end, and slots go back although the controller has not closed it yet.
    fn on_over(&mut self, pool: &mut RxPool, index: u32, change: StateChange) {
        match change.reason {
            "ICE consent expired" => self.counters.consent_expired += 1,
            _ if change.state == TransportState::Failed => self.counters.handshakes_failed += 1,
            _ => {}
        }
        let pairs: Vec<_> = self.peers[index as usize].transport.ice.valid_pairs().collect();
        for pair in pairs {
            self.demux.remove_pair(pair, index);
        }
        for at in 0..self.peers[index as usize].publications.len() {
            self.release_packets(pool, self.peers[index as usize].publications[at]);
        }
    }

    /// Keeps the count of half-open handshakes right.
    fn note_handshake(&mut self, index: u32) {
        let peer = &mut self.peers[index as usize];
        if peer.handshaking && (peer.transport.srtp.is_some() || peer.transport.is_over()) {
            peer.handshaking = false;
            self.handshakes -= 1;
            self.counters.handshakes += u64::from(peer.transport.srtp.is_some());
        }
    }

    fn publish_sizes(&mut self, pool: &RxPool) {
        self.counters.rooms = self.rooms.len() as u64;
        self.counters.transports = self.peers.len() as u64;
        self.counters.publications = self.publications.len() as u64;
        self.counters.subscriptions = self.subscriptions.len() as u64;
        self.counters.slots_free = pool.free() as u64;
        self.counters.outbox_dropped = self.outbox.dropped();
    }
}

impl Engine for Shard {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Timestamp, pool: &mut RxPool, datagram: Datagram) {
        self.datagram(now, pool, datagram);
    }

    fn handle_command(&mut self, now: Timestamp, pool: &mut RxPool, command: Command) {
        self.command(now, pool, command);
        self.publish_sizes(pool);
    }

    fn handle_timeout(&mut self, now: Timestamp, pool: &mut RxPool) {
        self.work_on_handshakes(now, pool);
        self.run_timers(now, pool);
        self.publish_sizes(pool);
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        if !self.handshake_queue.is_empty() {
            return Some(Timestamp::ZERO);
        }
        self.timers.next().into_iter().chain(self.held.next()).min()
    }

    fn drain(&mut self, now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> Drain {
        self.seal_pending(now, pool, tx)
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn gather_window(&self) -> Duration {
        self.load.gather_window()
    }

    fn on_turn(&mut self, _now: Timestamp, turn: Turn) {
        self.load.on_turn(&turn);
        let counters = &mut self.counters;
        counters.busy_ns += turn.busy.as_nanos() as u64;
        counters.wall_ns += turn.wall.as_nanos() as u64;
        counters.turns += 1;
        counters.packets_in += u64::from(turn.received);
        counters.bytes_in += turn.received_bytes;
        counters.packets_out += u64::from(turn.sent);
        counters.bytes_out += turn.sent_bytes;
        counters.messages_out += u64::from(turn.messages);
        counters.frames_out += u64::from(turn.frames);
        // Datagrams without a slot, and those cut off, come one by one through `on_drop`.
        counters.drops[DropReason::SendFailed as usize] += u64::from(turn.send_failed);
        counters.gather_window_us = self.load.gather_window().as_micros() as u64;
        self.gauges.publish(counters);
    }

    fn on_drop(&mut self, reason: DropReason) {
        self.counters.drop(reason);
    }
}

/// xorshift64*: numbers that only have to differ, from a seed, so that a simulation repeats itself.
struct SmallRandom(u64);

impl SmallRandom {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

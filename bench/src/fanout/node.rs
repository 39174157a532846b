//! The node's real packet path: `shard::Shard` driven by a real reactor, over transports that were set up the real way,
//! by ICE checks and DTLS handshakes.
//!
//! Features as a browser negotiates them: NACK with RTX, PLI, transport-wide feedback both ways, audio and video in one
//! publication. One transport for each stream and direction.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sfu_core::buf::{Datagram, RxPool, SLOT_BYTES, TxBatch};
use sfu_core::control::proto::{
    Codec, DtlsRole, Encoding, Feedback, Fingerprint, HeaderExtension, IceCredentials, MediaKind, Op,
    PublicationTrack, RemoteTransport, SubscriptionTrack, TransportState,
};
use sfu_core::crypto::dtls::{DtlsOutput, MIN_POLL_BYTES};
use sfu_core::crypto::{Certificate, Dtls, DtlsEndpoint, MasterKey, Role};
use sfu_core::drop_reason::DropReason;
use sfu_core::engine::{Drain, Engine, Turn};
use sfu_core::ids::CoreId;
use sfu_core::reactor::frame::{Frames, Resolver};
use sfu_core::reactor::{
    self, InboxSender, Reactor, ReactorChoice, SendPath, Setup, Socket, TurnLoop, clock,
};
use sfu_core::shard::{Command, Event, Limits, Shard, ShardConfig};
use sfu_core::time::Timestamp;
use sfu_core::transport::DtlsContext;

use super::egress::Egress;
use super::feeder::{Feeder, PROFILE};
use super::traffic::{AUDIO_PAYLOAD_TYPE, TWCC_ID, VIDEO_PAYLOAD_TYPE, audio_ssrc, video_ssrc};
use super::{FAN_OUT, ROOM_PEERS, Sent, Shape, Variant, connection, others, peer_of};

/// Receive slots of a peer, its resend cache included: half a MiB.
const SLOTS_PER_PEER: usize = 256;
/// Turns without progress after which something is wrong.
const PATIENCE: usize = 20_000;
/// Consent is refreshed well within the ten seconds after which a transport counts as disconnected.
const CONSENT_EVERY: Duration = Duration::from_secs(4);
const PWD: &str = "a-password-of-the-node-side";

type Events = Rc<RefCell<VecDeque<Event>>>;
type Loop = TurnLoop<'static, Eager, dyn Reactor, Box<dyn FnMut(Event)>>;

/// A shard in the traffic's own time, which never waits for more packets: here the batch is given, and a gather window
/// would only add a sleep to each turn.
///
/// Time stands still between batches and moves on by what K packets of all publishers take, so that whatever the shard
/// does by the clock comes as often per packet as in a real call. Timers run when they are let.
struct Eager {
    shard: Shard,
    /// The traffic's time, once everybody is connected.
    time: Option<Timestamp>,
    timers: bool,
}

impl Eager {
    fn time(&self, now: Timestamp) -> Timestamp {
        self.time.unwrap_or(now)
    }
}

impl Engine for Eager {
    type Command = Command;
    type Event = Event;

    fn handle_datagram(&mut self, now: Timestamp, pool: &mut RxPool, datagram: Datagram) {
        self.shard.handle_datagram(self.time(now), pool, datagram);
    }
    fn handle_command(&mut self, now: Timestamp, pool: &mut RxPool, command: Command) {
        self.shard.handle_command(self.time(now), pool, command);
    }
    fn handle_timeout(&mut self, now: Timestamp, pool: &mut RxPool) {
        self.shard.handle_timeout(self.time(now), pool);
    }
    fn next_timeout(&self) -> Option<Timestamp> {
        let due = self.shard.next_timeout()?;
        match self.time {
            None => Some(due),
            Some(time) => (self.timers && due <= time).then_some(Timestamp::ZERO),
        }
    }
    fn drain(&mut self, now: Timestamp, pool: &mut RxPool, tx: &mut TxBatch) -> Drain {
        self.shard.drain(self.time(now), pool, tx)
    }
    fn poll_event(&mut self) -> Option<Event> {
        self.shard.poll_event()
    }
    fn gather_window(&self) -> Duration {
        Duration::ZERO
    }
    fn on_turn(&mut self, now: Timestamp, turn: Turn) {
        self.shard.on_turn(self.time(now), turn);
    }
    fn on_drop(&mut self, reason: DropReason) {
        self.shard.on_drop(reason);
    }
}

/// A shard and its reactor.
pub struct Node {
    name: &'static str,
    shape: Shape,
    turns: Loop,
    commands: InboxSender<Command>,
    events: Events,
    feeder: Option<Feeder>,
    consent: Timestamp,
    /// When the traffic's time began.
    start: Timestamp,
    /// CPU time spent on timers between measurements, and how long that was.
    upkeep: Upkeep,
}

#[derive(Clone, Copy, Default)]
struct Upkeep {
    cpu: Duration,
    since: Option<Timestamp>,
    until: Timestamp,
}

impl Node {
    /// Starts a shard over the reactor `choice` and connects every peer to it. Call it before the egress closes.
    ///
    /// # Errors
    /// The kernel refuses the reactor, or a handshake fails.
    pub fn new(choice: ReactorChoice, path: SendPath, egress: &Egress) -> anyhow::Result<Node> {
        let socket = Socket::bind(egress.node)?;
        let to = socket.local_addr();
        let (commands, inbox) = reactor::channel(1024)?;
        let reactor = reactor::open(
            choice,
            Setup {
                slots: (egress.shape.peers() * SLOTS_PER_PEER) as u32,
                sockets: vec![socket],
                waker: inbox.waker(),
                frames: frames(path)?,
            },
        )?;
        let certificate = Arc::new(Certificate::generate()?);
        let fingerprint = certificate.fingerprint().to_owned();
        let shard = Shard::new(ShardConfig {
            core: CoreId(0),
            dtls: DtlsContext { certificate, epoch: clock::epoch() },
            limits: Limits { handshakes_per_turn: 64, ..Limits::default() },
            seed: 1,
        });
        let events = Events::default();
        let sink = Rc::clone(&events);
        let name = match (choice, path) {
            (ReactorChoice::Mmsg, SendPath::Sockets) => "mmsg-sockets",
            (ReactorChoice::Mmsg, _) => "mmsg",
            (_, SendPath::Sockets) => "io_uring-sockets",
            _ => "io_uring",
        };
        // They live as long as the process: the loop borrows all three.
        let turns = TurnLoop::new(
            Box::leak(Box::new(Eager { shard, time: None, timers: true })),
            Box::leak(reactor),
            Box::leak(Box::new(inbox)),
            Box::new(move |event| sink.borrow_mut().push_back(event)) as Box<dyn FnMut(Event)>,
        );
        let mut node = Node {
            name,
            shape: egress.shape,
            turns,
            commands,
            events,
            feeder: None,
            consent: clock::now(),
            start: clock::now(),
            upkeep: Upkeep::default(),
        };
        let keys =
            node.connect(egress, to, &fingerprint).with_context(|| format!("{name}: connecting peers"))?;
        node.publish()?;
        node.feeder = Some(Feeder::new(&keys, egress, to)?);
        node.start = clock::now();
        node.consent = node.start;
        Ok(node)
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        while !self.turns.turn()? {}
        Ok(())
    }

    /// Applies ops to a room and checks the answer.
    fn apply(&mut self, room: usize, ops: Vec<Op>) -> anyhow::Result<()> {
        let room = format!("room-{room}").into();
        if self.commands.send(Command::Apply { token: 0, room, ops }).is_err() {
            bail!("inbox is full");
        }
        self.turn()?;
        for event in self.events.borrow_mut().drain(..) {
            match event {
                Event::Reply { result, .. } => drop(result?),
                Event::TransportState {
                    state: TransportState::Failed | TransportState::Closed,
                    reason,
                    ..
                } => {
                    bail!("transport failed: {reason}")
                }
                Event::TransportState { .. } => {}
            }
        }
        Ok(())
    }

    /// ICE and DTLS for every connection; returns the keys the peers publish with.
    fn connect(&mut self, egress: &Egress, to: SocketAddr, node: &str) -> anyhow::Result<Vec<MasterKey>> {
        let certificate = Arc::new(Certificate::generate()?);
        let mut keys = Vec::with_capacity(self.shape.peers());
        for (at, socket) in egress.sockets.iter().enumerate() {
            let peer = peer_of(at);
            self.apply(peer / ROOM_PEERS, open_transport(at, certificate.fingerprint()))?;
            socket.send_to(&ice_check(at)?, to)?;
            let key =
                self.handshake(&certificate, socket, to, node).with_context(|| format!("connection {at}"))?;
            if at == connection(peer, peer) {
                keys.push(key);
            }
        }
        Ok(keys)
    }

    fn handshake(
        &mut self,
        certificate: &Arc<Certificate>,
        socket: &std::net::UdpSocket,
        to: SocketAddr,
        node: &str,
    ) -> anyhow::Result<MasterKey> {
        let mut dtls = Dtls::new(Role::Client, certificate, clock::epoch(), clock::now());
        let mut buffer = [0; SLOT_BYTES];
        let mut key = None;
        for _ in 0..PATIENCE {
            loop {
                match dtls.poll(&mut buffer[..MIN_POLL_BYTES.max(1500)]) {
                    DtlsOutput::Datagram(len) => drop(socket.send_to(&buffer[..len], to)?),
                    DtlsOutput::Keys { profile, local, .. } => {
                        ensure!(profile == PROFILE, "the node chose {profile:?}");
                        key = Some(local);
                    }
                    DtlsOutput::PeerCertificate(digest) => {
                        ensure!(
                            sfu_core::crypto::certificate::format_fingerprint(&digest) == node,
                            "not the node"
                        );
                    }
                    DtlsOutput::Closed => bail!("closed"),
                    DtlsOutput::Timeout(_) => break,
                }
            }
            self.turn()?;
            match socket.recv_from(&mut buffer) {
                // RFC 7983: 20 to 63 is DTLS; the rest are answers to our ICE checks, and what another node sends.
                Ok((len, from)) if from == to && (20..64).contains(&buffer[0]) => {
                    dtls.handle_datagram(clock::now(), &buffer[..len])?;
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => match key {
                    Some(key) => return Ok(key),
                    None => dtls.handle_timeout(clock::now())?,
                },
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no keys")
    }

    fn publish(&mut self) -> anyhow::Result<()> {
        for peer in 0..self.shape.peers() {
            self.apply(peer / ROOM_PEERS, vec![publish(peer)])?;
        }
        for peer in 0..self.shape.peers() {
            self.apply(peer / ROOM_PEERS, others(peer).map(|from| subscribe(peer, from)).collect())?;
        }
        Ok(())
    }

    /// Lets due timers run outside the measurement, and keeps consent fresh.
    fn look_after(&mut self) -> anyhow::Result<()> {
        let feeder = self.feeder.as_ref().expect("set when connected");
        let now = self.start + feeder.time();
        if now.since(self.consent) > CONSENT_EVERY {
            self.consent = now;
            for at in 0..self.shape.connections() {
                feeder.send_as(at, &ice_check(at)?)?;
            }
        }
        let start = super::measure::process_cpu();
        self.turns.engine().timers = true;
        self.turn()?;
        self.turns.engine().timers = false;
        if self.upkeep.since.is_some() {
            self.upkeep.cpu += super::measure::process_cpu() - start;
        }
        self.upkeep.since.get_or_insert(now);
        self.upkeep.until = now;
        Ok(())
    }
}

impl Variant for Node {
    fn name(&self) -> &'static str {
        self.name
    }

    fn feed(&mut self, count: usize) -> anyhow::Result<usize> {
        self.look_after()?;
        let feeder = self.feeder.as_mut().expect("set when connected");
        let fed = feeder.feed(count)?;
        self.turns.engine().time = Some(self.start + feeder.time());
        Ok(fed)
    }

    /// Until all are taken in; audio that waits for a frame is sent, and counted, in a later batch.
    fn forward(&mut self, count: usize) -> anyhow::Result<Sent> {
        let before = self.turns.engine().shard.counters().clone();
        for _ in 0..PATIENCE {
            self.turns.turn()?;
            let counters = self.turns.engine().shard.counters();
            if counters.rtp_in - before.rtp_in >= count as u64 {
                return Ok(Sent {
                    packets: counters.rtp_forwarded - before.rtp_forwarded,
                    datagrams: counters.packets_out - before.packets_out,
                    messages: counters.messages_out - before.messages_out,
                });
            }
        }
        let counters = self.turns.engine().shard.counters();
        let received = counters.rtp_in - before.rtp_in;
        bail!("{}: {received} of {count} packets, dropped {:?}", self.name, counters.drops)
    }

    fn framed(&mut self) -> Option<f64> {
        let counters = self.turns.engine().shard.counters();
        Some(counters.frames_out as f64 / counters.messages_out.max(1) as f64)
    }

    fn audio_wait(&mut self) -> Option<(f64, Duration)> {
        let counters = self.turns.engine().shard.counters();
        let audio = counters.rtp_in as f64 * 50.0 / 140.0;
        let mean = counters.audio_held_us.checked_div(counters.audio_held)?;
        Some((counters.audio_held as f64 / audio, Duration::from_micros(mean)))
    }

    /// Timers (reports, feedback, consent), at the mix's own packet rate.
    fn upkeep_ns(&self) -> f64 {
        let Some(since) = self.upkeep.since else { return 0.0 };
        let seconds = self.upkeep.until.since(since).as_secs_f64();
        let packets_out_per_second = (self.shape.peers() * (90 + 50) * FAN_OUT) as f64;
        self.upkeep.cpu.as_nanos() as f64 / seconds / packets_out_per_second
    }
}

/// As a node does it: frames where the rights suffice.
fn frames(path: SendPath) -> anyhow::Result<Option<Frames>> {
    if path == SendPath::Sockets {
        return Ok(None);
    }
    match Resolver::start() {
        Ok(resolver) => Ok(Some(resolver.frames()?)),
        Err(error) => {
            eprintln!("{error}");
            Ok(None)
        }
    }
}

fn ufrag(connection: usize) -> String {
    format!("node{connection:04}")
}

/// One authenticated check with USE-CANDIDATE (RFC 8445 §7.2).
fn ice_check(connection: usize) -> anyhow::Result<Vec<u8>> {
    use stun::attributes::{
        ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME, RawAttribute,
    };
    let attribute = |typ, value: Vec<u8>| -> Box<dyn stun::message::Setter> {
        Box::new(RawAttribute { typ, length: value.len() as u16, value })
    };
    let mut message = stun::message::Message::new();
    message.build(&[
        Box::new(stun::message::BINDING_REQUEST),
        Box::new(stun::agent::TransactionId::new()),
        attribute(ATTR_USERNAME, format!("{}:peer", ufrag(connection)).into_bytes()),
        attribute(ATTR_PRIORITY, vec![0x6e, 0, 1, 0xff]),
        attribute(ATTR_ICE_CONTROLLING, vec![7; 8]),
        attribute(ATTR_USE_CANDIDATE, vec![]),
        Box::new(stun::integrity::MessageIntegrity::new_short_term_integrity(PWD.into())),
        Box::new(stun::fingerprint::FINGERPRINT),
    ])?;
    Ok(message.raw)
}

fn open_transport(connection: usize, fingerprint: &str) -> Vec<Op> {
    let fingerprint = Fingerprint { algorithm: "sha-256".into(), value: fingerprint.into() };
    vec![
        Op::OpenRoom { core: 0 },
        Op::OpenTransport {
            transport: format!("t{connection}"),
            ice: IceCredentials { ufrag: ufrag(connection), pwd: PWD.into() },
            remote: Some(RemoteTransport {
                ice_ufrag: "peer".into(),
                fingerprints: vec![fingerprint],
                dtls_role: DtlsRole::Client,
            }),
        },
    ]
}

fn codec(kind: MediaKind) -> Codec {
    let (name, payload_type, clock_rate, rtx) = match kind {
        MediaKind::Audio => ("opus", AUDIO_PAYLOAD_TYPE, 48_000, None),
        MediaKind::Video => ("VP8", VIDEO_PAYLOAD_TYPE, 90_000, Some(97)),
    };
    Codec { name: name.into(), payload_type, clock_rate, rtx_payload_type: rtx }
}

fn extensions() -> Vec<HeaderExtension> {
    vec![HeaderExtension { id: TWCC_ID, uri: sfu_core::forward::rewrite::URI_TRANSPORT_WIDE_CC.into() }]
}

fn feedback(kind: MediaKind) -> Feedback {
    let video = kind == MediaKind::Video;
    Feedback { nack: video, pli: video, fir: video, transport_cc: true, remb: false }
}

fn publish(peer: usize) -> Op {
    let track = |kind, ssrc, rtx_ssrc| PublicationTrack {
        kind,
        mid: None,
        codec: codec(kind),
        encodings: vec![Encoding { ssrc: Some(ssrc), rtx_ssrc, rid: None }],
        extensions: extensions(),
        feedback: feedback(kind),
        max_bitrate_bps: None,
    };
    Op::Publish {
        transport: format!("t{}", connection(peer, peer)),
        publication: format!("p{peer}"),
        tracks: vec![
            track(MediaKind::Audio, audio_ssrc(peer), None),
            track(MediaKind::Video, video_ssrc(peer), Some(0x3000_0000 + peer as u32)),
        ],
    }
}

fn subscribe(peer: usize, from: usize) -> Op {
    let base = 0x4000_0000 + (connection(peer, from) * 4) as u32;
    let track = |kind, ssrc, rtx_ssrc| SubscriptionTrack {
        kind,
        mid: None,
        codec: codec(kind),
        ssrc,
        rtx_ssrc,
        extensions: extensions(),
        feedback: feedback(kind),
    };
    Op::Subscribe {
        transport: format!("t{}", connection(peer, from)),
        subscription: format!("s{peer}-{from}"),
        publication: format!("p{from}"),
        tracks: vec![track(MediaKind::Audio, base, None), track(MediaKind::Video, base + 1, Some(base + 2))],
    }
}

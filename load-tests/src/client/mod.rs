//! WebRTC clients by the thousand: each peer connection has its own socket, ICE, DTLS and SRTP, as in the browsers' SDK.
//!
//! [`Clients`] is the side that signaling sees: SDP in, SDP out, and one message when a connection is of use. The packets are
//! handled by workers (`worker.rs`), one pinned thread for each of the generator's cores.

pub(crate) mod dtls;
mod fetch;
mod full;
pub(crate) mod ice;
mod link;
mod net;
mod peer;
mod publisher;
pub(crate) mod receiver;
mod rtcp;
mod rtp;
pub(crate) mod sdp;
mod srtp;
pub(crate) mod stats;
mod table;
pub(crate) mod units;
mod wheel;
pub(crate) mod wire;
mod worker;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use anyhow::{Context as _, Result};
use rand::Rng as _;
use tokio::sync::oneshot;

use self::dtls::Identity;
use self::full::FullPeer;
use self::ice::Credentials;
use self::link::Outcome;
use self::net::Socket;
use self::peer::{Peer, Role};
use self::publisher::Publisher;
use self::receiver::Receiver;
use self::sdp::{Local, Remote, Ssrcs};
use self::stats::Stats;
use self::table::Client;
use self::units::{SendLog, Units};
use self::wire::Wire;
use self::worker::Command;
use crate::media::Clip;
use crate::{clock, host};

/// Commands that may wait for a worker.
const QUEUE: usize = 4096;

/// Names a peer connection of [`Clients`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PcId {
    worker: usize,
    key: u64,
}

/// All clients of a run.
pub(crate) struct Clients {
    workers: Vec<mpsc::SyncSender<Command>>,
    identity: Identity,
    units: Arc<Units>,
    address: IpAddr,
    /// Where light clients are instead of on sockets.
    wire: Option<Arc<Wire>>,
    /// Share of the clients that are full ones.
    full_share: f64,
    next: AtomicU64,
    opened: AtomicU64,
}

/// A publisher whose offer waits for its answer.
pub(crate) struct Unanswered {
    kind: Kind,
    worker: usize,
    /// SDP to be sent.
    pub(crate) offer: String,
    /// What this publisher will note; its subscribers measure with it.
    pub(crate) log: Arc<SendLog>,
}

enum Kind {
    Light(Socket, Local, Ssrcs),
    Full(Box<full::Pending>),
}

/// A connection on its way.
pub(crate) struct Opened {
    pub(crate) id: PcId,
    /// Resolves when media flows (publisher) or the first picture is there (receiver), or with what went wrong.
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    /// What we said of ourselves, for renegotiations; light clients only.
    pub(crate) local: Option<Local>,
}

impl Clients {
    /// Starts a worker on each core. `address`: where the clients' sockets are bound. With a wire there is one worker.
    ///
    /// # Errors
    /// When threads or certificates cannot be made.
    pub(crate) fn start(
        cores: &[usize],
        address: IpAddr,
        wire: Option<Arc<Wire>>,
        clip: Arc<Clip>,
        full_share: f64,
    ) -> Result<Clients> {
        anyhow::ensure!(
            wire.is_none() || cores.len() == 1,
            "a wire is read on one core: give one --generator-cores"
        );
        let fps = clip.video_fps;
        let units = Arc::new(Units::new(clip));
        let mut workers = Vec::new();
        for core in cores.iter().copied() {
            let (sender, queue) = mpsc::sync_channel(QUEUE);
            let wire = wire.clone();
            std::thread::Builder::new()
                .name(format!("clients-{core}"))
                .spawn(move || {
                    host::pin_this_thread(&[core]);
                    worker::run(&queue, wire, fps);
                })
                .context("starting a worker")?;
            workers.push(sender);
        }
        anyhow::ensure!(!workers.is_empty(), "the generator needs at least one core");
        let identity = Identity::generate()?;
        let (next, opened) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Clients { workers, identity, units, address, wire, full_share, next, opened })
    }

    /// The worker for room number `room`: a room's clients share a thread.
    fn worker(&self, room: usize) -> usize {
        room % self.workers.len()
    }

    fn local(&self, ssrcs: Option<Ssrcs>) -> Result<(Socket, Local)> {
        let socket = match &self.wire {
            Some(wire) => Socket::on_wire(wire.clone()),
            None => self.socket()?,
        };
        let address = socket.local_address().context("reading a client's address")?;
        let ice = Credentials { ufrag: random_text(8), pwd: random_text(24) };
        Ok((socket, Local { ice, fingerprint: self.identity.fingerprint(), address, ssrcs }))
    }

    /// Whether the next client is a full one: evenly spread, so that any number of clients has the share.
    fn next_is_full(&self) -> bool {
        let number = self.opened.fetch_add(1, Ordering::Relaxed) as f64;
        (number * self.full_share).floor() < ((number + 1.0) * self.full_share).floor()
    }

    fn socket(&self) -> Result<Socket> {
        Socket::bind(self.address).context("opening a client's socket")
    }

    /// Makes a publisher and its offer.
    pub(crate) fn offer(&self, room: usize) -> Result<Unanswered> {
        let (worker, log) = (self.worker(room), self.units.log());
        if self.next_is_full() {
            let (pending, offer) = full::offer(self.socket()?, clock::now())?;
            return Ok(Unanswered { kind: Kind::Full(Box::new(pending)), worker, offer, log });
        }
        let first = rand::random_range(1..u32::MAX - 2);
        let ssrcs = Ssrcs { audio: first, video: first + 1, video_rtx: first + 2 };
        let (socket, local) = self.local(Some(ssrcs))?;
        let offer = sdp::publish_offer(&local)?;
        Ok(Unanswered { kind: Kind::Light(socket, local, ssrcs), worker, offer, log })
    }

    /// Connects a publisher to what its answer describes.
    pub(crate) fn answered(&self, pc: Unanswered, answer: &str) -> Result<Opened> {
        match pc.kind {
            Kind::Light(socket, local, ssrcs) => {
                let remote = Remote::parse(answer).context("the server's answer")?;
                let publisher = Publisher::new(self.units.clone(), pc.log, ssrcs, &remote, rand::random());
                self.add(pc.worker, socket, &local, remote, Role::Publisher(Box::new(publisher)))
            }
            Kind::Full(pending) => {
                let (sender, outcome) = oneshot::channel();
                let now = clock::now();
                let peer = FullPeer::publisher(*pending, answer, self.units.clone(), pc.log, sender, now)?;
                let id = self.add_client(pc.worker, Client::Full(Box::new(peer)))?;
                Ok(Opened { id, outcome, local: None })
            }
        }
    }

    /// Makes a receiver for what `offer` describes; with it comes our answer.
    pub(crate) fn receive(
        &self,
        room: usize,
        offer: &str,
        log: Option<Arc<SendLog>>,
    ) -> Result<(Opened, String)> {
        let worker = self.worker(room);
        if self.next_is_full() {
            let (sender, outcome) = oneshot::channel();
            let (socket, units) = (self.socket()?, self.units.clone());
            let (peer, answer) = FullPeer::receiver(socket, offer, units, log, sender, clock::now())?;
            let id = self.add_client(worker, Client::Full(Box::new(peer)))?;
            return Ok((Opened { id, outcome, local: None }, answer));
        }
        let remote = Remote::parse(offer).context("the server's offer")?;
        let (socket, local) = self.local(None)?;
        let answer = sdp::subscribe_answer(&local, &remote);
        let receiver = Receiver::new(&remote, self.units.clone(), log, rand::random_range(1..u32::MAX));
        let role = Role::Receiver(Box::new(receiver));
        Ok((self.add(worker, socket, &local, remote, role)?, answer))
    }

    fn add(
        &self,
        worker: usize,
        socket: Socket,
        local: &Local,
        remote: Remote,
        role: Role,
    ) -> Result<Opened> {
        let (sender, outcome) = oneshot::channel();
        let peer = Peer::new(socket, self.identity.clone(), &local.ice, remote, role, sender, clock::now());
        let id = self.add_client(worker, Client::Light(Box::new(peer)))?;
        Ok(Opened { id, outcome, local: Some(local.clone()) })
    }

    fn add_client(&self, worker: usize, client: Client) -> Result<PcId> {
        let id = PcId { worker, key: self.next.fetch_add(1, Ordering::Relaxed) };
        self.tell(worker, Command::Add(id.key, client))?;
        Ok(id)
    }

    /// The server's new offer for a connection that exists; our answer.
    pub(crate) fn renegotiate(&self, id: PcId, local: &Local, offer: &str) -> Result<String> {
        let remote = Remote::parse(offer).context("the server's offer")?;
        let answer = sdp::subscribe_answer(local, &remote);
        self.tell(id.worker, Command::Redescribe(id.key, Box::new(remote)))?;
        Ok(answer)
    }

    /// A candidate that came after the description.
    pub(crate) fn add_candidate(&self, id: PcId, candidate: &str) -> Result<()> {
        let line = candidate.trim_start_matches("a=").trim_start_matches("candidate:");
        match sdp::parse_candidate(line) {
            Some(address) => self.tell(id.worker, Command::Candidate(id.key, address)),
            None => Ok(()),
        }
    }

    /// Drops a connection.
    pub(crate) fn close(&self, id: PcId) -> Result<()> {
        self.tell(id.worker, Command::Close(id.key))
    }

    /// Begins an interval of measurement on all workers.
    pub(crate) fn begin_interval(&self) -> Result<()> {
        (0..self.workers.len()).try_for_each(|worker| self.tell(worker, Command::BeginInterval))
    }

    /// Ends the interval: what all workers counted in it.
    pub(crate) async fn end_interval(&self) -> Result<Stats> {
        let mut replies = Vec::new();
        for worker in 0..self.workers.len() {
            let (sender, reply) = oneshot::channel();
            self.tell(worker, Command::EndInterval(sender))?;
            replies.push(reply);
        }
        let mut sum = Stats::default();
        for reply in replies {
            sum.add(&reply.await.context("a worker ended")?);
        }
        Ok(sum)
    }

    fn tell(&self, worker: usize, command: Command) -> Result<()> {
        self.workers[worker].send(command).ok().context("a worker ended")
    }
}

fn random_text(length: usize) -> String {
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(length).map(char::from).collect()
}

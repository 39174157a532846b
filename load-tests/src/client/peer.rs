//! One light peer connection: ICE, DTLS, SRTP and a role on one socket.
//!
//! ```text
//! Described ──checks──▶ Connected ──DTLS──▶ Secured ──(receiver: first picture)──▶ Playing
//!     └──────────────────────┴──────── no consent for 30 s, DTLS error ───▶ Failed
//! ```
//!
//! [`Peer::visit`] is called every few milliseconds: it empties the socket and does what is due. Nothing waits.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::dtls::{ClosedByServer, Identity};
use super::fetch::fetch;
use super::ice::Credentials;
use super::link::{Link, Outcome};
use super::net::{Buffers, Socket, Train};
use super::publisher::{Batch, Publisher};
use super::receiver::Receiver;
use super::sdp::Remote;
use super::srtp::Srtp;
use super::stats::Stats;

/// Pause between compound reports.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between visits while a connection is made, and afterwards.
const VISIT_CONNECTING: Duration = Duration::from_millis(2);
const VISIT_PUBLISHER: Duration = Duration::from_millis(20);
const VISIT_RECEIVER: Duration = Duration::from_millis(60);

/// What a connection is for.
pub(crate) enum Role {
    Publisher(Box<Publisher>),
    Receiver(Box<Receiver>),
}

/// One light client's peer connection.
pub(crate) struct Peer {
    socket: Socket,
    link: Link,
    role: Role,
    /// A worker knows that the keys are there.
    told: bool,
}

/// What a worker lends to its peers.
pub(crate) struct Context {
    pub(crate) buffers: Buffers,
    pub(crate) batch: Batch,
    pub(crate) packet: Vec<u8>,
    pub(crate) stats: Stats,
}

/// What a worker must do about a peer after a visit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Visit(Duration),
    /// The keys are there: a publisher's media begins.
    Secured(Duration),
    /// It is over.
    Failed,
}

impl Peer {
    /// A connection whose other side is described. `outcome` hears of it once.
    pub(crate) fn new(
        socket: Socket,
        identity: Identity,
        local: &Credentials,
        remote: Remote,
        role: Role,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) -> Peer {
        let link = Link::new(identity, local, remote, outcome, now);
        Peer { socket, link, role, told: false }
    }

    /// Port by which the wire's deliveries are told apart.
    pub(crate) fn wire_port(&self) -> Option<u16> {
        self.socket.wire_port()
    }

    /// Whether this one sends media.
    pub(crate) fn is_publisher(&self) -> bool {
        matches!(self.role, Role::Publisher(_))
    }

    /// Has the processor fetch what the next delivery, visit or sending reads, so that it need not be waited for. Call it
    /// for one step after the other, with time in between: each follows a pointer that the one before has fetched.
    pub(super) fn approach(&self, step: usize) {
        match (step, &self.role) {
            (0, _) => {
                fetch(&self.socket);
                fetch(&self.link.keys);
                fetch(&self.link.next_check);
                fetch(&self.role);
            }
            (1, Role::Receiver(receiver)) => fetch(&**receiver),
            (1, Role::Publisher(publisher)) => fetch(&**publisher),
            (_, Role::Receiver(receiver)) => receiver.approach(),
            (_, Role::Publisher(_)) => {}
        }
    }

    /// The receiver, for those that are one.
    pub(crate) fn receiver_mut(&mut self) -> Option<&mut Receiver> {
        match &mut self.role {
            Role::Receiver(receiver) => Some(receiver),
            Role::Publisher(_) => None,
        }
    }

    /// A renegotiation brought more streams.
    pub(crate) fn redescribe(&mut self, remote: Remote) {
        if let Role::Receiver(receiver) = &mut self.role {
            receiver.add_tracks(&remote);
        }
    }

    /// A candidate came late.
    pub(crate) fn add_candidate(&mut self, candidate: SocketAddr) {
        let link = &mut self.link;
        if !link.remote.candidates.contains(&candidate) {
            link.remote.candidates.push(candidate);
            link.next_check = link.began;
        }
    }

    /// Empties the socket and does what is due.
    pub(crate) fn visit(&mut self, now: Instant, now_ns: u64, context: &mut Context) -> Next {
        let outcome =
            self.receive(now, now_ns, context).and_then(|()| self.link.keep_alive(&self.socket, now));
        if let Err(error) = outcome {
            self.fail(&error, &mut context.stats);
            return Next::Failed;
        }
        if self.link.keys.is_none() {
            return Next::Visit(VISIT_CONNECTING);
        }
        self.report(now, now_ns, context);
        match &self.role {
            Role::Publisher(_) => {
                self.link.settle(Ok(now));
                let told = std::mem::replace(&mut self.told, true);
                if told { Next::Visit(VISIT_PUBLISHER) } else { Next::Secured(VISIT_PUBLISHER) }
            }
            Role::Receiver(receiver) if receiver.is_playing() => {
                self.link.settle(Ok(now));
                Next::Visit(VISIT_RECEIVER)
            }
            // Until it plays it is looked at often, so that the time to the first picture is right.
            Role::Receiver(_) => Next::Visit(VISIT_CONNECTING),
        }
    }

    /// Counts its end and tells whoever waits that it is over.
    pub(crate) fn fail(&mut self, error: &anyhow::Error, stats: &mut Stats) {
        let closed = error.is::<ClosedByServer>();
        stats.closed += u64::from(closed);
        stats.failed += u64::from(!closed);
        self.link.settle(Err(format!("{error:#}")));
    }

    fn receive(&mut self, now: Instant, now_ns: u64, context: &mut Context) -> anyhow::Result<()> {
        let Context { buffers, batch, packet: reply, stats } = context;
        batch.clear();
        // The closure needs the rest of the peer.
        let Peer { socket, link, role, .. } = self;
        let mut taken = Taken { link, role, batch, reply, stats };
        socket.receive(buffers, |train| taken.take(socket, train, now, now_ns))?;
        Self::flush(&self.socket, batch, stats);
        Ok(())
    }

    /// Takes what the wire delivered.
    ///
    /// # Errors
    /// What ends the connection.
    pub(crate) fn deliver(
        &mut self,
        train: Train<'_>,
        now: Instant,
        now_ns: u64,
        context: &mut Context,
    ) -> anyhow::Result<()> {
        let Context { batch, packet: reply, stats, .. } = context;
        batch.clear();
        let Peer { socket, link, role, .. } = self;
        Taken { link, role, batch, reply, stats }.take(socket, train, now, now_ns)?;
        Self::flush(&self.socket, batch, stats);
        Ok(())
    }

    /// Requests at once, reports once a second.
    fn report(&mut self, now: Instant, now_ns: u64, context: &mut Context) {
        let Some((tx, _)) = self.link.keys.as_deref_mut() else { return };
        let packet = &mut context.packet;
        packet.clear();
        if let Role::Receiver(receiver) = &mut self.role {
            receiver.requests(packet, now_ns, &mut context.stats);
        }
        if now >= self.link.next_report {
            self.link.next_report = now + REPORT_INTERVAL;
            match &mut self.role {
                Role::Publisher(publisher) => publisher.reports(packet, now_ns),
                Role::Receiver(receiver) => receiver.reports(packet, now_ns),
            }
        }
        if !packet.is_empty() {
            tx.seal_rtcp(packet);
            self.socket.send(packet);
        }
    }

    /// Sends the next video frame.
    pub(crate) fn send_video(&mut self, now_ns: u64, context: &mut Context) {
        self.send_media(context, |publisher, batch, tx| publisher.video_frame(batch, tx, now_ns));
    }

    /// Sends the next audio packet.
    pub(crate) fn send_audio(&mut self, now_ns: u64, context: &mut Context) {
        self.send_media(context, |publisher, batch, tx| publisher.audio_packet(batch, tx, now_ns));
    }

    fn send_media(&mut self, context: &mut Context, write: impl FnOnce(&mut Publisher, &mut Batch, &Srtp)) {
        if let (Role::Publisher(publisher), Some((tx, _))) = (&mut self.role, self.link.keys.as_deref()) {
            context.batch.clear();
            write(publisher, &mut context.batch, tx);
            let (packets, bytes) = Publisher::tally(&context.batch);
            context.stats.sent_packets += packets;
            context.stats.sent_bytes += bytes;
            Self::flush(&self.socket, &context.batch, &mut context.stats);
        }
    }

    fn flush(socket: &Socket, batch: &Batch, stats: &mut Stats) {
        for (start, end, size) in batch.runs() {
            if !socket.send_train(&batch.bytes[start..end], size) {
                stats.send_refused += ((end - start).div_ceil(size)) as u64;
            }
        }
    }
}

/// What a train is taken into.
struct Taken<'a> {
    link: &'a mut Link,
    role: &'a mut Role,
    batch: &'a mut Batch,
    reply: &'a mut Vec<u8>,
    stats: &'a mut Stats,
}

impl Taken<'_> {
    fn take(&mut self, socket: &Socket, train: Train<'_>, now: Instant, now_ns: u64) -> anyhow::Result<()> {
        let Taken { link, role, batch, reply, stats } = self;
        stats.receives += 1;
        let arrival_ns = train.arrival_ns.unwrap_or(now_ns);
        if let (Some(total), Role::Receiver(receiver)) = (train.overflowed, &mut **role) {
            receiver.on_overflow(total, stats);
        }
        for datagram in train.bytes.chunks_mut(train.segment) {
            match datagram {
                [0..=3, ..] => link.on_stun(socket, datagram, train.from, now, reply)?,
                [20..=63, ..] => link.on_dtls(socket, datagram, now)?,
                [128..=191, 192..=223, ..] => link.on_rtcp(role, datagram, arrival_ns, batch, stats),
                [128..=191, ..] => {
                    if let (Some((_, rx)), Role::Receiver(receiver)) = (link.keys.as_deref(), &mut **role) {
                        receiver.on_rtp(datagram, arrival_ns, rx, stats);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

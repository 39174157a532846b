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

use aws_lc_rs::hmac;
use tokio::sync::oneshot;

use super::dtls::{Dtls, Identity};
use super::ice::{self, Credentials, Message, TransactionId};
use super::net::{Buffers, Socket};
use super::publisher::{Batch, Publisher};
use super::receiver::Receiver;
use super::rtcp;
use super::sdp::Remote;
use super::srtp::{Srtp, from_keying_material};
use super::stats::Stats;

/// Pause between checks until one is answered.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Pause between consent checks afterwards.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2_500);
/// A connection without consent for so long is over (RFC 7675 §5.1).
const CONSENT_EXPIRY: Duration = Duration::from_secs(30);
/// Pause between compound reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// Pause between visits while a connection is made, and afterwards.
const VISIT_CONNECTING: Duration = Duration::from_millis(2);
const VISIT_PUBLISHER: Duration = Duration::from_millis(20);
const VISIT_RECEIVER: Duration = Duration::from_millis(30);
/// Outstanding checks that are remembered.
const CHECKS_MAX: usize = 8;

/// Told once when a connection is of use, or why it will never be.
pub(crate) type Outcome = Result<Instant, String>;

/// What a connection is for.
pub(crate) enum Role {
    Publisher(Box<Publisher>),
    Receiver(Box<Receiver>),
}

/// One light client's peer connection.
pub(crate) struct Peer {
    socket: Socket,
    identity: Identity,
    remote: Remote,
    username: String,
    local_key: hmac::Key,
    remote_key: hmac::Key,
    tie_breaker: u64,
    checks: Vec<TransactionId>,
    next_check: Instant,
    consented: Option<Instant>,
    began: Instant,
    peer: Option<SocketAddr>,
    dtls: Option<Dtls>,
    keys: Option<(Srtp, Srtp)>,
    next_report: Instant,
    role: Role,
    outcome: Option<oneshot::Sender<Outcome>>,
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
        Peer {
            socket,
            identity,
            username: format!("{}:{}", remote.ice.ufrag, local.ufrag),
            local_key: ice::key(&local.pwd),
            remote_key: ice::key(&remote.ice.pwd),
            tie_breaker: rand::random(),
            remote,
            checks: Vec::new(),
            next_check: now,
            consented: None,
            began: now,
            peer: None,
            dtls: None,
            keys: None,
            next_report: now,
            role,
            outcome: Some(outcome),
        }
    }

    /// Whether this one sends media.
    pub(crate) fn is_publisher(&self) -> bool {
        matches!(self.role, Role::Publisher(_))
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
        if !self.remote.candidates.contains(&candidate) {
            self.remote.candidates.push(candidate);
            self.next_check = self.began;
        }
    }

    /// Empties the socket and does what is due.
    pub(crate) fn visit(&mut self, now: Instant, now_ns: u64, context: &mut Context) -> Next {
        let had_keys = self.keys.is_some();
        if let Err(error) = self.receive(now, now_ns, context).and_then(|()| self.keep_alive(now)) {
            context.stats.failed += 1;
            self.settle(Err(format!("{error:#}")));
            return Next::Failed;
        }
        if self.keys.is_none() {
            return Next::Visit(VISIT_CONNECTING);
        }
        self.report(now, now_ns, context);
        match &self.role {
            Role::Publisher(_) => {
                self.settle(Ok(now));
                if had_keys { Next::Visit(VISIT_PUBLISHER) } else { Next::Secured(VISIT_PUBLISHER) }
            }
            Role::Receiver(receiver) if receiver.is_playing() => {
                self.settle(Ok(now));
                Next::Visit(VISIT_RECEIVER)
            }
            // Until it plays it is looked at often, so that the time to the first picture is right.
            Role::Receiver(_) => Next::Visit(VISIT_CONNECTING),
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        if let Some(sender) = self.outcome.take() {
            let _ = sender.send(outcome);
        }
    }

    fn receive(&mut self, now: Instant, now_ns: u64, context: &mut Context) -> anyhow::Result<()> {
        let Context { buffers, batch, packet: reply, stats } = context;
        batch.clear();
        while let Some(train) = self.socket.receive(buffers) {
            stats.receives += 1;
            let arrival_ns = train.arrival_ns.unwrap_or(now_ns);
            if let (Some(total), Role::Receiver(receiver)) = (train.overflowed, &mut self.role) {
                receiver.on_overflow(total, stats);
            }
            for datagram in train.bytes.chunks_mut(train.segment) {
                match datagram {
                    [0..=3, ..] => self.on_stun(datagram, train.from, now, reply)?,
                    [20..=63, ..] => self.on_dtls(datagram, now)?,
                    [128..=191, 192..=223, ..] => self.on_rtcp(datagram, arrival_ns, batch, stats),
                    [128..=191, ..] => {
                        if let (Some((_, rx)), Role::Receiver(receiver)) = (&self.keys, &mut self.role) {
                            receiver.on_rtp(datagram, arrival_ns, rx, stats);
                        }
                    }
                    _ => {}
                }
            }
        }
        Self::flush(&self.socket, batch, stats);
        Ok(())
    }

    fn on_stun(
        &mut self,
        datagram: &[u8],
        from: Option<SocketAddr>,
        now: Instant,
        reply: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let Some(from) = from.or(self.peer) else { return Ok(()) };
        match ice::read(datagram, &self.local_key, &self.remote_key) {
            Some(Message::Request(id)) => {
                ice::write_response(reply, id, from, &self.local_key);
                self.socket.send_to(reply, from);
            }
            Some(Message::Response(id, true)) if self.checks.contains(&id) => {
                self.consented = Some(now);
                if self.peer.is_none() {
                    self.socket.connect(from)?;
                    self.peer = Some(from);
                    self.checks.clear();
                    self.next_check = now + CONSENT_INTERVAL;
                    let client = self.remote.we_are_dtls_client;
                    self.dtls = Some(Dtls::new(&self.identity, client, self.remote.fingerprint, now));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_dtls(&mut self, datagram: &[u8], now: Instant) -> anyhow::Result<()> {
        if let Some(dtls) = &mut self.dtls {
            let keys = dtls.handle(datagram, now, |packet| {
                self.socket.send(packet);
            })?;
            self.on_keys(keys, now)?;
        }
        Ok(())
    }

    fn on_keys(&mut self, keys: Option<super::dtls::Keys>, now: Instant) -> anyhow::Result<()> {
        let Some((profile, material)) = keys else { return Ok(()) };
        let Some((client, server)) = from_keying_material(profile, &material) else {
            anyhow::bail!("DTLS exported {} bytes, too few for {profile:?}", material.len());
        };
        let ours_first = self.remote.we_are_dtls_client;
        self.keys = Some(if ours_first { (client, server) } else { (server, client) });
        // Reports of many connections shall not leave in one millisecond.
        self.next_report = now + REPORT_INTERVAL.mul_f64(rand::random());
        Ok(())
    }

    fn on_rtcp(&mut self, datagram: &mut [u8], arrival_ns: u64, batch: &mut Batch, stats: &mut Stats) {
        let Some((tx, rx)) = &self.keys else { return };
        let Some(end) = rx.open_rtcp(datagram) else {
            stats.auth_failed += 1;
            return;
        };
        let role = &mut self.role;
        rtcp::walk(&datagram[..end], |item| match role {
            Role::Publisher(publisher) => publisher.on_rtcp(&item, batch, tx, stats),
            Role::Receiver(receiver) => receiver.on_rtcp(&item, arrival_ns),
        });
    }

    /// Checks, consent and the handshake's timers.
    fn keep_alive(&mut self, now: Instant) -> anyhow::Result<()> {
        if now >= self.next_check {
            self.check(now);
        }
        let since = now.saturating_duration_since(self.consented.unwrap_or(self.began));
        anyhow::ensure!(since < CONSENT_EXPIRY, "ICE: no answer for {} s", since.as_secs());
        if let Some(dtls) = &mut self.dtls
            && self.keys.is_none()
            && now >= dtls.next_timeout()
        {
            let keys = dtls.handle_timeout(now, |packet| {
                self.socket.send(packet);
            })?;
            self.on_keys(keys, now)?;
        }
        Ok(())
    }

    fn check(&mut self, now: Instant) {
        let id: TransactionId = rand::random();
        if self.checks.len() == CHECKS_MAX {
            self.checks.remove(0);
        }
        self.checks.push(id);
        let mut packet = Vec::with_capacity(128);
        ice::write_check(&mut packet, id, &self.username, &self.remote_key, self.tie_breaker);
        if self.peer.is_some() {
            self.socket.send(&packet);
            // A little before or after, so that thousands do not check in step.
            self.next_check = now + CONSENT_INTERVAL.mul_f64(0.8 + 0.4 * rand::random::<f64>());
        } else {
            for candidate in &self.remote.candidates {
                self.socket.send_to(&packet, *candidate);
            }
            self.next_check = now + CHECK_INTERVAL;
        }
    }

    /// Requests at once, reports once a second.
    fn report(&mut self, now: Instant, now_ns: u64, context: &mut Context) {
        let Some((tx, _)) = &mut self.keys else { return };
        let packet = &mut context.packet;
        packet.clear();
        if let Role::Receiver(receiver) = &mut self.role {
            receiver.requests(packet, now_ns, &mut context.stats);
        }
        if now >= self.next_report {
            self.next_report = now + REPORT_INTERVAL;
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
        if let (Role::Publisher(publisher), Some((tx, _))) = (&mut self.role, &self.keys) {
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

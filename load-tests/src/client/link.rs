//! What lies between a light client's socket and its media: ICE, DTLS, SRTP keys, consent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use tokio::sync::oneshot;

use super::dtls::{Dtls, Identity};
use super::ice::{self, Credentials, Message, TransactionId};
use super::net::Socket;
use super::peer::{REPORT_INTERVAL, Role};
use super::publisher::Batch;
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
/// Outstanding checks that are remembered.
const CHECKS_MAX: usize = 8;

/// Told once when a connection is of use, or why it will never be.
pub(crate) type Outcome = Result<Instant, String>;

/// Everything between socket and media.
pub(super) struct Link {
    identity: Identity,
    pub(super) remote: Remote,
    username: String,
    local_key: hmac::Key,
    remote_key: hmac::Key,
    tie_breaker: u64,
    checks: Vec<TransactionId>,
    pub(super) next_check: Instant,
    consented: Option<Instant>,
    pub(super) began: Instant,
    peer: Option<SocketAddr>,
    dtls: Option<Dtls>,
    /// Ours and theirs, once DTLS is done. Elsewhere, as most packets that come are not decrypted.
    pub(super) keys: Option<Box<(Srtp, Srtp)>>,
    pub(super) next_report: Instant,
    outcome: Option<oneshot::Sender<Outcome>>,
}

impl Link {
    /// A connection whose other side is described.
    pub(super) fn new(
        identity: Identity,
        local: &Credentials,
        remote: Remote,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) -> Link {
        Link {
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
            outcome: Some(outcome),
        }
    }

    /// Tells whoever waits, once.
    pub(super) fn settle(&mut self, outcome: Outcome) {
        if let Some(sender) = self.outcome.take() {
            let _ = sender.send(outcome);
        }
    }

    pub(super) fn on_stun(
        &mut self,
        socket: &Socket,
        datagram: &[u8],
        from: Option<SocketAddr>,
        now: Instant,
        reply: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        let Some(from) = from.or(self.peer) else { return Ok(()) };
        match ice::read(datagram, &self.local_key, &self.remote_key) {
            Some(Message::Request(id)) => {
                ice::write_response(reply, id, from, &self.local_key);
                socket.send_to(reply, from);
            }
            Some(Message::Response(id, true)) if self.checks.contains(&id) => {
                self.consented = Some(now);
                if self.peer.is_none() {
                    socket.connect(from)?;
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

    pub(super) fn on_dtls(&mut self, socket: &Socket, datagram: &[u8], now: Instant) -> anyhow::Result<()> {
        if let Some(dtls) = &mut self.dtls {
            let keys = dtls.handle(datagram, now, |packet| {
                socket.send(packet);
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
        self.keys = Some(Box::new(if ours_first { (client, server) } else { (server, client) }));
        // Reports of many connections shall not leave in one millisecond.
        self.next_report = now + REPORT_INTERVAL.mul_f64(rand::random());
        Ok(())
    }

    pub(super) fn on_rtcp(
        &mut self,
        role: &mut Role,
        datagram: &mut [u8],
        arrival_ns: u64,
        batch: &mut Batch,
        stats: &mut Stats,
    ) {
        let Some((tx, rx)) = self.keys.as_deref() else { return };
        let Some(end) = rx.open_rtcp(datagram) else {
            stats.auth_failed += 1;
            return;
        };
        rtcp::walk(&datagram[..end], |item| match role {
            Role::Publisher(publisher) => publisher.on_rtcp(&item, batch, tx, stats),
            Role::Receiver(receiver) => receiver.on_rtcp(&item, arrival_ns),
        });
    }

    /// Checks, consent and the handshake's timers.
    pub(super) fn keep_alive(&mut self, socket: &Socket, now: Instant) -> anyhow::Result<()> {
        if now >= self.next_check {
            self.check(socket, now);
        }
        let since = now.saturating_duration_since(self.consented.unwrap_or(self.began));
        anyhow::ensure!(since < CONSENT_EXPIRY, "ICE: no answer for {} s", since.as_secs());
        if let Some(dtls) = &mut self.dtls
            && self.keys.is_none()
            && now >= dtls.next_timeout()
        {
            let keys = dtls.handle_timeout(now, |packet| {
                socket.send(packet);
            })?;
            self.on_keys(keys, now)?;
        }
        Ok(())
    }

    fn check(&mut self, socket: &Socket, now: Instant) {
        let id: TransactionId = rand::random();
        if self.checks.len() == CHECKS_MAX {
            self.checks.remove(0);
        }
        self.checks.push(id);
        let mut packet = Vec::with_capacity(128);
        ice::write_check(&mut packet, id, &self.username, &self.remote_key, self.tie_breaker);
        if self.peer.is_some() {
            socket.send(&packet);
            // A little before or after, so that thousands do not check in step.
            self.next_check = now + CONSENT_INTERVAL.mul_f64(0.8 + 0.4 * rand::random::<f64>());
        } else {
            for candidate in &self.remote.candidates {
                socket.send_to(&packet, *candidate);
            }
            self.next_check = now + CHECK_INTERVAL;
        }
    }
}

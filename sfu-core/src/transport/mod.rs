//! One peer: ICE-lite, then DTLS, then SRTP.
//!
//! ```text
//! New ──first authenticated check──▶ Connecting ──fingerprint right, keys there──▶ Connected ◀──check──┐
//!  │                                     │                                            │ no check 10 s ▼
//!  │ 30 s                                │ no handshake in 30 s, wrong fingerprint    │         Disconnected
//!  ▼                                     ▼                                            ▼               │ 30 s
//! Failed ◀───────────────────────────────┴──────── (Closed: close_notify or command) ─┴───────────────┘
//! ```
//!
//! Order of trust: an address counts only after a check that knows our password; DTLS is taken only from such an address;
//! keys are used only after the certificate's fingerprint matched signaling; media is taken only with those keys.
#![forbid(unsafe_code)]

pub mod ice_lite;
pub mod outbox;
pub mod timers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::proto::{DtlsRole, RemoteTransport, TransportState};
use crate::crypto::certificate::{Certificate, parse_fingerprint};
use crate::crypto::dtls::{Dtls, DtlsEndpoint, DtlsOutput, MIN_POLL_BYTES, Role};
use crate::crypto::srtp::{SrtpRx, SrtpTx};
use crate::drop_reason::DropReason;
use crate::ids::LocalId;
use crate::time::Timestamp;
use crate::wire::stun;

use ice_lite::{CheckOutcome, Consent, IceLite};
use outbox::Outbox;

/// From the first check, or from the peer's description if that came later, to keys. A peer that only sends checks costs
/// an entry in the tables; it shall not keep it for ever.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Room for a Binding response: header, XOR-MAPPED-ADDRESS, integrity, fingerprint.
const STUN_RESPONSE_BYTES: usize = 128;

/// One 5-tuple, seen from here: where the peer is, and which of our sockets it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our socket.
    pub local: LocalId,
}

/// SRTP contexts of an established transport.
pub struct SrtpPair {
    /// What the peer sends.
    pub rx: SrtpRx,
    /// What we send.
    pub tx: SrtpTx,
}

/// What every transport of a process shares.
pub struct DtlsContext {
    /// Our certificate.
    pub certificate: Arc<Certificate>,
    /// The instant of `Timestamp::ZERO`, for the DTLS engine's own clock type.
    pub epoch: Instant,
}

/// A state change the controller hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The new state.
    pub state: TransportState,
    /// Why, for people.
    pub reason: &'static str,
}

/// One peer connection's end here.
pub struct Transport {
    /// Its id, opaque.
    pub id: Box<str>,
    /// Index of its room.
    pub room: u32,
    /// The ICE agent.
    pub ice: IceLite,
    /// SRTP contexts, once the handshake is done and the fingerprint was right.
    pub srtp: Option<SrtpPair>,
    state: TransportState,
    fingerprints: Vec<[u8; 32]>,
    /// Elsewhere: it is large, and idle once the keys are there.
    dtls: Option<Box<Dtls>>,
    dtls_timeout: Option<Timestamp>,
    /// While `Connecting`: when it is given up.
    connect_deadline: Option<Timestamp>,
    peer_verified: bool,
    #[cfg(test)]
    broken: bool,
}

impl Transport {
    /// A transport that waits for its first check. `id` and `room` are for its owner.
    pub fn new(now: Timestamp, id: &str, room: u32, ufrag: &str, pwd: &str) -> Self {
        Self {
            id: id.into(),
            room,
            ice: IceLite::new(now, ufrag, pwd),
            srtp: None,
            state: TransportState::New,
            fingerprints: Vec::new(),
            dtls: None,
            dtls_timeout: None,
            connect_deadline: None,
            peer_verified: false,
            #[cfg(test)]
            broken: false,
        }
    }

    /// Asks for what sending reads, but for the key.
    #[inline]
    pub fn prefetch(&self) {
        self.ice.prefetch_selected();
        if let Some(srtp) = &self.srtp {
            srtp.tx.prefetch();
        }
    }

    /// Asks for the key, when what [`Transport::prefetch`] asks for is there.
    #[inline]
    pub fn prefetch_key(&self) {
        if let Some(srtp) = &self.srtp {
            srtp.tx.prefetch_key();
        }
    }

    /// Lets the DTLS engine panic whenever it is used from now on.
    #[cfg(test)]
    pub(crate) fn break_dtls(&mut self) {
        self.broken = true;
    }

    /// Its state.
    pub fn state(&self) -> TransportState {
        self.state
    }

    /// Whether it is over: nothing is sent or taken any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, TransportState::Failed | TransportState::Closed)
    }

    /// Whether a handshake is under way that costs memory and CPU.
    pub fn is_handshaking(&self) -> bool {
        self.dtls.is_some() && self.srtp.is_none()
    }

    /// Whether the DTLS engine can take records: the peer's side is known.
    pub fn knows_peer(&self) -> bool {
        self.dtls.is_some()
    }

    /// Takes the peer's side from signaling. A second call is refused: a new peer is a new transport.
    ///
    /// # Errors
    /// A text that names the field.
    pub fn set_remote(
        &mut self,
        now: Timestamp,
        remote: &RemoteTransport,
        context: &DtlsContext,
    ) -> Result<(), String> {
        if self.dtls.is_some() {
            return Err("remote is set already".into());
        }
        self.fingerprints = parse_fingerprints(remote)?;
        self.ice.set_remote_ufrag(&remote.ice_ufrag);
        let role = match remote.dtls_role {
            DtlsRole::Client => Role::Server,
            DtlsRole::Server => Role::Client,
        };
        self.dtls = Some(Box::new(Dtls::new(role, &context.certificate, context.epoch, now)));
        self.connect_deadline = self.connect_deadline.map(|_| now + CONNECT_TIMEOUT);
        Ok(())
    }

    /// Answers one STUN datagram. The state may change from `New` to `Connecting`, or back from `Disconnected`. `held`: the
    /// pair is another transport's.
    ///
    /// # Errors
    /// Why the datagram counts as dropped. A wrong password is not answered: it would tell a stranger that the
    /// ufrag is right. Nor is a check of a held pair: a peer that is really there goes on checking until it is free.
    pub fn handle_stun(
        &mut self,
        now: Timestamp,
        pair: Pair,
        held: bool,
        datagram: &[u8],
        outbox: &mut Outbox,
    ) -> Result<(CheckOutcome, Option<StateChange>), DropReason> {
        let request = stun::parse_request(datagram, self.ice.pwd()).map_err(stun::Refused::drop_reason)?;
        if self.is_over() || !self.ice.accepts_remote(request.remote_ufrag) {
            return Err(DropReason::StunUnknownUser);
        }
        if held {
            return Err(DropReason::PairHeld);
        }
        if let Some(error) = error_for(&request) {
            let pwd = Some(self.ice.pwd());
            outbox.push_with(pair, STUN_RESPONSE_BYTES, |out| {
                stun::write_error(out, request.transaction, error, pwd).ok()
            });
            return Ok((CheckOutcome::default(), None));
        }
        outbox.push_with(pair, STUN_RESPONSE_BYTES, |out| {
            stun::write_success(out, request.transaction, pair.remote, self.ice.pwd()).ok()
        });
        let outcome = self.ice.on_check(now, pair, request.use_candidate);
        let change = match self.state {
            TransportState::New => {
                self.connect_deadline = Some(now + CONNECT_TIMEOUT);
                self.enter(TransportState::Connecting, "ICE check received")
            }
            TransportState::Disconnected => self.enter(TransportState::Connected, "ICE consent is back"),
            _ => None,
        };
        Ok((outcome, change))
    }

    /// Feeds one DTLS datagram that came from a valid pair.
    ///
    /// # Errors
    /// `DtlsRefused` before the peer's fingerprint is known, or after the end.
    pub fn handle_dtls(
        &mut self,
        now: Timestamp,
        datagram: &[u8],
        outbox: &mut Outbox,
    ) -> Result<Option<StateChange>, DropReason> {
        if self.is_over() {
            return Err(DropReason::DtlsRefused);
        }
        let dtls = self.dtls.as_mut().ok_or(DropReason::DtlsRefused)?;
        let result = dtls.handle_datagram(now, datagram);
        let change = self.pump(outbox);
        match result {
            Ok(()) => Ok(change),
            // The last change is the one to tell.
            Err(_) if self.srtp.is_some() => Ok(self.close("DTLS engine refused a record").or(change)),
            Err(_) => Ok(self.fail("DTLS handshake failed").or(change)),
        }
    }

    /// Runs timers that are due: retransmissions and consent.
    pub fn handle_timeout(&mut self, now: Timestamp, outbox: &mut Outbox) -> Option<StateChange> {
        if self.is_over() {
            return None;
        }
        self.ice.leave_silent(now);
        match self.ice.consent(now) {
            Consent::Expired => return self.fail("ICE consent expired"),
            Consent::Late if self.state == TransportState::Connected => {
                return self.enter(TransportState::Disconnected, "no ICE check for 10 s");
            }
            _ => {}
        }
        if self.connect_deadline.is_some_and(|at| at <= now) {
            return self.fail("no DTLS handshake");
        }
        // Our own flight has somewhere to go only once a pair is there.
        self.ice.selected()?;
        let due = self.dtls_timeout.is_none_or(|at| at <= now);
        let dtls = self.dtls.as_mut().filter(|_| due)?;
        let result = dtls.handle_timeout(now);
        let change = self.pump(outbox);
        match result {
            Ok(()) => change,
            Err(_) => self.fail("DTLS handshake timed out").or(change),
        }
    }

    /// When [`Transport::handle_timeout`] wants to run next.
    pub fn next_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        if self.is_over() {
            return None;
        }
        let consent = self.ice.next_timeout(now);
        // A client role starts as soon as there is a pair; before the first pump there is no deadline to look at.
        let dtls = match (&self.dtls, self.ice.selected()) {
            (Some(_), Some(_)) => Some(self.dtls_timeout.unwrap_or(now)),
            _ => None,
        };
        [Some(consent), dtls, self.connect_deadline].into_iter().flatten().min()
    }

    /// Says goodbye with a close_notify and ends the transport.
    pub fn shut_down(&mut self, now: Timestamp, outbox: &mut Outbox) {
        if let Some(dtls) = self.dtls.as_mut().filter(|_| self.srtp.is_some()) {
            dtls.close(now);
            self.pump(outbox);
        }
        self.close("closed by the controller");
    }

    /// Ends the transport as failed, for a reason outside of it.
    pub fn fail(&mut self, reason: &'static str) -> Option<StateChange> {
        self.srtp = None;
        self.enter(TransportState::Failed, reason)
    }

    fn close(&mut self, reason: &'static str) -> Option<StateChange> {
        self.srtp = None;
        self.enter(TransportState::Closed, reason)
    }

    fn enter(&mut self, state: TransportState, reason: &'static str) -> Option<StateChange> {
        if self.state == state || self.is_over() {
            return None;
        }
        self.state = state;
        if state != TransportState::Connecting {
            self.connect_deadline = None;
        }
        Some(StateChange { state, reason })
    }

    /// Takes everything out of the DTLS engine until it names its next deadline.
    fn pump(&mut self, outbox: &mut Outbox) -> Option<StateChange> {
        #[cfg(test)]
        assert!(!self.broken, "the engine was broken by the test");
        let mut scratch = [0; MIN_POLL_BYTES];
        let mut change = None;
        loop {
            let dtls = self.dtls.as_mut()?;
            match dtls.poll(&mut scratch) {
                DtlsOutput::Datagram(len) => {
                    if let Some(pair) = self.ice.selected() {
                        outbox.push(pair, &scratch[..len]);
                    }
                }
                DtlsOutput::PeerCertificate(digest) => {
                    self.peer_verified = self.fingerprints.contains(&digest);
                    if !self.peer_verified {
                        return self.fail("certificate does not match the signaled fingerprint");
                    }
                }
                DtlsOutput::Keys { profile, local, remote } => {
                    if !self.peer_verified {
                        return self.fail("no certificate to verify");
                    }
                    self.srtp = Some(SrtpPair {
                        rx: SrtpRx::new(profile, &remote),
                        tx: SrtpTx::new(profile, &local),
                    });
                    change = self.enter(TransportState::Connected, "DTLS handshake done");
                }
                DtlsOutput::Closed => change = self.close("peer closed DTLS"),
                DtlsOutput::Timeout(at) => {
                    self.dtls_timeout = Some(at);
                    return change;
                }
            }
        }
    }
}

/// What is wrong with an authentic check, if anything.
fn error_for<'a>(request: &'a stun::BindingRequest<'_>) -> Option<stun::ErrorResponse<'a>> {
    let unknown = request.unknown.as_slice();
    if !unknown.is_empty() {
        return Some(stun::ErrorResponse::UnknownAttribute(unknown));
    }
    // A lite agent is always controlled, so the peer has to switch (RFC 8445 §7.3.1.1).
    matches!(request.role, Some(stun::Role::Controlled(_))).then_some(stun::ErrorResponse::RoleConflict)
}

fn parse_fingerprints(remote: &RemoteTransport) -> Result<Vec<[u8; 32]>, String> {
    let parsed: Vec<_> = remote
        .fingerprints
        .iter()
        .filter(|fingerprint| fingerprint.algorithm.eq_ignore_ascii_case("sha-256"))
        .filter_map(|fingerprint| parse_fingerprint(&fingerprint.value))
        .collect();
    if parsed.is_empty() {
        return Err("remote.fingerprints has no sha-256 value of 32 bytes".into());
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::proto::Fingerprint;

    #[test]
    fn a_peer_without_sha_256_is_refused() {
        let remote = RemoteTransport {
            ice_ufrag: "abcd".into(),
            fingerprints: vec![Fingerprint { algorithm: "sha-1".into(), value: "AA".into() }],
            dtls_role: DtlsRole::Client,
        };
        assert!(parse_fingerprints(&remote).is_err());
    }
}

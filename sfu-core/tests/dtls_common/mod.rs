//! Two DTLS endpoints over a network in memory, on a clock that only the test moves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sfu_core::crypto::dtls::MIN_POLL_BYTES;
use sfu_core::crypto::{
    Certificate, Dtls, DtlsEndpoint, DtlsError, DtlsOutput, DtlsVersion, MasterKey, Role, SrtpProfile,
};
use sfu_core::time::Timestamp;

/// One real instant; all time in these tests is counted from it.
#[expect(
    clippy::disallowed_methods,
    reason = "dimpl wants an Instant, and there is no other way to make the first"
)]
pub(crate) fn epoch() -> Instant {
    Instant::now()
}

/// An endpoint, and what it has said so far.
pub(crate) struct Peer {
    pub(crate) dtls: Dtls,
    pub(crate) certificate: Arc<Certificate>,
    pub(crate) seen_certificate: Option<[u8; 32]>,
    pub(crate) keys: Option<(SrtpProfile, MasterKey, MasterKey)>,
    pub(crate) closed: u32,
    pub(crate) error: Option<DtlsError>,
    pub(crate) timeout: Timestamp,
}

impl Peer {
    pub(crate) fn new(role: Role, version: DtlsVersion, epoch: Instant) -> Peer {
        let certificate = Arc::new(Certificate::generate().expect("a key").with_version(version));
        Peer {
            dtls: Dtls::new(role, &certificate, epoch, Timestamp::ZERO),
            certificate,
            seen_certificate: None,
            keys: None,
            closed: 0,
            error: None,
            timeout: Timestamp::ZERO,
        }
    }

    /// Takes every output and returns the datagrams.
    pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut buf = [0; MIN_POLL_BYTES];
        let mut datagrams = Vec::new();
        loop {
            match self.dtls.poll(&mut buf) {
                DtlsOutput::Datagram(len) => datagrams.push(buf[..len].to_vec()),
                DtlsOutput::PeerCertificate(digest) => {
                    assert!(self.keys.is_none(), "the certificate comes before the keys");
                    assert_eq!(self.seen_certificate.replace(digest), None, "and once");
                }
                DtlsOutput::Keys { profile, local, remote } => {
                    assert!(self.seen_certificate.is_some(), "no keys without a certificate");
                    assert!(self.keys.replace((profile, local, remote)).is_none(), "keys come once");
                }
                DtlsOutput::Closed => self.closed += 1,
                DtlsOutput::Timeout(at) => {
                    self.timeout = at;
                    return datagrams;
                }
            }
        }
    }

    pub(crate) fn receive(&mut self, now: Timestamp, datagram: &[u8]) {
        if self.error.is_none() {
            self.error = self.dtls.handle_datagram(now, datagram).err();
        }
    }

    pub(crate) fn tick(&mut self, now: Timestamp) {
        if self.error.is_none() {
            self.error = self.dtls.handle_timeout(now).err();
        }
    }
}

/// What the network does to one datagram, counted over both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Lose(usize),
    Duplicate(usize),
    /// Delivered after the next one of the same direction, or late if there is none.
    Swap(usize),
}

/// Which end sent a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Client,
    Server,
}

/// A network with one fault.
pub(crate) struct Network {
    fault: Fault,
    sent: usize,
    on_the_way: VecDeque<(From, Vec<u8>)>,
    held: Option<(From, Vec<u8>)>,
    /// Everything that was sent.
    pub(crate) log: Vec<(From, Vec<u8>)>,
}

impl Network {
    pub(crate) fn new(fault: Fault) -> Network {
        Network { fault, sent: 0, on_the_way: VecDeque::new(), held: None, log: Vec::new() }
    }

    pub(crate) fn send(&mut self, from: From, datagram: Vec<u8>) {
        let number = self.sent;
        self.sent += 1;
        self.log.push((from, datagram.clone()));
        match self.fault {
            Fault::Lose(n) if n == number => {}
            Fault::Swap(n) if n == number => self.held = Some((from, datagram)),
            Fault::Duplicate(n) if n == number => {
                self.on_the_way.push_back((from, datagram.clone()));
                self.on_the_way.push_back((from, datagram));
            }
            _ => {
                self.on_the_way.push_back((from, datagram));
                if self.held.as_ref().is_some_and(|(held_from, _)| *held_from == from) {
                    self.on_the_way.extend(self.held.take());
                }
            }
        }
    }

    pub(crate) fn next(&mut self) -> Option<(From, Vec<u8>)> {
        self.on_the_way.pop_front()
    }

    /// The datagram held back for a swap, once nothing else is on the way.
    pub(crate) fn late(&mut self) -> Option<(From, Vec<u8>)> {
        self.held.take()
    }
}

/// A client and a server with a network between them.
pub(crate) struct Pair {
    pub(crate) client: Peer,
    pub(crate) server: Peer,
    pub(crate) network: Network,
    pub(crate) now: Timestamp,
}

impl Pair {
    pub(crate) fn new(client: DtlsVersion, server: DtlsVersion, fault: Fault) -> Pair {
        let epoch = epoch();
        Pair {
            client: Peer::new(Role::Client, client, epoch),
            server: Peer::new(Role::Server, server, epoch),
            network: Network::new(fault),
            now: Timestamp::ZERO,
        }
    }

    /// Lets everything that can happen now happen.
    pub(crate) fn settle(&mut self) {
        loop {
            for datagram in self.client.drain() {
                self.network.send(From::Client, datagram);
            }
            for datagram in self.server.drain() {
                self.network.send(From::Server, datagram);
            }
            match self.network.next() {
                Some((From::Client, datagram)) => self.server.receive(self.now, &datagram),
                Some((From::Server, datagram)) => self.client.receive(self.now, &datagram),
                None => return,
            }
        }
    }

    /// Runs until both ends have keys. Panics if that takes more than `limit`, or an end fails.
    pub(crate) fn connect(&mut self, limit: Duration) {
        loop {
            self.settle();
            assert_eq!((&self.client.error, &self.server.error), (&None, &None), "at {:?}", self.now);
            if self.client.keys.is_some() && self.server.keys.is_some() {
                break;
            }
            match self.network.late() {
                Some((From::Client, datagram)) => self.server.receive(self.now, &datagram),
                Some((From::Server, datagram)) => self.client.receive(self.now, &datagram),
                None => self.pass_time(),
            }
            assert!(self.now <= Timestamp::ZERO + limit, "not connected after {limit:?}");
        }
        self.check_keys();
    }

    /// Moves the clock to the next timer of either end.
    pub(crate) fn pass_time(&mut self) {
        self.now = self.client.timeout.min(self.server.timeout).max(self.now + Duration::from_micros(1));
        self.client.tick(self.now);
        self.server.tick(self.now);
    }

    /// Both ends agree, and each has seen the other's certificate.
    fn check_keys(&self) {
        let client = self.client.keys.as_ref().expect("connected");
        let server = self.server.keys.as_ref().expect("connected");
        assert_eq!(client.0, server.0);
        assert_eq!(client.1, server.2, "what the client writes the server reads");
        assert_eq!(client.2, server.1, "and the other way round");
        assert_ne!(client.1, client.2);
        assert_eq!(self.client.seen_certificate, Some(self.server.certificate.digest()));
        assert_eq!(self.server.seen_certificate, Some(self.client.certificate.digest()));
    }
}

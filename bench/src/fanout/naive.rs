//! The obvious design: tokio, webrtc-srtp, one `send_to` a copy.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::Bytes;
use sfu_core::crypto::MasterKey;
use tokio::net::UdpSocket;
use tokio::runtime::Runtime;
use webrtc_srtp::context::Context;
use webrtc_srtp::option::srtp_replay_protection;
use webrtc_srtp::protection_profile::ProtectionProfile;

use super::egress::Egress;
use super::feeder::{Feeder, fixed_keys};
use super::{FAN_OUT, Sent, Shape, Variant, connection, others, peer_of};

/// Packets a replay window spans.
const REPLAY_WINDOW: usize = 64;

/// Decrypts, rewrites and encrypts with webrtc-srtp: the part both baselines share.
pub struct Forwarder {
    by_addr: HashMap<SocketAddr, usize>,
    addrs: Vec<SocketAddr>,
    receive: Vec<Context>,
    send: Vec<Context>,
}

impl Forwarder {
    /// A receiving context for each peer and a sending one for each connection.
    ///
    /// # Errors
    /// webrtc-srtp refuses the keys.
    pub fn new(shape: Shape, addrs: &[SocketAddr]) -> anyhow::Result<Forwarder> {
        let contexts = |keys: Vec<MasterKey>| -> anyhow::Result<Vec<Context>> {
            keys.iter()
                .map(|master| {
                    let window = Some(srtp_replay_protection(REPLAY_WINDOW));
                    let profile = ProtectionProfile::AeadAes256Gcm;
                    Ok(Context::new(master.key(), master.salt(), profile, window, None)?)
                })
                .collect()
        };
        Ok(Forwarder {
            by_addr: addrs.iter().enumerate().map(|(at, addr)| (*addr, peer_of(at))).collect(),
            addrs: addrs.to_vec(),
            receive: contexts(fixed_keys(shape.peers(), 0))?,
            send: contexts(fixed_keys(shape.connections(), 1))?,
        })
    }

    /// Who sent a datagram.
    ///
    /// # Errors
    /// Nobody we know.
    pub fn publisher(&self, from: SocketAddr) -> anyhow::Result<usize> {
        self.by_addr.get(&from).copied().context("from a stranger")
    }

    /// Authenticates and decrypts one packet.
    ///
    /// # Errors
    /// It does not authenticate.
    pub fn open(&mut self, publisher: usize, packet: &[u8]) -> anyhow::Result<Bytes> {
        Ok(self.receive[publisher].decrypt_rtp(packet)?)
    }

    /// One subscriber's copy: its own SSRC and sequence numbers, sealed with its key.
    ///
    /// # Errors
    /// webrtc-srtp's.
    pub fn copy(
        &mut self,
        plain: &[u8],
        publisher: usize,
        subscriber: usize,
    ) -> anyhow::Result<(SocketAddr, Bytes)> {
        let mut packet = plain.to_vec();
        let sequence = u16::from_be_bytes([packet[2], packet[3]]).wrapping_add(subscriber as u16);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet[8] ^= 0x40;
        let by = connection(subscriber, publisher);
        Ok((self.addrs[by], self.send[by].encrypt_rtp(&packet)?))
    }
}

/// tokio + webrtc-srtp + `send_to`.
pub struct Naive {
    runtime: Runtime,
    socket: UdpSocket,
    forwarder: Forwarder,
    feeder: Feeder,
}

impl Naive {
    /// Binds its socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(egress: &Egress) -> anyhow::Result<Naive> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let bound = sfu_core::reactor::Socket::bind(egress.node)?;
        let to = bound.local_addr();
        let socket = runtime.block_on(async { UdpSocket::from_std(bound.into_std()) })?;
        Ok(Naive {
            runtime,
            socket,
            forwarder: Forwarder::new(egress.shape, &egress.addrs)?,
            feeder: Feeder::new(&fixed_keys(egress.shape.peers(), 0), egress, to)?,
        })
    }
}

impl Variant for Naive {
    fn name(&self) -> &'static str {
        "naive"
    }

    fn feed(&mut self, count: usize) -> anyhow::Result<usize> {
        self.feeder.feed(count)
    }

    fn forward(&mut self, count: usize) -> anyhow::Result<Sent> {
        let Naive { runtime, socket, forwarder, .. } = self;
        runtime.block_on(async {
            let mut buffer = [0; 2048];
            for _ in 0..count {
                let (len, from) = socket.recv_from(&mut buffer).await?;
                let publisher = forwarder.publisher(from)?;
                let plain = forwarder.open(publisher, &buffer[..len])?;
                for subscriber in others(publisher) {
                    let (to, sealed) = forwarder.copy(&plain, publisher, subscriber)?;
                    socket.send_to(&sealed, to).await?;
                }
            }
            let packets = (count * FAN_OUT) as u64;
            Ok(Sent { packets, datagrams: packets, messages: packets })
        })
    }
}

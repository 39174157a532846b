//! Protects packets as their publishers and puts them into a variant's socket.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Context;
use sfu_core::crypto::{MasterKey, SrtpProfile, SrtpTx};
use sfu_core::ids::{ExtSeq, Ssrc};

use super::connection;
use super::egress::Egress;
use super::traffic::Traffic;

/// The profile of all variants: the one the node's DTLS engine prefers, and Chromium offers.
pub const PROFILE: SrtpProfile = SrtpProfile::AeadAes256Gcm;

/// The publishers of one variant.
pub struct Feeder {
    traffic: Traffic,
    keys: Vec<SrtpTx>,
    sockets: Vec<UdpSocket>,
    to: SocketAddr,
    buffer: Vec<u8>,
}

impl Feeder {
    /// Publishers with one master key each, who send to `to`. All feeders send the same packets.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(masters: &[MasterKey], egress: &Egress, to: SocketAddr) -> anyhow::Result<Feeder> {
        Ok(Feeder {
            traffic: Traffic::new(egress.shape.peers(), 0x5eed),
            keys: masters.iter().map(|master| SrtpTx::new(PROFILE, master)).collect(),
            sockets: egress.sockets.iter().map(UdpSocket::try_clone).collect::<Result<_, _>>()?,
            to,
            buffer: vec![0; 2048],
        })
    }

    /// Puts the next packets in: `count`, and what is left of a frame then. Returns how many.
    ///
    /// # Errors
    /// The kernel's.
    pub fn feed(&mut self, count: usize) -> anyhow::Result<usize> {
        let mut fed = 0;
        while fed < count || !self.traffic.at_boundary() {
            fed += 1;
            let packet = self.traffic.next_packet();
            let (header, payload) = packet.bytes.split_at(packet.header_bytes);
            self.buffer[..header.len()].copy_from_slice(header);
            let len = self.keys[packet.peer].protect_rtp(
                &mut self.buffer,
                header.len(),
                payload,
                Ssrc(packet.ssrc),
                ExtSeq(packet.index),
            );
            self.sockets[connection(packet.peer, packet.peer)]
                .send_to(&self.buffer[..len], self.to)
                .context("feeding")?;
        }
        Ok(fed)
    }

    /// When the packet that was put in last is sent, in the traffic's own time.
    pub fn time(&self) -> Duration {
        Duration::from_micros(self.traffic.time_us())
    }

    /// Sends `bytes` from the peer's end of `connection`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send_as(&self, connection: usize, bytes: &[u8]) -> anyhow::Result<()> {
        self.sockets[connection].send_to(bytes, self.to).context("feeding")?;
        Ok(())
    }
}

/// `count` fixed master keys; `direction` 0 is what peers send with.
pub fn fixed_keys(count: usize, direction: u8) -> Vec<MasterKey> {
    (0..count)
        .map(|at| {
            let mut key = [direction.wrapping_mul(0xa5); PROFILE.key_len()];
            key[..8].copy_from_slice(&at.to_le_bytes());
            MasterKey::new(PROFILE, &key, &[direction; 12]).expect("lengths of the profile")
        })
        .collect()
}

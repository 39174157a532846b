//! Protects packets as their publishers and puts them into a variant's socket.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Context;
use sfu_core::crypto::{MasterKey, SrtpProfile, SrtpTx};
use sfu_core::ids::{ExtSeq, Ssrc};

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
    /// Publishers with one master key each, who send from `sockets` to `to`. All feeders send the same packets.
    ///
    /// # Errors
    /// No descriptor to be had.
    pub fn new(masters: &[MasterKey], sockets: &[UdpSocket], to: SocketAddr) -> anyhow::Result<Feeder> {
        Ok(Feeder {
            traffic: Traffic::new(0x5eed),
            keys: masters.iter().map(|master| SrtpTx::new(PROFILE, master)).collect(),
            sockets: sockets.iter().map(UdpSocket::try_clone).collect::<Result<_, _>>()?,
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
            self.sockets[packet.peer].send_to(&self.buffer[..len], self.to).context("feeding")?;
        }
        Ok(fed)
    }

    /// Sends `bytes` as `peer`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send_as(&self, peer: usize, bytes: &[u8]) -> anyhow::Result<()> {
        self.sockets[peer].send_to(bytes, self.to).context("feeding")?;
        Ok(())
    }
}

/// A fixed master key for each peer; `direction` 0 is what the peer sends with.
pub fn fixed_keys(direction: u8) -> Vec<MasterKey> {
    (0..super::PEERS)
        .map(|peer| {
            let key = [peer as u8 ^ direction.wrapping_mul(0xa5); PROFILE.key_len()];
            MasterKey::new(PROFILE, &key, &[direction; 12]).expect("lengths of the profile")
        })
        .collect()
}

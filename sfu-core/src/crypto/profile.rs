//! SRTP protection profiles and their sizes (RFC 5764 §4.1.2, RFC 7714 §14.2), and master keys.
//!
//! DTLS exports one block of keying material (RFC 5764 §4.2):
//!
//! ```text
//! | client key | server key | client salt | server salt |
//! ```
//!
//! `SRTP_AES128_CM_HMAC_SHA1_32` and the NULL profiles are left out on purpose: nobody needs them.
#![forbid(unsafe_code)]

use std::fmt;

/// Longest master or session key of any profile, bytes.
pub const MAX_KEY_BYTES: usize = 32;
/// Longest master or session salt of any profile, bytes.
pub const MAX_SALT_BYTES: usize = 14;
/// The E flag and index that every SRTCP packet carries, bytes (RFC 3711 §3.4).
pub const SRTCP_INDEX_BYTES: usize = 4;

/// How RTP and RTCP of one transport are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SrtpProfile {
    /// AES-CM with a truncated HMAC-SHA1 tag, the profile every WebRTC endpoint must speak (RFC 3711, RFC 5764).
    Aes128CmHmacSha1_80,
    /// AES-128-GCM (RFC 7714).
    AeadAes128Gcm,
    /// AES-256-GCM (RFC 7714).
    AeadAes256Gcm,
}

impl SrtpProfile {
    /// Every profile, the one we like best first: GCM costs about a quarter of CM per packet.
    pub const ALL: [SrtpProfile; 3] =
        [SrtpProfile::AeadAes128Gcm, SrtpProfile::AeadAes256Gcm, SrtpProfile::Aes128CmHmacSha1_80];

    /// The number on the wire of the `use_srtp` extension (RFC 5764 §4.1.2, RFC 7714 §14.2).
    pub const fn id(self) -> u16 {
        match self {
            SrtpProfile::Aes128CmHmacSha1_80 => 0x0001,
            SrtpProfile::AeadAes128Gcm => 0x0007,
            SrtpProfile::AeadAes256Gcm => 0x0008,
        }
    }

    /// The profile with this `use_srtp` number, if it is one of ours.
    pub fn from_id(id: u16) -> Option<SrtpProfile> {
        SrtpProfile::ALL.into_iter().find(|profile| profile.id() == id)
    }

    /// Length of master key and session encryption key, bytes.
    pub const fn key_len(self) -> usize {
        match self {
            SrtpProfile::Aes128CmHmacSha1_80 | SrtpProfile::AeadAes128Gcm => 16,
            SrtpProfile::AeadAes256Gcm => 32,
        }
    }

    /// Length of master salt and session salt, bytes.
    pub const fn salt_len(self) -> usize {
        match self {
            SrtpProfile::Aes128CmHmacSha1_80 => 14,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 12,
        }
    }

    /// Length of the authentication tag, bytes.
    pub const fn tag_len(self) -> usize {
        match self {
            SrtpProfile::Aes128CmHmacSha1_80 => 10,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 16,
        }
    }

    /// Length of the separate session authentication key, bytes; 0 for AEAD.
    pub const fn auth_key_len(self) -> usize {
        match self {
            SrtpProfile::Aes128CmHmacSha1_80 => 20,
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => 0,
        }
    }

    /// What protection adds to an RTP packet, bytes.
    pub const fn rtp_overhead(self) -> usize {
        self.tag_len()
    }

    /// What protection adds to an RTCP compound packet, bytes: tag, E flag and index.
    pub const fn rtcp_overhead(self) -> usize {
        self.tag_len() + SRTCP_INDEX_BYTES
    }

    /// How much keying material DTLS has to export, bytes (RFC 5764 §4.2).
    pub const fn keying_material_len(self) -> usize {
        2 * (self.key_len() + self.salt_len())
    }
}

/// Master key and master salt of one direction (RFC 3711 §8.2). Its `Debug` output shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    key: [u8; MAX_KEY_BYTES],
    salt: [u8; MAX_SALT_BYTES],
    key_len: u8,
    salt_len: u8,
}

impl MasterKey {
    /// A master key from its parts. `None` if a length is not the profile's.
    pub fn new(profile: SrtpProfile, key: &[u8], salt: &[u8]) -> Option<MasterKey> {
        if key.len() != profile.key_len() || salt.len() != profile.salt_len() {
            return None;
        }
        let mut master = MasterKey {
            key: [0; MAX_KEY_BYTES],
            salt: [0; MAX_SALT_BYTES],
            key_len: key.len() as u8,
            salt_len: salt.len() as u8,
        };
        master.key[..key.len()].copy_from_slice(key);
        master.salt[..salt.len()].copy_from_slice(salt);
        Some(master)
    }

    /// The key, 16 or 32 bytes.
    pub fn key(&self) -> &[u8] {
        &self.key[..usize::from(self.key_len)]
    }

    /// The salt, 12 or 14 bytes.
    pub fn salt(&self) -> &[u8] {
        &self.salt[..usize::from(self.salt_len)]
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({} + {} bytes)", self.key_len, self.salt_len)
    }
}

/// Cuts exported keying material into the DTLS client's and the DTLS server's write keys, in this order.
///
/// `None` if the block is not exactly [`SrtpProfile::keying_material_len`] bytes long. RFC 5764 §4.2.
pub fn split_keying_material(profile: SrtpProfile, material: &[u8]) -> Option<(MasterKey, MasterKey)> {
    if material.len() != profile.keying_material_len() {
        return None;
    }
    let (keys, salts) = material.split_at(2 * profile.key_len());
    let (client_key, server_key) = keys.split_at(profile.key_len());
    let (client_salt, server_salt) = salts.split_at(profile.salt_len());
    let client = MasterKey::new(profile, client_key, client_salt)?;
    let server = MasterKey::new(profile, server_key, server_salt)?;
    Some((client, server))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_registrations() {
        for (profile, id, material, rtp, rtcp) in [
            (SrtpProfile::Aes128CmHmacSha1_80, 1, 60, 10, 14),
            (SrtpProfile::AeadAes128Gcm, 7, 56, 16, 20),
            (SrtpProfile::AeadAes256Gcm, 8, 88, 16, 20),
        ] {
            assert_eq!(profile.id(), id);
            assert_eq!(SrtpProfile::from_id(id), Some(profile));
            assert_eq!(profile.keying_material_len(), material);
            assert_eq!(profile.rtp_overhead(), rtp);
            assert_eq!(profile.rtcp_overhead(), rtcp);
        }
        assert_eq!(SrtpProfile::from_id(2), None);
    }

    #[test]
    fn keying_material_is_cut_in_the_order_keys_then_salts() {
        let material: Vec<u8> = (0..56).collect();
        let (client, server) = split_keying_material(SrtpProfile::AeadAes128Gcm, &material).unwrap();
        assert_eq!(client.key(), &material[..16]);
        assert_eq!(server.key(), &material[16..32]);
        assert_eq!(client.salt(), &material[32..44]);
        assert_eq!(server.salt(), &material[44..56]);
        assert_eq!(split_keying_material(SrtpProfile::AeadAes128Gcm, &material[1..]), None);
    }

    #[test]
    fn debug_output_shows_no_key() {
        let key = MasterKey::new(SrtpProfile::AeadAes128Gcm, &[0xab; 16], &[0xcd; 12]).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(16 + 12 bytes)");
    }
}

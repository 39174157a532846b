//! Session keys from a master key: the AES-CM pseudo-random function (RFC 3711 §4.3, RFC 6188 §3, RFC 7714 §11).
//!
//! ```text
//! x  = (label << 48) xor master_salt        the key derivation rate is 0, so the index part is 0
//! PRF(x) = AES-CM keystream under the master key with IV = x << 16
//! ```
//!
//! A 96-bit AEAD salt is used as if 16 zero bits followed it. Runs once per transport, so it is written plainly.
#![forbid(unsafe_code)]

use aes::cipher::{BlockEncrypt, KeyInit};
use aes::{Aes128Enc, Aes256Enc, Block};

use super::profile::{MAX_KEY_BYTES, MAX_SALT_BYTES, MasterKey, SrtpProfile};

/// What a derived key is for (RFC 3711 §4.3.1, table of labels).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Label {
    /// SRTP encryption key.
    RtpEncryption = 0,
    /// SRTP authentication key.
    RtpAuthentication = 1,
    /// SRTP salt.
    RtpSalt = 2,
    /// SRTCP encryption key.
    RtcpEncryption = 3,
    /// SRTCP authentication key.
    RtcpAuthentication = 4,
    /// SRTCP salt.
    RtcpSalt = 5,
}

/// Longest session authentication key, bytes (HMAC-SHA1).
pub const MAX_AUTH_KEY_BYTES: usize = 20;

/// Session keys of one direction, for RTP or for RTCP.
#[derive(Clone)]
pub struct SessionKeys {
    /// Encryption key; the first `key_len` bytes count.
    pub encryption: [u8; MAX_KEY_BYTES],
    /// Authentication key; the first `auth_key_len` bytes count, none for AEAD.
    pub authentication: [u8; MAX_AUTH_KEY_BYTES],
    /// Salt; the first `salt_len` bytes count, the rest is zero.
    pub salt: [u8; MAX_SALT_BYTES],
}

impl SessionKeys {
    /// The keys that protect RTP.
    pub fn rtp(profile: SrtpProfile, master: &MasterKey) -> SessionKeys {
        let labels = [Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt];
        SessionKeys::derive(profile, master, labels)
    }

    /// The keys that protect RTCP.
    pub fn rtcp(profile: SrtpProfile, master: &MasterKey) -> SessionKeys {
        let labels = [Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt];
        SessionKeys::derive(profile, master, labels)
    }

    fn derive(profile: SrtpProfile, master: &MasterKey, labels: [Label; 3]) -> SessionKeys {
        let mut keys = SessionKeys {
            encryption: [0; MAX_KEY_BYTES],
            authentication: [0; MAX_AUTH_KEY_BYTES],
            salt: [0; MAX_SALT_BYTES],
        };
        derive(master, labels[0], &mut keys.encryption[..profile.key_len()]);
        derive(master, labels[1], &mut keys.authentication[..profile.auth_key_len()]);
        derive(master, labels[2], &mut keys.salt[..profile.salt_len()]);
        keys
    }
}

/// Fills `out` with the key that `master` gives for `label`. `out` may be of any length.
pub fn derive(master: &MasterKey, label: Label, out: &mut [u8]) {
    let mut block = [0; 16];
    block[..master.salt().len()].copy_from_slice(master.salt());
    // The label is the byte above the 48-bit index of a 112-bit number: the eighth byte of 14.
    block[7] ^= label as u8;
    if master.key().len() == 16 {
        let cipher = Aes128Enc::new_from_slice(master.key()).expect("the length was just compared");
        keystream(&cipher, block, out);
    } else {
        let cipher = Aes256Enc::new_from_slice(master.key()).expect("a master key has 16 or 32 bytes");
        keystream(&cipher, block, out);
    }
}

/// AES-CM: block `n` of the keystream is the encrypted counter `iv + n` (RFC 3711 §4.1.1).
fn keystream<C>(cipher: &C, iv: [u8; 16], out: &mut [u8])
where
    C: BlockEncrypt<BlockSize = aes::cipher::consts::U16>,
{
    for (counter, chunk) in out.chunks_mut(16).enumerate() {
        let mut block = Block::from(iv);
        block[14..].copy_from_slice(&(counter as u16).to_be_bytes());
        cipher.encrypt_block(&mut block);
        chunk.copy_from_slice(&block[..chunk.len()]);
    }
}

//! SRTP and SRTCP (RFC 3711, RFC 7714), written for the generator: independent of the node's.
//!
//! The caller knows the 48-bit packet index: a publisher counts it, a receiver extends the sequence number it sees.

use aes::cipher::{KeyIvInit as _, StreamCipher as _};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};
use aws_lc_rs::hmac;

/// Bytes of a GCM tag.
const GCM_TAG: usize = 16;
/// Bytes of an HMAC-SHA1-80 tag.
const CM_TAG: usize = 10;
/// Bytes of the SRTCP index word.
const INDEX_WORD: usize = 4;
/// Flag "encrypted" in the SRTCP index word.
const ENCRYPTED: u32 = 1 << 31;

/// SRTP protection profiles (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// AES128_CM_HMAC_SHA1_80.
    Cm80,
    /// AEAD_AES_128_GCM.
    Gcm128,
    /// AEAD_AES_256_GCM.
    Gcm256,
}

impl Profile {
    fn key_bytes(self) -> usize {
        match self {
            Profile::Cm80 | Profile::Gcm128 => 16,
            Profile::Gcm256 => 32,
        }
    }

    fn salt_bytes(self) -> usize {
        match self {
            Profile::Cm80 => 14,
            Profile::Gcm128 | Profile::Gcm256 => 12,
        }
    }

    /// Bytes that protection adds to an RTP packet.
    pub(crate) fn rtp_overhead(self) -> usize {
        match self {
            Profile::Cm80 => CM_TAG,
            Profile::Gcm128 | Profile::Gcm256 => GCM_TAG,
        }
    }
}

/// Keys of one direction.
pub(crate) struct Srtp {
    rtp: Cipher,
    rtcp: Cipher,
    overhead: usize,
    next_rtcp_index: u32,
}

#[expect(
    clippy::large_enum_variant,
    reason = "two of each connection; a pointer more per packet would cost, not the bytes"
)]
enum Cipher {
    Gcm { key: LessSafeKey, salt: [u8; 12] },
    Cm { key: [u8; 16], salt: [u8; 14], auth: hmac::Key },
}

/// Splits the exported keying material (RFC 5764 §4.2): keys of the DTLS client and of the DTLS server.
pub(crate) fn from_keying_material(profile: Profile, material: &[u8]) -> Option<(Srtp, Srtp)> {
    let (key, salt) = (profile.key_bytes(), profile.salt_bytes());
    if material.len() < 2 * (key + salt) {
        return None;
    }
    let (keys, salts) = material.split_at(2 * key);
    let client = Srtp::new(profile, &keys[..key], &salts[..salt])?;
    let server = Srtp::new(profile, &keys[key..], &salts[salt..2 * salt])?;
    Some((client, server))
}

impl Srtp {
    fn new(profile: Profile, master_key: &[u8], master_salt: &[u8]) -> Option<Srtp> {
        let cipher = |labels: [u8; 3]| Cipher::new(profile, master_key, master_salt, labels);
        Some(Srtp {
            rtp: cipher([0, 1, 2])?,
            rtcp: cipher([3, 4, 5])?,
            overhead: profile.rtp_overhead(),
            next_rtcp_index: 1,
        })
    }

    /// Encrypts the RTP packet that begins at `start` of `buffer` and ends with it, and appends the tag.
    pub(crate) fn seal_rtp(&self, buffer: &mut Vec<u8>, start: usize, header: usize, ssrc: u32, index: u64) {
        let (head, body) = buffer[start..].split_at_mut(header);
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let tag = gcm_seal(key, gcm_rtp_iv(salt, ssrc, index), head, body);
                buffer.extend_from_slice(tag.as_ref());
            }
            Cipher::Cm { key, salt, auth } => {
                cm_crypt(key, salt, ssrc, index, body);
                let tag = cm_rtp_tag(auth, &buffer[start..], index);
                buffer.extend_from_slice(&tag);
            }
        }
    }

    /// Authenticates and decrypts an RTP packet where it lies; the length of its plaintext, or `None` when it is forged.
    pub(crate) fn open_rtp(&self, packet: &mut [u8], header: usize, ssrc: u32, index: u64) -> Option<usize> {
        let end = packet.len().checked_sub(self.overhead)?;
        if end < header {
            return None;
        }
        match &self.rtp {
            Cipher::Gcm { key, salt } => {
                let (head, body) = packet.split_at_mut(header);
                let nonce = Nonce::assume_unique_for_key(gcm_rtp_iv(salt, ssrc, index));
                key.open_in_place(nonce, Aad::from(&*head), body).ok()?;
            }
            Cipher::Cm { key, salt, auth } => {
                let tag = cm_rtp_tag(auth, &packet[..end], index);
                if tag != packet[end..] {
                    return None;
                }
                cm_crypt(key, salt, ssrc, index, &mut packet[header..end]);
            }
        }
        Some(end)
    }

    /// Protects a compound RTCP packet (header of 8 bytes and more).
    pub(crate) fn seal_rtcp(&mut self, packet: &mut Vec<u8>) {
        let index = self.next_rtcp_index;
        self.next_rtcp_index = self.next_rtcp_index.wrapping_add(1) & !ENCRYPTED;
        let ssrc = ssrc_of_rtcp(packet);
        let word = (index | ENCRYPTED).to_be_bytes();
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let aad = gcm_rtcp_aad(packet, word);
                let tag = gcm_seal(key, gcm_rtcp_iv(salt, ssrc, index), &aad, &mut packet[8..]);
                packet.extend_from_slice(tag.as_ref());
                packet.extend_from_slice(&word);
            }
            Cipher::Cm { key, salt, auth } => {
                cm_crypt(key, salt, ssrc, u64::from(index), &mut packet[8..]);
                packet.extend_from_slice(&word);
                let tag = hmac::sign(auth, packet);
                packet.extend_from_slice(&tag.as_ref()[..CM_TAG]);
            }
        }
    }

    /// Authenticates and decrypts SRTCP in place; the length of the compound packet. Replays are not looked for.
    pub(crate) fn open_rtcp(&self, packet: &mut [u8]) -> Option<usize> {
        match &self.rtcp {
            Cipher::Gcm { key, salt } => {
                let end = packet.len().checked_sub(GCM_TAG + INDEX_WORD).filter(|end| *end >= 8)?;
                let word: [u8; 4] = packet[end + GCM_TAG..].try_into().ok()?;
                let index = u32::from_be_bytes(word) & !ENCRYPTED;
                let (aad, ssrc) = (gcm_rtcp_aad(packet, word), ssrc_of_rtcp(packet));
                let nonce = Nonce::assume_unique_for_key(gcm_rtcp_iv(salt, ssrc, index));
                key.open_in_place(nonce, Aad::from(&aad[..]), &mut packet[8..end + GCM_TAG]).ok()?;
                Some(end)
            }
            Cipher::Cm { key, salt, auth } => {
                let signed = packet.len().checked_sub(CM_TAG)?;
                let end = signed.checked_sub(INDEX_WORD).filter(|end| *end >= 8)?;
                let tag = hmac::sign(auth, &packet[..signed]);
                if tag.as_ref()[..CM_TAG] != packet[signed..] {
                    return None;
                }
                let word: [u8; 4] = packet[end..signed].try_into().ok()?;
                let index = u32::from_be_bytes(word) & !ENCRYPTED;
                let ssrc = ssrc_of_rtcp(packet);
                cm_crypt(key, salt, ssrc, u64::from(index), &mut packet[8..end]);
                Some(end)
            }
        }
    }
}

impl Cipher {
    /// `labels`: of encryption key, authentication key and salt (RFC 3711 §4.3.2).
    fn new(profile: Profile, key: &[u8], salt: &[u8], labels: [u8; 3]) -> Option<Cipher> {
        let mut session_key = [0; 32];
        let session_key = &mut session_key[..profile.key_bytes()];
        derive(key, salt, labels[0], session_key);
        Some(match profile {
            Profile::Cm80 => {
                let (mut auth, mut session_salt) = ([0; 20], [0; 14]);
                derive(key, salt, labels[1], &mut auth);
                derive(key, salt, labels[2], &mut session_salt);
                Cipher::Cm {
                    key: (&*session_key).try_into().ok()?,
                    salt: session_salt,
                    auth: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &auth),
                }
            }
            Profile::Gcm128 | Profile::Gcm256 => {
                let mut session_salt = [0; 12];
                derive(key, salt, labels[2], &mut session_salt);
                let algorithm = if profile == Profile::Gcm128 { &AES_128_GCM } else { &AES_256_GCM };
                let key = UnboundKey::new(algorithm, session_key).ok()?;
                Cipher::Gcm { key: LessSafeKey::new(key), salt: session_salt }
            }
        })
    }
}

/// AES-CM as the key derivation function (RFC 3711 §4.3.3; a 96-bit salt is padded on the right, RFC 7714 §11).
fn derive(master_key: &[u8], master_salt: &[u8], label: u8, out: &mut [u8]) {
    let mut iv = [0; 16];
    iv[..master_salt.len()].copy_from_slice(master_salt);
    iv[7] ^= label;
    out.fill(0);
    if let Ok(key) = <[u8; 16]>::try_from(master_key) {
        ctr::Ctr128BE::<aes::Aes128>::new(&key.into(), &iv.into()).apply_keystream(out);
    } else if let Ok(key) = <[u8; 32]>::try_from(master_key) {
        ctr::Ctr128BE::<aes::Aes256>::new(&key.into(), &iv.into()).apply_keystream(out);
    }
}

fn gcm_seal(key: &LessSafeKey, iv: [u8; 12], aad: &[u8], body: &mut [u8]) -> Tag {
    key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(iv), Aad::from(aad), body)
        .expect("a packet is far shorter than GCM's limit")
}

fn gcm_rtp_iv(salt: &[u8; 12], ssrc: u32, index: u64) -> [u8; 12] {
    let mut iv = *salt;
    xor(&mut iv[2..6], &ssrc.to_be_bytes());
    xor(&mut iv[6..12], &index.to_be_bytes()[2..]);
    iv
}

fn gcm_rtcp_iv(salt: &[u8; 12], ssrc: u32, index: u32) -> [u8; 12] {
    let mut iv = *salt;
    xor(&mut iv[2..6], &ssrc.to_be_bytes());
    xor(&mut iv[8..12], &index.to_be_bytes());
    iv
}

fn gcm_rtcp_aad(packet: &[u8], word: [u8; 4]) -> [u8; 12] {
    let mut aad = [0; 12];
    aad[..8].copy_from_slice(&packet[..8]);
    aad[8..].copy_from_slice(&word);
    aad
}

fn cm_crypt(key: &[u8; 16], salt: &[u8; 14], ssrc: u32, index: u64, body: &mut [u8]) {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    xor(&mut iv[4..8], &ssrc.to_be_bytes());
    xor(&mut iv[8..14], &index.to_be_bytes()[2..]);
    ctr::Ctr128BE::<aes::Aes128>::new(key.into(), &iv.into()).apply_keystream(body);
}

fn cm_rtp_tag(auth: &hmac::Key, packet: &[u8], index: u64) -> [u8; CM_TAG] {
    let mut context = hmac::Context::with_key(auth);
    context.update(packet);
    context.update(&index.to_be_bytes()[2..6]);
    let mut tag = [0; CM_TAG];
    tag.copy_from_slice(&context.sign().as_ref()[..CM_TAG]);
    tag
}

fn ssrc_of_rtcp(packet: &[u8]) -> u32 {
    packet.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn xor(target: &mut [u8], with: &[u8]) {
    for (a, b) in target.iter_mut().zip(with) {
        *a ^= b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(profile: Profile) -> (Srtp, Srtp) {
        let material: Vec<u8> = (0..88).collect();
        let (client, _) = from_keying_material(profile, &material).expect("long enough");
        let (same, _) = from_keying_material(profile, &material).expect("long enough");
        (client, same)
    }

    #[test]
    fn session_keys_of_rfc_3711_appendix_b3() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len() / 2)
                .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex"))
                .collect()
        };
        let (key, salt) = (hex("E1F97A0D3E018BE0D64FA32C06DE4139"), hex("0EC675AD498AFEEBB6960B3AABE6"));
        let mut out = [0; 16];
        derive(&key, &salt, 0, &mut out);
        assert_eq!(out.to_vec(), hex("C61E7A93744F39EE10734AFE3FF7A087"));
        derive(&key, &salt, 2, &mut out[..14]);
        assert_eq!(out[..14].to_vec(), hex("30CBBC08863D8C85D49DB34A9AE1"));
    }

    #[test]
    fn what_is_sealed_opens_and_what_is_forged_does_not() {
        for profile in [Profile::Cm80, Profile::Gcm128, Profile::Gcm256] {
            let (mut tx, rx) = pair(profile);
            let plain: Vec<u8> = (0..200).collect();
            let mut packet = vec![1, 2, 3];
            packet.extend_from_slice(&plain);
            tx.seal_rtp(&mut packet, 3, 12, 77, 0x1_0000);
            let sealed = packet.split_off(3);
            assert_eq!(sealed.len(), plain.len() + tx.overhead);
            let mut opened = sealed.clone();
            assert_eq!(rx.open_rtp(&mut opened, 12, 77, 0x1_0000), Some(plain.len()), "{profile:?}");
            assert_eq!(opened[..plain.len()], plain);
            assert_eq!(rx.open_rtp(&mut sealed.clone(), 12, 77, 0x2_0000), None, "another rollover count");
            let mut forged = sealed;
            forged[50] ^= 1;
            assert_eq!(rx.open_rtp(&mut forged, 12, 77, 0x1_0000), None);

            let report: Vec<u8> = (0..36).collect();
            let mut packet = report.clone();
            tx.seal_rtcp(&mut packet);
            assert_eq!(rx.open_rtcp(&mut packet.clone()), Some(report.len()));
            packet[20] ^= 1;
            assert_eq!(rx.open_rtcp(&mut packet), None);
        }
    }

    #[test]
    fn short_packets_are_refused() {
        for profile in [Profile::Cm80, Profile::Gcm256] {
            let (_, rx) = pair(profile);
            for length in 0..28 {
                assert_eq!(rx.open_rtp(&mut vec![0; length], 12, 1, 1), None);
                assert_eq!(rx.open_rtcp(&mut vec![0; length]), None);
            }
        }
    }
}

//! The ciphers under SRTP and SRTCP, one keyed value per direction and protocol.
//!
//! | cipher | made of | packet |
//! |---|---|---|
//! | [`Gcm`] | aws-lc or ring AEAD, see [`GcmKey`] | header = associated data, payload sealed, 16 bytes of tag (RFC 7714 §8, §9) |
//! | [`CmHmac`] | RustCrypto AES-CTR and HMAC-SHA1 | payload encrypted, 10 bytes of tag over all of it (RFC 3711 §4) |
//!
//! Key schedules and keyed hash states are expanded once, here; a packet costs no allocation. GCM seals from the
//! receive slot into the transmit slot in one pass, and so does CTR. A cipher knows nothing of windows and streams.
#![forbid(unsafe_code)]

use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper};
use ctr::flavors::Ctr128BE;
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::gcm_key::{GCM_TAG_BYTES, GcmKey};
use super::kdf::SessionKeys;
use super::profile::SrtpProfile;
use crate::drop_reason::DropReason;
use crate::ids::{ExtSeq, Ssrc};
use crate::prefetch::prefetch;

/// Fixed RTCP header plus sender SSRC: never encrypted, bytes (RFC 3711 §3.4).
pub const RTCP_CLEAR_BYTES: usize = 8;
/// Length of the E flag and index word, bytes.
const WORD_BYTES: usize = 4;
/// The E flag in the word before or behind the tag: the packet is encrypted (RFC 3711 §3.4).
const E_FLAG: u32 = 1 << 31;
/// Truncated HMAC-SHA1 tag, bytes (RFC 3711 §5.2).
const HMAC_TAG_BYTES: usize = 10;

/// A keyed cipher of any profile.
pub enum Cipher {
    /// AES-GCM.
    Gcm(Gcm),
    /// AES-CM with HMAC-SHA1. Boxed: ten times the size of the other.
    CmHmac(Box<CmHmac>),
}

impl Cipher {
    /// Expands `keys` for `profile`.
    pub fn new(profile: SrtpProfile, keys: &SessionKeys) -> Cipher {
        match profile {
            SrtpProfile::Aes128CmHmacSha1_80 => Cipher::CmHmac(Box::new(CmHmac::new(keys))),
            SrtpProfile::AeadAes128Gcm | SrtpProfile::AeadAes256Gcm => Cipher::Gcm(Gcm::new(profile, keys)),
        }
    }

    /// Asks for the key schedule.
    #[inline]
    pub fn prefetch_key(&self) {
        match self {
            Cipher::Gcm(gcm) => gcm.key.prefetch(),
            Cipher::CmHmac(cm) => prefetch(&**cm),
        }
    }

    /// Encrypts `payload` to behind the `header_len` bytes of header that stand at the start of `out`, and appends the
    /// tag. Returns the length of the whole packet.
    ///
    /// # Panics
    /// If `out` is shorter than header, payload and tag: the caller's mistake.
    #[inline]
    pub fn seal_rtp(
        &self,
        out: &mut [u8],
        header_len: usize,
        payload: &[u8],
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> usize {
        match self {
            Cipher::Gcm(gcm) => gcm.seal_rtp(out, header_len, payload, ssrc, index),
            Cipher::CmHmac(cm) => cm.seal_rtp(out, header_len, payload, ssrc, index),
        }
    }

    /// Authenticates and decrypts in place. Returns the length without the tag.
    ///
    /// # Errors
    /// [`DropReason::TooShort`] if header and tag do not fit, [`DropReason::AuthFailed`]; then what stands in `packet`
    /// is unspecified.
    #[inline]
    pub fn open_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> Result<usize, DropReason> {
        match self {
            Cipher::Gcm(gcm) => gcm.open_rtp(packet, header_len, ssrc, index),
            Cipher::CmHmac(cm) => cm.open_rtp(packet, header_len, ssrc, index),
        }
    }

    /// Encrypts the compound packet in `out[..len]` in place and appends tag, E flag and `index` (31 bits). Returns the
    /// length of the whole packet.
    ///
    /// # Panics
    /// If `len` is below 8 or `out` has no room for the overhead: the caller's mistake.
    pub fn seal_rtcp(&self, out: &mut [u8], len: usize, index: u32) -> usize {
        match self {
            Cipher::Gcm(gcm) => gcm.seal_rtcp(out, len, index),
            Cipher::CmHmac(cm) => cm.seal_rtcp(out, len, index),
        }
    }

    /// Authenticates and, if its E flag is set, decrypts in place. Returns the length of the plain compound packet.
    ///
    /// # Errors
    /// As [`Cipher::open_rtp`].
    pub fn open_rtcp(&self, packet: &mut [u8]) -> Result<usize, DropReason> {
        match self {
            Cipher::Gcm(gcm) => gcm.open_rtcp(packet),
            Cipher::CmHmac(cm) => cm.open_rtcp(packet),
        }
    }

    /// The SRTCP index of a protected packet, not yet authenticated.
    ///
    /// # Errors
    /// [`DropReason::TooShort`] if the packet cannot hold header, tag and index.
    pub fn rtcp_index(&self, packet: &[u8]) -> Result<u32, DropReason> {
        // GCM has the word at the end, CM in front of the tag.
        let (overhead, behind) = match self {
            Cipher::Gcm(_) => (GCM_TAG_BYTES + WORD_BYTES, WORD_BYTES),
            Cipher::CmHmac(_) => (HMAC_TAG_BYTES + WORD_BYTES, HMAC_TAG_BYTES + WORD_BYTES),
        };
        if packet.len() < RTCP_CLEAR_BYTES + overhead {
            return Err(DropReason::TooShort);
        }
        Ok(read_u32(packet, packet.len() - behind) & !E_FLAG)
    }
}

/// AEAD_AES_128_GCM and AEAD_AES_256_GCM (RFC 7714).
pub struct Gcm {
    key: GcmKey,
    /// The 96-bit salt in the upper bits of the number that IVs are made with.
    salt: u128,
}

impl Gcm {
    fn new(profile: SrtpProfile, keys: &SessionKeys) -> Gcm {
        let bytes = &keys.encryption[..profile.key_len()];
        let key = GcmKey::new(bytes);
        let mut salt = [0; 16];
        salt[..12].copy_from_slice(&keys.salt[..12]);
        Gcm { key, salt: u128::from_be_bytes(salt) }
    }

    /// `00 00 | SSRC | ROC | SEQ` xor salt (RFC 7714 §8.1).
    #[inline]
    fn rtp_nonce(&self, ssrc: Ssrc, index: ExtSeq) -> [u8; 12] {
        self.nonce(u128::from(ssrc.0) << 48 | u128::from(index.0 & 0xffff_ffff_ffff))
    }

    /// `00 00 | SSRC | 00 00 | 0, SRTCP index` xor salt (RFC 7714 §9.1).
    fn rtcp_nonce(&self, ssrc: u32, index: u32) -> [u8; 12] {
        self.nonce(u128::from(ssrc) << 48 | u128::from(index))
    }

    #[inline]
    fn nonce(&self, number: u128) -> [u8; 12] {
        let iv = ((number << 32) ^ self.salt).to_be_bytes();
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&iv[..12]);
        nonce
    }

    #[inline]
    fn seal_rtp(
        &self,
        out: &mut [u8],
        header_len: usize,
        payload: &[u8],
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> usize {
        let total = header_len + payload.len() + GCM_TAG_BYTES;
        let (header, rest) = out[..total].split_at_mut(header_len);
        self.key.seal(self.rtp_nonce(ssrc, index), header, payload, rest);
        total
    }

    #[inline]
    fn open_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> Result<usize, DropReason> {
        let plain_len = packet.len().checked_sub(GCM_TAG_BYTES).ok_or(DropReason::TooShort)?;
        if header_len > plain_len {
            return Err(DropReason::TooShort);
        }
        let (header, rest) = packet.split_at_mut(header_len);
        self.key.open(self.rtp_nonce(ssrc, index), header, rest)?;
        Ok(plain_len)
    }

    /// `header | sealed | tag | E, index`; associated data is header and the last word (RFC 7714 §9.2).
    fn seal_rtcp(&self, out: &mut [u8], len: usize, index: u32) -> usize {
        let word = (index | E_FLAG).to_be_bytes();
        let (packet, rest) = out.split_at_mut(len);
        let (header, body) = packet.split_at_mut(RTCP_CLEAR_BYTES);
        let nonce = self.rtcp_nonce(read_u32(header, 4), index);
        let tag = self.key.seal_in_place(nonce, &rtcp_aad(header, word), body);
        rest[..GCM_TAG_BYTES].copy_from_slice(&tag);
        rest[GCM_TAG_BYTES..GCM_TAG_BYTES + WORD_BYTES].copy_from_slice(&word);
        len + GCM_TAG_BYTES + WORD_BYTES
    }

    fn open_rtcp(&self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let plain_len = packet
            .len()
            .checked_sub(GCM_TAG_BYTES + WORD_BYTES)
            .filter(|len| *len >= RTCP_CLEAR_BYTES)
            .ok_or(DropReason::TooShort)?;
        let word = read_u32(packet, plain_len + GCM_TAG_BYTES);
        let nonce = self.rtcp_nonce(read_u32(packet, 4), word & !E_FLAG);
        let opened = if word & E_FLAG != 0 {
            let (header, sealed) = packet[..plain_len + GCM_TAG_BYTES].split_at_mut(RTCP_CLEAR_BYTES);
            self.key.open(nonce, &rtcp_aad(header, word.to_be_bytes()), sealed)
        } else {
            // Authenticated only: associated data is the whole packet with the word right behind it (RFC 7714 §9.3).
            let mut tag = [0; GCM_TAG_BYTES];
            tag.copy_from_slice(&packet[plain_len..][..GCM_TAG_BYTES]);
            packet[plain_len..][..WORD_BYTES].copy_from_slice(&word.to_be_bytes());
            self.key.open(nonce, &packet[..plain_len + WORD_BYTES], &mut tag)
        };
        opened.map(|()| plain_len)
    }
}

/// AES_128_CM_HMAC_SHA1_80 (RFC 3711 §4.1.1, §4.2.1).
pub struct CmHmac {
    cipher: Aes128Enc,
    hmac: Hmac<Sha1>,
    /// The 112-bit salt, moved up by 16 bits as IVs want it.
    salt: u128,
}

impl CmHmac {
    fn new(keys: &SessionKeys) -> CmHmac {
        let mut salt = [0; 16];
        salt[..14].copy_from_slice(&keys.salt);
        CmHmac {
            cipher: Aes128Enc::new_from_slice(&keys.encryption[..16]).expect("16 bytes"),
            hmac: <Hmac<Sha1> as Mac>::new_from_slice(&keys.authentication).expect("any length will do"),
            salt: u128::from_be_bytes(salt),
        }
    }

    /// The keystream of one packet: IV is `salt << 16 xor SSRC << 64 xor index << 16` (RFC 3711 §4.1.1).
    #[inline]
    fn keystream(
        &self,
        ssrc: u32,
        index: u64,
    ) -> StreamCipherCoreWrapper<ctr::CtrCore<&Aes128Enc, Ctr128BE>> {
        let iv = self.salt ^ u128::from(ssrc) << 64 ^ u128::from(index) << 16;
        let core = ctr::CtrCore::inner_iv_init(&self.cipher, &iv.to_be_bytes().into());
        StreamCipherCoreWrapper::from_core(core)
    }

    /// The keyed hash over what the tag covers: the packet, and behind it the rollover counter for RTP.
    #[inline]
    fn authenticate(&self, packet: &[u8], suffix: &[u8]) -> Hmac<Sha1> {
        self.hmac.clone().chain_update(packet).chain_update(suffix)
    }

    fn seal_rtp(
        &self,
        out: &mut [u8],
        header_len: usize,
        payload: &[u8],
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> usize {
        let sealed_len = header_len + payload.len();
        let (sealed, tag) = out[..sealed_len + HMAC_TAG_BYTES].split_at_mut(sealed_len);
        self.keystream(ssrc.0, index.0)
            .apply_keystream_b2b(payload, &mut sealed[header_len..])
            .expect("both sides have the payload's length");
        let digest = self.authenticate(sealed, &index.roc().to_be_bytes()).finalize().into_bytes();
        tag.copy_from_slice(&digest[..HMAC_TAG_BYTES]);
        sealed_len + HMAC_TAG_BYTES
    }

    fn open_rtp(
        &self,
        packet: &mut [u8],
        header_len: usize,
        ssrc: Ssrc,
        index: ExtSeq,
    ) -> Result<usize, DropReason> {
        let plain_len = packet.len().checked_sub(HMAC_TAG_BYTES).ok_or(DropReason::TooShort)?;
        let (sealed, tag) = packet.split_at_mut(plain_len);
        if sealed.len() < header_len {
            return Err(DropReason::TooShort);
        }
        self.authenticate(sealed, &index.roc().to_be_bytes())
            .verify_truncated_left(tag)
            .map_err(|_| DropReason::AuthFailed)?;
        self.keystream(ssrc.0, index.0).apply_keystream(&mut sealed[header_len..]);
        Ok(plain_len)
    }

    /// `header | encrypted | E, index | tag` (RFC 3711 §3.4).
    fn seal_rtcp(&self, out: &mut [u8], len: usize, index: u32) -> usize {
        let ssrc = read_u32(out, 4);
        self.keystream(ssrc, u64::from(index)).apply_keystream(&mut out[RTCP_CLEAR_BYTES..len]);
        let covered = len + WORD_BYTES;
        out[len..covered].copy_from_slice(&(index | E_FLAG).to_be_bytes());
        let digest = self.authenticate(&out[..covered], &[]).finalize().into_bytes();
        out[covered..covered + HMAC_TAG_BYTES].copy_from_slice(&digest[..HMAC_TAG_BYTES]);
        covered + HMAC_TAG_BYTES
    }

    fn open_rtcp(&self, packet: &mut [u8]) -> Result<usize, DropReason> {
        let plain_len = packet
            .len()
            .checked_sub(HMAC_TAG_BYTES + WORD_BYTES)
            .filter(|len| *len >= RTCP_CLEAR_BYTES)
            .ok_or(DropReason::TooShort)?;
        let (covered, tag) = packet.split_at_mut(plain_len + WORD_BYTES);
        self.authenticate(covered, &[]).verify_truncated_left(tag).map_err(|_| DropReason::AuthFailed)?;
        let word = read_u32(covered, plain_len);
        if word & E_FLAG != 0 {
            let ssrc = read_u32(covered, 4);
            let mut keystream = self.keystream(ssrc, u64::from(word & !E_FLAG));
            keystream.apply_keystream(&mut covered[RTCP_CLEAR_BYTES..plain_len]);
        }
        Ok(plain_len)
    }
}

/// Associated data of an encrypted SRTCP packet: its clear header and the E and index word (RFC 7714 §9.2).
fn rtcp_aad(header: &[u8], word: [u8; WORD_BYTES]) -> [u8; RTCP_CLEAR_BYTES + WORD_BYTES] {
    let mut aad = [0; RTCP_CLEAR_BYTES + WORD_BYTES];
    aad[..RTCP_CLEAR_BYTES].copy_from_slice(header);
    aad[RTCP_CLEAR_BYTES..].copy_from_slice(&word);
    aad
}

/// Big-endian word at `at`, which the caller knows to be inside.
#[inline]
fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

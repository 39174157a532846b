//! One AES-GCM key in the library that is faster on this CPU.
//!
//! aws-lc has wide AES and carry-less multiplication only together with AVX-512; ring has them with AVX2 too. On a CPU
//! with VAES and without AVX-512 (AMD Zen 3) 1200 bytes cost 403 ns in aws-lc and 263 ns in ring, the copy that ring
//! needs included; with AVX-512 both take about 245 ns. Both give the same bytes.
//!
//! Either way the key schedule is one value whose place we know: thousands of keys take turns, and each is asked for
//! before it is used ([`GcmKey::prefetch`]).
#![forbid(unsafe_code)]

use super::aws_lc::AwsLcKey;
use crate::drop_reason::DropReason;
use crate::prefetch::prefetch;

/// AEAD tag, bytes (RFC 7714 §13).
pub const GCM_TAG_BYTES: usize = 16;

/// A key of 16 or 32 bytes, expanded.
pub enum GcmKey {
    /// aws-lc: seals from slice to slice.
    AwsLc(Box<AwsLcKey>),
    /// ring: seals in place only.
    Ring(Box<ring::aead::LessSafeKey>),
}

impl GcmKey {
    /// Expands a key of 16 or 32 bytes.
    pub fn new(key: &[u8]) -> GcmKey {
        if ring_is_wider() { GcmKey::ring(key) } else { GcmKey::aws_lc(key) }
    }

    fn aws_lc(key: &[u8]) -> GcmKey {
        GcmKey::AwsLc(AwsLcKey::new(key))
    }

    fn ring(key: &[u8]) -> GcmKey {
        let algorithm = if key.len() == 16 { &ring::aead::AES_128_GCM } else { &ring::aead::AES_256_GCM };
        let key = ring::aead::UnboundKey::new(algorithm, key).expect("the key has the algorithm's length");
        GcmKey::Ring(Box::new(ring::aead::LessSafeKey::new(key)))
    }

    /// Asks for all of it.
    #[inline]
    pub fn prefetch(&self) {
        match self {
            GcmKey::AwsLc(key) => prefetch(&**key),
            GcmKey::Ring(key) => prefetch(&**key),
        }
    }

    /// Seals `payload` into `out`, which is as long as payload and tag.
    #[inline]
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], payload: &[u8], out: &mut [u8]) {
        let (sealed, tag) = out.split_at_mut(payload.len());
        let tag = tag.try_into().expect("out is as long as payload and tag");
        match self {
            GcmKey::AwsLc(key) => key.seal(&nonce, aad, payload, sealed, tag),
            GcmKey::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                sealed.copy_from_slice(payload);
                let made = key
                    .seal_in_place_separate_tag(nonce, ring::aead::Aad::from(aad), sealed)
                    .expect("a datagram is far below the limit of GCM");
                tag.copy_from_slice(made.as_ref());
            }
        }
    }

    /// Seals `body` where it lies; returns the tag.
    pub fn seal_in_place(&self, nonce: [u8; 12], aad: &[u8], body: &mut [u8]) -> [u8; GCM_TAG_BYTES] {
        let mut tag = [0; GCM_TAG_BYTES];
        match self {
            GcmKey::AwsLc(key) => key.seal_in_place(&nonce, aad, body, &mut tag),
            GcmKey::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                let made = key.seal_in_place_separate_tag(nonce, ring::aead::Aad::from(aad), body);
                tag.copy_from_slice(made.expect("a datagram is far below the limit of GCM").as_ref());
            }
        }
        tag
    }

    /// Opens `sealed`, payload and tag, in place.
    ///
    /// # Errors
    /// [`DropReason::AuthFailed`]; then what stands in `sealed` is unspecified.
    ///
    /// # Panics
    /// If `sealed` is shorter than a tag: the caller's mistake.
    #[inline]
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], sealed: &mut [u8]) -> Result<(), DropReason> {
        let opened = match self {
            GcmKey::AwsLc(key) => {
                let (body, tag) = sealed.split_at_mut(sealed.len() - GCM_TAG_BYTES);
                key.open_in_place(&nonce, aad, body, tag)
            }
            GcmKey::Ring(key) => {
                let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::aead::Aad::from(aad), sealed).is_ok()
            }
        };
        if opened { Ok(()) } else { Err(DropReason::AuthFailed) }
    }
}

/// Whether this CPU has the wide instructions that ring uses and not those that aws-lc wants.
fn ring_is_wider() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2")
        && !(is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl"));
    #[cfg(not(target_arch = "x86_64"))]
    return false;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The tests of the contexts see only the library that this CPU chooses.
        #[test]
        fn both_libraries_give_the_same_bytes(
            key in prop::sample::select(vec![16usize, 32]), nonce: [u8; 12],
            aad in prop::collection::vec(any::<u8>(), 0..60), payload in prop::collection::vec(any::<u8>(), 0..1500),
            flip in any::<prop::sample::Index>(),
        ) {
            let bytes: Vec<u8> = (0..key as u8).collect();
            let (aws_lc, ring) = (GcmKey::aws_lc(&bytes), GcmKey::ring(&bytes));
            let mut sealed = [vec![0; payload.len() + GCM_TAG_BYTES], vec![1; payload.len() + GCM_TAG_BYTES]];
            aws_lc.seal(nonce, &aad, &payload, &mut sealed[0]);
            ring.seal(nonce, &aad, &payload, &mut sealed[1]);
            prop_assert_eq!(&sealed[0], &sealed[1]);
            for cipher in [&aws_lc, &ring] {
                let mut body = payload.clone();
                let tag = cipher.seal_in_place(nonce, &aad, &mut body);
                prop_assert_eq!([&body[..], &tag[..]].concat(), &sealed[0][..]);
                let mut opened = sealed[0].clone();
                prop_assert_eq!(cipher.open(nonce, &aad, &mut opened), Ok(()));
                prop_assert_eq!(&opened[..payload.len()], &payload[..]);
                let mut forged = sealed[0].clone();
                let at = flip.index(forged.len());
                forged[at] ^= 1;
                prop_assert_eq!(cipher.open(nonce, &aad, &mut forged), Err(DropReason::AuthFailed));
            }
        }
    }
}

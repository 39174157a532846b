//! One AES-GCM key of aws-lc, in memory of ours.
//!
//! aws-lc-rs keeps this context behind a pointer that it shows to nobody, so it cannot be asked for before it is used,
//! which is a tenth of what a packet costs (docs/decisions/0013). These are the calls that aws-lc-rs makes.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use aws_lc_sys::{
    EVP_AEAD_CTX, EVP_AEAD_CTX_cleanup, EVP_AEAD_CTX_init, EVP_AEAD_CTX_open_gather,
    EVP_AEAD_CTX_seal_scatter, EVP_aead_aes_128_gcm, EVP_aead_aes_256_gcm,
};

/// AEAD tag, bytes (RFC 7714 §13).
const TAG_BYTES: usize = 16;

/// An expanded key. Begins with a cache line, and never moves: the context is laid out for where it is.
#[repr(align(64))]
pub struct AwsLcKey(EVP_AEAD_CTX);

// SAFETY: the context holds no reference to anything but constant tables. After `new` it is only read, and aws-lc
// documents sealing and opening with one context as safe from several threads at once.
unsafe impl Send for AwsLcKey {}

impl AwsLcKey {
    /// Expands a key of 16 or 32 bytes.
    pub fn new(key: &[u8]) -> Box<AwsLcKey> {
        let algorithm = if key.len() == 16 { EVP_aead_aes_128_gcm } else { EVP_aead_aes_256_gcm };
        // SAFETY: returns a pointer to a constant.
        let aead = unsafe { algorithm() };
        let mut place: Box<MaybeUninit<AwsLcKey>> = Box::new_uninit();
        // SAFETY: the context is written before it is read; `AwsLcKey` is the context and nothing else.
        let done = unsafe {
            EVP_AEAD_CTX_init(place.as_mut_ptr().cast(), aead, key.as_ptr(), key.len(), TAG_BYTES, null_mut())
        };
        assert!(done == 1, "a key of {} bytes is none of AES-GCM", key.len());
        // SAFETY: aws-lc has initialised it.
        unsafe { place.assume_init() }
    }

    /// Seals `payload` into `sealed`, which is as long.
    #[inline]
    pub fn seal(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        payload: &[u8],
        sealed: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
    ) {
        assert_eq!(payload.len(), sealed.len(), "sealing keeps the length");
        // SAFETY: both slices have the length that is given, and do not overlap.
        unsafe { self.seal_raw(nonce, aad, payload.as_ptr(), payload.len(), sealed.as_mut_ptr(), tag) }
    }

    /// Seals `body` where it lies.
    pub fn seal_in_place(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], tag: &mut [u8; TAG_BYTES]) {
        let start = body.as_mut_ptr();
        // SAFETY: input and output are the same bytes, which aws-lc allows.
        unsafe { self.seal_raw(nonce, aad, start, body.len(), start, tag) }
    }

    /// # Safety
    /// `len` bytes can be read at `from` and written at `to`; these are the same bytes or do not overlap.
    #[inline]
    unsafe fn seal_raw(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: *const u8,
        len: usize,
        to: *mut u8,
        tag: &mut [u8; TAG_BYTES],
    ) {
        let mut tag_len = 0;
        // SAFETY: pointers and lengths are those of slices or what the caller promises.
        let done = unsafe {
            EVP_AEAD_CTX_seal_scatter(
                &raw const self.0,
                to,
                tag.as_mut_ptr(),
                &raw mut tag_len,
                tag.len(),
                nonce.as_ptr(),
                nonce.len(),
                from,
                len,
                null(),
                0,
                aad.as_ptr(),
                aad.len(),
            )
        };
        assert!(done == 1 && tag_len == tag.len(), "a datagram is far below the limit of GCM");
    }

    /// Opens `body` where it lies; whether it and `aad` are what was sealed. If not, what stands in it is unspecified.
    #[inline]
    pub fn open_in_place(&self, nonce: &[u8; 12], aad: &[u8], body: &mut [u8], tag: &[u8]) -> bool {
        let start = body.as_mut_ptr();
        // SAFETY: pointers and lengths are those of slices; input and output are the same bytes, which aws-lc allows.
        let done = unsafe {
            EVP_AEAD_CTX_open_gather(
                &raw const self.0,
                start,
                nonce.as_ptr(),
                nonce.len(),
                start,
                body.len(),
                tag.as_ptr(),
                tag.len(),
                aad.as_ptr(),
                aad.len(),
            )
        };
        done == 1
    }
}

impl Drop for AwsLcKey {
    fn drop(&mut self) {
        // SAFETY: initialised in `new`, and not used any more.
        unsafe { EVP_AEAD_CTX_cleanup(&raw mut self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a key of 7 bytes")]
    fn other_lengths_are_refused() {
        AwsLcKey::new(&[0; 7]);
    }

    #[test]
    fn a_tag_of_another_length_opens_nothing() {
        let key = AwsLcKey::new(&[1; 32]);
        let (mut tag, mut body) = ([0; TAG_BYTES], [5; 40]);
        key.seal_in_place(&[2; 12], b"header", &mut body, &mut tag);
        let sealed = body;
        for len in 0..tag.len() {
            assert!(!key.open_in_place(&[2; 12], b"header", &mut sealed.clone(), &tag[..len]), "{len}");
        }
        assert!(key.open_in_place(&[2; 12], b"header", &mut body, &tag) && body == [5; 40]);
    }
}

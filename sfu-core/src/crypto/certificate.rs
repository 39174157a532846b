//! The certificate of this process, and fingerprints as signaling spells them (RFC 8122 §5).
//!
//! Trust in WebRTC comes from the fingerprint in signaling, not from a chain of issuers: a fresh self-signed ECDSA P-256
//! certificate per process is all that is needed, and what every browser accepts.
#![forbid(unsafe_code)]

use std::fmt;
use std::fmt::Write as _;

use aws_lc_rs::digest;

use super::dtls::{DtlsError, DtlsVersion};

/// SHA-256 digest of a certificate in DER.
pub type Digest = [u8; 32];

/// Certificate and private key of this process, and which DTLS versions its endpoints speak.
///
/// Made once, shared by every endpoint. Its `Debug` output shows no secret.
pub struct Certificate {
    pub(super) der: dimpl::DtlsCertificate,
    pub(super) config: std::sync::Arc<dimpl::Config>,
    pub(super) version: DtlsVersion,
    digest: Digest,
    fingerprint: String,
}

impl Certificate {
    /// A new key pair and a certificate over it, valid for a year, for endpoints of [`DtlsVersion::V12`].
    ///
    /// # Errors
    /// [`DtlsError::Setup`] if the cipher library gives no key.
    pub fn generate() -> Result<Certificate, DtlsError> {
        let der = dimpl::certificate::generate_self_signed_certificate()
            .map_err(|error| DtlsError::Setup(error.to_string().into()))?;
        let digest = sha256(&der.certificate);
        let fingerprint = format_fingerprint(&digest);
        let config = std::sync::Arc::new(super::dtls::engine_config()?);
        Ok(Certificate { der, config, version: DtlsVersion::default(), digest, fingerprint })
    }

    /// The same certificate for endpoints of another version.
    #[must_use]
    pub fn with_version(mut self, version: DtlsVersion) -> Certificate {
        self.version = version;
        self
    }

    /// `sha-256` fingerprint: upper-case hexadecimal bytes joined by colons, 95 characters.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The same as bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, {:?})", self.fingerprint, self.version)
    }
}

/// SHA-256 of a certificate in DER.
pub fn sha256(der: &[u8]) -> Digest {
    digest::digest(&digest::SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Writes a digest as `AB:CD:...`, upper case (RFC 8122 §5).
pub fn format_fingerprint(digest: &Digest) -> String {
    let mut text = String::with_capacity(3 * digest.len());
    for byte in digest {
        let separator = if text.is_empty() { "" } else { ":" };
        write!(text, "{separator}{byte:02X}").expect("a string takes everything");
    }
    text
}

/// Reads `AB:CD:...` of a `sha-256` fingerprint; lower case is taken as well. `None` if it is not 32 bytes so written.
pub fn parse_fingerprint(text: &str) -> Option<Digest> {
    let mut digest = Digest::default();
    let mut parts = text.split(':');
    for byte in &mut digest {
        let part =
            parts.next().filter(|part| part.len() == 2 && part.bytes().all(|c| c.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_upper_case_with_colons_and_read_back() {
        let certificate = Certificate::generate().unwrap();
        let text = certificate.fingerprint();
        assert_eq!(text.len(), 95);
        assert!(text.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F' | ':')), "{text}");
        assert_eq!(parse_fingerprint(text), Some(certificate.digest()));
        assert_eq!(parse_fingerprint(&text.to_lowercase()), Some(certificate.digest()));
    }

    #[test]
    fn other_spellings_are_refused() {
        let good = format_fingerprint(&[0xab; 32]);
        for bad in
            ["", "AB", &good[3..], &format!("{good}:00"), &good.replace(':', "-"), &good.replace("AB", "+B")]
        {
            assert_eq!(parse_fingerprint(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_certificate_is_its_own() {
        assert_ne!(Certificate::generate().unwrap().digest(), Certificate::generate().unwrap().digest());
    }

    #[test]
    fn debug_output_shows_no_key() {
        let certificate = Certificate::generate().unwrap();
        let expected = format!("Certificate({}, V12)", certificate.fingerprint());
        assert_eq!(format!("{certificate:?}"), expected);
    }
}

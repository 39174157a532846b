//! DTLS with one peer (RFC 5764) over the sans-IO crate `dimpl`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use aws_lc_rs::digest;
use dimpl::{Config, DtlsCertificate, Output, SrtpProfile};

use super::srtp::Profile;

/// Space for one outgoing record.
const RECORD_MAX: usize = 2048;

/// Certificate and settings that all light clients share: a certificate each would say nothing about the server.
#[derive(Clone)]
pub(crate) struct Identity {
    certificate: DtlsCertificate,
    config: Arc<Config>,
}

impl Identity {
    /// A fresh self-signed certificate.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn generate() -> Result<Identity> {
        let certificate =
            dimpl::certificate::generate_self_signed_certificate().context("DTLS certificate")?;
        let config = Config::builder()
            .flight_start_rto(Duration::from_millis(250))
            .handshake_timeout(Duration::from_secs(40))
            .build()
            .context("DTLS configuration")?;
        Ok(Identity { certificate, config: Arc::new(config) })
    }

    /// SHA-256 fingerprint as SDP has it.
    pub(crate) fn fingerprint(&self) -> String {
        let bytes: Vec<String> =
            sha256(&self.certificate.certificate).iter().map(|byte| format!("{byte:02X}")).collect();
        bytes.join(":")
    }
}

fn sha256(der: &[u8]) -> [u8; 32] {
    digest::digest(&digest::SHA256, der).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// One association.
pub(crate) struct Dtls {
    inner: dimpl::Dtls,
    expected: [u8; 32],
    verified: bool,
    next: Instant,
}

/// Agreed keys: profile and exported keying material.
pub(crate) type Keys = (Profile, Vec<u8>);

impl Dtls {
    /// `client`: we send the ClientHello. `expected`: fingerprint of the peer's certificate.
    pub(crate) fn new(identity: &Identity, client: bool, expected: [u8; 32], now: Instant) -> Dtls {
        let mut inner = dimpl::Dtls::new_12(identity.config.clone(), identity.certificate.clone(), now);
        inner.set_active(client);
        Dtls { inner, expected, verified: false, next: now }
    }

    /// When [`Dtls::handle_timeout`] wants to be called.
    pub(crate) fn next_timeout(&self) -> Instant {
        self.next
    }

    /// Takes a datagram; sends what has to be sent.
    ///
    /// # Errors
    /// The association is over; the text says why.
    pub(crate) fn handle(
        &mut self,
        packet: &[u8],
        now: Instant,
        send: impl FnMut(&[u8]),
    ) -> Result<Option<Keys>> {
        self.inner.handle_timeout(now).context("DTLS")?;
        self.inner.handle_packet(packet).context("DTLS")?;
        self.drain(send)
    }

    /// Takes the time.
    ///
    /// # Errors
    /// As [`Dtls::handle`].
    pub(crate) fn handle_timeout(&mut self, now: Instant, send: impl FnMut(&[u8])) -> Result<Option<Keys>> {
        self.inner.handle_timeout(now).context("DTLS")?;
        self.drain(send)
    }

    fn drain(&mut self, mut send: impl FnMut(&[u8])) -> Result<Option<Keys>> {
        let mut buffer = [0; RECORD_MAX];
        let mut keys = None;
        loop {
            match self.inner.poll_output(&mut buffer) {
                Output::Packet(packet) => send(packet),
                Output::PeerCert(der) => {
                    anyhow::ensure!(
                        sha256(der) == self.expected,
                        "DTLS: not the certificate that signaling promised"
                    );
                    self.verified = true;
                }
                Output::KeyingMaterial(material, profile) => {
                    anyhow::ensure!(self.verified, "DTLS: keys without a certificate");
                    keys = Some((translate(profile)?, material.to_vec()));
                }
                Output::CloseNotify => return Err(ClosedByServer.into()),
                Output::BufferTooSmall { needed } => anyhow::bail!("DTLS: a record of {needed} bytes"),
                Output::Timeout(at) => {
                    self.next = at;
                    return Ok(keys);
                }
                _ => {}
            }
        }
    }
}

/// The server said goodbye (close_notify): what happens to a connection whose stream ended, or whose user left.
#[derive(Debug)]
pub(crate) struct ClosedByServer;

impl std::fmt::Display for ClosedByServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DTLS: closed by the server")
    }
}

impl std::error::Error for ClosedByServer {}

fn translate(profile: SrtpProfile) -> Result<Profile> {
    Ok(match profile {
        SrtpProfile::AES128_CM_SHA1_80 => Profile::Cm80,
        SrtpProfile::AEAD_AES_128_GCM => Profile::Gcm128,
        SrtpProfile::AEAD_AES_256_GCM => Profile::Gcm256,
        other => anyhow::bail!("DTLS: unknown SRTP profile {other}"),
    })
}

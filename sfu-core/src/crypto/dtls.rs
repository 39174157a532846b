//! DTLS-SRTP key agreement with one peer (RFC 5764): our trait, and the implementation over the sans-IO crate `dimpl`.
//!
//! ```text
//! handle_datagram ─┐                     ┌─▶ Datagram         to the peer's validated address
//! handle_timeout  ─┼─▶ state ──▶ poll ───┼─▶ PeerCertificate  before Keys: compare, or drop this endpoint
//! close           ─┘      until Timeout  ├─▶ Keys             once
//!                                        ├─▶ Closed           once: close_notify, or no SRTP profile agreed
//!                                        └─▶ Timeout          always the last: nothing more for now
//! ```
//!
//! After every call that changes something, `poll` until it gives [`DtlsOutput::Timeout`]. An `Err` ends the endpoint.
//!
//! * The versions are 1.2 (default: the cheapest handshake, and there this crate picks GCM), 1.3, or what the first
//!   ClientHello offers. `dimpl` prefers AEAD_AES_256_GCM, AEAD_AES_128_GCM, then AES-CM; in DTLS 1.3 the client's
//!   order wins, which with Chromium means AES-CM.
//! * No cookie round trip: ICE has proven the path before the first datagram gets here.
//! * Memory is bounded: [`QUEUE_RX`] datagrams wait for missing fragments, [`QUEUE_TX`] for `poll`.
//! * Data channels are left out: application data is thrown away.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::certificate::{Certificate, Digest, sha256};
use super::profile::{MasterKey, SrtpProfile, split_keying_material};
use crate::time::Timestamp;

/// The least that [`DtlsEndpoint::poll`] must be given to write a datagram to, bytes.
pub const MIN_POLL_BYTES: usize = MTU;
/// Largest datagram sent, bytes. Fits the smallest IPv6 path with tunnel headers to spare.
const MTU: usize = 1150;
/// Received datagrams that may wait for what is missing between them. Chromium's longest flight is five.
pub const QUEUE_RX: usize = 30;
/// Datagrams that may wait to be polled. Our longest flight is two.
pub const QUEUE_TX: usize = 10;
/// First retransmission. RFC 6347 §4.2.4.1 has one second; browsers wait far less, and a join waits for it.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(250);
/// Retransmissions of one flight, doubling: enough to fill [`HANDSHAKE_TIMEOUT`].
const RETRANSMISSIONS: usize = 7;
/// A handshake that took longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Record header, bytes: type, version, epoch, sequence number, length (RFC 6347 §4.1).
const RECORD_HEADER_BYTES: usize = 13;
/// Handshake header, bytes: type, length, message number, fragment offset and length (RFC 6347 §4.2.2).
const HANDSHAKE_HEADER_BYTES: usize = 12;
/// Record type of handshake messages.
const HANDSHAKE: u8 = 22;
/// Record type of application data, which is never plaintext.
const APPLICATION_DATA: u8 = 23;

/// Which DTLS versions an endpoint speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DtlsVersion {
    /// DTLS 1.2 (RFC 6347).
    #[default]
    V12,
    /// DTLS 1.3 (RFC 9147).
    V13,
    /// 1.3 if the peer speaks it, otherwise 1.2.
    Auto,
}

impl std::str::FromStr for DtlsVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<DtlsVersion, UnknownVersion> {
        match text {
            "1.2" => Ok(DtlsVersion::V12),
            "1.3" => Ok(DtlsVersion::V13),
            "auto" => Ok(DtlsVersion::Auto),
            _ => Err(UnknownVersion),
        }
    }
}

/// The text names no [`DtlsVersion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a DTLS version is one of 1.2, 1.3, auto")]
pub struct UnknownVersion;

/// Who sends the ClientHello (RFC 5763 §5): the `active` end is the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This end sends it.
    Client,
    /// The peer sends it.
    Server,
}

/// What an endpoint has to say.
#[derive(Debug)]
pub enum DtlsOutput {
    /// The first so many bytes of the buffer are a datagram for the peer.
    Datagram(usize),
    /// SHA-256 of the certificate that the peer has shown. Unless it is the one signaling promised, drop the endpoint.
    PeerCertificate(Digest),
    /// The handshake is complete. `local` protects what we send, `remote` what the peer sends.
    Keys {
        /// The profile both ends agreed on.
        profile: SrtpProfile,
        /// Our write key.
        local: MasterKey,
        /// The peer's write key.
        remote: MasterKey,
    },
    /// The peer has closed the connection, or agreed on no SRTP profile: it is of no use any more.
    Closed,
    /// Nothing more now. Call [`DtlsEndpoint::handle_timeout`] at this time.
    Timeout(Timestamp),
}

/// Why an endpoint came to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DtlsError {
    /// No certificate or configuration could be made.
    #[error("DTLS cannot be set up: {0}")]
    Setup(Box<str>),
    /// The handshake was not completed in time.
    #[error("DTLS handshake timed out")]
    Timeout,
    /// The peer has sent a fatal alert (RFC 5246 §7.2).
    #[error("DTLS peer sent fatal alert {description}")]
    PeerAlert {
        /// The alert's number.
        description: u8,
    },
    /// The peer broke the protocol, or offers nothing we speak.
    #[error("DTLS failed: {0}")]
    Protocol(Box<str>),
}

/// One end of one DTLS association, without any I/O.
pub trait DtlsEndpoint: Sized {
    /// A new endpoint. `epoch` is the instant of [`Timestamp::ZERO`]. As client it has its ClientHello ready to be polled.
    fn new(role: Role, certificate: &Arc<Certificate>, epoch: Instant, now: Timestamp) -> Self;

    /// Takes one datagram from the peer. Garbage, forgeries and repetitions are no error; a repeated last flight is
    /// answered.
    ///
    /// # Errors
    /// [`DtlsError`]; the endpoint is of no use any more.
    fn handle_datagram(&mut self, now: Timestamp, datagram: &[u8]) -> Result<(), DtlsError>;

    /// Lets time pass: retransmissions, and the end of a handshake that takes too long.
    ///
    /// # Errors
    /// [`DtlsError::Timeout`].
    fn handle_timeout(&mut self, now: Timestamp) -> Result<(), DtlsError>;

    /// Ends the association. After a completed handshake the next `poll` gives a close_notify datagram.
    fn close(&mut self, now: Timestamp);

    /// The next output. `buf` must be at least [`MIN_POLL_BYTES`] long.
    fn poll(&mut self, buf: &mut [u8]) -> DtlsOutput;
}

/// [`DtlsEndpoint`] over `dimpl`.
pub struct Dtls {
    inner: dimpl::Dtls,
    role: Role,
    epoch: Instant,
    progress: Progress,
}

/// How far the endpoint has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Handshaking,
    /// Handshake complete, keys not given out yet.
    Connected,
    /// Keys given out.
    Keyed,
    /// Over; [`DtlsOutput::Closed`] still to be told.
    Ending,
    /// Over and told.
    Ended,
}

impl DtlsEndpoint for Dtls {
    fn new(role: Role, certificate: &Arc<Certificate>, epoch: Instant, now: Timestamp) -> Dtls {
        let config = Arc::clone(&certificate.config);
        let der = certificate.der.clone();
        let instant = epoch + Duration::from_nanos(now.0);
        let mut inner = match certificate.version {
            DtlsVersion::V12 => dimpl::Dtls::new_12(config, der, instant),
            DtlsVersion::V13 => dimpl::Dtls::new_13(config, der, instant),
            DtlsVersion::Auto => dimpl::Dtls::new_auto(config, der, instant),
        };
        inner.set_active(role == Role::Client);
        let mut endpoint = Dtls { inner, role, epoch, progress: Progress::Handshaking };
        if endpoint.handle_timeout(now).is_err() {
            endpoint.progress = Progress::Ending;
        }
        endpoint
    }

    fn handle_datagram(&mut self, now: Timestamp, datagram: &[u8]) -> Result<(), DtlsError> {
        if self.is_over() || !plausible(datagram) {
            return Ok(());
        }
        // dimpl reads the time of a datagram from the last timeout.
        self.handle_timeout(now)?;
        match self.inner.handle_packet(datagram) {
            Ok(()) => Ok(()),
            Err(error) if is_noise(&error) => Ok(()),
            Err(error) => Err(fatal(&error)),
        }
    }

    fn handle_timeout(&mut self, now: Timestamp) -> Result<(), DtlsError> {
        if self.is_over() {
            return Ok(());
        }
        self.inner.handle_timeout(self.instant(now)).map_err(|error| fatal(&error))
    }

    fn close(&mut self, now: Timestamp) {
        // Neither can fail in a way that matters to an endpoint that is thrown away next.
        let _ = self.handle_timeout(now);
        let _ = self.inner.close();
    }

    fn poll(&mut self, buf: &mut [u8]) -> DtlsOutput {
        assert!(buf.len() >= MIN_POLL_BYTES, "a datagram must fit");
        loop {
            let needed = match self.inner.poll_output(buf) {
                dimpl::Output::BufferTooSmall { needed } => needed,
                output => match translate(output, &mut self.progress, self.role, self.epoch) {
                    Some(output) => return output,
                    None => continue,
                },
            };
            // Only a large certificate comes here, once a handshake: datagrams fit, see above.
            let mut large = vec![0; needed];
            let output = self.inner.poll_output(&mut large);
            if let Some(output) = translate(output, &mut self.progress, self.role, self.epoch) {
                debug_assert!(!matches!(output, DtlsOutput::Datagram(_)), "larger than the MTU");
                return output;
            }
        }
    }
}

impl Dtls {
    fn is_over(&self) -> bool {
        matches!(self.progress, Progress::Ending | Progress::Ended)
    }

    fn instant(&self, now: Timestamp) -> Instant {
        self.epoch + Duration::from_nanos(now.0)
    }
}

/// What an output of `dimpl` means here; `None` if there is nothing to tell and the next is to be polled.
fn translate(
    output: dimpl::Output<'_>,
    progress: &mut Progress,
    role: Role,
    epoch: Instant,
) -> Option<DtlsOutput> {
    match output {
        dimpl::Output::Packet(packet) => Some(DtlsOutput::Datagram(packet.len())),
        dimpl::Output::PeerCert(der) => Some(DtlsOutput::PeerCertificate(sha256(der))),
        dimpl::Output::Connected => {
            *progress = Progress::Connected;
            None
        }
        dimpl::Output::KeyingMaterial(material, profile) => match keys(role, profile, &material) {
            Some(keys) => {
                *progress = Progress::Keyed;
                Some(keys)
            }
            None => {
                *progress = Progress::Ending;
                None
            }
        },
        dimpl::Output::CloseNotify => {
            *progress = Progress::Ending;
            None
        }
        dimpl::Output::Timeout(at) => match *progress {
            // Connected but no keys: the peer's hello had no use_srtp that suits us.
            Progress::Connected | Progress::Ending => {
                *progress = Progress::Ended;
                Some(DtlsOutput::Closed)
            }
            _ => Some(DtlsOutput::Timeout(timestamp(epoch, at))),
        },
        // Application data, and what later versions may add.
        _ => None,
    }
}

/// Cuts the exported keying material into our write key and the peer's.
fn keys(role: Role, profile: dimpl::SrtpProfile, material: &[u8]) -> Option<DtlsOutput> {
    let profile = match profile {
        dimpl::SrtpProfile::AES128_CM_SHA1_80 => SrtpProfile::Aes128CmHmacSha1_80,
        dimpl::SrtpProfile::AEAD_AES_128_GCM => SrtpProfile::AeadAes128Gcm,
        dimpl::SrtpProfile::AEAD_AES_256_GCM => SrtpProfile::AeadAes256Gcm,
        _ => return None,
    };
    let (client, server) = split_keying_material(profile, material)?;
    let (local, remote) = match role {
        Role::Client => (client, server),
        Role::Server => (server, client),
    };
    Some(DtlsOutput::Keys { profile, local, remote })
}

fn timestamp(epoch: Instant, at: Instant) -> Timestamp {
    let nanos = at.saturating_duration_since(epoch).as_nanos();
    Timestamp(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Whether the datagram is a row of whole DTLS records, so that no outside parser sees anything else.
///
/// Beyond sparing work this keeps an association alive: a plaintext record that is no message would lie in the engine's
/// queue until it ends the handshake there. Well-formed forgeries in plaintext can still do that, as in any DTLS, but
/// only within the handshake and from the address that ICE has validated.
pub fn plausible(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while !rest.is_empty() {
        let Some(len) = record_len(rest) else { return false };
        rest = &rest[len..];
    }
    !datagram.is_empty()
}

/// Length of the record at the start, or `None` if there is no whole and well-formed one.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let (header, body_len) = match bytes {
        // DTLS 1.3 ciphertext, `001CSLEE` (RFC 9147 §4): no connection id, 8 or 16 bits of sequence, perhaps a length.
        [first @ 0x20..=0x3f, ..] if first & 0x10 == 0 => {
            let sequence_end = if first & 0x08 == 0 { 2 } else { 3 };
            if first & 0x04 == 0 {
                (sequence_end, bytes.len().checked_sub(sequence_end)?)
            } else {
                (sequence_end + 2, read_u16(bytes, sequence_end)?)
            }
        }
        [20..=26, 0xfe, ..] => (RECORD_HEADER_BYTES, read_u16(bytes, 11)?),
        _ => return None,
    };
    let body = bytes.get(header..header + body_len)?;
    let plaintext = bytes[0] < 0x20 && bytes[3..5] == [0, 0];
    let well_formed = !plaintext
        || match bytes[0] {
            HANDSHAKE => handshake_messages(body),
            APPLICATION_DATA => false,
            _ => true,
        };
    well_formed.then_some(header + body_len)
}

/// Whether a plaintext handshake record holds fragments of messages and nothing else (RFC 6347 §4.2.2).
fn handshake_messages(mut body: &[u8]) -> bool {
    if body.is_empty() {
        return false;
    }
    while !body.is_empty() {
        let Some((header, rest)) = body.split_at_checked(HANDSHAKE_HEADER_BYTES) else { return false };
        let (total, offset, len) = (read_u24(header, 1), read_u24(header, 6), read_u24(header, 9));
        // Finished, 20, is the highest type that goes through here.
        if header[0] > 20 || offset + len > total || len > rest.len() {
            return false;
        }
        body = &rest[len..];
    }
    true
}

fn read_u16(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 2)?;
    Some(usize::from(field[0]) << 8 | usize::from(field[1]))
}

/// Three bytes at `at`, which the caller knows to be inside.
fn read_u24(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 3].iter().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// Errors that only say that a datagram was of no use; the association is as it was.
fn is_noise(error: &dimpl::Error) -> bool {
    use dimpl::UnexpectedMessageError::UnrecognizedAutoServerResponse;
    matches!(
        error,
        // Not a reply to our ClientHello: somebody else's, or a later part of the flight that came first.
        dimpl::Error::UnexpectedMessage(UnrecognizedAutoServerResponse)
        // The bound of the receive queue: nothing was stored.
        | dimpl::Error::ReceiveQueueFull | dimpl::Error::TooManyClientHelloFragments
    )
}

fn fatal(error: &dimpl::Error) -> DtlsError {
    match error {
        dimpl::Error::Timeout(_) => DtlsError::Timeout,
        dimpl::Error::SecurityError(dimpl::SecurityError::FatalAlert { description }) => {
            DtlsError::PeerAlert { description: *description }
        }
        other => DtlsError::Protocol(other.to_string().into()),
    }
}

/// The settings of every endpoint.
pub(super) fn engine_config() -> Result<dimpl::Config, DtlsError> {
    dimpl::Config::builder()
        .mtu(MTU)
        .max_queue_rx(QUEUE_RX)
        .max_queue_tx(QUEUE_TX)
        .require_client_certificate(true)
        .use_server_cookie(false)
        .flight_start_rto(FIRST_RETRANSMISSION)
        .flight_retries(RETRANSMISSIONS)
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .build()
        .map_err(|error| DtlsError::Setup(error.to_string().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content_type: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![content_type, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 9, 0, body.len() as u8];
        bytes.extend(body);
        bytes
    }

    #[test]
    fn only_rows_of_whole_records_are_plausible() {
        let message = [1, 0, 0, 9, 0, 0, 0, 0, 4, 0, 0, 2, 7, 7];
        let hello = record(22, 0, &message);
        let two_messages = record(22, 0, &[message, message].concat());
        let sealed = record(22, 1, &[0x5a; 40]);
        let unified = [&[0x2e, 1, 2, 0, 20][..], &[0x5a; 20]].concat();
        for good in [
            hello.clone(),
            two_messages,
            sealed.clone(),
            record(21, 0, &[2, 40]),
            record(20, 0, &[1]),
            unified.clone(),
            vec![0x22; 40],
            [&hello[..], &unified, &sealed].concat(),
        ] {
            assert!(plausible(&good), "{good:02x?}");
        }
        for bad in [
            vec![],
            vec![22],
            vec![0x80; 40],
            vec![22; 40],
            hello[..hello.len() - 1].to_vec(),
            [&hello[..], &[0]].concat(),
            record(22, 0, &[0x5a; 60]),
            record(22, 0, &[]),
            record(22, 0, &message[..13]),
            record(22, 0, &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 7, 7]),
            record(23, 0, b"plain"),
            unified[..24].to_vec(),
            vec![0x3e; 40],
            vec![0x2e],
        ] {
            assert!(!plausible(&bad), "{bad:02x?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_can_be_looked_at(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80),
                                      start in proptest::sample::select(vec![20u8, 22, 23, 0x2c, 0x24])) {
            if bytes.len() > 13 {
                bytes[0] = start;
                bytes[1] = 0xfe;
            }
            let claimed = record_len(&bytes);
            proptest::prop_assert!(claimed.is_none_or(|len| len > 0 && len <= bytes.len()));
        }
    }

    #[test]
    fn versions_are_read_as_the_configuration_spells_them() {
        for (text, expected) in [
            ("1.2", Ok(DtlsVersion::V12)),
            ("1.3", Ok(DtlsVersion::V13)),
            ("auto", Ok(DtlsVersion::Auto)),
            ("1.1", Err(UnknownVersion)),
        ] {
            assert_eq!(text.parse(), expected);
        }
    }
}

//! TLS of the client port: the operator's certificate, or a self-signed one made on first start.
//!
//! The self-signed certificate is kept in `<data dir>/tls/`, with a note of its names and expiry; it is made anew when the
//! names changed or the end is near. 397 days, so that no platform refuses it for its length.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, SanType};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::date::Date;
use crate::private_file;

/// Days a self-signed certificate is valid.
const VALID_DAYS: u64 = 397;
/// It is replaced when fewer days are left.
const RENEW_DAYS: u64 = 30;
const DAY_S: u64 = 86_400;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or key.
    #[error("{path}: {message}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The certificate cannot be made.
    #[error("making a self-signed certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not go together.
    #[error("certificate and key: {0}")]
    Use(#[from] rustls::Error),
}

/// Acceptor with the configured or self-made certificate. `now_s`: Unix time.
///
/// # Errors
/// [`TlsError`] with the file at fault.
pub fn acceptor(config: &Config, now_s: u64) -> Result<TlsAcceptor, TlsError> {
    let (cert, key) = match &config.tls {
        Some(files) => (files.cert.clone(), files.key.clone()),
        None => self_signed(&config.data_dir.join("tls"), &names(config), now_s)?,
    };
    let chain = read_chain(&cert)?;
    let key = PrivateKeyDer::from_pem_file(&key)
        .map_err(|e| TlsError::Pem { path: key, message: e.to_string() })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |message: String| TlsError::Pem { path: path.to_owned(), message };
    let items = CertificateDer::pem_file_iter(path).map_err(|e| bad(e.to_string()))?;
    let chain: Vec<_> = items.collect::<Result<_, _>>().map_err(|e| bad(e.to_string()))?;
    if chain.is_empty() { Err(bad("no certificate in it".into())) } else { Ok(chain) }
}

/// Names the certificate shall be good for: the public one, the listener's, loopback.
fn names(config: &Config) -> Vec<String> {
    let public = config.public.host.trim_matches(['[', ']']).to_owned();
    let mut names = vec![public, "localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !config.listen.ip().is_unspecified() {
        names.push(config.listen.ip().to_string());
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// What is remembered about the self-made certificate.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    names: Vec<String>,
    not_after_s: u64,
}

/// Paths of a valid self-signed certificate and its key in `dir`; made if need be.
fn self_signed(dir: &Path, names: &[String], now_s: u64) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key, note) = (dir.join("cert.pem"), dir.join("key.pem"), dir.join("note.json"));
    if cert.is_file() && key.is_file() && is_good(&note, names, now_s) {
        return Ok((cert, key));
    }
    let file = |path: &Path| {
        let path = path.to_owned();
        move |source| TlsError::File { path, source }
    };
    let (cert_pem, key_pem) = make(names, now_s)?;
    fs::create_dir_all(dir).map_err(file(dir))?;
    private_file::write(&key, &key_pem).map_err(file(&key))?;
    fs::write(&cert, cert_pem).map_err(file(&cert))?;
    let new = Note { names: names.to_owned(), not_after_s: now_s + VALID_DAYS * DAY_S };
    let text = serde_json::to_string(&new).expect("a note is plain data");
    fs::write(&note, text).map_err(file(&note))?;
    Ok((cert, key))
}

fn is_good(note: &Path, names: &[String], now_s: u64) -> bool {
    let note = fs::read_to_string(note).ok().and_then(|text| serde_json::from_str::<Note>(&text).ok());
    note.is_some_and(|n| n.names == names && n.not_after_s > now_s + RENEW_DAYS * DAY_S)
}

fn make(names: &[String], now_s: u64) -> Result<(String, String), TlsError> {
    let mut params = CertificateParams::new(Vec::new())?;
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "Weir (self-signed)");
    params.distinguished_name = subject;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let (from, until) =
        (Date::from_unix(now_s.saturating_sub(DAY_S)), Date::from_unix(now_s + VALID_DAYS * DAY_S));
    params.not_before = rcgen::date_time_ymd(from.year, from.month, from.day);
    params.not_after = rcgen::date_time_ymd(until.year, until.month, until.day);
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_self_signed_certificate_is_kept_until_names_or_time_change() {
        let dir = std::env::temp_dir().join(format!("weir-tls-{}", std::process::id()));
        let (now, names) = (1_800_000_000, vec!["example.org".to_owned(), "::1".to_owned()]);
        let (cert, key) = self_signed(&dir, &names, now).unwrap();
        let first = fs::read(&cert).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read_chain(&cert).unwrap().len(), 1);
        self_signed(&dir, &names, now + 300 * DAY_S).unwrap();
        assert_eq!(fs::read(&cert).unwrap(), first, "kept");
        self_signed(&dir, &names, now + 370 * DAY_S).unwrap();
        let second = fs::read(&cert).unwrap();
        assert_ne!(second, first, "renewed");
        self_signed(&dir, &names[..1], now + 370 * DAY_S).unwrap();
        assert_ne!(fs::read(&cert).unwrap(), second, "other names");
        assert!(matches!(read_chain(&key), Err(TlsError::Pem { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}

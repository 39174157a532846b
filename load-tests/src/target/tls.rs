//! TLS to servers that run already: whose certificates are trusted, and what to do about one that is not.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where Linux distributions keep the platform's CAs: Debian, Fedora, older Fedora, openSUSE, Alpine.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Whose certificates are taken.
#[derive(Clone)]
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
}

impl Trust {
    /// Nobody's: for targets that are started here, which speak without TLS.
    pub(crate) fn nobody() -> Result<Trust> {
        Trust::roots(RootCertStore::empty())
    }

    /// Those of the CAs in a PEM file, or those that are in it themselves.
    ///
    /// # Errors
    /// When there is no certificate in it.
    pub(crate) fn file(path: &Path) -> Result<Trust> {
        let read = || -> Result<RootCertStore> {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_file_iter(path)? {
                roots.add(certificate?)?;
            }
            anyhow::ensure!(!roots.is_empty(), "no certificate in it");
            Ok(roots)
        };
        Trust::roots(read().with_context(|| format!("--ca {}", path.display()))?)
    }

    /// Those of the platform's CAs, in the file that `SSL_CERT_FILE` names or in a usual place; none where there is no file.
    pub(crate) fn platform() -> Result<Trust> {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let path = named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.is_file()));
        let mut roots = RootCertStore::empty();
        if let Some(path) = path {
            let all = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            roots.add_parsable_certificates(all.with_context(|| path.display().to_string())?);
        }
        Trust::roots(roots)
    }

    /// Anybody's.
    pub(crate) fn anybody() -> Result<Trust> {
        let provider = aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Ok(Trust { config: Arc::new(config) })
    }

    /// The provider is named: in a build of the whole workspace rustls has two to choose from.
    fn roots(roots: RootCertStore) -> Result<Trust> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Trust { config: Arc::new(config) })
    }

    /// Connects HTTP/1.1 requests, with TLS where the address says https.
    pub(crate) fn http(&self) -> HttpsConnector<HttpConnector> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(ClientConfig::clone(&self.config))
            .https_or_http()
            .enable_http1()
            .wrap_connector(http)
    }

    /// The client's part of a handshake with `host`, a name or an address.
    pub(crate) async fn handshake(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).with_context(|| format!("host {host}"))?;
        Ok(TlsConnector::from(self.config.clone()).connect(name, stream).await?)
    }
}

/// Puts the remedy before an error that came of TLS.
pub(crate) fn explained(error: anyhow::Error) -> anyhow::Error {
    match cause(error.as_ref()) {
        Some(rustls::Error::InvalidCertificate(_)) => error.context(
            "the server's certificate is not trusted (--ca FILE names its CA, --insecure takes any certificate)",
        ),
        Some(rustls::Error::InvalidMessage(_)) => {
            error.context("the server does not speak TLS there (http:// and ws:// are without)")
        }
        _ => error,
    }
}

/// What rustls said, however it is wrapped: an `io::Error` leaves what it wraps out of its sources.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let next: Option<&'a (dyn Error + 'static)> = match wrapped {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    };
    next.and_then(cause)
}

/// Accepts every certificate, but checks that the peer has its key.
#[derive(Debug)]
struct AnyCertificate(CryptoProvider);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! A certificate as Weir makes it for itself, and the server's side of a handshake.

    use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
    use rustls::ServerConfig;
    use rustls_pki_types::PrivateKeyDer;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// An acceptor for localhost and 127.0.0.1, and its certificate as PEM.
    pub(crate) fn self_signed() -> (TlsAcceptor, String) {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        (TlsAcceptor::from(Arc::new(config)), certificate.pem())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::process::Scratch;

    #[test]
    fn a_ca_file_without_certificates_is_refused_by_name() {
        let scratch = Scratch::new("ca").unwrap();
        let (file, missing) = (scratch.file("ca.pem"), scratch.file("missing.pem"));
        for (content, reason) in [("", "no certificate"), ("-----BEGIN CERTIFICATE-----\nAA==\n", "--ca")] {
            std::fs::write(&file, content).unwrap();
            let error = format!("{:#}", Trust::file(&file).err().expect("refused"));
            assert!(error.contains(reason) && error.contains("ca.pem"), "{error}");
        }
        assert!(format!("{:#}", Trust::file(&missing).err().expect("refused")).contains("missing.pem"));
        std::fs::write(&file, testing::self_signed().1).unwrap();
        Trust::file(&file).unwrap();
    }

    #[test]
    fn the_remedy_is_found_under_wrappings() {
        let bad = || rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = std::io::Error::other(std::io::Error::other(bad()));
        let text = format!("{:#}", explained(anyhow::Error::new(wrapped).context("POST sessions")));
        assert!(text.contains("--ca FILE") && text.contains("POST sessions"), "{text}");
        let other = explained(std::io::Error::other("refused").into());
        assert_eq!(other.to_string(), "refused");
    }
}

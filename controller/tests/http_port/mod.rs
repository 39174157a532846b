//! What tests of the client port share: a server on an ephemeral loopback port whose shell is played by the test, and
//! clients for it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use controller::config::{Config, Surroundings};
use controller::engine::RestResponse;
use controller::http::{Event, Patience, Server, Shared, tls};
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

pub(crate) const NOW_S: u64 = 1_800_000_000;

pub(crate) fn now_ms() -> u64 {
    NOW_S * 1000
}

pub(crate) struct Running {
    pub(crate) port: u16,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) stop: watch::Sender<bool>,
    pub(crate) done: tokio::task::JoinHandle<()>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) async fn start(name: &str, vars: &[(&str, &str)]) -> Running {
    start_with(name, vars, Patience::default()).await
}

/// With other time limits.
pub(crate) async fn start_with(name: &str, vars: &[(&str, &str)], patience: Patience) -> Running {
    let dir = std::env::temp_dir().join(format!("weir-http-{name}-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("cdr")).unwrap();
    let mut environment: BTreeMap<String, String> =
        vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    environment.insert("WEIR_LISTEN".into(), "127.0.0.1:0".into());
    environment.insert("WEIR_DATA_DIR".into(), dir.display().to_string());
    environment.insert("OPENVIDU_CDR_PATH".into(), dir.join("cdr").display().to_string());
    let around = Surroundings { environment, directory: dir.clone(), ..Surroundings::default() };
    let config = Arc::new(Config::load(&around).unwrap());
    let (sender, events) = mpsc::channel(16);
    let tls = tls::acceptor(&config, NOW_S).unwrap();
    let mut shared = Shared::new(config, sender);
    shared.patience = patience;
    let shared = Arc::new(shared);
    let server = Server::bind(shared.clone(), tls, now_ms).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let (stop, stopped) = watch::channel(false);
    let done = tokio::spawn(server.run(stopped));
    Running { port, events, stop, done, shared, dir }
}

/// A server whose shell answers every REST request with 200 and what it was asked.
pub(crate) async fn start_echo(name: &str) -> (Running, tokio::task::JoinHandle<()>) {
    let mut running = start(name, &[]).await;
    let mut events = std::mem::replace(&mut running.events, mpsc::channel(1).1);
    let shell = tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if let Event::Rest { request, reply } = event {
                let asked = json!({"method": request.method, "path": request.path, "query": request.query,
                                   "body": request.body});
                let _ = reply.send(RestResponse { status: 200, body: Some(asked) });
            }
        }
    });
    (running, shell)
}

pub(crate) fn basic(secret: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("OPENVIDUAPP:{secret}")))
}

pub(crate) async fn send(port: u16, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.unwrap().into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

pub(crate) fn request(
    method: Method,
    path: &str,
    auth: Option<&str>,
    body: impl Into<Bytes>,
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri(path).header("host", "localhost");
    if let Some(auth) = auth {
        builder = builder.header("authorization", auth);
    }
    builder.body(Full::new(body.into())).unwrap()
}

pub(crate) fn body_json(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

#[derive(Debug)]
struct AnyCertificate(rustls::crypto::CryptoProvider);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) async fn tls_stream(port: u16, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

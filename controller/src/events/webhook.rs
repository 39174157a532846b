//! The webhook: one POST at a time, in strict order.
//!
//! Only 200 is success. Any other status is logged and the event dropped; no answer at all (refused, reset, timed out) is
//! tried again at once, five times in all. Any certificate is accepted, as the contract has it: the endpoint is the
//! operator's own.
//!
//! At least once: the cursor moves on behind each event, a moment later on disk, so that after a crash the last events may
//! be sent again. An event that was given up is done with, too: an endpoint that is away for good makes nothing pile up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;

use super::Feed;
use crate::config;
use crate::log::LoggedEvent;

/// Its name as a reader of the log.
pub const READER: &str = "webhook";
/// Attempts in all.
const ATTEMPTS: u32 = 5;
/// To connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the answer, behind the connection.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are not used again after this time.
const IDLE: Duration = Duration::from_secs(30);
/// An answer's body is read up to here, so that the connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends events to one endpoint.
pub struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
}

/// Why an event was not delivered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The endpoint answered, not with 200.
    #[error("answered {0}")]
    Status(u16),
    /// No answer, in five attempts.
    #[error("no answer: {0}")]
    NoAnswer(String),
}

impl Sender {
    /// A sender for the configured endpoint.
    ///
    /// # Errors
    /// The endpoint or a header is not valid; the configuration checks both.
    pub fn new(webhook: &config::Webhook) -> anyhow::Result<Self> {
        let endpoint = webhook.endpoint.as_deref().context("OPENVIDU_WEBHOOK_ENDPOINT is empty")?;
        let endpoint = endpoint.parse().context("OPENVIDU_WEBHOOK_ENDPOINT")?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        let tls = tls_of_any_certificate()?;
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .retry_canceled_requests(false)
            .build(https);
        Ok(Self { client, endpoint, headers: headers(&webhook.headers)? })
    }

    /// Delivers one event.
    ///
    /// # Errors
    /// [`WebhookError`]; the event is lost.
    pub async fn deliver(&self, event: &LoggedEvent) -> Result<(), WebhookError> {
        let body = Bytes::from(event.webhook_body());
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.post(body.clone()).await {
                Ok(200) => return Ok(()),
                Ok(status) => return Err(WebhookError::Status(status)),
                Err(error) => last = error,
            }
        }
        Err(WebhookError::NoAnswer(last))
    }

    /// One attempt: the status, or why there is none.
    async fn post(&self, body: Bytes) -> Result<u16, String> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = self.headers.clone();
        let answered = timeout(CONNECT_TIMEOUT + ANSWER_TIMEOUT, self.client.request(request)).await;
        let answer = answered.map_err(|_| "timed out".to_owned())?.map_err(|e| chain(&e))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX);
        // The status counts; a body that breaks off only costs the connection.
        let _ = timeout(ANSWER_TIMEOUT, body.collect()).await;
        Ok(status)
    }
}

/// An error with its causes: hyper's own texts say little.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source()).map(|e| format!(": {e}"));
    format!("{error}{}", causes.collect::<String>())
}

fn headers(configured: &[(String, String)]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in configured {
        headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    let json = HeaderValue::from_static("application/json");
    if headers.get(CONTENT_TYPE) != Some(&json) {
        headers.append(CONTENT_TYPE, json);
    }
    Ok(headers)
}

fn tls_of_any_certificate() -> anyhow::Result<rustls::ClientConfig> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(config)
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
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Delivers the events named in `wanted`, until the server stops and none is left.
pub async fn run(sender: Sender, wanted: BTreeSet<String>, mut feed: Feed) {
    while let Some(events) = feed.next().await {
        for (seq, event) in events {
            if wanted.contains(&event.name)
                && let Err(error) = sender.deliver(&event).await
            {
                feed.counters.webhook_lost.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(event = event.name, endpoint = %sender.endpoint, %error, "webhook event lost");
            }
            feed.advance(seq, String::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::fake_log::FakeLog;
    use super::*;
    use crate::log::{Cursor, Log as _};
    use crate::session::EventRecord;

    fn event(n: u64) -> LoggedEvent {
        EventRecord::new("signalSent", n, json!({"sessionId": "s"})).into()
    }

    fn webhook(port: u16) -> config::Webhook {
        config::Webhook {
            enabled: true,
            endpoint: Some(format!("http://127.0.0.1:{port}/hook?x=1")),
            headers: vec![("X-A".into(), "old".into()), ("x-a".into(), "new: er".into())],
            events: BTreeSet::new(),
        }
    }

    /// Plays an endpoint: for each connection one answer out of `script`; an empty one hangs up. Returns the requests.
    async fn endpoint(script: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let mut requests = Vec::new();
            for answer in script {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"}") {
                    let mut chunk = [0; 4096];
                    let n = stream.read(&mut chunk).await.unwrap();
                    request.extend_from_slice(&chunk[..n]);
                }
                requests.push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            requests
        });
        (port, task)
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn only_a_missing_answer_is_tried_again() {
        let (port, requests) = endpoint(vec!["", "", OK, ACCEPTED, "", "", "", "", ""]).await;
        let sender = Sender::new(&webhook(port)).unwrap();
        assert!(sender.deliver(&event(1)).await.is_ok(), "third attempt");
        assert!(matches!(sender.deliver(&event(2)).await, Err(WebhookError::Status(202))));
        assert!(matches!(sender.deliver(&event(3)).await, Err(WebhookError::NoAnswer(_))), "five attempts");
        let requests = requests.await.unwrap();
        let counts: Vec<usize> = (1..=3)
            .map(|n| requests.iter().filter(|r| r.contains(&format!("\"timestamp\":{n}"))).count())
            .collect();
        assert_eq!(counts, [3, 1, 5]);
        let first = &requests[0];
        assert!(first.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{first}");
        assert!(
            first.contains("content-type: application/json\r\n") && first.contains("x-a: new: er\r\n"),
            "{first}"
        );
        assert!(!first.contains("old"), "a later header replaces an earlier one: {first}");
        assert!(first.ends_with("{\"event\":\"signalSent\",\"sessionId\":\"s\",\"timestamp\":1}"), "{first}");
    }

    #[tokio::test]
    async fn wanted_events_are_sent_in_order_behind_the_cursor() {
        let (port, requests) = endpoint(vec![OK, "", OK, ACCEPTED]).await;
        let unwanted = EventRecord::new("sessionCreated", 3, json!({})).into();
        let log = FakeLog::new(vec![event(1), event(2), unwanted, event(4), event(5)]);
        let feed = log.feed(READER, Cursor { seq: 1, note: String::new() });
        let counters = feed.counters.clone();
        run(Sender::new(&webhook(port)).unwrap(), ["signalSent".to_owned()].into(), feed).await;
        let order: Vec<String> =
            requests.await.unwrap().iter().map(|r| r.rsplit(':').next().unwrap().to_owned()).collect();
        assert_eq!(order, ["2}", "4}", "4}", "5}"]);
        assert_eq!(log.cursor(READER).seq, 5, "what was refused is done with");
        assert_eq!(counters.webhook_lost.load(Ordering::Relaxed), 1);
    }
}

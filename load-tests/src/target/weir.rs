//! Weir over REST and JSON-RPC, as an OpenVidu application and its browsers speak to it.
//!
//! Started here it is a controller and a media node, two processes, so that the media node's CPU is its own.

mod socket;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use base64::Engine as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use self::socket::{Socket, streams_of};
use super::process::{Launch, Process, Scratch, until_ready};
use super::tls::{Trust, explained};
use super::{Joined, Offer, Participant, PcKey, Placement, StreamRef, Target};
use crate::cli::Reactor;

/// How long a started Weir may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Receive slots of the media node: full resend caches for some 140 rooms of seven.
const SLOTS_PER_CORE: u32 = 1 << 17;

/// A Weir, ours or somebody's.
pub(crate) struct Weir {
    url: String,
    secret: String,
    reactor: Option<Reactor>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    trust: Trust,
    running: Option<Running>,
}

struct Running {
    node: Process,
    controller: Process,
}

impl Weir {
    /// `url`: of a server that runs already; else [`Target::start`] starts one.
    pub(crate) fn new(url: Option<String>, secret: String, reactor: Option<Reactor>, trust: Trust) -> Weir {
        let client = Client::builder(TokioExecutor::new()).build(trust.http());
        let url = url.unwrap_or_default().trim_end_matches('/').to_owned();
        Weir { url, secret, reactor, client, trust, running: None }
    }

    /// One REST call; its JSON.
    async fn rest(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        self.ask(&method, path, body)
            .await
            .map_err(|error| explained(error.context(format!("{method} {path}"))))
    }

    async fn ask(&self, method: &Method, path: &str, body: Option<Value>) -> Result<Value> {
        let credentials =
            base64::engine::general_purpose::STANDARD.encode(format!("OPENVIDUAPP:{}", self.secret));
        let request = Request::builder()
            .method(method.clone())
            .uri(format!("{}/openvidu/api/{path}", self.url))
            .header("authorization", format!("Basic {credentials}"))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))?;
        let answer = tokio::time::timeout(super::REQUEST_TIMEOUT, self.client.request(request)).await;
        let answer = answer.context("no answer in time")??;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.context("reading an answer")?.to_bytes();
        anyhow::ensure!(status.is_success(), "{status} {}", String::from_utf8_lossy(&bytes));
        Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

fn secret_of_ours() -> String {
    format!("load-tests-{:016x}", rand::random::<u64>())
}

/// The binary: `WEIR_BIN`, or the release build beside this program; built if it is missing.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("WEIR_BIN") {
        return Ok(PathBuf::from(path));
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().unwrap_or(here);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let binary = target.join("release/weir");
    if !binary.exists() {
        eprintln!("load-tests: building {}", binary.display());
        let status = std::process::Command::new("cargo")
            .args(["build", "--release", "--package", "controller", "--bin", "weir"])
            .current_dir(root)
            .status()
            .context("running cargo")?;
        anyhow::ensure!(status.success(), "cargo build: {status}");
    }
    Ok(binary)
}

#[async_trait]
impl Target for Weir {
    fn label(&self) -> String {
        match self.reactor {
            Some(reactor) => format!("weir {}", reactor.name()),
            None => "weir".to_owned(),
        }
    }

    fn options(&self) -> Vec<(String, String)> {
        // The node takes it from our environment.
        let send_path = std::env::var("WEIR_SEND_PATH").unwrap_or_else(|_| "auto".to_owned());
        vec![("send_path".to_owned(), send_path), ("slots_per_core".to_owned(), SLOTS_PER_CORE.to_string())]
    }

    async fn start(&mut self, placement: &Placement) -> Result<()> {
        let binary = binary()?;
        let scratch = Scratch::new("weir")?;
        let address = placement.address;
        // The well-known one is refused off loopback.
        self.secret = secret_of_ours();
        let (rest, control) = (placement.tcp_port, placement.tcp_port + 1);
        let secret = secret_of_ours();
        let cpus: Vec<String> = placement.cores.iter().map(usize::to_string).collect();
        let option = |name: &str, value: String| (name.to_owned(), value);
        let mut node = vec![
            option("WEIR_NODE_LISTEN", format!("{address}:{control}")),
            option("WEIR_CLUSTER_SECRET", secret.clone()),
            option("WEIR_MEDIA_ADDRESSES", placement.media.to_string()),
            option("WEIR_MEDIA_PORT", placement.udp_port.to_string()),
            option("WEIR_CORES", placement.cores.len().to_string()),
            option("WEIR_CPUS", cpus.join(",")),
            option("WEIR_SLOTS_PER_CORE", SLOTS_PER_CORE.to_string()),
        ];
        node.extend(self.reactor.map(|reactor| option("WEIR_REACTOR", reactor.name().to_owned())));
        let launch = |arguments: Vec<String>, environment, cores, nice, log| Launch {
            program: &binary,
            arguments,
            environment,
            cores,
            netns: placement.netns.as_deref(),
            nice,
            scratch: &scratch,
            log,
        };
        let nice = placement.nice;
        let node = Process::start(launch(vec!["node".into()], node, &placement.cores, nice, "node.log"))?;
        let data = scratch.file("data");
        let controller = vec![
            option("WEIR_LISTEN", format!("{address}:{rest}")),
            option("WEIR_DATA_DIR", data.display().to_string()),
            option("WEIR_CLUSTER_SECRET", secret),
            option("OPENVIDU_SECRET", self.secret.clone()),
            option("FORCE_PLAIN_HTTP", "true".into()),
            option("DOMAIN_OR_PUBLIC_IP", address.to_string()),
            option("HTTPS_PORT", rest.to_string()),
            option("KMS_URIS", format!("[\"ws://{address}:{control}/kurento\"]")),
        ];
        let cores = &placement.control_cores;
        let controller =
            Process::start(launch(vec!["controller".into()], controller, cores, 0, "controller.log"))?;
        self.url = format!("http://{address}:{rest}");
        let mut running = Running { node, controller };
        let ready =
            until_ready(READY_TIMEOUT, &mut [&mut running.node, &mut running.controller], async || {
                self.rest(Method::GET, "health", None).await.map(drop)
            })
            .await;
        self.running = Some(running);
        ready
    }

    async fn stop(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.controller.stop().await;
            running.node.stop().await;
        }
        Ok(())
    }

    fn media_pids(&self) -> Vec<u32> {
        self.running.iter().map(|running| running.node.pid()).collect()
    }

    fn control_pids(&self) -> Vec<u32> {
        self.running.iter().map(|running| running.controller.pid()).collect()
    }

    async fn create_room(&self, name: &str) -> Result<String> {
        let session = self.rest(Method::POST, "sessions", Some(json!({ "customSessionId": name }))).await?;
        text(&session, "id")
    }

    async fn join(&self, room: &str, name: &str, publishes: bool) -> Result<Joined> {
        let role = if publishes { "PUBLISHER" } else { "SUBSCRIBER" };
        let path = format!("sessions/{room}/connection");
        let connection = self.rest(Method::POST, &path, Some(json!({ "role": role }))).await?;
        join(&text(&connection, "token")?, room, name, &self.trust).await
    }

    async fn close_room(&self, room: &str) -> Result<()> {
        self.rest(Method::DELETE, &format!("sessions/{room}"), None).await.map(drop)
    }

    async fn witness_token(&self, room: &str) -> Result<Option<String>> {
        let path = format!("sessions/{room}/connection");
        let connection = self.rest(Method::POST, &path, Some(json!({ "role": "PUBLISHER" }))).await?;
        text(&connection, "token").map(Some)
    }
}

/// Connects with a token as `openvidu-browser` does.
async fn join(token: &str, room: &str, name: &str, trust: &Trust) -> Result<Joined> {
    let (scheme, rest) = token.split_once("://").context("a token is a URL")?;
    let host = rest.split(['?', '/']).next().unwrap_or_default();
    let (socket, events) =
        Socket::connect(&format!("{scheme}://{host}/openvidu?sessionId={room}"), trust).await?;
    let request = json!({
        "token": token, "session": room, "platform": "load-tests", "sdkVersion": "2.32.2",
        "metadata": json!({ "clientData": name }).to_string(), "secret": "", "recorder": false, "stt": false,
    });
    let joined = socket.request("joinRoom", request).await?;
    let id = text(&joined, "id")?;
    let streams = joined["value"].as_array().into_iter().flatten().flat_map(streams_of).collect();
    Ok(Joined { id, streams, participant: Box::new(User { socket }), events })
}

/// One participant's signaling.
struct User {
    socket: Socket,
}

#[async_trait]
impl Participant for User {
    async fn publish(&mut self, offer: &str) -> Result<String> {
        let request = json!({
            "sdpOffer": offer, "doLoopback": false, "hasAudio": true, "hasVideo": true, "audioActive": true,
            "videoActive": true, "typeOfVideo": "CAMERA", "frameRate": 30,
            "videoDimensions": json!({ "width": 540, "height": 360 }).to_string(),
        });
        text(&self.socket.request("publishVideo", request).await?, "sdpAnswer")
    }

    async fn subscribe(&mut self, stream: &StreamRef) -> Result<Option<Offer>> {
        let request = json!({ "sender": stream.id, "reconnect": false });
        let prepared = self.socket.request("prepareReceiveVideoFrom", request).await?;
        Ok(Some(Offer { pc: stream.id.clone(), sdp: text(&prepared, "sdpOffer")? }))
    }

    async fn answer(&mut self, pc: &PcKey, answer: &str) -> Result<()> {
        let request = json!({ "sender": pc, "sdpAnswer": answer });
        self.socket.request("receiveVideoFrom", request).await.map(drop)
    }

    async fn leave(&mut self) -> Result<()> {
        self.socket.request("leaveRoom", json!({})).await.map(drop)
    }
}

fn text(value: &Value, key: &str) -> Result<String> {
    Ok(value[key].as_str().with_context(|| format!("no \"{key}\" in {value}"))?.to_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{SinkExt as _, StreamExt as _};
    use hyper::Response;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsAcceptor;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;
    use crate::target::tls;

    /// Needs a built `weir`, named by `WEIR_BIN`; says so and passes without.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_users_see_each_other_through_a_real_weir() {
        if std::env::var_os("WEIR_BIN").is_none() {
            eprintln!("skipped: no WEIR_BIN");
            return;
        }
        let mut weir = Weir::new(None, String::new(), None, Trust::nobody().unwrap());
        crate::target::testing::two_users_see_each_other(&mut weir, 25_200, 35_200).await;
    }
    /// Answers every REST call as `POST sessions` and `POST connection` are answered, and takes one `joinRoom`.
    async fn serve(acceptor: TlsAcceptor) -> (String, JoinHandle<()>) {
        let (rest, rpc) = (listen().await, listen().await);
        let url = format!("https://{}/", rest.local_addr().unwrap());
        let token = format!("wss://{}?sessionId=x&token=tok_1", rpc.local_addr().unwrap());
        let body = json!({ "id": "x", "token": token }).to_string();
        let calls = acceptor.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = rest.accept().await.unwrap();
                // Who does not trust us hangs up.
                let Ok(stream) = calls.accept(stream).await else { continue };
                let answer = |_| std::future::ready(Ok::<_, Infallible>(Response::new(body.clone())));
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            }
        });
        tokio::spawn(async move {
            let (stream, _) = rpc.accept().await.unwrap();
            let stream = acceptor.accept(stream).await.unwrap();
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                let asked: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
                let others = json!([{ "id": "con_b", "streams": [{ "id": "str_b" }] }, { "id": "con_c" }]);
                let result = json!({ "id": "con_a", "value": others });
                let answer = json!({ "jsonrpc": "2.0", "id": asked["id"], "result": result });
                socket.send(Message::text(answer.to_string())).await.unwrap();
            }
        });
        (url, serving)
    }

    async fn listen() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    #[tokio::test]
    async fn a_weir_with_a_certificate_of_its_own_is_joined_by_who_trusts_it() {
        let (acceptor, certificate) = tls::testing::self_signed();
        let scratch = Scratch::new("certificate").unwrap();
        std::fs::write(scratch.file("cert.pem"), certificate).unwrap();
        for trust in [Trust::file(&scratch.file("cert.pem")).unwrap(), Trust::anybody().unwrap()] {
            let (url, serving) = serve(acceptor.clone()).await;
            let weir = Weir::new(Some(url), "secret".into(), None, trust);
            let room = weir.create_room("x").await.unwrap();
            let joined = weir.join(&room, "a", false).await.unwrap();
            assert_eq!(joined.id, "con_a");
            assert_eq!(joined.streams, [StreamRef { id: "str_b".into(), publisher: "con_b".into() }]);
            serving.abort();
        }
        let (url, _) = serve(acceptor).await;
        for (url, trust, remedy) in [
            (url.clone(), Trust::nobody().unwrap(), "--ca FILE"),
            (url, Trust::platform().unwrap(), "--insecure"),
            (plain().await, Trust::anybody().unwrap(), "does not speak TLS"),
        ] {
            let weir = Weir::new(Some(url), "secret".into(), None, trust);
            let error = format!("{:#}", weir.create_room("x").await.unwrap_err());
            assert!(error.contains(remedy) && error.contains("POST sessions"), "{error}");
        }
    }

    /// `https://` address of a server without TLS.
    async fn plain() -> String {
        let listener = listen().await;
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await
        });
        url
    }
}

//! The same through real HTTP: server, shell and store on one core, clients with kept connections on another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use controller::config::Config;
use controller::engine::{NodeError, NodeOrder};
use controller::http::{Server, Shared, tls};
use controller::ids::NodeId;
use controller::rest::info::ServerInfo;
use controller::shell::durable::Durable;
use controller::shell::{Inputs, Nodes, QUEUE_INPUTS_MAX, Shell};
use controller::store::RedbStore;
use sfu_core::control::proto::Op;
use sfu_core::reactor::thread::pin;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::{Dir, Watch, config, now_ms};

/// Clients with one kept connection each.
const CLIENTS: usize = 64;
/// OPENVIDUAPP:MY_SECRET.
const AUTHORIZATION: &str = "Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU";

struct NoNodes;

impl Nodes for NoNodes {
    fn apply(&mut self, _: &NodeId, _: u64, _: String, _: Vec<Op>) -> Result<(), NodeError> {
        Err(NodeError::lost("no nodes in this benchmark"))
    }

    fn order(&mut self, _: NodeOrder) {}

    fn can_discover(&self) -> bool {
        false
    }
}

/// Pairs per second that were answered to clients on `client_cpu`; everything else runs on `server_cpu`.
///
/// # Errors
/// The server does not come up.
pub fn pairs_per_second(
    dir: &Dir,
    time: Duration,
    server_cpu: usize,
    client_cpu: usize,
) -> anyhow::Result<f64> {
    let config = config(dir.path())?;
    let path = dir.path().join("weir.redb");
    let (port_in, port) = std::sync::mpsc::channel();
    let (stop, stopped) = watch::channel(false);
    let server = std::thread::spawn(move || -> anyhow::Result<()> {
        // Threads that this one starts, the store's among them, stay on its core.
        pin(server_cpu)?;
        runtime()?.block_on(serve(config, &path, port_in, stopped))
    });
    let port = port.recv().context("the server ended")?;
    pin(client_cpu)?;
    let rate = runtime()?.block_on(drive(port, time));
    stop.send_replace(true);
    server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
    rate
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn serve(
    config: Arc<Config>,
    path: &std::path::Path,
    port: std::sync::mpsc::Sender<u16>,
    stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (http_events, http) = mpsc::channel(QUEUE_INPUTS_MAX);
    let shared = Arc::new(Shared::new(config.clone(), http_events));
    let server = Server::bind(shared.clone(), tls::acceptor(&config, now_ms() / 1000)?, now_ms).await?;
    port.send(server.local_addr()?.port())?;
    let (durable, sinks, earlier) = Durable::open(Arc::new(RedbStore::open(path)?), &config, now_ms())?;
    let info = ServerInfo { start_ms: 0, restarts: 0, last_restart_ms: 0, cluster_id: "bench".into() };
    let mut shell = Shell::new(shared, info, Box::new(NoNodes), (durable, sinks), Box::new(|_| Ok(())));
    shell.restore(&earlier)?;
    let (_engine_in, engine) = mpsc::channel(1);
    let inputs = Inputs { http, engine, stop: stopped.clone() };
    tokio::spawn(server.run(stopped));
    shell.run(inputs).await;
    Ok(())
}

async fn drive(port: u16, time: Duration) -> anyhow::Result<f64> {
    let pairs = Arc::new(AtomicU64::new(0));
    let watch = Watch::start();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(client(port, pairs.clone()))).collect();
    tokio::time::sleep(time).await;
    let rate = pairs.load(Ordering::Relaxed) as f64 / watch.time().as_secs_f64();
    for client in clients {
        if client.is_finished() {
            client.await??;
        } else {
            client.abort();
        }
    }
    Ok(rate)
}

async fn client(port: u16, pairs: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let session = post(&mut stream, &mut buffer, "sessions", "{}").await?;
        let id = member(&session, "\"id\":\"").context("no id")?;
        let path = format!("sessions/{id}/connection");
        post(&mut stream, &mut buffer, &path, "{\"data\":\"user\"}").await?;
        pairs.fetch_add(1, Ordering::Relaxed);
    }
}

/// Posts and returns the body of the answer.
async fn post(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    path: &str,
    body: &str,
) -> anyhow::Result<String> {
    let request = format!(
        "POST /openvidu/api/{path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {AUTHORIZATION}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            anyhow::bail!("the server closed the connection");
        }
        let text = std::str::from_utf8(buffer)?;
        let Some((head, got)) = text.split_once("\r\n\r\n") else { continue };
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let length: usize = length.context("no length")?.trim().parse()?;
        if got.len() >= length {
            return Ok(got.to_owned());
        }
    }
}

fn member<'a>(body: &'a str, before: &str) -> Option<&'a str> {
    body.split(before).nth(1)?.split('"').next()
}

//! The server: adapters started around the shell, and everything ended again in order.
//!
//! ```text
//! start: data directory ─▶ certificate ─▶ port ─▶ event log ─▶ shell ─▶ links ─▶ media node ─▶ start-up lines
//! end:   no new connections ─▶ sessions end, clients and webhook hear of it ─▶ media node ─▶ process
//! ```

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use controller::config::{Config, ConfigError, Secret, Surroundings};
use controller::engine::{ApiError, Input, NodeError};
use controller::events::EventLog;
use controller::http::{Server, Shared, tls};
use controller::ids::NodeId;
use controller::node_link::{LinkConfig, LinkEvent, NodeLinks, NodeUri};
use controller::rest::{info::ServerInfo, restart};
use controller::shell::{self, Inputs, QUEUE_INPUTS_MAX, Shell};
use controller::store::{Identity, Restarts, Store};
use serde_json::Value;
use sfu_core::control::proto::{NodeInfo, Op};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::child::Child;

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Controller and a media node as a child process.
    Everything,
    /// Controller.
    ControllerOnly,
}

/// Why the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// `POST /restart`.
    Restart,
}

/// How long the media node may take to come up before the start-up lines are printed without it.
const NODE_START: Duration = Duration::from_secs(10);
/// How long the adapters may take to end.
const ADAPTERS_END: Duration = Duration::from_secs(3);
/// Pause between the answer to `POST /restart` and the end, so that the answer gets out.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Runs the server until a signal or a restart.
pub(crate) async fn run(
    config: Config,
    restarts: Restarts,
    around: Surroundings,
    mode: Mode,
) -> anyhow::Result<End> {
    let store = Arc::new(Store::open(&config.data_dir)?);
    let identity = store.identity()?;
    let config = Arc::new(config);
    let start_ms = shell::now_ms();
    let (http_events, http_queue) = mpsc::channel(QUEUE_INPUTS_MAX);
    let shared = Arc::new(Shared::new(config.clone(), http_events));
    let tls = tls::acceptor(&config, start_ms / 1000)?;
    let bind = || format!("cannot listen on {}", config.listen);
    let server = Server::bind(shared.clone(), tls, shell::now_ms).await.with_context(bind)?;
    let log = EventLog::start(&config, start_ms)?;

    let (stop, stopped) = watch::channel(false);
    let (engine_in, engine_queue) = mpsc::channel(QUEUE_INPUTS_MAX);
    let (link_events, link_queue) = mpsc::channel(QUEUE_INPUTS_MAX);
    let (restart_asked, mut restart_wanted) = mpsc::channel(1);
    let info = server_info(&config, &restarts, &identity, start_ms);
    let restart = restart_handler(store.clone(), restarts, around, restart_asked);
    let nodes = nodes(&config, &identity, mode, link_events).await?;
    let shell = Shell::new(shared, info, Box::new(nodes.links), log, restart);
    let inputs = Inputs { http: http_queue, engine: engine_queue, stop: stopped.clone() };

    let (first_up, up) = oneshot::channel();
    let forwarding = tokio::spawn(forward(link_queue, engine_in, first_up));
    let serving = tokio::spawn(server.run(stopped));
    let deciding = tokio::spawn(shell.run(inputs));
    let node =
        if mode == Mode::Everything { timeout(NODE_START, up).await.ok().and_then(Result::ok) } else { None };
    print_start(&config, node.as_deref(), mode);

    let end = tokio::select! {
        end = signals() => end?,
        Some(()) = restart_wanted.recv() => {
            tokio::time::sleep(RESTART_PAUSE).await;
            End::Restart
        }
    };
    if let Some(child) = &nodes.child {
        child.expect_end();
    }
    stop.send_replace(true);
    let adapters = async { tokio::join!(deciding, serving) };
    if timeout(ADAPTERS_END, adapters).await.is_err() {
        tracing::warn!("connections were still open at the end");
    }
    forwarding.abort();
    if let Some(child) = nodes.child {
        child.stop().await;
    }
    Ok(end)
}

/// Until SIGINT or SIGTERM.
async fn signals() -> anyhow::Result<End> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(End::Stopped)
}

struct NodeSet {
    links: Links,
    child: Option<Child>,
}

/// Starts the child where there is one, and links to every node.
async fn nodes(
    config: &Config,
    identity: &Identity,
    mode: Mode,
    events: mpsc::Sender<LinkEvent>,
) -> anyhow::Result<NodeSet> {
    let secret = config.cluster.secret.clone().unwrap_or_else(|| Secret::new(&identity.cluster_secret));
    let mut link = LinkConfig::new(secret.expose());
    link.load_interval = Duration::from_secs(config.cluster.load_interval_s);
    let mut links = NodeLinks::new(link, events);
    for uri in &config.cluster.kms_uris {
        let parsed: NodeUri = uri.parse().with_context(|| format!("KMS_URIS: {uri}"))?;
        links.connect(NodeId::from(node_name(uri)), parsed);
    }
    if mode == Mode::ControllerOnly {
        return Ok(NodeSet { links: Links { links, child: None }, child: None });
    }
    let child = Child::start(config, &secret).await?;
    let node = NodeId::from("media_local");
    links.connect(node.clone(), child.uri());
    Ok(NodeSet { links: Links { links, child: Some(node) }, child: Some(child) })
}

/// A node id that stays the same over restarts of the controller.
fn node_name(uri: &str) -> String {
    let plain: String = uri.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("media_{}", plain.trim_start_matches("wss___").trim_start_matches("ws___"))
}

/// The links as the shell uses them.
struct Links {
    links: NodeLinks,
    /// The child process, which ends with us; other nodes go on.
    child: Option<NodeId>,
}

impl shell::Nodes for Links {
    fn apply(&mut self, node: &NodeId, token: u64, room: String, ops: Vec<Op>) -> Result<(), NodeError> {
        self.links.apply(node, token, room, ops)
    }

    fn stop(&mut self) {
        if let Some(error) = self.child.as_ref().and_then(|child| self.links.shutdown(child).err()) {
            tracing::debug!(%error, "the media node was not asked to end");
        }
    }
}

/// Turns what happens on links into inputs; tells of the first node that comes up.
async fn forward(
    mut events: mpsc::Receiver<LinkEvent>,
    engine: mpsc::Sender<Input>,
    first_up: oneshot::Sender<Box<NodeInfo>>,
) {
    let mut first_up = Some(first_up);
    while let Some(event) = events.recv().await {
        let input = match event {
            LinkEvent::Up { node, info } => {
                let told = first_up.take().map(|first| (first, info.clone()));
                let sent = engine.send(Input::NodeUp { node, info: *info }).await;
                if let Some((first, info)) = told {
                    // Nobody may be waiting any more.
                    let _ = first.send(info);
                }
                if sent.is_err() {
                    return;
                }
                continue;
            }
            LinkEvent::Down { node } => Input::NodeDown { node },
            LinkEvent::Reply { token, result } => Input::NodeReply { token, result },
            LinkEvent::Notification { node, notification } => Input::NodeNotification { node, notification },
            LinkEvent::Unreachable { node, attempt, reason } => {
                if attempt.is_power_of_two() {
                    tracing::info!(%node, attempt, reason, "media node cannot be reached");
                }
                continue;
            }
        };
        if engine.send(input).await.is_err() {
            return;
        }
    }
}

fn server_info(config: &Config, restarts: &Restarts, identity: &Identity, start_ms: u64) -> ServerInfo {
    ServerInfo {
        start_ms,
        restarts: restarts.count,
        last_restart_ms: if restarts.count == 0 { start_ms } else { restarts.last_ms },
        cluster_id: config.cluster.id.clone().unwrap_or_else(|| identity.cluster_id.clone()),
    }
}

/// Checks the new properties as a start would, keeps them, and asks for the restart.
fn restart_handler(
    store: Arc<Store>,
    mut restarts: Restarts,
    around: Surroundings,
    asked: mpsc::Sender<()>,
) -> shell::Restart {
    Box::new(move |body: Option<&Value>| {
        let changed = restart::properties(body)?;
        let mut next = restarts.clone();
        next.properties.extend(changed);
        next.count += 1;
        next.last_ms = shell::now_ms();
        let mut around = around.clone();
        around.restarted = Some(("POST /restart".into(), next.properties.clone()));
        Config::load(&around).map_err(|ConfigError(errors)| ApiError::with(400, errors.join("; ")))?;
        store.save_restarts(&next).map_err(|error| ApiError::with(500, error.to_string()))?;
        restarts = next;
        // A restart that was asked for before is under way.
        let _ = asked.try_send(());
        Ok(())
    })
}

/// What the operator needs to know, in a few lines.
fn print_start(config: &Config, node: Option<&NodeInfo>, mode: Mode) {
    let url = config.public.http();
    println!("Weir {}", env!("CARGO_PKG_VERSION"));
    println!("  page      {url}/");
    println!("  REST API  {url}/openvidu/api  (user OPENVIDUAPP)");
    let secret = if config.secret.is_well_known() {
        format!("{} (well known: good for this machine only)", controller::config::DEFAULT_SECRET)
    } else {
        let origin = config.resolved.get("OPENVIDU_SECRET").map(|r| r.origin.to_string());
        format!("your own, from {}", origin.unwrap_or_default())
    };
    println!("  secret    {secret}");
    match (mode, node) {
        (Mode::ControllerOnly, _) => {
            println!("  nodes     {} named by KMS_URIS", config.cluster.kms_uris.len())
        }
        (Mode::Everything, Some(info)) => println!("  media     {}", media_line(info)),
        (Mode::Everything, None) => println!("  media     the media node is not up yet; see the log"),
    }
    println!("  data      {}", config.data_dir.display());
    println!("  stop      Ctrl-C");
}

fn media_line(info: &NodeInfo) -> String {
    let cores = info.cores.len();
    let mut places: Vec<String> = Vec::new();
    for candidate in info.cores.iter().flat_map(|core| &core.candidates) {
        let address = candidate.address.to_string();
        if !places.contains(&address) {
            places.push(address);
        }
    }
    let ports = info.cores.iter().flat_map(|core| core.candidates.iter().map(|c| c.port));
    let (low, high) = ports.fold((u16::MAX, 0), |(low, high), port| (low.min(port), high.max(port)));
    let plural = if cores == 1 { "" } else { "s" };
    format!("{} on {cores} core{plural}, UDP {low}-{high} at {}", info.reactor, places.join(", "))
}

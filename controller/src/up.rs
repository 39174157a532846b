//! The server: adapters started around the shell, and everything ended again in order.
//!
//! ```text
//! start: data directory ─▶ certificate ─▶ port ─▶ event log ─▶ fleet ─▶ shell ─▶ media nodes ─▶ start-up lines
//! end:   no new connections ─▶ sessions end, clients and webhook hear of it ─▶ media nodes that are children ─▶ process
//! ```

mod lines;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use controller::cluster::NodeUri;
use controller::config::{Config, ConfigError, Media, ON_PREMISE, PROCESS, Secret, Surroundings};
use controller::engine::ApiError;
use controller::fleet::{Connected, Fleet};
use controller::http::{Server, Shared, tls};
use controller::launcher::Launcher;
use controller::launcher::on_premise::OnPremise;
use controller::launcher::process::{ProcessConfig, ProcessLauncher};
use controller::launcher::script::{ScriptLauncher, ScriptTimeouts};
use controller::node_link::LinkConfig;
use controller::rest::{info::ServerInfo, restart};
use controller::shell::durable::Durable;
use controller::shell::{self, Inputs, QUEUE_INPUTS_MAX, Shell};
use controller::store::{Directory, Identity, RedbStore, Restarts};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// Why the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was told to.
    Stopped,
    /// `POST /restart`.
    Restart,
}

/// How long media nodes may take to come up before the start-up lines are printed without them.
const NODES_START: Duration = Duration::from_secs(10);
/// How long the adapters may take to end.
const ADAPTERS_END: Duration = Duration::from_secs(3);
/// Pause between the answer to `POST /restart` and the end, so that the answer gets out.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// Runs the server until a signal or a restart.
pub(crate) async fn run(config: Config, restarts: Restarts, around: Surroundings) -> anyhow::Result<End> {
    let directory = Arc::new(Directory::open(&config.data_dir)?);
    let identity = directory.identity()?;
    let secret = config.cluster.secret.clone().unwrap_or_else(|| Secret::new(&identity.cluster_secret));
    check_uris(&config)?;
    let config = Arc::new(config);
    let start_ms = shell::now_ms();
    let (http_events, http_queue) = mpsc::channel(QUEUE_INPUTS_MAX);
    let shared = Arc::new(Shared::new(config.clone(), http_events));
    let tls = tls::acceptor(&config, start_ms / 1000)?;
    let bind = || format!("cannot listen on {}", config.listen);
    let server = Server::bind(shared.clone(), tls, shell::now_ms).await.with_context(bind)?;
    let store = Arc::new(RedbStore::open(&directory.database())?);
    let (durable, sinks, earlier) = Durable::open(store, &config, start_ms)?;

    let (stop, stopped) = watch::channel(false);
    let (engine_in, engine_queue) = mpsc::channel(QUEUE_INPUTS_MAX);
    let (restart_asked, mut restart_wanted) = mpsc::channel(1);
    let info = server_info(&config, &restarts, &identity, start_ms);
    let restart = restart_handler(directory, restarts, around, restart_asked);
    let nodes = Nodes::of(&config, &secret)?;
    let fleet = Fleet::new(link_config(&config, &secret), nodes.launcher(), engine_in);
    let connected = fleet.connected();
    let mut shell = Shell::new(shared, info, Box::new(fleet), (durable, sinks), restart);
    shell.restore(&earlier)?;
    let (tell_started, started) = oneshot::channel();
    shell.tell_started(tell_started);
    let inputs = Inputs { http: http_queue, engine: engine_queue, stop: stopped.clone() };

    let serving = tokio::spawn(server.run(stopped));
    let deciding = tokio::spawn(shell.run(inputs));
    let end = tokio::select! {
        end = signals() => end,
        Some(()) = restart_wanted.recv() => {
            tokio::time::sleep(RESTART_PAUSE).await;
            Ok(End::Restart)
        }
        reason = start_fails(&config, started, connected) => Err(anyhow::Error::msg(reason)),
    };
    stop.send_replace(true);
    let adapters = async { tokio::join!(deciding, serving) };
    if timeout(ADAPTERS_END, adapters).await.is_err() {
        tracing::warn!("connections were still open at the end");
    }
    if let Nodes::Children(launcher) = nodes {
        launcher.stop_all().await;
    }
    end
}

/// Prints the start-up lines when the nodes are there, or have taken long. Returns only when the server cannot start, and
/// why.
async fn start_fails(
    config: &Config,
    mut started: oneshot::Receiver<Result<(), String>>,
    connected: watch::Receiver<Connected>,
) -> String {
    let in_time = timeout(NODES_START, &mut started).await;
    if !matches!(in_time, Ok(Ok(Err(_)))) {
        let nodes = in_time.is_ok().then(|| connected.borrow().clone());
        let text = lines::start_lines(config, nodes.as_ref()).join("\n") + "\n";
        // Whoever started us may have closed the pipe; that is no reason not to run.
        let _ = io::stdout().write_all(text.as_bytes());
    }
    drop(connected);
    let outcome = match in_time {
        Ok(outcome) => outcome,
        Err(_) => started.await,
    };
    match outcome {
        Ok(Err(reason)) => reason,
        _ => std::future::pending().await,
    }
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

/// Who starts and stops media nodes in the configured environment.
enum Nodes {
    /// Children, which end with us.
    Children(Arc<ProcessLauncher>),
    /// Machines, which go on without us.
    Others(Arc<dyn Launcher>),
}

impl Nodes {
    fn of(config: &Config, secret: &Secret) -> anyhow::Result<Self> {
        let cluster = &config.cluster;
        let scripts = || {
            let directory = Path::new(&cluster.path).join(&cluster.environment);
            ScriptLauncher::new(directory, ScriptTimeouts::default())
        };
        Ok(match cluster.environment.as_str() {
            PROCESS => {
                let media = &config.media;
                let own = ProcessConfig::own_node(environment(media, secret), (media.port, cores(media)));
                Self::Children(Arc::new(ProcessLauncher::new(own.context("own path")?)))
            }
            ON_PREMISE => Self::Others(Arc::new(OnPremise::new(scripts()))),
            _ => Self::Others(Arc::new(scripts())),
        })
    }

    fn launcher(&self) -> Arc<dyn Launcher> {
        match self {
            Self::Children(launcher) => launcher.clone(),
            Self::Others(launcher) => launcher.clone(),
        }
    }
}

/// What a media node needs to know; not on its command line, which everybody may read.
fn environment(media: &Media, secret: &Secret) -> Vec<(String, String)> {
    [
        ("WEIR_CLUSTER_SECRET", secret.expose().to_owned()),
        ("WEIR_MEDIA_ADDRESSES", media.addresses.clone()),
        ("WEIR_CORES", media.cores.clone()),
        ("WEIR_REACTOR", media.reactor.clone()),
        ("WEIR_SEND_PATH", media.send_path.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// How many UDP ports a child takes: one for each core.
fn cores(media: &Media) -> u16 {
    let all = || std::thread::available_parallelism().map_or(1, |n| n.get() as u16);
    media.cores.parse().unwrap_or_else(|_| all())
}

/// Every URI that the server cannot start without must be one.
pub(crate) fn check_uris(config: &Config) -> anyhow::Result<()> {
    for uri in config.cluster.uris_at_start() {
        uri.parse::<NodeUri>().with_context(|| format!("KMS_URIS: {uri}"))?;
    }
    Ok(())
}

fn link_config(config: &Config, secret: &Secret) -> LinkConfig {
    let mut link = LinkConfig::new(secret.expose());
    link.load_interval = Duration::from_secs(config.cluster.load_interval_s);
    link
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
    directory: Arc<Directory>,
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
        let config = Config::load(&around);
        let config = config.map_err(|ConfigError(errors)| ApiError::with(400, errors.join("; ")))?;
        check_uris(&config).map_err(|error| ApiError::with(400, format!("{error:#}")))?;
        directory.save_restarts(&next).map_err(|error| ApiError::with(500, error.to_string()))?;
        restarts = next;
        // A restart that was asked for before is under way.
        let _ = asked.try_send(());
        Ok(())
    })
}

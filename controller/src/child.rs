//! The media node of `weir up`: a child process of the process launcher, started again when it dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use controller::config::{Config, Secret};
use controller::launcher::process::{ProcessConfig, ProcessLauncher};
use controller::launcher::{LaunchRequest, Launcher as _};
use controller::node_link::NodeUri;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Pause before the first new start; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A child that lived so long starts again without delay.
const HEALTHY: Duration = Duration::from_secs(30);

/// A supervised child.
pub(crate) struct Child {
    uri: NodeUri,
    /// Set when its end is wanted.
    ending: Arc<AtomicBool>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Child {
    /// Starts this program's own `node` command with the configured media settings, waits until it is ready, and keeps it
    /// running. Its control socket is on a loopback port of the kernel's choice, the same one after a new start.
    pub(crate) async fn start(config: &Config, secret: &Secret) -> anyhow::Result<Self> {
        let environment = environment(config, secret);
        let first = launcher(environment.clone(), 0)?;
        let node = first.launch(LaunchRequest::default()).await.context("the media node does not start")?;
        let uri: NodeUri = node.uri.parse().context("address of the media node")?;
        let again = launcher(environment, uri.port())?;
        let (stop, stopped) = oneshot::channel();
        let ending = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(supervise(first, again, node.environment_id, ending.clone(), stopped));
        Ok(Self { uri, ending, stop, task })
    }

    /// Address of its control socket.
    pub(crate) fn uri(&self) -> NodeUri {
        self.uri.clone()
    }

    /// It is about to be told to end over its control socket, and shall not be started again.
    pub(crate) fn expect_end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Ends it: politely, then by force.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// What a media node needs to know; not on its command line, which everybody may read.
fn environment(config: &Config, secret: &Secret) -> Vec<(String, String)> {
    let media = &config.media;
    [
        ("WEIR_CLUSTER_SECRET", secret.expose().to_owned()),
        ("WEIR_MEDIA_ADDRESSES", media.addresses.clone()),
        ("WEIR_MEDIA_PORT", media.port.to_string()),
        ("WEIR_CORES", media.cores.clone()),
        ("WEIR_REACTOR", media.reactor.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn launcher(environment: Vec<(String, String)>, port: u16) -> anyhow::Result<Arc<ProcessLauncher>> {
    let config = ProcessConfig::own_node(environment, port).context("own path")?;
    Ok(Arc::new(ProcessLauncher::new(config)))
}

/// Starts `again` whenever the child is gone, until told to stop.
async fn supervise(
    mut launcher: Arc<ProcessLauncher>,
    again: Arc<ProcessLauncher>,
    mut id: String,
    ending: Arc<AtomicBool>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut pause = PAUSE_MIN;
    let mut started = tokio::time::Instant::now();
    loop {
        tokio::select! {
            () = launcher.gone(&id) => {
                if ending.load(Ordering::Relaxed) {
                    return;
                }
                tracing::error!("the media node died and is started again");
            }
            _ = &mut stopped => {
                let _ = launcher.stop(&id).await;
                return;
            }
        }
        if started.elapsed() > HEALTHY {
            pause = PAUSE_MIN;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
                _ = &mut stopped => return,
            }
            let launched = tokio::select! {
                launched = again.launch(LaunchRequest::default()) => launched,
                _ = &mut stopped => return,
            };
            match launched {
                Ok(node) => {
                    (launcher, id, started) =
                        (again.clone(), node.environment_id, tokio::time::Instant::now());
                    break;
                }
                Err(error) => tracing::error!(%error, "the media node cannot be started"),
            }
        }
    }
}

//! The media node of `weir up`: a child process, started again when it dies.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use controller::config::{Config, Secret};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Pause before the first new start; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A child that lived so long starts again without delay.
const HEALTHY: Duration = Duration::from_secs(30);
/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);

/// How to start the child.
#[derive(Debug)]
pub(crate) struct ChildConfig {
    program: std::path::PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    port: u16,
}

impl ChildConfig {
    /// This program's own `node` command with the configured media settings, its control socket on a free loopback port.
    pub(crate) fn new(config: &Config, secret: &Secret) -> anyhow::Result<Self> {
        let port = free_port()?;
        let media = &config.media;
        Ok(Self {
            program: std::env::current_exe().context("own path")?,
            arguments: ["node".to_owned(), "--parent".to_owned(), std::process::id().to_string()].to_vec(),
            environment: vec![
                ("WEIR_NODE_LISTEN", format!("127.0.0.1:{port}")),
                ("WEIR_CLUSTER_SECRET", secret.expose().to_owned()),
                ("WEIR_MEDIA_ADDRESSES", media.addresses.clone()),
                ("WEIR_MEDIA_PORT", media.port.to_string()),
                ("WEIR_CORES", media.cores.clone()),
                ("WEIR_REACTOR", media.reactor.clone()),
            ],
            port,
        })
    }
}

/// A port that was free a moment ago.
fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// A supervised child.
#[derive(Debug)]
pub(crate) struct Child {
    port: u16,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Child {
    /// Starts it and keeps it running.
    pub(crate) fn start(config: ChildConfig) -> Self {
        let (stop, stopped) = oneshot::channel();
        let port = config.port;
        Self { port, stop, task: tokio::spawn(supervise(config, stopped)) }
    }

    /// Address of its control socket.
    pub(crate) fn uri(&self) -> String {
        format!("ws://127.0.0.1:{}/weir", self.port)
    }

    /// Waits for its end, which it was asked for over its control socket; then kills it.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn supervise(config: ChildConfig, mut stopped: oneshot::Receiver<()>) {
    let mut pause = PAUSE_MIN;
    loop {
        let started = tokio::time::Instant::now();
        match spawn(&config) {
            Ok(mut child) => tokio::select! {
                ended = child.wait() => tracing::error!(status = ?ended.ok(), "the media node died"),
                _ = &mut stopped => return end(child).await,
            },
            Err(error) => tracing::error!(%error, "the media node cannot be started"),
        }
        if started.elapsed() > HEALTHY {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            _ = &mut stopped => return,
        }
    }
}

fn spawn(config: &ChildConfig) -> std::io::Result<tokio::process::Child> {
    Command::new(&config.program)
        .args(&config.arguments)
        .envs(config.environment.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        // Ctrl-C is for this process; the child is told over its control socket.
        .process_group(0)
        .spawn()
}

/// Waits for a child that was told to end over its control socket; then kills it.
async fn end(mut child: tokio::process::Child) {
    if timeout(GRACE, child.wait()).await.is_err() {
        tracing::warn!("the media node did not end by itself");
        let _ = child.kill().await;
    }
}

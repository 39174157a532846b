//! Media nodes as child processes of this one.
//!
//! ```text
//! spawn ─▶ waits for "weir-node ready control=IP:PORT" on stdout ─▶ runs ─▶ SIGTERM ─▶ grace ─▶ SIGKILL
//!            └─ too late, or it ended: failed
//! ```
//!
//! A child is told our process id (`--parent`) and ends when we do, however we end. It is in a process group of its own, so
//! that Ctrl-C in a terminal reaches us alone and the calls can be closed in order.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sfu_core::control::proto::parse_ready_line;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::{LaunchError, LaunchRequest, LaunchedNode, Launcher};

/// Longest line a child may write before it is ready.
const MAX_LINE: u64 = 4_096;
/// Lines a child may write before the one that says it is ready.
const MAX_LINES: usize = 100;

/// How children are started.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// What to run.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to our own environment. The cluster secret goes here: `ps` shows arguments to everybody.
    pub environment: Vec<(String, String)>,
    /// How long a child may take until it is ready.
    pub ready: Duration,
    /// How long a child may take to end after SIGTERM before it is killed.
    pub grace: Duration,
}

impl ProcessConfig {
    /// This program's own `node` command with a control socket on a loopback port, 0 for one of the kernel's choice.
    /// `environment`: the node's settings and `WEIR_CLUSTER_SECRET`.
    ///
    /// # Errors
    /// The path of this program is not known.
    pub fn own_node(environment: Vec<(String, String)>, port: u16) -> io::Result<ProcessConfig> {
        let (listen, parent) = (format!("127.0.0.1:{port}"), std::process::id().to_string());
        let arguments = ["node", "--listen", &listen, "--parent", &parent];
        Ok(ProcessConfig {
            program: std::env::current_exe()?,
            arguments: arguments.map(str::to_owned).to_vec(),
            environment,
            ready: Duration::from_secs(10),
            grace: Duration::from_secs(5),
        })
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// Starts nodes as children. Dropping it, or the runtime, kills them.
#[derive(Debug)]
pub struct ProcessLauncher {
    config: ProcessConfig,
    running: Arc<Mutex<BTreeMap<String, Running>>>,
}

#[derive(Debug)]
struct Running {
    node: LaunchedNode,
    stop: mpsc::Sender<()>,
    /// Turns true when the child is gone.
    gone: watch::Receiver<bool>,
}

impl ProcessLauncher {
    /// No children yet.
    pub fn new(config: ProcessConfig) -> ProcessLauncher {
        ProcessLauncher { config, running: Arc::default() }
    }

    /// Waits until a child is gone, for whatever reason.
    pub async fn gone(&self, environment_id: &str) {
        let found = self.running().get(environment_id).map(|running| running.gone.clone());
        if let Some(mut gone) = found {
            // An error says that the watching task is gone, and the child with it.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        lock(&self.running)
    }

    async fn start(&self) -> Result<LaunchedNode, LaunchError> {
        let failed = |reason: String| LaunchError::Failed { what: self.config.name(), reason };
        let mut child = self.spawn().map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().expect("it is piped");
        let ready = timeout(self.config.ready, read_until_ready(stdout)).await;
        let (control, rest) = match ready {
            Ok(Ok(ready)) => ready,
            Ok(Err(reason)) => {
                // It closed its output, so it is about to end; its status says more than we could.
                let ended = timeout(self.config.grace, child.wait()).await;
                return Err(failed(ended.map_or(reason.clone(), |status| explain(&reason, status))));
            }
            // `kill_on_drop` ends it.
            Err(_) => {
                return Err(LaunchError::TimedOut { what: self.config.name(), after: self.config.ready });
            }
        };
        let pid = child.id().ok_or_else(|| failed("ended as soon as it was ready".to_owned()))?;
        let environment_id = format!("process-{pid}");
        let node =
            LaunchedNode { environment_id: environment_id.clone(), uri: format!("ws://{control}/weir") };
        let (stop, stopped) = mpsc::channel(1);
        let (tell_gone, gone) = watch::channel(false);
        self.running().insert(environment_id.clone(), Running { node: node.clone(), stop, gone });
        // Weak: when the launcher is dropped, so are the stop channels, and the children end.
        let (running, grace) = (Arc::downgrade(&self.running), self.config.grace);
        tokio::spawn(async move {
            tokio::spawn(discard(rest));
            watch_over(child, stopped, grace).await;
            if let Some(running) = running.upgrade() {
                lock(&running).remove(&environment_id);
            }
            tell_gone.send_replace(true);
        });
        Ok(node)
    }

    fn spawn(&self) -> io::Result<Child> {
        Command::new(&self.config.program)
            .args(&self.config.arguments)
            .envs(self.config.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }
}

impl Launcher for ProcessLauncher {
    fn launch(&self, _: LaunchRequest) -> BoxFuture<'_, Result<LaunchedNode, LaunchError>> {
        Box::pin(self.start())
    }

    fn stop<'a>(&'a self, environment_id: &'a str) -> BoxFuture<'a, Result<(), LaunchError>> {
        Box::pin(async move {
            let stop = self.running().get(environment_id).map(|running| running.stop.clone());
            if let Some(stop) = stop {
                // Full when it is being stopped already.
                let _ = stop.try_send(());
                self.gone(environment_id).await;
            }
            Ok(())
        })
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>> {
        Box::pin(async move { Ok(self.running().values().map(|running| running.node.clone()).collect()) })
    }
}

fn lock(running: &Mutex<BTreeMap<String, Running>>) -> MutexGuard<'_, BTreeMap<String, Running>> {
    running.lock().expect("nobody panics while holding it")
}

fn explain(reason: &str, status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| format!("{reason}: {error}"), |status| format!("{reason}: {status}"))
}

/// Reads lines until one tells the control address. The error is for people.
async fn read_until_ready(stdout: ChildStdout) -> Result<(SocketAddr, BufReader<ChildStdout>), String> {
    let mut reader = BufReader::new(stdout);
    for _ in 0..MAX_LINES {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await;
        if read.map_err(|error| error.to_string())? == 0 {
            return Err("ended before it was ready".to_owned());
        }
        if let Some(control) = parse_ready_line(String::from_utf8_lossy(&line).trim_end()) {
            return Ok((control, reader));
        }
    }
    Err("wrote too much before it was ready".to_owned())
}

/// Keeps the pipe empty, so that the child never blocks on it.
async fn discard(mut rest: BufReader<ChildStdout>) {
    let _ = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
}

/// Until the child is gone, by itself or because it was told to.
async fn watch_over(mut child: Child, mut stopped: mpsc::Receiver<()>, grace: Duration) {
    tokio::select! {
        status = child.wait() => {
            match status {
                Ok(status) if status.success() => tracing::info!("a media node process ended"),
                status => tracing::error!(?status, "a media node process died"),
            }
            return;
        }
        // None: the launcher is gone, nobody wants the child any more.
        _ = stopped.recv() => {}
    }
    terminate(&child);
    if timeout(grace, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "a media node process did not end in time and is killed");
        let _ = child.kill().await;
    }
}

fn terminate(child: &Child) {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32));
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::TERM)
    {
        tracing::debug!(%error, "SIGTERM to a media node process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = "echo booting; echo 'weir-node ready control=127.0.0.1:4711'; ";

    fn launcher(script: &str) -> ProcessLauncher {
        ProcessLauncher::new(ProcessConfig {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("WORD".into(), "secret".into())],
            ready: Duration::from_secs(10),
            grace: Duration::from_millis(400),
        })
    }

    fn pid(node: &LaunchedNode) -> u32 {
        node.environment_id.strip_prefix("process-").and_then(|pid| pid.parse().ok()).expect("process-PID")
    }

    /// Whether the process is there and not a zombie.
    fn lives(pid: u32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
    }

    async fn until_dead(pid: u32) {
        let dead = async {
            while lives(pid) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(10), dead).await.expect("ends");
    }

    #[tokio::test]
    async fn starts_lists_and_ends_politely() {
        let marker = std::env::temp_dir().join(format!("weir-launcher-{}", std::process::id()));
        let script = format!(
            "trap 'echo \"$WORD\" > {}; exit 0' TERM; {READY} while :; do sleep 0.05; done",
            marker.display()
        );
        let launcher = launcher(&script);
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        assert_eq!(node.uri, "ws://127.0.0.1:4711/weir");
        assert_eq!(launcher.discover().await.expect("works"), std::slice::from_ref(&node));
        assert!(lives(pid(&node)));
        launcher.stop(&node.environment_id).await.expect("ends");
        assert!(!lives(pid(&node)));
        assert_eq!(std::fs::read_to_string(&marker).expect("the trap ran"), "secret\n");
        std::fs::remove_file(marker).expect("ours");
        assert_eq!(launcher.discover().await.expect("works"), []);
        launcher.stop(&node.environment_id).await.expect("gone already");
    }

    #[tokio::test]
    async fn kills_what_does_not_end() {
        let launcher = launcher(&format!("trap '' TERM; {READY} while :; do sleep 0.05; done"));
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        let begun = tokio::time::Instant::now();
        launcher.stop(&node.environment_id).await.expect("ends");
        assert!(begun.elapsed() >= Duration::from_millis(400));
        assert!(!lives(pid(&node)));
    }

    #[tokio::test]
    async fn forgets_what_ended_by_itself() {
        let launcher = launcher(&format!("{READY} sleep 0.1; exit 3"));
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        until_dead(pid(&node)).await;
        timeout(Duration::from_secs(10), launcher.gone(&node.environment_id)).await.expect("noticed");
        assert_eq!(launcher.discover().await.expect("works"), []);
    }

    #[tokio::test]
    async fn says_why_nothing_came_up() {
        let failure = |launcher: ProcessLauncher| async move {
            launcher.launch(LaunchRequest::default()).await.expect_err("cannot come up").to_string()
        };
        let ended = failure(launcher("echo 'port is in use'; exit 3")).await;
        assert_eq!(ended, "/bin/sh: ended before it was ready: exit status: 3");
        let wordy = failure(launcher("while :; do echo x; done")).await;
        assert!(wordy.contains("wrote too much"), "{wordy}");
        let mut missing = launcher("");
        missing.config.program = "/no/such/program".into();
        assert!(failure(missing).await.starts_with("/no/such/program: "));
        let mut slow = launcher("sleep 30");
        slow.config.ready = Duration::from_millis(200);
        assert_eq!(failure(slow).await, "/bin/sh did not end within 0.2 s");
    }

    #[tokio::test]
    async fn children_do_not_outlive_the_launcher() {
        let launcher = launcher(&format!("{READY} exec sleep 30"));
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        drop(launcher);
        until_dead(pid(&node)).await;
    }
}

//! Media nodes as child processes of this one.
//!
//! ```text
//! spawn ─▶ waits for "weir-node ready control=IP:PORT" on stdout ─▶ runs ─▶ SIGTERM ─▶ grace ─▶ SIGKILL
//!   ▲        └─ too late, or it ended: failed                       │
//!   └──────────── a pause, the same address ◀── it died ────────────┘
//! ```
//!
//! A child that dies is started again at the address it had, so that its node is lost for a moment and not for good. It is
//! told our process id (`--parent`) and ends when we do, however we end. It is in a process group of its own, so that Ctrl-C
//! in a terminal reaches us alone and the calls can be closed in order.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use sfu_core::control::proto::parse_ready_line;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{LaunchError, LaunchRequest, LaunchedNode, Launcher};

/// Longest line a child may write before it is ready.
const MAX_LINE: u64 = 4_096;
/// Lines a child may write before the one that says it is ready.
const MAX_LINES: usize = 100;
/// Pause before the first new start of a child that died; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A child that lived so long is started again without delay.
const HEALTHY: Duration = Duration::from_secs(30);

/// How children are started.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// What to run.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Added to our own environment. The cluster secret goes here: `ps` shows arguments to everybody.
    pub environment: Vec<(String, String)>,
    /// First UDP port of the first child, 0 for any, and how many each child uses.
    pub media_ports: (u16, u16),
    /// How long a child may take until it is ready.
    pub ready: Duration,
    /// How long a child may take to end after SIGTERM before it is killed.
    pub grace: Duration,
    /// Whether a child that dies is started again.
    pub again: bool,
}

impl ProcessConfig {
    /// This program's own `node` command with a control socket on a loopback port of the kernel's choice.
    /// `environment`: the node's settings and `WEIR_CLUSTER_SECRET`. `media_ports`: see the field.
    ///
    /// # Errors
    /// The path of this program is not known.
    pub fn own_node(
        environment: Vec<(String, String)>,
        media_ports: (u16, u16),
    ) -> io::Result<ProcessConfig> {
        let arguments = ["node", "--parent", &std::process::id().to_string()].map(str::to_owned).to_vec();
        Ok(ProcessConfig {
            program: std::env::current_exe()?,
            arguments,
            environment,
            media_ports,
            ready: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            again: true,
        })
    }

    fn name(&self) -> String {
        self.program.display().to_string()
    }

    /// UDP port of the child in this slot.
    fn media_port(&self, slot: u16) -> Result<u16, LaunchError> {
        let (first, each) = self.media_ports;
        if first == 0 {
            return Ok(0);
        }
        let port = each.max(1).checked_mul(slot).and_then(|offset| first.checked_add(offset));
        port.filter(|port| port.checked_add(each).is_some()).ok_or_else(|| LaunchError::Failed {
            what: self.name(),
            reason: format!("no UDP ports are left above {first}"),
        })
    }
}

/// Starts nodes as children. Dropping it, or the runtime, kills them.
#[derive(Debug)]
pub struct ProcessLauncher {
    config: Arc<ProcessConfig>,
    children: Arc<Mutex<Children>>,
}

#[derive(Debug, Default)]
struct Children {
    running: BTreeMap<String, Running>,
    /// Which ranges of UDP ports are taken.
    slots: BTreeSet<u16>,
    launched: u64,
}

#[derive(Debug)]
struct Running {
    node: LaunchedNode,
    stop: mpsc::Sender<()>,
    /// Process id now, 0 between two lives; the channel closes when it is gone for good.
    pid: watch::Receiver<u32>,
}

impl ProcessLauncher {
    /// No children yet.
    pub fn new(config: ProcessConfig) -> ProcessLauncher {
        ProcessLauncher { config: Arc::new(config), children: Arc::default() }
    }

    /// Ends all children at one time; done when they are gone.
    pub async fn stop_all(&self) {
        let ids: Vec<String> = lock(&self.children).running.keys().cloned().collect();
        join_all(ids.iter().map(|id| self.stop(id))).await;
    }

    async fn start(&self) -> Result<LaunchedNode, LaunchError> {
        let slot = Slot::take(&self.children);
        let mut spec =
            Spec { config: self.config.clone(), port: 0, media_port: self.config.media_port(slot.number)? };
        let started = spec.start().await?;
        spec.port = started.control.port();
        let environment_id = {
            let mut children = lock(&self.children);
            children.launched += 1;
            format!("process-{}", children.launched)
        };
        let uri = format!("ws://{}/weir", started.control);
        let node = LaunchedNode { environment_id: environment_id.clone(), uri };
        let (stop, stopped) = mpsc::channel(1);
        let (tell_pid, pid) = watch::channel(started.child.id().unwrap_or_default());
        let running = Running { node: node.clone(), stop, pid };
        lock(&self.children).running.insert(environment_id.clone(), running);
        // Weak: when the launcher is dropped, so are the stop channels, and the children end.
        let (children, slot) = (Arc::downgrade(&self.children), slot.keep());
        tokio::spawn(async move {
            supervise(spec, started, stopped, &tell_pid).await;
            if let Some(children) = children.upgrade() {
                let mut children = lock(&children);
                children.running.remove(&environment_id);
                children.slots.remove(&slot);
            }
        });
        Ok(node)
    }
}

/// A range of UDP ports, free again when dropped.
struct Slot {
    number: u16,
    children: Option<Arc<Mutex<Children>>>,
}

impl Slot {
    fn take(children: &Arc<Mutex<Children>>) -> Self {
        let mut all = lock(children);
        let number = (0..=u16::MAX).find(|number| !all.slots.contains(number)).unwrap_or(u16::MAX);
        all.slots.insert(number);
        Self { number, children: Some(children.clone()) }
    }

    /// It is given back by hand: who watches a child must not keep the launcher alive.
    fn keep(mut self) -> u16 {
        self.children = None;
        self.number
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(children) = self.children.take() {
            lock(&children).slots.remove(&self.number);
        }
    }
}

/// How one child is started, and started again.
struct Spec {
    config: Arc<ProcessConfig>,
    /// Port of the control socket, 0 for one of the kernel's choice.
    port: u16,
    media_port: u16,
}

/// A child that is ready.
struct Started {
    child: Child,
    control: SocketAddr,
    rest: BufReader<ChildStdout>,
}

impl Spec {
    async fn start(&self) -> Result<Started, LaunchError> {
        let config = &self.config;
        let failed = |reason: String| LaunchError::Failed { what: config.name(), reason };
        let mut child = self.spawn().map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().expect("it is piped");
        match timeout(config.ready, read_until_ready(stdout)).await {
            Ok(Ok((control, rest))) => Ok(Started { child, control, rest }),
            Ok(Err(reason)) => {
                // It closed its output, so it is about to end; its status says more than we could.
                let ended = timeout(config.grace, child.wait()).await;
                Err(failed(ended.map_or(reason.clone(), |status| explain(&reason, status))))
            }
            // `kill_on_drop` ends it.
            Err(_) => Err(LaunchError::TimedOut { what: config.name(), after: config.ready }),
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let places = [
            ("WEIR_NODE_LISTEN", format!("127.0.0.1:{}", self.port)),
            ("WEIR_MEDIA_PORT", self.media_port.to_string()),
        ];
        Command::new(&self.config.program)
            .args(&self.config.arguments)
            .envs(self.config.environment.iter().map(|(name, value)| (name, value)))
            .envs(places)
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
            let found = lock(&self.children)
                .running
                .get(environment_id)
                .map(|running| (running.stop.clone(), running.pid.clone()));
            if let Some((stop, mut pid)) = found {
                // Full when it is being stopped already.
                let _ = stop.try_send(());
                while pid.changed().await.is_ok() {}
            }
            Ok(())
        })
    }

    fn discover(&self) -> BoxFuture<'_, Result<Vec<LaunchedNode>, LaunchError>> {
        let nodes = lock(&self.children).running.values().map(|running| running.node.clone()).collect();
        Box::pin(async move { Ok(nodes) })
    }
}

fn lock(children: &Mutex<Children>) -> MutexGuard<'_, Children> {
    children.lock().expect("nobody panics while holding it")
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

/// Keeps a child running until it is told to end, or has died and shall not be started again.
async fn supervise(spec: Spec, first: Started, mut stopped: mpsc::Receiver<()>, pid: &watch::Sender<u32>) {
    let (mut pause, mut next) = (PAUSE_MIN, Some(first));
    loop {
        if let Some(Started { child, rest, .. }) = next.take() {
            pid.send_replace(child.id().unwrap_or_default());
            let since = Instant::now();
            tokio::spawn(discard(rest));
            if watch_over(child, &mut stopped, spec.config.grace).await || !spec.config.again {
                return;
            }
            pid.send_replace(0);
            if since.elapsed() > HEALTHY {
                pause = PAUSE_MIN;
            }
        }
        let again = async {
            sleep(pause).await;
            spec.start().await
        };
        tokio::select! {
            started = again => match started {
                Ok(started) => next = Some(started),
                Err(error) => tracing::error!(%error, "the media node cannot be started again"),
            },
            _ = stopped.recv() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Until the child is gone: true, because it was told to.
async fn watch_over(mut child: Child, stopped: &mut mpsc::Receiver<()>, grace: Duration) -> bool {
    tokio::select! {
        status = child.wait() => {
            tracing::error!(?status, "a media node process died");
            return false;
        }
        // None: the launcher is gone, nobody wants the child any more.
        _ = stopped.recv() => {}
    }
    terminate(&child);
    if timeout(grace, child.wait()).await.is_err() {
        tracing::warn!(pid = child.id(), "a media node process did not end in time and is killed");
        let _ = child.kill().await;
    }
    true
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
            media_ports: (41_000, 4),
            ready: Duration::from_secs(10),
            grace: Duration::from_millis(400),
            again: false,
        })
    }

    /// With a changed configuration.
    fn changed(script: &str, change: impl FnOnce(&mut ProcessConfig)) -> ProcessLauncher {
        let mut launcher = launcher(script);
        change(Arc::get_mut(&mut launcher.config).expect("nobody else has it"));
        launcher
    }

    fn pid(launcher: &ProcessLauncher, node: &LaunchedNode) -> u32 {
        *lock(&launcher.children).running[&node.environment_id].pid.borrow()
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
        let pid = pid(&launcher, &node);
        assert!(lives(pid));
        launcher.stop(&node.environment_id).await.expect("ends");
        assert!(!lives(pid));
        assert_eq!(std::fs::read_to_string(&marker).expect("the trap ran"), "secret\n");
        std::fs::remove_file(marker).expect("ours");
        assert_eq!(launcher.discover().await.expect("works"), []);
        launcher.stop(&node.environment_id).await.expect("gone already");
    }

    #[tokio::test]
    async fn kills_what_does_not_end() {
        let launcher = launcher(&format!("trap '' TERM; {READY} while :; do sleep 0.05; done"));
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        let (pid, begun) = (pid(&launcher, &node), Instant::now());
        launcher.stop(&node.environment_id).await.expect("ends");
        assert!(begun.elapsed() >= Duration::from_millis(400));
        assert!(!lives(pid));
    }

    #[tokio::test]
    async fn forgets_what_ended_by_itself() {
        let launcher = launcher(&format!("{READY} sleep 0.1; exit 3"));
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        until_dead(pid(&launcher, &node)).await;
        let forgotten = async {
            while !launcher.discover().await.expect("works").is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(10), forgotten).await.expect("noticed");
        assert!(lock(&launcher.children).slots.is_empty());
    }

    /// Environment of a child. While the shell becomes `sleep` it reads as empty.
    async fn environment(pid: u32) -> String {
        for _ in 0..1_000 {
            let text = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("it lives");
            if !text.is_empty() {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("process {pid} has no environment");
    }

    #[tokio::test]
    async fn starts_again_what_died_at_the_same_address() {
        let launcher = changed(
            "echo \"weir-node ready control=${WEIR_NODE_LISTEN%:0}\" | sed 's/127.0.0.1$/127.0.0.1:4711/'; exec sleep 30",
            |config| config.again = true,
        );
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        let first = pid(&launcher, &node);
        let mut life = lock(&launcher.children).running[&node.environment_id].pid.clone();
        let killed = rustix::process::Pid::from_raw(first as i32).expect("a pid");
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).expect("ours");
        let again = life.wait_for(|pid| *pid != 0 && *pid != first);
        let second = *timeout(Duration::from_secs(10), again).await.expect("in time").expect("watched");
        let environment = environment(second).await;
        assert!(environment.contains("WEIR_NODE_LISTEN=127.0.0.1:4711\0"), "{environment}");
        assert_eq!(launcher.discover().await.expect("works"), [node]);
        launcher.stop_all().await;
        assert!(!lives(second));
        assert_eq!(launcher.discover().await.expect("works"), []);
    }

    #[tokio::test]
    async fn each_child_has_ports_of_its_own() {
        let launcher = launcher(&format!("{READY} exec sleep 30"));
        let mut ports = Vec::new();
        let mut nodes = Vec::new();
        for _ in 0..2 {
            nodes.push(launcher.launch(LaunchRequest::default()).await.expect("ready"));
        }
        launcher.stop(&nodes[0].environment_id).await.expect("ends");
        nodes.push(launcher.launch(LaunchRequest::default()).await.expect("ready"));
        for node in &nodes[1..] {
            let environment = environment(pid(&launcher, node)).await;
            let port = environment.split('\0').find_map(|var| var.strip_prefix("WEIR_MEDIA_PORT="));
            ports.push(port.expect("set").to_owned());
        }
        assert_eq!(ports, ["41004", "41000"], "free ports are used again");
        assert_eq!(nodes[2].environment_id, "process-3", "names are not");
        let full = ProcessConfig { media_ports: (65_530, 4), ..(*launcher.config).clone() };
        assert_eq!(full.media_port(0).expect("fits"), 65_530);
        assert!(full.media_port(1).expect_err("does not").to_string().contains("no UDP ports are left"));
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
        let missing = changed("", |config| config.program = "/no/such/program".into());
        assert!(failure(missing).await.starts_with("/no/such/program: "));
        let slow = changed("sleep 30", |config| config.ready = Duration::from_millis(200));
        assert_eq!(failure(slow).await, "/bin/sh did not end within 0.2 s");
    }

    #[tokio::test]
    async fn children_do_not_outlive_the_launcher() {
        let launcher = launcher(&format!("{READY} exec sleep 30"));
        let node = launcher.launch(LaunchRequest::default()).await.expect("ready");
        let pid = pid(&launcher, &node);
        drop(launcher);
        until_dead(pid).await;
    }
}

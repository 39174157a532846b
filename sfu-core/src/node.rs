//! The media node as a library call: sockets, one pinned thread per core, the control thread, and a clean end.
//!
//! ```text
//! start ─▶ bind every core's sockets ─▶ core threads: Shard driven by a reactor ─▶ control thread: hub, HTTP, metrics
//!                                             ▲        commands: inbox + eventfd        │
//!                                             └────────────────────────────────────────┘
//!                                               events: bounded queue
//! ```
//!
//! Everything that can fail for a reason the operator can mend fails here, before the node says that it is ready.

mod watch;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngCore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{ConfigError, Cores, NodeConfig, SendPath};
use crate::control::proto::{CoreInfo, Fingerprint, HostCandidate, NodeInfo, VERSION};
use crate::control::server::{self, CommandSink, EventSink, ServerConfig, event_queue};
use crate::crypto::certificate::Certificate;
use crate::ids::CoreId;
use crate::metrics::{ControlCounters, CoreProbe, NodeMetrics};
use crate::reactor::frame::{Frames, Resolver, ResolverError};
use crate::reactor::{self, BindError, InboxSender, Setup, Socket, clock, interfaces, thread};
use crate::shard::{Command, Gauges, Limits, Shard, ShardConfig};
use crate::transport::DtlsContext;

/// How often a child looks whether its parent is still there.
const PARENT_CHECK: Duration = Duration::from_millis(500);
/// How long a core's thread may take to end after it was told to.
const CORE_PATIENCE: Duration = Duration::from_secs(3);
/// How often a thread that ends is looked at.
const CORE_CHECK: Duration = Duration::from_millis(5);
/// Commands that may wait for one core.
const INBOX: usize = 4_096;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// A setting that does not fit this machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A media socket cannot be had.
    #[error(transparent)]
    Media(#[from] BindError),
    /// The control socket cannot be had.
    #[error("control socket {addr}: {source}")]
    Control {
        /// What was asked for.
        addr: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A core does not come up.
    #[error("core {core}: {reason}")]
    Core {
        /// Which one.
        core: u16,
        /// What the reactor or the kernel said.
        reason: String,
    },
    /// A core that ran does not run any more.
    #[error("core {core} has ended: {reason}; the node ends with it")]
    CoreEnded {
        /// Which one.
        core: u16,
        /// What the reactor said, or the panic.
        reason: String,
    },
    /// The control thread does not run any more, and nobody stopped it.
    #[error("the control thread panicked; the node ends with it")]
    ControlEnded,
    /// Frames were asked for and cannot be sent.
    #[error(transparent)]
    Frames(#[from] ResolverError),
    /// Something else of the system.
    #[error("{what}: {reason}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        reason: String,
    },
}

/// A node that runs.
pub struct Node {
    /// Where the control socket listens.
    pub control: SocketAddr,
    /// What it tells controllers about itself.
    pub info: NodeInfo,
    stop: mpsc::Sender<()>,
    failed: mpsc::Receiver<NodeError>,
    control_thread: JoinHandle<()>,
    cores: Vec<Core>,
}

struct Core {
    inbox: InboxSender<Command>,
    thread: JoinHandle<()>,
}

/// What a core's thread tells when it is up.
struct Ready {
    gauges: Arc<Gauges>,
    thread: u32,
    reactor: &'static str,
}

impl Node {
    /// Binds everything and starts all threads.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub fn start(config: &NodeConfig) -> Result<Node, NodeError> {
        let listener = TcpListener::bind(config.listen)
            .map_err(|source| NodeError::Control { addr: config.listen, source })?;
        let control = listener.local_addr().map_err(system("control socket"))?;
        let certificate = Arc::new(Certificate::generate().map_err(system("DTLS certificate"))?);
        let counters = Arc::new(ControlCounters::default());
        let (sink, source) = event_queue(counters.clone());

        let mut cores = Vec::new();
        let mut infos = Vec::new();
        let mut probes = Vec::new();
        let mut reactor = "";
        let cpus = cpus(&config.cores)?;
        config.check_ports(cpus.len())?;
        let resolver = resolver(config.send_path)?;
        let (failure, failed) = watch::channel();
        for (index, cpu) in cpus.into_iter().enumerate() {
            let index = index as u16;
            let (sockets, info) = bind_core(config, index)?;
            let frames = resolver.as_ref().map(Resolver::frames).transpose()?;
            let kernel = KernelSide { cpu, sockets, frames };
            let outward = Outward { events: sink.clone(), failure: failure.clone() };
            let (core, ready) = start_core(config, index, kernel, certificate.clone(), outward)?;
            reactor = ready.reactor;
            probes.push(CoreProbe { core: index, gauges: ready.gauges, thread: Some(ready.thread) });
            cores.push(core);
            infos.push(info);
        }
        let info = NodeInfo {
            version: VERSION,
            process: format!(
                "{:032x}",
                u128::from(rand::rng().next_u64()) << 64 | u128::from(rand::rng().next_u64())
            ),
            software: env!("CARGO_PKG_VERSION").into(),
            reactor: reactor.into(),
            fingerprint: Fingerprint { algorithm: "sha-256".into(), value: certificate.fingerprint().into() },
            cores: infos,
            rooms: Vec::new(),
            draining: false,
        };
        let server = ServerConfig {
            secret: config.secret.clone(),
            info: info.clone(),
            max_rooms: config.limits.rooms,
            drain: config.drain,
            metrics: NodeMetrics { cores: probes.into(), control: counters },
        };
        let sinks = cores.iter().map(|core| command_sink(core.inbox.clone())).collect();
        let (stop, stopped) = mpsc::channel(2);
        let control_thread = start_control(listener, server, sinks, source, stopped)?;
        Ok(Node { control, info, stop, failed, control_thread, cores })
    }

    /// What stops the node: a first message closes it after its drain time, a second one at once.
    pub fn stopper(&self) -> mpsc::Sender<()> {
        self.stop.clone()
    }

    /// Blocks until SIGINT, SIGTERM or the end of the parent process stops the node, and everything is closed. A second
    /// signal does not wait for rooms to end.
    ///
    /// # Errors
    /// Signals cannot be received; or a core or the control thread has ended by itself. Then this returns at once, and what
    /// still runs ends with the process, which its caller has to end.
    pub fn run_until_signalled(mut self, parent: Option<u32>) -> Result<(), NodeError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("signal runtime"))?;
        let stop = self.stop.clone();
        runtime.block_on(async {
            tokio::select! {
                biased;
                // Its senders live as long as the cores.
                Some(failure) = self.failed.recv() => Err(failure),
                stopped = signals(parent, stop) => stopped,
            }
        })?;
        drop(runtime);
        self.join()
    }

    /// Blocks until the control thread has ended, then ends the cores. A core that hangs is given up after three seconds:
    /// its thread ends with the process.
    ///
    /// # Errors
    /// A core or the control thread had ended before it was told to.
    pub fn join(mut self) -> Result<(), NodeError> {
        drop(self.stop);
        let controlled = self.control_thread.join().map_err(|_| NodeError::ControlEnded);
        for core in &self.cores {
            core.inbox.stop();
        }
        let deadline = clock::now() + CORE_PATIENCE;
        for (index, core) in self.cores.into_iter().enumerate() {
            while !core.thread.is_finished() && clock::now() < deadline {
                std::thread::park_timeout(CORE_CHECK);
            }
            if !core.thread.is_finished() {
                tracing::error!(core = index, "a core's thread does not end and is left behind");
            } else if core.thread.join().is_err() {
                tracing::error!(core = index, "a core's thread panicked");
            }
        }
        controlled.and_then(|()| self.failed.try_recv().map_or(Ok(()), Err))
    }
}

fn system<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> NodeError {
    move |error| NodeError::System { what, reason: error.to_string() }
}

/// Passes on what stops the node, until the control thread is gone.
async fn signals(parent: Option<u32>, stop: mpsc::Sender<()>) -> Result<(), NodeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("SIGINT"))?;
    let mut watch = tokio::time::interval(PARENT_CHECK);
    let mut orphaned = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = stop.closed() => return Ok(()),
            _ = watch.tick() => {
                let gone = parent.is_some_and(|pid| std::os::unix::process::parent_id() != pid);
                if !gone || orphaned {
                    continue;
                }
                orphaned = true;
                tracing::warn!("the parent process is gone, the node ends");
                // Nobody will come back for the rooms of an embedded node.
                let _ = stop.try_send(());
            }
        }
        let _ = stop.try_send(());
    }
}

/// The CPU each shard is pinned to.
fn cpus(cores: &Cores) -> Result<Vec<Option<usize>>, NodeError> {
    let allowed = thread::allowed_cpus().map_err(system("CPU affinity"))?;
    let some = |cpus: Vec<usize>| cpus.into_iter().map(Some).collect();
    Ok(match cores {
        Cores::Auto => some(allowed),
        Cores::Count(count) => some(allowed.iter().copied().cycle().take(usize::from(*count)).collect()),
        Cores::Cpus(cpus) => some(cpus.clone()),
    })
}

/// Binds one socket per media address, all on the core's port.
fn bind_core(config: &NodeConfig, core: u16) -> Result<(Vec<Socket>, CoreInfo), NodeError> {
    let addresses: Vec<IpAddr> = interfaces::addresses().map_err(system("interface addresses"))?;
    let mut sockets = Vec::new();
    let mut candidates = Vec::new();
    for address in config.media.resolve(&addresses) {
        let port = config.media_port.map_or(0, |base| base + core);
        let socket = Socket::bind(SocketAddr::new(address.bind, port))?;
        let bound = socket.local_addr();
        candidates.push(HostCandidate {
            address: address.announced.unwrap_or(address.bind),
            bound,
            port: bound.port(),
        });
        sockets.push(socket);
    }
    Ok((sockets, CoreInfo { core, candidates }))
}

/// What a core has of the kernel.
struct KernelSide {
    cpu: Option<usize>,
    sockets: Vec<Socket>,
    frames: Option<Frames>,
}

/// Where a core's news go.
struct Outward {
    events: EventSink,
    failure: mpsc::Sender<NodeError>,
}

/// What frames are sent with, where they are wanted and allowed.
fn resolver(path: SendPath) -> Result<Option<Resolver>, NodeError> {
    if path == SendPath::Sockets {
        return Ok(None);
    }
    match Resolver::start() {
        Ok(resolver) => Ok(Some(resolver)),
        Err(error) if path == SendPath::Frames => Err(error.into()),
        Err(error) => {
            tracing::info!("{error}; media leaves by UDP sockets, at more CPU");
            Ok(None)
        }
    }
}

fn start_core(
    config: &NodeConfig,
    core: u16,
    kernel: KernelSide,
    certificate: Arc<Certificate>,
    outward: Outward,
) -> Result<(Core, Ready), NodeError> {
    let failed = |reason: String| NodeError::Core { core, reason };
    let (inbox, commands) = reactor::channel(INBOX).map_err(|error| failed(error.to_string()))?;
    let KernelSide { cpu, sockets, frames } = kernel;
    let setup = Setup { slots: config.limits.slots_per_core, sockets, waker: commands.waker(), frames };
    let choice = config.reactor;
    let shard = ShardConfig {
        core: CoreId(core),
        dtls: DtlsContext { certificate, epoch: clock::epoch() },
        limits: Limits {
            transports: config.limits.transports_per_core as usize,
            rooms: config.limits.rooms as usize,
            ..Limits::default()
        },
        seed: rand::rng().next_u64(),
    };
    let (tell, told) = std_mpsc::sync_channel(1);
    let body = move || {
        // The ring has to be made on the thread that uses it.
        let mut reactor = match reactor::open(choice, setup) {
            Ok(reactor) => reactor,
            Err(error) => {
                let _ = tell.send(Err(error.to_string()));
                return;
            }
        };
        let mut shard = Shard::new(shard);
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let _ = tell.send(Ok(Ready { gauges: shard.gauges(), thread, reactor: reactor.name() }));
        let Outward { events, failure } = outward;
        watch::watched(core, &failure, || {
            reactor::run(&mut shard, &mut *reactor, &commands, |event| events.push(event))
        });
    };
    let thread = thread::spawn(&format!("weir-core-{core}"), cpu, body).map_err(|e| failed(e.to_string()))?;
    let ready = told.recv().map_err(|_| failed("its thread ended at once".into()))?.map_err(failed)?;
    Ok((Core { inbox, thread }, ready))
}

fn command_sink(inbox: InboxSender<Command>) -> CommandSink {
    Box::new(move |command| inbox.send(command).map_err(|full| full.0))
}

fn start_control(
    listener: TcpListener,
    config: ServerConfig,
    commands: Vec<CommandSink>,
    events: server::EventSource,
    stop: mpsc::Receiver<()>,
) -> Result<JoinHandle<()>, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("control runtime"))?;
    let listener = {
        let _inside = runtime.enter();
        server::adopt(listener).map_err(system("control socket"))?
    };
    thread::spawn("weir-control", None, move || {
        runtime.block_on(server::serve(listener, config, commands, events, stop));
    })
    .map_err(system("control thread"))
}

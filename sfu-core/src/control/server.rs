//! The control socket: HTTP and WebSocket in, [`Hub`] behind, commands to the cores and events back.
//!
//! ```text
//! listener ─▶ hyper ─┬─ GET /metrics, GET /health
//!                    └─ upgrade, Bearer secret ─▶ socket task ◀── bounded queues ──▶ Driver { Hub } ◀──▶ cores
//! ```
//!
//! Everything runs on one current-thread runtime. The driver never waits for a socket: a controller that does not read is
//! cut off and finds the truth in the answer to its next `hello`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use hyper_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use hyper_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use hyper_tungstenite::{HyperWebsocket, HyperWebsocketStream};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::hub::{ConnId, Effect, Hub};
use super::proto::{MAX_MESSAGE_BYTES, NodeInfo};
use super::report::Reporter;
use crate::config::Secret;
use crate::metrics::{self, ControlCounters, NodeMetrics};
use crate::shard::{Command, Event};

/// TCP connections at once: a controller, the one that replaces it, scrapers and probes.
const MAX_CONNECTIONS: usize = 64;
/// Frames that may wait for a controller to read them.
const OUTGOING_QUEUE: usize = 4_096;
/// Frames of a controller that may wait for the driver; the socket is not read meanwhile.
const INCOMING_QUEUE: usize = 64;
/// Events of the shards that may wait for the driver.
const EVENT_QUEUE: usize = 65_536;
/// How long a peer may take for its request headers, and to take one frame.
const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a closing socket may take to say good-bye.
const LINGER: Duration = Duration::from_secs(1);
/// How long the cores may take to close their rooms.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// Interval of load reports until a controller asks for another one.
const DEFAULT_LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Hands a command to one core, or gives it back when the core's inbox is full.
pub type CommandSink = Box<dyn FnMut(Command) -> Result<(), Command> + Send>;

/// What the control socket needs to know.
pub struct ServerConfig {
    /// What a controller must present.
    pub secret: Secret,
    /// Identity and cores of the node.
    pub info: NodeInfo,
    /// Rooms per node.
    pub max_rooms: u32,
    /// How long a stopping node waits for its rooms to end by themselves.
    pub drain: Duration,
    /// What `/metrics` shows and load reports are made of; one probe per core.
    pub metrics: NodeMetrics,
}

/// Takes events of the shards to the control thread. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct EventSink {
    queue: mpsc::Sender<Event>,
    overflow: Arc<AtomicBool>,
    counters: Arc<ControlCounters>,
}

/// The control thread's end of the [`EventSink`]s.
pub struct EventSource {
    queue: mpsc::Receiver<Event>,
    overflow: Arc<AtomicBool>,
}

/// Makes the way for events from the shards to the control thread.
pub fn event_queue(counters: Arc<ControlCounters>) -> (EventSink, EventSource) {
    let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
    let overflow = Arc::new(AtomicBool::new(false));
    (
        EventSink { queue: sender, overflow: overflow.clone(), counters },
        EventSource { queue: receiver, overflow },
    )
}

impl EventSink {
    /// Hands one event over. When the queue is full the event is lost and counted, and the controller is made to come
    /// again and ask what runs.
    pub fn push(&self, event: Event) {
        if self.queue.try_send(event).is_err() {
            self.overflow.store(true, Ordering::Relaxed);
            self.counters.events_lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Serves until everything is closed.
///
/// `stop`: a first message closes the node (after `drain`), a second one ends this call at once. Accepting goes on for
/// metrics and health until the end. `commands`: one sink per core of `config.info`.
pub async fn serve(
    listener: TcpListener,
    config: ServerConfig,
    commands: Vec<CommandSink>,
    events: EventSource,
    stop: mpsc::Receiver<()>,
) {
    let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
    let gate = Arc::new(Gate {
        secret: config.secret.clone(),
        metrics: config.metrics.clone(),
        draining: AtomicBool::new(false),
        next_conn: AtomicU64::new(1),
        incoming: incoming_sender,
    });
    let accepting = tokio::spawn(accept(listener, gate.clone()));
    Driver::new(config, commands, gate).run(incoming, events, stop).await;
    accepting.abort();
}

/// What HTTP connections share.
struct Gate {
    secret: Secret,
    metrics: NodeMetrics,
    draining: AtomicBool,
    next_conn: AtomicU64,
    incoming: mpsc::Sender<FromSocket>,
}

/// What a socket tells the driver.
enum FromSocket {
    Attached(ConnId, mpsc::Sender<ToSocket>),
    Text(ConnId, Utf8Bytes),
    Detached(ConnId),
}

/// What the driver tells a socket. Dropping the sender closes it after what is queued.
enum ToSocket {
    Text(String),
    Close(u16, &'static str),
}

async fn accept(listener: TcpListener, gate: Arc<Gate>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Dropped with this task: aborting it ends all connections.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
                let gate = gate.clone();
                connections.spawn(async move {
                    serve_connection(stream, gate).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control socket: accept failed");
                // Out of descriptors: trying again at once would only burn the CPU.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, gate: Arc<Gate>) {
    let _ = stream.set_nodelay(true);
    let (socket_sender, mut socket) = mpsc::channel(1);
    let service = service_fn(|request| answer(request, gate.clone(), socket_sender.clone()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PEER_PATIENCE)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "control socket: connection ended");
    }
    if let Ok(websocket) = socket.try_recv() {
        run_upgraded(websocket, &gate).await;
    }
}

async fn answer(
    mut request: Request<Incoming>,
    gate: Arc<Gate>,
    upgrades: mpsc::Sender<HyperWebsocket>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if hyper_tungstenite::is_upgrade_request(&request) {
        return Ok(upgrade(&mut request, &gate, &upgrades));
    }
    Ok(match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => respond(StatusCode::OK, metrics::CONTENT_TYPE, gate.metrics.encode()),
        (&Method::GET, "/health") => {
            let draining = gate.draining.load(Ordering::Relaxed);
            let controller = gate.metrics.control.connected.load(Ordering::Relaxed) == 1;
            let body = serde_json::json!({ "status": "UP", "draining": draining, "controller": controller });
            respond(StatusCode::OK, "application/json", body.to_string())
        }
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "WebSocket, GET /metrics or GET /health\n"),
    })
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

/// Any path: operators' URIs end in `/kurento`.
fn upgrade(
    request: &mut Request<Incoming>,
    gate: &Gate,
    upgrades: &mpsc::Sender<HyperWebsocket>,
) -> Response<Full<Bytes>> {
    if !bearer(request).is_some_and(|secret| gate.secret.matches(secret)) {
        gate.metrics.control.unauthorized.fetch_add(1, Ordering::Relaxed);
        let mut response =
            respond(StatusCode::UNAUTHORIZED, "text/plain", "the cluster secret is missing or wrong\n");
        response.headers_mut().insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
        return response;
    }
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0);
    match hyper_tungstenite::upgrade(request, Some(config)) {
        Ok((response, websocket)) => {
            let _ = upgrades.try_send(websocket);
            response
        }
        Err(error) => respond(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
    }
}

/// The token of `Authorization: Bearer TOKEN` (RFC 6750 §2.1).
fn bearer(request: &Request<Incoming>) -> Option<&[u8]> {
    let value = request.headers().get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

async fn run_upgraded(websocket: HyperWebsocket, gate: &Gate) {
    let Ok(stream) = websocket.await else { return };
    let id = ConnId(gate.next_conn.fetch_add(1, Ordering::Relaxed));
    let (sender, outgoing) = mpsc::channel(OUTGOING_QUEUE);
    gate.metrics.control.connections.fetch_add(1, Ordering::Relaxed);
    if gate.incoming.send(FromSocket::Attached(id, sender)).await.is_ok() {
        run_socket(stream, id, &gate.incoming, outgoing).await;
        let _ = gate.incoming.send(FromSocket::Detached(id)).await;
    }
}

/// Moves frames between one WebSocket and the driver until either ends.
async fn run_socket(
    mut stream: HyperWebsocketStream,
    id: ConnId,
    incoming: &mpsc::Sender<FromSocket>,
    mut outgoing: mpsc::Receiver<ToSocket>,
) {
    let (code, reason) = loop {
        tokio::select! {
            frame = stream.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    if incoming.send(FromSocket::Text(id, text)).await.is_err() {
                        break (1001, "the node ends");
                    }
                }
                Some(Ok(Message::Binary(_))) => break (1003, "text frames only"),
                Some(Ok(Message::Close(_))) | None => return,
                Some(Ok(_)) => {}
                Some(Err(WsError::Capacity(_))) => break (1009, "message too long"),
                Some(Err(error)) => {
                    tracing::debug!(%error, "control socket: lost");
                    return;
                }
            },
            message = outgoing.recv() => match message {
                Some(ToSocket::Text(text)) => {
                    if !matches!(timeout(PEER_PATIENCE, stream.send(Message::text(text))).await, Ok(Ok(()))) {
                        return;
                    }
                }
                Some(ToSocket::Close(code, reason)) => break (code, reason),
                None => break (1001, "the node ends"),
            },
        }
    };
    let _ = timeout(LINGER, say_goodbye(&mut stream, code, reason)).await;
}

/// Sends a close frame and waits for the peer's.
async fn say_goodbye(stream: &mut HyperWebsocketStream, code: u16, reason: &'static str) {
    let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
    if stream.close(Some(frame)).await.is_ok() {
        while matches!(stream.next().await, Some(Ok(_))) {}
    }
}

/// Owns the hub and carries out its effects.
struct Driver {
    hub: Hub,
    commands: Vec<CommandSink>,
    gate: Arc<Gate>,
    sockets: HashMap<ConnId, mpsc::Sender<ToSocket>>,
    reporter: Reporter,
    reported: Instant,
    load_every: Duration,
    drain: Duration,
    exit: bool,
}

impl Driver {
    fn new(config: ServerConfig, commands: Vec<CommandSink>, gate: Arc<Gate>) -> Driver {
        assert_eq!(commands.len(), config.info.cores.len(), "one sink per core");
        let readings = config.metrics.cores.iter().map(|probe| probe.read()).collect();
        Driver {
            hub: Hub::new(config.info, config.max_rooms),
            commands,
            gate,
            sockets: HashMap::new(),
            reporter: Reporter::new(readings),
            reported: Instant::now(),
            load_every: DEFAULT_LOAD_INTERVAL,
            drain: config.drain,
            exit: false,
        }
    }

    async fn run(
        mut self,
        mut incoming: mpsc::Receiver<FromSocket>,
        mut events: EventSource,
        mut stop: mpsc::Receiver<()>,
    ) {
        let mut load_every = self.load_every;
        let mut load = load_timer(load_every);
        // When the rooms must have ended by themselves, then when the cores must have closed them.
        let mut drained: Option<Instant> = None;
        let mut closed: Option<Instant> = None;
        while !self.exit {
            let mut effects = Vec::new();
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                Some(message) = incoming.recv() => self.on_socket(message, &mut effects),
                Some(event) = events.queue.recv() => self.hub.handle_event(event, &mut effects),
                _ = load.tick() => self.on_load_tick(&mut effects),
                Some(()) = stop.recv() => {
                    if closed.is_some() || drained.is_some() {
                        break;
                    }
                    tracing::info!(rooms = self.hub.room_count(), "stopping");
                    drained = Some(Instant::now() + self.drain);
                    self.hub.drain(&mut effects);
                }
                () = sleep_until(drained.unwrap_or(far)), if drained.is_some() => {
                    (drained, closed) = (None, Some(Instant::now() + CLOSE_PATIENCE));
                    self.hub.stop(&mut effects);
                }
                () = sleep_until(closed.unwrap_or(far)), if closed.is_some() => {
                    tracing::warn!("a core did not close its rooms in time");
                    break;
                }
            }
            if events.overflow.swap(false, Ordering::Relaxed) {
                self.cut_all();
                // With nobody attached these only bring the directory up to date.
                for event in std::iter::from_fn(|| events.queue.try_recv().ok()).take(EVENT_QUEUE) {
                    self.hub.handle_event(event, &mut effects);
                }
            }
            self.carry_out(effects);
            if self.load_every != load_every {
                load_every = self.load_every;
                load = load_timer(load_every);
            }
        }
        self.say_goodbye(incoming).await;
    }

    fn on_socket(&mut self, message: FromSocket, effects: &mut Vec<Effect>) {
        match message {
            FromSocket::Attached(id, sender) => {
                self.sockets.insert(id, sender);
                self.hub.attach(id, effects);
                self.gate.metrics.control.connected.store(1, Ordering::Relaxed);
                tracing::info!(connection = id.0, "controller connected");
            }
            FromSocket::Text(id, text) => self.hub.handle_text(id, &text, effects),
            FromSocket::Detached(id) => self.detach(id),
        }
    }

    fn detach(&mut self, id: ConnId) {
        self.sockets.remove(&id);
        self.hub.detach(id);
        let connected = u64::from(!self.sockets.is_empty());
        if self.gate.metrics.control.connected.swap(connected, Ordering::Relaxed) != connected {
            tracing::warn!(rooms = self.hub.room_count(), "controller is gone; media goes on");
        }
    }

    fn on_load_tick(&mut self, effects: &mut Vec<Effect>) {
        let readings = self.gate.metrics.cores.iter().map(|probe| probe.read()).collect();
        let now = Instant::now();
        let resident = metrics::resident_bytes().unwrap_or(0);
        let load = self.reporter.report(readings, now - self.reported, resident);
        self.reported = now;
        self.hub.report_load(load, effects);
    }

    fn carry_out(&mut self, mut effects: Vec<Effect>) {
        while !effects.is_empty() {
            let mut more = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Send(id, text) => self.send(id, ToSocket::Text(text)),
                    Effect::Close(id, code, reason) => {
                        self.send(id, ToSocket::Close(code, reason));
                        self.sockets.remove(&id);
                    }
                    Effect::Command(core, command) => self.command(core, command, &mut more),
                    Effect::LoadInterval(interval) => self.load_every = interval,
                    Effect::Exit => self.exit = true,
                }
            }
            effects = more;
        }
        self.gate.draining.store(self.hub.draining(), Ordering::Relaxed);
    }

    fn send(&mut self, id: ConnId, message: ToSocket) {
        let Some(socket) = self.sockets.get(&id) else { return };
        if socket.try_send(message).is_err() {
            tracing::warn!(connection = id.0, "controller does not read; connection cut");
            self.gate.metrics.control.slow.fetch_add(1, Ordering::Relaxed);
            self.detach(id);
        }
    }

    fn command(&mut self, core: u16, command: Command, effects: &mut Vec<Effect>) {
        if let Err(back) = (self.commands[usize::from(core)])(command) {
            self.gate.metrics.control.inbox_full.fetch_add(1, Ordering::Relaxed);
            self.hub.refuse(token(&back), effects);
        }
    }

    /// Events were lost: whoever relied on them must ask again.
    fn cut_all(&mut self) {
        tracing::error!("events of the cores were lost; the controller must reconcile");
        let ids: Vec<ConnId> = self.sockets.keys().copied().collect();
        ids.into_iter().for_each(|id| self.detach(id));
    }

    /// Lets the sockets write what is queued.
    async fn say_goodbye(&mut self, mut incoming: mpsc::Receiver<FromSocket>) {
        let mut open = self.sockets.len();
        self.sockets.clear();
        let deadline = Instant::now() + LINGER + LINGER;
        while open > 0 {
            match tokio::time::timeout_at(deadline, incoming.recv()).await {
                Ok(Some(FromSocket::Detached(_))) => open -= 1,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}

fn load_timer(every: Duration) -> tokio::time::Interval {
    let mut timer = interval_at(Instant::now() + every, every);
    timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
    timer
}

fn token(command: &Command) -> u64 {
    match command {
        Command::Apply { token, .. }
        | Command::RoomStats { token, .. }
        | Command::ListRooms { token }
        | Command::CloseAll { token } => *token,
    }
}

/// Makes a bound standard listener fit for [`serve`]. Must run inside the runtime.
///
/// # Errors
/// When the kernel refuses to make it non-blocking or to register it.
pub fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

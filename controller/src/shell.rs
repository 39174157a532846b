//! The one task that owns the controller's state: events in, engine, outputs out to the adapters.
//!
//! ```text
//! http::Event ──┐                                     ┌─▶ oneshot of the REST request
//! fleet       ──┼─▶ Input ─▶ Engine::handle ─▶ Output ┼─▶ Outbox of the socket        never blocks: a full one is cut
//! timer       ──┘          (now_ms read here)         ├─▶ Nodes::apply, order         never blocks: a full one is "lost"
//!                                                     └─▶ event log in the store
//! ```
//!
//! Outputs are held until what they tell is on disk ([`durable`]); inputs are taken meanwhile.
//! Nothing here waits for anyone, so one slow client, node or webhook holds up nobody else.

pub mod durable;
mod metering;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sfu_core::control::proto::Op;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::autoscaler;
use crate::config::{self, Config};
use crate::engine::{
    ApiError, Autoscaling, ClusterConfig, Coturn, Engine, EngineConfig, Input, NodeError, NodeOrder, Output,
    RestRequest, RestResponse,
};
use crate::events::Sinks;
use crate::http::{Event, Outbox, Shared};
use crate::ids::{ClientId, NodeId, ReplyId, SessionId};
use crate::metering::Meter;
use crate::rest::info::ServerInfo;
use crate::session::{ForcedVideoCodec, Reason};
use crate::shell::durable::{Durable, Earlier};

/// Inputs that may wait for the shell, per source; senders wait beyond that.
pub const QUEUE_INPUTS_MAX: usize = 4096;
/// Waiting REST requests beyond which those given up are swept out.
const REPLIES_SWEEP: usize = 1024;
/// How long webhook and CDR may take for the last events.
const EVENTS_DRAIN: Duration = Duration::from_secs(2);
/// How long texts queued for clients may take when the server stops.
const SOCKETS_DRAIN: Duration = Duration::from_millis(200);
/// How long the disk may take for the last changes.
const STORE_DRAIN: Duration = Duration::from_secs(5);

/// UTC, milliseconds. The controller's only clock besides tokio's timers.
#[expect(clippy::disallowed_methods, reason = "the shell is the clock adapter of the controller")]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Way to the media nodes.
pub trait Nodes: Send {
    /// Queues ops for a node. [`Input::NodeReply`] follows for each call that was taken; they are applied in order.
    ///
    /// # Errors
    /// The node has no connection or its queue is full; no reply follows.
    fn apply(&mut self, node: &NodeId, token: u64, room: String, ops: Vec<Op>) -> Result<(), NodeError>;

    /// Carries out an order about a node. [`Input::NodeNews`] and link events follow.
    fn order(&mut self, order: NodeOrder);

    /// Whether [`NodeOrder::Discover`] can be carried out.
    fn can_discover(&self) -> bool;
}

/// Validates and stores the properties of `POST /restart`, and arranges for the restart.
pub type Restart = Box<dyn FnMut(Option<&Value>) -> Result<(), ApiError> + Send>;

/// What flows into the shell.
#[derive(Debug)]
pub struct Inputs {
    /// From clients.
    pub http: mpsc::Receiver<Event>,
    /// From media nodes and whoever else speaks to the engine.
    pub engine: mpsc::Receiver<Input>,
    /// Turns true when the server shall stop.
    pub stop: watch::Receiver<bool>,
}

/// The engine with its adapters.
pub struct Shell {
    engine: Engine,
    http: Arc<Shared>,
    info: ServerInfo,
    nodes: Box<dyn Nodes>,
    durable: Durable,
    sinks: Sinks,
    meter: Meter,
    restart: Restart,
    /// Whom to tell that the nodes of the start are there, or why not.
    started: Option<oneshot::Sender<Result<(), String>>>,
    sockets: HashMap<ClientId, Outbox>,
    replies: HashMap<ReplyId, oneshot::Sender<RestResponse>>,
    next_reply: u64,
}

impl Shell {
    /// A shell around an empty engine. `http`: whose configuration and metrics it shares.
    pub fn new(
        http: Arc<Shared>,
        info: ServerInfo,
        nodes: Box<dyn Nodes>,
        (durable, sinks): (Durable, Sinks),
        restart: Restart,
    ) -> Self {
        let mut config = engine_config(&http.config, &info.cluster_id);
        config.cluster.discovers = nodes.can_discover();
        let now = now_ms();
        let engine = Engine::new(config, rand::random(), now);
        let meter = Meter::new(metering::config(&http.config, &info.cluster_id), now);
        Self {
            engine,
            http,
            info,
            nodes,
            durable,
            sinks,
            meter,
            restart,
            started: None,
            sockets: HashMap::new(),
            replies: HashMap::new(),
            next_reply: 0,
        }
    }

    /// The engine, for setting it up before [`Shell::run`].
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Whom to tell, once, that the nodes the server starts with are there, or why it cannot start.
    pub fn tell_started(&mut self, whom: oneshot::Sender<Result<(), String>>) {
        self.started = Some(whom);
    }

    /// Goes on with what an earlier life of the server left. Before [`Shell::run`].
    ///
    /// # Errors
    /// A row that this version cannot read.
    pub fn restore(&mut self, earlier: &Earlier) -> anyhow::Result<()> {
        let (now, mut out) = (now_ms(), Vec::new());
        self.engine.restore(now, &earlier.engine, &mut out)?;
        self.meter.restore(&earlier.usage)?;
        self.meter.connected(now, metering::master(&self.http.config));
        self.hold(out);
        Ok(())
    }

    /// Runs until told to stop; then closes every session and waits shortly for the last events and texts.
    pub async fn run(mut self, mut inputs: Inputs) {
        self.feed(Input::Start);
        loop {
            let deadline = self.deadline();
            let room = self.durable.has_room();
            tokio::select! {
                () = self.durable.progress() => self.release(),
                event = inputs.http.recv(), if room => match event {
                    Some(event) => self.on_event(event),
                    None => break,
                },
                Some(input) = inputs.engine.recv(), if room => self.feed(input),
                () = tokio::time::sleep_until(deadline), if room => self.feed(Input::Tick),
                _ = inputs.stop.wait_for(|stopped| *stopped) => break,
            }
        }
        self.stop(inputs).await;
    }

    /// When the engine wants to be woken.
    fn deadline(&self) -> Instant {
        let heartbeat = self.meter.next_timeout();
        let at = self.engine.next_timeout().map_or(heartbeat, |at| at.min(heartbeat));
        tokio::time::sleep(Duration::from_millis(at.saturating_sub(now_ms()))).deadline()
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Rest { request, reply } => self.on_rest(request, reply),
            Event::SocketOpened { client, remote_ip, user_agent, outbox } => {
                self.sockets.insert(client, outbox);
                self.feed(Input::SocketOpened { client, remote_ip: Some(remote_ip), user_agent });
            }
            Event::SocketText { client, text } => {
                if self.sockets.contains_key(&client) {
                    self.feed(Input::SocketText { client, text });
                }
            }
            Event::SocketClosed { client, code, reason } => {
                self.sockets.remove(&client);
                self.feed(Input::SocketClosed { client, code, reason });
            }
        }
    }

    fn on_rest(&mut self, request: RestRequest, reply: oneshot::Sender<RestResponse>) {
        let now = now_ms();
        if let Some(answer) = self.answer_here(&request, now) {
            // Whoever asked may have gone away meanwhile.
            let _ = reply.send(answer);
            return;
        }
        self.next_reply += 1;
        let id = ReplyId(self.next_reply);
        self.replies.insert(id, reply);
        self.feed(Input::Rest { reply: id, request });
        // Clients that gave up must not pile up behind answers that never come.
        if self.replies.len() > REPLIES_SWEEP {
            self.replies.retain(|_, waiting| !waiting.is_closed());
        }
    }

    /// Requests that are not the engine's.
    fn answer_here(&mut self, request: &RestRequest, now: u64) -> Option<RestResponse> {
        if request.path == ["restart"] && request.method == "POST" {
            let done = (self.restart)(request.body.as_ref());
            let answer = done.map(|()| RestResponse { status: 200, body: None });
            return Some(answer.unwrap_or_else(|error| crate::rest::refusal(error, "restart", now)));
        }
        let usage = crate::rest::usage::answer(&self.meter, request, now);
        usage.or_else(|| crate::rest::info::answer(&self.http.config, &self.info, request, now))
    }

    /// One input, and all that follows from it.
    fn feed(&mut self, input: Input) {
        let (now, mut out) = (now_ms(), Vec::new());
        let seen = metering::Seen::of(&input);
        self.engine.handle(now, input, &mut out);
        metering::observe(&mut self.meter, now, &seen, &self.engine, &out);
        self.hold(out);
    }

    /// Keeps outputs until what they tell is on disk.
    fn hold(&mut self, out: Vec<Output>) {
        self.durable.hold(self.engine.take_rows(), self.meter.take_rows(), out);
        self.release();
    }

    /// Carries out what may leave now.
    fn release(&mut self) {
        while let Some(out) = self.durable.release() {
            self.carry_out(out);
        }
        self.count();
    }

    /// Gauges of `/metrics`.
    fn count(&self) {
        let metrics = &self.http.metrics;
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        metrics.sessions.set(gauge(self.engine.session_count()));
        metrics.rest_waiting.set(gauge(self.replies.len()));
        let sinks = self.sinks.counters();
        let lost = sinks.webhook_lost.load(Ordering::Relaxed) + sinks.missed.load(Ordering::Relaxed);
        metrics.events_dropped.set(i64::try_from(lost).unwrap_or(i64::MAX));
        self.durable.count(&metrics.store);
    }

    fn carry_out(&mut self, out: Vec<Output>) {
        let failed: Vec<Input> = out.into_iter().filter_map(|output| self.carry_out_one(output)).collect();
        for input in failed {
            let mut out = Vec::new();
            self.engine.handle(now_ms(), input, &mut out);
            self.durable.hold(self.engine.take_rows(), Vec::new(), out);
        }
    }

    /// Carries out one output; what failed at once comes back as an input.
    fn carry_out_one(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::RestReply { reply, status, body } => {
                if let Some(waiting) = self.replies.remove(&reply) {
                    let _ = waiting.send(RestResponse { status, body });
                }
            }
            Output::SocketText { client, text } => {
                let cut = self.sockets.get(&client).is_some_and(|outbox| outbox.send(text).is_err());
                if cut {
                    tracing::warn!(client = client.0, "client does not read, cut");
                    self.sockets.remove(&client);
                }
            }
            Output::SocketClose { client, code, reason } => {
                if let Some(outbox) = self.sockets.remove(&client) {
                    let _ = outbox.close(code, reason);
                }
            }
            Output::NodeApply { node, token, room, ops } => {
                let queued = self.nodes.apply(&node, token, room, ops);
                return queued.err().map(|error| Input::NodeReply { token, result: Err(error) });
            }
            Output::Node(order) => self.nodes.order(order),
            Output::Started(result) => {
                if let Some(started) = self.started.take() {
                    let _ = started.send(result);
                }
            }
            Output::Record(_) => unreachable!("records go with what caused them"),
        }
        None
    }

    /// Every session ends with `openviduServerStopped`; clients and webhook hear of it.
    async fn stop(mut self, inputs: Inputs) {
        let ids: Vec<SessionId> = self.engine.sessions().map(|session| session.id.clone()).collect();
        tracing::info!(sessions = ids.len(), "stopping");
        for id in ids {
            let mut out = Vec::new();
            let closed =
                self.engine.close_session(now_ms(), id.as_str(), Reason::OpenviduServerStopped, &mut out);
            if let Err(error) = closed {
                tracing::debug!(session = %id, %error, "already gone");
            }
            self.hold(out);
        }
        self.meter.stop(now_ms());
        self.hold(Vec::new());
        drop(inputs);
        let stored = async {
            while !self.durable.is_idle() {
                self.durable.progress().await;
                self.release();
            }
        };
        if tokio::time::timeout(STORE_DRAIN, stored).await.is_err() {
            tracing::error!("the last changes are not on disk");
        }
        self.sockets.clear();
        tokio::time::sleep(SOCKETS_DRAIN).await;
        self.sinks.finish(EVENTS_DRAIN).await;
    }
}

/// The engine's part of the configuration. `cluster_id`: name of the cluster, made up if none is configured.
pub fn engine_config(config: &Config, cluster_id: &str) -> EngineConfig {
    let seconds = |s: u64| s.saturating_mul(1000);
    EngineConfig {
        version: crate::config::OPENVIDU_VERSION.to_owned(),
        ws_url: config.public.ws(),
        secret: config.secret.expose().to_owned(),
        media_server: config.media.server_name.clone(),
        video_simulcast: config.streams.simulcast,
        forced_video_codec: ForcedVideoCodec::parse(config.streams.forced_codec.name())
            .expect("both enumerations have the contract's names"),
        allow_transcoding: config.streams.allow_transcoding,
        max_publish_kbps: config.streams.video_max_recv_kbps.into(),
        ice_servers: config.ice_servers.iter().cloned().map(Into::into).collect(),
        coturn: config.turn.ip.map(|ip| Coturn {
            ip: ip.to_string(),
            port: config.turn.port,
            secret: config.turn.shared_secret.expose().to_owned(),
        }),
        garbage_interval_ms: seconds(config.sessions.garbage_interval_s),
        garbage_threshold_ms: seconds(config.sessions.garbage_threshold_s),
        node_reconnection_ms: config.cluster.reconnection_timeout_s.map(seconds),
        cluster: cluster_config(&config.cluster, cluster_id),
        load_strategy: config.cluster.load_strategy,
        ..EngineConfig::default()
    }
}

/// Media nodes on one machine, whatever is asked for.
const CHILDREN_MAX: usize = 64;

fn cluster_config(cluster: &config::Cluster, id: &str) -> ClusterConfig {
    let scaling = &cluster.autoscaling;
    let launches = cluster.launches();
    let defaults = ClusterConfig::default();
    let wanted = if scaling.enabled { scaling.min_nodes } else { cluster.media_nodes };
    let autoscaling = Autoscaling {
        limits: autoscaler::Limits {
            max_nodes: scaling.max_nodes,
            min_nodes: scaling.min_nodes,
            max_avg_load: scaling.max_load,
            min_avg_load: scaling.min_load,
        },
        interval_ms: scaling.interval_s.max(1).saturating_mul(1000),
    };
    ClusterConfig {
        id: id.to_owned(),
        launches,
        joins: cluster.joins(),
        // What is no URI was refused at the start.
        join_at_start: cluster.uris_at_start().iter().filter_map(|uri| uri.parse().ok()).collect(),
        nodes_at_start: (launches && cluster.is_auto()).then_some(wanted),
        autoscaling: scaling.enabled.then_some(autoscaling),
        nodes_max: if cluster.environment == config::PROCESS { CHILDREN_MAX } else { defaults.nodes_max },
        ..defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Surroundings, VideoCodec};

    #[test]
    fn every_codec_of_the_configuration_is_one_of_the_model() {
        for codec in VideoCodec::ALL {
            assert!(ForcedVideoCodec::parse(codec.name()).is_some(), "{codec:?}");
        }
    }

    struct NoNodes;

    impl Nodes for NoNodes {
        fn apply(&mut self, _: &NodeId, _: u64, _: String, _: Vec<Op>) -> Result<(), NodeError> {
            Err(NodeError::lost("no nodes in this test"))
        }

        fn order(&mut self, _: NodeOrder) {}

        fn can_discover(&self) -> bool {
            false
        }
    }

    fn shell() -> (Shell, Inputs, mpsc::Sender<Event>, watch::Sender<bool>) {
        let around = Surroundings { directory: "/nonexistent".into(), ..Surroundings::default() };
        let config = Arc::new(Config::load(&around).unwrap());
        let info = ServerInfo { start_ms: 1, restarts: 0, last_restart_ms: 1, cluster_id: "c".into() };
        let restart: Restart = Box::new(|body| crate::rest::restart::properties(body).map(drop));
        let store = Arc::new(crate::store::MemoryStore::default());
        let (durable, sinks, _) = Durable::open(store, &config, 0).unwrap();
        let (http_in, http) = mpsc::channel(8);
        let shared = Arc::new(Shared::new(config, http_in.clone()));
        let shell = Shell::new(shared, info, Box::new(NoNodes), (durable, sinks), restart);
        let (stop_in, stop) = watch::channel(false);
        (shell, Inputs { http, engine: mpsc::channel(1).1, stop }, http_in, stop_in)
    }

    async fn ask(
        events: &mpsc::Sender<Event>,
        method: &str,
        path: &[&str],
        body: Option<Value>,
    ) -> RestResponse {
        let (reply, answer) = oneshot::channel();
        let path = path.iter().map(|s| (*s).to_owned()).collect();
        let request = RestRequest { method: method.into(), path, body, ..Default::default() };
        events.send(Event::Rest { request, reply }).await.unwrap();
        answer.await.unwrap()
    }

    #[tokio::test]
    async fn requests_are_answered_and_the_end_is_clean() {
        let (shell, inputs, events, stop) = shell();
        let running = tokio::spawn(shell.run(inputs));
        let created = ask(&events, "POST", &["sessions"], None).await;
        assert_eq!(created.status, 200);
        assert_eq!(ask(&events, "GET", &["status"], None).await.body.unwrap()["startTime"], 1);
        assert_eq!(ask(&events, "GET", &["health"], None).await.status, 503, "no node");
        let bad = ask(&events, "POST", &["restart"], Some(serde_json::json!({"OPENVIDU_SECRET": "x"}))).await;
        assert_eq!(bad.status, 400);
        stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(5), running).await.expect("stops").unwrap();
        let (reply, answer) = oneshot::channel();
        let late = events.send(Event::Rest { request: RestRequest::default(), reply }).await;
        assert!(late.is_err() || answer.await.is_err());
    }

    #[tokio::test]
    async fn a_socket_is_answered_through_its_outbox() {
        let (shell, inputs, events, _stop) = shell();
        tokio::spawn(shell.run(inputs));
        let (outbox, mut reader) = crate::http::outbox::outbox();
        let (client, remote_ip) = (ClientId(1), [127, 0, 0, 1].into());
        events.send(Event::SocketOpened { client, remote_ip, user_agent: None, outbox }).await.unwrap();
        let text = r#"{"jsonrpc":"2.0","method":"ping","params":{"interval":5000},"id":0}"#.to_owned();
        events.send(Event::SocketText { client, text }).await.unwrap();
        match reader.next().await {
            Some(crate::http::outbox::Outgoing::Text(text)) => {
                let answer: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(
                    (&answer["id"], &answer["result"]["value"]),
                    (&Value::from(0), &Value::from("pong"))
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

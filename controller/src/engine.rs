//! The controller's state and its one entry: input in, outputs out, no I/O.
//!
//! ```text
//!  REST request ─┐                      ┌─▶ answer to a REST request
//!  socket text  ─┤   Engine::handle     ├─▶ text for a socket, or its close
//!  node reply   ─┼─▶ (now_ms, Input) ───┼─▶ ops for a media node, with a token
//!  node event   ─┤                      ├─▶ order to launch, stop or connect a media node
//!  tick         ─┘                      └─▶ record for webhook and CDR
//! ```
//!
//! Time is passed in (`now_ms`, UTC milliseconds) and never read; randomness comes from the seed handed to [`Engine::new`].
//! Outputs are to be carried out in their order. Drain rule: after every [`Engine::handle`] call carry out all outputs, then
//! call again with [`Input::Tick`] when [`Engine::next_timeout`] has come.
//!
//! The operations that the REST layer calls are in [`rest_ops`](self) (`create_session`, `create_connection`, ...), those of
//! clients in [`crate::signaling`].
#![forbid(unsafe_code)]

mod cluster;
mod cluster_link;
mod cluster_ops;
mod cluster_scaling;
mod cluster_start;
mod cluster_wait;
mod config;
mod nodes;
mod orders;
mod persist;
mod placing;
mod reconcile;
mod removal;
mod rest_ops;
mod timers;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use sfu_core::control::proto::{self, NodeInfo, Notification};

#[cfg(test)]
pub(crate) use cluster::Machine;
pub(crate) use cluster::Work;
pub use cluster_link::SILENT_MS;
pub(crate) use cluster_ops::{NewNode, Removed};
pub(crate) use cluster_wait::Wish;
pub use config::{Autoscaling, ClusterConfig, Coturn, EngineConfig, Limits};
pub use nodes::{MediaNode, Nodes};
pub use orders::{NodeNews, NodeOrder};
pub use persist::{RestoreError, Row, RowKind, Saved};
pub(crate) use removal::{participant_record, publication_record, subscription_record};
pub(crate) use rest_ops::SignalEvent;
pub use rest_ops::{ApiError, SignalRequest};
pub(crate) use timers::{Timer, Timers};

use crate::ids::{ClientId, IdGenerator, NodeId, ReplyId, SessionId};
use crate::placement::Placement;
pub use crate::session::EventRecord;
use crate::session::{Place, Registry, Session};
use crate::signaling::{Join, Peers, Pending};

/// Something that happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// The server starts: its nodes are connected to, found and launched. At most once.
    Start,
    /// An authenticated REST request.
    Rest {
        /// Names the request in [`Output::RestReply`].
        reply: ReplyId,
        /// What it asks for.
        request: RestRequest,
    },
    /// A client opened a WebSocket.
    SocketOpened {
        /// Its new id.
        client: ClientId,
        /// Where it comes from.
        remote_ip: Option<IpAddr>,
        /// Its `User-Agent` header.
        user_agent: Option<String>,
    },
    /// A client sent a text frame.
    SocketText {
        /// Which client.
        client: ClientId,
        /// One JSON-RPC message.
        text: String,
    },
    /// A WebSocket is gone, for whatever reason. Nothing may be sent to it any more.
    SocketClosed {
        /// Which client.
        client: ClientId,
        /// Code of its close frame.
        code: Option<u16>,
        /// Reason of its close frame, or why it broke.
        reason: String,
    },
    /// The control connection to a media node is up and it said hello.
    NodeUp {
        /// Which node.
        node: NodeId,
        /// What it is and what runs there.
        info: NodeInfo,
    },
    /// The control connection to a media node is lost.
    NodeDown {
        /// Which node.
        node: NodeId,
    },
    /// A node answered, or its connection broke before it did.
    NodeReply {
        /// Token of the [`Output::NodeApply`].
        token: u64,
        /// Whether all ops were applied.
        result: Result<(), NodeError>,
    },
    /// A node told something.
    NodeNotification {
        /// Which node.
        node: NodeId,
        /// What.
        notification: Notification,
    },
    /// What came of an order about a media node.
    NodeNews(NodeNews),
    /// A deadline may have passed.
    Tick,
}

/// Something to do outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Answer a REST request.
    RestReply {
        /// Which request.
        reply: ReplyId,
        /// HTTP status.
        status: u16,
        /// JSON body; `None` is an empty one.
        body: Option<Value>,
    },
    /// Send a text frame.
    SocketText {
        /// To whom.
        client: ClientId,
        /// One JSON-RPC message; recipients of the same notification share it.
        text: Arc<str>,
    },
    /// Close a socket; [`Input::SocketClosed`] follows.
    SocketClose {
        /// Which client.
        client: ClientId,
        /// Code of the close frame.
        code: u16,
        /// Reason of the close frame.
        reason: String,
    },
    /// Change a room on a node. Ops for one node must reach it in the order of the outputs.
    NodeApply {
        /// Which node.
        node: NodeId,
        /// Names the request in [`Input::NodeReply`].
        token: u64,
        /// Which room.
        room: String,
        /// What to do there.
        ops: Vec<proto::Op>,
    },
    /// Do something about a media node; [`Input::NodeNews`] follows.
    Node(NodeOrder),
    /// The nodes that the server starts with are there, or it cannot start without them. At most once.
    Started(Result<(), String>),
    /// Write an event to the log, for webhook and CDR.
    Record(EventRecord),
}

/// A REST request below `/openvidu/api/`, authenticated, its body parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestRequest {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Segments behind `/openvidu/api/`, percent-decoded.
    pub path: Vec<String>,
    /// Query parameters, percent-decoded; the last of each name counts.
    pub query: BTreeMap<String, String>,
    /// Body; `None` when empty.
    pub body: Option<Value>,
}

/// Answer to a REST request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestResponse {
    /// HTTP status.
    pub status: u16,
    /// JSON body; `None` is an empty one.
    pub body: Option<Value>,
}

/// Why a node did not apply ops: its `error` member, or [`NodeError::LOST`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("media node: {message} ({code})")]
pub struct NodeError {
    /// One of [`proto::error_code`], or [`NodeError::LOST`].
    pub code: i64,
    /// For people.
    pub message: String,
}

impl NodeError {
    /// The connection broke, or no answer came.
    pub const LOST: i64 = -1;

    /// No answer came from the node.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { code: Self::LOST, message: message.into() }
    }
}

/// All state of the controller that is not I/O.
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) ids: IdGenerator,
    pub(crate) registry: Registry,
    pub(crate) nodes: Nodes,
    pub(crate) placement: Placement,
    pub(crate) work: Work,
    pub(crate) peers: Peers,
    pub(crate) timers: Timers,
    /// Who waits for the room of a session.
    pub(crate) opening: HashMap<SessionId, Vec<Join>>,
    /// Who waits for a node's reply, by token.
    pub(crate) pending: HashMap<u64, Pending>,
    next_token: u64,
    next_room: u64,
}

impl Engine {
    /// An engine without sessions and nodes. `seed` must be unpredictable: tokens are made from it.
    pub fn new(config: EngineConfig, seed: [u8; 32], now_ms: u64) -> Self {
        let mut timers = Timers::default();
        let placement = Placement::new(config.load_strategy);
        if config.garbage_interval_ms > 0 {
            timers.set(now_ms + config.garbage_interval_ms, Timer::Garbage);
        }
        Self {
            peers: Peers::new(config.limits.clone()),
            config,
            ids: IdGenerator::from_seed(seed),
            registry: Registry::default(),
            nodes: Nodes::default(),
            placement,
            work: Work::default(),
            timers,
            opening: HashMap::new(),
            pending: HashMap::new(),
            next_token: 1,
            next_room: 0,
        }
    }

    /// Takes one input and appends what is to be done. `now_ms`: UTC milliseconds, never going back by much.
    pub fn handle(&mut self, now_ms: u64, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Rest { reply, request } => {
                if let Some(response) = crate::rest::handle(self, now_ms, reply, request, out) {
                    out.push(Output::RestReply { reply, status: response.status, body: response.body });
                }
            }
            Input::SocketOpened { client, remote_ip, .. } => self.on_socket_opened(now_ms, client, remote_ip),
            Input::SocketText { client, text } => self.on_socket_text(now_ms, client, &text, out),
            Input::SocketClosed { client, .. } => self.on_socket_closed(now_ms, client),
            Input::NodeUp { node, info } => self.on_node_up(now_ms, &node, info, out),
            Input::NodeDown { node } => self.on_node_down(now_ms, &node, out),
            Input::NodeReply { token, result } => self.settle(now_ms, token, result, out),
            Input::NodeNotification { node, notification } => {
                self.on_node_notification(now_ms, &node, notification);
            }
            Input::Start => self.on_start(now_ms, out),
            Input::NodeNews(news) => self.on_node_news(now_ms, news, out),
            Input::Tick => self.on_tick(now_ms, out),
        }
        self.evict_overflowed(now_ms, out);
    }

    /// When [`Input::Tick`] is wanted at the latest, UTC milliseconds. `None`: nothing is waited for.
    pub fn next_timeout(&self) -> Option<u64> {
        self.timers.next()
    }

    /// Settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Media nodes.
    pub fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// All sessions by id.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.registry.iter()
    }

    /// How many sessions there are.
    pub fn session_count(&self) -> usize {
        self.registry.len()
    }

    /// A session by its id.
    pub fn session(&self, id: &str) -> Option<&Session> {
        self.registry.get(id)
    }

    /// How many clients are connected.
    pub fn sockets(&self) -> usize {
        self.peers.sockets()
    }

    /// How many requests wait for media nodes.
    pub fn pending_replies(&self) -> usize {
        self.pending.len()
    }

    /// Makes up ids and credentials.
    pub fn ids(&mut self) -> &mut IdGenerator {
        &mut self.ids
    }

    /// Sends ops to the node of a place; returns the token of the answer.
    pub(crate) fn apply(&mut self, place: &Place, ops: Vec<proto::Op>, out: &mut Vec<Output>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        out.push(Output::NodeApply { node: place.node.clone(), token, room: place.room.clone(), ops });
        token
    }

    /// Id for a room on a node: the session's, its start and a number, so that no two lives of a session share one. Long
    /// custom ids are cut, the number keeps them apart.
    pub(crate) fn new_room(&mut self, session: &str, created_at: u64) -> String {
        let head: String = session.chars().take(100).collect();
        self.next_room += 1;
        format!("{head}_{created_at}_{}", self.next_room)
    }
}

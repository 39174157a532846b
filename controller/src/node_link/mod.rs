//! Control connections to media nodes: one task per node keeps it connected, sends requests in order and tells the shell
//! what happens.
//!
//! ```text
//! shell ── apply ──▶ [queue] ─▶ link task ◀── ws://IP:8888/any ──▶ media node
//!   ▲                              │
//!   └──────── LinkEvent ◀──────────┘
//! ```
//!
//! A lost connection is tried again at once and then every 500 ms, for as long as the shell wants the node: six attempts
//! in the 3 s window of `cluster.md` section 6. What a loss means for sessions is decided by the cluster core, which sees
//! [`LinkEvent::Down`] and the clock. Requests that were on their way are answered as lost, never sent twice.

mod frame;
mod link;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use sfu_core::control::proto::{NodeInfo, Notification, Op};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::cluster::NodeUri;
use crate::engine::NodeError;
use crate::ids::NodeId;

/// Requests to one node that may wait to be written.
const QUEUE: usize = 8_192;

/// What happens on a link.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkEvent {
    /// Connected, and the node said what it is.
    Up {
        /// Which node.
        node: NodeId,
        /// Its answer to `hello`.
        info: Box<NodeInfo>,
    },
    /// The connection is lost. Attempts to restore it go on.
    Down {
        /// Which node.
        node: NodeId,
    },
    /// An attempt to connect failed. The next one follows.
    Unreachable {
        /// Which node.
        node: NodeId,
        /// Counted from 1 since the node was added or lost.
        attempt: u32,
        /// For people.
        reason: String,
    },
    /// Answer to [`NodeLinks::apply`].
    Reply {
        /// Token of the request.
        token: u64,
        /// Its outcome.
        result: Result<(), NodeError>,
    },
    /// The node told something.
    Notification {
        /// Which node.
        node: NodeId,
        /// What.
        notification: Notification,
    },
}

/// Timing and credentials of all links.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Cluster secret.
    pub secret: String,
    /// How often nodes shall report their load: `OPENVIDU_PRO_CLUSTER_LOAD_INTERVAL`.
    pub load_interval: Duration,
    /// TCP and WebSocket handshake together.
    pub connect_timeout: Duration,
    /// From a request to its answer.
    pub request_timeout: Duration,
    /// From the start of one attempt to connect to the start of the next.
    pub retry_every: Duration,
    /// Pings are this far apart.
    pub heartbeat: Duration,
    /// A connection on which nothing was heard for so long is lost. A machine that lost power closes nothing.
    pub silence: Duration,
}

impl LinkConfig {
    /// The contract's timing with this secret.
    pub fn new(secret: impl Into<String>) -> LinkConfig {
        LinkConfig {
            secret: secret.into(),
            load_interval: Duration::from_secs(1),
            connect_timeout: Duration::from_millis(3_000),
            request_timeout: Duration::from_millis(10_000),
            retry_every: Duration::from_millis(500),
            heartbeat: Duration::from_secs(1),
            silence: Duration::from_secs(5),
        }
    }
}

/// How a byte stream to a node is opened. TCP, but for tests.
pub trait Dial: Send + Sync + 'static {
    /// The stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Opens one.
    ///
    /// # Errors
    /// The node cannot be reached.
    fn dial(&self, uri: &NodeUri) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

/// Dials by TCP, without Nagle's delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, uri: &NodeUri) -> io::Result<TcpStream> {
        let stream = TcpStream::connect((uri.host(), uri.port())).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// All links. Dropping it closes them.
pub struct NodeLinks<D: Dial = Tcp> {
    config: Arc<LinkConfig>,
    dial: Arc<D>,
    events: mpsc::Sender<LinkEvent>,
    links: HashMap<NodeId, mpsc::Sender<Ask>>,
}

/// What the shell wants of a node.
enum Ask {
    Apply { token: u64, room: String, ops: Vec<Op> },
    Drain,
    Shutdown,
}

impl NodeLinks<Tcp> {
    /// No links yet; what happens on them goes to `events`. Must be used inside a tokio runtime.
    pub fn new(config: LinkConfig, events: mpsc::Sender<LinkEvent>) -> Self {
        NodeLinks::with_dial(config, Tcp, events)
    }
}

impl<D: Dial> NodeLinks<D> {
    /// As [`NodeLinks::new`], with another way to open streams.
    pub fn with_dial(config: LinkConfig, dial: D, events: mpsc::Sender<LinkEvent>) -> Self {
        NodeLinks { config: Arc::new(config), dial: Arc::new(dial), events, links: HashMap::new() }
    }

    /// Begins to connect, and keeps at it. A link the node already has is closed.
    pub fn connect(&mut self, node: NodeId, uri: NodeUri) {
        let (asks, queue) = mpsc::channel(QUEUE);
        let link = link::Link {
            node: node.clone(),
            uri,
            config: self.config.clone(),
            dial: self.dial.clone(),
            events: self.events.clone(),
            asks: queue,
        };
        tokio::spawn(link.run());
        self.links.insert(node, asks);
    }

    /// Closes the link. Requests on their way are answered as lost; no [`LinkEvent::Down`] follows.
    pub fn disconnect(&mut self, node: &NodeId) {
        self.links.remove(node);
    }

    /// Queues one `apply`. Requests for a node are written in the order of the calls; [`LinkEvent::Reply`] follows for
    /// each that was taken.
    ///
    /// # Errors
    /// The node has no link, or its queue is full; no event follows.
    pub fn apply(&self, node: &NodeId, token: u64, room: String, ops: Vec<Op>) -> Result<(), NodeError> {
        self.ask(node, Ask::Apply { token, room, ops })
    }

    /// Tells a node to refuse new rooms and to exit when the last one closes.
    ///
    /// # Errors
    /// As [`NodeLinks::apply`].
    pub fn drain(&self, node: &NodeId) -> Result<(), NodeError> {
        self.ask(node, Ask::Drain)
    }

    /// Tells a node to close everything and exit.
    ///
    /// # Errors
    /// As [`NodeLinks::apply`].
    pub fn shutdown(&self, node: &NodeId) -> Result<(), NodeError> {
        self.ask(node, Ask::Shutdown)
    }

    fn ask(&self, node: &NodeId, ask: Ask) -> Result<(), NodeError> {
        let link = self.links.get(node).ok_or_else(|| NodeError::lost(format!("no link to {node}")))?;
        link.try_send(ask).map_err(|_| NodeError::lost(format!("{QUEUE} requests wait for {node}")))
    }
}

//! The one port clients see: REST, WebSocket signaling, page, CDR files and metrics, plain and TLS.
//!
//! ```text
//! accept ─▶ first byte ─┬─ 0x16 ─▶ TLS ─┬─ ALPN h2 ─▶ HTTP/2 ──┬─▶ router ─┬─▶ api       ─▶ Event::Rest    ─▶ shell
//! (places)  (10 s)      │               └─ else ────▶ HTTP/1.1 ┤           ├─▶ websocket ─▶ Event::Socket* ─▶ shell
//!                       └─ other ─▶ plain ──────────▶ HTTP/1.1 ┘           └─▶ page, cdr, metrics
//!                                   └─ beyond loopback: 308 to https
//! ```
//!
//! Nothing here knows what a session is. Requests are authenticated, bounded and parsed, then handed to the shell as
//! [`Event`]s; answers come back through a oneshot, socket texts through a bounded [`Outbox`].

pub mod api;
pub mod auth;
pub mod body;
pub mod cors;
pub mod demo;
pub mod files;
pub mod idle;
pub mod metrics;
pub mod outbox;
pub mod page;
pub mod places;
pub mod reply;
pub mod router;
pub mod server;
pub mod tls;
pub mod websocket;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

pub use self::outbox::Outbox;
use self::places::Place;
pub use self::server::Server;
use crate::config::Config;
use crate::engine::{RestRequest, RestResponse};
use crate::ids::ClientId;

/// Longest REST body, bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// Longest WebSocket message, bytes. An offer with simulcast has about 10 KiB.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Longest request head, bytes.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// How long a client may take for its first byte, for the TLS handshake, and for a whole request head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request body may take.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the shell may take to answer: creation may wait for a close in progress.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same for requests that wait for a media node: a machine may take minutes to boot. The engine answers each in time.
pub const NODE_ANSWER_TIMEOUT: Duration = Duration::from_secs(900);

/// How long connections may take for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the first byte, for the TLS handshake, and for a whole request head.
    pub head: Duration,
    /// For the next request, or the next piece of an answer to be taken; see [`idle`].
    pub idle: Duration,
    /// For a WebSocket's peer to take one frame. A peer in a tunnel comes back by another socket.
    pub write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { head: HEAD_TIMEOUT, idle: Duration::from_secs(30), write: Duration::from_secs(20) }
    }
}

/// What clients do, in order of arrival per socket.
#[derive(Debug)]
pub enum Event {
    /// An authenticated REST request.
    Rest {
        /// The request.
        request: RestRequest,
        /// Where the answer goes.
        reply: oneshot::Sender<RestResponse>,
    },
    /// A WebSocket was opened.
    SocketOpened {
        /// Its id.
        client: ClientId,
        /// Where it comes from.
        remote_ip: IpAddr,
        /// Its `User-Agent`.
        user_agent: Option<String>,
        /// Way to send to it.
        outbox: Outbox,
    },
    /// A text frame arrived.
    SocketText {
        /// From whom.
        client: ClientId,
        /// Its text.
        text: String,
    },
    /// A WebSocket is gone.
    SocketClosed {
        /// Which one.
        client: ClientId,
        /// Code of its close frame, if there was one.
        code: Option<u16>,
        /// Reason of its close frame, or why it broke.
        reason: String,
    },
}

/// What every request handler shares.
#[derive(Debug)]
pub struct Shared {
    /// Settings.
    pub config: Arc<Config>,
    /// To the shell.
    pub events: mpsc::Sender<Event>,
    /// Counters.
    pub metrics: metrics::HttpMetrics,
    /// Time limits of connections.
    pub patience: Patience,
    next_client: AtomicU64,
}

impl Shared {
    /// State of a server whose events go to `events`.
    pub fn new(config: Arc<Config>, events: mpsc::Sender<Event>) -> Self {
        Self {
            config,
            events,
            metrics: metrics::HttpMetrics::default(),
            patience: Patience::default(),
            next_client: AtomicU64::new(1),
        }
    }

    /// An id no other socket of this process has.
    fn new_client(&self) -> ClientId {
        ClientId(self.next_client.fetch_add(1, Ordering::Relaxed))
    }
}

/// What is known about the connection a request came by.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Address of the client.
    pub ip: IpAddr,
    /// Whether TLS is used.
    pub tls: bool,
    /// Whether the client is on this machine.
    pub loopback: bool,
    /// Its place among the connections; given back when the last request or WebSocket of the connection is done.
    pub place: Arc<Place>,
}

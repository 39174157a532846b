//! The task behind one node: connect, say hello, carry requests and answers, notice a loss, connect again.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use hyper::http::Request as HttpRequest;
use sfu_core::control::proto::{NodeInfo, Request, VERSION};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error as WsError, Message};

use super::frame::{self, Incoming};
use super::{Ask, Dial, LinkConfig, LinkEvent};
use crate::cluster::NodeUri;
use crate::engine::NodeError;
use crate::ids::NodeId;

/// Longest message a node may send: the answer to `hello` lists everything that runs on it.
const MAX_NODE_MESSAGE: usize = 64 << 20;
/// Requests written with one flush.
const BURST: usize = 64;
/// Answers that may be outstanding. Beyond, requests wait in the queue.
const MAX_OUTSTANDING: usize = 4_096;

/// Everything one task owns.
pub(super) struct Link<D: Dial> {
    pub(super) node: NodeId,
    pub(super) uri: NodeUri,
    pub(super) config: Arc<LinkConfig>,
    pub(super) dial: Arc<D>,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) asks: mpsc::Receiver<Ask>,
}

type Socket<D> = WebSocketStream<<D as Dial>::Stream>;

/// The shell does not want this link any more.
struct Unwanted;

impl<D: Dial> Link<D> {
    pub(super) async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let next = Instant::now() + self.config.retry_every;
            let established = match self.establish().await {
                Ok(established) => established,
                Err(Unwanted) => return,
            };
            match established {
                Ok((socket, info)) => {
                    attempt = 0;
                    self.emit(LinkEvent::Up { node: self.node.clone(), info: Box::new(info) }).await;
                    if self.carry(socket).await.is_err() {
                        return;
                    }
                    self.emit(LinkEvent::Down { node: self.node.clone() }).await;
                }
                Err(reason) => {
                    attempt += 1;
                    tracing::debug!(node = %self.node, uri = %self.uri, attempt, reason, "media node cannot be reached");
                    self.emit(LinkEvent::Unreachable { node: self.node.clone(), attempt, reason }).await;
                }
            }
            if self.refuse_until(next).await.is_err() {
                return;
            }
        }
    }

    /// One attempt to connect. What the shell asks meanwhile is refused.
    async fn establish(&mut self) -> Result<Result<(Socket<D>, NodeInfo), String>, Unwanted> {
        let attempt = open(self.dial.clone(), self.uri.clone(), self.config.clone());
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                outcome = &mut attempt => return Ok(outcome),
                ask = self.asks.recv() => self.refuse(ask.ok_or(Unwanted)?).await,
            }
        }
    }

    async fn refuse_until(&mut self, moment: Instant) -> Result<(), Unwanted> {
        loop {
            tokio::select! {
                () = sleep_until(moment) => return Ok(()),
                ask = self.asks.recv() => self.refuse(ask.ok_or(Unwanted)?).await,
            }
        }
    }

    async fn refuse(&self, ask: Ask) {
        if let Ask::Apply { token, .. } = ask {
            let result = Err(NodeError::lost("the media node is not connected"));
            self.emit(LinkEvent::Reply { token, result }).await;
        }
    }

    async fn emit(&self, event: LinkEvent) {
        // The shell is gone only when the process ends.
        let _ = self.events.send(event).await;
    }

    /// Serves an established connection until it is lost or unwanted; then answers what is outstanding as lost.
    async fn carry(&mut self, socket: Socket<D>) -> Result<(), Unwanted> {
        let now = Instant::now();
        let mut carrier = Carrier { socket, outstanding: BTreeMap::new(), next_id: 1, heard: now };
        let outcome = carrier.run(self).await;
        let reason = match &outcome {
            Ok(reason) => reason.clone(),
            Err(Unwanted) => "the media node was disconnected".to_owned(),
        };
        if outcome.is_ok() {
            tracing::warn!(node = %self.node, reason, "connection to media node lost");
        }
        for token in
            std::mem::take(&mut carrier.outstanding).into_values().filter_map(|waiting| waiting.token)
        {
            self.emit(LinkEvent::Reply { token, result: Err(NodeError::lost(reason.clone())) }).await;
        }
        outcome.map(|_| ())
    }
}

/// Opens the stream, upgrades it and says hello. The error is for people.
async fn open<D: Dial>(
    dial: Arc<D>,
    uri: NodeUri,
    config: Arc<LinkConfig>,
) -> Result<(Socket<D>, NodeInfo), String> {
    let deadline = Instant::now() + config.connect_timeout;
    let late = |_| format!("no connection within {} ms", config.connect_timeout.as_millis());
    let stream =
        timeout_at(deadline, dial.dial(&uri)).await.map_err(late)?.map_err(|error| error.to_string())?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_NODE_MESSAGE))
        .max_frame_size(Some(MAX_NODE_MESSAGE))
        .read_buffer_size(16 * 1024);
    let upgrade = upgrade_request(&uri, &config.secret)?;
    let shake = tokio_tungstenite::client_async_with_config(upgrade, stream, Some(limits));
    let (mut socket, _) =
        timeout_at(deadline, shake).await.map_err(late)?.map_err(|error| refusal(&error))?;
    let info = timeout(config.request_timeout, hello(&mut socket, &config));
    let info = info.await.map_err(|_| "no answer to hello".to_owned())??;
    Ok((socket, info))
}

fn upgrade_request(uri: &NodeUri, secret: &str) -> Result<HttpRequest<()>, String> {
    HttpRequest::builder()
        .uri(format!("ws://{}{}", uri.authority(), uri.path()))
        .header(HOST, uri.authority())
        .header(AUTHORIZATION, format!("Bearer {secret}"))
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, generate_key())
        .body(())
        .map_err(|error| error.to_string())
}

fn refusal(error: &WsError) -> String {
    match error {
        WsError::Http(response) if response.status() == 401 => {
            "the node refuses the cluster secret".to_owned()
        }
        WsError::Http(response) => format!("HTTP {}", response.status().as_u16()),
        error => error.to_string(),
    }
}

async fn hello<S>(socket: &mut WebSocketStream<S>, config: &LinkConfig) -> Result<NodeInfo, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let load_interval_ms = (config.load_interval.as_millis() as u64).clamp(100, 3_600_000);
    let text = frame::request(0, &Request::Hello { version: VERSION, load_interval_ms });
    socket.send(Message::text(text)).await.map_err(|error| error.to_string())?;
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message.map_err(|error| error.to_string())? else { continue };
        if let Incoming::Answer { id: 0, result } = frame::parse(&text) {
            let info = result.map_err(|error| error.to_string())?;
            return serde_json::from_value(info).map_err(|error| format!("answer to hello: {error}"));
        }
    }
    Err("closed before it answered hello".to_owned())
}

/// An established connection.
struct Carrier<S> {
    socket: WebSocketStream<S>,
    /// By request id, which grows with time.
    outstanding: BTreeMap<u64, Waiting>,
    next_id: u64,
    /// When the node was last heard.
    heard: Instant,
}

struct Waiting {
    /// Whom to tell; `None` for requests nobody waits for.
    token: Option<u64>,
    since: Instant,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Carrier<S> {
    /// Returns why the connection was lost.
    async fn run<D: Dial>(&mut self, link: &mut Link<D>) -> Result<String, Unwanted> {
        let mut heartbeat = interval_at(Instant::now() + link.config.heartbeat, link.config.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let lost = tokio::select! {
                message = self.socket.next() => self.on_message(link, message).await,
                ask = link.asks.recv(), if self.outstanding.len() < MAX_OUTSTANDING => match ask {
                    Some(ask) => self.write(link, ask).await,
                    None => {
                        let _ = timeout(link.config.heartbeat, self.socket.close(None)).await;
                        return Err(Unwanted);
                    }
                },
                _ = heartbeat.tick() => self.on_heartbeat(link).await,
            };
            if let Err(reason) = lost {
                return Ok(reason);
            }
        }
    }

    async fn on_message<D: Dial>(
        &mut self,
        link: &Link<D>,
        message: Option<Result<Message, WsError>>,
    ) -> Result<(), String> {
        match message {
            Some(Ok(Message::Text(text))) => self.on_text(link, &text).await,
            Some(Ok(Message::Close(frame))) => {
                return Err(frame.map_or("closed by the node".to_owned(), |f| {
                    format!("closed by the node: {}", f.reason)
                }));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("closed by the node".to_owned()),
        }
        // After the shell took the event: its slowness is not the node's silence.
        self.heard = Instant::now();
        Ok(())
    }

    async fn on_text<D: Dial>(&mut self, link: &Link<D>, text: &str) {
        match frame::parse(text) {
            Incoming::Answer { id, result } => {
                // None for an answer that came too late.
                if let Some(Waiting { token: Some(token), .. }) = self.outstanding.remove(&id) {
                    link.emit(LinkEvent::Reply { token, result: result.map(|_| ()) }).await;
                }
            }
            Incoming::Notification(notification) => {
                link.emit(LinkEvent::Notification { node: link.node.clone(), notification }).await;
            }
            Incoming::Unknown => tracing::debug!(node = %link.node, "message of the node is not understood"),
        }
    }

    /// Writes one request and those right behind it.
    async fn write<D: Dial>(&mut self, link: &mut Link<D>, first: Ask) -> Result<(), String> {
        let mut next = Some(first);
        let mut written = 0;
        while let Some(ask) = next.take() {
            let message = self.enter(ask);
            timeout(link.config.silence, self.socket.feed(message)).await.map_err(stuck)?.map_err(broken)?;
            written += 1;
            if written < BURST && self.outstanding.len() < MAX_OUTSTANDING {
                next = link.asks.try_recv().ok();
            }
        }
        timeout(link.config.silence, self.socket.flush()).await.map_err(stuck)?.map_err(broken)
    }

    fn enter(&mut self, ask: Ask) -> Message {
        let (token, request) = match ask {
            Ask::Apply { token, room, ops } => (Some(token), Request::Apply { room, ops }),
            Ask::Drain => (None, Request::Drain {}),
            Ask::Shutdown => (None, Request::Shutdown {}),
        };
        let id = self.next_id;
        self.next_id += 1;
        self.outstanding.insert(id, Waiting { token, since: Instant::now() });
        Message::text(frame::request(id, &request))
    }

    async fn on_heartbeat<D: Dial>(&mut self, link: &Link<D>) -> Result<(), String> {
        let now = Instant::now();
        if now - self.heard >= link.config.silence {
            return Err(format!("nothing heard for {} ms", link.config.silence.as_millis()));
        }
        while let Some(entry) = self.outstanding.first_entry()
            && now - entry.get().since >= link.config.request_timeout
        {
            if let Some(token) = entry.remove().token {
                let reason = format!("no answer within {} ms", link.config.request_timeout.as_millis());
                link.emit(LinkEvent::Reply { token, result: Err(NodeError::lost(reason)) }).await;
            }
        }
        let ping = self.socket.send(Message::Ping(Bytes::new()));
        timeout(link.config.silence, ping).await.map_err(stuck)?.map_err(broken)
    }
}

fn stuck(_: tokio::time::error::Elapsed) -> String {
    "the node does not read".to_owned()
}

fn broken(error: WsError) -> String {
    error.to_string()
}

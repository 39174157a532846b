//! A participant's WebSocket: JSON-RPC requests with their answers, notifications as events, the ping every five seconds.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{EVENT_QUEUE, REQUEST_TIMEOUT, RoomEvent};

/// As the browsers' SDK has it.
const PING_INTERVAL: Duration = Duration::from_millis(5_000);
/// Requests that may wait to be written.
const REQUEST_QUEUE: usize = 64;

/// Translates a notification.
type Translate = fn(&str, &Value) -> Vec<RoomEvent>;

struct Call {
    method: &'static str,
    params: Value,
    answer: oneshot::Sender<Value>,
}

/// The writing end; the reading end is the queue of events.
pub(crate) struct Socket {
    calls: mpsc::Sender<Call>,
}

impl Socket {
    /// Connects and sends the first ping.
    ///
    /// # Errors
    /// When there is no WebSocket at `url`.
    pub(crate) async fn connect(
        url: &str,
        translate: Translate,
    ) -> Result<(Socket, mpsc::Receiver<RoomEvent>)> {
        let connect = tokio::time::timeout(REQUEST_TIMEOUT, tokio_tungstenite::connect_async(url)).await;
        let (stream, _) =
            connect.context("no WebSocket in time")?.with_context(|| format!("WebSocket {url}"))?;
        let (calls, queue) = mpsc::channel(REQUEST_QUEUE);
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let pump = Pump { stream, queue, events, translate, waiting: HashMap::new(), next: 0 };
        tokio::spawn(pump.run());
        Ok((Socket { calls }, receiver))
    }

    /// Sends a request and waits for its result.
    ///
    /// # Errors
    /// The server's error, silence, or a closed socket.
    pub(crate) async fn request(&self, method: &'static str, params: Value) -> Result<Value> {
        let (answer, reply) = oneshot::channel();
        let call = Call { method, params, answer };
        self.calls.send(call).await.ok().with_context(|| format!("{method}: the socket is closed"))?;
        let reply = tokio::time::timeout(REQUEST_TIMEOUT, reply).await;
        let mut reply = reply
            .with_context(|| format!("{method}: no answer in {} s", REQUEST_TIMEOUT.as_secs()))?
            .with_context(|| format!("{method}: the socket was closed"))?;
        anyhow::ensure!(reply.get("error").is_none(), "{method}: {}", reply["error"]);
        Ok(reply["result"].take())
    }
}

/// The task behind a socket.
struct Pump {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    queue: mpsc::Receiver<Call>,
    events: mpsc::Sender<RoomEvent>,
    translate: Translate,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    next: u64,
}

impl Pump {
    async fn run(mut self) {
        let reason = match self.pump().await {
            Ok(()) => return,
            Err(error) => format!("{error:#}"),
        };
        let _ = self.events.send(RoomEvent::Closed(reason)).await;
    }

    /// Until our end is dropped; a socket that is closed by the other side is an error.
    async fn pump(&mut self) -> Result<()> {
        let mut pings = tokio::time::interval(PING_INTERVAL);
        let mut first = true;
        loop {
            tokio::select! {
                call = self.queue.recv() => {
                    let Some(call) = call else {
                        let _ = self.stream.close(None).await;
                        return Ok(());
                    };
                    let number = self.write(call.method, call.params).await?;
                    self.waiting.insert(number, call.answer);
                }
                _ = pings.tick() => {
                    let params = if first { json!({ "interval": 5000 }) } else { Value::Null };
                    first = false;
                    self.write("ping", params).await?;
                }
                message = self.stream.next() => {
                    let message = message.context("the server closed the socket")?;
                    self.on_message(&message.context("WebSocket")?).await?;
                }
            }
        }
    }

    async fn write(&mut self, method: &str, params: Value) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        let mut message = json!({ "jsonrpc": "2.0", "method": method, "id": number });
        if !params.is_null() {
            message["params"] = params;
        }
        self.stream.send(Message::text(message.to_string())).await.context("WebSocket")?;
        Ok(number)
    }

    async fn on_message(&mut self, message: &Message) -> Result<()> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Close(frame) => {
                let reason = frame.as_ref().map_or("", |frame| frame.reason.as_str());
                anyhow::bail!("the server closed the socket: {reason}")
            }
            _ => return Ok(()),
        };
        let message: Value = serde_json::from_str(text).context("the server's JSON")?;
        if let Some(method) = message["method"].as_str() {
            for event in (self.translate)(method, &message["params"]) {
                // Nobody listens any more: the participant leaves.
                let _ = self.events.send(event).await;
            }
        } else if let Some(answer) = message["id"].as_u64().and_then(|id| self.waiting.remove(&id)) {
            let _ = answer.send(message);
        }
        Ok(())
    }
}

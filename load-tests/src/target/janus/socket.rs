//! A WebSocket to Janus: one session, its requests by transaction, its events.
//!
//! Janus answers a plugin's request twice: `ack` at once, and later an `event` of the same transaction, which is the answer.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::target::{EVENT_QUEUE, REQUEST_TIMEOUT, RoomEvent, StreamRef};

/// A Janus whose sessions time out does so after 60 s of silence.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// Requests that may wait to be written.
const REQUEST_QUEUE: usize = 64;

/// The videoroom's code for a feed that is not there, or not any more.
pub(super) const NO_SUCH_FEED: u64 = 428;

/// The videoroom said no.
#[derive(Debug)]
pub(super) struct Refused {
    /// Its number for the reason.
    pub(super) code: u64,
    text: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refused {}

struct Call {
    message: Value,
    answer: oneshot::Sender<Value>,
}

/// One session of one participant.
pub(super) struct Session {
    calls: mpsc::Sender<Call>,
}

impl Session {
    /// Connects and creates a session.
    ///
    /// # Errors
    /// When there is no Janus at `url`.
    pub(super) async fn open(url: &str) -> Result<(Session, mpsc::Receiver<RoomEvent>)> {
        let mut request = url.into_client_request().with_context(|| format!("WebSocket {url}"))?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("janus-protocol"));
        let connect = tokio::time::timeout(REQUEST_TIMEOUT, tokio_tungstenite::connect_async(request)).await;
        let (stream, _) =
            connect.context("no WebSocket in time")?.with_context(|| format!("WebSocket {url}"))?;
        let (calls, queue) = mpsc::channel(REQUEST_QUEUE);
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let session = Session { calls };
        tokio::spawn(Pump { stream, queue, events, session: None, waiting: HashMap::new(), next: 0 }.run());
        session.call(json!({ "janus": "create" })).await.context("creating a session")?;
        Ok((session, receiver))
    }

    /// A new handle of the videoroom.
    pub(super) async fn attach(&self) -> Result<u64> {
        let answer = self.call(json!({ "janus": "attach", "plugin": "janus.plugin.videoroom" })).await?;
        answer["data"]["id"].as_u64().with_context(|| format!("no handle in {answer}"))
    }

    /// A request to the videoroom: its data and the SDP that came with it.
    ///
    /// # Errors
    /// Janus' or the plugin's error, silence, or a closed socket.
    pub(super) async fn message(
        &self,
        handle: u64,
        body: Value,
        jsep: Option<Value>,
    ) -> Result<(Value, Option<String>)> {
        let name = body["request"].as_str().unwrap_or_default().to_owned();
        let mut message = json!({ "janus": "message", "handle_id": handle, "body": body });
        if let Some(jsep) = jsep {
            message["jsep"] = jsep;
        }
        let mut answer = self.call(message).await.with_context(|| format!("videoroom {name}"))?;
        let data = answer["plugindata"]["data"].take();
        if let Some(error) = data["error"].as_str() {
            let code = data["error_code"].as_u64().unwrap_or(0);
            return Err(Refused { code, text: format!("videoroom {name}: {error}") }.into());
        }
        Ok((data, answer["jsep"]["sdp"].as_str().map(str::to_owned)))
    }

    /// Ends the session and all its handles.
    pub(super) async fn destroy(&self) -> Result<()> {
        self.call(json!({ "janus": "destroy" })).await.map(drop)
    }

    async fn call(&self, message: Value) -> Result<Value> {
        let (answer, reply) = oneshot::channel();
        self.calls.send(Call { message, answer }).await.ok().context("the socket is closed")?;
        let reply = tokio::time::timeout(REQUEST_TIMEOUT, reply).await;
        let reply = reply.context("no answer in time")?.context("the socket was closed")?;
        if reply["janus"] == "error" {
            bail!("{}", reply["error"]["reason"].as_str().unwrap_or("an error without a reason"));
        }
        Ok(reply)
    }
}

/// The task behind a session.
struct Pump {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    queue: mpsc::Receiver<Call>,
    events: mpsc::Sender<RoomEvent>,
    session: Option<u64>,
    waiting: HashMap<String, oneshot::Sender<Value>>,
    next: u64,
}

impl Pump {
    async fn run(mut self) {
        if let Err(error) = self.pump().await {
            let _ = self.events.send(RoomEvent::Closed(format!("{error:#}"))).await;
        }
    }

    /// Until our end is dropped; a socket that is closed by the other side is an error.
    async fn pump(&mut self) -> Result<()> {
        let mut keepalive = tokio::time::interval(KEEPALIVE);
        keepalive.tick().await;
        loop {
            tokio::select! {
                call = self.queue.recv() => {
                    let Some(call) = call else {
                        let _ = self.stream.close(None).await;
                        return Ok(());
                    };
                    let transaction = self.write(call.message).await?;
                    self.waiting.insert(transaction, call.answer);
                }
                _ = keepalive.tick() => {
                    self.write(json!({ "janus": "keepalive" })).await?;
                }
                message = self.stream.next() => {
                    let message = message.context("Janus closed the socket")?;
                    self.on_message(&message.context("WebSocket")?).await?;
                }
            }
        }
    }

    async fn write(&mut self, mut message: Value) -> Result<String> {
        let transaction = self.next.to_string();
        self.next += 1;
        message["transaction"] = transaction.clone().into();
        if let Some(session) = self.session {
            message["session_id"] = session.into();
        }
        self.stream.send(Message::text(message.to_string())).await.context("WebSocket")?;
        Ok(transaction)
    }

    async fn on_message(&mut self, message: &Message) -> Result<()> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Close(_) => bail!("Janus closed the socket"),
            _ => return Ok(()),
        };
        let message: Value = serde_json::from_str(text).context("Janus' JSON")?;
        if message["janus"] == "ack" {
            return Ok(());
        }
        if message["janus"] == "timeout" {
            bail!("Janus timed the session out");
        }
        if let Some(answer) = message["transaction"].as_str().and_then(|name| self.waiting.remove(name)) {
            if self.session.is_none() {
                self.session = message["data"]["id"].as_u64();
            }
            let _ = answer.send(message);
            return Ok(());
        }
        for event in events_of(&message["plugindata"]["data"]) {
            // Nobody listens any more: the participant leaves.
            let _ = self.events.send(event).await;
        }
        Ok(())
    }
}

/// Publishers in an answer to `join` or in an event.
pub(super) fn publishers_of(data: &Value) -> Vec<StreamRef> {
    let ids = data["publishers"].as_array().into_iter().flatten().filter_map(|one| one["id"].as_u64());
    ids.map(|id| StreamRef { id: id.to_string(), publisher: id.to_string() }).collect()
}

/// What the videoroom tells a publisher's handle.
fn events_of(data: &Value) -> Vec<RoomEvent> {
    let mut events: Vec<_> = publishers_of(data).into_iter().map(RoomEvent::StreamAdded).collect();
    if let Some(id) = data["unpublished"].as_u64().or_else(|| data["leaving"].as_u64()) {
        events.push(RoomEvent::StreamRemoved(StreamRef { id: id.to_string(), publisher: id.to_string() }));
    }
    if data["videoroom"] == "destroyed" {
        events.push(RoomEvent::Closed("the room was destroyed".into()));
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_the_videoroom() {
        let added = json!({ "videoroom": "event", "room": 1, "publishers": [{ "id": 7, "display": "x" }, { "id": 8 }] });
        assert!(
            matches!(&events_of(&added)[..], [RoomEvent::StreamAdded(a), RoomEvent::StreamAdded(b)] if a.id == "7" && b.publisher == "8")
        );
        for gone in [json!({ "unpublished": 7 }), json!({ "leaving": 7 })] {
            assert!(
                matches!(&events_of(&gone)[..], [RoomEvent::StreamRemoved(a)] if a.publisher == "7"),
                "{gone}"
            );
        }
        assert!(matches!(&events_of(&json!({ "videoroom": "destroyed" }))[..], [RoomEvent::Closed(_)]));
        // Our own unpublishing says "ok", and a talking event is none of ours.
        assert!(events_of(&json!({ "videoroom": "event", "unpublished": "ok" })).is_empty());
        assert!(events_of(&json!({ "videoroom": "talking" })).is_empty());
    }
}

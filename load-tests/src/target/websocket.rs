//! Signaling over a WebSocket: requests bear a number, so do their answers, and everything in between is an event.
//!
//! ```text
//! request ─▶ queue ──▶ ┌──────┐ ── request with its number, pings ──▶ server
//! answer ◀── oneshot ◀─┤ Pump │ ◀── answer with the same number ─────
//! events ◀── queue ◀───┴──────┘ ◀── everything else ──────────────────
//! ```
//!
//! What a message looks like is the server's [`Dialect`]. LiveKit's messages have no numbers: it shares [`connect`] only.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::tls::{Trust, explained};
use super::{EVENT_QUEUE, REQUEST_TIMEOUT, RoomEvent};

/// Requests that may wait to be written.
const REQUEST_QUEUE: usize = 64;

/// A connected WebSocket.
pub(crate) type Stream = WebSocketStream<Box<dyn Transport>>;

/// TCP with or without TLS.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Connects, to a `wss://` address with TLS.
///
/// # Errors
/// When there is no WebSocket in time; the text names the server, not the query, which may hold a token.
pub(crate) async fn connect(request: impl IntoClientRequest, trust: &Trust) -> Result<Stream> {
    let request = request.into_client_request().context("a WebSocket's address")?;
    let uri = request.uri().clone();
    let connecting = async {
        let transport = transport(&uri, trust).await?;
        Ok(client_async(request, transport).await?.0)
    };
    let outcome = tokio::time::timeout(REQUEST_TIMEOUT, connecting).await;
    outcome.context("no answer in time").flatten().map_err(|error| {
        let (scheme, authority) = (uri.scheme_str(), uri.authority().map(|authority| authority.as_str()));
        let server = format!("{}://{}", scheme.unwrap_or_default(), authority.unwrap_or_default());
        explained(error.context(format!("WebSocket {server}")))
    })
}

async fn transport(uri: &Uri, trust: &Trust) -> Result<Box<dyn Transport>> {
    let with_tls = match uri.scheme_str() {
        Some("ws") => false,
        Some("wss") => true,
        _ => bail!("neither ws:// nor wss://"),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if with_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await?;
    Ok(if with_tls { Box::new(trust.handshake(host, stream).await?) } else { Box::new(stream) })
}

/// What the messages of a server look like.
pub(crate) trait Dialect: Send + 'static {
    /// Between two pings; the first is due at once.
    const PING_INTERVAL: Duration;

    /// Writes its number, and whatever else every message has, into a message to the server.
    fn number(&mut self, message: &mut Value, number: u64);

    /// The ping that is due, if the server wants one by now.
    fn ping(&mut self) -> Option<Value>;

    /// Number of the request that a message answers.
    fn answers(&mut self, message: &Value) -> Option<u64>;

    /// What a message that answers no request means for the room. An error ends the socket.
    fn events(&self, message: &Value) -> Result<Vec<RoomEvent>>;
}

struct Call {
    request: Value,
    answer: oneshot::Sender<Value>,
}

/// The writing end of a socket; the reading end is the queue of events. Dropping it closes the socket.
pub(crate) struct Caller {
    queue: mpsc::Sender<Call>,
}

impl Caller {
    /// Serves `stream` in a task of its own. When the server closes it the last event is [`RoomEvent::Closed`].
    pub(crate) fn serve(stream: Stream, dialect: impl Dialect) -> (Caller, mpsc::Receiver<RoomEvent>) {
        let (calls, queue) = mpsc::channel(REQUEST_QUEUE);
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        tokio::spawn(Pump { stream, dialect, queue, events, waiting: HashMap::new(), next: 0 }.run());
        (Caller { queue: calls }, receiver)
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Silence, or a closed socket. An answer that says no is an answer.
    pub(crate) async fn call(&self, request: Value) -> Result<Value> {
        let (answer, reply) = oneshot::channel();
        self.queue.send(Call { request, answer }).await.ok().context("the socket is closed")?;
        let reply = tokio::time::timeout(REQUEST_TIMEOUT, reply).await;
        reply
            .with_context(|| format!("no answer in {} s", REQUEST_TIMEOUT.as_secs()))?
            .context("the socket was closed")
    }
}

/// The task behind a socket.
struct Pump<D> {
    stream: Stream,
    dialect: D,
    queue: mpsc::Receiver<Call>,
    events: mpsc::Sender<RoomEvent>,
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    next: u64,
}

impl<D: Dialect> Pump<D> {
    async fn run(mut self) {
        if let Err(error) = self.pump().await {
            let _ = self.events.send(RoomEvent::Closed(format!("{error:#}"))).await;
        }
    }

    /// Until our end is dropped; a socket that is closed by the other side is an error.
    async fn pump(&mut self) -> Result<()> {
        let mut pings = tokio::time::interval(D::PING_INTERVAL);
        loop {
            tokio::select! {
                call = self.queue.recv() => {
                    let Some(call) = call else {
                        let _ = self.stream.close(None).await;
                        return Ok(());
                    };
                    let number = self.write(call.request).await?;
                    self.waiting.insert(number, call.answer);
                }
                _ = pings.tick() => {
                    if let Some(ping) = self.dialect.ping() {
                        self.write(ping).await?;
                    }
                }
                message = self.stream.next() => {
                    let message = message.context("the server closed the socket")?;
                    self.on_message(&message.context("WebSocket")?).await?;
                }
            }
        }
    }

    async fn write(&mut self, mut message: Value) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        self.dialect.number(&mut message, number);
        self.stream.send(Message::text(message.to_string())).await.context("WebSocket")?;
        Ok(number)
    }

    async fn on_message(&mut self, message: &Message) -> Result<()> {
        let text = match message {
            Message::Text(text) => text.as_str(),
            Message::Close(frame) => {
                let reason = frame.as_ref().map_or("", |frame| frame.reason.as_str());
                bail!("the server closed the socket: {reason}")
            }
            _ => return Ok(()),
        };
        let message: Value = serde_json::from_str(text).context("the server's JSON")?;
        if let Some(answer) = self.dialect.answers(&message).and_then(|number| self.waiting.remove(&number)) {
            let _ = answer.send(message);
            return Ok(());
        }
        for event in self.dialect.events(&message)? {
            // Nobody listens any more: the participant leaves.
            let _ = self.events.send(event).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tokio::net::TcpListener;

    /// `{"n": number, ...}`; a message with `"e"` is an event, a ping is `{"p": count}`.
    struct Plain(u32);

    impl Dialect for Plain {
        const PING_INTERVAL: Duration = Duration::from_millis(20);

        fn number(&mut self, message: &mut Value, number: u64) {
            message["n"] = number.into();
        }

        fn ping(&mut self) -> Option<Value> {
            self.0 += 1;
            (self.0 > 1).then(|| json!({ "p": self.0 }))
        }

        fn answers(&mut self, message: &Value) -> Option<u64> {
            message["n"].as_u64()
        }

        fn events(&self, message: &Value) -> Result<Vec<RoomEvent>> {
            let event = message["e"].as_str().context("neither answer nor event")?;
            Ok(vec![RoomEvent::Candidate(String::new(), event.to_owned())])
        }
    }

    #[tokio::test]
    async fn answers_find_their_requests_and_the_rest_are_events() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        // Answers two requests in the wrong order, an event between them, and closes when it was pinged.
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio_tungstenite::accept_async(stream).await.unwrap();
            let mut asked = Vec::new();
            while let Some(Ok(message)) = stream.next().await {
                let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
                if message["p"].is_null() {
                    asked.push(message);
                }
                if asked.len() == 2 {
                    break;
                }
            }
            for message in [&asked[1], &json!({ "e": "between" }), &asked[0]] {
                stream.send(Message::text(message.to_string())).await.unwrap();
            }
            let ping = loop {
                let message = stream.next().await.unwrap().unwrap();
                let message: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
                if !message["p"].is_null() {
                    break message["p"].clone();
                }
            };
            stream.close(None).await.unwrap();
            ping
        });
        let (caller, mut events) =
            Caller::serve(connect(&url, &Trust::nobody().unwrap()).await.unwrap(), Plain(0));
        let (first, second) = tokio::join!(caller.call(json!({ "q": 1 })), caller.call(json!({ "q": 2 })));
        assert_eq!((&first.unwrap()["q"], &second.unwrap()["q"]), (&json!(1), &json!(2)));
        assert!(matches!(events.recv().await, Some(RoomEvent::Candidate(_, text)) if text == "between"));
        assert!(matches!(events.recv().await, Some(RoomEvent::Closed(text)) if text.contains("closed")));
        assert!(caller.call(json!({})).await.unwrap_err().to_string().contains("closed"));
        assert!(server.await.unwrap().as_u64() >= Some(2));
    }

    #[tokio::test]
    async fn an_error_names_the_server_and_no_token() {
        let error = connect("ws://127.0.0.1:1/rtc?access_token=SECRET", &Trust::nobody().unwrap()).await;
        let error = error.err().expect("nobody is there");
        let text = format!("{error:#}");
        assert!(text.contains("ws://127.0.0.1:1") && !text.contains("SECRET"), "{text}");
    }
}

//! A participant's WebSocket to LiveKit: protobuf messages in binary frames.
//!
//! Field numbers are those of LiveKit's `SignalRequest` and `SignalResponse`. The server answers the publisher's offer, offers
//! by itself what a participant receives (one peer connection for all of it), and sends its candidates apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::pb::{Message, Writer};
use crate::clock;
use crate::target::tls::Trust;
use crate::target::websocket::{Stream, connect};
use crate::target::{EVENT_QUEUE, Offer, REQUEST_TIMEOUT, RoomEvent};

/// The server drops a client that is silent for long; this is its own suggestion's order of magnitude.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// Requests and answers that may wait.
const QUEUE: usize = 64;
/// Key of the peer connection that receives.
pub(super) const SUBSCRIBER: &str = "subscriber";
/// Key of the one that sends: candidates for it are a publisher's own.
const PUBLISHER: &str = "";
const TARGET_SUBSCRIBER: u64 = 1;

/// Something that `publish` or `join` waits for.
#[derive(Debug)]
pub(super) enum Reply {
    /// We are in; our id.
    Joined(String),
    /// A track was accepted: its client id.
    TrackPublished(String),
    /// SDP answer for the publisher.
    Answer(String),
}

/// The ends of a socket.
pub(super) struct Socket {
    requests: mpsc::Sender<Vec<u8>>,
    replies: mpsc::Receiver<Reply>,
    offer: Arc<AtomicU64>,
}

impl Socket {
    /// Connects; the first reply is [`Reply::Joined`].
    pub(super) async fn connect(url: &str, trust: &Trust) -> Result<(Socket, mpsc::Receiver<RoomEvent>)> {
        let stream = connect(url, trust).await?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let (reply, replies) = mpsc::channel(QUEUE);
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let offer = Arc::new(AtomicU64::new(0));
        tokio::spawn(Pump { stream, queue, replies: reply, events, offer: offer.clone() }.run());
        Ok((Socket { requests, replies, offer }, receiver))
    }

    /// Number of the server's last offer. It makes no other before that one is answered.
    pub(super) fn last_offer(&self) -> u64 {
        self.offer.load(Ordering::Acquire)
    }

    /// Writes a `SignalRequest` with `message` in its field `field`.
    pub(super) async fn send(&self, field: u32, message: Writer) -> Result<()> {
        let request = Writer::default().message(field, message).finish();
        self.requests.send(request).await.ok().context("the socket is closed")
    }

    /// The next reply that `wanted` takes; others are passed over.
    pub(super) async fn reply<T>(&mut self, what: &str, wanted: impl Fn(Reply) -> Option<T>) -> Result<T> {
        let wait = async {
            loop {
                let reply = self.replies.recv().await.context("the socket was closed")?;
                if let Some(found) = wanted(reply) {
                    return Ok(found);
                }
            }
        };
        let found = tokio::time::timeout(REQUEST_TIMEOUT, wait).await;
        found.unwrap_or_else(|_| bail!("no answer in time")).context(what.to_owned())
    }
}

/// A session description for a request.
pub(super) fn description(kind: &str, sdp: &str, id: u64) -> Writer {
    let message = Writer::default().text(1, kind).text(2, sdp);
    if id == 0 { message } else { message.number(3, id) }
}

/// The task behind a socket.
struct Pump {
    stream: Stream,
    queue: mpsc::Receiver<Vec<u8>>,
    replies: mpsc::Sender<Reply>,
    events: mpsc::Sender<RoomEvent>,
    offer: Arc<AtomicU64>,
}

impl Pump {
    async fn run(mut self) {
        if let Err(error) = self.pump().await {
            let _ = self.events.send(RoomEvent::Closed(format!("{error:#}"))).await;
        }
    }

    /// Until our end is dropped; a socket that is closed by the other side is an error.
    async fn pump(&mut self) -> Result<()> {
        let mut pings = tokio::time::interval(PING_INTERVAL);
        pings.tick().await;
        loop {
            tokio::select! {
                request = self.queue.recv() => {
                    let Some(request) = request else {
                        let _ = self.stream.close(None).await;
                        return Ok(());
                    };
                    self.stream.send(Frame::binary(request)).await.context("WebSocket")?;
                }
                _ = pings.tick() => {
                    let ping = Writer::default().number(1, clock::wall_ns() / 1_000_000);
                    self.stream.send(Frame::binary(Writer::default().message(16, ping).finish())).await.context("WebSocket")?;
                }
                frame = self.stream.next() => match frame.context("LiveKit closed the socket")?.context("WebSocket")? {
                    Frame::Binary(bytes) => self.on_message(&bytes).await?,
                    Frame::Close(_) => bail!("LiveKit closed the socket"),
                    _ => {}
                },
            }
        }
    }

    async fn on_message(&mut self, bytes: &[u8]) -> Result<()> {
        match read(bytes).context("LiveKit's message")? {
            Some(Incoming::Reply(reply)) => {
                let _ = self.replies.send(reply).await;
            }
            Some(Incoming::Offer { sdp, number }) => {
                self.offer.store(number, Ordering::Release);
                let offer = Offer { pc: SUBSCRIBER.to_owned(), sdp };
                let _ = self.events.send(RoomEvent::Offered(offer, Vec::new())).await;
            }
            Some(Incoming::Event(event)) => {
                // Nobody listens any more: the participant leaves.
                let _ = self.events.send(event).await;
            }
            None => {}
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Incoming {
    Reply(Reply),
    Offer { sdp: String, number: u64 },
    Event(RoomEvent),
}

/// A `SignalResponse`; `None` for what a load test has no use for.
fn read(bytes: &[u8]) -> Result<Option<Incoming>> {
    let response = Message::read(bytes)?;
    if let Some(join) = response.message(1)? {
        let sid = join.message(2)?.context("no participant")?.text(1);
        return Ok(Some(Incoming::Reply(Reply::Joined(sid))));
    }
    if let Some(answer) = response.message(2)? {
        return Ok(Some(Incoming::Reply(Reply::Answer(answer.text(2)))));
    }
    if let Some(offer) = response.message(3)? {
        return Ok(Some(Incoming::Offer { sdp: offer.text(2), number: offer.number(3) }));
    }
    if let Some(trickle) = response.message(4)? {
        return Ok(candidate(&trickle)?.map(Incoming::Event));
    }
    if let Some(published) = response.message(6)? {
        return Ok(Some(Incoming::Reply(Reply::TrackPublished(published.text(1)))));
    }
    if let Some(leave) = response.message(8)? {
        let reason = format!("LiveKit ended the session, reason {}", leave.number(2));
        return Ok(Some(Incoming::Event(RoomEvent::Closed(reason))));
    }
    Ok(None)
}

/// `{"candidate": "candidate:..."}`, empty at the end of the candidates.
fn candidate(trickle: &Message<'_>) -> Result<Option<RoomEvent>> {
    let init = trickle.text(1);
    if init.is_empty() {
        return Ok(None);
    }
    let init: Value = serde_json::from_str(&init).context("a candidate")?;
    let line = init["candidate"].as_str().unwrap_or_default();
    let key = if trickle.number(2) == TARGET_SUBSCRIBER { SUBSCRIBER } else { PUBLISHER };
    Ok((!line.is_empty()).then(|| RoomEvent::Candidate(key.to_owned(), line.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(field: u32, message: Writer) -> Option<Incoming> {
        read(&Writer::default().message(field, message).finish()).expect("a response")
    }

    #[test]
    fn responses_become_replies_and_events() {
        let participant = Writer::default().text(1, "PA_x").text(2, "user");
        let joined = response(1, Writer::default().message(2, participant));
        assert!(matches!(joined, Some(Incoming::Reply(Reply::Joined(sid))) if sid == "PA_x"));
        let answer = response(2, description("answer", "v=0", 0));
        assert!(matches!(answer, Some(Incoming::Reply(Reply::Answer(sdp))) if sdp == "v=0"));
        let offer = response(3, description("offer", "v=0", 7));
        assert!(matches!(offer, Some(Incoming::Offer { number: 7, .. })));
        let published = response(6, Writer::default().text(1, "a"));
        assert!(matches!(published, Some(Incoming::Reply(Reply::TrackPublished(cid))) if cid == "a"));
        assert!(matches!(
            response(8, Writer::default().number(2, 5)),
            Some(Incoming::Event(RoomEvent::Closed(_)))
        ));
        assert!(response(12, Writer::default()).is_none());
    }

    #[test]
    fn candidates_belong_to_one_of_two_connections() {
        let trickle = |target: u64, line: &str| {
            response(4, Writer::default().text(1, &format!("{{\"candidate\":\"{line}\"}}")).number(2, target))
        };
        let line = "candidate:1 1 udp 1 10.0.0.1 5 typ host";
        for (target, expected) in [(0, PUBLISHER), (1, SUBSCRIBER)] {
            let event = trickle(target, line);
            assert!(
                matches!(&event, Some(Incoming::Event(RoomEvent::Candidate(key, text))) if key == expected && text == line),
                "{event:?}"
            );
        }
        assert!(trickle(0, "").is_none());
    }
}

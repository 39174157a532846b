//! A participant's WebSocket to Weir: JSON-RPC 2.0, with the ping every five seconds.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::target::tls::Trust;
use crate::target::websocket::{Caller, Dialect, connect};
use crate::target::{RoomEvent, StreamRef};

/// The writing end; the reading end is the queue of events.
pub(super) struct Socket {
    caller: Caller,
}

impl Socket {
    /// Connects and sends the first ping.
    ///
    /// # Errors
    /// When there is no WebSocket at `url`.
    pub(super) async fn connect(url: &str, trust: &Trust) -> Result<(Socket, mpsc::Receiver<RoomEvent>)> {
        let (caller, events) = Caller::serve(connect(url, trust).await?, JsonRpc { pinged: false });
        Ok((Socket { caller }, events))
    }

    /// Sends a request and waits for its result.
    ///
    /// # Errors
    /// The server's error, silence, or a closed socket.
    pub(super) async fn request(&self, method: &'static str, params: Value) -> Result<Value> {
        let request = json!({ "method": method, "params": params });
        let mut reply = self.caller.call(request).await.context(method)?;
        anyhow::ensure!(reply.get("error").is_none(), "{method}: {}", reply["error"]);
        Ok(reply["result"].take())
    }
}

struct JsonRpc {
    pinged: bool,
}

impl Dialect for JsonRpc {
    /// As the browsers' SDK has it.
    const PING_INTERVAL: Duration = Duration::from_millis(5_000);

    fn number(&mut self, message: &mut Value, number: u64) {
        message["jsonrpc"] = "2.0".into();
        message["id"] = number.into();
    }

    /// The first one says how often they come.
    fn ping(&mut self) -> Option<Value> {
        let first = !std::mem::replace(&mut self.pinged, true);
        let interval = json!({ "interval": Self::PING_INTERVAL.as_millis() as u64 });
        Some(if first {
            json!({ "method": "ping", "params": interval })
        } else {
            json!({ "method": "ping" })
        })
    }

    fn answers(&mut self, message: &Value) -> Option<u64> {
        message["id"].as_u64().filter(|_| message["method"].is_null())
    }

    fn events(&self, message: &Value) -> Result<Vec<RoomEvent>> {
        Ok(to_events(message["method"].as_str().unwrap_or_default(), &message["params"]))
    }
}

/// Streams of a participant in `joinRoom`'s answer or in `participantPublished`.
pub(super) fn streams_of(participant: &Value) -> Vec<StreamRef> {
    let publisher = participant["id"].as_str().unwrap_or_default();
    let ids = participant["streams"].as_array().into_iter().flatten().filter_map(|s| s["id"].as_str());
    ids.map(|id| StreamRef { id: id.to_owned(), publisher: publisher.to_owned() }).collect()
}

/// What a notification means for the room.
fn to_events(method: &str, params: &Value) -> Vec<RoomEvent> {
    let gone = || StreamRef {
        id: String::new(),
        publisher: params["connectionId"].as_str().unwrap_or_default().to_owned(),
    };
    let reason = || params["reason"].as_str().unwrap_or_default().to_owned();
    match method {
        "participantPublished" => streams_of(params).into_iter().map(RoomEvent::StreamAdded).collect(),
        "participantUnpublished" | "participantLeft" => vec![RoomEvent::StreamRemoved(gone())],
        "participantEvicted" => vec![RoomEvent::Closed(reason())],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notifications_become_events() {
        let published = json!({ "id": "con_a", "streams": [{ "id": "str_1" }] });
        let events = to_events("participantPublished", &published);
        assert!(matches!(&events[..], [RoomEvent::StreamAdded(stream)] if stream.publisher == "con_a"));
        let left = json!({ "connectionId": "con_a", "reason": "disconnect" });
        assert!(matches!(&to_events("participantLeft", &left)[..], [RoomEvent::StreamRemoved(_)]));
        assert!(to_events("participantJoined", &published).is_empty());
        assert!(streams_of(&json!({ "id": "con_a" })).is_empty());
    }

    #[test]
    fn pings_and_answers_are_none_of_the_rooms_events() {
        let mut rpc = JsonRpc { pinged: false };
        assert_eq!(rpc.ping(), Some(json!({ "method": "ping", "params": { "interval": 5000 } })));
        let mut ping = rpc.ping().expect("a ping");
        rpc.number(&mut ping, 7);
        assert_eq!(ping, json!({ "jsonrpc": "2.0", "id": 7, "method": "ping" }));
        let pong = json!({ "jsonrpc": "2.0", "id": 7, "result": { "value": "pong" } });
        assert_eq!(rpc.answers(&pong), Some(7));
        assert!(rpc.events(&pong).expect("events").is_empty());
        assert_eq!(rpc.answers(&json!({ "method": "sendMessage", "id": 7 })), None);
    }
}

//! A WebSocket to Janus: one session, its requests by transaction, its events.
//!
//! Janus answers a plugin's request twice: `ack` at once, and later an `event` of the same transaction, which is the answer.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::target::tls::Trust;
use crate::target::websocket::{Caller, Dialect, connect};
use crate::target::{RoomEvent, StreamRef};

/// One session of one participant.
pub(super) struct Session {
    caller: Caller,
}

impl Session {
    /// Connects and creates a session.
    ///
    /// # Errors
    /// When there is no Janus at `url`.
    pub(super) async fn open(url: &str, trust: &Trust) -> Result<(Session, mpsc::Receiver<RoomEvent>)> {
        let mut request = url.into_client_request().with_context(|| format!("WebSocket {url}"))?;
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("janus-protocol"));
        let (caller, events) = Caller::serve(connect(request, trust).await?, Transactions { session: None });
        let session = Session { caller };
        session.call(json!({ "janus": "create" })).await.context("creating a session")?;
        Ok((session, events))
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
            bail!("videoroom {name}: {error}");
        }
        Ok((data, answer["jsep"]["sdp"].as_str().map(str::to_owned)))
    }

    /// Ends the session and all its handles.
    pub(super) async fn destroy(&self) -> Result<()> {
        self.call(json!({ "janus": "destroy" })).await.map(drop)
    }

    async fn call(&self, message: Value) -> Result<Value> {
        let reply = self.caller.call(message).await?;
        if reply["janus"] == "error" {
            bail!("{}", reply["error"]["reason"].as_str().unwrap_or("an error without a reason"));
        }
        Ok(reply)
    }
}

/// Janus numbers its messages by transaction; once there is a session each message names it.
struct Transactions {
    session: Option<u64>,
}

impl Dialect for Transactions {
    /// A Janus whose sessions time out does so after 60 s of silence.
    const PING_INTERVAL: Duration = Duration::from_secs(25);

    fn number(&mut self, message: &mut Value, number: u64) {
        message["transaction"] = number.to_string().into();
        if let Some(session) = self.session {
            message["session_id"] = session.into();
        }
    }

    fn ping(&mut self) -> Option<Value> {
        self.session.map(|_| json!({ "janus": "keepalive" }))
    }

    fn answers(&mut self, message: &Value) -> Option<u64> {
        if message["janus"] == "ack" {
            return None;
        }
        let number = message["transaction"].as_str()?.parse().ok();
        // The first answer is the session's; later ids are handles'.
        self.session = self.session.or(message["data"]["id"].as_u64());
        number
    }

    fn events(&self, message: &Value) -> Result<Vec<RoomEvent>> {
        if message["janus"] == "timeout" {
            bail!("Janus timed the session out");
        }
        Ok(events_of(&message["plugindata"]["data"]))
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
    #[test]
    fn messages_name_their_transaction_and_the_session() {
        let mut dialect = Transactions { session: None };
        assert_eq!(dialect.ping(), None);
        let mut create = json!({ "janus": "create" });
        dialect.number(&mut create, 0);
        assert_eq!(create, json!({ "janus": "create", "transaction": "0" }));
        let answers = [
            (json!({ "janus": "success", "transaction": "0", "data": { "id": 77 } }), Some(0)),
            (json!({ "janus": "success", "transaction": "1", "data": { "id": 5 } }), Some(1)),
            (json!({ "janus": "ack", "transaction": "2" }), None),
            (json!({ "janus": "event", "transaction": "2" }), Some(2)),
            (json!({ "janus": "event", "plugindata": {} }), None),
        ];
        for (message, number) in answers {
            assert_eq!(dialect.answers(&message), number, "{message}");
        }
        let mut ping = dialect.ping().expect("there is a session");
        dialect.number(&mut ping, 3);
        assert_eq!(ping, json!({ "janus": "keepalive", "transaction": "3", "session_id": 77 }));
        assert!(dialect.events(&json!({ "janus": "ack", "transaction": "3" })).expect("events").is_empty());
        assert!(dialect.events(&json!({ "janus": "timeout" })).is_err());
    }
}

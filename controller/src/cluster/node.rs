//! One media node: its status, its connection, and the body of the event that tells a change of the status.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::{Event, Illegal, Status};
use crate::ids::NodeId;

/// A media node of the cluster. `status` and `connected` say different things: see [`Node::takes_sessions`].
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Id that the provider, or the operator, gave it. `None` until known.
    pub environment_id: Option<String>,
    /// Its address. `None` until known.
    pub ip: Option<String>,
    /// Where its control socket is. `None` until known.
    pub uri: Option<String>,
    /// Whether the control connection is up.
    pub connected: bool,
    /// When its launch was ordered, UTC milliseconds.
    pub launched_at_ms: u64,
    status: Status,
}

/// A status change: what `mediaNodeStatusChanged` tells.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusChange {
    /// When, UTC milliseconds.
    pub at_ms: u64,
    /// Which node.
    pub id: NodeId,
    /// See [`Node::environment_id`].
    pub environment_id: Option<String>,
    /// See [`Node::ip`].
    pub ip: Option<String>,
    /// See [`Node::uri`].
    pub uri: Option<String>,
    /// Before; `None` when the node's life begins.
    pub old: Option<Status>,
    /// After.
    pub new: Status,
}

impl Node {
    /// A node whose launch was ordered at `now_ms`, UTC milliseconds.
    pub fn launching(id: NodeId, now_ms: u64) -> Self {
        Self {
            id,
            environment_id: None,
            ip: None,
            uri: None,
            connected: false,
            launched_at_ms: now_ms,
            status: Status::Launching,
        }
    }

    /// Where it is in its life.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether placement may choose it: `running` and connected.
    pub fn takes_sessions(&self) -> bool {
        self.status == Status::Running && self.connected
    }

    /// Takes an event; the connection is left as it is.
    /// # Errors
    /// [`Illegal`]: not in this status; nothing changed.
    pub fn apply(&mut self, now_ms: u64, event: Event) -> Result<StatusChange, Illegal> {
        let old = self.status;
        self.status = old.on(event)?;
        Ok(self.change(now_ms, Some(old)))
    }

    /// The change that begins its life.
    pub(super) fn first_change(&self, now_ms: u64) -> StatusChange {
        self.change(now_ms, None)
    }

    fn change(&self, at_ms: u64, old: Option<Status>) -> StatusChange {
        StatusChange {
            at_ms,
            id: self.id.clone(),
            environment_id: self.environment_id.clone(),
            ip: self.ip.clone(),
            uri: self.uri.clone(),
            old,
            new: self.status,
        }
    }
}

impl StatusChange {
    /// The event as the webhook sends it.
    pub fn to_json(&self, cluster_id: &str) -> Value {
        json!({
            "event": "mediaNodeStatusChanged",
            "timestamp": self.at_ms,
            "id": self.id,
            "environmentId": self.environment_id,
            "ip": self.ip,
            "uri": self.uri,
            "newStatus": self.new,
            "oldStatus": self.old,
            "clusterId": cluster_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connected_and_status_are_independent() {
        let mut node = Node::launching("media_1".into(), 1);
        let mut seen = Vec::new();
        for (connected, event) in [(true, Event::LaunchDone), (false, Event::Drain), (true, Event::Resume)] {
            node.connected = connected;
            node.apply(2, event).expect("legal");
            seen.push((node.status(), node.connected, node.takes_sessions()));
        }
        let expected = [
            (Status::Running, true, true),
            (Status::WaitingIdleToTerminate, false, false),
            (Status::Running, true, true),
        ];
        assert_eq!(seen, expected);
        node.connected = false;
        assert_eq!((node.status(), node.takes_sessions()), (Status::Running, false));
    }

    #[test]
    fn an_illegal_event_changes_nothing() {
        let mut node = Node::launching("media_1".into(), 1);
        let before = node.clone();
        let illegal = node.apply(2, Event::Idle).expect_err("not draining");
        assert_eq!(illegal.to_string(), "a media node in status launching cannot take Idle");
        assert_eq!(node, before);
    }

    #[test]
    fn the_event_has_the_fields_of_the_contract() {
        let mut node = Node::launching("media_1".into(), 5);
        let expected = json!({
            "event": "mediaNodeStatusChanged", "timestamp": 5, "id": "media_1", "environmentId": null, "ip": null,
            "uri": null, "newStatus": "launching", "oldStatus": null, "clusterId": "c",
        });
        assert_eq!(node.first_change(5).to_json("c"), expected);
        node.environment_id = Some("i-1".into());
        node.ip = Some("10.0.0.11".into());
        node.uri = Some("ws://10.0.0.11:8888/kurento".into());
        let change = node.apply(1_700_000_000_000, Event::LaunchDone).expect("legal");
        let expected = json!({
            "event": "mediaNodeStatusChanged", "timestamp": 1_700_000_000_000_u64, "id": "media_1",
            "environmentId": "i-1", "ip": "10.0.0.11", "uri": "ws://10.0.0.11:8888/kurento",
            "newStatus": "running", "oldStatus": "launching", "clusterId": "c",
        });
        assert_eq!(change.to_json("c"), expected);
    }
}

//! One media node: its status, its connection, and the body of the event that tells a change of the status.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::{Event, Illegal, NodeUri, Status};
use crate::ids::NodeId;

/// Who started a node, and so who may end it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The cluster, or an earlier life of it: its machine ends with it.
    #[default]
    Launched,
    /// The operator: it is connected to and let go.
    Joined,
}

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
    /// Who started it.
    pub origin: Origin,
    /// Whether the control connection is up.
    pub connected: bool,
    /// When the control connection came up last, UTC milliseconds.
    pub connected_at_ms: Option<u64>,
    /// When the control connection was lost last, UTC milliseconds.
    pub lost_at_ms: Option<u64>,
    /// `nodeCrashed` was told, and `nodeRecovered` was not.
    pub crashed: bool,
    /// When its launch was ordered, UTC milliseconds.
    pub launched_at_ms: u64,
    /// Why its launch failed, or its shutdown.
    pub failure: Option<String>,
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
            origin: Origin::Launched,
            connected: false,
            connected_at_ms: None,
            lost_at_ms: None,
            crashed: false,
            launched_at_ms: now_ms,
            failure: None,
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

    /// It is known where it is.
    pub fn locate(&mut self, uri: &NodeUri, environment_id: Option<String>) {
        self.ip = Some(uri.host().to_owned());
        self.uri = Some(uri.as_str().to_owned());
        self.environment_id = environment_id;
    }

    /// The control connection came up.
    pub fn connect(&mut self, now_ms: u64) {
        self.connected = true;
        self.connected_at_ms = Some(now_ms);
    }

    /// The control connection is gone.
    pub fn disconnect(&mut self, now_ms: u64) {
        if self.connected {
            self.connected = false;
            self.lost_at_ms = Some(now_ms);
        }
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

//! One usage record: a node's membership from its connection to its end.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::ids::NodeId;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// The controller's machine.
    MasterNode,
    /// A media node.
    MediaNode,
}

/// Why a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StartReason {
    /// Launched by the server.
    Launch,
    /// Joined by its address, or found.
    Autodiscovery,
    /// The server was started again.
    Restart,
    /// Its connection was lost, and is back.
    Recovery,
}

/// Why a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndReason {
    /// Taken out of the cluster.
    Removed,
    /// Its connection was lost.
    Crashed,
    /// The server ended; after an unclean end, at the last heartbeat.
    ServerStopped,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRecord {
    /// Its id; sorts by start.
    pub id: String,
    /// Name of the cluster.
    pub cluster_id: String,
    /// Id of the node.
    #[serde(rename = "nodeId")]
    pub node: NodeId,
    /// Id of the node in its environment.
    pub environment_id: Option<String>,
    /// What the node does.
    #[serde(rename = "nodeRole")]
    pub role: NodeRole,
    /// Address of the node.
    pub ip: Option<String>,
    /// Cores charged.
    pub cores: u32,
    /// Connection, UTC milliseconds.
    #[serde(rename = "startTime")]
    pub start_ms: u64,
    /// Disconnection, UTC milliseconds. `None` while it is connected.
    #[serde(rename = "endTime")]
    pub end_ms: Option<u64>,
    /// Why it begins.
    pub start_reason: StartReason,
    /// Why it ended.
    pub end_reason: Option<EndReason>,
    /// Price in force.
    pub price_per_core_minute: f64,
    /// Edition in force.
    pub edition: String,
    /// When it was known to be alive, UTC milliseconds; at most a minute old.
    #[serde(rename = "lastHeartbeat")]
    pub last_heartbeat_ms: u64,
}

impl UsageRecord {
    pub(super) fn end(&mut self, now_ms: u64, reason: EndReason) {
        // A clock that was set back must not make a negative time.
        self.end_ms = Some(now_ms.max(self.start_ms));
        self.last_heartbeat_ms = self.last_heartbeat_ms.max(now_ms);
        self.end_reason = Some(reason);
    }

    /// Milliseconds of it that lie in a period.
    pub fn ms_in(&self, from_ms: u64, to_ms: u64) -> u64 {
        self.end_ms.unwrap_or(to_ms).min(to_ms).saturating_sub(self.start_ms.max(from_ms))
    }
}

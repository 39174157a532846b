//! What the cluster cost: a usage record per node and time of membership (`cluster.md` section 11).
//!
//! ```text
//! connected ─▶ open record ──heartbeat each minute──▶ ... ──disconnected──▶ closed record
//!                  └──the server dies──▶ next start: closed at the last heartbeat
//! ```
//!
//! Cost of a period: the sum over records of cores x minutes x price, to the millisecond; nothing is rounded up. The master
//! node has a record of its own while the server runs. Records stay on this machine.
#![forbid(unsafe_code)]

mod record;
mod report;

use std::collections::{BTreeMap, BTreeSet};

pub use self::record::{EndReason, NodeRole, StartReason, UsageRecord};
pub use self::report::{NodeUsage, Usage, UsageLine};
use crate::ids::NodeId;

/// How often open records are marked as alive, milliseconds.
pub const HEARTBEAT_MS: u64 = 60_000;
/// Records kept; the oldest closed ones go first. A node that joins and leaves each hour makes 8 760 a year.
pub const RECORDS_MAX: usize = 100_000;
/// Id of the master node in its records.
pub const MASTER: &str = "master";

/// What goes into every record.
#[derive(Clone, Debug)]
pub struct MeterConfig {
    /// Name of the cluster.
    pub cluster_id: String,
    /// Price of one core for one minute.
    pub price_per_core_minute: f64,
    /// `pro` or `enterprise`.
    pub edition: String,
}

/// A node that joins.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// Id in its environment, where there is one.
    pub environment_id: Option<String>,
    /// What it does.
    pub role: NodeRole,
    /// Its address.
    pub ip: Option<String>,
    /// Cores that are charged.
    pub cores: u32,
    /// How it came, if this is not its first time.
    pub reason: StartReason,
}

/// A record to write, or to remove when there is no value.
pub type UsageRow = (String, Option<Vec<u8>>);

/// All records, and which are open.
#[derive(Debug)]
pub struct Meter {
    config: MeterConfig,
    /// By id; ids sort by start.
    records: BTreeMap<String, UsageRecord>,
    open: BTreeMap<NodeId, String>,
    /// How each node that is away ended last.
    ended: BTreeMap<NodeId, EndReason>,
    changed: BTreeSet<String>,
    next_heartbeat_ms: u64,
}

/// A stored record cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("usage record {key}: {error}")]
pub struct UsageError {
    /// Its id.
    pub key: String,
    /// Why.
    pub error: serde_json::Error,
}

impl Meter {
    /// A meter without records.
    pub fn new(config: MeterConfig, now_ms: u64) -> Self {
        Self {
            config,
            records: BTreeMap::new(),
            open: BTreeMap::new(),
            ended: BTreeMap::new(),
            changed: BTreeSet::new(),
            next_heartbeat_ms: now_ms + HEARTBEAT_MS,
        }
    }

    /// Takes over stored records. Those that are open are from a server that did not end cleanly: they end with their last
    /// heartbeat.
    ///
    /// # Errors
    /// A row that this version cannot read.
    pub fn restore(&mut self, rows: &[(String, Vec<u8>)]) -> Result<(), UsageError> {
        for (key, value) in rows {
            let parsed = serde_json::from_slice(value);
            let mut record: UsageRecord = parsed.map_err(|error| UsageError { key: key.clone(), error })?;
            if record.end_ms.is_none() {
                record.end(record.last_heartbeat_ms, EndReason::ServerStopped);
                self.changed.insert(key.clone());
            }
            if let Some(reason) = record.end_reason {
                self.ended.insert(record.node.clone(), reason);
            }
            self.records.insert(key.clone(), record);
        }
        self.bound();
        Ok(())
    }

    /// A node is part of the cluster from now on. One that is already is left as it is.
    pub fn connected(&mut self, now_ms: u64, member: Member) {
        if self.open.contains_key(&member.node) {
            return;
        }
        let start_reason = match self.ended.remove(&member.node) {
            Some(EndReason::Crashed) => StartReason::Recovery,
            Some(EndReason::ServerStopped) => StartReason::Restart,
            Some(EndReason::Removed) | None => member.reason,
        };
        let head = format!("usage_{now_ms:015}_{}", member.node);
        let taken = |id: &String| self.records.contains_key(id);
        let id = std::iter::once(head.clone()).chain((2..).map(|n| format!("{head}_{n}")));
        let id = id.into_iter().find(|id| !taken(id)).expect("numbers do not end");
        let record = UsageRecord {
            id: id.clone(),
            cluster_id: self.config.cluster_id.clone(),
            node: member.node.clone(),
            environment_id: member.environment_id,
            role: member.role,
            ip: member.ip,
            cores: member.cores,
            start_ms: now_ms,
            end_ms: None,
            start_reason,
            end_reason: None,
            price_per_core_minute: self.config.price_per_core_minute,
            edition: self.config.edition.clone(),
            last_heartbeat_ms: now_ms,
        };
        self.open.insert(member.node, id.clone());
        self.changed.insert(id.clone());
        self.records.insert(id, record);
        self.bound();
    }

    /// A node is no part of the cluster any more.
    pub fn disconnected(&mut self, now_ms: u64, node: &NodeId, reason: EndReason) {
        let Some(id) = self.open.remove(node) else { return };
        if let Some(record) = self.records.get_mut(&id) {
            record.end(now_ms, reason);
            self.ended.insert(node.clone(), reason);
            self.changed.insert(id);
        }
    }

    /// Marks open records as alive when it is time to.
    pub fn tick(&mut self, now_ms: u64) {
        if now_ms < self.next_heartbeat_ms {
            return;
        }
        self.next_heartbeat_ms = now_ms + HEARTBEAT_MS;
        for id in self.open.values() {
            if let Some(record) = self.records.get_mut(id) {
                record.last_heartbeat_ms = now_ms;
                self.changed.insert(id.clone());
            }
        }
    }

    /// When [`Meter::tick`] is wanted, UTC milliseconds.
    pub fn next_timeout(&self) -> u64 {
        self.next_heartbeat_ms
    }

    /// The server ends.
    pub fn stop(&mut self, now_ms: u64) {
        let nodes: Vec<NodeId> = self.open.keys().cloned().collect();
        for node in nodes {
            self.disconnected(now_ms, &node, EndReason::ServerStopped);
        }
    }

    /// Records that changed since the last call.
    pub fn take_rows(&mut self) -> Vec<UsageRow> {
        let changed = std::mem::take(&mut self.changed);
        let row = |id: String| {
            let value = self.records.get(&id).map(|record| serde_json::to_vec(record).expect("plain data"));
            (id, value)
        };
        changed.into_iter().map(row).collect()
    }

    /// What was used in a period, as far as it has passed.
    pub fn usage(&self, from_ms: u64, to_ms: u64, now_ms: u64) -> Usage {
        report::usage(self.records.values(), from_ms, to_ms.min(now_ms))
    }

    fn bound(&mut self) {
        let mut too_many = self.records.len().saturating_sub(RECORDS_MAX);
        while too_many > 0 {
            let closed = self.records.iter().find(|(_, record)| record.end_ms.is_some());
            let Some(id) = closed.map(|(id, _)| id.clone()) else { return };
            self.records.remove(&id);
            self.changed.insert(id);
            too_many -= 1;
        }
    }
}

#[cfg(test)]
mod tests;

//! Usage of a period: per record, per node, in all; as JSON and as CSV (RFC 4180).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::record::{NodeRole, UsageRecord};
use crate::ids::NodeId;

const MS_PER_MINUTE: f64 = 60_000.0;

/// Columns of the CSV, and members of a line in JSON.
const COLUMNS: [&str; 16] = [
    "id",
    "clusterId",
    "nodeId",
    "environmentId",
    "nodeRole",
    "ip",
    "cores",
    "startTime",
    "endTime",
    "startReason",
    "endReason",
    "pricePerCoreMinute",
    "edition",
    "lastHeartbeat",
    "minutes",
    "cost",
];

/// Usage of a period.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Begin of the period, UTC milliseconds.
    pub from: u64,
    /// Its end: now at the latest.
    pub to: u64,
    /// Core-minutes in all.
    pub core_minutes: f64,
    /// Their price.
    pub cost: f64,
    /// Per node.
    pub nodes: Vec<NodeUsage>,
    /// Per record, by start.
    pub records: Vec<UsageLine>,
}

/// Usage of a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    /// Which node.
    pub node_id: NodeId,
    /// What it does.
    pub node_role: NodeRole,
    /// Core-minutes.
    pub core_minutes: f64,
    /// Their price.
    pub cost: f64,
}

/// A record, and what of it lies in the period.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageLine {
    /// The record.
    #[serde(flatten)]
    pub record: UsageRecord,
    /// Minutes in the period.
    pub minutes: f64,
    /// Cores x minutes x price.
    pub cost: f64,
}

pub(super) fn usage<'a>(records: impl Iterator<Item = &'a UsageRecord>, from_ms: u64, to_ms: u64) -> Usage {
    let mut usage = Usage {
        from: from_ms,
        to: to_ms,
        core_minutes: 0.0,
        cost: 0.0,
        nodes: Vec::new(),
        records: Vec::new(),
    };
    let mut nodes = BTreeMap::<(NodeRole, NodeId), (f64, f64)>::new();
    for record in records {
        let ms = record.ms_in(from_ms, to_ms);
        if ms == 0 {
            continue;
        }
        let minutes = ms as f64 / MS_PER_MINUTE;
        let core_minutes = minutes * f64::from(record.cores);
        let cost = core_minutes * record.price_per_core_minute;
        let node = nodes.entry((record.role, record.node.clone())).or_default();
        (node.0, node.1) = (node.0 + core_minutes, node.1 + cost);
        (usage.core_minutes, usage.cost) = (usage.core_minutes + core_minutes, usage.cost + cost);
        usage.records.push(UsageLine { record: record.clone(), minutes, cost });
    }
    let node =
        |((node_role, node_id), (core_minutes, cost))| NodeUsage { node_id, node_role, core_minutes, cost };
    usage.nodes = nodes.into_iter().map(node).collect();
    usage
}

impl Usage {
    /// One line per record, below a line of names.
    pub fn csv(&self) -> String {
        let mut text = COLUMNS.join(",") + "\r\n";
        for line in &self.records {
            let line = serde_json::to_value(line).expect("plain data");
            let cells = COLUMNS.map(|column| cell(&line[column]));
            let _ = write!(text, "{}\r\n", cells.join(","));
        }
        text
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\r', '\n']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

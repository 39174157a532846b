//! The `autoscaling` event: the cluster before the change, the change, and the reason in words.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::{Decision, Limits, NodeView, Totals, View};
use crate::cluster::Status;
use crate::ids::NodeId;

impl Decision {
    /// The event as the webhook sends it. `view` is the one that was decided on. It goes out before the status changes that
    /// apply it.
    pub fn to_json(&self, view: &View, cluster_id: &str) -> Value {
        let totals = view.totals();
        let ended_running = self.terminate.len() + self.drain.len();
        let mut running = nodes(view, &[&self.terminate, &self.drain]);
        running.sort_by(|a, b| load_of(a).total_cmp(&load_of(b)));
        json!({
            "event": "autoscaling",
            "timestamp": self.at_ms,
            "clusterId": cluster_id,
            "reason": self.reason,
            "mediaNodes": {
                "launch": {
                    "total": self.launched(),
                    "newNodes": self.new_nodes,
                    "waitingIdleToTerminateNodes": nodes(view, &[&self.resume]),
                    "canceledNodes": nodes(view, &[&self.relaunch]),
                },
                "terminate": {
                    "total": self.cancel.len() + ended_running,
                    "runningNodes": running,
                    "launchingNodes": nodes(view, &[&self.cancel]),
                },
            },
            "system": {
                "config": config(&view.limits),
                "status": {
                    "numNodes": totals.active,
                    "totalLoad": totals.load,
                    "avgLoad": totals.avg,
                    "runningNodes": in_status(view, Status::Running),
                    "launchingNodes": in_status(view, Status::Launching),
                    "waitingIdleToTerminateNodes": in_status(view, Status::WaitingIdleToTerminate),
                    "canceledNodes": in_status(view, Status::Canceled),
                },
            },
        })
    }
}

fn config(limits: &Limits) -> Value {
    json!({
        "maxNodes": limits.max_nodes,
        "minNodes": limits.min_nodes,
        "maxAvgLoad": plain(limits.max_avg_load),
        "minAvgLoad": plain(limits.min_avg_load),
    })
}

/// A whole number without a fraction, as the limits are written: 70, not 70.0.
fn plain(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
}

fn nodes(view: &View, ids: &[&[NodeId]]) -> Vec<Value> {
    let named = ids.iter().flat_map(|list| list.iter());
    named.filter_map(|id| view.nodes.iter().find(|node| node.id == *id)).map(node).collect()
}

fn in_status(view: &View, status: Status) -> Vec<Value> {
    view.nodes.iter().filter(|node| node.status == status).map(node).collect()
}

fn node(node: &NodeView) -> Value {
    json!({
        "id": node.id,
        "environmentId": node.environment_id,
        "ip": node.ip,
        "load": node.finite_load(),
        "status": node.status,
    })
}

fn load_of(node: &Value) -> f64 {
    node["load"].as_f64().unwrap_or(0.0)
}

/// Average and limits, which bound on the count left room, what is active now, what will be done.
pub(super) fn reason(limits: &Limits, totals: Totals, decision: &Decision) -> String {
    let launching = totals.active - totals.running;
    let active =
        format!("{} active ({launching} launching, {} running)", nodes_text(totals.active), totals.running);
    let (avg, max, min) = (totals.avg, limits.max_avg_load, limits.min_avg_load);
    let band = format!("the limits are {min:.2} % and {max:.2} %");
    if decision.ended() > 0 {
        return format!(
            "Average load {avg:.2} % is below its lower limit; {band}. The least number of nodes, {}, is not reached: {active}. {} will be \
             ended: {} canceled, {} terminated, {} drained first.",
            limits.min_nodes,
            nodes_text(decision.ended() as u32),
            decision.cancel.len(),
            decision.terminate.len(),
            decision.drain.len(),
        );
    }
    let why = if totals.active < limits.min_nodes {
        format!(
            "Fewer than the least number of nodes, {}: {active}. Average load is {avg:.2} %; {band}",
            limits.min_nodes
        )
    } else {
        format!(
            "Average load {avg:.2} % is above its upper limit; {band}. The greatest number of nodes, {}, is not reached: {active}",
            limits.max_nodes
        )
    };
    format!(
        "{why}. {} will be launched: {} back from draining, {} back from canceled, {} new.",
        nodes_text(decision.launched() as u32),
        decision.resume.len(),
        decision.relaunch.len(),
        decision.new_nodes,
    )
}

fn nodes_text(count: u32) -> String {
    if count == 1 { "1 node".into() } else { format!("{count} nodes") }
}

//! The autoscaler's runs: what the cluster looks like goes in, its decision is told and then carried out by the same changes
//! that REST requests make.
#![forbid(unsafe_code)]

use super::cluster::cluster_record;
use super::{Engine, Output, Timer};
use crate::autoscaler::{self, Decision, NodeView, View};
use crate::cluster::{Event, LaunchRequest, Node};
use crate::session::Reason;

impl Engine {
    /// One run, and the next one is due.
    pub(super) fn on_autoscale_timer(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let Some(scaling) = self.config.cluster.autoscaling.clone() else { return };
        self.timers.set(now_ms + scaling.interval_ms, Timer::Autoscale);
        let view =
            View { limits: scaling.limits, nodes: self.nodes.iter().map(|node| self.seen(node)).collect() };
        if let Some(decision) = autoscaler::tick(&view, now_ms) {
            tracing::info!(reason = decision.reason, "autoscaling");
            let event = decision.to_json(&view, &self.config.cluster.id);
            out.push(Output::Record(cluster_record("autoscaling", now_ms, event)));
            self.carry_out(now_ms, &decision, out);
        }
    }

    fn seen(&self, node: &Node) -> NodeView {
        NodeView {
            id: node.id.clone(),
            environment_id: node.environment_id.clone(),
            ip: node.ip.clone(),
            status: node.status(),
            load: self.nodes.load(node.id.as_str()),
            busy: self.nodes.is_busy(node.id.as_str()),
            launched_at_ms: node.launched_at_ms,
        }
    }

    fn carry_out(&mut self, now_ms: u64, decision: &Decision, out: &mut Vec<Output>) {
        let changes = [
            (&decision.resume, Event::Resume),
            (&decision.relaunch, Event::Relaunch),
            (&decision.cancel, Event::Cancel),
            (&decision.drain, Event::Drain),
        ];
        for (nodes, event) in changes {
            for id in nodes {
                self.change(now_ms, id, event, out);
            }
        }
        for id in &decision.terminate {
            self.terminate(now_ms, id, Event::Terminate, Reason::MediaServerDisconnect, out);
        }
        // On premises the event says how many nodes the operator is to add.
        if self.config.cluster.launches {
            for _ in 0..decision.new_nodes {
                self.launch_node(now_ms, LaunchRequest::default(), out);
            }
        }
    }
}

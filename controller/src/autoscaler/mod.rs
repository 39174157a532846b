//! The autoscaler: what the cluster looks like comes in, what to launch and what to end comes out.
//!
//! ```text
//!              avg = load(running + draining) / count(running + launching)
//!   avg > max ──▶ grow to the fewest nodes with avg <= max:   draining, then canceled, then new ones
//!   avg < min ──▶ shrink while avg < min:                     launching, then the least loaded running ones
//! ```
//!
//! The bounds on the number of nodes hold whatever the load is; fewer active nodes than the least number are brought up to
//! it; more than the most are left alone. A step down that would put the average above the upper limit is not made: with
//! `max_avg_load < 2 * min_avg_load` the next run would take it back. So one run under unchanged load is followed by runs that do
//! nothing: growing ends at the first count whose average is not above the limit, and no step down leads below that count.
//!
//! [`tick`] is pure: it decides, the owner of the nodes carries out and records the event ([`Decision::to_json`]) first.
#![forbid(unsafe_code)]

mod event;
mod policy;
#[cfg(test)]
mod tests;

use crate::cluster::Status;
use crate::ids::NodeId;

/// The four limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Most active nodes.
    pub max_nodes: u32,
    /// Fewest active nodes.
    pub min_nodes: u32,
    /// Average load above which the cluster grows, percent.
    pub max_avg_load: f64,
    /// Average load below which it shrinks, percent.
    pub min_avg_load: f64,
}

/// A node as the autoscaler sees it. Nodes in other statuses than the four that count may be among them.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Id of the provider.
    pub environment_id: Option<String>,
    /// Its address.
    pub ip: Option<String>,
    /// Its status.
    pub status: Status,
    /// CPU load of the node, percent.
    pub load: f64,
    /// It hosts a session, a recording or a broadcast.
    pub busy: bool,
    /// When its launch was ordered, UTC milliseconds.
    pub launched_at_ms: u64,
}

/// The cluster at one instant.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Limits in force.
    pub limits: Limits,
    /// All nodes.
    pub nodes: Vec<NodeView>,
}

/// What the algorithm counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Totals {
    /// Nodes in `running` and `launching`.
    pub active: u32,
    /// Of these, nodes in `running`.
    pub running: u32,
    /// Load of all nodes in `running` and `waiting-idle-to-terminate`, percent of one node.
    pub load: f64,
    /// `load` over `active`, 0 without active nodes.
    pub avg: f64,
}

/// A change of the cluster. At least one node is launched or ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// When, UTC milliseconds.
    pub at_ms: u64,
    /// Draining nodes that go back to `running`.
    pub resume: Vec<NodeId>,
    /// Canceled nodes that go back to `launching`.
    pub relaunch: Vec<NodeId>,
    /// Brand new nodes. On premises the operator must add them.
    pub new_nodes: u32,
    /// Launching nodes that become `canceled`.
    pub cancel: Vec<NodeId>,
    /// Idle running nodes that become `terminating`.
    pub terminate: Vec<NodeId>,
    /// Busy running nodes that become `waiting-idle-to-terminate`.
    pub drain: Vec<NodeId>,
    /// Why, for people.
    pub reason: String,
}

impl View {
    /// What the algorithm counts.
    pub fn totals(&self) -> Totals {
        let count = |is: fn(Status) -> bool| self.nodes.iter().filter(|node| is(node.status)).count() as u32;
        let active = count(Status::is_active);
        let loaded = self.nodes.iter().filter(|node| node.status.can_have_load());
        // `fold`: the sum of no floats is -0.0.
        let load = loaded.fold(0.0, |sum, node| sum + node.finite_load());
        let avg = if active == 0 { 0.0 } else { load / f64::from(active) };
        Totals { active, running: count(|status| status == Status::Running), load, avg }
    }
}

impl NodeView {
    /// A report that is no number or negative counts as none.
    fn finite_load(&self) -> f64 {
        if self.load.is_finite() { self.load.max(0.0) } else { 0.0 }
    }
}

impl Decision {
    /// How many nodes are launched, old and new.
    pub fn launched(&self) -> usize {
        self.resume.len() + self.relaunch.len() + self.new_nodes as usize
    }

    /// How many nodes are ended.
    pub fn ended(&self) -> usize {
        self.cancel.len() + self.terminate.len() + self.drain.len()
    }
}

/// One run of the autoscaler at `now_ms`, UTC milliseconds. `None`: nothing is to change, and there is no event.
pub fn tick(view: &View, now_ms: u64) -> Option<Decision> {
    let totals = view.totals();
    let target = policy::target(&view.limits, totals);
    let mut decision = Decision {
        at_ms: now_ms,
        resume: Vec::new(),
        relaunch: Vec::new(),
        new_nodes: 0,
        cancel: Vec::new(),
        terminate: Vec::new(),
        drain: Vec::new(),
        reason: String::new(),
    };
    if target > totals.active {
        policy::grow(view, target - totals.active, &mut decision);
    } else if target < totals.active {
        policy::shrink(view, totals.active - target, &mut decision);
    } else {
        return None;
    }
    decision.reason = event::reason(&view.limits, totals, &decision);
    Some(decision)
}

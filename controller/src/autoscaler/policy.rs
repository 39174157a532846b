//! How many nodes there shall be, and which of them change.
#![forbid(unsafe_code)]

use super::{Decision, Limits, NodeView, Totals, View};
use crate::cluster::Status;

/// Active nodes wanted. Comparisons with the load limits are strict.
pub(super) fn target(limits: &Limits, totals: Totals) -> u32 {
    // Refused by the configuration; should it happen all the same, the most wins.
    let min_nodes = limits.min_nodes.min(limits.max_nodes);
    if totals.active < min_nodes {
        return grown(limits, totals.load, min_nodes);
    }
    if totals.avg > limits.max_avg_load && totals.active < limits.max_nodes {
        return grown(limits, totals.load, totals.active + 1);
    }
    if totals.avg < limits.min_avg_load && totals.active > min_nodes {
        return shrunk(limits, totals, min_nodes);
    }
    totals.active
}

/// The fewest nodes, `least` or more, that carry `load` without an average above the limit; at most the most.
fn grown(limits: &Limits, load: f64, least: u32) -> u32 {
    // Close to the answer at once, then exactly by the comparison that counts: a quotient may round either way.
    let close = (load / limits.max_avg_load).floor();
    let mut nodes = if close.is_finite() { least.max(close.min(f64::from(u32::MAX)) as u32) } else { least };
    nodes = nodes.max(1).min(limits.max_nodes);
    while nodes < limits.max_nodes && load / f64::from(nodes) > limits.max_avg_load {
        if limits.max_avg_load <= 0.0 {
            return limits.max_nodes;
        }
        nodes += 1;
    }
    while nodes > least && load / f64::from(nodes - 1) <= limits.max_avg_load {
        nodes -= 1;
    }
    nodes
}

fn shrunk(limits: &Limits, totals: Totals, min_nodes: u32) -> u32 {
    let mut nodes = totals.active;
    while nodes > min_nodes && totals.load / f64::from(nodes) < limits.min_avg_load {
        let fewer = nodes - 1;
        // The last node goes only when there is no load at all.
        let bearable = if fewer == 0 {
            totals.load <= 0.0
        } else {
            totals.load / f64::from(fewer) <= limits.max_avg_load
        };
        if !bearable {
            break;
        }
        nodes = fewer;
    }
    nodes
}

/// `more` nodes: draining ones first, the least loaded first; canceled ones, the oldest launch first; new ones.
pub(super) fn grow(view: &View, more: u32, decision: &mut Decision) {
    let mut draining = nodes_in(view, Status::WaitingIdleToTerminate);
    draining.sort_by(|a, b| a.finite_load().total_cmp(&b.finite_load()).then_with(|| a.id.cmp(&b.id)));
    let mut canceled = nodes_in(view, Status::Canceled);
    canceled.sort_by(|a, b| (a.launched_at_ms, &a.id).cmp(&(b.launched_at_ms, &b.id)));
    let more = more as usize;
    decision.resume = draining.iter().take(more).map(|node| node.id.clone()).collect();
    let more = more - decision.resume.len();
    decision.relaunch = canceled.iter().take(more).map(|node| node.id.clone()).collect();
    decision.new_nodes = (more - decision.relaunch.len()) as u32;
}

/// `fewer` nodes: launching ones first, the newest first; running ones, the least loaded first, of equally loaded ones an
/// idle one and then the newest.
pub(super) fn shrink(view: &View, fewer: u32, decision: &mut Decision) {
    let mut launching = nodes_in(view, Status::Launching);
    launching.sort_by(|a, b| (b.launched_at_ms, &b.id).cmp(&(a.launched_at_ms, &a.id)));
    let mut running = nodes_in(view, Status::Running);
    running.sort_by(|a, b| {
        let by_load = a.finite_load().total_cmp(&b.finite_load());
        let newest_first = || (b.launched_at_ms, &b.id).cmp(&(a.launched_at_ms, &a.id));
        by_load.then(a.busy.cmp(&b.busy)).then_with(newest_first)
    });
    let fewer = fewer as usize;
    decision.cancel = launching.iter().take(fewer).map(|node| node.id.clone()).collect();
    for node in running.into_iter().take(fewer - decision.cancel.len()) {
        let list = if node.busy { &mut decision.drain } else { &mut decision.terminate };
        list.push(node.id.clone());
    }
}

fn nodes_in(view: &View, status: Status) -> Vec<&NodeView> {
    view.nodes.iter().filter(|node| node.status == status).collect()
}

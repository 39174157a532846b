//! The nodes that the server starts with, and the search for nodes that are there already (`cluster.md` sections 4.2, 4.3).
//!
//! ```text
//! Start ─┬─ every KMS_URI: join                    one cannot be reached and nothing is to go on: the server does not start
//!        └─ auto: Discover ─▶ join what was found ─▶ all settled ─▶ launch what is missing, end what is too much
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::cluster::Machine;
use super::{ApiError, Engine, NodeOrder, Output, Timer};
use crate::cluster::{Event, LaunchRequest, LaunchedNode, Node, NodeUri, Origin, Status};
use crate::ids::{NodeId, ReplyId};
use crate::session::Reason;

/// Attempts to connect to a node that is said to be there: as many as fit into the silent window.
pub(super) const ATTEMPTS: u32 = 6;

/// A start that is not over.
#[derive(Debug, Default)]
pub(crate) struct Starting {
    /// Nodes that are neither running nor given up.
    open: BTreeSet<NodeId>,
    /// The number of nodes was brought to what is wanted.
    counted: bool,
}

/// A search for nodes.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    /// Requests that wait for it.
    replies: Vec<ReplyId>,
    /// Whether the answer came.
    answered: bool,
    /// Nodes that were not known before.
    added: Vec<NodeId>,
    /// Of these, those that are neither running nor given up.
    open: BTreeSet<NodeId>,
}

impl Engine {
    /// Connects to, finds and launches what the server shall start with. [`Output::Started`] follows once.
    pub(super) fn on_start(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        if let Some(scaling) = &self.config.cluster.autoscaling {
            self.timers.set(now_ms + scaling.interval_ms, Timer::Autoscale);
        }
        self.work.starting = Some(Starting::default());
        for uri in self.config.cluster.join_at_start.clone() {
            let id = uri.node_id();
            let machine = Machine { id: id.clone(), uri, environment_id: None, origin: Origin::Joined };
            if self.join_node(now_ms, machine, ATTEMPTS, out)
                && let Some(starting) = &mut self.work.starting
            {
                starting.open.insert(id);
            }
        }
        self.join_earlier(now_ms, out);
        match (self.config.cluster.nodes_at_start, self.config.cluster.discovers) {
            (None, _) => self.counted(),
            (Some(_), true) => self.discover(out),
            (Some(_), false) => self.count_nodes(now_ms, out),
        }
        self.check_started(out);
    }

    fn counted(&mut self) {
        if let Some(starting) = &mut self.work.starting {
            starting.counted = true;
        }
    }

    /// Searches for nodes; [`NodeNews::Discovered`](super::NodeNews::Discovered) is the answer.
    fn discover(&mut self, out: &mut Vec<Output>) {
        if self.work.discovery.is_none() {
            self.work.discovery = Some(Discovery::default());
            out.push(Output::Node(NodeOrder::Discover));
        }
    }

    /// `PUT /media-nodes`: answered when all that was found is connected or given up.
    /// # Errors
    /// 405: nodes cannot be found here. 503: too many wait already.
    pub(crate) fn discover_for(&mut self, reply: ReplyId, out: &mut Vec<Output>) -> Result<(), ApiError> {
        if !self.config.cluster.discovers {
            return Err(ApiError::with(405, "this environment cannot find media nodes"));
        }
        self.discover(out);
        let waiting = self.work.discovery.as_mut().map(|discovery| &mut discovery.replies);
        match waiting.filter(|replies| replies.len() < self.config.cluster.waiters_max) {
            Some(replies) => replies.push(reply),
            None => return Err(ApiError::with(503, "too many requests wait for media nodes")),
        }
        Ok(())
    }

    pub(super) fn on_discovered(
        &mut self,
        now_ms: u64,
        result: Result<Vec<LaunchedNode>, String>,
        out: &mut Vec<Output>,
    ) {
        if self.work.discovery.as_ref().is_none_or(|discovery| discovery.answered) {
            return;
        }
        match result {
            Ok(found) => {
                let added: Vec<NodeId> =
                    found.into_iter().filter_map(|machine| self.join_found(now_ms, machine, out)).collect();
                if let Some(discovery) = &mut self.work.discovery {
                    discovery.open = added.iter().cloned().collect();
                    (discovery.added, discovery.answered) = (added, true);
                }
                self.check_discovered(now_ms, out);
            }
            Err(reason) => {
                tracing::error!(reason, "media nodes cannot be found");
                let replies =
                    self.work.discovery.take().map(|discovery| discovery.replies).unwrap_or_default();
                for reply in replies {
                    let refused = ApiError::with(502, reason.clone());
                    let response = crate::rest::refusal(refused, "media-nodes", now_ms);
                    out.push(Output::RestReply { reply, status: response.status, body: response.body });
                }
                self.start_failed(format!("media nodes cannot be found: {reason}"), out);
            }
        }
    }

    /// Adds a node that was found, if it is new.
    fn join_found(&mut self, now_ms: u64, found: LaunchedNode, out: &mut Vec<Output>) -> Option<NodeId> {
        let LaunchedNode { environment_id, uri } = found;
        let uri: NodeUri = uri
            .parse()
            .inspect_err(|error| tracing::error!(%error, environment_id, "media node that was found"))
            .ok()?;
        let alive = |node: &&Node| !node.status().is_final();
        let same = |node: &Node| node.environment_id.as_ref() == Some(&environment_id);
        if self.nodes.at(&uri).is_some() || self.nodes.iter().filter(alive).any(same) {
            return None;
        }
        if self.nodes.len() >= self.config.cluster.nodes_max {
            tracing::error!(environment_id, "too many media nodes");
            return None;
        }
        let named = NodeId::from(format!("media_{environment_id}"));
        let id = if self.nodes.get(named.as_str()).is_none() { named } else { self.free_node_id() };
        let environment_id = Some(environment_id);
        let ours = self.config.cluster.launches;
        let origin = if ours { Origin::Launched } else { Origin::Joined };
        let machine = Machine { id: id.clone(), uri, environment_id, origin };
        self.join_node(now_ms, machine, ATTEMPTS, out).then_some(id)
    }

    fn check_discovered(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let over = |discovery: &mut Discovery| discovery.answered && discovery.open.is_empty();
        let Some(discovery) = self.work.discovery.take_if(over) else { return };
        let running =
            |id: &&NodeId| self.nodes.get(id.as_str()).is_some_and(|node| node.status() == Status::Running);
        let new: Vec<NodeId> = discovery.added.iter().filter(running).cloned().collect();
        for reply in discovery.replies {
            let response = crate::rest::media_nodes(self, &new);
            out.push(Output::RestReply { reply, status: response.status, body: response.body });
        }
        if self.work.starting.as_ref().is_some_and(|starting| !starting.counted) {
            self.count_nodes(now_ms, out);
            self.check_started(out);
        }
    }

    /// Launches what is missing at the start; ends what is too much: idle nodes at once, busy ones when they are idle.
    fn count_nodes(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        self.counted();
        let wanted = self.config.cluster.nodes_at_start.unwrap_or(0) as usize;
        let active = self.nodes.iter().filter(|node| node.status().is_active()).count();
        for _ in active..wanted {
            let id = self.launch_node(now_ms, LaunchRequest::default(), out);
            if let Some(starting) = &mut self.work.starting {
                starting.open.insert(id);
            }
        }
        let running = self.nodes.iter().filter(|node| node.status() == Status::Running);
        let ours = running.filter(|node| node.origin == Origin::Launched);
        let mut ours: Vec<_> =
            ours.map(|node| (self.nodes.is_busy(node.id.as_str()), node.id.clone())).collect();
        ours.sort();
        for (busy, id) in ours.into_iter().take(active.saturating_sub(wanted)) {
            if busy {
                self.change(now_ms, &id, Event::Drain, out);
            } else {
                self.terminate(now_ms, &id, Event::Terminate, Reason::MediaServerDisconnect, out);
            }
        }
    }

    /// A node runs, or will not.
    pub(super) fn on_settled(&mut self, now_ms: u64, id: &NodeId, status: Status, out: &mut Vec<Output>) {
        if self.work.draining.remove(id.as_str()) && status == Status::Running {
            self.change(now_ms, id, Event::Drain, out);
        }
        let starts = self.work.starting.as_mut().is_some_and(|starting| starting.open.remove(id.as_str()));
        let node = self.nodes.get(id.as_str());
        if starts && status == Status::Failed && node.is_some_and(|node| node.origin == Origin::Joined) {
            let place = node.and_then(|node| node.uri.clone()).unwrap_or_default();
            let reason = node.and_then(|node| node.failure.clone()).unwrap_or_default();
            let problem = format!("KMS_URIS: {place} cannot be reached: {reason}");
            // A controller that comes back to calls on other nodes must not leave them alone for the sake of this one.
            if self.sessions().any(|session| session.place().is_some()) {
                tracing::error!(problem, "starting without it: there are sessions to go on with");
            } else {
                self.start_failed(problem, out);
            }
        }
        if starts {
            self.check_started(out);
        }
        if self.work.discovery.as_mut().is_some_and(|discovery| discovery.open.remove(id.as_str())) {
            self.check_discovered(now_ms, out);
        }
    }

    fn check_started(&mut self, out: &mut Vec<Output>) {
        let over = |starting: &mut Starting| starting.counted && starting.open.is_empty();
        if self.work.starting.take_if(over).is_some() {
            out.push(Output::Started(Ok(())));
        }
    }

    fn start_failed(&mut self, reason: String, out: &mut Vec<Output>) {
        if self.work.starting.take().is_some() {
            out.push(Output::Started(Err(reason)));
        }
    }
}

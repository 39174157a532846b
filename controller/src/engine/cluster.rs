//! The life of media nodes: launched or joined, connected, drained, ended. Whoever asks for a change (REST, autoscaler, start-up, a
//! crash) comes through here, so that each change is an arrow of the table and has exactly one event.
//!
//! ```text
//! launch ─▶ Launch ─▶ Launched ─┐
//! join ─────────────────────────┴▶ Connect ─▶ NodeUp ─▶ running ─▶ ... ─▶ terminating: sessions end, Disconnect, Stop ─▶ terminated
//! ```
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::cluster_start::{Discovery, Starting};
use super::cluster_wait::Waiter;
use super::persist::NodeRow;
use super::{Engine, EventRecord, NodeNews, NodeOrder, Output, Timer};
use crate::cluster::{Event, LaunchRequest, LaunchedNode, Node, NodeUri, Origin, Status, StatusChange};
use crate::ids::{NodeId, SessionId};
use crate::session::{Reason, Session};

/// What is under way about nodes.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Launches that are not over.
    pub(super) launches: BTreeMap<NodeId, Launch>,
    /// Machines that are to end, until they are gone.
    pub(super) stops: BTreeMap<NodeId, String>,
    /// REST requests that wait for an outcome.
    pub(super) waiters: Vec<Waiter>,
    /// A search for nodes.
    pub(super) discovery: Option<Discovery>,
    /// The start of the server, until its nodes are there.
    pub(super) starting: Option<Starting>,
    /// Nodes of an earlier life of the server.
    pub(super) earlier: Vec<NodeRow>,
    /// Of these, those that were draining.
    pub(super) draining: BTreeSet<NodeId>,
}

#[cfg(test)]
impl Work {
    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.launches.is_empty()
            && self.waiters.is_empty()
            && self.discovery.is_none()
            && self.starting.is_none()
    }
}

/// A launch that is not over.
#[derive(Debug)]
pub(super) struct Launch {
    /// When it has failed, UTC milliseconds.
    deadline_ms: u64,
    /// Failed attempts to connect after which it has failed.
    attempts: u32,
    /// What the last attempt died of.
    last: Option<String>,
}

impl Engine {
    /// Orders a new node.
    pub(super) fn launch_node(
        &mut self,
        now_ms: u64,
        request: LaunchRequest,
        out: &mut Vec<Output>,
    ) -> NodeId {
        let id = self.free_node_id();
        let change = self.nodes.launch(now_ms, id.clone()).expect("the id is free");
        self.record(&change, out);
        self.begin_launch(now_ms, &id, self.config.cluster.launch_ms, u32::MAX);
        out.push(Output::Node(NodeOrder::Launch { node: id.clone(), request }));
        id
    }

    /// Adds a node that is there and has to be connected to, with so many attempts. False: the id is taken.
    pub(crate) fn join_node(
        &mut self,
        now_ms: u64,
        machine: Machine,
        attempts: u32,
        out: &mut Vec<Output>,
    ) -> bool {
        let Machine { id, uri, environment_id, origin } = machine;
        let Some(change) = self.nodes.join(now_ms, id.clone(), &uri, environment_id, origin) else {
            return false;
        };
        self.record(&change, out);
        self.begin_launch(now_ms, &id, self.config.cluster.connect_ms, attempts);
        out.push(Output::Node(NodeOrder::Connect { node: id, uri }));
        true
    }

    pub(super) fn free_node_id(&mut self) -> NodeId {
        loop {
            let id = self.ids.node();
            if self.nodes.get(id.as_str()).is_none() {
                return id;
            }
        }
    }

    fn begin_launch(&mut self, now_ms: u64, id: &NodeId, within_ms: u64, attempts: u32) {
        let deadline_ms = now_ms.saturating_add(within_ms);
        self.work.launches.insert(id.clone(), Launch { deadline_ms, attempts, last: None });
        self.timers.set(deadline_ms, Timer::Launch(id.clone()));
    }

    /// What came of an order.
    pub(super) fn on_node_news(&mut self, now_ms: u64, news: NodeNews, out: &mut Vec<Output>) {
        match news {
            NodeNews::Launched { node, machine } => self.on_launched(now_ms, &node, machine, out),
            NodeNews::LaunchFailed { node, reason } => self.fail_launch(now_ms, &node, reason, out),
            NodeNews::Unreachable { node, attempt, reason } => {
                let Some(launch) = self.work.launches.get_mut(node.as_str()) else { return };
                launch.last = Some(reason.clone());
                if attempt >= launch.attempts {
                    self.fail_launch(now_ms, &node, reason, out);
                }
            }
            NodeNews::Stopped { node, result } => self.on_stopped(now_ms, &node, result, out),
            NodeNews::Discovered { result } => self.on_discovered(now_ms, result, out),
        }
    }

    fn on_launched(&mut self, now_ms: u64, id: &NodeId, machine: LaunchedNode, out: &mut Vec<Output>) {
        let LaunchedNode { environment_id, uri } = machine;
        let waited_for = self.work.launches.contains_key(id.as_str());
        let Some(node) = self.nodes.get_mut(id).filter(|_| waited_for) else {
            // It came up after all, when nobody waited any more: it must not run unaccounted for.
            tracing::warn!(node = %id, environment_id, "launched too late, stopped again");
            return self.stop_machine(id, environment_id, out);
        };
        let parsed: NodeUri = match uri.parse() {
            Ok(parsed) => parsed,
            Err(error) => {
                node.environment_id = Some(environment_id);
                return self.fail_launch(now_ms, id, format!("{error}"), out);
            }
        };
        node.locate(&parsed, Some(environment_id));
        if node.status() == Status::Canceled {
            self.work.launches.remove(id.as_str());
            self.change(now_ms, id, Event::LaunchDone, out);
            return self.release(now_ms, id, out);
        }
        self.begin_launch(now_ms, id, self.config.cluster.connect_ms, u32::MAX);
        out.push(Output::Node(NodeOrder::Connect { node: id.clone(), uri: parsed }));
    }

    /// A launch has taken too long, if it is not over.
    pub(super) fn on_launch_timer(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        let Some(launch) = self.work.launches.get(id.as_str()) else { return };
        if now_ms < launch.deadline_ms {
            return;
        }
        let known = self.nodes.get(id.as_str()).is_some_and(|node| node.uri.is_some());
        let reason = match (&launch.last, known) {
            (Some(last), _) => format!("no connection in time: {last}"),
            (None, true) => "no connection in time".to_owned(),
            (None, false) => "the launch did not end in time".to_owned(),
        };
        self.fail_launch(now_ms, id, reason, out);
    }

    fn fail_launch(&mut self, now_ms: u64, id: &NodeId, reason: String, out: &mut Vec<Output>) {
        if self.work.launches.remove(id.as_str()).is_none() {
            return;
        }
        tracing::error!(node = %id, reason, "media node does not come up");
        if let Some(node) = self.nodes.get_mut(id) {
            node.failure = Some(reason);
        }
        match self.change(now_ms, id, Event::LaunchFailed, out) {
            Some(Status::Terminating) => self.release(now_ms, id, out),
            _ => {
                self.timers.set(now_ms + self.config.cluster.failed_kept_ms, Timer::Failed(id.clone()));
                self.let_go(now_ms, id, out);
            }
        }
    }

    /// A node that failed was shown for long enough.
    pub(super) fn on_failed_timer(&mut self, id: &NodeId) {
        if self.nodes.get(id.as_str()).is_some_and(|node| node.status() == Status::Failed) {
            self.nodes.remove(id);
        }
    }

    /// A launch is over, and the node is connected.
    pub(super) fn launch_done(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        if self.work.launches.remove(id.as_str()).is_some()
            && self.change(now_ms, id, Event::LaunchDone, out) == Some(Status::Terminating)
        {
            // Sessions of an earlier life of the server may live there.
            self.end_sessions_of(now_ms, id, Reason::MediaServerDisconnect, out);
            self.release(now_ms, id, out);
        }
    }

    /// Takes an arrow of the table and tells of it. `None`: there is no such node or arrow, which is our own mistake.
    pub(super) fn change(
        &mut self,
        now_ms: u64,
        id: &NodeId,
        event: Event,
        out: &mut Vec<Output>,
    ) -> Option<Status> {
        match self.nodes.apply(now_ms, id, event) {
            Ok(change) => {
                let change = change?;
                self.record(&change, out);
                self.on_status(now_ms, id, change.new, out);
                Some(change.new)
            }
            Err(error) => {
                debug_assert!(false, "{id}: {error}");
                tracing::error!(node = %id, %error, "refused");
                None
            }
        }
    }

    fn record(&self, change: &StatusChange, out: &mut Vec<Output>) {
        let old = change.old.map_or("new", Status::as_str);
        tracing::info!(node = %change.id, from = old, to = %change.new, uri = change.uri, "media node");
        let event = change.to_json(&self.config.cluster.id);
        out.push(Output::Record(cluster_record("mediaNodeStatusChanged", change.at_ms, event)));
    }

    /// The node goes: its sessions end, then its machine.
    pub(super) fn terminate(
        &mut self,
        now_ms: u64,
        id: &NodeId,
        event: Event,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        if self.change(now_ms, id, event, out).is_none() {
            return;
        }
        self.end_sessions_of(now_ms, id, reason, out);
        self.forget_pinned(id);
        self.release(now_ms, id, out);
    }

    /// Closes every session that lives on a node. Sessions that are only pinned there stay.
    pub(super) fn end_sessions_of(
        &mut self,
        now_ms: u64,
        node: &NodeId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        for session in self.sessions_on(node) {
            self.end_session(now_ms, &session, reason, out);
        }
    }

    /// Rooms that sessions have on a node, by core.
    pub(super) fn rooms_of(&self, node: &NodeId) -> BTreeMap<u16, u32> {
        let mut rooms = BTreeMap::new();
        for place in self.registry.iter().filter_map(Session::place).filter(|place| place.node == *node) {
            *rooms.entry(place.core).or_default() += 1;
        }
        rooms
    }

    pub(super) fn sessions_on(&self, node: &NodeId) -> Vec<SessionId> {
        let there = |session: &&Session| session.place().is_some_and(|place| place.node == *node);
        self.registry.iter().filter(there).map(|session| session.id.clone()).collect()
    }

    /// Sessions that nobody joined and that could live on this node only. Silent: no event.
    fn forget_pinned(&mut self, node: &NodeId) {
        let pinned = |session: &&Session| {
            session.place().is_none() && session.properties.media_node.as_ref() == Some(node)
        };
        let ids: Vec<_> = self.registry.iter().filter(pinned).map(|session| session.id.clone()).collect();
        for id in ids {
            tracing::info!(session = %id, %node, "its media node is gone, removed");
            self.registry.remove(id.as_str());
        }
    }

    /// Disconnects a node that nothing runs on any more, and ends its machine if it is ours to end.
    fn release(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        if !self.let_go(now_ms, id, out) {
            self.gone(now_ms, id, out);
        }
    }

    /// Returns whether a machine is being stopped.
    fn let_go(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) -> bool {
        let Some(node) = self.nodes.get_mut(id) else { return false };
        node.disconnect(now_ms);
        let linked = node.uri.is_some();
        let machine = node.environment_id.clone().filter(|_| node.origin == Origin::Launched);
        self.fail_replies_of(now_ms, id, out);
        if linked {
            out.push(Output::Node(NodeOrder::Disconnect { node: id.clone() }));
        }
        let stops = machine.is_some();
        if let Some(environment_id) = machine {
            self.stop_machine(id, environment_id, out);
        }
        stops
    }

    fn stop_machine(&mut self, id: &NodeId, environment_id: String, out: &mut Vec<Output>) {
        if self.work.stops.len() < self.config.cluster.nodes_max {
            self.work.stops.insert(id.clone(), environment_id.clone());
        } else {
            tracing::error!(node = %id, environment_id, "too many machines are being stopped, this one is tried once");
        }
        out.push(Output::Node(NodeOrder::Stop { node: id.clone(), environment_id }));
    }

    fn gone(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        self.change(now_ms, id, Event::Gone, out);
        self.nodes.remove(id);
    }

    fn on_stopped(&mut self, now_ms: u64, id: &NodeId, result: Result<(), String>, out: &mut Vec<Output>) {
        let node = self.nodes.get_mut(id).filter(|node| node.status() == Status::Terminating);
        match result {
            Ok(()) => {
                let waited_for = node.is_some();
                self.work.stops.remove(id.as_str());
                if waited_for {
                    self.gone(now_ms, id, out);
                }
            }
            Err(reason) => {
                tracing::error!(node = %id, reason, "media node cannot be stopped, tried again");
                if let Some(node) = node {
                    node.failure = Some(reason.clone());
                }
                self.refuse_removal(now_ms, id, &reason, out);
                self.timers.set(now_ms + self.config.cluster.stop_retry_ms, Timer::StopNode(id.clone()));
            }
        }
    }

    /// A machine that could not be stopped is tried again, for it costs money.
    pub(super) fn on_stop_timer(&mut self, id: &NodeId, out: &mut Vec<Output>) {
        if let Some(environment_id) = self.work.stops.get(id.as_str()).cloned() {
            out.push(Output::Node(NodeOrder::Stop { node: id.clone(), environment_id }));
        }
    }

    /// Something ended on a node: if it drains and that was the last, it goes.
    pub(crate) fn idle_check(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        let draining =
            self.nodes.get(id.as_str()).is_some_and(|node| node.status() == Status::WaitingIdleToTerminate);
        if draining && !self.nodes.is_busy(id.as_str()) {
            self.terminate(now_ms, id, Event::Idle, Reason::MediaServerDisconnect, out);
        }
    }
}

/// A node that is there.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Its id, which must be free.
    pub(crate) id: NodeId,
    /// Its control socket.
    pub(crate) uri: NodeUri,
    /// See [`Node::environment_id`].
    pub(crate) environment_id: Option<String>,
    /// Who started it.
    pub(crate) origin: Origin,
}

/// A record of what `body` says: the webhook's form, with the name and the time in it.
pub(super) fn cluster_record(event: &'static str, at_ms: u64, mut body: Value) -> EventRecord {
    if let Some(fields) = body.as_object_mut() {
        fields.remove("event");
        fields.remove("timestamp");
    }
    EventRecord::new(event, at_ms, body)
}

/// What every event about a node says of it.
pub(super) fn node_fields(node: &Node, cluster_id: &str) -> Value {
    json!({
        "id": node.id,
        "environmentId": node.environment_id,
        "ip": node.ip,
        "uri": node.uri,
        "nodeRole": "medianode",
        "clusterId": cluster_id,
    })
}

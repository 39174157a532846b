//! What the engine needs to go on after a crash: rows out after each input, rows in at the start.
//!
//! ```text
//! input ─▶ Engine::handle ─▶ Registry marks what it lends out ─▶ Engine::take_rows ─▶ store
//! start ◀─ Engine::restore ◀─ sessions, connections ◀──────────────────────────────── store
//! ```
//!
//! Restored participants are without a socket, and their clients come back with `connect`. Media nodes say what runs when
//! they connect, and the usual reconciliation brings both together: what was committed as live and runs is not touched.
//! What was being asked for when the server died is not waited for by anyone any more, so it is taken back here; the node is
//! told to end what came of it, and the client, whose requests died with its socket, begins anew.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::cluster::Machine;
use super::cluster_start::ATTEMPTS;
use super::removal::record_unsubscribed;
use super::{Engine, Output, Timer};
use crate::cluster::{Node, NodeUri, Origin, Status};
use crate::ids::{ConnectionId, NodeId, RpcId, SessionId};
use crate::session::{
    ActiveConnection, Changed, Connection, Phase, Reason, Session, SessionState, Subscriber, TransportOwner,
    TransportUse,
};

/// How long clients may take to come back after a restart, milliseconds. They try every 3 s; many come at one time.
const CLIENTS_RETURN_MS: u64 = 30_000;
/// How long media nodes may take, milliseconds.
const NODES_RETURN_MS: u64 = 10_000;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowKind {
    /// A session, without its connections.
    Session,
    /// A connection.
    Connection,
    /// A media node that the operator started.
    Node,
}

/// A row to write, or to remove when there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What it is.
    pub kind: RowKind,
    /// Its key.
    pub key: String,
    /// Its content.
    pub value: Option<Vec<u8>>,
}

/// All rows of an earlier life: keys and contents.
#[derive(Clone, Debug, Default)]
pub struct Saved {
    /// Sessions.
    pub sessions: Vec<(String, Vec<u8>)>,
    /// Connections.
    pub connections: Vec<(String, Vec<u8>)>,
    /// Media nodes.
    pub nodes: Vec<(String, Vec<u8>)>,
}

/// A row cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("stored row {key}: {error}")]
pub struct RestoreError {
    /// Its key.
    pub key: String,
    /// Why.
    pub error: serde_json::Error,
}

#[derive(Serialize)]
struct ConnectionRow<'a> {
    order: u64,
    connection: &'a Connection,
}

#[derive(Deserialize)]
struct StoredConnection {
    order: u64,
    connection: Connection,
}

/// A node that goes on without the server, and has to be connected to again. Launched ones are found or gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeRow {
    id: NodeId,
    uri: String,
    environment_id: Option<String>,
    draining: bool,
}

fn text<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with text keys")
}

fn parse<'a, T: Deserialize<'a>>(key: &str, value: &'a [u8]) -> Result<T, RestoreError> {
    serde_json::from_slice(value).map_err(|error| RestoreError { key: key.to_owned(), error })
}

impl Engine {
    /// Rows that changed since the last call.
    pub fn take_rows(&mut self) -> Vec<Row> {
        let changed = self.registry.take_changed();
        let nodes = self.nodes.take_unsaved();
        let rows = changed.into_iter().map(|changed| self.row(changed));
        rows.chain(nodes.into_iter().map(|id| self.node_row(id))).collect()
    }

    fn row(&self, changed: Changed) -> Row {
        match changed {
            Changed::Session(id) => {
                let value = self.registry.get(id.as_str()).map(text);
                Row { kind: RowKind::Session, key: id.into(), value }
            }
            Changed::Connection(session, id) => {
                let key = format!("{session}/{id}");
                let found = self.registry.get(session.as_str()).map(|session| &session.connections);
                let row = found.and_then(|found| {
                    Some(ConnectionRow {
                        order: found.order(id.as_str())?,
                        connection: found.get(id.as_str())?,
                    })
                });
                Row { kind: RowKind::Connection, key, value: row.as_ref().map(text) }
            }
        }
    }

    fn node_row(&self, id: NodeId) -> Row {
        let node = self.nodes.get(id.as_str()).filter(|node| node.origin == Origin::Joined);
        let lives =
            |node: &&Node| node.status().is_active() || node.status() == Status::WaitingIdleToTerminate;
        let row = node.filter(lives).and_then(|node| {
            let draining = node.status() == Status::WaitingIdleToTerminate;
            let (uri, environment_id) = (node.uri.clone()?, node.environment_id.clone());
            Some(NodeRow { id: id.clone(), uri, environment_id, draining })
        });
        Row { kind: RowKind::Node, key: id.into(), value: row.as_ref().map(text) }
    }

    /// Connects to the nodes of an earlier life, unless they are named by the configuration.
    pub(super) fn join_earlier(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        for row in std::mem::take(&mut self.work.earlier) {
            let Ok(uri) = row.uri.parse::<NodeUri>() else { continue };
            if row.draining {
                self.work.draining.insert(row.id.clone());
            }
            if self.nodes.at(&uri).is_none() {
                let (id, environment_id) = (row.id, row.environment_id);
                let machine = Machine { id, uri, environment_id, origin: Origin::Joined };
                self.join_node(now_ms, machine, ATTEMPTS, out);
            }
        }
    }

    /// Takes over the sessions of an earlier life. Before any input.
    ///
    /// # Errors
    /// A row that this version cannot read.
    pub fn restore(&mut self, now_ms: u64, saved: &Saved, out: &mut Vec<Output>) -> Result<(), RestoreError> {
        for (key, value) in &saved.sessions {
            self.registry.insert(parse::<Session>(key, value)?);
        }
        for (key, value) in &saved.connections {
            let StoredConnection { order, connection } = parse(key, value)?;
            self.registry.add_connection_at(Some(order), connection);
        }
        for (key, value) in &saved.nodes {
            self.work.earlier.push(parse(key, value)?);
        }
        // What was read is what is stored.
        self.registry.take_changed();
        let ids: Vec<SessionId> = self.registry.iter().map(|session| session.id.clone()).collect();
        let mut nodes = BTreeSet::new();
        for id in &ids {
            self.resume(now_ms, id, &mut nodes, out);
        }
        for node in nodes {
            self.timers.set(now_ms + NODES_RETURN_MS, Timer::NodeLost(node));
        }
        if !ids.is_empty() {
            tracing::info!(sessions = ids.len(), "sessions of an earlier start go on");
        }
        Ok(())
    }

    fn resume(&mut self, now_ms: u64, id: &SessionId, nodes: &mut BTreeSet<NodeId>, out: &mut Vec<Output>) {
        let not_active = self.registry.get(id.as_str()).is_none_or(|session| session.place().is_none());
        if not_active {
            return;
        }
        if let Some(session) = self.registry.get_mut(id.as_str()) {
            take_back_unfinished(session, now_ms, out);
        }
        let Some(session) = self.registry.get(id.as_str()) else { return };
        if let Some(place) = session.place() {
            nodes.insert(place.node.clone());
            let number = place.room.rsplit('_').next().and_then(|number| number.parse().ok());
            self.next_room = self.next_room.max(number.unwrap_or(0));
        }
        let until_ms = now_ms + CLIENTS_RETURN_MS.max(self.config.limits.reconnect_ms);
        for (connection, active) in session.connections.active() {
            let rpc: RpcId = active.rpc.clone();
            self.timers.set(until_ms, Timer::Lost(rpc.clone()));
            self.peers.restore(rpc, id.clone(), connection.id.clone(), until_ms);
        }
    }
}

/// Nobody waits any more for what a media node had not confirmed.
fn take_back_unfinished(session: &mut Session, now_ms: u64, out: &mut Vec<Output>) {
    if matches!(session.state, SessionState::Opening(_)) || session.connections.active_count() == 0 {
        session.state = SessionState::NotActive;
    }
    let active: Vec<ConnectionId> =
        session.connections.active().map(|(connection, _)| connection.id.clone()).collect();
    for id in &active {
        take_back_publisher(session, id);
    }
    for id in &active {
        for (publisher, subscriber) in take_unfinished_subscribers(session, id) {
            let reason = Reason::MediaServerReconnect;
            record_unsubscribed(session, now_ms, id, &publisher, &subscriber, reason, out);
        }
        if let Some(active) = active_mut(session, id) {
            let transports = transports_of(id, active);
            session.transports.extend(transports);
        }
    }
}

/// A publisher that was about to move has given up its old peer connection: the newest one counts. If the node turns out
/// to be without it, the stream ends then.
fn take_back_publisher(session: &mut Session, id: &ConnectionId) {
    let Some(active) = active_mut(session, id) else { return };
    active.publisher.take_if(|publisher| publisher.phase != Phase::Live);
    if let Some(publisher) = &mut active.publisher
        && let Some(newest) = publisher.replacing.pop()
    {
        publisher.transport = newest;
        publisher.replacing.clear();
    }
}

/// An offer of ours can still be answered; everything else that does not flow yet begins anew.
fn take_unfinished_subscribers(session: &mut Session, id: &ConnectionId) -> Vec<(ConnectionId, Subscriber)> {
    let Some(active) = active_mut(session, id) else { return Vec::new() };
    let unfinished =
        active.subscribers.extract_if(.., |_, found| !matches!(found.phase, Phase::Live | Phase::Offered));
    unfinished.collect()
}

fn active_mut<'a>(session: &'a mut Session, id: &ConnectionId) -> Option<&'a mut ActiveConnection> {
    session.connections.get_mut(id.as_str())?.active.as_mut()
}

fn transports_of(id: &ConnectionId, active: &ActiveConnection) -> Vec<(String, TransportOwner)> {
    let owner = |purpose| TransportOwner { connection: id.clone(), purpose };
    let publisher = active.publisher.iter();
    let published = publisher.map(|publisher| (publisher.transport.clone(), owner(TransportUse::Publish)));
    let subscribed = active.subscribers.iter().map(|(publisher, subscriber)| {
        (subscriber.transport.clone(), owner(TransportUse::Subscribe(publisher.clone())))
    });
    published.chain(subscribed).collect()
}

//! Media nodes as the engine knows them, the placement seam, and what losing a node means for its sessions.
//!
//! ```text
//! NodeUp ──▶ connected ──NodeDown──▶ lost ──back in time, same process──▶ connected, reconciled
//!                                     ├────back in time, new process───▶ connected, every stream there reset
//!                                     └────too late────────────────────▶ its sessions end with `nodeCrashed`
//! ```
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use sfu_core::control::proto::{CoreInfo, NodeInfo, NodeLoad, Notification, Op, RoomInfo, TransportState};

use super::{Engine, NodeError, Output, Timer};
use crate::ids::{ConnectionId, NodeId, SessionId};
use crate::session::{Phase, Place, Reason, Session};
use crate::signaling::Then;

/// A media node that said hello at least once.
#[derive(Clone, Debug)]
pub struct MediaNode {
    /// What it told about itself.
    pub info: NodeInfo,
    /// Whether the control connection is up.
    pub connected: bool,
    /// Whether new sessions may go there; set by the owner of the node's life cycle.
    pub running: bool,
    /// Last load report.
    pub load: NodeLoad,
    /// When it came, UTC milliseconds.
    pub load_at_ms: Option<u64>,
    /// When the control connection was lost, UTC milliseconds.
    pub lost_at_ms: Option<u64>,
    /// Rooms that the engine has there, by core.
    pub rooms: BTreeMap<u16, u32>,
}

impl MediaNode {
    /// Whether a new session may be placed there.
    pub fn takes_sessions(&self) -> bool {
        self.connected && self.running && !self.info.draining
    }

    /// Rooms that the engine has on a core.
    pub fn rooms_on(&self, core: u16) -> u32 {
        self.rooms.get(&core).copied().unwrap_or(0)
    }
}

/// All media nodes.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<NodeId, MediaNode>,
    /// Nodes that placement has to look at again.
    changed: BTreeSet<NodeId>,
}

impl Nodes {
    /// Looks a node up.
    pub fn get(&self, id: &str) -> Option<&MediaNode> {
        self.nodes.get(id)
    }

    /// Looks a node up for a change.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut MediaNode> {
        let (known, _) = self.nodes.get_key_value(id)?;
        self.changed.insert(known.clone());
        self.nodes.get_mut(id)
    }

    /// All of them by id.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &MediaNode)> {
        self.nodes.iter()
    }

    /// Forgets a node that was removed for good.
    pub fn remove(&mut self, id: &str) -> Option<MediaNode> {
        let (id, node) = self.nodes.remove_entry(id)?;
        self.changed.insert(id);
        Some(node)
    }

    fn insert(&mut self, id: NodeId, node: MediaNode) {
        self.changed.insert(id.clone());
        self.nodes.insert(id, node);
    }

    /// Nodes that changed, came or went since the last call.
    pub(super) fn take_changed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.changed)
    }

    /// Everything has to be looked at again.
    pub(super) fn all_changed(&mut self) {
        self.changed.extend(self.nodes.keys().cloned());
    }

    fn core(&self, place: &Place) -> Option<&CoreInfo> {
        let node = self.nodes.get(place.node.as_str()).filter(|node| node.connected)?;
        node.info.cores.iter().find(|core| core.core == place.core)
    }

    pub(crate) fn room_opened(&mut self, place: &Place) {
        if let Some(node) = self.get_mut(place.node.as_str()) {
            *node.rooms.entry(place.core).or_default() += 1;
        }
    }

    pub(crate) fn room_closed(&mut self, place: &Place) {
        let rooms = self.get_mut(place.node.as_str()).and_then(|node| node.rooms.get_mut(&place.core));
        if let Some(rooms) = rooms {
            *rooms = rooms.saturating_sub(1);
        }
    }
}

/// No node can take a session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoNode(
    /// Why, for people.
    pub String,
);

/// Chooses where a session shall live, at its first join.
pub trait Placer {
    /// Something about a node changed, or it is gone (`None`). Told before the next [`Placer::place`].
    fn node_changed(&mut self, id: &NodeId, node: Option<&MediaNode>);

    /// Node and core for a session. Must respect `session.properties.media_node`.
    /// # Errors
    /// [`NoNode`]: no connected, running node (or the one it is pinned to is none).
    fn place(&mut self, now_ms: u64, session: &Session, nodes: &Nodes) -> Result<(NodeId, u16), NoNode>;
}

impl Engine {
    /// Where the core of a place listens and which certificate it shows. `None` while its node is not connected.
    pub(crate) fn core_of(&self, place: &Place) -> Option<(&NodeInfo, &CoreInfo)> {
        Some((&self.nodes.get(place.node.as_str())?.info, self.nodes.core(place)?))
    }

    pub(super) fn on_node_up(&mut self, now_ms: u64, id: NodeId, info: NodeInfo, out: &mut Vec<Output>) {
        let known = self.nodes.nodes.get(&id);
        let restarted = known.is_some_and(|node| node.info.process != info.process);
        let rooms = known.map(|node| node.rooms.clone()).unwrap_or_default();
        let running = known.is_none_or(|node| node.running);
        tracing::info!(node = %id, process = %info.process, restarted, "media node connected");
        // Whatever was asked before is answered by what runs there now.
        self.fail_replies_of(now_ms, &id, out);
        let there = info.rooms.clone();
        let node = MediaNode {
            info,
            connected: true,
            running,
            load: NodeLoad::default(),
            load_at_ms: None,
            lost_at_ms: None,
            rooms,
        };
        self.nodes.insert(id.clone(), node);
        self.reconcile(now_ms, &id, restarted, &there, out);
    }

    pub(super) fn on_node_down(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get_mut(id.as_str()).filter(|node| node.connected) else { return };
        tracing::warn!(node = %id, "media node lost");
        node.connected = false;
        node.lost_at_ms = Some(now_ms);
        self.timers.set(now_ms + self.config.node_reconnection_ms, Timer::NodeLost(id.clone()));
        self.fail_replies_of(now_ms, id, out);
    }

    pub(super) fn on_node_lost_timer(&mut self, now_ms: u64, id: &NodeId, out: &mut Vec<Output>) {
        let Some(lost_at) = self.nodes.get(id.as_str()).and_then(|node| node.lost_at_ms) else { return };
        if now_ms >= lost_at + self.config.node_reconnection_ms {
            self.end_sessions_of(now_ms, id, Reason::NodeCrashed, out);
        }
    }

    /// Closes every session that lives on a node. Sessions that are only pinned there stay.
    pub fn end_sessions_of(&mut self, now_ms: u64, node: &NodeId, reason: Reason, out: &mut Vec<Output>) {
        for session in self.sessions_on(node) {
            self.end_session(now_ms, &session, reason, out);
        }
    }

    fn sessions_on(&self, node: &NodeId) -> Vec<SessionId> {
        let there = |session: &&Session| session.place().is_some_and(|place| place.node == *node);
        self.registry.iter().filter(there).map(|session| session.id.clone()).collect()
    }

    /// Brings the node's rooms and ours together. The media process knows what really runs: what it has and we do not
    /// is closed, what we have and it does not is reset.
    fn reconcile(
        &mut self,
        now_ms: u64,
        node: &NodeId,
        restarted: bool,
        there: &[RoomInfo],
        out: &mut Vec<Output>,
    ) {
        let mut ours = HashSet::new();
        for session in self.sessions_on(node) {
            let Some(place) = self.registry.get(session.as_str()).and_then(Session::place).cloned() else {
                continue;
            };
            let room = there.iter().find(|room| room.room == place.room && room.core == place.core);
            match room.filter(|_| !restarted) {
                Some(room) => self.reconcile_room(now_ms, &session, &place, room, out),
                None => self.reset_room(now_ms, &session, place.clone(), out),
            }
            ours.insert(place.room);
        }
        for room in there.iter().filter(|room| !ours.contains(&room.room)) {
            let place = Place { node: node.clone(), core: room.core, room: room.room.clone() };
            self.apply(&place, vec![Op::CloseRoom], out);
        }
    }

    /// The room is gone: it is opened again, empty, and every stream in it ends with `mediaServerReconnect`.
    fn reset_room(&mut self, now_ms: u64, session: &SessionId, mut place: Place, out: &mut Vec<Output>) {
        self.nodes.room_closed(&place);
        let Some(node) = self.nodes.get(place.node.as_str()) else { return };
        if !node.info.cores.iter().any(|core| core.core == place.core) {
            place.core = node.info.cores.first().map_or(0, |core| core.core);
        }
        if let Some(session) = self.registry.get_mut(session.as_str()) {
            session.move_to(place.clone());
        }
        self.nodes.room_opened(&place);
        let ops = vec![Op::OpenRoom { core: place.core }];
        let then = Then::ReopenRoom { session: session.clone(), room: place.room.clone() };
        if self.apply_then(now_ms, &place, ops, then, out).is_err() {
            return self.end_session(now_ms, session, Reason::NodeCrashed, out);
        }
        for publisher in self.publishing_in(session) {
            self.reset_publisher(now_ms, session, &publisher, out);
        }
    }

    /// The node opened a room again, or did not: then its session cannot go on. When the node is lost once more, what
    /// happens is decided when it is back, or when it has been away for too long.
    pub(crate) fn on_room_reopened(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        room: &str,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let place = self.registry.get(session.as_str()).and_then(Session::place);
        let waits = place.is_some_and(|place| place.room == room && self.core_of(place).is_some());
        if waits && result.is_err() {
            self.end_session(now_ms, session, Reason::NodeCrashed, out);
        }
    }

    fn reconcile_room(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        place: &Place,
        room: &RoomInfo,
        out: &mut Vec<Output>,
    ) {
        for publisher in self.publishing_in(session) {
            let Some((stream, transport)) = self.live_stream(session, &publisher) else { continue };
            let runs = room.publications.contains(&stream)
                && room.transports.iter().any(|there| there.transport == transport);
            if !runs {
                self.reset_publisher(now_ms, session, &publisher, out);
            }
        }
        let Some(found) = self.registry.get(session.as_str()) else { return };
        let unknown = room.transports.iter().filter(|there| !found.transports.contains_key(&there.transport));
        let ops: Vec<_> =
            unknown.map(|there| Op::CloseTransport { transport: there.transport.clone() }).collect();
        for op in ops {
            self.apply(place, vec![op], out);
        }
    }

    fn publishing_in(&self, session: &SessionId) -> Vec<ConnectionId> {
        let Some(session) = self.registry.get(session.as_str()) else { return Vec::new() };
        let publishing = session.connections.iter().filter(|connection| connection.stream().is_some());
        publishing.map(|connection| connection.id.clone()).collect()
    }

    fn live_stream(&self, session: &SessionId, connection: &ConnectionId) -> Option<(String, String)> {
        let connection = self.registry.get(session.as_str())?.connections.get(connection.as_str())?;
        let publisher = connection.active.as_ref()?.publisher.as_ref()?;
        let live = publisher.phase == Phase::Live;
        live.then(|| (publisher.stream.as_str().to_owned(), publisher.transport.clone()))
    }

    fn reset_publisher(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        publisher: &ConnectionId,
        out: &mut Vec<Output>,
    ) {
        let reason = Reason::MediaServerReconnect;
        let removed = self.unpublish(now_ms, session, publisher, reason, out);
        if removed.is_some_and(|removed| removed.phase == Phase::Live) {
            self.notify_unpublished(session, publisher, reason, None, out);
        }
    }

    pub(super) fn on_node_notification(&mut self, now_ms: u64, id: &NodeId, notification: Notification) {
        match notification {
            Notification::Load(load) => {
                if let Some(node) = self.nodes.get_mut(id.as_str()) {
                    node.load = load;
                    node.load_at_ms = Some(now_ms);
                }
            }
            Notification::TransportState { room, transport, state, reason } => {
                log_transport(id, &room, &transport, state, &reason);
            }
        }
    }
}

/// A failed or closed peer connection changes nothing here: the client notices by itself and comes with
/// `reconnectStream`, or its socket dies as well and it is evicted.
fn log_transport(node: &NodeId, room: &str, transport: &str, state: TransportState, reason: &str) {
    match state {
        TransportState::Failed | TransportState::Disconnected => {
            tracing::info!(%node, room, transport, ?state, reason, "peer connection");
        }
        _ => tracing::debug!(%node, room, transport, ?state, reason, "peer connection"),
    }
}

//! A node that comes back: its rooms and ours are brought together.
//!
//! ```text
//! same process: what it has and we do not is closed, a stream it lost is reset, the rest goes on untouched
//! new process:  every room is opened again, every stream in it ends with `mediaServerReconnect`
//! ```
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

use sfu_core::control::proto::{CoreInfo, NodeInfo, Op, RoomInfo};

use super::{Engine, NodeError, Output};
use crate::ids::{ConnectionId, NodeId, SessionId};
use crate::session::{Phase, Place, Reason, Session};
use crate::signaling::Then;

impl Engine {
    /// Where the core of a place listens and which certificate it shows. `None` while its node is not connected.
    pub(crate) fn core_of(&self, place: &Place) -> Option<(&NodeInfo, &CoreInfo)> {
        Some((&self.nodes.media(place.node.as_str())?.info, self.nodes.core(place)?))
    }

    /// Brings the node's rooms and ours together. The media process knows what really runs: what it has and we do not
    /// is closed, what we have and it does not is reset.
    pub(super) fn reconcile(
        &mut self,
        now_ms: u64,
        node: &NodeId,
        restarted: bool,
        there: &[RoomInfo],
        out: &mut Vec<Output>,
    ) {
        let by_id: HashMap<&str, &RoomInfo> = there.iter().map(|room| (room.room.as_str(), room)).collect();
        let mut ours = HashSet::new();
        for session in self.sessions_on(node) {
            let Some(place) = self.registry.get(session.as_str()).and_then(Session::place).cloned() else {
                continue;
            };
            let room = by_id.get(place.room.as_str()).copied().filter(|room| room.core == place.core);
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

    /// Sessions whose node has another name now: rooms are never called alike, so who has the room is their node. Names of
    /// launched nodes change when the controller is started again.
    pub(super) fn adopt(&mut self, node: &NodeId, there: &[RoomInfo]) {
        let homeless = |session: &&Session| {
            session.place().is_some_and(|place| self.nodes.get(place.node.as_str()).is_none())
        };
        let homeless: Vec<_> =
            self.registry.iter().filter(homeless).map(|session| session.id.clone()).collect();
        for id in homeless {
            let Some(session) = self.registry.get_mut(id.as_str()) else { continue };
            let room = there.iter().find(|room| session.place().is_some_and(|place| place.room == room.room));
            if let Some(room) = room {
                let place = Place { node: node.clone(), core: room.core, room: room.room.clone() };
                session.move_to(place.clone());
                self.nodes.room_opened(&place);
            }
        }
    }

    /// The room is gone: it is opened again, empty, and every stream in it ends with `mediaServerReconnect`.
    fn reset_room(&mut self, now_ms: u64, session: &SessionId, mut place: Place, out: &mut Vec<Output>) {
        self.nodes.room_closed(&place);
        let Some(media) = self.nodes.media(place.node.as_str()) else { return };
        if !media.info.cores.iter().any(|core| core.core == place.core) {
            place.core = media.info.cores.first().map_or(0, |core| core.core);
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
}

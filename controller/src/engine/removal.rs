//! Everything that ends: subscriptions, publications, participants, sessions. Each step changes the model, tells the node
//! and records the event; who is notified, and in which order with the response, is the caller's business.
#![forbid(unsafe_code)]

use std::sync::Arc;

use serde_json::{Value, json};
use sfu_core::control::proto::Op;

use super::{Engine, EventRecord, Output};
use crate::ids::{ConnectionId, RpcId, SessionId};
use crate::session::{
    ActiveConnection, Connection, MediaOptions, Phase, Publisher, Reason, Session, SessionState, Subscriber,
};
use crate::signaling::notification;

/// Most participants that hear of each other's end when their session ends. In a larger one the last would be sent two
/// messages for each one before it ahead of its own eviction: more than a client's queue holds (1024), so that it would be cut
/// without knowing why. `openvidu-browser` needs its own eviction only.
const MUTUAL_MAX: usize = 64;

impl Engine {
    /// Ends a subscription. `None`: there is none.
    pub(crate) fn unsubscribe(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        subscriber: &ConnectionId,
        publisher: &ConnectionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) -> Option<Subscriber> {
        let found = self.registry.get_mut(session.as_str())?;
        let (removed, op) = take_subscriber(found, subscriber, publisher)?;
        record_unsubscribed(found, now_ms, subscriber, publisher, &removed, reason, out);
        self.apply_to(session, vec![op], out);
        Some(removed)
    }

    /// Ends a publication and all subscriptions to it. `None`: nothing is published.
    pub(crate) fn unpublish(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        publisher: &ConnectionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) -> Option<Publisher> {
        let found = self.registry.get_mut(session.as_str())?;
        let mut ops = Vec::new();
        let removed = end_publication(found, now_ms, publisher, reason, &mut ops, out)?;
        self.apply_to(session, ops, out);
        Some(removed)
    }

    /// Takes a participant out of its session with everything it has, and tells those who stay. Its socket is untouched.
    /// Returns its JSON-RPC session; `None`: it is not a participant.
    pub(crate) fn leave(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) -> Option<RpcId> {
        let left = self.take_out(now_ms, session, connection, reason, out)?;
        if !left.is_hidden() {
            let params = json!({ "connectionId": connection, "reason": reason.as_str() });
            self.notify_all(session, &notification("participantLeft", params), None, out);
        }
        left.active.map(|active| active.rpc)
    }

    /// As [`Engine::leave`], without a word to those who stay.
    fn take_out(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) -> Option<Connection> {
        let found = self.registry.get_mut(session.as_str())?;
        found.connections.get(connection.as_str())?.active.as_ref()?;
        let mut ops = Vec::new();
        end_publication(found, now_ms, connection, reason, &mut ops, out);
        for publisher in subscriptions_of(found, connection) {
            if let Some((removed, op)) = take_subscriber(found, connection, &publisher) {
                record_unsubscribed(found, now_ms, connection, &publisher, &removed, reason, out);
                ops.push(op);
            }
        }
        self.apply_to(session, ops, out);
        let left = self.registry.remove_connection(session.as_str(), connection.as_str())?;
        let found = self.registry.get(session.as_str())?;
        let record = participant_record(found, &left, "participantLeft", now_ms);
        if let Some(record) = record.filter(|_| !left.is_hidden()) {
            let since = left.active.as_ref().map_or(now_ms, |active| active.active_at);
            out.push(Output::Record(record.closing(since, reason.as_str())));
        }
        Some(left)
    }

    /// Throws a participant out: the others hear that it left, then everybody including itself that it was evicted.
    pub(crate) fn evict(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        if let Some(rpc) = self.leave(now_ms, session, connection, reason, out) {
            self.notify_evicted(now_ms, session, connection, &rpc, reason, out);
            self.close_if_empty(now_ms, session, reason, out);
        }
    }

    /// `participantEvicted` to everybody who stays and to the evicted one, whose socket has then to go.
    pub(crate) fn notify_evicted(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        rpc: &RpcId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        let text = evicted(connection, reason);
        self.peers.notify(rpc, &text, out);
        self.notify_all(session, &text, None, out);
        self.end_rpc(now_ms, rpc);
    }

    /// `participantUnpublished` to everybody but `except`.
    pub(crate) fn notify_unpublished(
        &mut self,
        session: &SessionId,
        publisher: &ConnectionId,
        reason: Reason,
        except: Option<&ConnectionId>,
        out: &mut Vec<Output>,
    ) {
        let params = json!({ "connectionId": publisher, "reason": reason.as_str() });
        self.notify_all(session, &notification("participantUnpublished", params), except, out);
    }

    /// A notification to every participant of a session but `except`.
    pub(crate) fn notify_all(
        &mut self,
        session: &SessionId,
        text: &Arc<str>,
        except: Option<&ConnectionId>,
        out: &mut Vec<Output>,
    ) {
        let Some(session) = self.registry.get(session.as_str()) else { return };
        for (connection, active) in session.connections.active() {
            if except != Some(&connection.id) {
                self.peers.notify(&active.rpc, text, out);
            }
        }
    }

    /// Ends a session that only hidden participants are left in.
    pub(crate) fn close_if_empty(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        let Some(found) = self.registry.get(session.as_str()) else { return };
        let somebody = found.connections.active().any(|(connection, _)| !connection.is_hidden());
        if found.is_active() && !somebody {
            self.end_session(now_ms, session, reason.of_emptied_session(), out);
        }
    }

    /// Evicts everybody, closes the room and forgets the session with its unused tokens.
    pub(crate) fn end_session(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        let Some(found) = self.registry.get_mut(session.as_str()) else { return };
        // Without a place nothing is sent to the node while they leave: closing the room ends it all.
        let place = found.place().cloned();
        found.state = SessionState::NotActive;
        let participants: Vec<_> =
            found.connections.active().map(|(connection, _)| connection.id.clone()).collect();
        let crowd = participants.len() > MUTUAL_MAX;
        for connection in participants {
            if crowd {
                self.evict_alone(now_ms, session, &connection, reason, out);
            } else if let Some(rpc) = self.leave(now_ms, session, &connection, reason, out) {
                self.notify_evicted(now_ms, session, &connection, &rpc, reason, out);
            }
        }
        let Some(ended) = self.registry.remove(session.as_str()) else { return };
        self.refuse_waiting_joins(now_ms, &ended, out);
        let destroyed = session_record(&ended, "sessionDestroyed", now_ms);
        out.push(Output::Record(destroyed.closing(ended.created_at, reason.as_str())));
        if let Some(place) = place {
            self.nodes.room_closed(&place);
            if self.core_of(&place).is_some() {
                self.apply(&place, vec![Op::CloseRoom], out);
            }
            self.idle_check(now_ms, &place.node, out);
        }
    }

    /// Takes a participant out and tells nobody but itself.
    fn evict_alone(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        connection: &ConnectionId,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        let left = self.take_out(now_ms, session, connection, reason, out);
        if let Some(active) = left.and_then(|left| left.active) {
            self.peers.notify(&active.rpc, &evicted(connection, reason), out);
            self.end_rpc(now_ms, &active.rpc);
        }
    }

    /// Ends things on the session's node, each by a message of its own: the node drops what follows a failing op, and what
    /// is to be ended may never have been opened. Without a connection to the node nothing is sent: when it comes back,
    /// what it has is compared with what is left here.
    pub(crate) fn apply_to(&mut self, session: &SessionId, ops: Vec<Op>, out: &mut Vec<Output>) {
        let place = self.registry.get(session.as_str()).and_then(|session| session.place());
        let Some(place) = place.filter(|place| self.core_of(place).is_some()).cloned() else { return };
        for op in ops {
            self.apply(&place, vec![op], out);
        }
    }
}

fn evicted(connection: &ConnectionId, reason: Reason) -> Arc<str> {
    notification("participantEvicted", json!({ "connectionId": connection, "reason": reason.as_str() }))
}

fn subscriptions_of(session: &Session, connection: &ConnectionId) -> Vec<ConnectionId> {
    let active = session.connections.get(connection.as_str()).and_then(|found| found.active.as_ref());
    active.map(|active| active.subscribers.keys().cloned().collect()).unwrap_or_default()
}

fn active_mut<'a>(session: &'a mut Session, connection: &ConnectionId) -> Option<&'a mut ActiveConnection> {
    session.connections.get_mut(connection.as_str())?.active.as_mut()
}

fn take_subscriber(
    session: &mut Session,
    subscriber: &ConnectionId,
    publisher: &ConnectionId,
) -> Option<(Subscriber, Op)> {
    let removed = active_mut(session, subscriber)?.subscribers.remove(publisher)?;
    session.transports.remove(&removed.transport);
    let op = Op::CloseTransport { transport: removed.transport.clone() };
    Some((removed, op))
}

fn end_publication(
    session: &mut Session,
    now_ms: u64,
    publisher: &ConnectionId,
    reason: Reason,
    ops: &mut Vec<Op>,
    out: &mut Vec<Output>,
) -> Option<Publisher> {
    // Taken out last: records of its subscribers carry its media options.
    active_mut(session, publisher)?.publisher.as_ref()?;
    let subscribers: Vec<_> = session
        .connections
        .active()
        .filter(|(_, active)| active.subscribers.contains_key(publisher))
        .map(|(connection, _)| connection.id.clone())
        .collect();
    for subscriber in subscribers {
        if let Some((removed, op)) = take_subscriber(session, &subscriber, publisher) {
            record_unsubscribed(session, now_ms, &subscriber, publisher, &removed, reason, out);
            ops.push(op);
        }
    }
    let removed = active_mut(session, publisher)?.publisher.take()?;
    for transport in removed.replacing.iter().chain([&removed.transport]) {
        session.transports.remove(transport);
        ops.push(Op::CloseTransport { transport: transport.clone() });
    }
    if removed.phase == Phase::Live {
        let record = webrtc_record(session, "webrtcConnectionDestroyed", now_ms, publisher, &removed.options);
        let record = record.with("streamId", removed.stream.as_str()).with("connection", "OUTBOUND");
        out.push(Output::Record(record.closing(removed.created_at, reason.as_str())));
    }
    Some(removed)
}

pub(super) fn record_unsubscribed(
    session: &Session,
    now_ms: u64,
    subscriber: &ConnectionId,
    publisher: &ConnectionId,
    removed: &Subscriber,
    reason: Reason,
    out: &mut Vec<Output>,
) {
    if !removed.recorded {
        return;
    }
    if let Some(record) =
        subscription_record(session, "webrtcConnectionDestroyed", now_ms, subscriber, publisher, removed)
    {
        out.push(Output::Record(record.closing(removed.created_at, reason.as_str())));
    }
}

/// An event with the fields that every session-level event has.
pub(crate) fn session_record(session: &Session, event: &'static str, now_ms: u64) -> EventRecord {
    EventRecord::new(
        event,
        now_ms,
        json!({ "sessionId": session.id, "uniqueSessionId": session.unique_id() }),
    )
}

/// `participantJoined` or `participantLeft`. `None`: the connection is pending.
pub(crate) fn participant_record(
    session: &Session,
    connection: &Connection,
    event: &'static str,
    now_ms: u64,
) -> Option<EventRecord> {
    let active = connection.active.as_ref()?;
    let record = session_record(session, event, now_ms)
        .with("connectionId", connection.id.as_str())
        .with("participantId", connection.id.as_str())
        .with("location", "unknown")
        .with("ip", active.ip.clone())
        .with("platform", active.platform.as_str())
        .with("clientData", active.client_data.as_str())
        .with("serverData", connection.properties.data.as_str());
    Some(record)
}

/// `webrtcConnectionCreated` or `...Destroyed` of a publisher, without its stream.
fn webrtc_record(
    session: &Session,
    event: &'static str,
    now_ms: u64,
    connection: &ConnectionId,
    options: &MediaOptions,
) -> EventRecord {
    let mut record = session_record(session, event, now_ms)
        .with("connectionId", connection.as_str())
        .with("participantId", connection.as_str());
    record.fields.extend(options.to_event_fields());
    record
}

/// `webrtcConnectionCreated` of a publisher.
pub(crate) fn publication_record(
    session: &Session,
    event: &'static str,
    now_ms: u64,
    publisher: &ConnectionId,
    stream: &Publisher,
) -> EventRecord {
    webrtc_record(session, event, now_ms, publisher, &stream.options)
        .with("streamId", stream.stream.as_str())
        .with("connection", "OUTBOUND")
}

/// `webrtcConnectionCreated` or `...Destroyed` of a subscriber. `None`: the publisher is not there, or the subscriber is
/// hidden.
pub(crate) fn subscription_record(
    session: &Session,
    event: &'static str,
    now_ms: u64,
    subscriber: &ConnectionId,
    publisher: &ConnectionId,
    subscription: &Subscriber,
) -> Option<EventRecord> {
    if session.connections.get(subscriber.as_str()).is_some_and(Connection::is_hidden) {
        return None;
    }
    let source = session.connections.get(publisher.as_str())?.active.as_ref()?.publisher.as_ref()?;
    let record = webrtc_record(session, event, now_ms, subscriber, &source.options)
        .with("streamId", subscription.stream.as_str())
        .with("connection", "INBOUND")
        .with("receivingFrom", Value::from(publisher.as_str()));
    Some(record)
}

impl Session {
    /// Puts the session somewhere else, in the same state of its life.
    pub(crate) fn move_to(&mut self, to: super::Place) {
        match &mut self.state {
            SessionState::NotActive => {}
            SessionState::Opening(place) | SessionState::Active(place) => *place = to,
        }
    }
}

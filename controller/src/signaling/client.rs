//! Sockets and JSON-RPC sessions: who is connected, when a socket has to ping or to go, and what waits for a participant
//! whose socket is away.
//!
//! ```text
//! socket ──joinRoom──▶ JSON-RPC session ──socket lost──▶ waits (notifications queued) ──connect──▶ new socket
//!                              │                            └──reconnect_ms over, or queue full──▶ evicted
//!                              └──left or evicted──▶ ended: the socket goes after linger_ms
//! ```
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::envelope;
use super::error::RpcError;
use crate::engine::{Engine, Limits, Output, Timer};
use crate::ids::{ClientId, ConnectionId, RpcId, SessionId};
use crate::session::Reason;

/// Close code for all closes by the server.
const CLOSE_NORMAL: u16 = 1000;
const NO_PING: &str = "Close for not receive ping from client";
/// Ping intervals outside of this are taken for its ends, milliseconds.
const PING_INTERVAL_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;

/// One request, as far as its answer needs it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Socket it came by.
    pub(crate) client: ClientId,
    /// JSON-RPC session it belongs to.
    pub(crate) rpc: RpcId,
    /// Its id; `None` wants no answer.
    pub(crate) id: Option<Value>,
}

impl Call {
    /// A call that nobody waits for, in the name of a participant.
    pub(crate) fn nobody(rpc: RpcId) -> Self {
        Self { client: ClientId(u64::MAX), rpc, id: None }
    }
}

/// A socket.
#[derive(Debug)]
struct Client {
    ip: Option<IpAddr>,
    rpc: RpcId,
    /// Session that its participant was in last, for requests that are on their way while it ends.
    left: Option<SessionId>,
    /// Interval and time of the last ping, milliseconds.
    ping: Option<(u64, u64)>,
    /// When it is closed whatever it does.
    close_at: Option<u64>,
    /// Deadline of the timer that is set.
    armed: Option<u64>,
}

/// What belongs to a participant and outlives its socket.
#[derive(Debug)]
struct RpcSession {
    session: SessionId,
    connection: ConnectionId,
    client: Option<ClientId>,
    queue: VecDeque<Arc<str>>,
    queue_bytes: usize,
    lost_at: Option<u64>,
    /// The participant is out; only the queue is left to be fetched.
    ended: bool,
}

/// All sockets and JSON-RPC sessions.
#[derive(Debug)]
pub(crate) struct Peers {
    limits: Limits,
    clients: HashMap<ClientId, Client>,
    rpcs: HashMap<RpcId, RpcSession>,
    /// Sessions whose queue ran over.
    overflowed: Vec<RpcId>,
}

impl Peers {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, clients: HashMap::new(), rpcs: HashMap::new(), overflowed: Vec::new() }
    }

    /// Sends a notification, or keeps it until the participant is back.
    pub(crate) fn notify(&mut self, rpc: &RpcId, text: &Arc<str>, out: &mut Vec<Output>) {
        let Some(session) = self.rpcs.get_mut(rpc) else { return };
        if let Some(client) = session.client {
            return out.push(Output::SocketText { client, text: text.clone() });
        }
        session.queue_bytes += text.len();
        session.queue.push_back(text.clone());
        let full =
            session.queue.len() > self.limits.queue_messages || session.queue_bytes > self.limits.queue_bytes;
        if full {
            session.queue.clear();
            session.queue_bytes = 0;
            self.overflowed.push(rpc.clone());
        }
    }

    /// Answers a request: where its session is now, or where it came from. Lost with its socket, because clients forget
    /// their open requests when they reconnect.
    pub(crate) fn respond(&self, call: &Call, result: Result<Value, RpcError>, out: &mut Vec<Output>) {
        let Some(id) = &call.id else { return };
        let client = match self.rpcs.get(&call.rpc) {
            Some(session) => session.client,
            None => Some(call.client),
        };
        let Some(client) = client.filter(|client| self.clients.contains_key(client)) else { return };
        let text = match result {
            Ok(mut result) => {
                if let Value::Object(object) = &mut result {
                    object.insert("sessionId".into(), call.rpc.as_str().into());
                }
                envelope::response(id, result)
            }
            Err(error) => envelope::failure(id, &error),
        };
        out.push(Output::SocketText { client, text: text.into() });
    }

    /// Whose participant a request comes from.
    pub(crate) fn participant(&self, rpc: &RpcId) -> Option<(SessionId, ConnectionId)> {
        let session = self.rpcs.get(rpc).filter(|session| !session.ended)?;
        Some((session.session.clone(), session.connection.clone()))
    }

    /// Session that the participant of a socket was in last.
    pub(crate) fn left(&self, client: ClientId) -> Option<&SessionId> {
        self.clients.get(&client)?.left.as_ref()
    }

    /// Ties a socket to its new participant.
    pub(crate) fn join(&mut self, call: &Call, session: SessionId, connection: ConnectionId) -> RpcId {
        if let Some(client) = self.clients.get_mut(&call.client) {
            client.close_at = None;
        }
        let client = self.clients.contains_key(&call.client).then_some(call.client);
        let rpc = RpcSession {
            session,
            connection,
            client,
            queue: VecDeque::new(),
            queue_bytes: 0,
            lost_at: None,
            ended: false,
        };
        self.rpcs.insert(call.rpc.clone(), rpc);
        call.rpc.clone()
    }

    /// A participant of an earlier life of the server, whose client has until `until_ms` to come back.
    pub(crate) fn restore(
        &mut self,
        rpc: RpcId,
        session: SessionId,
        connection: ConnectionId,
        until_ms: u64,
    ) {
        let rpc_session = RpcSession {
            session,
            connection,
            client: None,
            queue: VecDeque::new(),
            queue_bytes: 0,
            lost_at: Some(until_ms.saturating_sub(self.limits.reconnect_ms)),
            ended: false,
        };
        self.rpcs.insert(rpc, rpc_session);
    }

    /// Address of a socket.
    pub(crate) fn ip(&self, client: ClientId) -> Option<IpAddr> {
        self.clients.get(&client)?.ip
    }

    /// Whether a socket is still there.
    pub(crate) fn is_open(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    /// How many sockets are open.
    pub(crate) fn sockets(&self) -> usize {
        self.clients.len()
    }

    /// Participants that are not out, for checks.
    #[cfg(test)]
    pub(crate) fn participants(&self) -> impl Iterator<Item = (&RpcId, &SessionId, &ConnectionId)> {
        let joined = self.rpcs.iter().filter(|(_, session)| !session.ended);
        joined.map(|(rpc, session)| (rpc, &session.session, &session.connection))
    }

    /// When the earliest of its deadlines comes.
    fn deadline(&self, client: &Client) -> Option<u64> {
        let ping = client.ping.map(|(interval, last)| last + interval * self.limits.ping_misses);
        [ping, client.close_at].into_iter().flatten().min()
    }
}

impl Engine {
    pub(crate) fn on_socket_opened(&mut self, now_ms: u64, client: ClientId, ip: Option<IpAddr>) {
        let rpc = self.ids.rpc();
        let close_at = Some(now_ms + self.config.limits.unjoined_ms);
        self.peers.clients.insert(client, Client { ip, rpc, left: None, ping: None, close_at, armed: None });
        self.arm(client);
    }

    pub(crate) fn on_socket_closed(&mut self, now_ms: u64, client: ClientId) {
        let Some(gone) = self.peers.clients.remove(&client) else { return };
        self.forget_waiting_join(client);
        let Some(session) = self.peers.rpcs.get_mut(&gone.rpc) else { return };
        if session.client == Some(client) {
            session.client = None;
            session.lost_at = Some(now_ms);
            self.timers.set(now_ms + self.config.limits.reconnect_ms, Timer::Lost(gone.rpc));
        }
    }

    pub(crate) fn on_socket_text(
        &mut self,
        now_ms: u64,
        client: ClientId,
        text: &str,
        out: &mut Vec<Output>,
    ) {
        let Some(rpc) = self.peers.clients.get(&client).map(|client| client.rpc.clone()) else { return };
        match envelope::parse(text, self.config.limits.message_bytes) {
            Ok(message) => {
                let call = Call { client, rpc, id: message.id };
                self.dispatch(now_ms, call, &message.method, message.params, out);
            }
            Err(unusable) => {
                tracing::debug!(?client, error = %unusable.error, "unusable message");
                let text = envelope::failure(&unusable.id, &unusable.error).into();
                out.push(Output::SocketText { client, text });
            }
        }
    }

    /// `ping`: works without `joinRoom`.
    pub(crate) fn on_ping(
        &mut self,
        now_ms: u64,
        call: &Call,
        params: &Map<String, Value>,
        out: &mut Vec<Output>,
    ) {
        let assumed = self.config.limits.ping_interval_ms;
        if let Some(client) = self.peers.clients.get_mut(&call.client) {
            let named = params.get("interval").and_then(Value::as_u64);
            let known = client.ping.map(|(interval, _)| interval);
            let interval = named.or(known).unwrap_or(assumed);
            client.ping = Some((interval.clamp(*PING_INTERVAL_MS.start(), *PING_INTERVAL_MS.end()), now_ms));
            self.arm(call.client);
        }
        if let Some(id) = &call.id {
            let text = envelope::response(id, serde_json::json!({ "value": "pong" })).into();
            out.push(Output::SocketText { client: call.client, text });
        }
    }

    /// `connect`: a new socket takes over the participant of an older one, and gets what was missed.
    pub(crate) fn on_connect(
        &mut self,
        now_ms: u64,
        call: &Call,
        params: &Map<String, Value>,
        out: &mut Vec<Output>,
    ) {
        let refused = RpcError { code: super::code::RECONNECTION, message: "reconnection error".to_owned() };
        let wanted = params.get("sessionId").and_then(Value::as_str).unwrap_or_default();
        let Some((rpc, session)) = self.peers.rpcs.get_key_value(wanted) else {
            self.close_later(now_ms, call.client);
            return self.peers.respond(call, Err(refused), out);
        };
        // A socket that is somebody else, or is about to be, cannot become this one.
        let somebody = self.peers.rpcs.contains_key(&call.rpc) || self.waits_to_join(call.client);
        if *rpc != call.rpc && somebody {
            return self.peers.respond(call, Err(refused), out);
        }
        let (rpc, older) = (rpc.clone(), session.client.filter(|older| *older != call.client));
        if let Some(older) = older {
            self.peers.clients.remove(&older);
            self.forget_waiting_join(older);
            let reason = "Taken over by another connection".to_owned();
            out.push(Output::SocketClose { client: older, code: CLOSE_NORMAL, reason });
        }
        self.take_over(now_ms, call, rpc, out);
    }

    fn take_over(&mut self, now_ms: u64, call: &Call, rpc: RpcId, out: &mut Vec<Output>) {
        let Some(session) = self.peers.rpcs.get_mut(&rpc) else { return };
        session.client = Some(call.client);
        session.lost_at = None;
        session.queue_bytes = 0;
        let (missed, ended) = (std::mem::take(&mut session.queue), session.ended);
        if let Some(client) = self.peers.clients.get_mut(&call.client) {
            client.rpc = rpc.clone();
            client.close_at = None;
        }
        let answer = Call { rpc: rpc.clone(), ..call.clone() };
        let result = serde_json::json!({ "value": "reconnection successful" });
        self.peers.respond(&answer, Ok(result), out);
        let texts = missed.into_iter().map(|text| Output::SocketText { client: call.client, text });
        out.extend(texts);
        if ended {
            self.part(now_ms, &rpc, call.client);
        }
    }

    /// The participant of a JSON-RPC session is out: its socket has to go, or what is queued waits to be fetched.
    pub(crate) fn end_rpc(&mut self, now_ms: u64, rpc: &RpcId) {
        let Some(session) = self.peers.rpcs.get_mut(rpc) else { return };
        session.ended = true;
        if let Some(client) = session.client {
            self.part(now_ms, rpc, client);
        }
    }

    /// Forgets a JSON-RPC session; its socket has to go.
    fn part(&mut self, now_ms: u64, rpc: &RpcId, client: ClientId) {
        let gone = self.peers.rpcs.remove(rpc);
        if let Some(found) = self.peers.clients.get_mut(&client) {
            found.left = gone.map(|gone| gone.session);
        }
        self.close_later(now_ms, client);
    }

    /// Closes a socket after a while, in case its owner does not.
    pub(crate) fn close_later(&mut self, now_ms: u64, client: ClientId) {
        let close_at = now_ms + self.config.limits.linger_ms;
        if let Some(found) = self.peers.clients.get_mut(&client) {
            found.close_at = Some(close_at);
            self.arm(client);
        }
    }

    pub(crate) fn on_socket_timer(&mut self, now_ms: u64, client: ClientId, out: &mut Vec<Output>) {
        let Some(found) = self.peers.clients.get_mut(&client) else { return };
        found.armed = None;
        let Some(found) = self.peers.clients.get(&client) else { return };
        if self.peers.deadline(found).is_none_or(|deadline| deadline > now_ms) {
            return self.arm(client);
        }
        let told_to_go = found.close_at.is_some_and(|at| at <= now_ms);
        let reason = if told_to_go { "Connection is not used" } else { NO_PING }.to_owned();
        tracing::info!(?client, reason, "socket closed");
        // The peer may be gone without a word: it counts as closed from now on.
        self.on_socket_closed(now_ms, client);
        out.push(Output::SocketClose { client, code: CLOSE_NORMAL, reason });
    }

    pub(crate) fn on_lost_timer(&mut self, now_ms: u64, rpc: &RpcId, out: &mut Vec<Output>) {
        let Some(session) = self.peers.rpcs.get(rpc) else { return };
        let gone_for = session.lost_at.map(|lost_at| now_ms.saturating_sub(lost_at));
        if gone_for.is_some_and(|gone_for| gone_for >= self.config.limits.reconnect_ms) {
            self.drop_rpc(now_ms, rpc, out);
        }
    }

    /// Evicts participants that were away while more happened than is kept.
    pub(crate) fn evict_overflowed(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        while let Some(rpc) = self.peers.overflowed.pop() {
            tracing::warn!(%rpc, "too much missed while away");
            self.drop_rpc(now_ms, &rpc, out);
        }
    }

    fn drop_rpc(&mut self, now_ms: u64, rpc: &RpcId, out: &mut Vec<Output>) {
        let Some(session) = self.peers.rpcs.remove(rpc) else { return };
        if !session.ended {
            self.evict(now_ms, &session.session, &session.connection, Reason::NetworkDisconnect, out);
        }
    }

    fn arm(&mut self, client: ClientId) {
        let Some(found) = self.peers.clients.get(&client) else { return };
        let Some(deadline) = self.peers.deadline(found) else { return };
        if found.armed.is_none_or(|armed| armed > deadline) {
            self.timers.set(deadline, Timer::Socket(client));
            if let Some(found) = self.peers.clients.get_mut(&client) {
                found.armed = Some(deadline);
            }
        }
    }
}

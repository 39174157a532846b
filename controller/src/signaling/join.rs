//! `joinRoom` and `leaveRoom` (`signaling.md` 1.5, 1.7). The first one to join makes the session choose a node and open its
//! room there; whoever comes meanwhile waits with it. A token is used up only when its join succeeds.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sfu_core::control::proto::Op;
use subtle::ConstantTimeEq;

use super::client::Call;
use super::dispatch::{Done, Params, Request, read};
use super::envelope::notification;
use super::error::{RpcError, code};
use super::pending::Then;
use crate::engine::{Engine, NodeError, Output, participant_record};
use crate::ids::{ClientId, ConnectionId, SessionId};
use crate::session::{
    ActiveConnection, Connection, ConnectionProperties, IceServer, Place, Publisher, Reason, Role, Session,
    SessionState, Technical,
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct JoinParams {
    token: String,
    session: String,
    platform: Option<String>,
    metadata: Option<String>,
    secret: Option<String>,
    recorder: Option<bool>,
    stt: Option<bool>,
}

/// A join that is allowed, and waits for the session's room at most.
#[derive(Debug)]
pub(crate) struct Join {
    call: Call,
    who: Who,
    platform: String,
    metadata: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Who {
    /// The pending connection that the token stands for.
    Token(ConnectionId),
    /// Somebody with the server's secret.
    Secret(Technical),
}

impl Engine {
    pub(super) fn on_join_room(
        &mut self,
        now_ms: u64,
        call: &Call,
        params: Params,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let result = self.check_join(call, params).and_then(|(session, join)| {
            let state = self.registry.get(session.as_str()).map(|session| session.state.clone());
            match state.unwrap_or_default() {
                SessionState::Active(_) => {
                    self.finish_join(now_ms, &session, join, out);
                    Ok(())
                }
                SessionState::Opening(_) => self.wait_for_room(&session, join),
                SessionState::NotActive => self.open_session(now_ms, &session, join, out),
            }
        });
        match result {
            Ok(()) => Ok(Done::Later),
            Err(error) => {
                self.close_later(now_ms, call.client);
                Err(error)
            }
        }
    }

    fn check_join(&mut self, call: &Call, params: Params) -> Result<(SessionId, Join), RpcError> {
        let params: JoinParams = read(params)?;
        if self.peers.participant(&call.rpc).is_some() {
            return Err(RpcError::new(code::GENERIC, "This connection has joined a session already"));
        }
        if self.waits_to_join(call.client) {
            return Err(RpcError::new(code::GENERIC, "This connection is joining already"));
        }
        let Some(session) = self.registry.get(&params.session) else {
            return Err(RpcError::new(code::ROOM_NOT_FOUND, format!("Session {} not found", params.session)));
        };
        let session = session.id.clone();
        let metadata = params.metadata.unwrap_or_default();
        if metadata.len() > self.config.limits.metadata_bytes {
            return Err(RpcError::new(code::METADATA_FORMAT, "Metadata is too long"));
        }
        let secret = params.secret.unwrap_or_default();
        let privileged =
            !secret.is_empty() && bool::from(secret.as_bytes().ct_eq(self.config.secret.as_bytes()));
        let who = if privileged {
            Who::Secret(match (params.recorder, params.stt) {
                (Some(true), _) => Technical::Recorder,
                (_, Some(true)) => Technical::SpeechToText,
                _ => Technical::Privileged,
            })
        } else {
            Who::Token(self.pending_connection(&session, &params.token)?)
        };
        let mut platform = params.platform.unwrap_or_else(|| "unknown".into());
        platform.truncate(platform.floor_char_boundary(self.config.limits.platform_bytes));
        Ok((session, Join { call: call.clone(), who, platform, metadata }))
    }

    fn pending_connection(&self, session: &SessionId, token: &str) -> Result<ConnectionId, RpcError> {
        let refused = || {
            let message = format!("Unable to join session {session}. The user does not have a valid token");
            RpcError::new(code::UNAUTHORIZED, message)
        };
        let connection = self.registry.connection_of_token(session.as_str(), token).ok_or_else(refused)?;
        let waiting = self.opening.get(session).into_iter().flatten();
        if waiting.into_iter().any(|join| join.who == Who::Token(connection.clone())) {
            return Err(refused());
        }
        Ok(connection.clone())
    }

    fn wait_for_room(&mut self, session: &SessionId, join: Join) -> Result<(), RpcError> {
        let waiting = self.opening.entry(session.clone()).or_default();
        if waiting.len() >= self.config.limits.waiting_joins {
            return Err(RpcError::new(
                code::ROOM_CANNOT_BE_CREATED,
                "Too many participants wait for the session",
            ));
        }
        waiting.push(join);
        Ok(())
    }

    fn open_session(
        &mut self,
        now_ms: u64,
        id: &SessionId,
        join: Join,
        out: &mut Vec<Output>,
    ) -> Result<(), RpcError> {
        let cannot = |message: String| RpcError::new(code::ROOM_CANNOT_BE_CREATED, message);
        let Some(session) = self.registry.get(id.as_str()) else {
            return Err(RpcError::new(code::ROOM_NOT_FOUND, format!("Session {id} not found")));
        };
        let created_at = session.created_at;
        let (node, core) = self.place(now_ms, id.as_str()).map_err(|no_node| cannot(no_node.to_string()))?;
        let room = self.new_room(id.as_str(), created_at);
        let place = Place { node, core, room: room.clone() };
        let then = Then::OpenRoom { session: id.clone(), room };
        self.apply_then(now_ms, &place, vec![Op::OpenRoom { core }], then, out)
            .map_err(|error| cannot(error.message))?;
        tracing::info!(session = %id, node = %place.node, core, "session placed");
        self.nodes.room_opened(&place);
        if let Some(session) = self.registry.get_mut(id.as_str()) {
            session.state = SessionState::Opening(place);
        }
        self.wait_for_room(id, join)
    }

    /// The node opened the room, or did not.
    pub(super) fn on_room_opened(
        &mut self,
        now_ms: u64,
        id: &SessionId,
        room: &str,
        result: Result<(), NodeError>,
        out: &mut Vec<Output>,
    ) {
        let Some(session) = self.registry.get_mut(id.as_str()) else { return };
        let SessionState::Opening(place) = session.state.clone() else { return };
        if place.room != room {
            return;
        }
        if let Err(error) = result {
            session.state = SessionState::NotActive;
            self.nodes.room_closed(&place);
            if self.core_of(&place).is_some() {
                // It may be open for all that: the answer may have come too late.
                self.apply(&place, vec![Op::CloseRoom], out);
            }
            let error = RpcError::new(
                code::ROOM_CANNOT_BE_CREATED,
                format!("Session cannot be initialized: {error}"),
            );
            self.refuse_joins(now_ms, id, &error, out);
            return self.idle_check(now_ms, &place.node, out);
        }
        session.state = SessionState::Active(place.clone());
        for join in self.opening.remove(id).unwrap_or_default() {
            self.finish_join(now_ms, id, join, out);
        }
        self.back_to_not_active(now_ms, id, &place, out);
    }

    /// Everybody who waited is gone: as if nobody had come.
    fn back_to_not_active(&mut self, now_ms: u64, id: &SessionId, place: &Place, out: &mut Vec<Output>) {
        let Some(session) = self.registry.get_mut(id.as_str()) else { return };
        if session.connections.active_count() == 0 {
            session.state = SessionState::NotActive;
            self.nodes.room_closed(place);
            self.apply(place, vec![Op::CloseRoom], out);
            self.idle_check(now_ms, &place.node, out);
        }
    }

    /// The session is gone before its room was open.
    pub(crate) fn refuse_waiting_joins(&mut self, now_ms: u64, session: &Session, out: &mut Vec<Output>) {
        let error = RpcError::new(code::ROOM_CLOSED, format!("Session {} is closed", session.id));
        self.refuse_joins(now_ms, &session.id, &error, out);
    }

    /// Whether a socket's join waits for a room, in any session: a socket becomes one participant at most.
    pub(super) fn waits_to_join(&self, client: ClientId) -> bool {
        self.opening.values().flatten().any(|join| join.call.client == client)
    }

    /// A socket is gone: its token can be used by another one.
    pub(super) fn forget_waiting_join(&mut self, client: ClientId) {
        for waiting in self.opening.values_mut() {
            waiting.retain(|join| join.call.client != client);
        }
    }

    fn refuse_joins(&mut self, now_ms: u64, session: &SessionId, error: &RpcError, out: &mut Vec<Output>) {
        for join in self.opening.remove(session).unwrap_or_default() {
            self.peers.respond(&join.call, Err(error.clone()), out);
            self.close_later(now_ms, join.call.client);
        }
    }

    fn finish_join(&mut self, now_ms: u64, session: &SessionId, join: Join, out: &mut Vec<Output>) {
        if !self.peers.is_open(join.call.client) {
            return;
        }
        let Some(id) = self.joining_connection(now_ms, session, &join.who) else {
            let message = format!("Unable to join session {session}. The token was taken back");
            self.peers.respond(&join.call, Err(RpcError::new(code::UNAUTHORIZED, message)), out);
            return self.close_later(now_ms, join.call.client);
        };
        let active = ActiveConnection {
            active_at: now_ms,
            client_data: join.metadata,
            ip: self.peers.ip(join.call.client).map(|ip| ip.to_string()),
            platform: join.platform,
            rpc: join.call.rpc.clone(),
            publisher: None,
            subscribers: BTreeMap::new(),
        };
        if !self.registry.activate(session.as_str(), id.as_str(), active) {
            return;
        }
        self.peers.join(&join.call, session.clone(), id.clone());
        self.announce_join(now_ms, session, &id, out);
        let result = self.join_result(now_ms, session, &id);
        self.peers.respond(&join.call, Ok(result), out);
    }

    /// The connection to activate: that of the token, or a new one for the server's own.
    fn joining_connection(&mut self, now_ms: u64, session: &SessionId, who: &Who) -> Option<ConnectionId> {
        let found = self.registry.get(session.as_str())?;
        let technical = match who {
            Who::Token(id) => {
                let pending = found.connections.get(id.as_str()).filter(|found| found.active.is_none());
                return pending.map(|connection| connection.id.clone());
            }
            Who::Secret(technical) => *technical,
        };
        let fixed = match technical {
            Technical::Recorder => Some("RECORDER"),
            Technical::SpeechToText => Some("SPEECH_TO_TEXT"),
            Technical::Privileged => None,
        };
        let free = fixed.filter(|id| found.connections.get(id).is_none());
        let id = free.map_or_else(|| self.ids.connection(), ConnectionId::from);
        self.registry.add_connection(Connection {
            id: id.clone(),
            session: session.clone(),
            created_at: now_ms,
            token: None,
            properties: ConnectionProperties { role: Role::Moderator, ..Default::default() },
            ice_servers: self.config.ice_servers.clone(),
            technical: Some(technical),
            active: None,
        });
        Some(id)
    }

    /// `participantJoined` to those who are there, and the event.
    fn announce_join(&mut self, now_ms: u64, session: &SessionId, id: &ConnectionId, out: &mut Vec<Output>) {
        let Some(found) = self.registry.get(session.as_str()) else { return };
        let Some(connection) = found.connections.get(id.as_str()).filter(|found| !found.is_hidden()) else {
            return;
        };
        if let Some(record) = participant_record(found, connection, "participantJoined", now_ms) {
            out.push(Output::Record(record));
        }
        let text = notification("participantJoined", participant_json(connection));
        self.notify_all(session, &text, Some(id), out);
    }

    fn join_result(&mut self, now_ms: u64, session: &SessionId, id: &ConnectionId) -> Value {
        let Some(found) = self.registry.get(session.as_str()) else { return json!({}) };
        let Some(own) = found.connections.get(id.as_str()) else { return json!({}) };
        let others = found.connections.active().filter(|(other, _)| other.id != *id && !other.is_hidden());
        let mut result = json!({
            "id": id,
            "finalUserId": self.ids.alphanumeric(16).to_ascii_uppercase(),
            "createdAt": own.created_at,
            "metadata": own.metadata(),
            "value": others.map(|(other, _)| existing_json(other)).collect::<Vec<_>>(),
            "session": session,
            "version": self.config.version,
            "mediaServer": self.config.media_server,
            "videoSimulcast": self.config.video_simulcast,
            "record": own.properties.record,
            "role": own.properties.role.as_str(),
        });
        let mut servers = own.ice_servers.clone();
        for server in &mut servers {
            server.renew(now_ms, &mut self.ids);
        }
        if let Some(coturn) = &self.config.coturn {
            let host = if coturn.ip.contains(':') { format!("[{}]", coturn.ip) } else { coturn.ip.clone() };
            let mut turn = IceServer {
                url: format!("turn:{host}:{}", coturn.port),
                static_auth_secret: Some(coturn.secret.clone()),
                ..Default::default()
            };
            turn.renew(now_ms, &mut self.ids);
            result["coturnIp"] = coturn.ip.as_str().into();
            result["coturnPort"] = coturn.port.into();
            result["turnUsername"] = turn.username.clone().into();
            result["turnCredential"] = turn.credential.clone().into();
            if servers.is_empty() {
                servers.push(turn);
            }
        }
        result["customIceServers"] = servers.iter().map(IceServer::to_json).collect();
        result
    }

    /// `leaveRoom`: the others hear first, then the response.
    pub(super) fn on_leave_room(&mut self, now_ms: u64, request: &Request, out: &mut Vec<Output>) -> Done {
        self.leave_and_answer(now_ms, request, json!({}), out)
    }

    /// `closeSession`: how the JSON-RPC library under the original server lets a client go.
    pub(super) fn on_close_session(&mut self, now_ms: u64, request: &Request, out: &mut Vec<Output>) -> Done {
        self.leave_and_answer(now_ms, request, "bye".into(), out)
    }

    fn leave_and_answer(
        &mut self,
        now_ms: u64,
        request: &Request,
        answer: Value,
        out: &mut Vec<Output>,
    ) -> Done {
        let left = self.leave(now_ms, &request.session, &request.connection, Reason::Disconnect, out);
        self.peers.respond(&request.call, Ok(answer), out);
        if let Some(rpc) = left {
            self.end_rpc(now_ms, &rpc);
        }
        self.close_if_empty(now_ms, &request.session, Reason::Disconnect, out);
        Done::Later
    }
}

/// Params of `participantJoined`.
fn participant_json(connection: &Connection) -> Value {
    json!({ "id": connection.id, "createdAt": connection.created_at, "metadata": connection.metadata() })
}

/// Entry of `value` in the result of `joinRoom`.
fn existing_json(connection: &Connection) -> Value {
    let mut json = participant_json(connection);
    if let Some(publisher) = connection.live_publisher() {
        json["streams"] = Value::from(vec![Publisher::to_stream_json(publisher)]);
    }
    json
}

//! The operations behind the REST API, on validated input. Status codes are those of `rest-api.md` sections 2 to 5.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Engine, Output};
use crate::ids::{ConnectionId, SessionId};
use crate::session::{
    Connection, ConnectionPatch, ConnectionProperties, EventRecord, Reason, Session, SessionProperties,
    token_url,
};
use crate::signaling::notification;

/// A refused operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status} {}", message.as_deref().unwrap_or_default())]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// For the error body; `None` is an empty body.
    pub message: Option<String>,
}

impl ApiError {
    /// 400, where the contract has no 404 for it.
    pub fn unknown_session(session: &str) -> Self {
        Self::with(400, format!("Session {session} not found"))
    }

    /// A status with an empty body.
    pub fn status(status: u16) -> Self {
        Self { status, message: None }
    }

    /// A status with an error body.
    pub fn with(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: Some(message.into()) }
    }
}

/// Body of `POST /signal`, validated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignalRequest {
    /// Which session.
    pub session: String,
    /// Connection ids; empty is everybody.
    pub to: Vec<String>,
    /// Type, without a `signal:` in front.
    pub signal_type: Option<String>,
    /// Text.
    pub data: Option<String>,
}

impl Engine {
    /// Creates a session.
    /// # Errors
    /// 409: the custom id is taken.
    pub fn create_session(
        &mut self,
        now_ms: u64,
        properties: SessionProperties,
        out: &mut Vec<Output>,
    ) -> Result<&Session, ApiError> {
        let id = if properties.custom_session_id.is_empty() {
            self.ids.session()
        } else {
            SessionId::from(properties.custom_session_id.as_str())
        };
        let session = Session::new(id.clone(), now_ms, properties);
        let created = EventRecord::new(
            "sessionCreated",
            now_ms,
            json!({ "sessionId": id, "uniqueSessionId": session.unique_id() }),
        );
        if !self.registry.insert(session) {
            return Err(ApiError::status(409));
        }
        out.push(Output::Record(created));
        Ok(self.registry.get(id.as_str()).expect("inserted above"))
    }

    /// Closes a session and everything in it. `reason`: `sessionClosedByServer` for `DELETE /sessions/{id}`.
    /// # Errors
    /// 404: unknown.
    pub fn close_session(
        &mut self,
        now_ms: u64,
        session: &str,
        reason: Reason,
        out: &mut Vec<Output>,
    ) -> Result<(), ApiError> {
        let id = self.registry.get(session).ok_or(ApiError::status(404))?.id.clone();
        self.end_session(now_ms, &id, reason, out);
        Ok(())
    }

    /// Creates a pending connection with a token.
    /// # Errors
    /// 404: unknown session. 501: IP cameras, which Weir does not have.
    pub fn create_connection(
        &mut self,
        now_ms: u64,
        session: &str,
        properties: ConnectionProperties,
        _out: &mut Vec<Output>,
    ) -> Result<&Connection, ApiError> {
        let session = self.registry.get(session).ok_or(ApiError::status(404))?.id.clone();
        if properties.ip_camera.is_some() {
            return Err(ApiError::with(501, "IP cameras are not supported"));
        }
        let configured = || self.config.ice_servers.clone();
        let mut ice_servers = properties.custom_ice_servers.clone().unwrap_or_else(configured);
        for server in &mut ice_servers {
            server.renew(now_ms, &mut self.ids);
        }
        let id = self.ids.connection();
        let token = token_url(&self.config.ws_url, &session, &self.ids.token());
        self.registry.add_connection(Connection {
            id: id.clone(),
            session: session.clone(),
            created_at: now_ms,
            token: Some(token),
            properties,
            ice_servers,
            technical: None,
            active: None,
        });
        self.connection(session.as_str(), id.as_str())
    }

    /// Looks up a connection for a view: hidden ones are not there.
    /// # Errors
    /// 404: unknown session or connection.
    pub fn connection(&self, session: &str, connection: &str) -> Result<&Connection, ApiError> {
        let session = self.registry.get(session).ok_or(ApiError::status(404))?;
        session.connections.get(connection).filter(|found| !found.is_hidden()).ok_or(ApiError::status(404))
    }

    /// Changes role and `record`; an active client is told about each value that really changed.
    /// # Errors
    /// 404: unknown session or connection.
    pub fn patch_connection(
        &mut self,
        _now_ms: u64,
        session: &str,
        connection: &str,
        patch: ConnectionPatch,
        out: &mut Vec<Output>,
    ) -> Result<&Connection, ApiError> {
        self.connection(session, connection)?;
        let found =
            self.registry.get_mut(session).and_then(|session| session.connections.get_mut(connection));
        let found = found.expect("looked up above");
        let mut changes = Vec::new();
        if let Some(role) = patch.role.filter(|role| *role != found.properties.role) {
            found.properties.role = role;
            changes.push(json!({ "property": "role", "newValue": role.as_str() }));
        }
        if let Some(record) = patch.record.filter(|record| *record != found.properties.record) {
            found.properties.record = record;
            changes.push(json!({ "property": "record", "newValue": record.to_string() }));
        }
        if let Some(rpc) = found.active.as_ref().map(|active| active.rpc.clone()) {
            for change in changes {
                self.peers.notify(&rpc, &notification("connectionPropertyChanged", change), out);
            }
        }
        self.connection(session, connection)
    }

    /// Evicts a participant (`forceDisconnectByServer`), or takes a pending connection's token back.
    /// # Errors
    /// 400: unknown session. 404: unknown connection.
    pub fn force_disconnect(
        &mut self,
        now_ms: u64,
        session: &str,
        connection: &str,
        out: &mut Vec<Output>,
    ) -> Result<(), ApiError> {
        let id = self.registry.get(session).ok_or_else(|| ApiError::unknown_session(session))?.id.clone();
        let found = self.connection(session, connection)?;
        let (connection, active) = (found.id.clone(), found.active.is_some());
        if active {
            self.evict(now_ms, &id, &connection, Reason::ForceDisconnectByServer, out);
        } else {
            self.registry.remove_connection(session, connection.as_str());
        }
        Ok(())
    }

    /// Ends a stream (`forceUnpublishByServer`).
    /// # Errors
    /// 400: unknown session. 404: unknown stream, or nobody joined yet.
    pub fn force_unpublish(
        &mut self,
        now_ms: u64,
        session: &str,
        stream: &str,
        out: &mut Vec<Output>,
    ) -> Result<(), ApiError> {
        let found = self.registry.get(session).ok_or_else(|| ApiError::unknown_session(session))?;
        let owner = found.publisher_of(stream).ok_or(ApiError::status(404))?.id.clone();
        let session = found.id.clone();
        self.unpublish(now_ms, &session, &owner, Reason::ForceUnpublishByServer, out);
        self.notify_unpublished(&session, &owner, Reason::ForceUnpublishByServer, None, out);
        Ok(())
    }

    /// Sends a signal to some or all participants.
    /// # Errors
    /// 404: unknown session. 406: nobody joined yet, or an unknown recipient (nobody gets it then).
    pub fn send_signal(
        &mut self,
        now_ms: u64,
        signal: &SignalRequest,
        out: &mut Vec<Output>,
    ) -> Result<(), ApiError> {
        let session = self.registry.get(&signal.session).ok_or(ApiError::status(404))?;
        if !session.is_active() {
            return Err(ApiError::status(406));
        }
        let id = session.id.clone();
        let targets = self.signal_targets(&id, &signal.to).ok_or(ApiError::status(406))?;
        // Clients raise the type as it comes, and applications listen for `signal:TYPE`.
        let wire_type = signal
            .signal_type
            .as_deref()
            .map(|name| if name.starts_with("signal:") { name.to_owned() } else { format!("signal:{name}") });
        let mut params = serde_json::Map::new();
        if let Some(data) = &signal.data {
            params.insert("data".into(), data.as_str().into());
        }
        if let Some(wire_type) = wire_type {
            params.insert("type".into(), wire_type.into());
        }
        let event = SignalEvent {
            from: None,
            signal_type: signal.signal_type.as_deref(),
            data: signal.data.as_deref(),
        };
        self.deliver_signal(now_ms, &id, &targets, Value::Object(params), event, out);
        Ok(())
    }

    /// Recipients of a signal: those named, each once, or everybody. `None`: one of them is not a participant.
    pub(crate) fn signal_targets(&self, session: &SessionId, to: &[String]) -> Option<Vec<ConnectionId>> {
        let session = self.registry.get(session.as_str())?;
        if to.is_empty() {
            let visible = session.connections.active().filter(|(connection, _)| !connection.is_hidden());
            return Some(visible.map(|(connection, _)| connection.id.clone()).collect());
        }
        let mut seen = HashSet::new();
        let named = to.iter().filter(|id| seen.insert(id.as_str()));
        named.map(|id| session.participant(id).map(|connection| connection.id.clone())).collect()
    }

    /// Sends the notification and records the event.
    pub(crate) fn deliver_signal(
        &mut self,
        now_ms: u64,
        session: &SessionId,
        targets: &[ConnectionId],
        params: Value,
        event: SignalEvent<'_>,
        out: &mut Vec<Output>,
    ) {
        let Some(found) = self.registry.get(session.as_str()) else { return };
        let text = notification("sendMessage", params);
        for target in targets {
            if let Some(active) =
                found.connections.get(target.as_str()).and_then(|found| found.active.as_ref())
            {
                self.peers.notify(&active.rpc, &text, out);
            }
        }
        out.push(Output::Record(EventRecord::new(
            "signalSent",
            now_ms,
            json!({
                "sessionId": session,
                "uniqueSessionId": found.unique_id(),
                "from": event.from,
                "to": targets,
                "type": event.signal_type.map(|name| name.strip_prefix("signal:").unwrap_or(name)),
                "data": event.data,
            }),
        )));
    }
}

/// What `signalSent` says about a signal besides its recipients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignalEvent<'a> {
    /// Sender; `None` for the REST API.
    pub(crate) from: Option<&'a ConnectionId>,
    /// Type, with or without `signal:`.
    pub(crate) signal_type: Option<&'a str>,
    /// Text.
    pub(crate) data: Option<&'a str>,
}

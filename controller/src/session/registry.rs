//! All sessions of the server, and which unused token opens which connection.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::ids::{ConnectionId, SessionId};
use crate::session::{ActiveConnection, Connection, Session, inner_token};

/// Sessions by id, and the index of unused tokens.
#[derive(Debug, Default)]
pub struct Registry {
    sessions: BTreeMap<SessionId, Session>,
    /// By inner token, `tok_...`.
    tokens: HashMap<String, (SessionId, ConnectionId)>,
    /// Sessions that came, went or were lent out for a change since the last look.
    changed: BTreeSet<SessionId>,
    /// Sessions with connections that did.
    touched: BTreeSet<SessionId>,
    /// Connections that went with their session.
    gone: Vec<(SessionId, ConnectionId)>,
}

/// Something that has to be written or removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// A session, without its connections.
    Session(SessionId),
    /// A connection.
    Connection(SessionId, ConnectionId),
}

impl Registry {
    /// Adds a session. `false`: the id is taken, nothing changes.
    pub fn insert(&mut self, session: Session) -> bool {
        if self.sessions.contains_key(&session.id) {
            return false;
        }
        self.changed.insert(session.id.clone());
        self.sessions.insert(session.id.clone(), session);
        true
    }

    /// Takes a session out; its unused tokens open nothing any more.
    pub fn remove(&mut self, id: &str) -> Option<Session> {
        let mut session = self.sessions.remove(id)?;
        self.changed.insert(session.id.clone());
        let mut gone = session.connections.take_changed();
        gone.extend(session.connections.iter().map(|connection| connection.id.clone()));
        self.gone.extend(gone.into_iter().map(|connection| (session.id.clone(), connection)));
        for token in session.connections.iter().filter_map(unused_token) {
            self.tokens.remove(token);
        }
        Some(session)
    }

    /// Looks a session up.
    pub fn get(&self, id: &str) -> Option<&Session> {
        self.sessions.get(id)
    }

    /// Looks a session up for a change. Connections are added and removed through the registry.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Session> {
        let session = self.sessions.get_mut(id)?;
        self.changed.insert(session.id.clone());
        self.touched.insert(session.id.clone());
        Some(session)
    }

    /// Looks a connection up for a change of what is not kept over a restart: no row is written for it.
    pub fn connection_mut_unsaved(&mut self, session: &str, connection: &str) -> Option<&mut Connection> {
        self.sessions.get_mut(session)?.connections.get_mut_unsaved(connection)
    }

    /// What may have changed since the last call. This is the one place that knows: sessions and connections are changed
    /// through the registry only.
    pub fn take_changed(&mut self) -> Vec<Changed> {
        let gone = self.gone.drain(..).map(|(session, connection)| Changed::Connection(session, connection));
        let mut changed: Vec<_> = gone.collect();
        for id in std::mem::take(&mut self.touched) {
            if let Some(session) = self.sessions.get_mut(&id) {
                let connections = session.connections.take_changed().into_iter();
                changed.extend(connections.map(|connection| Changed::Connection(id.clone(), connection)));
            }
        }
        changed.extend(std::mem::take(&mut self.changed).into_iter().map(Changed::Session));
        changed
    }

    /// All sessions by id.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many unused tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Adds a connection to its session and makes its token valid. `false`: the session is not there.
    pub fn add_connection(&mut self, connection: Connection) -> bool {
        self.add_connection_at(None, connection)
    }

    /// The same, at a place in the order of its session; `None`: behind all others.
    pub fn add_connection_at(&mut self, order: Option<u64>, connection: Connection) -> bool {
        let Some(session) = self.sessions.get_mut(&connection.session) else { return false };
        self.touched.insert(session.id.clone());
        if let Some(token) = unused_token(&connection) {
            self.tokens.insert(token.to_owned(), (session.id.clone(), connection.id.clone()));
        }
        match order {
            Some(order) => session.connections.insert_at(order, connection),
            None => session.connections.insert(connection),
        }
        true
    }

    /// Takes a connection out of its session; its token opens nothing any more.
    pub fn remove_connection(&mut self, session: &str, connection: &str) -> Option<Connection> {
        let found = self.sessions.get_mut(session)?;
        let removed = found.connections.remove(connection)?;
        self.touched.insert(found.id.clone());
        if let Some(token) = unused_token(&removed) {
            self.tokens.remove(token);
        }
        Some(removed)
    }

    /// Which connection an unused token opens in this session. `text`: a token URL or a bare `tok_...`.
    pub fn connection_of_token(&self, session: &str, text: &str) -> Option<&ConnectionId> {
        let (owner, connection) = self.tokens.get(inner_token(text)?)?;
        (owner.as_str() == session).then_some(connection)
    }

    /// Makes a pending connection active, which uses its token up. `false`: it is not there or active already.
    pub fn activate(&mut self, session: &str, connection: &str, active: ActiveConnection) -> bool {
        let Some(found) = self.sessions.get_mut(session) else { return false };
        self.touched.insert(found.id.clone());
        let token = found.connections.get(connection).and_then(unused_token);
        if let Some(token) = token {
            self.tokens.remove(token);
        }
        found.connections.activate(connection, active)
    }
}

fn unused_token(connection: &Connection) -> Option<&str> {
    if connection.active.is_some() {
        return None;
    }
    inner_token(connection.token.as_deref()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{ConnectionProperties, SessionProperties, token_url};

    fn registry() -> Registry {
        let mut registry = Registry::default();
        for id in ["ses_A", "ses_B"] {
            assert!(registry.insert(Session::new(id.into(), 0, SessionProperties::default())));
        }
        registry
    }

    fn connection(session: &str, id: &str) -> Connection {
        Connection {
            id: id.into(),
            session: session.into(),
            created_at: 0,
            token: Some(token_url("wss://h", &session.into(), &format!("tok_{id}"))),
            properties: ConnectionProperties::default(),
            ice_servers: Vec::new(),
            technical: None,
            active: None,
        }
    }

    #[test]
    fn a_token_opens_its_own_session_only_and_once() {
        let mut registry = registry();
        assert!(registry.add_connection(connection("ses_A", "con_1")));
        assert!(!registry.add_connection(connection("ses_X", "con_2")));
        let url = "wss://h?sessionId=ses_A&token=tok_con_1";
        assert_eq!(registry.connection_of_token("ses_A", url), Some(&"con_1".into()));
        assert_eq!(registry.connection_of_token("ses_B", url), None);
        let active = ActiveConnection {
            active_at: 1,
            client_data: String::new(),
            ip: None,
            platform: String::new(),
            rpc: "r".into(),
            publisher: None,
            subscribers: Default::default(),
        };
        assert!(registry.activate("ses_A", "con_1", active.clone()));
        assert!(!registry.activate("ses_A", "con_1", active.clone()), "twice");
        assert!(!registry.activate("ses_X", "con_1", active), "unknown");
        assert_eq!(registry.connection_of_token("ses_A", url), None);
    }

    #[test]
    fn removed_connections_and_sessions_take_their_tokens_along() {
        let mut registry = registry();
        for id in ["con_1", "con_2", "con_3"] {
            registry.add_connection(connection("ses_A", id));
        }
        assert!(registry.remove_connection("ses_A", "con_1").is_some());
        assert!(registry.remove_connection("ses_A", "con_1").is_none());
        assert_eq!(registry.tokens(), 2);
        assert!(registry.remove("ses_A").is_some());
        assert_eq!((registry.tokens(), registry.len()), (0, 1));
    }
}

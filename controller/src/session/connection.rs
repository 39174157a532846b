//! Connections (participants): pending as long as their token is unused, active from `joinRoom` on.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ids::{ConnectionId, RpcId, SessionId, StreamId};
use crate::session::{IceServer, Publisher, Subscriber, ViewOptions};

wire_enum!(
    /// What a participant may do.
    Role {
        /// Subscribe.
        Subscriber = "SUBSCRIBER",
        /// Subscribe and publish.
        Publisher = "PUBLISHER",
        /// Subscribe, publish, unpublish and evict others.
        Moderator = "MODERATOR",
    }
);

wire_enum!(
    /// What a connection is.
    ConnectionType {
        /// A browser or application with a token.
        WebRtc = "WEBRTC",
        /// A camera that the server would pull from.
        IpCam = "IPCAM",
    }
);

/// Bandwidth and filter options of a connection, echoed as given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KurentoOptions {
    /// kbit/s, 0 is unlimited.
    pub video_max_recv_bandwidth: Option<u64>,
    /// kbit/s, 0 is unlimited.
    pub video_min_recv_bandwidth: Option<u64>,
    /// kbit/s, 0 is unlimited.
    pub video_max_send_bandwidth: Option<u64>,
    /// kbit/s, 0 is unlimited.
    pub video_min_send_bandwidth: Option<u64>,
    /// Names of filters; Weir has none.
    pub allowed_filters: Option<Vec<String>>,
}

impl KurentoOptions {
    /// Only the keys that were given.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        for (key, value) in [
            ("videoMaxRecvBandwidth", self.video_max_recv_bandwidth),
            ("videoMinRecvBandwidth", self.video_min_recv_bandwidth),
            ("videoMaxSendBandwidth", self.video_max_send_bandwidth),
            ("videoMinSendBandwidth", self.video_min_send_bandwidth),
        ] {
            if let Some(value) = value {
                object.insert(key.into(), value.into());
            }
        }
        if let Some(filters) = &self.allowed_filters {
            object.insert("allowedFilters".into(), json!(filters));
        }
        Value::Object(object)
    }
}

/// Options of an `IPCAM` connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpCamera {
    /// Where to pull from.
    pub rtsp_uri: String,
    /// Adapt the bitrate to the subscribers.
    pub adaptative_bitrate: bool,
    /// Pull only while somebody watches.
    pub only_play_with_subscribers: bool,
    /// Buffer, milliseconds.
    pub network_cache: u64,
}

/// Body of `POST /sessions/{id}/connection`, validated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionProperties {
    /// `data`: the application's part of the metadata.
    pub data: String,
    /// Whether individual recording includes it.
    pub record: bool,
    /// What it may do.
    pub role: Role,
    /// Bandwidth and filters.
    pub kurento_options: Option<KurentoOptions>,
    /// ICE servers for this client. `None`: those of the configuration.
    pub custom_ice_servers: Option<Vec<IceServer>>,
    /// `Some` for type `IPCAM`.
    pub ip_camera: Option<IpCamera>,
}

impl Default for ConnectionProperties {
    fn default() -> Self {
        Self {
            data: String::new(),
            record: true,
            role: Role::Publisher,
            kurento_options: None,
            custom_ice_servers: None,
            ip_camera: None,
        }
    }
}

/// Body of `PATCH /sessions/{id}/connection/{cid}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionPatch {
    /// New role.
    pub role: Option<Role>,
    /// New `record`.
    pub record: Option<bool>,
}

/// Participants of the server's own, which joined with its secret. They are hidden from everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Technical {
    /// `recorder: true` in `joinRoom`.
    Recorder,
    /// `stt: true` in `joinRoom`.
    SpeechToText,
    /// Neither: a privileged participant, shown as any other.
    Privileged,
}

/// What a connection has once a client joined with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActiveConnection {
    /// UTC, milliseconds.
    pub active_at: u64,
    /// `metadata` of `joinRoom`.
    pub client_data: String,
    /// Address of the client.
    pub ip: Option<String>,
    /// `platform` of `joinRoom`.
    pub platform: String,
    /// JSON-RPC session of its client.
    pub rpc: RpcId,
    /// Its stream.
    pub publisher: Option<Publisher>,
    /// Streams it receives, by the connection that publishes.
    pub subscribers: BTreeMap<ConnectionId, Subscriber>,
}

/// A participant of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Its id, fixed when the token is made.
    pub id: ConnectionId,
    /// Its session.
    pub session: SessionId,
    /// UTC, milliseconds.
    pub created_at: u64,
    /// Whole token URL; `None` for participants with the server's secret.
    pub token: Option<String>,
    /// What it was created with; `role` and `record` may have been changed since.
    pub properties: ConnectionProperties,
    /// ICE servers with the credentials made for this connection.
    pub ice_servers: Vec<IceServer>,
    /// Joined with the server's secret.
    pub technical: Option<Technical>,
    /// `None` while pending.
    pub active: Option<ActiveConnection>,
}

impl Connection {
    /// Recorder and speech to text: nobody shall see or count them.
    pub fn is_hidden(&self) -> bool {
        matches!(self.technical, Some(Technical::Recorder | Technical::SpeechToText))
    }

    /// The stream it publishes, once others may see it.
    pub fn live_publisher(&self) -> Option<&Publisher> {
        let publisher = self.active.as_ref()?.publisher.as_ref()?;
        (publisher.phase == super::Phase::Live).then_some(publisher)
    }

    /// Id of the stream it publishes or is about to.
    pub fn stream(&self) -> Option<&StreamId> {
        Some(&self.active.as_ref()?.publisher.as_ref()?.stream)
    }

    /// `Connection.data` for clients: client part and server part joined by `%/%`, or the one that there is.
    pub fn metadata(&self) -> String {
        let client = self.active.as_ref().map_or("", |active| active.client_data.as_str());
        let server = self.properties.data.as_str();
        match (client.is_empty(), server.is_empty()) {
            (false, false) => format!("{client}%/%{server}"),
            (false, true) => client.to_owned(),
            (true, _) => server.to_owned(),
        }
    }

    /// Connection object of the REST API (`rest-api.md` 3.1).
    pub fn to_json(&self, options: ViewOptions) -> Value {
        let camera = self.properties.ip_camera.as_ref();
        let active = self.active.as_ref();
        let web = camera.is_none();
        let mut object = json!({
            "id": self.id,
            "object": "connection",
            "type": if web { ConnectionType::WebRtc } else { ConnectionType::IpCam }.as_str(),
            "status": if active.is_some() { "active" } else { "pending" },
            "connectionId": self.id,
            "sessionId": self.session,
            "createdAt": self.created_at,
            "activeAt": active.map(|active| active.active_at),
            "location": active.map(|_| "unknown"),
            "ip": active.and_then(|active| active.ip.as_deref()),
            "platform": active.map(|active| active.platform.as_str()),
            "token": self.token,
            "serverData": self.properties.data,
            "clientData": active.filter(|_| web).map(|active| active.client_data.as_str()),
            "record": self.properties.record,
            "role": web.then_some(self.properties.role.as_str()),
            "kurentoOptions": self.properties.kurento_options.as_ref().map(KurentoOptions::to_json),
            "customIceServers": self.ice_servers.iter().map(IceServer::to_json).collect::<Vec<_>>(),
            "rtspUri": camera.map(|camera| camera.rtsp_uri.as_str()),
            "adaptativeBitrate": camera.map(|camera| camera.adaptative_bitrate),
            "onlyPlayWithSubscribers": camera.map(|camera| camera.only_play_with_subscribers),
            "networkCache": camera.map(|camera| camera.network_cache),
        });
        object["publishers"] = active.map(|active| active.publishers_json(options)).into();
        object["subscribers"] = active.map(|active| active.subscribers_json(options)).into();
        object
    }
}

impl ActiveConnection {
    fn publishers_json(&self, options: ViewOptions) -> Value {
        let live = self.publisher.iter().filter(|publisher| publisher.phase == super::Phase::Live);
        live.map(|publisher| publisher.to_json(options)).collect()
    }

    fn subscribers_json(&self, options: ViewOptions) -> Value {
        let live = self.subscribers.values().filter(|subscriber| subscriber.recorded);
        live.map(|subscriber| subscriber.to_json(options)).collect()
    }
}

/// The connections of a session, in the order they were created.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Boxed: a node of the tree has room for eleven, and most sessions have a few.
    by_order: BTreeMap<u64, Box<Connection>>,
    order: HashMap<ConnectionId, u64>,
    next: u64,
    active: usize,
    /// Those that were added, removed or lent out for a change since the last look.
    changed: BTreeSet<ConnectionId>,
}

impl Connections {
    /// Adds a connection behind all others; one with the same id is replaced.
    pub fn insert(&mut self, connection: Connection) {
        self.insert_at(self.next, connection);
    }

    /// Adds a connection at its place in the order; one with the same id is replaced.
    pub fn insert_at(&mut self, order: u64, connection: Connection) {
        self.remove(connection.id.as_str());
        self.changed.insert(connection.id.clone());
        self.order.insert(connection.id.clone(), order);
        self.active += usize::from(connection.active.is_some());
        self.by_order.insert(order, Box::new(connection));
        self.next = self.next.max(order + 1);
    }

    /// Place of a connection in the order.
    pub fn order(&self, id: &str) -> Option<u64> {
        self.order.get(id).copied()
    }

    /// Connections that may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<ConnectionId> {
        std::mem::take(&mut self.changed)
    }

    /// Takes a connection out.
    pub fn remove(&mut self, id: &str) -> Option<Connection> {
        let connection = self.by_order.remove(&self.order.remove(id)?)?;
        self.changed.insert(connection.id.clone());
        self.active -= usize::from(connection.active.is_some());
        Some(*connection)
    }

    /// Makes a pending connection active. `false`: it is not there or active already.
    pub fn activate(&mut self, id: &str, active: ActiveConnection) -> bool {
        match self.get_mut(id) {
            Some(connection) if connection.active.is_none() => connection.active = Some(active),
            _ => return false,
        }
        self.active += 1;
        true
    }

    /// Looks a connection up.
    pub fn get(&self, id: &str) -> Option<&Connection> {
        self.by_order.get(self.order.get(id)?).map(Box::as_ref)
    }

    /// Looks a connection up for a change of its streams or properties.
    pub fn get_mut(&mut self, id: &str) -> Option<&mut Connection> {
        let (id, order) = self.order.get_key_value(id)?;
        self.changed.insert(id.clone());
        self.by_order.get_mut(order).map(Box::as_mut)
    }

    /// The same for a change of what is not kept over a restart.
    pub fn get_mut_unsaved(&mut self, id: &str) -> Option<&mut Connection> {
        self.by_order.get_mut(self.order.get(id)?).map(Box::as_mut)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.by_order.values().map(Box::as_ref)
    }

    /// All active ones, oldest first.
    pub fn active(&self) -> impl Iterator<Item = (&Connection, &ActiveConnection)> {
        self.iter().filter_map(|connection| Some((connection, connection.active.as_ref()?)))
    }

    /// How many are active, hidden ones included.
    pub fn active_count(&self) -> usize {
        self.active
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_order.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_order.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(id: &str) -> Connection {
        Connection {
            id: id.into(),
            session: "ses_A".into(),
            created_at: 5,
            token: Some(format!("wss://h?sessionId=ses_A&token={id}")),
            properties: ConnectionProperties::default(),
            ice_servers: Vec::new(),
            technical: None,
            active: None,
        }
    }

    fn active() -> ActiveConnection {
        ActiveConnection {
            active_at: 9,
            client_data: "c".into(),
            ip: Some("198.51.100.7".into()),
            platform: "Chrome".into(),
            rpc: "r".into(),
            publisher: None,
            subscribers: BTreeMap::new(),
        }
    }

    #[test]
    fn a_pending_connection_shows_every_key() {
        assert_eq!(
            pending("con_A").to_json(ViewOptions::default()),
            json!({"id": "con_A", "object": "connection", "type": "WEBRTC", "status": "pending",
                "connectionId": "con_A", "sessionId": "ses_A", "createdAt": 5, "activeAt": null, "location": null,
                "ip": null, "platform": null, "token": "wss://h?sessionId=ses_A&token=con_A", "serverData": "",
                "clientData": null, "record": true, "role": "PUBLISHER", "kurentoOptions": null,
                "customIceServers": [], "rtspUri": null, "adaptativeBitrate": null,
                "onlyPlayWithSubscribers": null, "networkCache": null, "publishers": null, "subscribers": null})
        );
    }

    #[test]
    fn an_active_connection_shows_who_joined() {
        let mut connection = pending("con_A");
        connection.active = Some(active());
        connection.properties.kurento_options =
            Some(KurentoOptions { video_max_recv_bandwidth: Some(0), ..Default::default() });
        let json = connection.to_json(ViewOptions::default());
        for (key, value) in [
            ("status", json!("active")),
            ("activeAt", json!(9)),
            ("location", json!("unknown")),
            ("ip", json!("198.51.100.7")),
            ("platform", json!("Chrome")),
            ("clientData", json!("c")),
            ("kurentoOptions", json!({"videoMaxRecvBandwidth": 0})),
            ("publishers", json!([])),
            ("subscribers", json!([])),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
    }

    #[test]
    fn metadata_joins_the_parts_that_there_are() {
        for (client, server, expected) in [("c", "s", "c%/%s"), ("c", "", "c"), ("", "s", "s"), ("", "", "")]
        {
            let mut connection = pending("con_A");
            connection.properties.data = server.into();
            connection.active = Some(ActiveConnection { client_data: client.into(), ..active() });
            assert_eq!(connection.metadata(), expected);
        }
    }

    #[test]
    fn connections_keep_their_order_and_count_the_active() {
        let mut connections = Connections::default();
        for id in ["con_Z", "con_A", "con_M"] {
            connections.insert(pending(id));
        }
        assert!(connections.activate("con_A", active()));
        assert!(!connections.activate("con_A", active()), "twice");
        assert!(!connections.activate("con_X", active()), "unknown");
        let order: Vec<_> = connections.iter().map(|connection| connection.id.as_str()).collect();
        assert_eq!(order, ["con_Z", "con_A", "con_M"]);
        assert_eq!((connections.active_count(), connections.len()), (1, 3));
        assert!(connections.remove("con_A").is_some());
        assert!(connections.remove("con_A").is_none());
        assert_eq!((connections.active_count(), connections.len()), (0, 2));
    }
}

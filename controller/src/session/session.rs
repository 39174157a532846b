//! A session: its properties, where it lives, who is in it.
//!
//! ```text
//! NotActive ──first joinRoom, a node is chosen──▶ Opening ──the node opened the room──▶ Active ──last one left──▶ gone
//!     ▲                                              │
//!     └───────────────the node refused───────────────┘
//! ```
#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ids::{ConnectionId, NodeId, SessionId};
use crate::session::{Connection, Connections, RecordingProperties, ViewOptions};

wire_enum!(
    /// Who carries the media.
    MediaMode {
        /// The media node.
        Routed = "ROUTED",
        /// Accepted, not functional.
        Relayed = "RELAYED",
    }
);

wire_enum!(
    /// Who starts recordings.
    RecordingMode {
        /// The application.
        Manual = "MANUAL",
        /// The first publisher.
        Always = "ALWAYS",
    }
);

wire_enum!(
    /// Which video codec publishers must use.
    ForcedVideoCodec {
        /// Whatever suits the media server.
        MediaServerPreferred = "MEDIA_SERVER_PREFERRED",
        /// Any.
        None = "NONE",
        /// VP8.
        Vp8 = "VP8",
        /// VP9.
        Vp9 = "VP9",
        /// H264.
        H264 = "H264",
    }
);

/// Body of `POST /sessions`, validated and with the configuration's defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionProperties {
    /// Who carries the media.
    pub media_mode: MediaMode,
    /// Who starts recordings.
    pub recording_mode: RecordingMode,
    /// `""`: make one up.
    pub custom_session_id: String,
    /// Codec of publishers.
    pub forced_video_codec: ForcedVideoCodec,
    /// Whether a forced codec may be reached by transcoding; Weir has none.
    pub allow_transcoding: bool,
    /// For recordings of this session.
    pub default_recording_properties: RecordingProperties,
    /// The node it was pinned to by request.
    pub media_node: Option<NodeId>,
    /// The core of that node it was pinned to by request.
    pub media_core: Option<u16>,
}

impl Default for SessionProperties {
    fn default() -> Self {
        Self {
            media_mode: MediaMode::Routed,
            recording_mode: RecordingMode::Manual,
            custom_session_id: String::new(),
            forced_video_codec: ForcedVideoCodec::MediaServerPreferred,
            allow_transcoding: false,
            default_recording_properties: RecordingProperties::default(),
            media_node: None,
            media_core: None,
        }
    }
}

/// Where a session lives from its first join on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Index of the core in the node's information.
    pub core: u16,
    /// Id of the room there; another one for each life of a session.
    pub room: String,
}

/// Life of a session; see the module's picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionState {
    /// Nobody joined yet.
    #[default]
    NotActive,
    /// Somebody wants to join; the node has been asked for a room.
    Opening(Place),
    /// It has participants.
    Active(Place),
}

/// Which peer connection a transport on the node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportOwner {
    /// Whose peer connection it is.
    pub connection: ConnectionId,
    /// What it carries.
    pub purpose: TransportUse,
}

/// What a transport carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransportUse {
    /// The owner's own stream.
    Publish,
    /// The stream of this connection.
    Subscribe(ConnectionId),
}

/// A session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// UTC, milliseconds.
    pub created_at: u64,
    /// What it was created with.
    pub properties: SessionProperties,
    /// Where it is in its life.
    pub state: SessionState,
    /// Pending and active connections. Kept in rows of their own.
    #[serde(skip)]
    pub connections: Connections,
    /// Who owns which transport on the node. Follows from the connections.
    #[serde(skip)]
    pub transports: HashMap<String, TransportOwner>,
    /// Number for the next transport's id.
    pub next_transport: u64,
    /// A recording runs.
    pub recording: bool,
    /// A broadcast runs.
    pub broadcasting: bool,
}

impl Session {
    /// A session that nobody joined yet.
    pub fn new(id: SessionId, created_at: u64, properties: SessionProperties) -> Self {
        Self {
            id,
            created_at,
            properties,
            state: SessionState::NotActive,
            connections: Connections::default(),
            transports: HashMap::new(),
            next_transport: 0,
            recording: false,
            broadcasting: false,
        }
    }

    /// Where it lives, or is about to.
    pub fn place(&self) -> Option<&Place> {
        match &self.state {
            SessionState::NotActive => None,
            SessionState::Opening(place) | SessionState::Active(place) => Some(place),
        }
    }

    /// Whether somebody joined.
    pub fn is_active(&self) -> bool {
        matches!(self.state, SessionState::Active(_))
    }

    /// `uniqueSessionId` of events: another one for each life of a custom session id.
    pub fn unique_id(&self) -> String {
        format!("{}_{}", self.id, self.created_at)
    }

    /// Registers a transport and returns its id on the node, unique in the room.
    pub fn new_transport(&mut self, connection: &ConnectionId, purpose: TransportUse) -> String {
        let kind = if purpose == TransportUse::Publish { 'p' } else { 's' };
        let id = format!("{connection}.{kind}{}", self.next_transport);
        self.next_transport += 1;
        self.transports.insert(id.clone(), TransportOwner { connection: connection.clone(), purpose });
        id
    }

    /// An active connection that is not hidden, by its id.
    pub fn participant(&self, id: &str) -> Option<&Connection> {
        self.connections.get(id).filter(|connection| connection.active.is_some() && !connection.is_hidden())
    }

    /// The connection that publishes this stream and others may see it.
    pub fn publisher_of(&self, stream: &str) -> Option<&Connection> {
        // The id ends with the connection's: the fast way. The slow one serves other shapes.
        let named = stream.rfind("con_").and_then(|at| self.connections.get(&stream[at..]));
        let publishes = |connection: &&Connection| {
            connection.live_publisher().is_some_and(|publisher| publisher.stream.as_str() == stream)
        };
        named.filter(publishes).or_else(|| self.connections.iter().find(publishes))
    }

    /// Connections for a view: not the hidden ones, and pending ones only when asked for.
    pub fn visible_connections(&self, options: ViewOptions) -> impl Iterator<Item = &Connection> {
        self.connections
            .iter()
            .filter(move |connection| !connection.is_hidden())
            .filter(move |connection| options.pending_connections || connection.active.is_some())
    }

    /// `{numberOfElements, content}` of its connections.
    pub fn connections_json(&self, options: ViewOptions) -> Value {
        let content: Vec<_> =
            self.visible_connections(options).map(|connection| connection.to_json(options)).collect();
        json!({ "numberOfElements": content.len(), "content": content })
    }

    /// Session object of the REST API (`rest-api.md` 2.1).
    pub fn to_json(&self, options: ViewOptions) -> Value {
        let properties = &self.properties;
        let mut object = json!({
            "id": self.id,
            "object": "session",
            "sessionId": self.id,
            "createdAt": self.created_at,
            "mediaMode": properties.media_mode.as_str(),
            "recordingMode": properties.recording_mode.as_str(),
            "defaultRecordingProperties": properties.default_recording_properties.to_json(),
            "customSessionId": properties.custom_session_id,
            "connections": self.connections_json(options),
            "recording": self.recording,
            "broadcasting": self.broadcasting,
            "forcedVideoCodec": properties.forced_video_codec.as_str(),
            "allowTranscoding": properties.allow_transcoding,
        });
        if let Some(node) = &properties.media_node {
            object["mediaNode"] = json!({ "id": node });
            if let Some(core) = properties.media_core {
                object["mediaNode"]["core"] = core.into();
            }
        }
        if let Some(place) = self.place() {
            object["mediaNodeId"] = place.node.as_str().into();
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_session_shows_the_fields_of_the_contract() {
        let session = Session::new("ses_A".into(), 7, SessionProperties::default());
        assert_eq!(
            session.to_json(ViewOptions::default()),
            json!({"id": "ses_A", "object": "session", "sessionId": "ses_A", "createdAt": 7, "mediaMode": "ROUTED",
                "recordingMode": "MANUAL", "customSessionId": "",
                "defaultRecordingProperties": {"name": "", "hasAudio": true, "hasVideo": true,
                    "outputMode": "COMPOSED", "recordingLayout": "BEST_FIT", "resolution": "1280x720",
                    "frameRate": 25, "shmSize": 536870912},
                "connections": {"numberOfElements": 0, "content": []}, "recording": false, "broadcasting": false,
                "forcedVideoCodec": "MEDIA_SERVER_PREFERRED", "allowTranscoding": false})
        );
        assert_eq!(session.unique_id(), "ses_A_7");
    }

    #[test]
    fn a_placed_session_names_its_node() {
        let properties = SessionProperties { media_node: Some("media_1".into()), ..Default::default() };
        let mut session = Session::new("ses_A".into(), 7, properties);
        session.state =
            SessionState::Active(Place { node: "media_1".into(), core: 0, room: "ses_A_7_0".into() });
        let json = session.to_json(ViewOptions::default());
        assert_eq!(json["mediaNode"], json!({"id": "media_1"}));
        assert_eq!(json["mediaNodeId"], "media_1");
    }

    #[test]
    fn transports_get_unique_names_and_owners() {
        let mut session = Session::new("ses_A".into(), 7, SessionProperties::default());
        let first = session.new_transport(&"con_A".into(), TransportUse::Publish);
        let second = session.new_transport(&"con_A".into(), TransportUse::Subscribe("con_B".into()));
        assert_ne!(first, second);
        assert_eq!(session.transports[&second].purpose, TransportUse::Subscribe("con_B".into()));
    }
}

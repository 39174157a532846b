//! Settings of the engine, handed over by the configuration layer.
#![forbid(unsafe_code)]

use crate::autoscaler;
use crate::cluster::NodeUri;
use crate::config::LoadStrategy;
use crate::session::{ForcedVideoCodec, IceServer};

/// What the engine has to know of the configuration.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Version told to clients in `joinRoom`: a semver string, near the clients' own.
    pub version: String,
    /// `wss://HOST[:PORT]` or `ws://...`, without a slash at the end: head of every token.
    pub ws_url: String,
    /// `OPENVIDU_SECRET`.
    pub secret: String,
    /// `mediaServer` of `joinRoom`: `mediasoup` makes clients wait for the server's offer and allows simulcast, anything
    /// else makes them offer.
    pub media_server: String,
    /// `OPENVIDU_WEBRTC_SIMULCAST`.
    pub video_simulcast: bool,
    /// `OPENVIDU_STREAMS_FORCED_VIDEO_CODEC`.
    pub forced_video_codec: ForcedVideoCodec,
    /// `OPENVIDU_STREAMS_ALLOW_TRANSCODING`.
    pub allow_transcoding: bool,
    /// `OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH`, kbit/s a publisher may send; 0 is unlimited.
    pub max_publish_kbps: u64,
    /// `OPENVIDU_WEBRTC_ICE_SERVERS`: for connections without servers of their own.
    pub ice_servers: Vec<IceServer>,
    /// The TURN server of the deployment, if there is one.
    pub coturn: Option<Coturn>,
    /// `OPENVIDU_SESSIONS_GARBAGE_INTERVAL`, milliseconds; 0 switches the collector off.
    pub garbage_interval_ms: u64,
    /// `OPENVIDU_SESSIONS_GARBAGE_THRESHOLD`, milliseconds.
    pub garbage_threshold_ms: u64,
    /// How long a lost node may take to come back before it is removed; `None`: for ever. Its sessions are closed after 3 s
    /// in any case.
    pub node_reconnection_ms: Option<u64>,
    /// Media nodes.
    pub cluster: ClusterConfig,
    /// What placement compares.
    pub load_strategy: LoadStrategy,
    /// Keep both SDPs of every peer connection for `webRtcStats=true`; about 8 KiB each.
    pub keep_sdp: bool,
    /// Bounds and waiting times.
    pub limits: Limits,
}

/// What the engine has to know of the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Name of the cluster, in its events.
    pub id: String,
    /// Whether nodes can be launched; on premises the operator starts them.
    pub launches: bool,
    /// Whether a node can be added by its `uri`.
    pub joins: bool,
    /// Whether nodes can be found.
    pub discovers: bool,
    /// `KMS_URIS`: nodes that must be there at the start.
    pub join_at_start: Vec<NodeUri>,
    /// Nodes wanted at the start; `None`: none is launched then.
    pub nodes_at_start: Option<u32>,
    /// The autoscaler, if it is on.
    pub autoscaling: Option<Autoscaling>,
    /// How long a machine may take to be launched, milliseconds. A little more than launchers allow themselves.
    pub launch_ms: u64,
    /// How long connecting to a node may take once it is there, milliseconds.
    pub connect_ms: u64,
    /// How long a node that failed is shown, milliseconds.
    pub failed_kept_ms: u64,
    /// Pause before a machine that could not be stopped is tried again, milliseconds.
    pub stop_retry_ms: u64,
    /// Most nodes, whatever their status.
    pub nodes_max: usize,
    /// Most REST requests that wait for nodes.
    pub waiters_max: usize,
}

/// The autoscaler's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Autoscaling {
    /// Limits of nodes and load.
    pub limits: autoscaler::Limits,
    /// Time between two runs, milliseconds.
    pub interval_ms: u64,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            id: "weir".into(),
            launches: false,
            joins: true,
            discovers: false,
            join_at_start: Vec::new(),
            nodes_at_start: None,
            autoscaling: None,
            launch_ms: 630_000,
            connect_ms: 60_000,
            failed_kept_ms: 60_000,
            stop_retry_ms: 60_000,
            nodes_max: 10_000,
            waiters_max: 1_000,
        }
    }
}

/// A TURN server whose credentials derive from a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coturn {
    /// `COTURN_IP`.
    pub ip: String,
    /// `COTURN_PORT`.
    pub port: u16,
    /// `COTURN_SHARED_SECRET_KEY`.
    pub secret: String,
}

/// Bounds and waiting times of signaling. The defaults are those of the contract or have their reason here.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest message taken from a client, bytes. An offer has about 6 KiB.
    pub message_bytes: usize,
    /// Longest `metadata` of a client, bytes.
    pub metadata_bytes: usize,
    /// Longest `platform` of a client, bytes; the rest is cut off. A whole `User-Agent` has about 150.
    pub platform_bytes: usize,
    /// Notifications kept for a participant without a socket.
    pub queue_messages: usize,
    /// Their total size, bytes.
    pub queue_bytes: usize,
    /// How long a participant stays without a socket.
    pub reconnect_ms: u64,
    /// How long a socket may stay open after its participant left or was evicted, or after a refused `joinRoom`.
    pub linger_ms: u64,
    /// How long a new socket may take to send `joinRoom` or `connect`.
    pub unjoined_ms: u64,
    /// Ping interval assumed when the first ping names none.
    pub ping_interval_ms: u64,
    /// Missed intervals after which a socket is closed.
    pub ping_misses: u64,
    /// How long a node may take to answer. Clients give up after 10 s.
    pub node_reply_ms: u64,
    /// Requests that may wait for nodes at one time.
    pub pending_replies: usize,
    /// Joins that may wait for one session's room.
    pub waiting_joins: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 256 * 1024,
            metadata_bytes: 64 * 1024,
            platform_bytes: 512,
            queue_messages: 1_000,
            queue_bytes: 1 << 20,
            reconnect_ms: 10_000,
            linger_ms: 10_000,
            unjoined_ms: 60_000,
            ping_interval_ms: 20_000,
            ping_misses: 3,
            node_reply_ms: 8_000,
            pending_replies: 20_000,
            waiting_joins: 1_000,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            version: "2.32.2".into(),
            ws_url: "ws://localhost:4443".into(),
            secret: "MY_SECRET".into(),
            media_server: "kurento".into(),
            video_simulcast: false,
            forced_video_codec: ForcedVideoCodec::MediaServerPreferred,
            allow_transcoding: false,
            max_publish_kbps: 1_000,
            ice_servers: Vec::new(),
            coturn: None,
            garbage_interval_ms: 900_000,
            garbage_threshold_ms: 3_600_000,
            node_reconnection_ms: None,
            cluster: ClusterConfig::default(),
            load_strategy: LoadStrategy::Cpu,
            keep_sdp: true,
            limits: Limits::default(),
        }
    }
}

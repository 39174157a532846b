//! The parts of the configuration, one struct per subject, each with its own resolver.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::property::WEBHOOK_EVENTS;
use super::resolve::Resolver;
use super::{Secret, value};

/// Largest interval accepted, seconds: a year.
const SECONDS_MAX: i64 = 366 * 24 * 3600;
/// Largest bandwidth accepted, kbit/s.
const KBPS_MAX: i64 = u32::MAX as i64;
/// Most cores one node may be given.
const CORES_MAX: i64 = 256;

fn seconds(text: &str) -> Result<u64, value::Refused> {
    value::integer(text, 0, SECONDS_MAX).map(|n| n as u64)
}

fn kbps(text: &str) -> Result<u32, value::Refused> {
    value::integer(text, 0, KBPS_MAX).map(|n| n as u32)
}

/// Call detail records.
#[derive(Clone, Debug)]
pub struct Cdr {
    /// Whether a file is written.
    pub enabled: bool,
    /// Its directory, with a trailing `/`.
    pub path: String,
}

impl Cdr {
    pub(super) fn resolve(r: &mut Resolver) -> Self {
        Self {
            enabled: r.value("OPENVIDU_CDR", value::boolean),
            path: r.value("OPENVIDU_CDR_PATH", value::directory),
        }
    }
}

/// Webhook.
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Whether events are sent.
    pub enabled: bool,
    /// Where to.
    pub endpoint: Option<String>,
    /// Extra headers, in order; a later one replaces an earlier one of the same name.
    pub headers: Vec<(String, String)>,
    /// Events that are sent.
    pub events: BTreeSet<String>,
}

impl Webhook {
    pub(super) fn resolve(r: &mut Resolver) -> Self {
        let webhook = Self {
            enabled: r.value("OPENVIDU_WEBHOOK", value::boolean),
            endpoint: r.value("OPENVIDU_WEBHOOK_ENDPOINT", value::optional_url),
            headers: r.value("OPENVIDU_WEBHOOK_HEADERS", headers),
            events: r.value("OPENVIDU_WEBHOOK_EVENTS", events),
        };
        let refused = r.errors.iter().any(|e| e.property == "OPENVIDU_WEBHOOK_ENDPOINT");
        if webhook.enabled && webhook.endpoint.is_none() && !refused {
            r.refuse_set("OPENVIDU_WEBHOOK_ENDPOINT", "an absolute URL, because OPENVIDU_WEBHOOK is true");
        }
        webhook
    }
}

fn headers(text: &str) -> Result<Vec<(String, String)>, value::Refused> {
    let refused = |_| "an array of \"Name: value\"".to_owned();
    let items = value::string_array(text).map_err(refused)?;
    let split = |item: &String| {
        let (name, value) = item.split_once(": ")?;
        let name_ok = hyper::header::HeaderName::try_from(name).is_ok();
        let value_ok = !value.is_empty() && hyper::header::HeaderValue::try_from(value).is_ok();
        (name_ok && value_ok).then(|| (name.to_owned(), value.to_owned()))
    };
    items.iter().map(split).collect::<Option<_>>().ok_or_else(|| refused(String::new()))
}

fn events(text: &str) -> Result<BTreeSet<String>, value::Refused> {
    let refused = || format!("an array of event names: {}", WEBHOOK_EVENTS.join(", "));
    let items = value::string_array(text).map_err(|_| refused())?;
    if items.iter().all(|i| WEBHOOK_EVENTS.contains(&i.as_str())) {
        Ok(items.into_iter().collect())
    } else {
        Err(refused())
    }
}

/// Collector of sessions nobody joined.
#[derive(Clone, Debug)]
pub struct Sessions {
    /// Its period in seconds; 0 switches it off.
    pub garbage_interval_s: u64,
    /// Strictly older sessions are removed, seconds.
    pub garbage_threshold_s: u64,
}

impl Sessions {
    pub(super) fn resolve(r: &mut Resolver) -> Self {
        Self {
            garbage_interval_s: r.value("OPENVIDU_SESSIONS_GARBAGE_INTERVAL", seconds),
            garbage_threshold_s: r.value("OPENVIDU_SESSIONS_GARBAGE_THRESHOLD", seconds),
        }
    }
}

/// Codec a session is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    /// The media server's choice.
    MediaServerPreferred,
    /// Any.
    None,
    /// VP8.
    Vp8,
    /// VP9.
    Vp9,
    /// H.264.
    H264,
}

impl VideoCodec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::MediaServerPreferred, Self::None, Self::Vp8, Self::Vp9, Self::H264];

    /// Its name in REST and configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::MediaServerPreferred => "MEDIA_SERVER_PREFERRED",
            Self::None => "NONE",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::H264 => "H264",
        }
    }

    /// The codec of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// Defaults of streams. Bandwidths in kbit/s, 0 is unlimited; RECV is what clients send to the server.
#[derive(Clone, Debug)]
pub struct Streams {
    /// Most a publisher may send.
    pub video_max_recv_kbps: u32,
    /// Least asked of a publisher.
    pub video_min_recv_kbps: u32,
    /// Most a subscriber is sent.
    pub video_max_send_kbps: u32,
    /// Least a subscriber is sent.
    pub video_min_send_kbps: u32,
    /// Codec of sessions that name none.
    pub forced_codec: VideoCodec,
    /// Echoed; nothing is transcoded.
    pub allow_transcoding: bool,
    /// Whether publishers are told to send simulcast.
    pub simulcast: bool,
}

impl Streams {
    pub(super) fn resolve(r: &mut Resolver) -> Self {
        let codec = |text: &str| {
            let names = VideoCodec::ALL.map(VideoCodec::name);
            value::one_of(text, &names).map(|n| VideoCodec::from_name(n).expect("taken from the list"))
        };
        Self {
            video_max_recv_kbps: r.value("OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH", kbps),
            video_min_recv_kbps: r.value("OPENVIDU_STREAMS_VIDEO_MIN_RECV_BANDWIDTH", kbps),
            video_max_send_kbps: r.value("OPENVIDU_STREAMS_VIDEO_MAX_SEND_BANDWIDTH", kbps),
            video_min_send_kbps: r.value("OPENVIDU_STREAMS_VIDEO_MIN_SEND_BANDWIDTH", kbps),
            forced_codec: r.value("OPENVIDU_STREAMS_FORCED_VIDEO_CODEC", codec),
            allow_transcoding: r.value("OPENVIDU_STREAMS_ALLOW_TRANSCODING", value::boolean),
            simulcast: r.value("OPENVIDU_WEBRTC_SIMULCAST", value::boolean),
        }
    }
}

/// Recording.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Whether the module is on.
    pub enabled: bool,
    /// Directory of recordings, with a trailing `/`.
    pub path: String,
    /// Whether files are served without credentials.
    pub public_access: bool,
    /// Whom clients' notifications go to: `none`, `moderator`, `publisher_moderator`, `all`.
    pub notification: String,
    /// Directory of layouts, with a trailing `/`.
    pub custom_layout: String,
    /// Seconds an abandoned recording goes on.
    pub autostop_timeout_s: u64,
    /// URL the composing browser opens, if not our own.
    pub composed_url: Option<String>,
    /// Version tag.
    pub version: String,
    /// `local` or `s3`.
    pub storage: String,
}

impl Recording {
    pub(super) fn resolve(r: &mut Resolver) -> Self {
        let whom = |t: &str| {
            value::one_of(t, &["none", "moderator", "publisher_moderator", "all"]).map(str::to_owned)
        };
        Self {
            enabled: r.value("OPENVIDU_RECORDING", value::boolean),
            path: r.value("OPENVIDU_RECORDING_PATH", value::directory),
            public_access: r.value("OPENVIDU_RECORDING_PUBLIC_ACCESS", value::boolean),
            notification: r.value("OPENVIDU_RECORDING_NOTIFICATION", whom),
            custom_layout: r.value("OPENVIDU_RECORDING_CUSTOM_LAYOUT", value::directory),
            autostop_timeout_s: r.value("OPENVIDU_RECORDING_AUTOSTOP_TIMEOUT", seconds),
            composed_url: r.value("OPENVIDU_RECORDING_COMPOSED_URL", value::optional_url),
            version: r.value("OPENVIDU_RECORDING_VERSION", |t| Ok(t.to_owned())),
            storage: r
                .value("OPENVIDU_PRO_RECORDING_STORAGE", |t| value::one_of(t, &["local", "s3"]))
                .to_owned(),
        }
    }
}

/// What "load" means where sessions are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStrategy {
    /// CPU share of the node.
    Cpu,
    /// Publishers plus subscribers.
    Streams,
    /// Sessions.
    Sessions,
}

impl LoadStrategy {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Streams => "streams",
            Self::Sessions => "sessions",
        }
    }
}

/// Media nodes.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Name of the cluster; `None`: made up at first start and kept in the data directory.
    pub id: Option<String>,
    /// [`ON_PREMISE`], [`PROCESS`], or a directory of scripts below `path`, such as `aws`.
    pub environment: String,
    /// `auto` or `manual`.
    pub mode: String,
    /// Nodes to launch at start.
    pub media_nodes: u32,
    /// Directory, with a trailing `/`.
    pub path: String,
    /// Seconds a lost node is waited for; `None`: for ever.
    pub reconnection_timeout_s: Option<u64>,
    /// Placement.
    pub load_strategy: LoadStrategy,
    /// Period of load reports, seconds.
    pub load_interval_s: u64,
    /// Autoscaler.
    pub autoscaling: Autoscaling,
    /// Nodes to connect to at start: `ws://` or `wss://`.
    pub kms_uris: Vec<String>,
    /// Bearer secret of control connections; `None`: made up at first start and kept in the data directory.
    pub secret: Option<Secret>,
    /// Control address of `weir node`.
    pub node_listen: SocketAddr,
}

/// The environment in which the operator starts media nodes by hand.
pub const ON_PREMISE: &str = "on_premise";
/// The environment in which media nodes are child processes of the controller.
pub const PROCESS: &str = "process";

/// Autoscaler limits.
#[derive(Clone, Debug)]
pub struct Autoscaling {
    /// Whether it runs.
    pub enabled: bool,
    /// Period in seconds.
    pub interval_s: u64,
    /// Most nodes.
    pub max_nodes: u32,
    /// Fewest nodes.
    pub min_nodes: u32,
    /// Average load above which nodes are added, 0 to 100.
    pub max_load: f64,
    /// Average load below which nodes are removed, 0 to 100.
    pub min_load: f64,
}

impl Cluster {
    /// For `weir` on one machine: it launches its nodes by itself, unless an environment of scripts was chosen.
    pub fn on_this_machine(&mut self) {
        if self.environment == ON_PREMISE {
            self.environment = PROCESS.to_owned();
        }
        if self.environment == PROCESS {
            self.mode = "auto".to_owned();
        }
    }

    /// Whether media nodes are launched, and not started by hand.
    pub fn launches(&self) -> bool {
        self.environment != ON_PREMISE
    }

    /// Whether media nodes may be added by their address. Scripts know the addresses of theirs.
    pub fn joins(&self) -> bool {
        self.environment == ON_PREMISE || self.environment == PROCESS
    }

    /// Whether the right number of nodes is launched at the start.
    pub fn is_auto(&self) -> bool {
        self.mode == "auto"
    }

    /// Nodes that must be there at the start. Where the server finds and launches its nodes it takes no list of them.
    pub fn uris_at_start(&self) -> &[String] {
        if self.joins() || !self.is_auto() { &self.kms_uris } else { &[] }
    }

    pub(super) fn resolve(r: &mut Resolver) -> Self {
        let nodes = |t: &str| value::integer(t, 0, 100_000).map(|n| n as u32);
        let autoscaling = Autoscaling::resolve(r);
        let environment = r.value("OPENVIDU_PRO_CLUSTER_ENVIRONMENT", environment);
        let for_ever = matches!(environment.as_str(), ON_PREMISE | PROCESS) && !autoscaling.enabled;
        Self {
            id: r.optional("OPENVIDU_PRO_CLUSTER_ID", |t| Ok(t.to_owned())),
            environment,
            mode: r.value("OPENVIDU_PRO_CLUSTER_MODE", |t| value::one_of(t, &["auto", "manual"])).to_owned(),
            media_nodes: r.value("OPENVIDU_PRO_CLUSTER_MEDIA_NODES", nodes),
            path: r.value("OPENVIDU_PRO_CLUSTER_PATH", value::directory),
            reconnection_timeout_s: r.derived(
                "OPENVIDU_PRO_CLUSTER_RECONNECTION_TIMEOUT",
                reconnection_timeout,
                || if for_ever { None } else { Some(3) },
                |t| t.map_or("-1".to_owned(), |s| s.to_string()),
            ),
            load_strategy: r.value("OPENVIDU_PRO_CLUSTER_LOAD_STRATEGY", load_strategy),
            load_interval_s: r.value("OPENVIDU_PRO_CLUSTER_LOAD_INTERVAL", |t| {
                value::integer(t, 1, 3600).map(|n| n as u64)
            }),
            autoscaling,
            kms_uris: r.value("KMS_URIS", kms_uris),
            secret: r.optional("WEIR_CLUSTER_SECRET", |t| Ok(Secret::new(t))),
            node_listen: r.value("WEIR_NODE_LISTEN", value::socket_address),
        }
    }
}

impl Autoscaling {
    fn resolve(r: &mut Resolver) -> Self {
        let nodes = |t: &str| value::integer(t, 0, 100_000).map(|n| n as u32);
        let load = |t: &str| value::number(t, 0.0, 100.0);
        let scaling = Self {
            enabled: r.value("OPENVIDU_PRO_CLUSTER_AUTOSCALING", value::boolean),
            interval_s: r.value("OPENVIDU_PRO_CLUSTER_AUTOSCALING_INTERVAL", seconds),
            max_nodes: r.value("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_NODES", nodes),
            min_nodes: r.value("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_NODES", nodes),
            max_load: r.value("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD", load),
            min_load: r.value("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_LOAD", load),
        };
        if scaling.enabled && scaling.min_nodes > scaling.max_nodes {
            let most = format!("at most OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_NODES, {}", scaling.max_nodes);
            r.refuse_set("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_NODES", &most);
        }
        if scaling.enabled && scaling.min_load > scaling.max_load {
            let most = format!("at most OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD, {}", scaling.max_load);
            r.refuse_set("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_LOAD", &most);
        }
        scaling
    }
}

fn reconnection_timeout(text: &str) -> Result<Option<u64>, value::Refused> {
    match value::integer(text, -1, SECONDS_MAX) {
        Ok(-1) => Ok(None),
        Ok(n) if n >= 3 => Ok(Some(n as u64)),
        _ => Err("-1, or an integer >= 3 (seconds)".into()),
    }
}

fn environment(text: &str) -> Result<String, value::Refused> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !text.is_empty() && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("on_premise, process, or a directory of scripts below OPENVIDU_PRO_CLUSTER_PATH, such as aws"
        .to_owned())
}

fn load_strategy(text: &str) -> Result<LoadStrategy, value::Refused> {
    match text {
        "cpu" => Ok(LoadStrategy::Cpu),
        "streams" => Ok(LoadStrategy::Streams),
        "sessions" => Ok(LoadStrategy::Sessions),
        _ => Err("one of cpu, streams, sessions".into()),
    }
}

/// White space, backslashes and quotes are stripped before parsing, as OpenVidu does.
fn kms_uris(text: &str) -> Result<Vec<String>, value::Refused> {
    let refused = || "an array of ws:// or wss:// URIs".to_owned();
    let plain: String =
        text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '\\' | '"' | '\'')).collect();
    let bracketed = plain.starts_with('[') && plain.ends_with(']') && plain.len() >= 2;
    let inner = if bracketed { &plain[1..plain.len() - 1] } else { return Err(refused()) };
    let items: Vec<String> = inner.split(',').filter(|i| !i.is_empty()).map(str::to_owned).collect();
    let valid = |uri: &String| {
        let scheme = uri.starts_with("ws://") || uri.starts_with("wss://");
        scheme && uri.parse::<hyper::Uri>().is_ok_and(|u| u.host().is_some_and(|h| !h.is_empty()))
    };
    if items.iter().all(valid) { Ok(items) } else { Err(refused()) }
}

/// Intervals in seconds, 0 is off; echoed by `GET /config`.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Session statistics.
    pub session_interval_s: u64,
    /// Server statistics.
    pub server_interval_s: u64,
    /// Monitoring.
    pub monitoring_interval_s: u64,
    /// WebRTC statistics.
    pub webrtc_interval_s: u64,
    /// Whether clients are told their network quality.
    pub network_quality: bool,
    /// How often.
    pub network_quality_interval_s: u64,
    /// `disabled`, `debug` or `debug_app`.
    pub browser_logs: String,
}

impl Stats {
    pub(super) fn resolve(r: &mut Resolver) -> Self {
        let logs = |t: &str| value::one_of(t, &["disabled", "debug", "debug_app"]).map(str::to_owned);
        Self {
            session_interval_s: r.value("OPENVIDU_PRO_STATS_SESSION_INTERVAL", seconds),
            server_interval_s: r.value("OPENVIDU_PRO_STATS_SERVER_INTERVAL", seconds),
            monitoring_interval_s: r.value("OPENVIDU_PRO_STATS_MONITORING_INTERVAL", seconds),
            webrtc_interval_s: r.value("OPENVIDU_PRO_STATS_WEBRTC_INTERVAL", seconds),
            network_quality: r.value("OPENVIDU_PRO_NETWORK_QUALITY", value::boolean),
            network_quality_interval_s: r.value("OPENVIDU_PRO_NETWORK_QUALITY_INTERVAL", seconds),
            browser_logs: r.value("OPENVIDU_BROWSER_LOGS", logs),
        }
    }
}

/// External coturn for clients before 2.23, which build their ICE servers from `coturnIp`.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Address of the server; `None`: there is none.
    pub ip: Option<IpAddr>,
    /// Its port.
    pub port: u16,
    /// Static secret time-limited credentials are made from.
    pub shared_secret: Secret,
}

impl Turn {
    pub(super) fn resolve(r: &mut Resolver, default_secret: Secret) -> Self {
        let ip = |text: &str| match text {
            "auto-ipv4" | "auto-ipv6" => Ok(None),
            _ => text.parse().map(Some).map_err(|_| "auto-ipv4, auto-ipv6 or an IP address".to_owned()),
        };
        Self {
            ip: r.optional("COTURN_IP", ip).flatten(),
            port: r.value("COTURN_PORT", value::port),
            shared_secret: r.derived(
                "COTURN_SHARED_SECRET_KEY",
                |t| Ok(Secret::new(t)),
                || default_secret,
                |s| s.expose().to_owned(),
            ),
        }
    }
}

/// The media node of this machine; the node itself parses what is text here.
#[derive(Clone, Debug)]
pub struct Media {
    /// `auto`, `io_uring` or `mmsg`.
    pub reactor: String,
    /// `auto`, `frames` or `sockets`.
    pub send_path: String,
    /// How many cores to use: `auto` or a number.
    pub cores: String,
    /// Addresses to bind: `auto` (the machine's own) and `BIND[=ANNOUNCED]`, separated by commas.
    pub addresses: String,
    /// UDP port of the first core; the others follow. 0: any free ones.
    pub port: u16,
    /// What `joinRoom` says in `mediaServer`.
    pub server_name: String,
}

impl Media {
    pub(super) fn resolve(r: &mut Resolver, exposed: bool) -> Self {
        let port = |t: &str| {
            let refused = |_| "0 for any free port, or a port of 1 to 65535".to_owned();
            value::integer(t, 0, 65535).map(|n| n as u16).map_err(refused)
        };
        let reactor = |t: &str| value::one_of(t, &["auto", "io_uring", "mmsg"]).map(str::to_owned);
        let send_path = |t: &str| value::one_of(t, &["auto", "frames", "sockets"]).map(str::to_owned);
        let server = |t: &str| value::one_of(t, &["kurento", "mediasoup"]).map(str::to_owned);
        let default_addresses = if exposed { "auto" } else { "auto,127.0.0.1" };
        Self {
            reactor: r.value("WEIR_REACTOR", reactor),
            send_path: r.value("WEIR_SEND_PATH", send_path),
            cores: r.value("WEIR_CORES", cores),
            addresses: r.derived(
                "WEIR_MEDIA_ADDRESSES",
                media_addresses,
                || default_addresses.to_owned(),
                String::clone,
            ),
            port: r.value("WEIR_MEDIA_PORT", port),
            server_name: r.value("WEIR_MEDIA_SERVER_NAME", server),
        }
    }
}

fn cores(text: &str) -> Result<String, value::Refused> {
    let number = value::integer(text, 1, CORES_MAX).is_ok();
    if number || text == "auto" {
        Ok(text.to_owned())
    } else {
        Err(format!("auto, or an integer of 1 to {CORES_MAX}"))
    }
}

/// `auto` and `BIND[=ANNOUNCED]`, separated by commas; brackets and quotes of an array are allowed around them.
fn media_addresses(text: &str) -> Result<String, value::Refused> {
    let plain: String = text.chars().filter(|c| !matches!(c, '[' | ']' | '"' | ' ')).collect();
    let valid = |item: &str| {
        let (bind, announced) = item.split_once('=').map_or((item, None), |(b, a)| (b, Some(a)));
        let bind_ok = bind.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified());
        item == "auto" || (bind_ok && announced.is_none_or(|a| a.parse::<IpAddr>().is_ok()))
    };
    if plain.split(',').all(valid) {
        Ok(plain)
    } else {
        Err("auto and IP addresses separated by commas, each BIND or BIND=ANNOUNCED".into())
    }
}

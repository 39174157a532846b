//! The parts of the configuration, one struct per subject, each with its own resolver. Media nodes: [`super::cluster`].
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use super::property::WEBHOOK_EVENTS;
use super::resolve::Resolver;
use super::{Secret, probe, value};

/// Largest interval accepted, seconds: a year.
pub(super) const SECONDS_MAX: i64 = 366 * 24 * 3600;
/// Largest bandwidth accepted, kbit/s.
const KBPS_MAX: i64 = u32::MAX as i64;
/// Most cores one node may be given.
const CORES_MAX: i64 = 256;

pub(super) fn seconds(text: &str) -> Result<u64, value::Refused> {
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
        let cdr = Self {
            enabled: r.value("OPENVIDU_CDR", value::boolean),
            path: r.value("OPENVIDU_CDR_PATH", value::directory),
        };
        if cdr.enabled
            && let Err(error) = probe::writable(Path::new(&cdr.path))
        {
            let text = format!("a directory that can be written, because OPENVIDU_CDR is true ({error})");
            r.refuse_set("OPENVIDU_CDR_PATH", &text);
        }
        cdr
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

//! The configuration of `weir`: one typed struct, parsed once.
//!
//! Precedence: flag, environment, `.env` file, TOML file, default ([`source`]). OpenVidu's property names are taken as they
//! are, Weir's own begin with `WEIR_` ([`property`]). Every refused value is collected and reported with property, value
//! and what is allowed; a set name without effect is a warning that says what becomes of it.
//!
//! Safe by default: without settings Weir listens on loopback with the well-known secret. Listening further needs a
//! secret of one's own.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod ice;
pub mod probe;
pub mod property;
pub mod resolve;
pub mod source;
pub mod value;

mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

pub use self::cluster::{Autoscaling, Cluster, LoadStrategy, ON_PREMISE, PROCESS};
pub use self::ice::{IceAuth, IceServer};
use self::resolve::{Resolved, Resolver};
pub use self::sections::{Cdr, Media, Recording, Sessions, Stats, Streams, Turn, VideoCodec, Webhook};
pub use self::source::{Origin, Surroundings};

/// The OpenVidu version whose contract is served; official clients check it.
pub const OPENVIDU_VERSION: &str = "2.32.2";
/// The secret every OpenVidu tutorial uses; good for loopback only.
pub const DEFAULT_SECRET: &str = "MY_SECRET";
/// Default port of REST, signaling and page.
pub const DEFAULT_PORT: u16 = 4443;

/// Everything the programs need to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of REST, signaling and page.
    pub listen: SocketAddr,
    /// Where certificate, identity and store are kept.
    pub data_dir: PathBuf,
    /// PEM files of the operator's own certificate and key.
    pub tls: Option<TlsFiles>,
    /// Most open connections of clients.
    pub max_connections: usize,
    /// Most of them from one address; loopback is exempt.
    pub max_connections_per_address: usize,
    /// Whether the page may open sessions without the secret.
    pub demo: bool,
    /// The outside's way to reach this server.
    pub public: PublicUrl,
    /// Password of the REST API.
    pub secret: Secret,
    /// Plain HTTP and WebSocket in public URLs, and no redirect to TLS.
    pub force_plain_http: bool,
    /// Serve the paths of OpenVidu before 2.16.
    pub support_deprecated_api: bool,
    /// `pro` or `enterprise`; echoed.
    pub edition: String,
    /// Price of one core for one minute in usage records.
    pub price_per_core_minute: f64,
    /// Call detail records.
    pub cdr: Cdr,
    /// Webhook.
    pub webhook: Webhook,
    /// Collector of sessions nobody joined.
    pub sessions: Sessions,
    /// Defaults of streams.
    pub streams: Streams,
    /// Servers handed to every client without its own.
    pub ice_servers: Vec<IceServer>,
    /// Recording.
    pub recording: Recording,
    /// Media nodes.
    pub cluster: Cluster,
    /// Statistics intervals.
    pub stats: Stats,
    /// External TURN server for older clients.
    pub turn: Turn,
    /// The media node of this machine.
    pub media: Media,
    /// What `weir config check` prints.
    pub resolved: BTreeMap<&'static str, Resolved>,
    /// Names that were set and have no effect, with the reason.
    pub warnings: Vec<String>,
}

/// Certificate and key files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM chain.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
}

/// How the outside reaches this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicUrl {
    /// `http`/`ws` instead of `https`/`wss`.
    pub plain: bool,
    /// Domain or address; IPv6 in brackets.
    pub host: String,
    /// Public port.
    pub port: u16,
}

impl PublicUrl {
    /// `https://HOST[:PORT]`, without a trailing slash; the port is left out where the scheme implies it.
    pub fn http(&self) -> String {
        self.with_scheme(if self.plain { "http" } else { "https" })
    }

    /// `wss://HOST[:PORT]`, as tokens begin.
    pub fn ws(&self) -> String {
        self.with_scheme(if self.plain { "ws" } else { "wss" })
    }

    fn with_scheme(&self, scheme: &str) -> String {
        let implied = if self.plain { 80 } else { 443 };
        if self.port == implied {
            format!("{scheme}://{}", self.host)
        } else {
            format!("{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for comparing and signing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it is the one from the tutorials.
    pub fn is_well_known(&self) -> bool {
        self.0 == DEFAULT_SECRET
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

/// All problems of a configuration, one per line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not valid:\n  {}", .0.join("\n  "))]
pub struct ConfigError(
    /// One sentence per problem.
    pub Vec<String>,
);

impl Config {
    /// Reads all sources and checks every property.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(around: &Surroundings) -> Result<Self, ConfigError> {
        let (layers, source_errors) = source::layers(around);
        let mut resolver = Resolver::new(layers);
        let warnings = resolver.warnings();
        let mut config = Self::resolve(&mut resolver, around);
        config.warnings = warnings;
        config.resolved = std::mem::take(&mut resolver.resolved);
        let errors = source_errors.iter().map(ToString::to_string);
        let errors: Vec<String> = errors.chain(resolver.errors.iter().map(ToString::to_string)).collect();
        if errors.is_empty() { Ok(config) } else { Err(ConfigError(errors)) }
    }

    fn resolve(r: &mut Resolver, around: &Surroundings) -> Self {
        let named = is_publicly_named(r);
        let listen = listen_address(r, named);
        // A public name with a listener on loopback means a proxy in front: as reachable as anything.
        let exposed = named || !listen.ip().is_loopback();
        let secret = r.value("OPENVIDU_SECRET", secret_text);
        if exposed && secret.is_well_known() {
            let text = "a secret of your own ([a-zA-Z0-9_-]+), because other machines can reach this server; \
                        or listen on 127.0.0.1 without a public name";
            r.refuse_set("OPENVIDU_SECRET", text);
        }
        let force_plain_http = r.derived("FORCE_PLAIN_HTTP", value::boolean, || !exposed, bool::to_string);
        let coturn_default = secret.clone();
        Self {
            listen,
            data_dir: r.derived(
                "WEIR_DATA_DIR",
                path,
                || default_data_dir(around),
                |p| p.display().to_string(),
            ),
            tls: tls_files(r),
            max_connections: r.value("WEIR_MAX_CONNECTIONS", connections),
            max_connections_per_address: r.value("WEIR_MAX_CONNECTIONS_PER_ADDRESS", connections),
            demo: r.derived("WEIR_DEMO", value::boolean, || !exposed, bool::to_string),
            public: public_url(r, listen, force_plain_http, around.machine_address),
            secret,
            force_plain_http,
            support_deprecated_api: r.value("SUPPORT_DEPRECATED_API", value::boolean),
            edition: r.value("OPENVIDU_EDITION", |t| value::one_of(t, &["pro", "enterprise"])).to_owned(),
            price_per_core_minute: r.value("WEIR_PRICE_PER_CORE_MINUTE", |t| value::number(t, 0.0, 1e6)),
            cdr: Cdr::resolve(r),
            webhook: Webhook::resolve(r),
            sessions: Sessions::resolve(r),
            streams: Streams::resolve(r),
            ice_servers: r.value("OPENVIDU_WEBRTC_ICE_SERVERS", ice_servers),
            recording: Recording::resolve(r),
            cluster: Cluster::resolve(r),
            stats: Stats::resolve(r),
            turn: Turn::resolve(r, coturn_default),
            media: Media::resolve(r, exposed),
            resolved: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}

/// Whether `DOMAIN_OR_PUBLIC_IP` names something else than this machine's loopback.
fn is_publicly_named(r: &Resolver) -> bool {
    let Some(given) = r.given("DOMAIN_OR_PUBLIC_IP") else { return false };
    let name = given.value.trim();
    let loopback = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    !name.is_empty() && name != "localhost" && !loopback
}

/// `WEIR_LISTEN`, else loopback unless a public name was given: who names a domain wants to be reached by it.
fn listen_address(r: &mut Resolver, named: bool) -> SocketAddr {
    let port = r.optional("SERVER_PORT", value::port).or_else(|| r.optional("HTTPS_PORT", value::port));
    let ip = if named { [0, 0, 0, 0] } else { [127, 0, 0, 1] };
    let default = SocketAddr::from((ip, port.unwrap_or(DEFAULT_PORT)));
    r.derived("WEIR_LISTEN", value::socket_address, || default, SocketAddr::to_string)
}

fn public_url(r: &mut Resolver, listen: SocketAddr, plain: bool, machine: Option<IpAddr>) -> PublicUrl {
    let host = || match (listen.ip(), machine) {
        (ip, _) if ip.is_loopback() => "localhost".to_owned(),
        (ip, Some(machine)) if ip.is_unspecified() => url_host(machine),
        (ip, None) if ip.is_unspecified() => "localhost".to_owned(),
        (ip, _) => url_host(ip),
    };
    let host = r.derived("DOMAIN_OR_PUBLIC_IP", value::host, host, String::clone);
    let port = r.derived("HTTPS_PORT", value::port, || listen.port(), u16::to_string);
    PublicUrl { plain, host, port }
}

fn url_host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

fn secret_text(text: &str) -> Result<Secret, value::Refused> {
    let ok = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if ok { Ok(Secret::new(text)) } else { Err("letters, digits, _ and -, at least one".into()) }
}

fn connections(text: &str) -> Result<usize, value::Refused> {
    value::integer(text, 1, 1_000_000).map(|n| n as usize)
}

fn path(text: &str) -> Result<PathBuf, value::Refused> {
    if text.is_empty() { Err("a path".into()) } else { Ok(PathBuf::from(text)) }
}

fn tls_files(r: &mut Resolver) -> Option<TlsFiles> {
    let (cert, key) = (r.optional("WEIR_TLS_CERT", path), r.optional("WEIR_TLS_KEY", path));
    match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        (Some(_), None) => {
            r.refuse_set("WEIR_TLS_KEY", "the key file that belongs to WEIR_TLS_CERT");
            None
        }
        (None, Some(_)) => {
            r.refuse_set("WEIR_TLS_CERT", "the certificate file that belongs to WEIR_TLS_KEY");
            None
        }
    }
}

fn ice_servers(text: &str) -> Result<Vec<IceServer>, value::Refused> {
    let refused = |e: String| {
        format!("an array of url=...,username=...,credential=... or url=...,staticAuthSecret=...; {e}")
    };
    let items = value::string_array(text).map_err(refused)?;
    let items = if items.iter().any(|i| !i.starts_with("url=")) { rejoin(items) } else { items };
    items.iter().map(|item| IceServer::parse(item).map_err(|e| refused(e.to_string()))).collect()
}

/// Puts unquoted items together again that the lenient array parser split at their inner commas.
fn rejoin(parts: Vec<String>) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for part in parts {
        match items.last_mut() {
            Some(item) if !part.starts_with("url=") => {
                item.push(',');
                item.push_str(&part);
            }
            _ => items.push(part),
        }
    }
    items
}

/// Where state is kept unless told otherwise: `$XDG_STATE_HOME/weir`, `~/.local/state/weir`, `./weir-data`.
fn default_data_dir(around: &Surroundings) -> PathBuf {
    let var = |name: &str| around.environment.get(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    match (var("XDG_STATE_HOME"), var("HOME")) {
        (Some(state), _) => state.join("weir"),
        (None, Some(home)) => home.join(".local/state/weir"),
        (None, None) => around.directory.join("weir-data"),
    }
}

#[cfg(test)]
mod tests;

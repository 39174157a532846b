//! The part of the configuration that is about media nodes: who starts them, how many, where sessions go.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::resolve::Resolver;
use super::sections::{SECONDS_MAX, seconds};
use super::{Secret, probe, value};

/// The script of an environment without which no media node can be launched.
pub const LAUNCH_SCRIPT: &str = "openvidu_launch_kms.sh";

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
    /// Period of load reports, seconds; 0: the shortest there is.
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

    /// Where the scripts of an environment are, if this is one that has them.
    pub fn scripts(&self) -> Option<PathBuf> {
        (!self.joins()).then(|| Path::new(&self.path).join(&self.environment))
    }

    pub(super) fn resolve(r: &mut Resolver) -> Self {
        let cluster = Self::values(r);
        let launch = cluster.scripts().map(|directory| directory.join(LAUNCH_SCRIPT));
        if let Some(script) = launch.filter(|script| !probe::is_file(script)) {
            let text =
                format!("on_premise, process, or a directory of scripts; {} is no file", script.display());
            r.refuse_set("OPENVIDU_PRO_CLUSTER_ENVIRONMENT", &text);
        }
        cluster
    }

    fn values(r: &mut Resolver) -> Self {
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
                value::integer(t, 0, 3600).map(|n| n as u64)
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
        // A node has one media object per stream and nothing beside: there is no filter, mixer or recorder endpoint.
        "streams" | "mediaObjects" => Ok(LoadStrategy::Streams),
        "sessions" => Ok(LoadStrategy::Sessions),
        _ => Err("one of cpu, streams, sessions, mediaObjects".into()),
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

//! Settings of a media node, parsed once into types that cannot hold an invalid value.
//!
//! [`Settings`] is what an operator wrote: text from flags, environment or a file. [`NodeConfig::parse`] turns it into
//! [`NodeConfig`] or into a list of [`ConfigError`], each naming field, value and what is allowed. Nothing in here opens a
//! socket or asks the kernel: `auto` stays `auto` until `node` resolves it.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use subtle::ConstantTimeEq;

/// Port of the control socket when nothing else is said.
pub const DEFAULT_CONTROL_PORT: u16 = 8888;
/// Most shards a node may run.
pub const MAX_CORES: u16 = 256;
/// Most media addresses a node may have: each is one socket per core.
pub const MAX_MEDIA_ADDRESSES: usize = 16;
/// First UDP port when none is configured: the lower end of OpenVidu's documented media range.
pub const DEFAULT_MEDIA_PORT: u16 = 40_000;
/// Receive slots per core when nothing else is said: 256 MiB of address space, touched only as far as it is used. A room
/// of seven keeps about 850 slots in its resend caches (140 packets per second and publisher, for 1 s), so this is good for some 130 rooms
/// with full caches, more than a core forwards; beyond that the caches are used less, and live media is not touched.
pub const DEFAULT_SLOTS_PER_CORE: u32 = 131_072;
/// Transports per core when nothing else is said. A room of seven has 49 of them, one peer connection per stream and
/// direction: this is 334 such rooms.
pub const DEFAULT_TRANSPORTS_PER_CORE: u32 = 16_384;
/// Rooms per node when nothing else is said.
pub const DEFAULT_ROOMS: u32 = 65_536;

/// What the operator wrote; `None` where nothing was said.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Address of the control socket, `IP:PORT`.
    pub listen: Option<String>,
    /// Cluster secret.
    pub secret: Option<String>,
    /// Media addresses: `auto` and `IP[=ANNOUNCED]` items joined by commas.
    pub media_addresses: Option<String>,
    /// First UDP port, 0 for ports the kernel chooses.
    pub media_port: Option<String>,
    /// Number of shards, or `auto`.
    pub cores: Option<String>,
    /// CPUs to pin shards to, as `0,2-3`; gives the number of shards too.
    pub cpus: Option<String>,
    /// `auto`, `io_uring` or `mmsg`.
    pub reactor: Option<String>,
    /// `auto`, `frames` or `sockets`.
    pub send_path: Option<String>,
    /// Receive slots per core.
    pub slots_per_core: Option<String>,
    /// Transports per core.
    pub transports_per_core: Option<String>,
    /// Rooms per node.
    pub rooms: Option<String>,
    /// Seconds a stopping node waits for its rooms to be closed by their users.
    pub drain_s: Option<String>,
    /// Process id of the parent that must not be outlived.
    pub parent: Option<String>,
}

/// A media node's settings.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Where the control socket listens.
    pub listen: SocketAddr,
    /// What a controller must present.
    pub secret: Secret,
    /// Addresses media is received at.
    pub media: MediaAddresses,
    /// UDP port of core 0; core n uses this plus n. `None`: the kernel chooses.
    pub media_port: Option<u16>,
    /// Shards and their CPUs.
    pub cores: Cores,
    /// Which reactor.
    pub reactor: ReactorChoice,
    /// How media leaves.
    pub send_path: SendPath,
    /// Bounds of tables and pools.
    pub limits: Limits,
    /// How long a stopping node waits for its rooms to end by themselves before it closes them.
    pub drain: Duration,
    /// Set when another Weir process started this one: it ends when that process does.
    pub parent: Option<u32>,
}

/// Bounds of tables and pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Receive slots per core, 2 KiB each; they also hold the packets of the resend caches.
    pub slots_per_core: u32,
    /// Transports per core.
    pub transports_per_core: u32,
    /// Rooms per node.
    pub rooms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            slots_per_core: DEFAULT_SLOTS_PER_CORE,
            transports_per_core: DEFAULT_TRANSPORTS_PER_CORE,
            rooms: DEFAULT_ROOMS,
        }
    }
}

/// Which reactor drives the shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReactorChoice {
    /// io_uring where the kernel permits it, else mmsg.
    #[default]
    Auto,
    /// io_uring or refuse to start.
    IoUring,
    /// epoll, recvmmsg and sendmmsg.
    Mmsg,
}

impl FromStr for ReactorChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(ReactorChoice::Auto),
            "io_uring" => Ok(ReactorChoice::IoUring),
            "mmsg" => Ok(ReactorChoice::Mmsg),
            other => Err(format!("reactor `{other}` is unknown: use auto, io_uring or mmsg")),
        }
    }
}

impl fmt::Display for ReactorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReactorChoice::Auto => "auto",
            ReactorChoice::IoUring => "io_uring",
            ReactorChoice::Mmsg => "mmsg",
        })
    }
}

/// How datagrams leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendPath {
    /// Frames where the process may open packet sockets, else the UDP sockets.
    #[default]
    Auto,
    /// Frames by a packet socket, or refuse to start. Destinations that are not reached by Ethernet still go by the UDP
    /// sockets.
    Frames,
    /// The UDP sockets only.
    Sockets,
}

impl FromStr for SendPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(SendPath::Auto),
            "frames" => Ok(SendPath::Frames),
            "sockets" => Ok(SendPath::Sockets),
            other => Err(format!("send path `{other}` is unknown: use auto, frames or sockets")),
        }
    }
}

/// How many shards, and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// One per CPU this process may use.
    Auto,
    /// So many, on the CPUs this process may use in turn.
    Count(u16),
    /// One on each of these CPUs (the kernel's numbers).
    Cpus(Vec<usize>),
}

/// Where media is received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaAddresses {
    /// Also every address of an interface that is up, except loopback and link-local ones.
    pub auto: bool,
    /// Addresses given one by one. They win over what `auto` finds.
    pub explicit: Vec<MediaAddress>,
}

/// One address to bind, and the one to tell browsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaAddress {
    /// Bound; never a wildcard.
    pub bind: IpAddr,
    /// Put into candidates instead of `bind`, for nodes behind a 1:1 NAT.
    pub announced: Option<IpAddr>,
}

impl MediaAddresses {
    /// The addresses to bind, given those that interfaces have: explicit ones first, each address once, loopback only when
    /// it was asked for or when nothing else is there, [`MAX_MEDIA_ADDRESSES`] at most.
    pub fn resolve(&self, interfaces: &[IpAddr]) -> Vec<MediaAddress> {
        let mut found = self.explicit.clone();
        if self.auto {
            for &bind in interfaces {
                if is_candidate(bind) && !found.iter().any(|a| a.bind == bind) {
                    found.push(MediaAddress { bind, announced: None });
                }
            }
        }
        if found.is_empty() {
            found.push(MediaAddress { bind: IpAddr::from([127, 0, 0, 1]), announced: None });
        }
        found.truncate(MAX_MEDIA_ADDRESSES);
        found
    }
}

/// Whether a browser elsewhere could send to this address.
fn is_candidate(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || is_unusable(ip.into())),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || is_unusable(ip.into())),
    }
}

/// Addresses no socket of ours can be bound to.
fn is_unusable(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255, 255, 255, 255])
}

/// The cluster secret. Does not show itself in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Longest secret, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// 1 to [`Self::MAX_BYTES`] printable ASCII characters without blanks, as an HTTP header can carry.
    pub fn new(text: &str) -> Option<Secret> {
        let fits =
            !text.is_empty() && text.len() <= Self::MAX_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Secret(text.to_owned()))
    }

    /// Compares in time that depends on the lengths only.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(presented).into()
    }

    /// The secret itself, to present it elsewhere.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// One setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = \"{value}\" is not valid; allowed: {allowed}")]
pub struct ConfigError {
    /// Name of the setting, as in the `weir node` flags.
    pub field: &'static str,
    /// What was written; masked for the secret.
    pub value: String,
    /// What would have been accepted.
    pub allowed: String,
}

/// Every setting that cannot work, so that an operator sees all of them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

impl NodeConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// All settings that cannot work, in the order of the fields.
    pub fn parse(settings: &Settings) -> Result<NodeConfig, ConfigErrors> {
        let mut errors = Vec::new();
        let config = NodeConfig {
            listen: read(&mut errors, "listen", &settings.listen, default_listen(), "IP:PORT", |s| {
                s.parse().ok()
            }),
            secret: parse_secret(&mut errors, &settings.secret),
            media: read(
                &mut errors,
                "media-addresses",
                &settings.media_addresses,
                MediaAddresses { auto: true, explicit: Vec::new() },
                "`auto` and IP[=ANNOUNCED_IP] items joined by commas, at most 16, no wildcard and no multicast address",
                parse_media_addresses,
            ),
            media_port: parse_media_port(&mut errors, &settings.media_port),
            cores: parse_cores(&mut errors, settings),
            reactor: read(
                &mut errors,
                "reactor",
                &settings.reactor,
                ReactorChoice::Auto,
                "auto, io_uring, mmsg",
                |s| s.parse().ok(),
            ),
            send_path: read(
                &mut errors,
                "send-path",
                &settings.send_path,
                SendPath::Auto,
                "auto, frames, sockets",
                |s| s.parse().ok(),
            ),
            limits: parse_limits(&mut errors, settings),
            drain: Duration::from_secs(number(&mut errors, "drain-s", &settings.drain_s, 0, 0, 86_400)),
            parent: parse_parent(&mut errors, &settings.parent),
        };
        check_ports(&mut errors, &config);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// Whether there is a UDP port for each of so many cores.
    ///
    /// # Errors
    /// `media-port` is too high for that.
    pub fn check_ports(&self, cores: usize) -> Result<(), ConfigError> {
        let last_base = (usize::from(u16::MAX) + 1).saturating_sub(cores);
        match self.media_port {
            Some(port) if usize::from(port) > last_base => {
                let allowed = format!("0, or at most {last_base} with {cores} cores (one port per core)");
                Err(ConfigError { field: "media-port", value: port.to_string(), allowed })
            }
            _ => Ok(()),
        }
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], DEFAULT_CONTROL_PORT))
}

/// Parses `text` when it is there; notes an error and goes on with the default when it does not parse.
fn read<T>(
    errors: &mut Vec<ConfigError>,
    field: &'static str,
    text: &Option<String>,
    default: T,
    allowed: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> T {
    let Some(text) = text else { return default };
    parse(text.trim()).unwrap_or_else(|| {
        errors.push(ConfigError { field, value: text.clone(), allowed: allowed.to_owned() });
        default
    })
}

fn number<T>(
    errors: &mut Vec<ConfigError>,
    field: &'static str,
    text: &Option<String>,
    default: T,
    min: T,
    max: T,
) -> T
where
    T: FromStr + PartialOrd + Copy + fmt::Display,
{
    let allowed = format!("a whole number from {min} to {max}");
    read(errors, field, text, default, &allowed, |s| s.parse().ok().filter(|n| (min..=max).contains(n)))
}

fn parse_secret(errors: &mut Vec<ConfigError>, text: &Option<String>) -> Secret {
    let parsed = text.as_deref().and_then(Secret::new);
    parsed.unwrap_or_else(|| {
        let value = if text.as_deref().is_none_or(str::is_empty) { "" } else { "***" };
        let allowed = "1 to 256 printable ASCII characters without blanks; it is mandatory".to_owned();
        errors.push(ConfigError { field: "secret", value: value.to_owned(), allowed });
        Secret(String::new())
    })
}

fn parse_media_addresses(text: &str) -> Option<MediaAddresses> {
    let mut parsed = MediaAddresses { auto: false, explicit: Vec::new() };
    for item in text.split(',').map(str::trim) {
        if item == "auto" {
            parsed.auto = true;
            continue;
        }
        let (bind, announced) = match item.split_once('=') {
            Some((bind, announced)) => (bind.trim().parse().ok()?, Some(announced.trim().parse().ok()?)),
            None => (item.parse().ok()?, None),
        };
        if is_unusable(bind)
            || announced.is_some_and(is_unusable)
            || parsed.explicit.iter().any(|a| a.bind == bind)
        {
            return None;
        }
        parsed.explicit.push(MediaAddress { bind, announced });
    }
    (parsed.explicit.len() <= MAX_MEDIA_ADDRESSES).then_some(parsed)
}

fn parse_media_port(errors: &mut Vec<ConfigError>, text: &Option<String>) -> Option<u16> {
    let port = number(errors, "media-port", text, DEFAULT_MEDIA_PORT, 0, u16::MAX);
    (port != 0).then_some(port)
}

fn parse_cores(errors: &mut Vec<ConfigError>, settings: &Settings) -> Cores {
    let allowed = format!("auto, or a whole number from 1 to {MAX_CORES}");
    let count = read(errors, "cores", &settings.cores, Cores::Auto, &allowed, |s| match s {
        "auto" => Some(Cores::Auto),
        _ => s.parse().ok().filter(|n| (1..=MAX_CORES).contains(n)).map(Cores::Count),
    });
    let allowed =
        "CPU numbers and ranges joined by commas, each CPU once, as many as `cores` when that is given";
    read(errors, "cpus", &settings.cpus, count.clone(), allowed, |s| {
        let cpus = parse_cpu_list(s)?;
        let agrees = !matches!(count, Cores::Count(n) if usize::from(n) != cpus.len());
        agrees.then_some(Cores::Cpus(cpus))
    })
}

fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    // The kernel's own limit for the affinity mask we use.
    const MAX_CPU: usize = 1023;
    let mut cpus = Vec::new();
    for item in text.split(',').map(str::trim) {
        let (first, last): (usize, usize) = match item.split_once('-') {
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None => (item.parse().ok()?, item.parse().ok()?),
        };
        if first > last || last > MAX_CPU || cpus.len() + (last - first) >= usize::from(MAX_CORES) {
            return None;
        }
        for cpu in first..=last {
            if cpus.contains(&cpu) {
                return None;
            }
            cpus.push(cpu);
        }
    }
    Some(cpus)
}

fn parse_limits(errors: &mut Vec<ConfigError>, settings: &Settings) -> Limits {
    let default = Limits::default();
    Limits {
        slots_per_core: number(
            errors,
            "slots-per-core",
            &settings.slots_per_core,
            default.slots_per_core,
            512,
            1 << 20,
        ),
        transports_per_core: number(
            errors,
            "transports-per-core",
            &settings.transports_per_core,
            default.transports_per_core,
            1,
            65_536,
        ),
        rooms: number(errors, "rooms", &settings.rooms, default.rooms, 1, 1 << 20),
    }
}

fn parse_parent(errors: &mut Vec<ConfigError>, text: &Option<String>) -> Option<u32> {
    // Process 1 never dies before us, so 0 can stand for "none" in here.
    let parent = number(errors, "parent", text, 0, 1, i32::MAX as u32);
    (parent != 0).then_some(parent)
}

/// The ports of all cores must exist. How many `auto` stands for is known to `node` only, which asks again.
fn check_ports(errors: &mut Vec<ConfigError>, config: &NodeConfig) {
    let cores = match &config.cores {
        Cores::Auto => 1,
        Cores::Count(n) => usize::from(*n),
        Cores::Cpus(cpus) => cpus.len(),
    };
    errors.extend(config.check_ports(cores).err());
}

#[cfg(test)]
mod tests;

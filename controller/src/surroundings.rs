//! What the process finds around it: environment, directory, the machine's address, logging.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::{IpAddr, UdpSocket};

use anyhow::Context as _;
use controller::config::{Config, Surroundings};
use controller::store::{self, Restarts};
use tracing_subscriber::EnvFilter;

/// The configuration and what earlier restarts left behind. `flags`: by property name.
pub(crate) fn load(flags: BTreeMap<String, String>) -> anyhow::Result<(Config, Restarts, Surroundings)> {
    let directory = std::env::current_dir().context("no working directory")?;
    let text = |text: std::ffi::OsString| text.into_string().ok();
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect();
    let mut around =
        Surroundings { flags, restarted: None, environment, directory, machine_address: machine_address() };
    let config = Config::load(&around)?;
    let restarts = store::restarts(&config.data_dir)?;
    if restarts.properties.is_empty() {
        return Ok((config, restarts, around));
    }
    around.restarted = Some((store::restart_file(&config.data_dir), restarts.properties.clone()));
    Ok((Config::load(&around)?, restarts, around))
}

/// The address this machine would speak to the world from. Nothing is sent: connecting a UDP socket only asks the routing
/// table. 192.0.2.1 is a documentation address (RFC 5737).
fn machine_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect(("192.0.2.1", 9)).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// Logs to stderr; `WEIR_LOG` or `RUST_LOG` say how much, else `default`.
pub(crate) fn log(default: &str) {
    let given = ["WEIR_LOG", "RUST_LOG"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
    let filter =
        EnvFilter::try_new(given.as_deref().unwrap_or(default)).unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(true)
        .init();
}

/// Lets this process open as many files as the system allows it: each client is one.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) =
            setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

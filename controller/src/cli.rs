//! The command line. Flags are one more source of the configuration, the one that wins.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(version, about = "Weir: a selective forwarding unit that speaks the OpenVidu 2 protocols")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Controller and media nodes on this machine (the default)
    Up(ServerFlags),
    /// The controller alone; media nodes are named by KMS_URIS, added by REST or launched
    Controller(ServerFlags),
    /// A media node
    Node(Box<NodeFlags>),
    /// The configuration
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Replay a load scenario through placement and autoscaler on a virtual clock
    Simulate(SimulateFlags),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Print every property with its value and origin, or all that is wrong
    Check(ServerFlags),
}

#[derive(Debug, Args)]
pub(crate) struct SimulateFlags {
    /// The scenario (TOML)
    pub(crate) file: PathBuf,
    /// Write one row per step as CSV
    #[arg(long, value_name = "OUT")]
    pub(crate) csv: Option<PathBuf>,
    /// Draw loads and nodes over time
    #[arg(long, value_name = "OUT")]
    pub(crate) svg: Option<PathBuf>,
}

/// Flags of the server; each stands for a property, which the environment or a file may set as well.
#[derive(Debug, Default, Args)]
pub(crate) struct ServerFlags {
    /// Address of page, REST and signaling [WEIR_LISTEN]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where certificate, identity and state are kept [WEIR_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// TOML file with properties [WEIR_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Name or address clients reach this server by [DOMAIN_OR_PUBLIC_IP]
    #[arg(long, value_name = "HOST")]
    domain: Option<String>,
    /// auto, io_uring or mmsg [WEIR_REACTOR]
    #[arg(long, value_name = "NAME")]
    reactor: Option<String>,
    /// How media leaves: auto, frames or sockets [WEIR_SEND_PATH]
    #[arg(long, value_name = "NAME")]
    send_path: Option<String>,
    /// Cores for media: auto or a number [WEIR_CORES]
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// Addresses for media: auto, BIND or BIND=ANNOUNCED, by commas [WEIR_MEDIA_ADDRESSES]
    #[arg(long, value_name = "LIST")]
    media_addresses: Option<String>,
    /// First UDP port for media, one per core; 0: any [WEIR_MEDIA_PORT]
    #[arg(long, value_name = "PORT")]
    media_port: Option<String>,
}

impl ServerFlags {
    /// The given flags by property name.
    pub(crate) fn properties(&self) -> BTreeMap<String, String> {
        let all = [
            ("WEIR_LISTEN", &self.listen),
            ("WEIR_DATA_DIR", &self.data_dir),
            ("WEIR_CONFIG", &self.config),
            ("DOMAIN_OR_PUBLIC_IP", &self.domain),
            ("WEIR_REACTOR", &self.reactor),
            ("WEIR_SEND_PATH", &self.send_path),
            ("WEIR_CORES", &self.cores),
            ("WEIR_MEDIA_ADDRESSES", &self.media_addresses),
            ("WEIR_MEDIA_PORT", &self.media_port),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?))).collect()
    }

    /// These flags, and those of `other` where these say nothing: `weir --listen X up` is as `weir up --listen X`.
    pub(crate) fn or(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            data_dir: self.data_dir.or(other.data_dir),
            config: self.config.or(other.config),
            domain: self.domain.or(other.domain),
            reactor: self.reactor.or(other.reactor),
            send_path: self.send_path.or(other.send_path),
            cores: self.cores.or(other.cores),
            media_addresses: self.media_addresses.or(other.media_addresses),
            media_port: self.media_port.or(other.media_port),
        }
    }
}

/// Flags of a media node.
#[derive(Debug, Args)]
pub(crate) struct NodeFlags {
    /// Address of the control socket
    #[arg(long, env = "WEIR_NODE_LISTEN", value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Secret controllers must present; better given by the environment, where `ps` does not show it
    #[arg(long, env = "WEIR_CLUSTER_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub(crate) secret: Option<String>,
    /// Addresses for media: auto, BIND or BIND=ANNOUNCED, by commas
    #[arg(long, env = "WEIR_MEDIA_ADDRESSES", value_name = "LIST")]
    pub(crate) media_addresses: Option<String>,
    /// First UDP port for media, one per core; 0: any
    #[arg(long, env = "WEIR_MEDIA_PORT", value_name = "PORT")]
    pub(crate) media_port: Option<String>,
    /// Cores for media: auto or a number
    #[arg(long, env = "WEIR_CORES", value_name = "N")]
    pub(crate) cores: Option<String>,
    /// CPUs to pin cores to, as 0,2-3
    #[arg(long, env = "WEIR_CPUS", value_name = "LIST")]
    pub(crate) cpus: Option<String>,
    /// auto, io_uring or mmsg
    #[arg(long, env = "WEIR_REACTOR", value_name = "NAME")]
    pub(crate) reactor: Option<String>,
    /// How media leaves: frames by a packet socket, sockets, or auto
    #[arg(long, env = "WEIR_SEND_PATH", value_name = "NAME")]
    pub(crate) send_path: Option<String>,
    /// Receive slots of 2 KiB per core
    #[arg(long, env = "WEIR_SLOTS_PER_CORE", value_name = "N")]
    pub(crate) slots_per_core: Option<String>,
    /// Peer connections per core
    #[arg(long, env = "WEIR_TRANSPORTS_PER_CORE", value_name = "N")]
    pub(crate) transports_per_core: Option<String>,
    /// Rooms per node
    #[arg(long, env = "WEIR_ROOMS", value_name = "N")]
    pub(crate) rooms: Option<String>,
    /// Seconds a stopping node waits for its rooms to end by themselves
    #[arg(long, env = "WEIR_DRAIN_S", value_name = "SECONDS")]
    pub(crate) drain_s: Option<String>,
    /// Process that must not be outlived
    #[arg(long, hide = true)]
    pub(crate) parent: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_on_either_side_of_the_command() {
        for line in [
            &["weir", "--listen", "127.0.0.1:1", "--data-dir", "d"][..],
            &["weir", "up", "--listen", "127.0.0.1:1", "--data-dir", "d"],
            &["weir", "--listen", "127.0.0.1:1", "up", "--data-dir", "d"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            let flags = match cli.command {
                None => cli.server,
                Some(Command::Up(flags)) => flags.or(cli.server),
                other => panic!("{other:?}"),
            };
            let given: Vec<_> = flags.properties().into_iter().collect();
            let expected = [("WEIR_DATA_DIR", "d"), ("WEIR_LISTEN", "127.0.0.1:1")];
            assert_eq!(given, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
        }
    }
}

//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load tests of a WebRTC media server with real clients and real media.
#[derive(Parser)]
#[command(name = "load-tests", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Puts sessions onto a media server and measures.
    Run(RunOptions),
    /// Says how many nodes a wish needs, from a measured report.
    Plan(crate::plan::PlanOptions),
    /// Shows a saved report again, or writes its HTML page.
    Report(crate::report::ReportOptions),
}

/// A system under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetKind {
    /// Weir over REST and JSON-RPC.
    Weir,
    /// Janus' videoroom over its WebSocket API.
    Janus,
    /// A `livekit-server` over its client protocol.
    Livekit,
}

/// Kernel interface of Weir's media node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Reactor {
    /// io_uring.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll, recvmmsg, sendmmsg.
    Mmsg,
}

impl Reactor {
    /// As Weir's own option wants it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reactor::IoUring => "io_uring",
            Reactor::Mmsg => "mmsg",
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RunOptions {
    /// A scenario of load-tests/scenarios (7-to-7, 1-to-1, ...) or a path to a TOML file.
    pub(crate) scenario: String,
    /// What is measured.
    #[arg(long, value_enum, default_value = "weir")]
    pub(crate) target: TargetKind,
    /// A server that runs already (Weir: http or https; others: ws or wss); without it the target is started, pinned,
    /// measured and stopped.
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// PEM file with the CA, or the self-signed certificate, of the server at --url; the platform's CAs when not given.
    #[arg(long, requires = "url", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Takes any certificate of the server at --url.
    #[arg(long, requires = "url")]
    pub(crate) insecure: bool,
    /// Secret of the server at --url.
    #[arg(long, env = "OPENVIDU_SECRET", default_value = "MY_SECRET", hide_env_values = true)]
    pub(crate) secret: String,
    /// Numbers of sessions held one after the other; without it the ramp looks for the capacity by itself.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) steps: Vec<u32>,
    /// Seconds that each step is measured.
    #[arg(long, default_value_t = 10)]
    pub(crate) secs: u32,
    /// No step beyond this many sessions, unless --steps names it.
    #[arg(long, default_value_t = 400)]
    pub(crate) max_sessions: u32,
    /// The run ends after this many seconds, whatever was reached.
    #[arg(long, default_value_t = 900)]
    pub(crate) max_secs: u32,
    /// Writes the report as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Writes the report as one self-contained HTML page.
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
    /// Kernel interface of Weir's media node.
    #[arg(long, value_enum)]
    pub(crate) reactor: Option<Reactor>,
    /// Targets measured in turns, e.g. weir:io_uring,weir:mmsg,janus; each is repeated --rounds times, A B C A B C.
    #[arg(long, value_delimiter = ',')]
    pub(crate) turns: Vec<String>,
    /// How often each target of --turns is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Cores of the media node, by commas.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub(crate) sut_cores: Vec<usize>,
    /// Cores of the generator, by commas; one worker thread each.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub(crate) generator_cores: Vec<usize>,
    /// The target runs in a network namespace behind a veth pair.
    #[arg(long)]
    pub(crate) netns: bool,
    /// With --netns: receive work runs on the receiver's core (receive packet steering), as with two machines, and costs an
    /// interrupt between the cores; without it the sender's core does it, as on loopback.
    #[arg(long, requires = "netns")]
    pub(crate) steering: bool,
    /// With --netns: the clients sit at the end of a TAP device and not on sockets, so that the target's core ends where a
    /// network card would begin, and does not do the clients' receive work. IPv4; one generator core; Linux 6.2.
    #[arg(long, requires = "netns", conflicts_with = "steering")]
    pub(crate) wire: bool,
    /// Niceness of the generator's workers and of what handles media in the target, e.g. -19 on a machine where other things
    /// run; below 0 needs root.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub(crate) nice: i32,
    /// Share of the clients, 0 to 1, that are full WebRTC clients instead of light ones.
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    pub(crate) full_share: f64,
    /// Headless Chromium participants that join a loaded session and report what they saw.
    #[arg(long, default_value_t = 0)]
    pub(crate) witnesses: u32,

    /// Streams that each of these browsers receives, where the cores have no room for all of them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) witness_streams: Option<u32>,
    /// First TCP port for targets that are started here.
    #[arg(long, default_value_t = 24000)]
    pub(crate) tcp_port: u16,
    /// First UDP port for targets that are started here.
    #[arg(long, default_value_t = 34000)]
    pub(crate) udp_port: u16,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| "not a number from 0 to 1".to_owned())
}

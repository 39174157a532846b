//! What each command does, up to the point where the runtime takes over.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use controller::config::resolve;
use controller::simulate;
use sfu_core::control::proto;

use crate::cli::{Cli, Command, ConfigAction, NodeFlags, ServerFlags, SimulateFlags};
use crate::{surroundings, up};

/// Runs the command; returns when it is done.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        None => server(cli.server, true),
        Some(Command::Up(flags)) => server(flags.or(cli.server), true),
        Some(Command::Controller(flags)) => server(flags.or(cli.server), false),
        Some(Command::Node(flags)) => node(*flags),
        Some(Command::Config { action: ConfigAction::Check(flags) }) => check(flags.or(cli.server)),
        Some(Command::Simulate(flags)) => run_scenario(&flags),
    }
}

/// How long tasks that did not end by themselves may take at the end of the process.
const RUNTIME_END: Duration = Duration::from_millis(500);

/// `everything`: on this machine, media nodes too.
fn server(flags: ServerFlags, everything: bool) -> anyhow::Result<()> {
    surroundings::log(if everything { "warn" } else { "info" });
    let (mut config, restarts, around) = surroundings::load(flags.properties())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if everything {
        config.cluster.on_this_machine();
    }
    surroundings::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    let end = runtime.block_on(up::run(config, restarts, around));
    runtime.shutdown_timeout(RUNTIME_END);
    match end? {
        up::End::Stopped => Ok(()),
        up::End::Restart => start_again(),
    }
}

/// Replaces this process by a new one with the same command line; returns only if that fails.
fn start_again() -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let program = std::env::current_exe().context("own path")?;
    let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
    Err(error).context("starting again")
}

fn node(flags: NodeFlags) -> anyhow::Result<()> {
    surroundings::log(if flags.parent.is_some() { "warn" } else { "info" });
    let config = sfu_core::config::NodeConfig::parse(&sfu_core::config::Settings {
        listen: flags.listen,
        secret: flags.secret,
        media_addresses: flags.media_addresses,
        media_port: flags.media_port,
        cores: flags.cores,
        cpus: flags.cpus,
        reactor: flags.reactor,
        send_path: flags.send_path,
        slots_per_core: flags.slots_per_core,
        transports_per_core: flags.transports_per_core,
        rooms: flags.rooms,
        drain_s: flags.drain_s,
        parent: flags.parent,
    })?;
    let node = sfu_core::node::Node::start(&config)?;
    let (address, info) = (node.control, &node.info);
    // Whoever started us may have closed the pipe; that is no reason not to run.
    let _ = writeln!(std::io::stdout(), "{}", proto::ready_line(address));
    tracing::info!(control = %address, reactor = info.reactor, cores = info.cores.len(), "media node is ready");
    Ok(node.run_until_signalled(config.parent)?)
}

fn check(flags: ServerFlags) -> anyhow::Result<()> {
    let (config, _, _) = surroundings::load(flags.properties())?;
    up::check_uris(&config)?;
    say(&resolve::print_out(&config.resolved));
    for warning in &config.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

fn run_scenario(flags: &SimulateFlags) -> anyhow::Result<()> {
    let file = &flags.file;
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    // A trace lies beside its scenario.
    let open = |name: &str| {
        let path = file.with_file_name(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let scenario = simulate::Scenario::parse(&text, open).with_context(|| file.display().to_string())?;
    let outcome = simulate::simulate(&scenario);
    let outputs =
        [(&flags.csv, simulate::csv(&outcome.rows)), (&flags.svg, simulate::svg(&scenario, &outcome))];
    for (path, content) in outputs {
        if let Some(path) = path {
            fs::write(path, content).with_context(|| path.display().to_string())?;
        }
    }
    say(&simulate::table(&scenario, &outcome));
    Ok(())
}

/// Whoever reads may have read enough (`| head`).
fn say(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

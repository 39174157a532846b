//! Runs: which targets in which turns, and the report of it all.

#[cfg(test)]
mod fake;
mod measure;
mod netns;
mod ramp;
mod session;
mod turn;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};

use self::netns::Netns;
use crate::cli::{Reactor, RunOptions, TargetKind};
use crate::client::Clients;
use crate::media::Clip;
use crate::report::model::{self, Report};
use crate::report::progress::Progress;
use crate::report::{self};
use crate::scenario::Scenario;
use crate::target::janus::Janus;
use crate::target::livekit::LiveKit;
use crate::target::tls::Trust;
use crate::target::weir::Weir;
use crate::target::{Placement, Target};
use crate::{clock, host};

/// Audio packets per second of one publisher.
const AUDIO_PER_S: f64 = 50.0;

/// A target and its variant, as `--turns` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Choice {
    kind: TargetKind,
    reactor: Option<Reactor>,
}

impl Choice {
    /// `weir`, `weir:mmsg`, `janus`.
    fn parse(text: &str) -> Result<Choice> {
        use clap::ValueEnum as _;
        let (kind, variant) =
            text.split_once(':').map_or((text, None), |(kind, variant)| (kind, Some(variant)));
        let kind = TargetKind::from_str(kind, true).ok().with_context(|| {
            format!("--turns: \"{kind}\" is none of weir, weir:io_uring, weir:mmsg, janus, livekit")
        })?;
        let reactor = variant
            .map(|name| {
                Reactor::from_str(name, true).ok().with_context(|| format!("--turns: no variant \"{name}\""))
            })
            .transpose()?;
        Choice::new(kind, reactor)
    }

    fn new(kind: TargetKind, reactor: Option<Reactor>) -> Result<Choice> {
        let choice = Choice { kind, reactor };
        let fits = reactor.is_none() || kind == TargetKind::Weir;
        anyhow::ensure!(fits, "{} has no reactors to choose from", choice.name());
        Ok(choice)
    }

    fn name(self) -> &'static str {
        match self.kind {
            TargetKind::Weir => "weir",
            TargetKind::Janus => "janus",
            TargetKind::Livekit => "livekit",
        }
    }

    fn make(self, options: &RunOptions, trust: &Trust) -> Result<Box<dyn Target>> {
        let (url, trust) = (options.url.clone(), trust.clone());
        Ok(match self.kind {
            TargetKind::Weir => Box::new(Weir::new(url, options.secret.clone(), self.reactor, trust)),
            TargetKind::Janus => Box::new(Janus::new(url, options.netns, trust)?),
            TargetKind::Livekit => Box::new(LiveKit::new(url, &options.secret, trust)?),
        })
    }

    /// Whether a server of this kind can be at `url`.
    fn check_url(self, url: &str) -> Result<()> {
        let schemes = match self.kind {
            TargetKind::Weir => ["http://", "https://"],
            TargetKind::Janus | TargetKind::Livekit => ["ws://", "wss://"],
        };
        let fits = schemes.iter().any(|scheme| url.starts_with(scheme));
        anyhow::ensure!(fits, "--url {url}: {} is at {} or {}", self.name(), schemes[0], schemes[1]);
        Ok(())
    }

    fn model(self) -> model::Target {
        let variant = self.reactor.map(|reactor| reactor.name().to_owned());
        model::Target { name: self.name().to_owned(), variant, version: None, options: BTreeMap::new() }
    }
}

/// Runs a scenario and delivers the report.
///
/// # Errors
/// When nothing could be measured.
pub(crate) fn command(options: &RunOptions) -> Result<()> {
    let scenario = Scenario::load(&options.scenario)?;
    let choices = choices(options)?;
    for (option, cores) in
        [("--sut-cores", &options.sut_cores), ("--generator-cores", &options.generator_cores)]
    {
        host::check_cores(cores).with_context(|| option.to_owned())?;
    }
    let trust = trust(options)?;
    let measured = turn::block_on(async {
        tokio::select! {
            report = measure_all(options, &scenario, &choices, &trust) => report,
            signal = interrupted() => Err(anyhow::anyhow!("ended by {signal}; what was started is stopped")),
        }
    });
    let report = measured?;
    report::deliver(&report, options.json.as_deref(), options.html.as_deref())?;
    let measured = report.turns.iter().any(|turn| !turn.steps.is_empty());
    anyhow::ensure!(measured, "nothing could be measured");
    Ok(())
}

/// Until somebody ends the program. Targets and network namespaces must not outlive it.
async fn interrupted() -> &'static str {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        Ok(()) = tokio::signal::ctrl_c() => "SIGINT",
        () = terminated => "SIGTERM",
    }
}

/// Whose certificates are taken; targets that are started here have none.
fn trust(options: &RunOptions) -> Result<Trust> {
    match (&options.url, &options.ca, options.insecure) {
        (None, ..) => Trust::nobody(),
        (_, Some(file), _) => Trust::file(file),
        (_, None, true) => Trust::anybody(),
        (_, None, false) => Trust::platform(),
    }
}

/// Targets in the order in which they run, rounds included.
fn choices(options: &RunOptions) -> Result<Vec<(Choice, u32)>> {
    if options.turns.is_empty() {
        let choice = Choice::new(options.target, options.reactor)?;
        options.url.as_deref().map_or(Ok(()), |url| choice.check_url(url))?;
        return Ok(vec![(choice, 1)]);
    }
    anyhow::ensure!(options.url.is_none(), "--turns starts its targets: it does not go with --url");
    let named: Vec<Choice> = options.turns.iter().map(|text| Choice::parse(text)).collect::<Result<_>>()?;
    // Written out (A,B,A,B) the list is what runs; written once, it is repeated.
    let repeated = named.iter().enumerate().any(|(index, choice)| named[..index].contains(choice));
    let rounds = if repeated { 1 } else { options.rounds };
    let all: Vec<Choice> = (0..rounds).flat_map(|_| named.clone()).collect();
    let round = |index: usize| all[..=index].iter().filter(|choice| **choice == all[index]).count() as u32;
    Ok((0..all.len()).map(|index| (all[index], round(index))).collect())
}

async fn measure_all(
    options: &RunOptions,
    scenario: &Scenario,
    choices: &[(Choice, u32)],
    trust: &Trust,
) -> Result<Report> {
    let files = host::raise_file_limit()?;
    anyhow::ensure!(files > 1_000, "only {files} open files are allowed: raise the limit (ulimit -n)");
    host::pin_this_thread(&options.generator_cores);
    let clip = Clip::load()?;
    let clip_rate = packets_per_s(&clip);
    let steering = options.steering.then_some((&options.sut_cores[..], &options.generator_cores[..]));
    let netns = options.netns.then(|| Netns::create(steering, options.wire)).transpose()?;
    let (here, there) = addresses(netns.as_ref(), options.url.is_some());
    let placement = Placement {
        cores: options.sut_cores.clone(),
        control_cores: options.generator_cores.clone(),
        address: there,
        media: netns.as_ref().map_or(there, |netns| netns.media),
        netns: netns.as_ref().map(|netns| netns.name.clone()),
        nice: options.nice,
        tcp_port: options.tcp_port,
        udp_port: options.udp_port,
    };
    let wire = netns.as_ref().and_then(|netns| netns.wire.clone());
    // Packets come first on both sides; signaling of either takes what they leave. A thread keeps the niceness it began with.
    host::set_nice(options.nice)?;
    host::set_group_nice(options.nice);
    let clients =
        Arc::new(Clients::start(&options.generator_cores, here, wire, clip.clone(), options.full_share)?);
    host::set_nice(0)?;
    let progress = Progress::new(choices.len() as u32);
    let mut report = head(options, scenario, &clip);
    let end = clock::now() + Duration::from_secs(u64::from(options.max_secs));
    for (index, (choice, round)) in choices.iter().enumerate() {
        let target = match choice.make(options, trust) {
            Ok(target) => target,
            Err(error) => {
                report.skipped.push(format!("{error:#}"));
                continue;
            }
        };
        let now = clock::now();
        let share = end.saturating_duration_since(now) / (choices.len() - index) as u32;
        let plan = turn::Plan {
            scenario,
            steps: steps(options, scenario),
            max_sessions: options.max_sessions,
            hold: Duration::from_secs(u64::from(options.secs.max(1))),
            witnesses: options.witnesses,
            witness_streams: options.witness_streams,
            deadline: now + share,
            placement: &placement,
            ours: options.url.is_none(),
            clients: &clients,
            clip_rate,
            progress: &progress,
            netns: netns.as_ref(),
        };
        report.turns.push(turn::run(&plan, target, choice.model(), *round).await);
    }
    progress.finish();
    Ok(report)
}

/// Numbers of sessions to be held: those of the command line, or the scenario's as far as they are allowed; none for the ramp.
fn steps(options: &RunOptions, scenario: &Scenario) -> Vec<u32> {
    if !options.steps.is_empty() || scenario.steps.is_empty() {
        return options.steps.clone();
    }
    let most = options.max_sessions.max(1);
    let allowed: Vec<u32> = scenario.steps.iter().copied().filter(|step| *step <= most).collect();
    if allowed.is_empty() { vec![most] } else { allowed }
}

/// Addresses of the clients and of a target that is started here.
fn addresses(netns: Option<&Netns>, remote: bool) -> (IpAddr, IpAddr) {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    match netns {
        Some(netns) => (netns.here, netns.there),
        // A server elsewhere is reached from whatever address the route has.
        None if remote => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), loopback),
        None => (loopback, loopback),
    }
}

/// RTP packets per second of one publisher of the clip.
fn packets_per_s(clip: &Arc<Clip>) -> f64 {
    let units = crate::client::units::Units::new(clip.clone());
    let fragments: usize = (0..clip.video.len()).map(|frame| units.frame(frame).1.len()).sum();
    AUDIO_PER_S + fragments as f64 * f64::from(clip.video_fps) / clip.video.len() as f64
}

fn head(options: &RunOptions, scenario: &Scenario, clip: &Clip) -> Report {
    let numbers = |cores: &[usize]| cores.iter().map(|core| *core as u32).collect();
    let ours = options.url.is_none();
    Report {
        format: model::FORMAT,
        machine: model::Machine {
            cpu: host::cpu_name(),
            cores: host::cores(),
            memory_bytes: host::memory_bytes(),
            kernel: host::kernel(),
        },
        commit: host::commit(),
        command: std::env::args().collect::<Vec<_>>().join(" "),
        started: host::rfc3339(clock::wall_ns() / 1_000_000_000),
        setup: model::Setup {
            network: match (ours, options.netns) {
                (true, true) if options.wire => model::Network::Wire,
                (true, true) => model::Network::Netns,
                (true, false) => model::Network::Loopback,
                (false, _) => model::Network::Remote,
            },
            target_cpus: if ours { numbers(&options.sut_cores) } else { Vec::new() },
            generator_cpus: numbers(&options.generator_cores),
        },
        scenario: model::Scenario {
            name: scenario.name.clone(),
            publishers: scenario.publishers,
            subscribers: scenario.subscriptions(),
            media: clip.label.clone(),
            users: scenario.users(),
        },
        turns: Vec::new(),
        skipped: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser as _;

    fn options(arguments: &[&str]) -> RunOptions {
        let line = ["load-tests", "run", "7-to-7"].iter().chain(arguments);
        match Cli::parse_from(line).command {
            Command::Run(options) => options,
            _ => panic!("run was asked for"),
        }
    }

    fn order(arguments: &[&str]) -> Vec<(String, u32)> {
        let choices = choices(&options(arguments)).unwrap();
        choices.iter().map(|(choice, round)| (choice.model().label(), *round)).collect()
    }

    #[test]
    fn turns_alternate() {
        let expect =
            |list: &[(&str, u32)]| list.iter().map(|(n, r)| ((*n).to_owned(), *r)).collect::<Vec<_>>();
        assert_eq!(order(&[]), expect(&[("weir", 1)]));
        assert_eq!(order(&["--reactor", "mmsg"]), expect(&[("weir mmsg", 1)]));
        assert_eq!(
            order(&["--turns", "weir:mmsg,janus", "--rounds", "2"]),
            expect(&[("weir mmsg", 1), ("janus", 1), ("weir mmsg", 2), ("janus", 2)])
        );
        assert_eq!(
            order(&["--turns", "janus,weir,janus"]),
            expect(&[("janus", 1), ("weir", 1), ("janus", 2)])
        );
        assert!(choices(&options(&["--turns", "weir:fast"])).is_err());
        assert!(choices(&options(&["--turns", "weir", "--url", "http://x"])).is_err());
    }

    #[test]
    fn steps_are_the_command_lines_or_the_scenarios_or_the_ramps() {
        let of =
            |scenario, arguments: &[&str]| steps(&options(arguments), &Scenario::load(scenario).unwrap());
        assert_eq!(of("churn", &[]), [5, 10, 20]);
        assert_eq!(of("churn", &["--max-sessions", "12"]), [5, 10]);
        assert_eq!(of("churn", &["--max-sessions", "2"]), [2]);
        assert_eq!(of("churn", &["--max-sessions", "2", "--steps", "1,3"]), [1, 3]);
        assert_eq!(of("1-to-2000", &[]), [1]);
        assert_eq!(of("teaching", &[]), [0; 0]);
        let zero = ["load-tests", "run", "7-to-7", "--steps", "1,0"];
        assert!(Cli::try_parse_from(zero).is_err());
    }

    #[test]
    fn each_kind_of_server_has_its_addresses() {
        let check = |target, url| choices(&options(&["--target", target, "--url", url]));
        for (target, url) in
            [("weir", "http://x"), ("weir", "https://x"), ("janus", "ws://x"), ("livekit", "wss://x")]
        {
            check(target, url).unwrap();
        }
        for (target, url) in [("weir", "wss://x"), ("weir", "x:4443"), ("janus", "https://x")] {
            let error = check(target, url).unwrap_err().to_string();
            assert!(error.contains(url) && error.contains("s://"), "{error}");
        }
        let parse =
            |arguments: &[&str]| Cli::try_parse_from(["load-tests", "run", "7-to-7"].iter().chain(arguments));
        assert!(parse(&["--url", "https://x", "--insecure"]).is_ok());
        assert!(parse(&["--url", "https://x", "--insecure", "--ca", "x.pem"]).is_err());
        assert!(parse(&["--insecure"]).is_err() && parse(&["--ca", "x.pem"]).is_err());
    }

    #[test]
    fn the_clip_has_the_expected_packet_rate() {
        let rate = packets_per_s(&Clip::load().unwrap());
        assert!((120.0..170.0).contains(&rate), "{rate}");
    }
}

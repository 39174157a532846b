//! Capacity advice: nodes, headroom, autoscaler limits and cost per hour, from a measured report and a wish.
//!
//! The unit is a stream out of a node: it costs the CPU. Every line of the advice shows what it was computed from, and what is
//! not measured but carried over (other room size, more cores, other machine) is said.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::report::model::{Report, Scenario};
use crate::report::{self, published, summary};

/// A full node's load.
const FULL: f64 = 100.0;
/// Below the load to which a node less would bring the rest: so a shrink is not undone at once.
const SHRINK_MARGIN: f64 = 5.0;

/// What the advice starts from.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanOptions {
    /// JSON report of a run.
    pub(crate) report: PathBuf,
    #[command(flatten)]
    pub(crate) wish: Wish,
}

/// What is wanted.
#[derive(Args, Clone, Debug)]
pub(crate) struct Wish {
    /// Users at the busiest time.
    #[arg(long)]
    pub(crate) users: u32,
    /// Users of one room, each sending one stream and receiving all others; the report's rooms when not given.
    #[arg(long)]
    pub(crate) room: Option<u32>,
    /// Cores of a media node.
    #[arg(long)]
    pub(crate) cores: u32,
    /// Which target of the report, as its columns are headed; the first when not given.
    #[arg(long)]
    pub(crate) target: Option<String>,
    /// Users at the quietest time, for the lower limit of nodes.
    #[arg(long, default_value_t = 0)]
    pub(crate) quiet_users: u32,
    /// Nodes that may fail at the busiest time without anybody noticing.
    #[arg(long, default_value_t = 0)]
    pub(crate) spare: u32,
    /// Average load, 1 to 100, above which the autoscaler adds nodes.
    #[arg(long, default_value_t = 70.0)]
    pub(crate) max_load: f64,
    /// What is left of linear growth on nodes with more cores than were measured, 0 to 1; the published table's when not given.
    #[arg(long)]
    pub(crate) scaling: Option<f64>,
    /// Cores of the controller; they are charged too.
    #[arg(long, default_value_t = 2)]
    pub(crate) controller_cores: u32,
    /// Price of a core for a minute, USD.
    #[arg(long, default_value_t = 0.0006)]
    pub(crate) price: f64,
}

/// Prints the advice.
///
/// # Errors
/// When the report cannot be read or lacks what the arithmetic needs, or the wish cannot be fulfilled.
pub(crate) fn command(options: &PlanOptions) -> Result<()> {
    let report = report::load(&options.report)?;
    println!("{}", advise(&report, &options.wish)?);
    Ok(())
}

/// What the report says of one target.
#[derive(Debug, PartialEq)]
struct Measured {
    label: String,
    sessions: summary::Spread,
    cores: u32,
    /// Streams out of one measured session.
    streams: u32,
    /// Some turn ended before the target did.
    at_least: bool,
}

/// The answer, line by line.
#[derive(Debug, PartialEq)]
pub(crate) struct Advice {
    /// Media nodes at the busiest time, spare ones included.
    pub(crate) nodes: u32,
    /// Media nodes at the quietest time.
    pub(crate) nodes_min: u32,
    /// Average load at the busiest time.
    pub(crate) load: f64,
    /// Lower limit of the autoscaler's load.
    pub(crate) min_load: u32,
    /// USD per hour with all nodes.
    pub(crate) cost_per_hour: f64,
    lines: Vec<String>,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}

/// Advice for a wish.
///
/// # Errors
/// Names what is wrong with the wish, or what the report lacks.
pub(crate) fn advise(report: &Report, wish: &Wish) -> Result<Advice> {
    check(wish)?;
    let measured = measured(report, wish.target.as_deref())?;
    let mut lines = Vec::new();
    let room = room(&report.scenario, wish.room)?;
    let node = node(report, &measured, &room, wish, &mut lines)?;
    nodes(&room, node, wish, lines)
}

fn check(wish: &Wish) -> Result<()> {
    ensure!(wish.users > 0, "--users 0: nobody to plan for");
    ensure!(wish.cores > 0, "--cores 0: a node has at least one core");
    ensure!(
        wish.quiet_users <= wish.users,
        "--quiet-users {} is more than --users {}",
        wish.quiet_users,
        wish.users
    );
    ensure!((1.0..=FULL).contains(&wish.max_load), "--max-load {}: a load is 1 to 100", wish.max_load);
    ensure!(wish.price.is_finite() && wish.price >= 0.0, "--price {}: not a price", wish.price);
    if let Some(scaling) = wish.scaling {
        ensure!(scaling > 0.0 && scaling <= 1.0, "--scaling {scaling}: a share above 0, at most 1");
    }
    Ok(())
}

fn measured(report: &Report, label: Option<&str>) -> Result<Measured> {
    let targets = summary::targets(report);
    let names = || targets.iter().map(|one| one.target.label()).collect::<Vec<_>>().join(", ");
    let target = match label {
        Some(label) => targets
            .iter()
            .find(|one| one.target.label() == label)
            .with_context(|| format!("--target {label}: the report has {}", names()))?,
        None => targets.first().context("the report has no turn")?,
    };
    let cores = u32::try_from(report.setup.target_cpus.len())?;
    ensure!(
        cores > 0,
        "the report does not say how many cores the target had: a server at --url is not ours to pin"
    );
    let sessions = target.sessions().filter(|spread| spread.median > 0.0);
    let sessions =
        sessions.with_context(|| format!("{} held not even its first step", target.target.label()))?;
    Ok(Measured {
        label: target.target.label(),
        sessions,
        cores,
        streams: report.scenario.subscribers,
        at_least: target.at_least(),
    })
}

/// One room of the wish.
struct Room {
    users: u32,
    /// Streams out of the node.
    streams: u32,
    measured: bool,
}

fn room(scenario: &Scenario, users: Option<u32>) -> Result<Room> {
    let users = users.unwrap_or(scenario.users);
    ensure!(users >= 2, "--room {users}: a room has at least two users");
    if users == scenario.users {
        return Ok(Room { users, streams: scenario.subscribers, measured: true });
    }
    let all_to_all = scenario.publishers == scenario.users
        && u64::from(scenario.subscribers)
            == u64::from(scenario.users) * u64::from(scenario.users.saturating_sub(1));
    if !all_to_all {
        bail!(
            "--room {users}: the report is of {} ({} users a session), which says nothing about other rooms; take a report of an all-to-all scenario such as 7-to-7",
            scenario.name,
            scenario.users
        );
    }
    let streams =
        users.checked_mul(users - 1).with_context(|| format!("--room {users}: too many streams"))?;
    Ok(Room { users, streams, measured: false })
}

/// How many of the rooms fit one node at load 100.
fn node(
    report: &Report,
    measured: &Measured,
    room: &Room,
    wish: &Wish,
    lines: &mut Vec<String>,
) -> Result<u32> {
    let Measured { label, sessions, cores, streams, at_least } = measured;
    let mut line = |text: String| lines.push(text);
    line(format!("machine        {}", report::machine_line(report)));
    let spread = if sessions.count > 1 {
        format!("median of {} turns, {:.0} to {:.0}", sessions.count, sessions.min, sessions.max)
    } else {
        "one turn".to_owned()
    };
    line(format!(
        "measured       {label}: {:.0} sessions of {} on {cores} cores ({spread})",
        sessions.median, report.scenario.name
    ));
    if *at_least {
        line("               at least: not every turn was ended by the target (see \"ended by\" in the report)".to_owned());
    }
    let per_core = sessions.median * f64::from(*streams) / f64::from(*cores);
    line(format!(
        "a core         {:.0} sessions x {streams} streams out / {cores} cores = {per_core:.0} streams out",
        sessions.median
    ));
    if room.measured {
        line(format!("a room         {} users, {} streams out, as measured", room.users, room.streams));
    } else {
        line(format!(
            "a room         {0} users x {1} others = {2} streams out (not measured: carried over by streams out)",
            room.users,
            room.users - 1,
            room.streams
        ));
    }
    let load = wish.max_load / FULL;
    ensure!(
        f64::from(room.streams) <= per_core * load,
        "a room lives on one core: {} users are {} streams out, and a core carries {per_core:.0} x {load:.2} (load {:.0}) = {:.0}",
        room.users,
        room.streams,
        wish.max_load,
        per_core * load
    );
    let scaling = if wish.cores > *cores { wish.scaling.unwrap_or_else(published::scaling) } else { 1.0 };
    // A room lives on one core: what is left over on one cannot join what is left over on another.
    let on_a_core = (per_core * scaling / f64::from(room.streams) + 1e-9).floor();
    let rooms = f64::from(wish.cores) * on_a_core;
    let mut text = format!("a node         {} cores x whole rooms of {per_core:.0}", wish.cores);
    if scaling < 1.0 {
        let source =
            if wish.scaling.is_some() { "--scaling" } else { "published: 26 of 32 from 2 to 16 cores" };
        let _ = write!(text, " x {scaling:.4} (more cores than measured; {source})");
    }
    let _ = write!(text, " / {}: {} x {on_a_core} = {rooms} rooms at load 100", room.streams, wish.cores);
    line(text);
    ensure!(rooms >= 1.0, "a node of {} cores does not carry one room of {}", wish.cores, room.users);
    Ok(rooms as u32)
}

fn nodes(room: &Room, per_node: u32, wish: &Wish, mut lines: Vec<String>) -> Result<Advice> {
    let rooms_of = |users: u32| users.div_ceil(room.users);
    let usable = f64::from(per_node) * wish.max_load / FULL;
    let nodes_of = |rooms: u32| ((f64::from(rooms) / usable - 1e-9).ceil() as u32).max(1);
    let rooms = rooms_of(wish.users);
    let needed = nodes_of(rooms);
    let nodes = needed.checked_add(wish.spare).context("--spare: too many nodes")?;
    let nodes_min = nodes_of(rooms_of(wish.quiet_users));
    let load = f64::from(rooms) / (f64::from(nodes) * f64::from(per_node)) * FULL;
    let min_load = shrink_limit(nodes_min, wish.max_load);
    let charged = |nodes: u32| u64::from(nodes) * u64::from(wish.cores) + u64::from(wish.controller_cores);
    let cost = |nodes: u32| charged(nodes) as f64 * 60.0 * wish.price;
    let mut line = |text: String| lines.push(text);

    line(format!("rooms          {} users / {} = {rooms}", wish.users, room.users));
    line(format!(
        "nodes          {rooms} / ({per_node} x {:.2}) = {:.2}, so {needed}{}",
        wish.max_load / FULL,
        f64::from(rooms) / usable,
        if wish.spare > 0 { format!(", and {} spare: {nodes}", wish.spare) } else { String::new() }
    ));
    line(format!("load           {rooms} / ({nodes} x {per_node}) = {load:.1} of 100"));
    let more = (f64::from(nodes) * usable) as u32;
    line(format!(
        "headroom       {more} rooms before the autoscaler asks for more nodes: {} users more; {} rooms before the nodes are full",
        (more.saturating_sub(rooms)) * room.users,
        nodes * per_node
    ));
    line("autoscaler".to_owned());
    line("  OPENVIDU_PRO_CLUSTER_AUTOSCALING=true".to_owned());
    line(format!("  OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_NODES={nodes_min}"));
    line(format!("  OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_NODES={nodes}"));
    line(format!("  OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD={:.0}", wish.max_load));
    line(format!("  OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_LOAD={min_load}"));
    line(format!(
        "                 {} to {nodes_min} nodes multiplies the load by {}/{nodes_min}: {:.0} x {nodes_min}/{} - {SHRINK_MARGIN:.0} = {min_load}",
        nodes_min + 1,
        nodes_min + 1,
        wish.max_load,
        nodes_min + 1
    ));
    for (when, count) in [("busiest", nodes), ("quietest", nodes_min)] {
        line(format!(
            "cost, {when:9}({count} x {} + {} controller cores) x 60 min x {} USD = {:.4} USD per hour",
            wish.cores,
            wish.controller_cores,
            wish.price,
            cost(count)
        ));
    }
    Ok(Advice { nodes, nodes_min, load, min_load, cost_per_hour: cost(nodes), lines })
}

/// The load below which one of `least + 1` nodes may go without pushing the rest above `max_load`.
fn shrink_limit(least: u32, max_load: f64) -> u32 {
    let least = f64::from(least);
    (max_load * least / (least + 1.0) - SHRINK_MARGIN).max(0.0) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::model::Stop;

    fn wish(users: u32, cores: u32) -> Wish {
        Wish {
            users,
            room: None,
            cores,
            target: None,
            quiet_users: 0,
            spare: 0,
            max_load: 70.0,
            scaling: None,
            controller_cores: 2,
            price: 0.0006,
        }
    }

    /// 90 sessions on one core (summary's fixture).
    fn report() -> Report {
        summary::tests::report()
    }

    fn error(wish: &Wish) -> String {
        format!("{:#}", advise(&report(), wish).expect_err("refused"))
    }

    #[test]
    fn rooms_as_measured_on_a_machine_as_measured() {
        // A node carries 90 rooms, 63 of them below load 70; 700 users are 100 rooms: 1.59 nodes.
        let advice = advise(&report(), &wish(700, 1)).expect("advice");
        assert_eq!((advice.nodes, advice.nodes_min, advice.min_load), (2, 1, 30));
        assert!((advice.load - 100.0 / 180.0 * 100.0).abs() < 1e-9);
        // (2 nodes x 1 core + 2) x 60 x 0.0006
        assert!((advice.cost_per_hour - 0.144).abs() < 1e-9, "{}", advice.cost_per_hour);
        let text = advice.to_string();
        for expected in [
            "700 users / 7 = 100",
            "100 / (90 x 0.70) = 1.59, so 2",
            "AUTOSCALING_MAX_NODES=2",
            "126 rooms before the autoscaler",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn more_cores_and_other_rooms_are_carried_over_and_said() {
        let wish = Wish { room: Some(10), spare: 1, ..wish(200, 16) };
        let advice = advise(&report(), &wish).expect("advice");
        let text = advice.to_string();
        assert_eq!(advice.nodes, 2);
        for expected in [
            "10 users x 9 others = 90 streams out (not measured",
            "16 cores x whole rooms of 3780 x 0.8125",
            "/ 90: 16 x 34 = 544 rooms",
            "1 spare: 2",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn a_room_is_not_spread_over_cores() {
        // 36 users are 1260 streams: 2.4 rooms a core, so 2.
        let wish = Wish { room: Some(36), ..wish(36 * 40, 16) };
        let text = advise(&report(), &wish).expect("advice").to_string();
        assert!(text.contains("16 x 2 = 32 rooms"), "{text}");
    }

    #[test]
    fn the_contracts_price_example() {
        // Controller of 2 cores and two nodes of 4 for an hour: 0.36 USD.
        let wish = Wish { scaling: Some(1.0), max_load: 100.0, ..wish(7 * 90 * 4 * 2, 4) };
        let advice = advise(&report(), &wish).expect("advice");
        assert_eq!(advice.nodes, 2);
        assert!((advice.cost_per_hour - 0.36).abs() < 1e-9);
    }

    #[test]
    fn what_the_target_did_not_end_is_a_lower_bound() {
        let said =
            |report: &Report| advise(report, &wish(7, 1)).expect("advice").to_string().contains("at least:");
        let mut report = report();
        assert!(!said(&report));
        report.turns[2].stop = Stop::GeneratorFull;
        assert!(said(&report));
    }

    #[test]
    fn a_shrink_never_passes_the_upper_limit() {
        for least in 1..40 {
            let limit = f64::from(shrink_limit(least, 70.0));
            assert!(limit * f64::from(least + 1) / f64::from(least) < 70.0, "{least}");
        }
        assert_eq!(shrink_limit(1, 8.0), 0);
    }

    #[test]
    fn bad_wishes_are_named() {
        let base = wish(200, 16);
        for (wish, expected) in [
            (Wish { users: 0, ..base.clone() }, "--users 0"),
            (Wish { cores: 0, ..base.clone() }, "--cores 0"),
            (Wish { room: Some(1), ..base.clone() }, "--room 1"),
            (
                Wish { room: Some(200), ..base.clone() },
                "a room lives on one core: 200 users are 39800 streams out",
            ),
            (Wish { max_load: 0.0, ..base.clone() }, "--max-load 0"),
            (Wish { scaling: Some(1.5), ..base.clone() }, "--scaling 1.5"),
            (Wish { price: f64::NAN, ..base.clone() }, "--price NaN"),
            (Wish { quiet_users: 201, ..base.clone() }, "--quiet-users 201 is more than --users 200"),
            (
                Wish { target: Some("kurento".into()), ..base.clone() },
                "--target kurento: the report has weir, janus",
            ),
        ] {
            let error = error(&wish);
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_report_that_lacks_what_is_needed_is_refused() {
        let mut remote = report();
        remote.setup.target_cpus.clear();
        let error = format!("{:#}", advise(&remote, &wish(7, 1)).expect_err("refused"));
        assert!(error.contains("how many cores"), "{error}");
        let mut teaching = report();
        teaching.scenario = Scenario {
            name: "teaching".into(),
            publishers: 2,
            subscribers: 100,
            media: String::new(),
            users: 50,
        };
        let error =
            format!("{:#}", advise(&teaching, &Wish { room: Some(7), ..wish(7, 1) }).expect_err("refused"));
        assert!(error.contains("all-to-all"), "{error}");
    }
}

//! Figures in words, as the terminal and the page show them, and the rows of the capacity table.

use super::model::{Machine, Network, Report, Setup, Step, Stop, Turn};
use super::published::{self, Published};
use super::summary::{Spread, TargetSummary};

/// One line of a table: its heading and a cell for each column, empty where nothing was measured.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) cells: Vec<String>,
}

/// The capacity table in the form of the published one: columns are machines or targets.
pub(crate) struct Capacity {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// How many columns are published ones; they come last.
    pub(crate) published: usize,
}

/// A figure of a step, and how it is written.
struct Figure {
    name: &'static str,
    of: fn(&Step) -> Option<f64>,
    show: fn(f64) -> String,
}

const FIGURES: [Figure; 13] = [
    Figure { name: "packets/s out", of: |step| step.packets_out_per_s, show: count },
    Figure { name: "Mbit/s out", of: |step| Some(step.bits_out_per_s? / 1e6), show: two },
    Figure { name: "CPU, cores", of: |step| step.target_cpu_cores, show: two },
    Figure { name: "CPU us per packet out", of: |step| Some(step.cpu_ns_per_packet_out? / 1e3), show: two },
    Figure { name: "memory, MB", of: |step| Some(step.memory_bytes? as f64 / 1e6), show: count },
    Figure { name: "KB per peer connection", of: |step| Some(step.memory_per_pc_bytes? / 1e3), show: count },
    Figure { name: "one-way delay p50, ms", of: |step| Some(step.delay_ms?.p50), show: two },
    Figure { name: "one-way delay p99, ms", of: |step| Some(step.delay_ms?.p99), show: two },
    Figure { name: "one-way delay p99.9, ms", of: |step| step.delay_ms?.p999, show: two },
    Figure { name: "loss, %", of: |step| Some(step.loss? * 100.0), show: three },
    Figure { name: "packets verified, %", of: |step| Some(step.verified? * 100.0), show: count },
    Figure { name: "freezes", of: |step| Some(step.freezes? as f64), show: count },
    Figure { name: "join p99, ms", of: |step| Some(step.join_ms?.p99), show: count },
];

/// Figures at capacity beside the published ones, where the scenario is the published one.
pub(crate) fn capacity(report: &Report, targets: &[TargetSummary<'_>]) -> Capacity {
    let published: &[Published] = if is_published_scenario(report) { &published::TABLE } else { &[] };
    let columns = targets
        .iter()
        .map(|one| heading(report, one))
        .chain(
            published
                .iter()
                .map(|one| format!("{}\n{} cores, {} GB\npublished", one.machine, one.cores, one.memory_gb)),
        )
        .collect();
    let cores = report.setup.target_cpus.len();
    let mut rows = vec![
        row(
            "sessions",
            published,
            targets,
            |one| one.sessions.to_string(),
            |one| {
                let least = if one.at_least() { "at least " } else { "" };
                Some(least.to_owned() + &sessions(one.sessions()?))
            },
        ),
        row(
            "publishers (= browsers)",
            published,
            targets,
            |one| (one.sessions * published::PUBLISHERS).to_string(),
            |one| one.at_capacity(|step| Some(f64::from(step.publishers))).map(|spread| count(spread.median)),
        ),
        row(
            "subscribers",
            published,
            targets,
            |one| (one.sessions * published::SUBSCRIBERS).to_string(),
            |one| {
                one.at_capacity(|step| Some(f64::from(step.subscribers))).map(|spread| count(spread.median))
            },
        ),
        row(
            "sessions per core",
            published,
            targets,
            |one| two(f64::from(one.sessions) / f64::from(one.cores)),
            |one| Some(two(one.sessions()?.median / (cores > 0).then_some(cores as f64)?)),
        ),
    ];
    rows.extend(FIGURES.iter().map(|figure| {
        row(
            figure.name,
            published,
            targets,
            |_| String::new(),
            |one| one.at_capacity(figure.of).map(|spread| with_spread(spread, figure.show)),
        )
    }));
    rows.push(row(
        "ended by",
        published,
        targets,
        |_| "CPU 100 %".into(),
        |one| {
            let mut reasons: Vec<String> = one.turns.iter().map(|turn| brief(&stop(&turn.stop))).collect();
            reasons.dedup();
            Some(reasons.join("; "))
        },
    ));
    rows.retain(|row| row.cells.iter().any(|cell| !cell.is_empty()));
    Capacity { columns, rows, published: published.len() }
}

fn is_published_scenario(report: &Report) -> bool {
    (report.scenario.publishers, report.scenario.subscribers)
        == (published::PUBLISHERS, published::SUBSCRIBERS)
}

fn heading(report: &Report, one: &TargetSummary<'_>) -> String {
    let cores = match report.setup.target_cpus.len() {
        0 => "its own machine".to_owned(),
        1 => "1 core".to_owned(),
        cores => format!("{cores} cores"),
    };
    format!("{}\n{cores}\n{}", one.target.label(), turns(one.turns.len()))
}

fn turns(count: usize) -> String {
    if count == 1 { "1 turn".into() } else { format!("median of {count}") }
}

fn row(
    name: &'static str,
    published: &[Published],
    targets: &[TargetSummary<'_>],
    from_published: impl Fn(&Published) -> String,
    from_target: impl Fn(&TargetSummary<'_>) -> Option<String>,
) -> Row {
    let measured = targets.iter().map(|one| from_target(one).unwrap_or_default());
    Row { name, cells: measured.chain(published.iter().map(from_published)).collect() }
}

fn sessions(spread: Spread) -> String {
    if spread.min == spread.max {
        return count(spread.median);
    }
    format!("{} ({} to {})", count(spread.median), count(spread.min), count(spread.max))
}

/// "2.41 ±3 %".
pub(crate) fn with_spread(spread: Spread, show: fn(f64) -> String) -> String {
    match spread.count {
        _ if spread.min == spread.max => show(spread.median),
        _ => format!("{} ±{:.0} %", show(spread.median), spread.share() * 100.0),
    }
}

/// The columns of a turn's steps, and a row for each step; columns without any figure are left out.
pub(crate) fn steps(turn: &Turn) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let shown: Vec<&Figure> =
        FIGURES.iter().filter(|figure| turn.steps.iter().any(|step| (figure.of)(step).is_some())).collect();
    let busy = turn.steps.iter().any(|step| !step.core_busy.is_empty());
    let generator = turn.steps.iter().any(|step| !step.generator.is_empty());
    let mut columns = vec!["sessions", "held"];
    columns.extend(shown.iter().map(|figure| figure.name));
    columns.extend(busy.then_some("cores busy, %"));
    columns.extend(generator.then_some("generator busy, %"));
    let rows = turn.steps.iter().map(|step| {
        let mut cells = vec![step.sessions.to_string(), if step.held { "yes" } else { "no" }.to_owned()];
        cells.extend(shown.iter().map(|figure| (figure.of)(step).map(figure.show).unwrap_or_default()));
        cells.extend(busy.then(|| percents(step.core_busy.iter().map(|core| core.share))));
        cells.extend(generator.then(|| percents(step.generator.iter().map(|thread| thread.share))));
        cells
    });
    (columns, rows.collect())
}

fn percents(shares: impl Iterator<Item = f64>) -> String {
    shares.map(|share| format!("{:.0}", share * 100.0)).collect::<Vec<_>>().join(" ")
}

/// Why a turn ended, in a few words.
pub(crate) fn stop(stop: &Stop) -> String {
    match stop {
        Stop::CpuFull { share } => format!("CPU {:.0} %", share * 100.0),
        Stop::Loss { share } => format!("loss {:.2} %", share * 100.0),
        Stop::Delay { p99_ms } => format!("delay p99 {p99_ms:.0} ms"),
        Stop::Unstable { streams, limit_s } => format!("{streams} streams did not play within {limit_s} s"),
        Stop::GeneratorFull => "generator full".into(),
        Stop::StepsDone => "all steps held".into(),
        Stop::TimeLimit => "time limit".into(),
        Stop::Failed { error } => format!("failed: {error}"),
    }
}

/// The first words of a text, as a cell of a table can hold them.
fn brief(text: &str) -> String {
    const CHARS_MAX: usize = 40;
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= CHARS_MAX && line.len() == text.len() {
        return line.to_owned();
    }
    line.chars().take(CHARS_MAX).chain("...".chars()).collect()
}

/// One line about the machine.
pub(crate) fn machine(machine: &Machine) -> String {
    let memory = machine.memory_bytes as f64 / f64::from(1 << 30);
    format!("{}, {} cores, {memory:.0} GB, Linux {}", machine.cpu, machine.cores, machine.kernel)
}

/// One line about network and pinning.
pub(crate) fn setup(setup: &Setup) -> String {
    let network = match setup.network {
        Network::Loopback => "loopback",
        Network::Netns => "network namespaces (veth)",
        Network::Wire => "a wire (TAP) that ends in the generator",
        Network::Remote => "network, a server that ran already",
    };
    let cpus = |cpus: &[u32]| cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let mut line = network.to_owned();
    if !setup.target_cpus.is_empty() {
        line += &format!("; target on CPU {}", cpus(&setup.target_cpus));
    }
    if !setup.generator_cpus.is_empty() {
        line += &format!("; generator on CPU {}", cpus(&setup.generator_cpus));
    }
    line
}

/// Versions and options of the targets, one line each.
pub(crate) fn target_lines(targets: &[TargetSummary<'_>]) -> Vec<String> {
    let line = |one: &TargetSummary<'_>| {
        let target = one.target;
        let version = target.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
        let options =
            target.options.iter().map(|(name, value)| format!("; {name} = {value}")).collect::<String>();
        format!("{}{version}{options}", target.label())
    };
    targets.iter().map(line).collect()
}

/// Warnings of all steps, with the step they are about.
pub(crate) fn warnings(report: &Report) -> Vec<String> {
    let of_turn = |turn: &Turn| {
        let label = format!("{} round {}", turn.target.label(), turn.round);
        turn.steps
            .iter()
            .flat_map(|step| {
                step.warnings.iter().map(|text| format!("{label}, {} sessions: {text}", step.sessions))
            })
            .collect::<Vec<_>>()
    };
    report
        .turns
        .iter()
        .flat_map(of_turn)
        .chain(report.skipped.iter().map(|line| format!("skipped: {line}")))
        .collect()
}

/// 12 345.
pub(crate) fn count(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 && digits.as_bytes()[index - 1].is_ascii_digit() {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// Two decimals.
pub(crate) fn two(figure: f64) -> String {
    format!("{figure:.2}")
}

fn three(figure: f64) -> String {
    format!("{figure:.3}")
}

#[cfg(test)]
mod tests {
    use super::super::summary::{self, tests::report};
    use super::*;

    #[test]
    fn counts_are_grouped() {
        for (figure, text) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1 000"), (1_234_567.0, "1 234 567"), (-1234.0, "-1 234")]
        {
            assert_eq!(count(figure), text);
        }
    }

    #[test]
    fn the_capacity_table_has_the_published_columns_and_no_empty_row() {
        let report = report();
        let table = capacity(&report, &summary::targets(&report));
        assert_eq!((table.columns.len(), table.published), (6, 4));
        let cells = |name: &str| table.rows.iter().find(|row| row.name == name).map(|row| row.cells.clone());
        let sessions = cells("sessions").expect("a row");
        assert_eq!(sessions[2..], ["4", "7", "15", "26"]);
        assert_eq!(sessions[0], "90 (80 to 100)");
        assert_eq!(cells("subscribers").expect("a row")[2..], ["168", "294", "630", "1092"]);
        assert_eq!(cells("CPU us per packet out").expect("a row")[..2], ["2.00", "25.00 ±20 %"]);
        assert!(cells("loss, %").is_none(), "not measured, not shown");
    }

    #[test]
    fn a_cell_holds_the_first_words_only() {
        assert_eq!(brief("CPU 100 %"), "CPU 100 %");
        assert_eq!(brief("two\nlines"), "two...");
        assert_eq!(brief(&"x".repeat(99)), "x".repeat(40) + "...");
    }

    #[test]
    fn another_scenario_has_no_published_columns() {
        let mut report = report();
        report.scenario.publishers = 1;
        assert_eq!(capacity(&report, &summary::targets(&report)).published, 0);
    }

    #[test]
    fn steps_show_only_what_was_measured() {
        let (columns, rows) = steps(&report().turns[0]);
        assert_eq!(columns, ["sessions", "held", "CPU us per packet out"]);
        assert_eq!(rows[2], ["90", "no", "1.90"]);
    }
}

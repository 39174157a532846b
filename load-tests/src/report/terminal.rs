//! The report as text: the capacity table in the form of the published one, each turn's steps, ratios, browsers.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::model::{Report, Witnesses};
use super::summary::{self, Ratio};
use super::{figures, published};

/// Everything that a run found.
pub(crate) fn render(report: &Report) -> String {
    let targets = summary::targets(report);
    let mut text = String::new();
    let mut line = |content: String| text.push_str(&(content + "\n"));
    line(format!("\n{}: {}", report.scenario.name, report.scenario.media));
    line(format!("machine    {}", figures::machine(&report.machine)));
    line(format!("set-up     {}", figures::setup(&report.setup)));
    for target in figures::target_lines(&targets) {
        line(format!("target     {target}"));
    }
    if let Some(commit) = &report.commit {
        line(format!("commit     {commit}"));
    }
    line(format!("command    {}", report.command));
    line(format!("started    {}", report.started));

    let capacity = figures::capacity(report, &targets);
    line(String::new());
    let mut rows =
        vec![std::iter::once(String::new()).chain(capacity.columns.iter().cloned()).collect::<Vec<_>>()];
    rows.extend(
        capacity
            .rows
            .iter()
            .map(|row| std::iter::once(row.name.to_owned()).chain(row.cells.iter().cloned()).collect()),
    );
    line(table(&rows));
    if capacity.published > 0 {
        line(format!("published: {}", published::SOURCE));
    }
    for ratio in summary::ratios(&targets) {
        ratio_lines(&ratio).into_iter().for_each(&mut line);
    }
    for turn in &report.turns {
        line(format!("\n{}, round {}: {}", turn.target.label(), turn.round, figures::stop(&turn.stop)));
        let (columns, steps) = figures::steps(turn);
        let mut rows = vec![columns.into_iter().map(str::to_owned).collect()];
        rows.extend(steps);
        line(table(&rows));
        for step in &turn.steps {
            if let Some(witnesses) = &step.witnesses {
                line(format!("browsers at {} sessions: {}", step.sessions, witness_line(witnesses)));
            }
        }
    }
    for warning in figures::warnings(report) {
        line(format!("WARNING    {warning}"));
    }
    text
}

/// One sentence for each ratio there is.
pub(super) fn ratio_lines(ratio: &Ratio<'_>) -> Vec<String> {
    let (of, to) = (ratio.of.label(), ratio.to.label());
    let mut lines = Vec::new();
    let mut say = |spread: Option<summary::Spread>, sentence: &dyn Fn(String) -> String| {
        if let Some(spread) = spread {
            let figure = figures::with_spread(spread, figures::two);
            lines.push(format!("{} ({} rounds)", sentence(figure), spread.count));
        }
    };
    let least = if ratio.at_least { "at least " } else { "" };
    say(ratio.sessions, &|times| format!("{of} carries {least}{times} times the sessions per core of {to}"));
    let cpu = |times: String, when: &str| {
        format!("{to} takes {times} times the CPU per packet out of {of}, {when}")
    };
    say(ratio.cpu_at_capacity, &|times| cpu(times, "each at the most sessions it held"));
    if let Some((least, most)) = ratio.same_load {
        let load = if least == most { least.to_string() } else { format!("{least} to {most}") };
        say(ratio.cpu_at_same_load, &|times| cpu(times, &format!("both with {load} sessions")));
    }
    lines
}

/// What the browsers saw, over all streams they received.
pub(super) fn witness_line(witnesses: &Witnesses) -> String {
    let streams = &witnesses.streams;
    let mut text =
        format!("{} for {:.0} s, {} streams", witnesses.browsers, witnesses.seconds, streams.len());
    let rate = summary::Spread::of(streams.iter().map(|stream| stream.frames_per_s));
    let buffer = summary::Spread::of(streams.iter().map(|stream| stream.jitter_buffer_ms));
    if let (Some(rate), Some(buffer)) = (rate, buffer) {
        let _ = write!(
            text,
            ", {:.1} frames/s decoded (least {:.1}), {} freezes, {} frames dropped, {} packets lost, jitter buffer {:.0} ms (most {:.0})",
            rate.median,
            rate.min,
            streams.iter().map(|stream| stream.freezes).sum::<u64>(),
            streams.iter().map(|stream| stream.frames_dropped).sum::<u64>(),
            streams.iter().map(|stream| stream.packets_lost).sum::<i64>(),
            buffer.median,
            buffer.max,
        );
    }
    text
}

/// The first row is the heading, the first column names.
fn table(rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    let cells = |row: &Vec<String>| {
        row.iter()
            .enumerate()
            .map(|(index, text)| {
                let side = if index == 0 { CellAlignment::Left } else { CellAlignment::Right };
                Cell::new(text).set_alignment(side)
            })
            .collect::<Vec<_>>()
    };
    if let Some((heading, body)) = rows.split_first() {
        table.set_header(cells(heading));
        table.add_rows(body.iter().map(cells));
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::model::WitnessStream;
    use super::*;

    #[test]
    fn published_and_measured_stand_side_by_side() {
        let text = render(&summary::tests::report());
        for expected in [
            "c5.4xlarge",
            "1092",
            "90 (80 to 100)",
            "weir carries 20.00 times the sessions per core of janus (2 rounds)",
            "janus takes 10.50 ±5 % times the CPU per packet out of weir, both with 4 sessions",
            "janus, round 2: CPU 100 %",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(!text.contains("WARNING") && !text.contains("loss, %"), "{text}");
    }

    #[test]
    fn browsers_are_summed_up_over_their_streams() {
        let stream = |fps| WitnessStream { frames_per_s: fps, freezes: 1, ..WitnessStream::default() };
        let witnesses = Witnesses { browsers: 2, seconds: 10.0, streams: vec![stream(30.0), stream(29.0)] };
        let line = witness_line(&witnesses);
        assert!(
            line.starts_with("2 for 10 s, 2 streams, 29.5 frames/s decoded (least 29.0), 2 freezes"),
            "{line}"
        );
    }
}

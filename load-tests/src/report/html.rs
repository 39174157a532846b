//! The report as one self-contained HTML page: no script, no request, readable on a phone, light and dark.

use anyhow::Result;

use super::model::{Report, Step, Turn};
use super::plot::{COLOURS, Plot, Series};
use super::summary::{self, TargetSummary};
use super::{figures, published, terminal};

/// So many turns' tables are open when the page is; more of them would bury each other.
const OPEN_TURNS: usize = 3;
/// More warnings than these are folded, with their number in sight.
const SHOWN_WARNINGS: usize = 4;
const STYLE: &str = include_str!("page.css");

/// Builds the page.
///
/// # Errors
/// When a plot cannot be drawn.
pub(crate) fn render(report: &Report) -> Result<String> {
    let targets = summary::targets(report);
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
    page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    page += &format!(
        "<title>{} load test</title>\n<style>\n{STYLE}</style>\n<main>\n",
        escape(&report.scenario.name)
    );
    page += &head(report, &targets);
    page += &capacity(report, &targets);
    page += &ratios(&targets);
    page += &plots(report, &targets)?;
    page += &details(report);
    page += "</main>\n</html>\n";
    Ok(page)
}

fn head(report: &Report, targets: &[TargetSummary<'_>]) -> String {
    let mut facts = vec![
        ("Media", report.scenario.media.clone()),
        ("Machine", figures::machine(&report.machine)),
        ("Set-up", figures::setup(&report.setup)),
    ];
    facts.extend(figures::target_lines(targets).into_iter().map(|line| ("Target", line)));
    facts.extend(report.commit.clone().map(|commit| ("Commit", commit)));
    facts.push(("Command", report.command.clone()));
    facts.push(("Started", report.started.clone()));
    let rows: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}<dd>{}\n", escape(value))).collect();
    let doubts = figures::warnings(report);
    let mut warnings: String =
        doubts.iter().map(|text| format!("<p class=\"warning\">{}\n", escape(text))).collect();
    if doubts.len() > SHOWN_WARNINGS {
        warnings = format!(
            "<details><summary class=\"warning\">{} warnings</summary>\n{warnings}</details>\n",
            doubts.len()
        );
    }
    format!("<h1>{} load test</h1>\n<dl>\n{rows}</dl>\n{warnings}", escape(&report.scenario.name))
}

fn capacity(report: &Report, targets: &[TargetSummary<'_>]) -> String {
    let table = figures::capacity(report, targets);
    let mut html = String::from("<h2>Capacity</h2>\n<div class=\"wide\"><table>\n<tr><th>");
    for (index, column) in table.columns.iter().enumerate() {
        let class = if index >= table.columns.len() - table.published { " class=\"published\"" } else { "" };
        html += &format!("<th{class}>{}", escape(column).replace('\n', "<br>"));
    }
    html.push('\n');
    for row in &table.rows {
        html += &format!("<tr><th>{}", row.name);
        for (index, cell) in row.cells.iter().enumerate() {
            let class =
                if index >= table.columns.len() - table.published { " class=\"published\"" } else { "" };
            html += &format!("<td{class}>{}", escape(cell));
        }
        html.push('\n');
    }
    html += "</table></div>\n";
    if table.published > 0 {
        html += &format!("<p class=\"note\">Grey: {}.\n", escape(published::SOURCE));
    }
    html
}

fn ratios(targets: &[TargetSummary<'_>]) -> String {
    let lines: Vec<String> = summary::ratios(targets).iter().flat_map(terminal::ratio_lines).collect();
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("<li>{}\n", escape(line))).collect();
    format!(
        "<h2>Ratios</h2>\n<p class=\"note\">Taken inside each round, median ± half the spread.\n<ul>\n{items}</ul>\n"
    )
}

/// What one plot shows over the number of sessions.
struct Picture {
    title: &'static str,
    y: &'static str,
    limit: Option<(f64, &'static str)>,
    of: fn(&Step) -> Option<f64>,
}

const PICTURES: [Picture; 5] = [
    Picture { title: "CPU of the target", y: "cores", limit: None, of: |step| step.target_cpu_cores },
    Picture {
        title: "CPU per packet out",
        y: "microseconds",
        limit: None,
        of: |step| Some(step.cpu_ns_per_packet_out? / 1e3),
    },
    Picture {
        title: "One-way delay, p99",
        y: "ms",
        limit: Some((100.0, "limit: 100 ms")),
        of: |step| Some(step.delay_ms?.p99),
    },
    Picture {
        title: "Loss",
        y: "% of packets",
        limit: Some((0.5, "limit: 0.5 %")),
        of: |step| Some(step.loss? * 100.0),
    },
    Picture { title: "Join time, p99", y: "ms", limit: None, of: |step| Some(step.join_ms?.p99) },
];

fn plots(report: &Report, targets: &[TargetSummary<'_>]) -> Result<String> {
    let mut figures = String::new();
    for picture in &PICTURES {
        let series = series(targets, |turn| vec![line(turn, picture.of)]);
        figures += &figure(picture.title, picture.y, series, picture.limit)?;
    }
    let per_core = series(targets, |turn| {
        let cpus = report.setup.target_cpus.iter();
        cpus.map(|&cpu| {
            line(turn, |step| Some(step.core_busy.iter().find(|core| core.cpu == cpu)?.share * 100.0))
        })
        .collect()
    });
    figures += &figure("Load of each core of the target", "% busy", per_core, Some((100.0, "100 %")))?;
    if figures.is_empty() {
        return Ok(String::new());
    }
    let legend: String = targets
        .iter()
        .enumerate()
        .map(|(index, one)| {
            format!("<span class=\"s{}\">{}</span>\n", index % COLOURS, escape(&one.target.label()))
        })
        .collect();
    Ok(format!(
        "<h2>Load, step by step</h2>\n<p class=\"legend\">{legend}\n<div class=\"plots\">\n{figures}</div>\n"
    ))
}

fn figure(title: &str, y: &str, series: Vec<Series>, limit: Option<(f64, &'static str)>) -> Result<String> {
    let plot = Plot { x: "sessions", y, series, limit };
    let described = format!("{title} against sessions: {}", described(&plot.series));
    let html = plot.svg()?.map(|svg| {
        format!("<figure><figcaption>{title}</figcaption><div role=\"img\" aria-label=\"{}\">{svg}</div></figure>\n", escape(&described))
    });
    Ok(html.unwrap_or_default())
}

/// The end of each line in words, for those who do not see the picture.
fn described(series: &[Series]) -> String {
    let ends = series.iter().filter_map(|one| {
        let (x, y) = one.points.last()?;
        Some(format!("{} {y:.2} at {x}", one.name))
    });
    ends.collect::<Vec<_>>().join(", ")
}

/// One or more lines for each turn, in its target's colour.
fn series(targets: &[TargetSummary<'_>], lines: impl Fn(&Turn) -> Vec<Vec<(f64, f64)>>) -> Vec<Series> {
    let mut all = Vec::new();
    for (colour, target) in targets.iter().enumerate() {
        for points in target.turns.iter().flat_map(|turn| lines(turn)).filter(|points| !points.is_empty()) {
            all.push(Series { name: target.target.label(), colour, points });
        }
    }
    all
}

fn line(turn: &Turn, of: impl Fn(&Step) -> Option<f64>) -> Vec<(f64, f64)> {
    let mut points: Vec<_> =
        turn.steps.iter().filter_map(|step| Some((f64::from(step.sessions), of(step)?))).collect();
    // A ramp that searches goes back as well; a line goes forward.
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

fn details(report: &Report) -> String {
    let mut html = String::from("<h2>Turns</h2>\n");
    let open = if report.turns.len() <= OPEN_TURNS { " open" } else { "" };
    for turn in &report.turns {
        let title = format!("{}, round {}: {}", turn.target.label(), turn.round, figures::stop(&turn.stop));
        let (columns, steps) = figures::steps(turn);
        let heading: String = columns.iter().map(|name| format!("<th>{name}")).collect();
        let rows: String = steps
            .iter()
            .map(|cells| {
                format!(
                    "<tr>{}\n",
                    cells.iter().map(|cell| format!("<td>{}", escape(cell))).collect::<String>()
                )
            })
            .collect();
        let browsers: String = turn
            .steps
            .iter()
            .filter_map(|step| {
                let line = terminal::witness_line(step.witnesses.as_ref()?);
                Some(format!("<p>Browsers at {} sessions: {}\n", step.sessions, escape(&line)))
            })
            .collect();
        html += &format!(
            "<details{open}><summary>{}</summary>\n<div class=\"wide\"><table>\n<tr>{heading}\n{rows}</table></div>\n{browsers}</details>\n",
            escape(&title)
        );
    }
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_table_ratios_and_plots_and_asks_for_nothing() {
        let page = render(&summary::tests::report()).expect("a page");
        for expected in [
            "c5.4xlarge",
            "90 (80 to 100)",
            "times the sessions per core",
            "<svg",
            "CPU per packet out",
            "round 2",
        ] {
            assert!(page.contains(expected), "{expected}");
        }
        for outside in ["src=", "href=", "<script", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!page.contains("Loss</figcaption>"), "not measured, not drawn");
    }

    #[test]
    fn names_from_outside_are_escaped() {
        let mut report = summary::tests::report();
        report.command = "load-tests run <b>\"&".into();
        assert!(render(&report).expect("a page").contains("load-tests run &lt;b&gt;&quot;&amp;"));
    }
}

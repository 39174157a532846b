//! Rows as CSV and as a table for the terminal.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::{Outcome, Row, Scenario};

const HEADER: &str = "time,total_load,avg_load,running,launching,waiting,canceled,terminating,action";
/// Up to this many rows the table has all of them; of more, those where something changed.
const ROWS_ALL: usize = 200;

/// One line per row under the header; lines end with a line feed.
pub fn csv(rows: &[Row]) -> String {
    let mut text = format!("{HEADER}\n");
    for row in rows {
        text.push_str(&cells(row).join(","));
        text.push('\n');
    }
    text
}

/// The table for the terminal: title, rows, summary.
pub fn table(scenario: &Scenario, outcome: &Outcome) -> String {
    let header: Vec<String> = HEADER.split(',').map(|name| name.replace('_', " ")).collect();
    let shown = shown_rows(&outcome.rows);
    let left_out = outcome.rows.len() - shown.len();
    let mut lines = vec![header];
    lines.extend(shown.into_iter().map(|row| cells(row).to_vec()));
    let mut text = String::new();
    if !scenario.title.is_empty() {
        text.push_str(&format!("{}\n\n", scenario.title));
    }
    text.push_str(&aligned(&lines));
    if left_out > 0 {
        text.push_str(&format!("({left_out} rows left out in which nothing changed)\n"));
    }
    text.push('\n');
    text.push_str(&summary(outcome));
    text
}

/// Rows in which the autoscaler acted, or the nodes are other than in the row before.
fn shown_rows(rows: &[Row]) -> Vec<&Row> {
    if rows.len() <= ROWS_ALL {
        return rows.iter().collect();
    }
    let nodes = |row: &Row| (row.running, row.launching, row.waiting, row.canceled, row.terminating);
    let numbered = rows.iter().enumerate();
    let changed =
        numbered.filter(|(i, row)| *i == 0 || row.action != "none" || nodes(row) != nodes(&rows[i - 1]));
    changed.map(|(_, row)| row).collect()
}

fn summary(outcome: &Outcome) -> String {
    let most = outcome.rows.iter().map(|row| row.running + row.waiting).max().unwrap_or(0);
    let hours = outcome.node_seconds as f64 / 3600.0;
    let mut text = format!(
        "{} sessions placed, at most {} on a node; at most {most} nodes at work, {hours:.2} node hours.\n",
        outcome.placed, outcome.most_on_a_node
    );
    if outcome.refused > 0 {
        let refused = outcome.refused;
        writeln!(text, "{refused} sessions found no node.").expect("a string takes all");
    }
    text
}

/// Columns as wide as their widest cell; the action to the left, all else to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let (action, numbers) = line.split_last().expect("a row has cells");
        for (cell, width) in numbers.iter().zip(&widths) {
            write!(text, "{cell:>width$}  ").expect("a string takes all");
        }
        text.push_str(action);
        text.push('\n');
    }
    text
}

fn cells(row: &Row) -> [String; 9] {
    [
        clock(row.time_s),
        decimals(row.total_load),
        decimals(row.avg_load),
        row.running.to_string(),
        row.launching.to_string(),
        row.waiting.to_string(),
        row.canceled.to_string(),
        row.terminating.to_string(),
        row.action.clone(),
    ]
}

/// `MM:SS`; the minutes may pass 60.
pub(super) fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// Up to three decimals, without zeros at the end.
pub(super) fn decimals(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

//! A recorded load as sessions: what rises begins, what falls ends, the oldest first.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::Session;
use super::scenario::parse_time;

/// Differences below this are rounding, percent of one node.
const NOISE: f64 = 1e-6;

/// Reads the CSV of a trace: header `time,load`, then one row per change; time as `MM:SS` or seconds, load as percent of one node,
/// the sum over the cluster.
pub(super) fn parse(text: &str) -> Result<Vec<(u64, f64)>, String> {
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    if lines.next().is_none_or(|(_, header)| header != "time,load") {
        return Err("the first line is not time,load".into());
    }
    let rows = lines.filter(|(_, line)| !line.is_empty());
    rows.map(|(number, line)| {
        let cells = line.split_once(',');
        let point =
            cells.and_then(|(time, load)| Some((parse_time(time.trim())?, load.trim().parse().ok()?)));
        point.ok_or_else(|| format!("line {number}: not a time and a load"))
    })
    .collect()
}

/// Sessions of at most `session_load` whose sum is the load of `points` (seconds, percent of one node) at every point and in between
/// up to the next one. `end_s`: points after it are left out.
pub fn sessions_of_trace(points: &[(u64, f64)], session_load: f64, end_s: u64) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut open: VecDeque<usize> = VecDeque::new();
    let mut total = 0.0;
    for &(time_s, wanted) in points.iter().filter(|(time_s, _)| *time_s <= end_s) {
        while total > wanted + NOISE {
            let Some(oldest) = open.pop_front() else { break };
            sessions[oldest].end_s = Some(time_s);
            total -= sessions[oldest].load;
        }
        while wanted > total + NOISE {
            let load = session_load.min(wanted - total);
            open.push_back(sessions.len());
            sessions.push(Session { start_s: time_s, end_s: None, load, ramp_s: 0, node: None });
            total += load;
        }
    }
    sessions
}

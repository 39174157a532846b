//! The scenario file: nodes, limits, times, and what comes to them.
//!
//! Times are seconds, as a number, or `"MM:SS"` where the minutes may pass 60. Loads are percent of one node.
#![forbid(unsafe_code)]

use serde::{Deserialize, Deserializer};

use super::trace;
use crate::autoscaler::Limits;
use crate::config::LoadStrategy;

/// Bounds that keep a slip of the pen from taking all memory.
const NODES_MAX: u32 = 100_000;
const SESSIONS_MAX: usize = 10_000_000;
const STEPS_MAX: u64 = 10_000_000;
const CORES_MAX: u16 = 1024;

/// A scenario, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Heading.
    pub title: String,
    /// How long it lasts, seconds.
    pub duration_s: u64,
    /// Period of the autoscaler, seconds.
    pub step_s: u64,
    /// Period of load reports, seconds.
    pub report_s: u64,
    /// From `launching` to `running`, seconds.
    pub launch_s: u64,
    /// From `terminating` to `terminated`, seconds.
    pub terminate_s: u64,
    /// Nodes that run at the beginning.
    pub nodes: u32,
    /// Cores of each node.
    pub cores: u16,
    /// What placement compares.
    pub strategy: LoadStrategy,
    /// Limits of the autoscaler; `None`: it is off.
    pub limits: Option<Limits>,
    /// All sessions.
    pub sessions: Vec<Session>,
}

/// A session that is to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Session {
    /// When it begins, seconds.
    pub start_s: u64,
    /// When it ends, seconds; `None`: not before the scenario does.
    pub end_s: Option<u64>,
    /// Load that it brings, percent of one node.
    pub load: f64,
    /// How long its load takes to rise from nothing, evenly, seconds.
    pub ramp_s: u64,
    /// Number of the node it is pinned to; the first is 1.
    pub node: Option<u32>,
}

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// It is no TOML, or has fields that a scenario does not have.
    #[error(transparent)]
    Syntax(#[from] toml::de::Error),
    /// A value makes no sense.
    #[error("{0}")]
    Value(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    title: String,
    duration: Time,
    step: Time,
    report: Option<Time>,
    launch_time: Time,
    #[serde(default)]
    terminate_time: Time,
    #[serde(default = "one")]
    nodes: u32,
    #[serde(default = "one_core")]
    cores: u16,
    #[serde(default)]
    strategy: Option<String>,
    limits: Option<LimitsEntry>,
    #[serde(default)]
    sessions: Vec<SessionEntry>,
    trace: Option<TraceEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsEntry {
    max_nodes: u32,
    min_nodes: u32,
    max_avg_load: f64,
    min_avg_load: f64,
}

/// One or more sessions of a kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionEntry {
    start: Time,
    end: Option<Time>,
    duration: Option<Time>,
    load: f64,
    #[serde(default)]
    ramp: Time,
    #[serde(default = "one")]
    count: u32,
    #[serde(default)]
    every: Time,
    node: Option<u32>,
}

/// A recorded load, as a file or in place.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TraceEntry {
    file: Option<String>,
    #[serde(default)]
    points: Vec<(Time, f64)>,
    session_load: f64,
}

fn one() -> u32 {
    1
}

fn one_core() -> u16 {
    1
}

impl Scenario {
    /// Reads a scenario. `open` gives the text of the file that a trace names.
    /// # Errors
    /// [`ScenarioError`] says what is wrong.
    pub fn parse(
        text: &str,
        open: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<Self, ScenarioError> {
        let file: File = toml::from_str(text)?;
        let mut sessions = Vec::new();
        for entry in &file.sessions {
            entry.expand(&mut sessions)?;
        }
        if let Some(trace) = &file.trace {
            let points = trace.points(open)?;
            sessions.extend(trace::sessions_of_trace(&points, trace.session_load, file.duration.0));
        }
        if sessions.len() > SESSIONS_MAX {
            return refuse(format!("more than {SESSIONS_MAX} sessions"));
        }
        let scenario = Self {
            title: file.title,
            duration_s: file.duration.0,
            step_s: file.step.0,
            report_s: file.report.unwrap_or(file.step).0,
            launch_s: file.launch_time.0,
            terminate_s: file.terminate_time.0,
            nodes: file.nodes,
            cores: file.cores,
            strategy: strategy(file.strategy.as_deref())?,
            limits: file.limits.map(LimitsEntry::checked).transpose()?,
            sessions,
        };
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        if self.step_s == 0 || self.report_s == 0 {
            return refuse("step and report: more than 0 seconds".into());
        }
        if self.duration_s / self.step_s.min(self.report_s) > STEPS_MAX {
            return refuse(format!("more than {STEPS_MAX} steps or reports"));
        }
        if self.nodes > NODES_MAX {
            return refuse(format!("nodes: at most {NODES_MAX}"));
        }
        if self.cores == 0 || self.cores > CORES_MAX {
            return refuse(format!("cores: 1 to {CORES_MAX}"));
        }
        Ok(())
    }
}

impl LimitsEntry {
    fn checked(self) -> Result<Limits, ScenarioError> {
        let percent = |load: f64| (0.0..=100.0).contains(&load);
        if self.min_nodes > self.max_nodes || self.max_nodes > NODES_MAX {
            return refuse(format!("limits: min_nodes <= max_nodes <= {NODES_MAX}"));
        }
        if !percent(self.min_avg_load) || !percent(self.max_avg_load) || self.min_avg_load > self.max_avg_load
        {
            return refuse("limits: 0 <= min_avg_load <= max_avg_load <= 100".into());
        }
        Ok(Limits {
            max_nodes: self.max_nodes,
            min_nodes: self.min_nodes,
            max_avg_load: self.max_avg_load,
            min_avg_load: self.min_avg_load,
        })
    }
}

impl SessionEntry {
    fn expand(&self, sessions: &mut Vec<Session>) -> Result<(), ScenarioError> {
        if !load_makes_sense(self.load) {
            return refuse(format!("session load {}: 0 to 1000000", self.load));
        }
        if self.end.is_some() && self.duration.is_some() {
            return refuse("a session has an end or a duration, not both".into());
        }
        if self.end.is_some_and(|end| end < self.start) {
            return refuse("a session ends before it starts".into());
        }
        if self.node == Some(0) {
            return refuse("node: the first one is 1".into());
        }
        if sessions.len() + self.count as usize > SESSIONS_MAX {
            return refuse(format!("more than {SESSIONS_MAX} sessions"));
        }
        sessions.extend((0..u64::from(self.count)).map(|number| {
            let later = number.saturating_mul(self.every.0);
            let start_s = self.start.0.saturating_add(later);
            let end = self.end.map(|end| end.0.saturating_add(later));
            let end_s = end.or_else(|| self.duration.map(|duration| start_s.saturating_add(duration.0)));
            Session { start_s, end_s, load: self.load, ramp_s: self.ramp.0, node: self.node }
        }));
        Ok(())
    }
}

impl TraceEntry {
    fn points(
        &self,
        open: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<Vec<(u64, f64)>, ScenarioError> {
        if !load_makes_sense(self.session_load) || self.session_load < 0.001 {
            return refuse("trace: session_load of 0.001 to 1000000".into());
        }
        let points = match (&self.file, self.points.is_empty()) {
            (Some(file), true) => trace::parse(&open(file).map_err(ScenarioError::Value)?)
                .map_err(|message| ScenarioError::Value(format!("{file}: {message}")))?,
            (None, false) => self.points.iter().map(|(time, load)| (time.0, *load)).collect(),
            _ => return refuse("trace: either file or points".into()),
        };
        if points.iter().any(|(_, load)| !load_makes_sense(*load)) {
            return refuse("trace: loads of 0 to 1000000".into());
        }
        if !points.is_sorted_by(|a, b| a.0 < b.0) {
            return refuse("trace: each time is later than the one before".into());
        }
        Ok(points)
    }
}

fn load_makes_sense(load: f64) -> bool {
    (0.0..=1e6).contains(&load)
}

fn strategy(name: Option<&str>) -> Result<LoadStrategy, ScenarioError> {
    match name {
        None | Some("cpu") => Ok(LoadStrategy::Cpu),
        Some("streams") => refuse("strategy: a scenario has no streams; cpu or sessions".into()),
        Some("sessions") => Ok(LoadStrategy::Sessions),
        Some(_) => refuse("strategy: cpu or sessions".into()),
    }
}

fn refuse<T>(message: String) -> Result<T, ScenarioError> {
    Err(ScenarioError::Value(message))
}

/// Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Time(u64);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a time: seconds, or \"MM:SS\"")]
        enum Form {
            Seconds(u32),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Seconds(seconds) => Ok(Self(u64::from(seconds))),
            Form::Text(text) => parse_time(&text)
                .map(Self)
                .ok_or_else(|| serde::de::Error::custom(format!("{text}: a time is seconds, or \"MM:SS\""))),
        }
    }
}

/// Seconds out of `MM:SS` (the minutes may pass 60) or a plain number of seconds.
pub(super) fn parse_time(text: &str) -> Option<u64> {
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse::<u32>().ok().map(u64::from) } else { None }
    };
    match text.split_once(':') {
        None => number(text),
        Some((minutes, seconds)) => {
            let seconds = number(seconds).filter(|value| *value < 60 && seconds.len() == 2)?;
            Some(number(minutes)? * 60 + seconds)
        }
    }
}

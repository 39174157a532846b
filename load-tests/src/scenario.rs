//! Scenario files: who is in a session, how fast people join, who leaves again, and when it is too much.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// A scenario as its TOML file has it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Name in reports; the file's name without extension.
    #[serde(skip)]
    pub(crate) name: String,
    /// One sentence about what it stands for.
    pub(crate) about: String,
    /// Users of a session who publish and watch everybody else.
    pub(crate) publishers: u32,
    /// Users of a session who only watch.
    #[serde(default)]
    pub(crate) listeners: u32,
    /// Joins per second with nobody waiting for anybody (a storm); else a session joins at once, and the next when it plays.
    pub(crate) joins_per_s: Option<f64>,
    /// Users who leave and are replaced each second, over all sessions, while a step is measured.
    #[serde(default)]
    pub(crate) replaced_per_s: f64,
    /// Steps when the command line names none; without them the ramp decides.
    #[serde(default)]
    pub(crate) steps: Vec<u32>,
    /// Sessions the ramp begins with.
    #[serde(default = "one")]
    pub(crate) ramp_start: u32,
    #[serde(default)]
    pub(crate) limits: Limits,
}

/// More than any server has in a room.
const USERS_MAX: u32 = 10_000;
/// People per second: slower is no storm, faster no clock of ours can time.
const RATE_MIN: f64 = 0.1;
const RATE_MAX: f64 = 10_000.0;

fn one() -> u32 {
    1
}

/// When a step counts as not held.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Every remote stream must play within so many seconds: the rule of the published test.
    pub(crate) stable_s: u32,
    /// Share of the cores that the target was given at which it is full.
    pub(crate) cpu: f64,
    /// Share of the packets to subscribers that may be lost.
    pub(crate) loss: f64,
    /// 99th percentile of the one-way delay, ms.
    pub(crate) delay_p99_ms: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        // 0.98: a scheduler's accounting never shows a whole core.
        Limits { stable_s: 40, cpu: 0.98, loss: 0.005, delay_p99_ms: 100.0 }
    }
}

impl Scenario {
    /// Reads a scenario by its name in `load-tests/scenarios`, or from a file.
    ///
    /// # Errors
    /// When there is none, or it makes no sense; the text says which there are.
    pub(crate) fn load(name: &str) -> Result<Scenario> {
        let given = Path::new(name);
        let path = if given.extension().is_some() {
            given.to_owned()
        } else {
            directory().join(format!("{name}.toml"))
        };
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("no scenario \"{name}\" ({}); there are {}", path.display(), names().join(", "))
        })?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Scenario::parse(&stem, &text).with_context(|| path.display().to_string())
    }

    pub(crate) fn parse(name: &str, text: &str) -> Result<Scenario> {
        let mut scenario: Scenario = toml::from_str(text)?;
        scenario.name = name.to_owned();
        let users = scenario.publishers.max(scenario.listeners);
        anyhow::ensure!(users <= USERS_MAX, "publishers, listeners: at most {USERS_MAX} each");
        anyhow::ensure!(scenario.publishers > 0, "publishers: at least one");
        anyhow::ensure!(scenario.users() > 1, "a session needs two users");
        let joins = scenario.joins_per_s.is_none_or(|rate| (RATE_MIN..=RATE_MAX).contains(&rate));
        anyhow::ensure!(joins, "joins_per_s: {RATE_MIN} to {RATE_MAX}");
        let replaced = (0.0..=RATE_MAX).contains(&scenario.replaced_per_s);
        anyhow::ensure!(replaced, "replaced_per_s: 0 to {RATE_MAX}");
        anyhow::ensure!(!scenario.steps.contains(&0), "steps: at least one session each");
        Ok(scenario)
    }

    /// Users of one session.
    pub(crate) fn users(&self) -> u32 {
        self.publishers + self.listeners
    }

    /// Streams that the target forwards in one session: everybody receives everybody else's.
    pub(crate) fn subscriptions(&self) -> u32 {
        self.publishers * (self.users() - 1)
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn names() -> Vec<String> {
    let files = std::fs::read_dir(directory()).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.path().file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_shipped_scenarios_are_read() {
        let names = names();
        assert!(names.len() >= 8, "{names:?}");
        for name in names {
            Scenario::load(&name).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
        let seven = Scenario::load("7-to-7").unwrap();
        assert_eq!((seven.users(), seven.subscriptions()), (7, 42));
        assert_eq!(seven.limits.stable_s, 40);
        assert_eq!(Scenario::load("1-to-2000").unwrap().subscriptions(), 2_000);
    }

    #[test]
    fn shipped_scenarios_are_what_they_say() {
        let shape = |name: &str| {
            let scenario = Scenario::load(name).unwrap();
            (scenario.publishers, scenario.users(), scenario.subscriptions())
        };
        assert_eq!(shape("1-to-2000"), (1, 2_001, 2_000));
        assert_eq!(shape("teaching"), (2, 30, 58));
        assert_eq!(shape("3-to-20"), (3, 23, 66));
        assert_eq!(shape("join-storm"), (2, 10, 18));
        assert_eq!(shape("churn"), (7, 7, 42));
        // Those with steps are through well before a run's time is over, their joining included.
        for (name, joining_s) in [("1-to-2000", 101.0), ("join-storm", 10.0), ("churn", 0.0)] {
            let scenario = Scenario::load(name).unwrap();
            let people = scenario.users() * scenario.steps.last().expect("it has steps");
            let joining = scenario.joins_per_s.map_or(0.0, |rate| f64::from(people) / rate);
            assert!(joining <= joining_s, "{name}: {joining} s");
        }
        assert_eq!(Scenario::load("churn").unwrap().replaced_per_s, 2.0);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        let error = |text: &str| format!("{:#}", Scenario::parse("x", text).expect_err("refused"));
        assert!(error("about = \"\"\npublishers = 0\nlisteners = 4").contains("at least one"));
        assert!(error("about = \"\"\npublishers = 1").contains("two users"));
        assert!(error("about = \"\"\npublishers = 1\npublisher = 1").contains("publisher"));
        for (line, key) in [
            ("joins_per_s = 0.0", "joins_per_s"),
            ("joins_per_s = inf", "joins_per_s"),
            ("replaced_per_s = -1.0", "replaced_per_s"),
            ("replaced_per_s = nan", "replaced_per_s"),
            ("steps = [1, 0]", "steps"),
            ("listeners = 4294967295", "listeners"),
        ] {
            assert!(error(&format!("about = \"\"\npublishers = 2\n{line}")).contains(key), "{line}");
        }
        let missing = format!("{:#}", Scenario::load("9-to-9").expect_err("there is none"));
        assert!(missing.contains("7-to-7"), "{missing}");
    }
}

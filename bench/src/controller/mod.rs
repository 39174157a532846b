//! The controller on one core: durable REST creations, placements, memory.

pub mod http;
pub mod memory;
pub mod placements;
pub mod rest;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use controller::config::{Config, Surroundings};
use serde::Serialize;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Median of the rounds.
    pub value: f64,
    /// Of what, per what.
    pub unit: &'static str,
    /// Smallest and largest of the rounds.
    pub range: (f64, f64),
}

impl Figure {
    /// The median of some rounds.
    pub fn of(name: &'static str, unit: &'static str, mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let range = (rounds.first().copied().unwrap_or(0.0), rounds.last().copied().unwrap_or(0.0));
        Self { name, value: rounds.get(rounds.len() / 2).copied().unwrap_or(0.0), unit, range }
    }
}

/// An empty directory that goes with its handle.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Makes one below `parent`: what is measured is that disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn new(parent: &Path, name: &str) -> anyhow::Result<Self> {
        let path = parent.join(format!("weir-bench-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration with its data in `dir`, CDR on.
///
/// # Errors
/// It is not valid.
pub fn config(dir: &Path) -> anyhow::Result<Arc<Config>> {
    let mut environment = BTreeMap::new();
    for (name, value) in [
        ("WEIR_LISTEN", "127.0.0.1:0".to_owned()),
        ("WEIR_DATA_DIR", dir.display().to_string()),
        ("OPENVIDU_CDR", "true".to_owned()),
        ("OPENVIDU_CDR_PATH", dir.join("cdr").display().to_string()),
    ] {
        environment.insert(name.to_owned(), value);
    }
    let around = Surroundings { environment, directory: dir.to_owned(), ..Surroundings::default() };
    Config::load(&around).map(Arc::new).map_err(|error| anyhow::anyhow!("{error}"))
}

/// UTC, milliseconds.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A stopwatch.
#[derive(Debug)]
pub struct Watch(Instant);

impl Watch {
    /// From now on.
    #[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    pub fn time(&self) -> Duration {
        self.0.elapsed()
    }
}

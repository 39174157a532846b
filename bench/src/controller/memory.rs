//! Memory of the controller per session and connection: resident memory before and after many of them.

use anyhow::Context as _;
use controller::engine::{Engine, EngineConfig};
use controller::session::{ConnectionProperties, SessionProperties};

/// How many of each.
const COUNT: usize = 100_000;

/// Bytes per session that nobody joined, and per connection that waits for its client.
///
/// # Errors
/// There is no `/proc`.
pub fn bytes() -> anyhow::Result<(f64, f64)> {
    let mut engine = Engine::new(EngineConfig::default(), [2; 32], 0);
    let mut ids = Vec::with_capacity(COUNT);
    let empty = resident()?;
    for _ in 0..COUNT {
        let mut out = Vec::new();
        let created = engine.create_session(0, SessionProperties::default(), &mut out);
        ids.push(created.map_err(|error| anyhow::anyhow!("{error}"))?.id.clone());
        engine.take_rows();
    }
    let with_sessions = resident()?;
    for id in &ids {
        let properties =
            ConnectionProperties { data: "{\"user\":\"somebody\"}".into(), ..Default::default() };
        let mut out = Vec::new();
        let created = engine.create_connection(0, id.as_str(), properties, &mut out);
        created.map_err(|error| anyhow::anyhow!("{error}"))?;
        engine.take_rows();
    }
    let with_connections = resident()?;
    let per = |before: u64, after: u64| after.saturating_sub(before) as f64 / COUNT as f64;
    Ok((per(empty, with_sessions), per(with_sessions, with_connections)))
}

fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

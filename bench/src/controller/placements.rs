//! Placements per second with a full table: each with what the engine does around it.

use controller::config::LoadStrategy;
use controller::ids::NodeId;
use controller::placement::{CoreState, NodeState, Placement};

use super::Watch;

/// Media nodes.
pub const NODES: usize = 1_000;
/// Cores of each.
const CORES: usize = 4;
/// Sessions in the table all the time.
pub const SESSIONS: usize = 100_000;
/// Placements of one round.
const PLACEMENTS: usize = 200_000;
/// Load reports come once a second from each node; at 100 000 placements a second one for each hundred.
const PLACEMENTS_PER_REPORT: usize = 100;

struct Table {
    ids: Vec<NodeId>,
    sessions: Vec<[u32; CORES]>,
    reported_at_ms: Vec<u64>,
    placement: Placement,
}

impl Table {
    fn new() -> Self {
        let ids = (0..NODES).map(|n| NodeId::from(format!("media_{n:04}"))).collect();
        let each = (SESSIONS / NODES / CORES) as u32;
        let mut table = Self {
            ids,
            sessions: vec![[each; CORES]; NODES],
            reported_at_ms: vec![0; NODES],
            placement: Placement::new(LoadStrategy::Cpu),
        };
        for node in 0..NODES {
            table.update(node);
        }
        table
    }

    /// What the engine tells about a node when something there changed.
    fn update(&mut self, node: usize) {
        let core = |core: usize| {
            let sessions = self.sessions[node][core];
            let load = f64::from(sessions) * 1.5 + (node % 7) as f64;
            CoreState {
                core: core as u16,
                load,
                streams: sessions * 8,
                reported_sessions: sessions,
                sessions,
            }
        };
        let cores = (0..CORES).map(core).collect();
        let state = NodeState { eligible: true, reported_at_ms: Some(self.reported_at_ms[node]), cores };
        self.placement.update(&self.ids[node], &state);
    }
}

/// One round: place a session, tell placement that it is there, end another one, tell that too, now and then a report.
///
/// # Errors
/// No node takes a session.
pub fn per_second() -> anyhow::Result<f64> {
    let mut table = Table::new();
    let watch = Watch::start();
    for n in 0..PLACEMENTS {
        let now_ms = 1_000 + (n / PLACEMENTS_PER_REPORT) as u64;
        let (node, core) = table.placement.place(now_ms, None)?;
        let index: usize = node.as_str()["media_".len()..].parse()?;
        table.sessions[index][usize::from(core)] += 1;
        table.update(index);
        // The one that ends is anywhere: a stride that meets all nodes.
        let (ends, core) = ((n * 387) % NODES, n % CORES);
        table.sessions[ends][core] = table.sessions[ends][core].saturating_sub(1);
        table.update(ends);
        if n % PLACEMENTS_PER_REPORT == 0 {
            let reports = (n / PLACEMENTS_PER_REPORT) % NODES;
            table.reported_at_ms[reports] = now_ms;
            table.update(reports);
        }
    }
    Ok(PLACEMENTS as f64 / watch.time().as_secs_f64())
}

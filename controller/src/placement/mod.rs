//! Where a session shall live: the node with the least load, then the core with the least load on it.
//!
//! ```text
//!  node reports ──update──▶ load shown + load reserved ──▶ ordered index ──place──▶ (node, core)
//!                                   ▲                                          │
//!                                   └────────────── a reservation ─────────────┘
//! ```
//!
//! A report is old when it arrives: sessions placed since then do not show yet. Without more, a burst of sessions would all go to
//! the node that looked idle last. So each placement reserves the load that a session is expected to bring
//! ([`Placement::expected_load`], learnt from the reports), until a report made [`SETTLE_MS`] later or more must show it. Of nodes
//! with equal load the one with fewer sessions per core wins, then the one that was chosen longer ago.
//!
//! [`Placement::place`] takes the first entry of an ordered index and puts it back: O(log nodes + cores of one node).
#![forbid(unsafe_code)]

mod core;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

pub use self::core::CoreState;
use self::core::{Core, Expected};
use crate::config::LoadStrategy;
use crate::ids::NodeId;

/// How long after its placement the load of a session is in the reports: join, handshakes and the rise of the bit rate take
/// some seconds.
pub const SETTLE_MS: u64 = 10_000;

/// A node as it is now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeState {
    /// New sessions may go there: it runs and is connected.
    pub eligible: bool,
    /// When its last load report came, UTC milliseconds. `None`: there was none.
    pub reported_at_ms: Option<u64>,
    /// Its cores.
    pub cores: Vec<CoreState>,
}

/// Why a session cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unplaceable {
    /// No node takes sessions.
    #[error("There is no available Media Node where to initialize the session")]
    NoNode,
    /// The node that the session is pinned to does not take sessions; no other one is taken instead.
    #[error("Media node {0} is not available")]
    Pinned(NodeId),
    /// Its node has no such core; no other one is taken instead.
    #[error("Media node {0} has no core {1}")]
    NoCore(NodeId, u16),
}

/// Where a session must live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin<'a> {
    /// Its node.
    pub node: &'a NodeId,
    /// Its core; `None`: the best one of the node.
    pub core: Option<u16>,
}

/// All nodes, ordered by load.
#[derive(Debug)]
pub struct Placement {
    strategy: LoadStrategy,
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_id: HashMap<NodeId, u32>,
    /// Eligible nodes, the best first.
    index: BTreeSet<Key>,
    expected: Expected,
    placements: u64,
}

#[derive(Debug)]
struct Slot {
    id: NodeId,
    eligible: bool,
    reported_at_ms: Option<u64>,
    cores: Vec<Core>,
    last_placement: u64,
    key: Key,
}

/// Order of preference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    load: u64,
    /// Sessions per thousand cores.
    density: u64,
    last_placement: u64,
    slot: u32,
}

impl Placement {
    /// Without nodes.
    pub fn new(strategy: LoadStrategy) -> Self {
        Self {
            strategy,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            index: BTreeSet::new(),
            expected: Expected::default(),
            placements: 0,
        }
    }

    /// Takes a node in, or what changed about it. The numbers of sessions in `state` are the owner's own books and win over what
    /// was counted here.
    pub fn update(&mut self, id: &NodeId, state: &NodeState) {
        let slot = self.slot_of(id);
        let node = &mut self.slots[slot as usize];
        self.index.remove(&node.key);
        let reported = state.reported_at_ms != node.reported_at_ms;
        node.eligible = state.eligible && !state.cores.is_empty();
        node.reported_at_ms = state.reported_at_ms;
        self.expected.forget(&node.cores);
        Core::update_all(&mut node.cores, &state.cores, state.reported_at_ms.filter(|_| reported));
        self.expected.learn(&node.cores);
        self.insert_into_index(slot);
    }

    /// Forgets a node.
    pub fn remove(&mut self, id: &NodeId) {
        let Some(slot) = self.by_id.remove(id.as_str()) else { return };
        let node = &mut self.slots[slot as usize];
        self.index.remove(&node.key);
        node.eligible = false;
        self.expected.forget(&node.cores);
        node.cores.clear();
        self.free.push(slot);
    }

    /// Chooses node and core for a session and reserves its expected load there. `now_ms`: UTC milliseconds.
    /// # Errors
    /// [`Unplaceable`]: no node takes sessions, or not the one it is pinned to.
    pub fn place(&mut self, now_ms: u64, pin: Option<Pin<'_>>) -> Result<(NodeId, u16), Unplaceable> {
        let slot = match pin {
            None => self.index.first().ok_or(Unplaceable::NoNode)?.slot,
            Some(Pin { node, .. }) => {
                let slot = self.by_id.get(node.as_str()).copied();
                let eligible = slot.filter(|slot| self.slots[*slot as usize].eligible);
                eligible.ok_or_else(|| Unplaceable::Pinned(node.clone()))?
            }
        };
        let node = &mut self.slots[slot as usize];
        let (strategy, expected) = (self.strategy, &self.expected);
        let wanted = pin.and_then(|pin| pin.core);
        let best = node
            .cores
            .iter_mut()
            .filter(|core| wanted.is_none_or(|wanted| core.index() == wanted))
            .min_by_key(|core| (quantised(core.amount(strategy, expected)), core.sessions(), core.index()));
        // An eligible node has cores, but it need not have the one that is wanted.
        let core = best.ok_or_else(|| Unplaceable::NoCore(node.id.clone(), wanted.unwrap_or_default()))?;
        core.reserve(now_ms);
        let place = (node.id.clone(), core.index());
        self.placements += 1;
        self.index.remove(&node.key);
        node.last_placement = self.placements;
        self.insert_into_index(slot);
        Ok(place)
    }

    /// CPU load that a session is expected to bring, percent of one core.
    pub fn expected_load(&self) -> f64 {
        self.expected.load()
    }

    /// Sessions on a node whose load is reserved because no report can show it yet.
    pub fn reserved(&self, id: &str) -> usize {
        let node = self.by_id.get(id).map(|slot| &self.slots[*slot as usize]);
        node.map_or(0, |node| node.cores.iter().map(Core::reserved).sum())
    }

    fn slot_of(&mut self, id: &NodeId) -> u32 {
        if let Some(slot) = self.by_id.get(id.as_str()) {
            return *slot;
        }
        let node = Slot {
            id: id.clone(),
            eligible: false,
            reported_at_ms: None,
            cores: Vec::new(),
            last_placement: 0,
            key: Key::default(),
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = node;
                slot
            }
            None => {
                self.slots.push(node);
                (self.slots.len() - 1) as u32
            }
        };
        // No key of the index is equal to it, so that it may be taken out before it was put in.
        self.slots[slot as usize].key.slot = slot;
        self.by_id.insert(id.clone(), slot);
        slot
    }

    fn insert_into_index(&mut self, slot: u32) {
        let node = &mut self.slots[slot as usize];
        let sum: f64 = node.cores.iter().map(|core| core.amount(self.strategy, &self.expected)).sum();
        let cores = node.cores.len().max(1);
        let sessions: u64 = node.cores.iter().map(|core| u64::from(core.sessions())).sum();
        let amount = if self.strategy == LoadStrategy::Cpu { sum / cores as f64 } else { sum };
        node.key = Key {
            load: quantised(amount),
            density: sessions * 1000 / cores as u64,
            last_placement: node.last_placement,
            slot,
        };
        if node.eligible {
            self.index.insert(node.key);
        }
    }
}

/// Whole units: below one percent of CPU the difference is noise and decides nothing.
fn quantised(amount: f64) -> u64 {
    // Saturates; a load that is no number is 0.
    amount.round() as u64
}

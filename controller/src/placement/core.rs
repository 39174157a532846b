//! One core: what its last report showed, what is reserved, and what a session is expected to bring.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::SETTLE_MS;
use crate::config::LoadStrategy;

/// CPU load of a session as long as nothing was learnt, percent of a core.
const LOAD_AT_FIRST: f64 = 1.0;
/// Streams of a session as long as nothing was learnt: two participants who send and receive.
const STREAMS_AT_FIRST: f64 = 4.0;
/// Bounds of what is learnt: a reservation must outweigh the noise of reports, and one big session must not shut a core.
const LOAD_MIN: f64 = 0.25;
const LOAD_MAX: f64 = 25.0;
const STREAMS_MIN: f64 = 1.0;
const STREAMS_MAX: f64 = 1000.0;

/// A core as it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CoreState {
    /// Its index on the node.
    pub core: u16,
    /// CPU load in the last report, 0 to 100.
    pub load: f64,
    /// Publications and subscriptions in the last report.
    pub streams: u32,
    /// Sessions in the last report.
    pub reported_sessions: u32,
    /// Sessions that the controller has there.
    pub sessions: u32,
}

/// A core, and when its youngest sessions were placed.
#[derive(Debug, Default)]
pub(super) struct Core {
    state: CoreState,
    /// Placements that no report shows yet, the oldest first, UTC milliseconds. Never more than sessions.
    reserved: VecDeque<u64>,
}

impl Core {
    /// Brings all cores of a node up to date. `reported_at_ms`: when the report came, if there is a new one.
    pub(super) fn update_all(cores: &mut Vec<Self>, states: &[CoreState], reported_at_ms: Option<u64>) {
        let mut old = std::mem::take(cores);
        for (position, state) in states.iter().enumerate() {
            let is_it = |core: &Self| core.state.core == state.core;
            let known = old.get_mut(position).filter(|core| is_it(core));
            let reserved = match known {
                Some(core) => std::mem::take(&mut core.reserved),
                None => old
                    .iter_mut()
                    .find(|core| is_it(core))
                    .map(|core| std::mem::take(&mut core.reserved))
                    .unwrap_or_default(),
            };
            let mut core = Self { state: *state, reserved };
            core.settle(reported_at_ms);
            cores.push(core);
        }
    }

    /// Drops reservations that the report must show, and those of sessions that are gone: which ones is not known, the oldest
    /// are the most likely to show.
    fn settle(&mut self, reported_at_ms: Option<u64>) {
        if let Some(at) = reported_at_ms {
            while self.reserved.front().is_some_and(|placed| placed + SETTLE_MS <= at) {
                self.reserved.pop_front();
            }
        }
        let gone = self.reserved.len().saturating_sub(self.state.sessions as usize);
        self.reserved.drain(..gone);
    }

    /// A session was placed here.
    pub(super) fn reserve(&mut self, now_ms: u64) {
        self.state.sessions += 1;
        self.reserved.push_back(now_ms);
    }

    /// What the strategy compares: shown and reserved.
    pub(super) fn amount(&self, strategy: LoadStrategy, expected: &Expected) -> f64 {
        let reserved = self.reserved.len() as f64;
        match strategy {
            LoadStrategy::Cpu => self.state.load + reserved * expected.load(),
            LoadStrategy::Streams => f64::from(self.state.streams) + reserved * expected.streams(),
            LoadStrategy::Sessions => f64::from(self.state.sessions),
        }
    }

    pub(super) fn index(&self) -> u16 {
        self.state.core
    }

    pub(super) fn sessions(&self) -> u32 {
        self.state.sessions
    }

    pub(super) fn reserved(&self) -> usize {
        self.reserved.len()
    }
}

/// What a session brings on average, over all cores of the cluster.
#[derive(Debug, Default)]
pub(super) struct Expected {
    load: f64,
    streams: u64,
    sessions: u64,
}

impl Expected {
    pub(super) fn learn(&mut self, cores: &[Core]) {
        for core in cores.iter().map(|core| &core.state) {
            self.load += whole(core.load);
            self.streams += u64::from(core.streams);
            self.sessions += u64::from(core.reported_sessions);
        }
    }

    /// Takes back what the same cores brought before.
    pub(super) fn forget(&mut self, cores: &[Core]) {
        for core in cores.iter().map(|core| &core.state) {
            self.load -= whole(core.load);
            self.streams -= u64::from(core.streams);
            self.sessions -= u64::from(core.reported_sessions);
        }
    }

    /// CPU load of a session, percent of a core.
    pub(super) fn load(&self) -> f64 {
        match self.sessions {
            0 => LOAD_AT_FIRST,
            sessions => (self.load / THOUSANDTHS / sessions as f64).clamp(LOAD_MIN, LOAD_MAX),
        }
    }

    /// Publications and subscriptions of a session.
    pub(super) fn streams(&self) -> f64 {
        match self.sessions {
            0 => STREAMS_AT_FIRST,
            sessions => (self.streams as f64 / sessions as f64).clamp(STREAMS_MIN, STREAMS_MAX),
        }
    }
}

const THOUSANDTHS: f64 = 1000.0;

/// Thousandths, whole, so that sums of many reports can be taken back exactly.
fn whole(load: f64) -> f64 {
    if load.is_finite() { (load.clamp(0.0, 1e6) * THOUSANDTHS).round() } else { 0.0 }
}

//! One heap of deadlines for all transports of a shard. An entry is a wish: its owner says again when it really wants to run.
//!
//! Each owner has at most one live entry, the earliest; later wishes replace it when it fires. So the heap holds a few
//! thousand entries for a few thousand peers, and a packet costs at most one push.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Timestamp;

/// Deadlines are rounded up to this grid, so that timers of many peers fire in one wake-up.
const GRID_NS: u64 = 1_000_000;

/// Deadlines of owners named by an index.
#[derive(Default)]
pub struct TimerHeap {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// Live deadline per owner; `u64::MAX` when it has none.
    live: Vec<u64>,
}

impl TimerHeap {
    /// Makes sure that `owner` runs at `at` or earlier.
    pub fn schedule(&mut self, owner: u32, at: Timestamp) {
        let at = at.0.div_ceil(GRID_NS).saturating_mul(GRID_NS);
        let index = owner as usize;
        if index >= self.live.len() {
            self.live.resize(index + 1, u64::MAX);
        }
        if at < self.live[index] {
            self.live[index] = at;
            self.heap.push(Reverse((at, owner)));
        }
    }

    /// Forgets `owner`.
    pub fn cancel(&mut self, owner: u32) {
        if let Some(live) = self.live.get_mut(owner as usize) {
            *live = u64::MAX;
        }
    }

    /// The next owner that is due at `now`; it has no deadline then until it schedules one.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<u32> {
        while let Some(Reverse((at, owner))) = self.heap.peek().copied() {
            if at > now.0 {
                return None;
            }
            self.heap.pop();
            if self.live[owner as usize] == at {
                self.live[owner as usize] = u64::MAX;
                return Some(owner);
            }
        }
        None
    }

    /// When [`TimerHeap::pop_due`] may have something. Stale entries can make it too early, never too late.
    pub fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse((at, _))| Timestamp(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_wish_wins_and_fires_once() {
        let mut timers = TimerHeap::default();
        timers.schedule(3, Timestamp::from_millis(20));
        timers.schedule(3, Timestamp::from_millis(10));
        timers.schedule(3, Timestamp::from_millis(30));
        timers.schedule(1, Timestamp::from_millis(15));
        assert_eq!(timers.next(), Some(Timestamp::from_millis(10)));
        assert_eq!(timers.pop_due(Timestamp::from_millis(9)), None);
        assert_eq!(timers.pop_due(Timestamp::from_millis(25)), Some(3));
        assert_eq!(timers.pop_due(Timestamp::from_millis(25)), Some(1));
        assert_eq!(timers.pop_due(Timestamp::from_millis(25)), None);
    }

    #[test]
    fn cancelled_owner_never_fires() {
        let mut timers = TimerHeap::default();
        timers.schedule(0, Timestamp::from_millis(5));
        timers.cancel(0);
        assert_eq!(timers.pop_due(Timestamp::from_millis(9)), None);
        timers.schedule(0, Timestamp::from_millis(12));
        assert_eq!(timers.pop_due(Timestamp::from_millis(12)), Some(0));
    }

    #[test]
    fn deadlines_lie_on_the_grid() {
        let mut timers = TimerHeap::default();
        timers.schedule(0, Timestamp(1));
        assert_eq!(timers.next(), Some(Timestamp::from_millis(1)));
    }
}

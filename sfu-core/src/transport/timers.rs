//! One heap of deadlines for all transports of a shard. A deadline is a wish: its owner says again when it really wants to run.
//!
//! ```text
//! heap    [ (10 ms, 3) | (15 ms, 1) | (40 ms, 0) ]    a binary heap by time
//! place   owner 0 ─▶ 2, owner 1 ─▶ 1, owner 2 ─▶ none, owner 3 ─▶ 0
//! ```
//!
//! Each owner has one entry at most, which moves up when it wishes for an earlier time. So the heap is as large as there
//! are peers and takes memory only when one is added, never for a packet.
#![forbid(unsafe_code)]

use crate::time::Timestamp;

/// Deadlines are rounded up to this grid, so that timers of many peers fire in one wake-up.
const GRID_NS: u64 = 1_000_000;
/// Place of an owner without an entry.
const NONE: u32 = u32::MAX;

/// Deadlines of owners named by an index.
#[derive(Default)]
pub struct TimerHeap {
    /// (time on the grid, owner); the entry at `i` is not later than those at `2 i + 1` and `2 i + 2`.
    heap: Vec<(u64, u32)>,
    /// Where each owner's entry lies in `heap`.
    place: Vec<u32>,
}

impl TimerHeap {
    /// Makes sure that `owner` runs at `at` or earlier.
    pub fn schedule(&mut self, owner: u32, at: Timestamp) {
        let at = at.0.div_ceil(GRID_NS).saturating_mul(GRID_NS);
        if owner as usize >= self.place.len() {
            self.add_owners(owner);
        }
        match self.place[owner as usize] {
            NONE => {
                self.heap.push((at, owner));
                self.sift_up(self.heap.len() - 1);
            }
            place if at < self.heap[place as usize].0 => {
                self.heap[place as usize].0 = at;
                self.sift_up(place as usize);
            }
            _ => {}
        }
    }

    #[cold]
    fn add_owners(&mut self, owner: u32) {
        self.place.resize(owner as usize + 1, NONE);
        self.heap.reserve(self.place.len() - self.heap.len());
    }

    /// Forgets `owner`.
    pub fn cancel(&mut self, owner: u32) {
        if let Some(place) = self.place.get(owner as usize).copied().filter(|place| *place != NONE) {
            self.remove(place as usize);
        }
    }

    /// The next owner that is due at `now`; it has no deadline then until it schedules one.
    pub fn pop_due(&mut self, now: Timestamp) -> Option<u32> {
        let (_, owner) = *self.heap.first().filter(|(at, _)| *at <= now.0)?;
        self.remove(0);
        Some(owner)
    }

    /// When [`TimerHeap::pop_due`] has something.
    pub fn next(&self) -> Option<Timestamp> {
        self.heap.first().map(|(at, _)| Timestamp(*at))
    }

    fn remove(&mut self, at: usize) {
        let (_, owner) = self.heap.swap_remove(at);
        self.place[owner as usize] = NONE;
        if at < self.heap.len() {
            self.place[self.heap[at].1 as usize] = at as u32;
            // What took the place was at the bottom, but perhaps of another branch.
            self.sift_up(at);
            self.sift_down(at);
        }
    }

    fn sift_up(&mut self, mut at: usize) {
        while at > 0 && self.heap[at] < self.heap[(at - 1) / 2] {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        self.place[self.heap[at].1 as usize] = at as u32;
    }

    fn sift_down(&mut self, mut at: usize) {
        let earlier = |heap: &[(u64, u32)], at: usize| {
            [2 * at + 1, 2 * at + 2].into_iter().filter(|child| *child < heap.len()).min_by_key(|c| heap[*c])
        };
        while let Some(child) = earlier(&self.heap, at).filter(|child| self.heap[*child] < self.heap[at]) {
            self.swap(at, child);
            at = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.place[self.heap[a].1 as usize] = a as u32;
        self.place[self.heap[b].1 as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

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

    #[test]
    fn a_wish_repeated_for_ever_takes_no_more_room() {
        let mut timers = TimerHeap::default();
        for round in 0..10_000 {
            timers.schedule(0, Timestamp::from_millis(20_000));
            timers.schedule(0, Timestamp::from_millis(round));
            assert_eq!(timers.pop_due(Timestamp::from_millis(round)), Some(0));
        }
        timers.schedule(0, Timestamp::from_millis(20_000));
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(timers.next(), Some(Timestamp::from_millis(20_000)));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Schedule(u32, u64),
        Cancel(u32),
        Pop(u64),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..12u32, 0..50u64).prop_map(|(owner, at)| Op::Schedule(owner, at)),
            1 => (0..12u32).prop_map(Op::Cancel),
            2 => (0..50u64).prop_map(Op::Pop),
        ]
    }

    proptest! {
        /// Like a map from owner to its earliest wish.
        #[test]
        fn behaves_like_a_plain_map(ops in prop::collection::vec(any_op(), 1..200)) {
            let (mut timers, mut model) = (TimerHeap::default(), BTreeMap::<u32, u64>::new());
            for op in ops {
                match op {
                    Op::Schedule(owner, at) => {
                        timers.schedule(owner, Timestamp::from_millis(at));
                        let wish = model.entry(owner).or_insert(at);
                        *wish = at.min(*wish);
                    }
                    Op::Cancel(owner) => {
                        timers.cancel(owner);
                        model.remove(&owner);
                    }
                    Op::Pop(now) => {
                        let expected = model.iter().map(|(owner, at)| (*at, *owner)).min();
                        let expected = expected.filter(|(at, _)| *at <= now).map(|(_, owner)| owner);
                        prop_assert_eq!(timers.pop_due(Timestamp::from_millis(now)), expected);
                        expected.map(|owner| model.remove(&owner));
                    }
                }
                let next = model.values().min().map(|at| Timestamp::from_millis(*at));
                prop_assert_eq!(timers.next(), next);
            }
        }
    }
}

//! From a source's sequence numbers and timestamps to a subscriber's, without gaps of our own making, and back.
//!
//! ```text
//! source A   10 11 12 .. 14 15            source B            700 701 702
//!             │  │  ╳     │  │   hold()      switch to B       │   │   │
//! sent        1  2        4  5                                 6   7   8
//!                      └ 13 is lost: number 3 stays free for it, the subscriber may ask for it
//!
//! runs       [A 10..=11 → 1] [A 13..=15 → 3] [B 700.. → 6]
//! ```
//!
//! A *run* is a range of source numbers that keeps one distance to the numbers sent. Dropping a packet on purpose
//! closes the run and opens the next one right behind it; a lost packet keeps its number. A packet that comes late
//! finds its number in the run it belongs to, or is refused. The last [`RUNS`] runs are kept; the way back (for NACKs)
//! reads the same runs.
//!
//! **Invariant**: two different source packets never get the same number. With AES-GCM a number used twice for different
//! bytes gives the key away (RFC 7714 §8.1), so runs never overlap, whatever the caller does.
#![forbid(unsafe_code)]

use crate::forward::ingress::ticks;
use crate::ids::{ExtSeq, SeqNo};
use crate::time::Timestamp;

/// Closed runs that are remembered.
pub const RUNS: usize = 32;
/// Earlier sources whose progress is remembered, for coming back to them: more than there are simulcast layers.
const SOURCES: usize = 4;
/// A source that jumps further than this goes on without a gap: what lies between is not coming any more.
pub const GAP_MAX: u64 = 1000;

/// Tells the sources of one outgoing stream apart: the caller gives every received stream another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceId(pub u32);

/// Where a packet stands in the outgoing stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Outgoing sequence number; also the SRTP packet index it is sealed with.
    pub seq: ExtSeq,
    /// Outgoing media timestamp.
    pub timestamp: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Run {
    source: SourceId,
    /// Outgoing minus source timestamp.
    timestamp_offset: u32,
    first: u64,
    out_first: u64,
    /// Numbers in it, lost packets included.
    len: u64,
}

impl Run {
    #[inline]
    fn out_end(&self) -> u64 {
        self.out_first + self.len
    }

    #[inline]
    fn find(&self, source: SourceId, seq: u64) -> Option<u64> {
        let offset = seq.wrapping_sub(self.first);
        (self.source == source && offset < self.len).then(|| self.out_first + offset)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next packet starts a run with the timestamp it has (nothing was sent yet).
    Fresh,
    /// The next packet starts a run; same source, so its timestamps go on as they are.
    Held,
    /// The next packet starts a run; its timestamps are anchored by elapsed time.
    Switched,
    /// `open` takes packets.
    Open,
}

/// The mapping of one outgoing stream.
#[derive(Clone, Debug)]
pub struct SeqMap {
    clock_rate: u32,
    state: State,
    /// The run that grows. Its `source` is the current source in every state.
    open: Run,
    /// Packets of the current source up to here were decided on. `None`: none yet.
    floor: Option<u64>,
    /// Floors of the sources before this one, newest last.
    floors: [Option<(SourceId, u64)>; SOURCES],
    /// Next number to give away.
    next_out: u64,
    /// Outgoing timestamp of the newest packet and when it was mapped.
    newest: (u32, Timestamp),
    /// Elsewhere: few packets need it, and what every packet needs shall lie close together.
    runs: Box<[Run; RUNS]>,
    runs_len: usize,
    /// Where the next closed run goes.
    runs_next: usize,
}

impl SeqMap {
    /// A mapping whose first packet gets `first_seq` without its top bit (RFC 3711 leaves the receiver to guess the
    /// rollover counter, and a first number below 32768 cannot be guessed wrong).
    ///
    /// `clock_rate`: of the outgoing timestamps, Hz.
    pub fn new(clock_rate: u32, first_seq: u16, source: SourceId) -> SeqMap {
        SeqMap {
            clock_rate: clock_rate.max(1),
            state: State::Fresh,
            open: Run { source, ..Run::default() },
            floor: None,
            floors: [None; SOURCES],
            next_out: u64::from(first_seq & 0x7fff),
            newest: (0, Timestamp::ZERO),
            runs: Box::new([Run::default(); RUNS]),
            runs_len: 0,
            runs_next: 0,
        }
    }

    /// The source whose new packets are taken now.
    pub fn source(&self) -> SourceId {
        self.open.source
    }

    /// Highest outgoing number given away, lost packets' numbers included. `None` before the first packet.
    pub fn highest_out(&self) -> Option<ExtSeq> {
        let sent = self.state == State::Open || self.runs_len > 0;
        (sent && self.next_out > 0).then(|| ExtSeq(self.next_out - 1))
    }

    /// Gives the packet its place. `None`: it is late and belongs to no run that is remembered, or to another source
    /// than the current one and is new; do not send it.
    ///
    /// The same packet always gets the same place, so something sent twice is sent alike.
    #[inline]
    pub fn forward(
        &mut self,
        now: Timestamp,
        source: SourceId,
        seq: ExtSeq,
        timestamp: u32,
    ) -> Option<Mapped> {
        if !self.is_new(source, seq) {
            return self.lookup(source, seq, timestamp);
        }
        if self.state == State::Open && seq.0 - self.open.first - self.open.len > GAP_MAX {
            self.hold();
        }
        if self.state != State::Open {
            self.start_run(now, seq.0, timestamp);
        }
        self.open.len = seq.0 - self.open.first + 1;
        self.floor = Some(seq.0);
        self.next_out = self.open.out_end();
        let timestamp = timestamp.wrapping_add(self.open.timestamp_offset);
        self.newest = (timestamp, now);
        Some(Mapped { seq: ExtSeq(self.next_out - 1), timestamp })
    }

    /// Whether the packet is of the current source and above all that were decided on.
    #[inline]
    pub fn is_new(&self, source: SourceId, seq: ExtSeq) -> bool {
        source == self.open.source && self.floor.is_none_or(|floor| seq.0 > floor)
    }

    /// The place the packet has, without giving it one. For packets that are sent again.
    #[inline]
    pub fn lookup(&self, source: SourceId, seq: ExtSeq, timestamp: u32) -> Option<Mapped> {
        let run = self.run_of(|run| run.find(source, seq.0).is_some())?;
        let out = run.find(source, seq.0)?;
        Some(Mapped { seq: ExtSeq(out), timestamp: timestamp.wrapping_add(run.timestamp_offset) })
    }

    /// The packet that was, or would have been, sent as `seq`: extended by the newest number sent. `None` when that is
    /// in the future or longer ago than is remembered.
    pub fn reverse(&self, seq: SeqNo) -> Option<(SourceId, ExtSeq)> {
        let out = self.highest_out()?.extend(seq).0;
        let run = self.run_of(|run| out.wrapping_sub(run.out_first) < run.len)?;
        Some((run.source, ExtSeq(run.first + (out - run.out_first))))
    }

    /// The outgoing timestamp for a source timestamp of the current run, for sender reports. `None` before the first
    /// packet, and after a switch until the new source's first packet.
    pub fn map_timestamp(&self, source: SourceId, timestamp: u32) -> Option<u32> {
        let anchored = matches!(self.state, State::Open | State::Held);
        (anchored && source == self.open.source).then(|| timestamp.wrapping_add(self.open.timestamp_offset))
    }

    /// Leaves out a packet on purpose (padding only, a layer not wanted): the next one takes the number it would have
    /// had. False when its number is spent already, because a later packet went before it.
    pub fn drop_packet(&mut self, source: SourceId, seq: ExtSeq) -> bool {
        if !self.is_new(source, seq) {
            return self.lookup(source, seq, 0).is_none();
        }
        self.floor = Some(seq.0);
        if self.state != State::Open {
            return true;
        }
        let len = seq.0 - self.open.first;
        if len - self.open.len > GAP_MAX {
            self.hold();
            return true;
        }
        // What was lost just before it keeps its number: it may be a packet that is wanted.
        let closed = Run { len, ..self.open };
        if len > 0 {
            self.push(closed);
        }
        self.next_out = closed.out_end();
        self.open = Run { first: seq.0 + 1, out_first: self.next_out, len: 0, ..closed };
        true
    }

    /// Stops here: packets until the next one that is forwarded leave no gap, and none of them need be reported. For
    /// pausing and for gates.
    pub fn hold(&mut self) {
        if self.state == State::Open {
            self.close();
            self.state = State::Held;
        }
    }

    /// Goes on with another received stream: the publisher moved to a new transport, or another layer was chosen.
    ///
    /// Numbers go on with the next one, timestamps by the time that passes until the first packet of the new source.
    pub fn switch(&mut self, source: SourceId) {
        if source == self.open.source {
            return;
        }
        self.hold();
        if self.state != State::Fresh {
            self.state = State::Switched;
        }
        let before = std::mem::replace(&mut self.open.source, source);
        if let Some(floor) = self.floor.take() {
            self.remember_floor(before, floor);
        }
        // Coming back to a source: what was decided on it stays decided.
        self.floor =
            self.floors.iter().flatten().find(|(known, _)| *known == source).map(|(_, floor)| *floor);
    }

    fn remember_floor(&mut self, source: SourceId, floor: u64) {
        let same = |entry: &Option<(SourceId, u64)>| entry.is_some_and(|(known, _)| known == source);
        let replaced = self.floors.iter().position(same).unwrap_or(0);
        self.floors[replaced..].rotate_left(1);
        self.floors[SOURCES - 1] = Some((source, floor));
    }

    fn start_run(&mut self, now: Timestamp, seq: u64, timestamp: u32) {
        let offset = match self.state {
            State::Fresh => 0,
            State::Held | State::Open => self.open.timestamp_offset,
            State::Switched => {
                let (newest, at) = self.newest;
                // At least one tick: two frames must not share a timestamp.
                let elapsed = ticks(now.since(at), self.clock_rate).max(1);
                newest.wrapping_add(elapsed).wrapping_sub(timestamp)
            }
        };
        self.open.timestamp_offset = offset;
        self.open.first = seq;
        self.open.out_first = self.next_out;
        self.open.len = 0;
        self.state = State::Open;
    }

    /// Moves the open run to the closed ones.
    fn close(&mut self) {
        if self.open.len > 0 {
            self.push(self.open);
        }
        self.open.len = 0;
    }

    fn push(&mut self, run: Run) {
        self.runs[self.runs_next] = run;
        self.runs_next = (self.runs_next + 1) % RUNS;
        self.runs_len = (self.runs_len + 1).min(RUNS);
    }

    /// Closed runs, newest first.
    fn closed(&self) -> impl Iterator<Item = &Run> {
        (1..=self.runs_len).map(|back| &self.runs[(self.runs_next + RUNS - back) % RUNS])
    }

    /// The newest run that `matches`.
    #[inline]
    fn run_of(&self, matches: impl Fn(&Run) -> bool) -> Option<&Run> {
        if self.state == State::Open && matches(&self.open) {
            return Some(&self.open);
        }
        self.closed().find(|run| matches(run))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const A: SourceId = SourceId(1);
    const B: SourceId = SourceId(2);

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[derive(Clone, Copy, Debug)]
    enum Do {
        Forward(SourceId, u64, Option<u64>),
        Drop(u64, bool),
        Hold,
        Switch(SourceId),
    }
    use Do::{Drop, Forward, Hold, Switch};

    fn run(steps: &[Do]) -> SeqMap {
        let mut map = SeqMap::new(90_000, 0x8000 | 100, A);
        for (i, step) in steps.iter().enumerate() {
            match *step {
                Forward(source, seq, expected) => {
                    let out = map.forward(ms(0), source, ExtSeq(seq), 0).map(|m| m.seq.0);
                    assert_eq!(out, expected, "step {i} of {steps:?}");
                }
                Drop(seq, expected) => {
                    assert_eq!(map.drop_packet(map.source(), ExtSeq(seq)), expected, "step {i} of {steps:?}");
                }
                Hold => map.hold(),
                Switch(source) => map.switch(source),
            }
        }
        map
    }

    #[test]
    fn numbers() {
        let f = |seq, out| Forward(A, seq, Some(out));
        let cases: &[&[Do]] = &[
            // In order over the wrap, with loss and a late packet.
            &[f(65_535, 100), f(65_536, 101), f(65_539, 104), f(65_537, 102), f(65_537, 102)],
            // Before the first one: there is no number left for it.
            &[f(10, 100), Forward(A, 9, None), f(11, 101)],
            // Dropped on purpose: no gap, and not to be had afterwards.
            &[f(10, 100), Drop(11, true), Drop(12, true), f(13, 101), Forward(A, 11, None)],
            // Lost before a dropped one: keeps its number.
            &[f(10, 100), Drop(12, true), f(13, 102), f(11, 101)],
            &[f(10, 100), Drop(11, true), Drop(13, true), f(14, 102), f(12, 101)],
            // Dropped too late: a later one went before.
            &[f(10, 100), f(12, 102), Drop(11, false), f(13, 103)],
            // Held: whatever was missed in between leaves no gap.
            &[f(10, 100), Hold, f(50, 101), Forward(A, 40, None), f(51, 102), f(10, 100)],
            &[f(10, 100), f(12, 102), Hold, f(11, 101), f(50, 103)],
            &[f(10, 100), Hold, Drop(11, true), f(12, 101), Hold, Hold, f(13, 102)],
            &[Hold, Drop(3, true), Hold, f(4, 100)],
            // Another source and back.
            &[f(10, 100), Switch(B), Forward(B, 5, Some(101)), Forward(A, 11, None), f(10, 100)],
            &[f(10, 100), Switch(B), Forward(B, 5, Some(101)), Switch(A), f(10, 100), f(11, 102)],
            &[f(10, 100), f(12, 102), Switch(B), f(11, 101), Forward(B, 9, Some(103)), f(11, 101)],
            &[f(10, 100), Switch(B), Switch(A), f(11, 101)],
            &[Switch(B), Forward(A, 1, None), Forward(B, 7, Some(100))],
            // A restart is no gap.
            &[f(10, 100), f(1010, 1100), f(2011, 2101), f(4000, 2102), Forward(A, 3000, None), f(4001, 2103)],
            &[f(10, 100), Drop(5000, true), f(5001, 101)],
        ];
        for case in cases {
            run(case);
        }
    }

    #[test]
    fn finds_the_source_of_a_number() {
        let f = |seq, out| Forward(A, seq, Some(out));
        let map = run(&[f(10, 100), Drop(11, true), f(13, 102), Switch(B), Forward(B, 700, Some(103))]);
        let cases: &[(u16, Option<(SourceId, u64)>)] = &[
            (99, None),
            (100, Some((A, 10))),
            (101, Some((A, 12))),
            (102, Some((A, 13))),
            (103, Some((B, 700))),
            (104, None),
        ];
        for (seq, expected) in cases {
            assert_eq!(map.reverse(SeqNo(*seq)).map(|(s, e)| (s, e.0)), *expected, "{seq}");
        }
        assert_eq!(run(&[]).reverse(SeqNo(100)), None);
        assert_eq!(run(&[]).highest_out(), None);
        assert_eq!(map.highest_out(), Some(ExtSeq(103)));
    }

    #[test]
    fn timestamps_go_on_over_a_switch() {
        let mut map = SeqMap::new(90_000, 0, A);
        let mut at = |now, source, seq, ts, switch: bool| {
            if switch {
                map.switch(source);
            }
            map.forward(ms(now), source, ExtSeq(seq), ts).map(|m| m.timestamp)
        };
        assert_eq!(at(0, A, 1, u32::MAX - 2999, false), Some(u32::MAX - 2999));
        assert_eq!(at(33, A, 2, 0, false), Some(0));
        // 100 ms later a source of quite another base.
        assert_eq!(at(133, B, 9, 77, true), Some(9_000));
        assert_eq!(at(166, B, 10, 77 + 3_000, false), Some(12_000));
        // Late packet of the first source: its own offset.
        assert_eq!(at(170, A, 1, u32::MAX - 2999, false), Some(u32::MAX - 2999));
        // At once: still another frame.
        assert_eq!(at(170, A, 3, 3_000, true), Some(12_360));
        assert_eq!(at(170, B, 11, 77, true), Some(12_361));
        assert_eq!(map.map_timestamp(B, 78), Some(12_362));
        assert_eq!(map.map_timestamp(A, 78), None);
        map.hold();
        assert_eq!(map.map_timestamp(B, 78), Some(12_362));
        map.switch(A);
        assert_eq!(map.map_timestamp(A, 78), None);
    }

    #[test]
    fn forgets_old_runs_rather_than_mixing_them_up() {
        let mut map = SeqMap::new(90_000, 0, A);
        for i in 0..2 * (RUNS as u64 + 2) {
            if i % 2 == 0 {
                assert_eq!(map.forward(ms(0), A, ExtSeq(i), 0).map(|m| m.seq.0), Some(i / 2));
            } else {
                assert!(map.drop_packet(A, ExtSeq(i)));
            }
        }
        assert_eq!(map.reverse(SeqNo(0)), None);
        assert_eq!(map.forward(ms(0), A, ExtSeq(0), 0), None);
        assert_eq!(map.reverse(SeqNo(2)), Some((A, ExtSeq(4))));
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        Packet { step: i64, drop: bool },
        Hold,
        Switch(u32),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            40 => (prop_oneof![6 => 1..2i64, 2 => -6..6i64, 1 => 2..1500i64], prop::bool::weighted(0.2))
                .prop_map(|(step, drop)| Op::Packet { step, drop }),
            2 => Just(Op::Hold),
            2 => (0..3u32).prop_map(Op::Switch),
        ]
    }

    proptest! {
        /// Over any loss, reordering, drop, hold and switch: a number has one packet, a packet one number, the newest
        /// packets' numbers only grow, the way back is the inverse, and without loss there is no gap.
        #[test]
        fn one_number_one_packet(ops in prop::collection::vec(any_op(), 1..300), first: u16, starts: [u16; 3]) {
            let mut map = SeqMap::new(48_000, first, SourceId(0));
            let mut highest = starts.map(u64::from);
            let mut packet_of = HashMap::new();
            let mut number_of = HashMap::new();
            let (mut last_new, mut now) = (None, 0);
            for op in ops {
                now += 7;
                match op {
                    Op::Hold => map.hold(),
                    Op::Switch(source) => map.switch(SourceId(source)),
                    Op::Packet { step, drop } => {
                        let source = map.source();
                        let top = &mut highest[source.0 as usize];
                        let seq = top.saturating_add_signed(step);
                        let is_new = seq > *top;
                        *top = seq.max(*top);
                        let timestamp = (seq as u32).wrapping_mul(960);
                        if drop {
                            if map.drop_packet(source, ExtSeq(seq)) {
                                prop_assert_eq!(map.forward(ms(now), source, ExtSeq(seq), timestamp), None);
                            }
                            continue;
                        }
                        let Some(mapped) = map.forward(ms(now), source, ExtSeq(seq), timestamp) else {
                            prop_assert!(!is_new, "{} refused", seq);
                            continue;
                        };
                        let packet = (source, seq);
                        prop_assert_eq!(*packet_of.entry(mapped.seq).or_insert(packet), packet);
                        prop_assert_eq!(*number_of.entry(packet).or_insert(mapped), mapped);
                        prop_assert_eq!(map.reverse(mapped.seq.seq()), Some((source, ExtSeq(seq))));
                        prop_assert_eq!(map.lookup(source, ExtSeq(seq), timestamp), Some(mapped));
                        if is_new {
                            if let Some(last) = last_new {
                                prop_assert!(mapped.seq > last);
                            }
                            last_new = Some(mapped.seq);
                        }
                    }
                }
            }
        }

        #[test]
        fn without_loss_there_is_no_gap(ops in prop::collection::vec(any_op(), 1..300), first: u16) {
            let mut map = SeqMap::new(48_000, first, SourceId(0));
            let mut next_source = [60_000u64; 3];
            let mut expected = u64::from(first & 0x7fff);
            for op in ops {
                match op {
                    Op::Hold => map.hold(),
                    Op::Switch(source) => map.switch(SourceId(source)),
                    Op::Packet { drop, .. } => {
                        let source = map.source();
                        let seq = ExtSeq(next_source[source.0 as usize]);
                        next_source[source.0 as usize] += 1;
                        if drop {
                            prop_assert!(map.drop_packet(source, seq));
                        } else {
                            let mapped = map.forward(ms(0), source, seq, 0);
                            prop_assert_eq!(mapped.map(|m| m.seq.0), Some(expected));
                            expected += 1;
                        }
                    }
                }
            }
        }
    }
}

//! Bursts, reports, pins and strategies; the index against a plain scan.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn core(core: u16, load: f64, sessions: u32) -> CoreState {
    CoreState { core, load, streams: 0, reported_sessions: 0, sessions }
}

fn idle(cores: u16) -> NodeState {
    let cores = (0..cores).map(|index| core(index, 0.0, 0)).collect();
    NodeState { eligible: true, reported_at_ms: None, cores }
}

fn cluster(strategy: LoadStrategy, nodes: u32, state: &NodeState) -> Placement {
    let mut placement = Placement::new(strategy);
    for node in 0..nodes {
        placement.update(&id(node), state);
    }
    placement
}

fn id(node: u32) -> NodeId {
    format!("media_{node:04}").into()
}

/// Pinned to a node, on any core.
fn whole(node: &NodeId) -> Pin<'_> {
    Pin { node, core: None }
}

#[test]
fn a_core_can_be_asked_for() {
    let mut placement = cluster(LoadStrategy::Cpu, 2, &idle(4));
    let node = id(1);
    for core in [3, 3, 0] {
        let pin = Some(Pin { node: &node, core: Some(core) });
        assert_eq!(placement.place(0, pin), Ok((id(1), core)));
    }
    let pin = Some(Pin { node: &node, core: Some(4) });
    assert_eq!(placement.place(0, pin), Err(Unplaceable::NoCore(id(1), 4)));
    assert_eq!(placement.place(0, Some(whole(&node))), Ok((id(1), 1)), "the best of those left");
    assert_eq!(placement.reserved(node.as_str()), 4);
}

fn burst(placement: &mut Placement, count: u32) -> BTreeMap<(NodeId, u16), u32> {
    let mut places = BTreeMap::new();
    for i in 0..count {
        *places.entry(placement.place(u64::from(i), None).expect("there are nodes")).or_default() += 1;
    }
    places
}

fn by_node(places: &BTreeMap<(NodeId, u16), u32>) -> BTreeMap<&str, u32> {
    let mut nodes = BTreeMap::new();
    for ((node, _), count) in places {
        *nodes.entry(node.as_str()).or_default() += count;
    }
    nodes
}

#[test]
fn a_burst_within_one_load_interval_spreads_evenly() {
    for strategy in [LoadStrategy::Cpu, LoadStrategy::Streams, LoadStrategy::Sessions] {
        let places = burst(&mut cluster(strategy, 10, &idle(4)), 1000);
        assert!(by_node(&places).values().all(|count| *count == 100), "{strategy:?} {places:?}");
        assert!(places.values().all(|count| *count == 25), "{strategy:?} {places:?}");
    }
}

#[test]
fn a_burst_spreads_although_idle_nodes_report_noise_in_its_middle() {
    let mut placement = cluster(LoadStrategy::Cpu, 10, &idle(2));
    let mut counts: BTreeMap<(NodeId, u16), u32> = BTreeMap::new();
    for i in 0..1000_u32 {
        let now = u64::from(i);
        if i % 37 == 0 {
            let node = id(i / 37 % 10);
            let noise = f64::from(i % 5) * 0.4;
            let sessions = |core| counts.get(&(node.clone(), core)).copied().unwrap_or(0);
            let cores = vec![core(0, noise, sessions(0)), core(1, 2.0 - noise, sessions(1))];
            placement.update(&node, &NodeState { eligible: true, reported_at_ms: Some(now), cores });
        }
        *counts.entry(placement.place(now, None).expect("there are nodes")).or_default() += 1;
    }
    let most = by_node(&counts).into_values().max().expect("some");
    assert!(most <= 120, "{counts:?}");
}

#[test]
fn the_least_loaded_node_wins_until_what_is_reserved_makes_up_for_it() {
    let mut placement = Placement::new(LoadStrategy::Cpu);
    let node = |load| NodeState { cores: vec![core(0, load, 0)], ..idle(0) };
    placement.update(&id(1), &node(20.0));
    placement.update(&id(2), &node(15.0));
    let chosen: String =
        (0..8).map(|_| placement.place(0, None).expect("there").0.as_str()[9..].to_owned()).collect();
    assert_eq!(placement.expected_load(), 1.0);
    assert_eq!(chosen, "22222121", "five on the second one, then by turns, fewer sessions first");
}

#[test]
fn the_node_is_chosen_by_its_mean_and_then_its_best_core() {
    let mut placement = Placement::new(LoadStrategy::Cpu);
    placement.update(&id(1), &NodeState { cores: vec![core(0, 80.0, 1), core(1, 0.0, 0)], ..idle(2) });
    placement.update(&id(2), &NodeState { cores: vec![core(0, 31.0, 1), core(1, 30.0, 1)], ..idle(2) });
    assert_eq!(placement.place(0, None), Ok((id(2), 1)));
    assert_eq!(placement.place(0, Some(whole(&id(1)))), Ok((id(1), 1)));
}

#[test]
fn a_reservation_lasts_until_a_report_must_show_the_session() {
    let mut placement = cluster(LoadStrategy::Cpu, 1, &idle(1));
    let report = |at, sessions| NodeState {
        reported_at_ms: Some(at),
        cores: vec![CoreState { reported_sessions: sessions, ..core(0, 3.0, sessions) }],
        ..idle(0)
    };
    let mut seen = Vec::new();
    for now in [1_000, 2_000, 3_000] {
        placement.place(now, None).expect("there");
    }
    for (at, sessions) in [(3_500, 3), (10_999, 3), (11_000, 3), (11_000, 3), (12_500, 3), (12_600, 0)] {
        placement.update(&id(0), &report(at, sessions));
        seen.push(placement.reserved("media_0000"));
    }
    assert_eq!(seen, [3, 3, 2, 2, 1, 0], "the last one ended before it could show");
}

#[test]
fn what_a_session_brings_is_learnt_and_bounded() {
    let mut placement = Placement::new(LoadStrategy::Cpu);
    let mut seen = vec![placement.expected_load()];
    for (node, load, sessions) in
        [(1, 40.0, 10), (2, 20.0, 10), (1, 0.3, 10), (2, 0.0, 10), (2, 99.0, 0), (1, 90.0, 1)]
    {
        let cores = vec![CoreState { reported_sessions: sessions, ..core(0, load, sessions) }];
        placement.update(&id(node), &NodeState { reported_at_ms: Some(1), cores, eligible: true });
        seen.push(placement.expected_load());
    }
    placement.remove(&id(1));
    placement.remove(&id(2));
    seen.push(placement.expected_load());
    assert_eq!(seen, [1.0, 4.0, 3.0, 20.3 / 20.0, 0.25, 9.93, 25.0, 1.0]);
}

#[test]
fn each_strategy_counts_its_own() {
    let node = |load, streams, sessions| {
        let core = CoreState { core: 0, load, streams, reported_sessions: sessions, sessions };
        NodeState { eligible: true, reported_at_ms: Some(1), cores: vec![core] }
    };
    let nodes = [node(10.0, 30, 3), node(20.0, 10, 2), node(30.0, 20, 1)];
    for (strategy, best) in [(LoadStrategy::Cpu, 0), (LoadStrategy::Streams, 1), (LoadStrategy::Sessions, 2)]
    {
        let mut placement = Placement::new(strategy);
        for (node, state) in (0..).zip(&nodes) {
            placement.update(&id(node), state);
        }
        assert_eq!(placement.place(5, None), Ok((id(best), 0)), "{strategy:?}");
    }
}

#[test]
fn only_eligible_nodes_and_a_pin_has_no_substitute() {
    let mut placement = Placement::new(LoadStrategy::Cpu);
    assert_eq!(placement.place(0, None), Err(Unplaceable::NoNode));
    placement.update(&id(1), &NodeState { eligible: false, ..idle(1) });
    placement.update(&id(2), &idle(0));
    assert_eq!(placement.place(0, None), Err(Unplaceable::NoNode), "one does not run, one has no core");
    placement.update(&id(3), &NodeState { cores: vec![core(0, 95.0, 9)], ..idle(1) });
    assert_eq!(placement.place(0, None), Ok((id(3), 0)));
    for pinned in [1, 2, 4] {
        assert_eq!(placement.place(0, Some(whole(&id(pinned)))), Err(Unplaceable::Pinned(id(pinned))));
    }
    placement.update(&id(1), &idle(1));
    assert_eq!(placement.place(0, None), Ok((id(1), 0)));
    assert_eq!(placement.place(0, Some(whole(&id(3)))), Ok((id(3), 0)));
    placement.remove(&id(1));
    placement.remove(&id(3));
    assert_eq!(placement.place(0, None), Err(Unplaceable::NoNode));
    placement.update(&id(5), &idle(2));
    assert_eq!(placement.place(0, None), Ok((id(5), 0)), "in the place of a removed one");
    assert_eq!(Unplaceable::Pinned(id(1)).to_string(), "Media node media_0001 is not available");
}

proptest! {
    /// The index gives what a scan over all nodes gives.
    #[test]
    fn the_index_is_a_scan(steps in proptest::collection::vec((0..12u32, 0..6u8, 0..100u32, 0..9u32), 1..200)) {
        let mut placement = Placement::new(LoadStrategy::Cpu);
        for (now, (node, what, load, sessions)) in (0..).zip(steps) {
            match what {
                0 => placement.remove(&id(node)),
                1 | 2 => {
                    let state = core(0, f64::from(load), sessions);
                    let cores = vec![CoreState { reported_sessions: sessions, ..state }, core(1, 0.0, sessions)];
                    let reported_at_ms = Some(now * 2_000);
                    placement.update(&id(node), &NodeState { eligible: load % 4 > 0, reported_at_ms, cores });
                }
                _ => {
                    let eligible = placement.slots.iter().filter(|node| node.eligible);
                    let best = eligible.min_by_key(|node| node.key).map(|node| node.id.clone());
                    let placed = placement.place(now * 2_000, None).map(|(node, _)| node);
                    prop_assert_eq!(placed.ok(), best);
                }
            }
            prop_assert_eq!(placement.index.len(), placement.slots.iter().filter(|node| node.eligible).count());
            for node in &placement.slots {
                for core in &node.cores {
                    prop_assert!(core.reserved() <= core.sessions() as usize);
                }
            }
        }
    }
}

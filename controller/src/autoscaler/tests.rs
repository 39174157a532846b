//! The published figures, the rules one by one, and what must hold for every cluster.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LIMITS: Limits = Limits { max_nodes: 8, min_nodes: 1, max_avg_load: 70.0, min_avg_load: 30.0 };

fn node(id: &str, status: Status, load: f64) -> NodeView {
    let (environment_id, ip) = (Some(format!("i-{id}")), Some("10.0.0.1".to_owned()));
    NodeView { id: id.into(), environment_id, ip, status, load, busy: load > 0.0, launched_at_ms: 0 }
}

/// Id, status and load.
type Nodes<'a> = &'a [(&'a str, Status, f64)];

fn view(limits: Limits, nodes: Nodes<'_>) -> View {
    View { limits, nodes: nodes.iter().map(|(id, status, load)| node(id, *status, *load)).collect() }
}

/// `+resumed/relaunched/new` or `-canceled/terminated/drained`.
fn shown(decision: Option<&Decision>) -> String {
    let ids = |list: &[NodeId]| list.iter().map(NodeId::as_str).collect::<Vec<_>>().join(",");
    match decision {
        None => "none".into(),
        Some(d) if d.launched() > 0 => format!("+{}/{}/{}", ids(&d.resume), ids(&d.relaunch), d.new_nodes),
        Some(d) => format!("-{}/{}/{}", ids(&d.cancel), ids(&d.terminate), ids(&d.drain)),
    }
}

use Status::{Canceled, Launching, Running, Terminating, WaitingIdleToTerminate as Waiting};

#[test]
fn the_published_rows() {
    let two = Limits { max_nodes: 2, ..LIMITS };
    // What the algorithm sees in each row, total load, average, what it does.
    let rows: &[(Limits, Nodes, f64, f64, &str)] = &[
        (LIMITS, &[("a", Running, 0.0)], 0.0, 0.0, "none"),
        (LIMITS, &[("a", Running, 36.59)], 36.59, 36.59, "none"),
        (LIMITS, &[("a", Running, 73.18)], 73.18, 73.18, "+//1"),
        (LIMITS, &[("a", Running, 73.18), ("b", Launching, 0.0)], 73.18, 36.59, "none"),
        (LIMITS, &[("a", Running, 73.18), ("b", Running, 0.0)], 73.18, 36.59, "none"),
        (LIMITS, &[("a", Running, 36.59), ("b", Running, 0.0)], 36.59, 18.295, "-/b/"),
        (LIMITS, &[("a", Running, 36.59), ("b", Terminating, 0.0)], 36.59, 36.59, "none"),
        (two, &[("a", Running, 25.0)], 25.0, 25.0, "none"),
        (two, &[("a", Running, 50.0)], 50.0, 50.0, "none"),
        (two, &[("a", Running, 75.0)], 75.0, 75.0, "+//1"),
        (two, &[("a", Running, 100.0), ("b", Launching, 0.0)], 100.0, 50.0, "none"),
        (two, &[("a", Running, 125.0), ("b", Launching, 0.0)], 125.0, 62.5, "none"),
        (two, &[("a", Running, 150.0), ("b", Running, 0.0)], 150.0, 75.0, "none"),
        (two, &[("a", Running, 125.0), ("b", Running, 0.0)], 125.0, 62.5, "none"),
    ];
    for (limits, nodes, load, avg, expected) in rows {
        let view = view(*limits, nodes);
        let totals = view.totals();
        assert_eq!((totals.load, totals.avg), (*load, *avg), "{nodes:?}");
        assert_eq!(shown(tick(&view, 1).as_ref()), *expected, "{nodes:?}");
    }
}

#[test]
fn the_published_event() {
    let limits = Limits { max_nodes: 3, ..LIMITS };
    let nodes = [("media_a", Running, 23.84), ("media_b", Launching, 0.0), ("media_c", Launching, 0.0)];
    let view = view(limits, &nodes);
    let decision = tick(&view, 1_700_000_000_000).expect("shrinks");
    let seen = |id: &str, load: f64, status: &str| json!({"id": id, "environmentId": format!("i-{id}"), "ip": "10.0.0.1", "load": load, "status": status});
    let event = decision.to_json(&view, "cluster-1");
    let expected = json!({
        "event": "autoscaling",
        "timestamp": 1_700_000_000_000_u64,
        "clusterId": "cluster-1",
        "reason": "Average load 7.95 % is below its lower limit; the limits are 30.00 % and 70.00 %. The least number of \
                   nodes, 1, is not reached: 3 nodes active (2 launching, 1 running). 2 nodes will be ended: 2 canceled, \
                   0 terminated, 0 drained first.",
        "mediaNodes": {
            "launch": {"total": 0, "newNodes": 0, "waitingIdleToTerminateNodes": [], "canceledNodes": []},
            "terminate": {
                "total": 2,
                "runningNodes": [],
                "launchingNodes": [seen("media_c", 0.0, "launching"), seen("media_b", 0.0, "launching")],
            },
        },
        "system": {
            "config": {"maxNodes": 3, "minNodes": 1, "maxAvgLoad": 70, "minAvgLoad": 30},
            "status": {
                "numNodes": 3,
                "totalLoad": 23.84,
                "avgLoad": 23.84 / 3.0,
                "runningNodes": [seen("media_a", 23.84, "running")],
                "launchingNodes": [seen("media_b", 0.0, "launching"), seen("media_c", 0.0, "launching")],
                "waitingIdleToTerminateNodes": [],
                "canceledNodes": [],
            },
        },
    });
    assert_eq!(event, expected);
    assert!((7.946..7.947).contains(&event["system"]["status"]["avgLoad"].as_f64().expect("a number")));
}

#[test]
fn rules_one_by_one() {
    let none = Limits { min_nodes: 0, ..LIMITS };
    let three = Limits { min_nodes: 3, ..LIMITS };
    let tight = Limits { min_avg_load: 60.0, ..LIMITS };
    let rows: &[(&str, Limits, Nodes, &str)] = &[
        ("at the upper limit", LIMITS, &[("a", Running, 70.0)], "none"),
        ("at the lower limit", LIMITS, &[("a", Running, 60.0), ("b", Running, 0.0)], "none"),
        (
            "as many as needed",
            LIMITS,
            &[("a", Running, 100.0), ("b", Running, 100.0), ("c", Waiting, 100.0)],
            "+c//2",
        ),
        ("at most the most", LIMITS, &[("a", Running, 2000.0)], "+//7"),
        (
            "never past it",
            Limits { max_nodes: 1, ..LIMITS },
            &[("a", Running, 100.0), ("b", Running, 100.0)],
            "none",
        ),
        (
            "draining, canceled, new",
            LIMITS,
            &[("a", Running, 100.0), ("b", Canceled, 0.0), ("c", Waiting, 190.0)],
            "+c/b/2",
        ),
        ("draining raises the average", LIMITS, &[("a", Running, 40.0), ("b", Waiting, 31.0)], "+b//0"),
        ("canceled does not lower it", LIMITS, &[("a", Running, 71.0), ("b", Canceled, 0.0)], "+/b/0"),
        (
            "least loaded draining first",
            LIMITS,
            &[("a", Running, 30.0), ("b", Waiting, 40.0), ("c", Waiting, 5.0)],
            "+c//0",
        ),
        (
            "launching before running",
            LIMITS,
            &[("a", Running, 29.0), ("b", Launching, 0.0), ("c", Running, 0.0)],
            "-b/c/",
        ),
        ("busy ones drain", LIMITS, &[("a", Running, 20.0), ("b", Running, 10.0)], "-//b"),
        (
            "down to the least",
            three,
            &[
                ("a", Running, 0.0),
                ("b", Running, 0.0),
                ("c", Running, 0.0),
                ("d", Launching, 0.0),
                ("e", Launching, 0.0),
            ],
            "-e,d//",
        ),
        ("up to the least", three, &[("a", Running, 0.0)], "+//2"),
        ("up to the least from nothing", three, &[], "+//3"),
        ("and as far as the load asks", three, &[("a", Running, 280.0)], "+//3"),
        ("the last one goes when nothing runs", none, &[("a", Running, 0.0)], "-/a/"),
        ("and stays when something does", none, &[("a", Running, 10.0)], "none"),
        ("nothing is no reason to grow", none, &[], "none"),
        ("no step down that must be taken back", tight, &[("a", Running, 71.0), ("b", Running, 0.0)], "none"),
        (
            "but the one before it",
            tight,
            &[("a", Running, 71.0), ("b", Running, 0.0), ("c", Running, 0.0)],
            "-/c/",
        ),
        ("a load that is no number", LIMITS, &[("a", Running, f64::NAN), ("b", Running, 60.0)], "none"),
    ];
    for (name, limits, nodes, expected) in rows {
        assert_eq!(shown(tick(&view(*limits, nodes), 1).as_ref()), *expected, "{name}");
    }
}

#[test]
fn the_newest_launch_is_canceled_and_the_oldest_taken_back() {
    let aged = |status| {
        let mut view =
            view(LIMITS, &[("a", Running, 0.0), ("b", status, 0.0), ("c", status, 0.0), ("d", status, 0.0)]);
        for (node, age) in view.nodes.iter_mut().zip([1, 5, 9, 7]) {
            node.launched_at_ms = age;
        }
        view
    };
    let mut launching = aged(Launching);
    launching.nodes[0].load = 60.0;
    launching.nodes[0].busy = true;
    assert_eq!(shown(tick(&launching, 1).as_ref()), "-c,d//");
    let mut canceled = aged(Canceled);
    canceled.nodes[0].load = 150.0;
    assert_eq!(shown(tick(&canceled, 1).as_ref()), "+/b,d/0");
}

#[test]
fn reasons_of_growth() {
    let reason = |limits, nodes| tick(&view(limits, nodes), 1).expect("grows").reason;
    let expected = "Average load 73.18 % is above its upper limit; the limits are 30.00 % and 70.00 %. The greatest number of nodes, 8, \
                    is not reached: 1 node active (0 launching, 1 running). 1 node will be launched: 0 back from draining, 0 \
                    back from canceled, 1 new.";
    assert_eq!(reason(LIMITS, &[("a", Running, 73.18)]), expected);
    let expected = "Fewer than the least number of nodes, 1: 0 nodes active (0 launching, 0 running). Average load is 0.00 %; the \
                    limits are 30.00 % and 70.00 %. 1 node will be launched: 0 back from draining, 0 back from canceled, 1 new.";
    assert_eq!(reason(LIMITS, &[]), expected);
}

/// Carries a decision out as the cluster does on the spot; `ready` says whether launches are over at once.
fn carry_out(view: &mut View, decision: &Decision, ready: bool, next: &mut u32) {
    let mut set = |ids: &[NodeId], from: Status, to: Status| {
        for id in ids {
            let node = view.nodes.iter_mut().find(|node| node.id == *id).expect("a node of the view");
            assert_eq!(node.status, from, "{id}");
            node.status = to;
        }
    };
    set(&decision.resume, Waiting, Running);
    set(&decision.relaunch, Canceled, Launching);
    set(&decision.cancel, Launching, Canceled);
    set(&decision.terminate, Running, Terminating);
    set(&decision.drain, Running, Waiting);
    for _ in 0..decision.new_nodes {
        *next += 1;
        view.nodes.push(node(&format!("new{next}"), Launching, 0.0));
    }
    for node in view.nodes.iter_mut().filter(|node| ready && node.status == Launching) {
        node.status = Running;
    }
}

fn any_limits() -> impl Strategy<Value = Limits> {
    (0..12u32, 0..12u32, 0.0..100.0, 0.0..100.0).prop_map(|(a, b, x, y): (u32, u32, f64, f64)| Limits {
        max_nodes: a.max(b),
        min_nodes: a.min(b),
        max_avg_load: x.max(y),
        min_avg_load: x.min(y),
    })
}

fn any_nodes() -> impl Strategy<Value = Vec<NodeView>> {
    let status = proptest::sample::select(Status::ALL.to_vec());
    let one = (status, prop_oneof![Just(0.0), 0.0..120.0], any::<bool>(), 0..5u64);
    proptest::collection::vec(one, 0..16).prop_map(|nodes| {
        let numbered = nodes.into_iter().enumerate();
        numbered
            .map(|(i, (status, load, busy, launched_at_ms))| {
                let load = if status.can_have_load() { load } else { 0.0 };
                let busy = status.can_have_load() && (busy || load > 0.0);
                NodeView { busy, launched_at_ms, ..node(&format!("n{i}"), status, load) }
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn bounds_hold_and_no_busy_node_is_terminated(limits in any_limits(), nodes in any_nodes()) {
        let mut view = View { limits, nodes };
        let before = view.totals();
        let Some(decision) = tick(&view, 1) else {
            prop_assert!(before.active >= limits.min_nodes, "the least number is always kept");
            return Ok(());
        };
        prop_assert!((decision.launched() > 0) != (decision.ended() > 0), "one direction, and never nothing");
        for id in &decision.terminate {
            prop_assert!(view.nodes.iter().any(|node| node.id == *id && !node.busy));
        }
        let (draining, canceled) = (nodes_in(&view, Waiting), nodes_in(&view, Canceled));
        if decision.relaunch.len() + decision.new_nodes as usize > 0 {
            prop_assert_eq!(decision.resume.len(), draining, "all draining nodes come first");
        }
        if decision.new_nodes > 0 {
            prop_assert_eq!(decision.relaunch.len(), canceled, "then all canceled ones");
        }
        if decision.terminate.len() + decision.drain.len() > 0 {
            prop_assert_eq!(decision.cancel.len(), nodes_in(&view, Launching));
        }
        carry_out(&mut view, &decision, false, &mut 0);
        let after = view.totals();
        let moved = decision.launched() as i64 - decision.ended() as i64;
        prop_assert_eq!(i64::from(after.active), i64::from(before.active) + moved);
        if moved > 0 {
            prop_assert!(after.active <= limits.max_nodes);
        } else {
            prop_assert!(after.active >= limits.min_nodes);
        }
    }

    #[test]
    fn under_constant_load_one_run_is_enough(limits in any_limits(), nodes in any_nodes(), ready in any::<bool>()) {
        let mut view = View { limits, nodes };
        // An idle node without load: what it takes away with it is nothing, so the load is constant.
        for node in view.nodes.iter_mut().filter(|node| !node.busy) {
            node.load = 0.0;
        }
        let Some(decision) = tick(&view, 1) else { return Ok(()) };
        carry_out(&mut view, &decision, ready, &mut 0);
        prop_assert_eq!(tick(&view, 2), None);
    }

    #[test]
    fn the_count_is_that_of_the_plain_rule(limits in any_limits(), active in 0..40u32, load in 0.0..3000.0f64) {
        let avg = if active == 0 { 0.0 } else { load / f64::from(active) };
        let totals = Totals { active, running: active, load, avg };
        let too_much = |nodes: u32| nodes == 0 || load / f64::from(nodes) > limits.max_avg_load;
        let mut expected = active;
        if active < limits.min_nodes || (avg > limits.max_avg_load && active < limits.max_nodes) {
            expected = limits.min_nodes.max(active + 1);
            while expected < limits.max_nodes && too_much(expected) {
                expected += 1;
            }
        } else if avg < limits.min_avg_load {
            while expected > limits.min_nodes
                && load / f64::from(expected) < limits.min_avg_load
                && !(too_much(expected - 1) && load > 0.0)
            {
                expected -= 1;
            }
        }
        prop_assert_eq!(policy::target(&limits, totals), expected);
    }
}

fn nodes_in(view: &View, status: Status) -> usize {
    view.nodes.iter().filter(|node| node.status == status).count()
}

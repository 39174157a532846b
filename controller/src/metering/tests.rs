//! Records over the lives of nodes and server.

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60_000;

fn meter(now_ms: u64) -> Meter {
    let config = MeterConfig { cluster_id: "c".into(), price_per_core_minute: 0.0006, edition: "pro".into() };
    Meter::new(config, now_ms)
}

fn member(node: &str, cores: u32) -> Member {
    Member {
        node: node.into(),
        environment_id: None,
        role: if node == MASTER { NodeRole::MasterNode } else { NodeRole::MediaNode },
        ip: Some("192.0.2.1".into()),
        cores,
        reason: StartReason::Autodiscovery,
    }
}

fn rows(meter: &mut Meter) -> Vec<(String, Vec<u8>)> {
    meter.take_rows().into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

#[test]
fn the_published_example_costs_36_cents() {
    let mut meter = meter(0);
    for (node, cores) in [(MASTER, 2), ("media_1", 4), ("media_2", 4)] {
        meter.connected(0, member(node, cores));
    }
    let usage = meter.usage(0, 60 * MINUTE, 60 * MINUTE);
    assert!((usage.cost - 0.36).abs() < 1e-12 && (usage.core_minutes - 600.0).abs() < 1e-9, "{usage:?}");
    assert_eq!(usage.nodes.len(), 3);
    assert_eq!((usage.nodes[0].node_id.as_str(), usage.nodes[0].core_minutes), (MASTER, 120.0));
    // The future costs nothing yet, and what lies outside of the period is not counted.
    assert_eq!(meter.usage(30 * MINUTE, 90 * MINUTE, 60 * MINUTE).core_minutes, 300.0);
    assert_eq!(meter.usage(60 * MINUTE, 90 * MINUTE, 60 * MINUTE).records, []);
}

#[test]
fn a_node_that_comes_and_goes_has_a_record_for_each_time() {
    let mut meter = meter(0);
    meter.connected(0, member("media_1", 4));
    meter.connected(5, member("media_1", 4));
    meter.disconnected(MINUTE, &"media_1".into(), EndReason::Crashed);
    meter.disconnected(MINUTE, &"media_1".into(), EndReason::Removed);
    meter.connected(2 * MINUTE, member("media_1", 4));
    meter.disconnected(3 * MINUTE, &"media_1".into(), EndReason::Removed);
    meter.connected(4 * MINUTE, member("media_1", 4));
    let usage = meter.usage(0, 5 * MINUTE, 5 * MINUTE);
    let reasons: Vec<_> =
        usage.records.iter().map(|line| (line.record.start_reason, line.record.end_reason)).collect();
    assert_eq!(
        reasons,
        [
            (StartReason::Autodiscovery, Some(EndReason::Crashed)),
            (StartReason::Recovery, Some(EndReason::Removed)),
            (StartReason::Autodiscovery, None),
        ]
    );
    assert_eq!(usage.core_minutes, 12.0);
}

#[test]
fn an_unclean_end_is_charged_up_to_the_last_heartbeat() {
    let mut before = meter(0);
    before.connected(0, member("media_1", 2));
    assert_eq!(before.next_timeout(), HEARTBEAT_MS);
    before.tick(HEARTBEAT_MS - 1);
    before.tick(HEARTBEAT_MS);
    before.tick(HEARTBEAT_MS + 7);
    let mut after = meter(10 * MINUTE);
    after.restore(&rows(&mut before)).unwrap();
    after.connected(10 * MINUTE, member("media_1", 2));
    let usage = after.usage(0, 11 * MINUTE, 11 * MINUTE);
    assert_eq!(usage.core_minutes, 4.0);
    assert_eq!(usage.records[0].record.end_reason, Some(EndReason::ServerStopped));
    assert_eq!(usage.records[1].record.start_reason, StartReason::Restart);
    assert!(after.restore(&[("x".into(), b"{".to_vec())]).is_err());
}

#[test]
fn a_clean_end_closes_everything() {
    let mut meter = meter(0);
    meter.connected(0, member(MASTER, 2));
    meter.connected(0, member("media_1", 2));
    meter.stop(MINUTE);
    assert!(
        rows(&mut meter)
            .iter()
            .all(|(_, value)| !String::from_utf8_lossy(value).contains("\"endTime\":null"))
    );
    assert_eq!(meter.usage(0, 9 * MINUTE, 9 * MINUTE).core_minutes, 4.0);
}

#[test]
fn the_csv_has_one_line_per_record_and_quotes_what_needs_it() {
    let mut meter = meter(0);
    meter.connected(0, Member { environment_id: Some("a,\"b\"".into()), ..member("media_1", 4) });
    let csv = meter.usage(0, 2 * MINUTE, 2 * MINUTE).csv();
    let lines: Vec<_> = csv.split("\r\n").collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("id,clusterId,nodeId,"));
    assert_eq!(
        lines[1],
        "usage_000000000000000_media_1,c,media_1,\"a,\"\"b\"\"\",medianode,192.0.2.1,4,0,,autodiscovery,,0.0006,pro,0,2.0,0.0048"
    );
}

#[test]
fn the_oldest_closed_records_go_first() {
    let mut meter = meter(0);
    meter.connected(0, member(MASTER, 1));
    for n in 1..=RECORDS_MAX as u64 {
        meter.connected(n, member("media_1", 1));
        meter.disconnected(n, &"media_1".into(), EndReason::Removed);
    }
    assert_eq!(meter.records.len(), RECORDS_MAX);
    assert!(
        meter.records.values().next().is_some_and(|record| record.node.as_str() == MASTER),
        "open ones stay"
    );
    assert!(meter.take_rows().iter().any(|(_, value)| value.is_none()), "they go from the store, too");
}

proptest! {
    /// Whatever happens, periods add up: usage of the whole is the sum of its parts.
    #[test]
    fn periods_add_up(
        steps in prop::collection::vec((0..3usize, 0..3u8, 0..100_000u64), 1..30), cut in 0..1_000_000u64,
    ) {
        let mut meter = meter(0);
        let mut now = 0;
        for (node, what, pause) in steps {
            let id = ["media_1", "media_2", MASTER][node];
            match what {
                0 => meter.connected(now, member(id, 2)),
                1 => meter.disconnected(now, &id.into(), EndReason::Crashed),
                _ => {
                    let mut next = self::meter(now);
                    let mut all: BTreeMap<_, _> = BTreeMap::new();
                    meter.changed = meter.records.keys().cloned().collect();
                    all.extend(rows(&mut meter));
                    next.restore(&all.into_iter().collect::<Vec<_>>()).unwrap();
                    meter = next;
                }
            }
            now += pause;
            meter.tick(now);
        }
        let whole = meter.usage(0, u64::MAX, now).cost;
        let parts = meter.usage(0, cut, now).cost + meter.usage(cut, u64::MAX, now).cost;
        prop_assert!((whole - parts).abs() < 1e-9);
        prop_assert!(meter.records.values().all(|record| record.end_ms.is_none_or(|end| end >= record.start_ms)));
    }
}

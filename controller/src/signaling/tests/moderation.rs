//! Moderators, and what the REST API does to participants.

use serde_json::json;

use super::harness::Bench;
use crate::session::{ConnectionPatch, Reason, Role};

#[test]
fn a_moderator_unpublishes_somebody() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let moderator = bench.join("S", Role::Moderator);
    let stream = bench.publish(&members[0]);
    bench.clear();
    let params = json!({"streamId": stream});
    assert_eq!(bench.fail(members[1].client, "forceUnpublish", params.clone()), 401);
    assert_eq!(bench.fail(moderator.client, "forceUnpublish", json!({"streamId": "str_X"})), 105);
    bench.ask(moderator.client, "forceUnpublish", params);
    assert_eq!(bench.methods(moderator.client), ["#result", "participantUnpublished"]);
    for member in &members {
        assert_eq!(
            bench.heard(member.client, "participantUnpublished"),
            json!({"connectionId": members[0].id, "reason": "forceUnpublishByUser"})
        );
    }
    assert_eq!(bench.events(), ["webrtcConnectionDestroyed forceUnpublishByUser"]);
}

#[test]
fn a_moderator_evicts_somebody() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let moderator = bench.join("S", Role::Moderator);
    bench.clear();
    let params = json!({"connectionId": members[0].id});
    assert_eq!(bench.fail(members[1].client, "forceDisconnect", params.clone()), 401);
    assert_eq!(bench.fail(moderator.client, "forceDisconnect", json!({"connectionId": "con_X"})), 102);
    bench.ask(moderator.client, "forceDisconnect", params.clone());
    assert_eq!(bench.methods(moderator.client), ["participantLeft", "#result", "participantEvicted"]);
    assert_eq!(bench.methods(members[1].client), ["participantLeft", "participantEvicted"]);
    assert_eq!(
        bench.heard(members[0].client, "participantEvicted"),
        json!({"connectionId": members[0].id, "reason": "forceDisconnectByUser"})
    );
    assert_eq!(bench.events(), ["participantLeft forceDisconnectByUser"]);
    assert_eq!(bench.fail(members[0].client, "echo", json!({})), 803, "it is out");
    bench.pass(10_000);
    assert_eq!(bench.closes.len(), 1);
    assert_eq!(bench.closes[0].0, members[0].client);
}

#[test]
fn a_moderator_can_evict_itself() {
    let mut bench = Bench::new();
    bench.session("S");
    let moderator = bench.join("S", Role::Moderator);
    bench.clear();
    bench.ask(moderator.client, "forceDisconnect", json!({"connectionId": moderator.id}));
    assert_eq!(bench.methods(moderator.client), ["#result", "participantEvicted"]);
    assert_eq!(
        bench.events(),
        ["participantLeft forceDisconnectByUser", "sessionDestroyed lastParticipantLeft"]
    );
}

#[test]
fn the_rest_api_evicts_and_closes() {
    let mut bench = Bench::new();
    let members = bench.room_of(3);
    for (session, connection, status) in [("X", members[0].id.as_str(), 400), ("S", "con_X", 404)] {
        let refused = bench.engine.force_disconnect(bench.now, session, connection, &mut Vec::new());
        assert_eq!(refused.map_err(|error| error.status), Err(status));
    }
    let mut out = Vec::new();
    bench.engine.force_disconnect(bench.now, "S", &members[0].id, &mut out).expect("evicted");
    bench.carry_out(out);
    assert_eq!(bench.methods(members[0].client), ["participantEvicted"]);
    assert_eq!(bench.methods(members[1].client), ["participantLeft", "participantEvicted"]);
    assert_eq!(bench.events(), ["participantLeft forceDisconnectByServer"]);

    let mut out = Vec::new();
    bench.engine.close_session(bench.now, "S", Reason::SessionClosedByServer, &mut out).expect("closed");
    bench.carry_out(out);
    bench.run_nodes();
    assert_eq!(bench.methods(members[1].client), ["participantEvicted"]);
    let last = bench.inbox.remove(&members[2].client).expect("told");
    let own = last.last().expect("its own at the end");
    assert_eq!(own["params"], json!({"connectionId": members[2].id, "reason": "sessionClosedByServer"}));
    assert_eq!(
        bench.events(),
        [
            "participantLeft sessionClosedByServer",
            "participantLeft sessionClosedByServer",
            "sessionDestroyed sessionClosedByServer"
        ]
    );
    assert!(bench.node().rooms.is_empty() && bench.refused.is_empty());
    let gone = bench.engine.close_session(bench.now, "S", Reason::SessionClosedByServer, &mut Vec::new());
    assert_eq!(gone.map_err(|error| error.status), Err(404));
}

#[test]
fn closing_four_peer_connections_is_recorded_one_by_one() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let streams: Vec<_> = members.iter().map(|member| bench.publish(member)).collect();
    bench.subscribe(&members[0], &streams[1]);
    bench.subscribe(&members[1], &streams[0]);
    bench.clear();
    let mut out = Vec::new();
    bench.engine.close_session(bench.now, "S", Reason::SessionClosedByServer, &mut out).expect("closed");
    bench.carry_out(out);
    let events = bench.events();
    let count = |name: &str| events.iter().filter(|event| event.starts_with(name)).count();
    assert_eq!((count("webrtcConnectionDestroyed"), count("participantLeft")), (4, 2));
    assert_eq!(events.last().map(String::as_str), Some("sessionDestroyed sessionClosedByServer"));
    assert!(events.iter().all(|event| event.ends_with("sessionClosedByServer")));
    bench.run_nodes();
    assert_eq!(bench.refused, []);
}

#[test]
fn a_changed_role_is_told_and_counts_at_once() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let patch = |role, record| ConnectionPatch { role, record };
    for (patch, told) in [
        (patch(Some(Role::Subscriber), Some(false)), 2),
        (patch(Some(Role::Subscriber), Some(false)), 0),
        (patch(Some(Role::Moderator), None), 1),
        (patch(None, None), 0),
    ] {
        let mut out = Vec::new();
        bench.engine.patch_connection(bench.now, "S", &members[0].id, patch, &mut out).expect("patched");
        bench.carry_out(out);
        let heard = bench.methods(members[0].client);
        assert_eq!(heard, vec!["connectionPropertyChanged"; told], "{patch:?}");
    }
    assert!(bench.methods(members[1].client).is_empty());
    bench.call(members[0].client, "forceDisconnect", json!({"connectionId": members[1].id}));
    let unknown = bench.engine.patch_connection(bench.now, "S", "con_X", patch(None, None), &mut Vec::new());
    assert_eq!(unknown.map(|_| ()).map_err(|error| error.status), Err(404));
}

#[test]
fn a_crowd_hears_its_own_end_only() {
    let mut bench = Bench::new();
    let members = bench.room_of(100);
    bench.cut(members[99].client);
    bench.clear();
    let mut out = Vec::new();
    bench.engine.close_session(bench.now, "S", Reason::SessionClosedByServer, &mut out).expect("closed");
    bench.carry_out(out);
    for member in &members[..99] {
        let told = bench.inbox.remove(&member.client).expect("told");
        assert_eq!(told.len(), 1, "more than the queue to a client holds would cut it before it hears why");
        let own = json!({"connectionId": member.id, "reason": "sessionClosedByServer"});
        assert_eq!((&told[0]["method"], &told[0]["params"]), (&json!("participantEvicted"), &own));
    }
    let events = bench.events();
    assert_eq!(events.iter().filter(|event| *event == "participantLeft sessionClosedByServer").count(), 100);
    let client = bench.connect();
    bench.ask(client, "connect", json!({"sessionId": members[99].rpc}));
    assert_eq!(bench.heard(client, "participantEvicted")["reason"], "sessionClosedByServer");
}

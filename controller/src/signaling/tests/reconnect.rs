//! Pings, lost sockets, taking over, eviction.

use serde_json::json;

use super::harness::{Bench, Member, NODE, join_params, offer, publish_params};
use crate::engine::{EngineConfig, Limits};
use crate::ids::ClientId;
use crate::session::{Role, ViewOptions};

const VIEW: ViewOptions = ViewOptions { pending_connections: true, webrtc_stats: false };

fn come_back(bench: &mut Bench, member: &Member) -> ClientId {
    let client = bench.connect();
    let params = json!({"sessionId": member.rpc, "reconnect": true});
    let id = bench.ask(client, "connect", params);
    let expected = json!({"value": "reconnection successful", "sessionId": member.rpc});
    assert_eq!(bench.inbox[&client][0]["result"], expected, "first of all");
    bench.answer(client, id);
    client
}

#[test]
fn a_regained_socket_gets_what_it_missed() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.cut(members[0].client);
    bench.publish(&members[1]);
    bench.pass(3_000);
    let client = come_back(&mut bench, &members[0]);
    assert_eq!(bench.methods(client), ["participantPublished"]);
    bench.pass(60_000);
    assert!(bench.engine.session("S").expect("there").participant(&members[0].id).is_some(), "it stays");
    assert_eq!(bench.call(client, "echo", json!({})), json!({}));
}

#[test]
fn a_socket_that_does_not_come_back_is_evicted_after_ten_seconds() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    bench.cut(members[0].client);
    bench.pass(9_999);
    assert!(bench.inbox.is_empty());
    bench.pass(1);
    assert_eq!(bench.methods(members[1].client), ["participantLeft", "participantEvicted"]);
    let destroyed = "webrtcConnectionDestroyed networkDisconnect";
    assert_eq!(bench.events(), [destroyed, destroyed, "participantLeft networkDisconnect"]);
    assert_eq!(*bench.room(), Default::default());
    let client = bench.connect();
    assert_eq!(bench.fail(client, "connect", json!({"sessionId": members[0].rpc})), 40007);
    assert_eq!(bench.fail(client, "connect", json!({})), 40007);
}

#[test]
fn a_client_that_stops_pinging_is_out_after_25_seconds() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.ask(members[0].client, "ping", json!({"interval": 5000}));
    bench.pass(5_000);
    bench.ask(members[0].client, "ping", json!({}));
    bench.clear();
    bench.pass(14_999);
    assert!(bench.closes.is_empty());
    bench.pass(1);
    assert_eq!(
        bench.closes,
        [(members[0].client, 1000, "Close for not receive ping from client".to_owned())]
    );
    bench.pass(9_999);
    assert!(bench.inbox.is_empty(), "still in");
    bench.pass(1);
    assert_eq!(bench.methods(members[1].client), ["participantLeft", "participantEvicted"]);
}

#[test]
fn a_first_ping_without_interval_counts_as_twenty_seconds() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    bench.ask(members[0].client, "ping", json!({}));
    bench.pass(59_999);
    assert!(bench.closes.is_empty());
    bench.pass(1);
    assert_eq!(bench.closes.len(), 1);
}

#[test]
fn a_new_socket_takes_over_from_one_that_is_still_open() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let client = come_back(&mut bench, &members[0]);
    assert_eq!(bench.closes[0].0, members[0].client);
    bench.call(members[1].client, "sendMessage", json!({"message": "{\"data\":\"x\"}"}));
    assert_eq!(bench.methods(client), ["sendMessage"]);
    bench.pass(20_000);
    assert!(bench.engine.session("S").expect("there").participant(&members[0].id).is_some());
}

#[test]
fn one_participant_cannot_become_another() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let params = json!({"sessionId": members[1].rpc});
    assert_eq!(bench.fail(members[0].client, "connect", params), 40007);
    assert_eq!(bench.call(members[1].client, "echo", json!({})), json!({}));
    let params = json!({"sessionId": members[0].rpc});
    let id = bench.ask(members[0].client, "connect", params);
    assert!(bench.answer(members[0].client, id)["result"].is_object(), "its own is fine");
}

#[test]
fn an_answer_finds_the_new_socket() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    bench.prompt = false;
    let id = bench.ask(members[0].client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    bench.cut(members[0].client);
    let client = come_back(&mut bench, &members[0]);
    bench.run_nodes();
    assert!(bench.answer(client, id)["result"]["sdpAnswer"].is_string());
}

#[test]
fn an_answer_for_nobody_is_dropped() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    bench.prompt = false;
    bench.ask(members[0].client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    bench.cut(members[0].client);
    bench.run_nodes();
    let client = come_back(&mut bench, &members[0]);
    assert!(bench.methods(client).is_empty(), "the client forgot its request");
    assert_eq!(bench.room().publications.len(), 1, "but it publishes");
}

#[test]
fn who_was_evicted_while_away_hears_why() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.cut(members[0].client);
    let mut out = Vec::new();
    bench.engine.force_disconnect(bench.now, "S", &members[0].id, &mut out).expect("evicted");
    bench.carry_out(out);
    let client = come_back(&mut bench, &members[0]);
    assert_eq!(bench.heard(client, "participantEvicted")["reason"], "forceDisconnectByServer");
    assert_eq!(bench.fail(client, "echo", json!({})), 803);
    bench.pass(10_000);
    assert_eq!(bench.closes.last().map(|close| close.0), Some(client));
}

#[test]
fn missing_too_much_ends_the_wait() {
    let limits = Limits { queue_messages: 3, ..Default::default() };
    let mut bench = Bench::with(EngineConfig { limits, ..Default::default() });
    let members = bench.room_of(2);
    bench.cut(members[0].client);
    for round in 0..4 {
        let there = bench.engine.session("S").expect("there").participant(&members[0].id).is_some();
        assert!(there, "round {round}");
        let sent = json!({"message": "{\"data\":\"x\"}"});
        bench.call(members[1].client, "sendMessage", sent);
    }
    assert!(bench.engine.session("S").expect("there").participant(&members[0].id).is_none());
    let client = bench.connect();
    assert_eq!(bench.fail(client, "connect", json!({"sessionId": members[0].rpc})), 40007);
}

#[test]
fn idle_and_refused_sockets_are_closed() {
    let mut bench = Bench::new();
    let idle = bench.connect();
    let refused = bench.connect();
    bench.fail(refused, "joinRoom", json!({"session": "X", "token": "y"}));
    bench.pass(10_000);
    assert_eq!(bench.closes.iter().map(|close| close.0).collect::<Vec<_>>(), [refused]);
    bench.pass(50_000);
    assert_eq!(bench.closes.iter().map(|close| close.0).collect::<Vec<_>>(), [refused, idle]);
    bench.session("S");
    let member = bench.join("S", Role::Publisher);
    bench.pass(120_000);
    assert!(bench.open.contains(&member.client), "no ping was ever sent, so none is missed");
}

#[test]
fn a_call_outlives_its_controller() {
    let mut bench = Bench::new();
    let mut members = bench.room_of(3);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    let waiting = bench.token("S", Role::Publisher);
    let before: Vec<_> = bench.engine.sessions().map(|session| session.to_json(VIEW)).collect();
    let room = bench.room().clone();
    bench.clear();

    bench.crash(0);
    let after: Vec<_> = bench.engine.sessions().map(|session| session.to_json(VIEW)).collect();
    assert_eq!(before, after);
    bench.reconnect_node(NODE);
    assert_eq!(*bench.room(), room, "the node is not touched");
    assert_eq!(bench.events(), ["mediaNodeStatusChanged"; 2], "launching, running");

    for member in &mut members {
        member.client = come_back(&mut bench, member);
    }
    bench.clear();
    bench.pass(60_000);
    assert_eq!(bench.events(), [""; 0], "nobody is evicted");
    bench.subscribe(&members[2], &stream);
    let client = bench.connect();
    let joined = bench.call(client, "joinRoom", join_params("S", &waiting));
    assert_eq!(joined["value"].as_array().map(Vec::len), Some(3), "the token is good, the others are there");
    bench.call(members[0].client, "unpublishVideo", json!({}));
    assert_eq!(bench.room().transports.len(), 0);
}

#[test]
fn who_does_not_come_back_after_a_restart_is_evicted() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.crash(0);
    bench.reconnect_node(NODE);
    come_back(&mut bench, &members[0]);
    bench.clear();
    bench.pass(29_000);
    assert_eq!(bench.events(), [""; 0]);
    bench.pass(2_000);
    assert_eq!(bench.events(), ["participantLeft networkDisconnect"]);
}

#[test]
fn sessions_of_a_node_that_does_not_come_back_end() {
    let mut bench = Bench::new();
    bench.room_of(1);
    bench.crash(0);
    bench.clear();
    bench.pass(11_000);
    assert_eq!(bench.events(), ["participantLeft nodeCrashed", "sessionDestroyed nodeCrashed"]);
}

#[test]
fn who_waits_for_a_room_cannot_become_somebody_else() {
    let mut bench = Bench::new();
    bench.session("T");
    let members = bench.room_of(1);
    let token = bench.token("T", Role::Publisher);
    bench.prompt = false;
    let client = bench.connect();
    let joining = bench.ask(client, "joinRoom", join_params("T", &token));
    assert_eq!(bench.fail(client, "connect", json!({"sessionId": members[0].rpc})), 40007);
    bench.run_nodes();
    assert!(bench.answer(client, joining)["result"].is_object(), "its own join goes on");
    assert_eq!(bench.call(members[0].client, "echo", json!({})), json!({}), "nobody was pushed out");
    bench.cut(client);
    bench.pass(10_000);
    assert!(bench.engine.session("T").is_none(), "it is missed when it is gone");
}

#[test]
fn a_socket_waits_for_one_room_only() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.session("T");
    let (first, second) = (bench.token("S", Role::Publisher), bench.token("T", Role::Publisher));
    bench.prompt = false;
    let client = bench.connect();
    let joining = bench.ask(client, "joinRoom", join_params("S", &first));
    assert_eq!(bench.fail(client, "joinRoom", join_params("T", &second)), 999);
    bench.run_nodes();
    assert!(bench.answer(client, joining)["result"].is_object());
    assert!(!bench.engine.session("T").expect("there").is_active());
}

//! Losing media nodes and getting them back; placement.

use serde_json::json;
use sfu_core::control::proto::{CoreLoad, NodeLoad, Notification, Op, TransportState};

use super::harness::{Bench, NODE, join_params, offer, publish_params};
use crate::engine::Input;
use crate::session::{Role, SessionProperties};

#[test]
fn a_node_that_stays_away_ends_its_sessions() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.publish(&members[0]);
    bench.clear();
    bench.lose_node(NODE);
    bench.pass(2_999);
    assert!(bench.inbox.is_empty() && bench.events().is_empty(), "silent");
    bench.pass(1);
    assert_eq!(bench.heard(members[0].client, "participantEvicted")["reason"], "nodeCrashed");
    assert_eq!(
        bench.events(),
        [
            "nodeCrashed",
            "webrtcConnectionDestroyed nodeCrashed",
            "participantLeft nodeCrashed",
            "participantLeft nodeCrashed",
            "sessionDestroyed nodeCrashed"
        ]
    );
    assert!(bench.asked.is_empty() && bench.engine.sessions().count() == 0);
    bench.reconnect_node(NODE);
    assert!(bench.node().rooms.is_empty(), "what is left there is closed");
    assert_eq!(bench.events(), ["nodeRecovered"]);
    bench.session("S");
    bench.join("S", Role::Publisher);
    assert_eq!(bench.refused, []);
}

#[test]
fn a_node_that_comes_back_in_time_is_not_noticed() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    bench.lose_node(NODE);
    let params = publish_params(&offer("sendonly", &["VP8"]));
    assert_eq!(bench.fail(members[1].client, "publishVideo", params), 303);
    bench.call(members[1].client, "unsubscribeFromVideo", json!({"sender": members[0].id}));
    bench.clear();
    bench.pass(2_000);
    bench.reconnect_node(NODE);
    assert_eq!(bench.room().transports.len(), 1, "what was left meanwhile is closed there");
    bench.pass(10_000);
    assert!(bench.inbox.is_empty() && bench.events().is_empty());
    bench.subscribe(&members[1], &stream);
    assert_eq!(bench.refused, []);
}

#[test]
fn a_restarted_media_process_resets_all_streams_but_not_the_session() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    bench.lose_node(NODE);
    bench.pass(1_000);
    bench.start_node(NODE, "process-2");
    assert_eq!(bench.events(), ["webrtcConnectionDestroyed mediaServerReconnect"; 2]);
    for member in &members {
        let heard = bench.heard(member.client, "participantUnpublished");
        assert_eq!(heard, json!({"connectionId": members[0].id, "reason": "mediaServerReconnect"}));
    }
    bench.pass(10_000);
    bench.publish(&members[0]);
    assert_eq!(bench.room().publications.len(), 1);
}

#[test]
fn requests_under_way_fail_with_their_node() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    bench.prompt = false;
    let id = bench.ask(members[0].client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    bench.lose_node(NODE);
    assert_eq!(bench.answer(members[0].client, id)["error"]["code"], 303);
    bench.reconnect_node(NODE);
    bench.prompt = true;
    bench.run_nodes();
    bench.publish(&members[0]);
    assert_eq!(bench.room().publications.len(), 1);
    assert_eq!(bench.refused, []);
}

#[test]
fn a_room_that_a_restarted_node_refuses_ends_its_session() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    bench.lose_node(NODE);
    bench.prompt = false;
    bench.start_node(NODE, "process-2");
    bench.refuse_one();
    assert_eq!(bench.heard(members[0].client, "participantEvicted")["reason"], "nodeCrashed");
    assert_eq!(bench.events(), ["participantLeft nodeCrashed", "sessionDestroyed nodeCrashed"]);
}

#[test]
fn what_was_never_opened_does_not_keep_the_rest_from_being_closed() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.prompt = false;
    let params = json!({"sender": stream, "sdpOffer": offer("recvonly", &["VP8"])});
    let id = bench.ask(members[1].client, "receiveVideoFrom", params);
    bench.ask(members[0].client, "unpublishVideo", json!({}));
    bench.refuse_one();
    assert_eq!(bench.answer(members[1].client, id)["error"]["code"], 303);
    assert_eq!(*bench.room(), Default::default(), "the publisher's transport is closed all the same");
}

#[test]
fn a_publisher_survives_a_node_that_moves_it_late() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    bench.prompt = false;
    let params = json!({"stream": stream, "sdpString": offer("sendonly", &["VP8"])});
    let id = bench.ask(members[0].client, "reconnectStream", params);
    bench.pass(8_000);
    assert_eq!(bench.answer(members[0].client, id)["error"]["code"], 303);
    bench.run_nodes();
    let room = bench.room();
    assert_eq!((room.transports.len(), room.publications.len(), room.subscriptions.len()), (2, 1, 1));
    assert_eq!(bench.refused, []);
}

#[test]
fn sessions_spread_over_cores_and_avoid_loaded_ones() {
    let mut bench = Bench::new();
    bench.start_node("media_2", "other");
    let core = |core, load| CoreLoad { core, load, ..Default::default() };
    let load = NodeLoad { load: 40.0, cores: vec![core(0, 80.0), core(1, 1.0)], ..Default::default() };
    bench.input(Input::NodeNotification { node: NODE.into(), notification: Notification::Load(load) });
    let mut places = Vec::new();
    for session in ["A", "B", "C", "D"] {
        bench.session(session);
        bench.join(session, Role::Publisher);
        let place = bench.engine.session(session).expect("there").place().cloned().expect("placed");
        places.push((place.node.as_str().to_owned(), place.core));
    }
    // The mean of a node decides, then its best core.
    let expected = [("media_2", 0), ("media_2", 1), ("media_2", 0), ("media_2", 1)];
    assert_eq!(places, expected.map(|(node, core)| (node.to_owned(), core)));
}

#[test]
fn a_thousand_sessions_within_one_load_interval_spread_over_ten_nodes() {
    let mut bench = Bench::new();
    for node in 2..=10 {
        bench.start_node(&format!("media_{node}"), &format!("process_{node}"));
    }
    for session in 0..1000 {
        let session = format!("S{session}");
        bench.session(&session);
        bench.join(&session, Role::Publisher);
        if session.ends_with("77") {
            // Idle nodes report that they are, whatever was placed there a moment ago.
            let load = NodeLoad { cores: vec![CoreLoad::default()], ..Default::default() };
            let node = "media_2".into();
            bench.input(Input::NodeNotification { node, notification: Notification::Load(load) });
        }
    }
    let rooms: Vec<usize> = bench.nodes.values().map(|node| node.rooms.len()).collect();
    assert_eq!((rooms.len(), rooms.iter().sum::<usize>()), (10, 1000));
    assert!(rooms.iter().all(|count| *count <= 120), "{rooms:?}");
}

#[test]
fn a_pinned_session_goes_nowhere_else() {
    let mut bench = Bench::new();
    let properties = SessionProperties {
        custom_session_id: "S".into(),
        media_node: Some("media_2".into()),
        media_core: Some(1),
        ..Default::default()
    };
    bench.engine.create_session(bench.now, properties, &mut Vec::new()).expect("created");
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    assert_eq!(bench.fail(client, "joinRoom", join_params("S", &token)), 204);
    bench.start_node("media_2", "other");
    bench.call(client, "joinRoom", join_params("S", &token));
    let rooms: Vec<u16> = bench.nodes["media_2"].rooms.values().map(|room| room.core).collect();
    assert_eq!(rooms, [1], "on the core it asked for");
}

#[test]
fn a_failed_peer_connection_waits_for_its_client() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.clear();
    let room = bench.node().rooms.keys().next().expect("one").clone();
    let transport = bench.room().publications[&stream].clone();
    for state in [TransportState::Disconnected, TransportState::Failed, TransportState::Closed] {
        let (room, transport) = (room.clone(), transport.clone());
        let notification = Notification::TransportState { room, transport, state, reason: "consent".into() };
        bench.input(Input::NodeNotification { node: NODE.into(), notification });
    }
    assert!(bench.inbox.is_empty() && bench.events().is_empty());
    let params = json!({"stream": stream, "sdpString": offer("sendonly", &["VP8"])});
    assert_eq!(bench.call(members[0].client, "reconnectStream", params)["id"], stream);
}

#[test]
fn a_session_of_the_same_name_gets_another_room() {
    let mut bench = Bench::new();
    let mut rooms = Vec::new();
    for _ in 0..2 {
        bench.session("S");
        bench.prompt = false;
        let token = bench.token("S", Role::Publisher);
        let client = bench.connect();
        bench.ask(client, "joinRoom", join_params("S", &token));
        let (_, _, room, ops) = &bench.asked[0];
        assert!(matches!(ops[..], [Op::OpenRoom { .. }]));
        rooms.push(room.clone());
        bench.run_nodes();
        bench.prompt = true;
        bench.call(client, "leaveRoom", json!({}));
    }
    assert_ne!(rooms[0], rooms[1]);
}

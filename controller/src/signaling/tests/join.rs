//! Joining, leaving, signals, tokens.

use serde_json::{Value, json};

use super::harness::{Bench, NODE, join_params};
use crate::engine::{Coturn, EngineConfig, Limits, SignalRequest};
use crate::session::{ConnectionProperties, IceServer, Reason, Role, ViewOptions};

#[test]
fn the_first_join_opens_a_room_and_the_second_sees_the_first() {
    let mut bench = Bench::new();
    bench.session("S");
    assert_eq!(bench.events(), ["sessionCreated"]);
    assert!(bench.node().rooms.is_empty(), "not before somebody joins");
    let first = bench.join("S", Role::Publisher);
    assert_eq!(bench.node().rooms.len(), 1);
    assert_eq!(
        bench.engine.session("S").expect("there").to_json(ViewOptions::default())["mediaNodeId"],
        NODE
    );
    assert_eq!(bench.events(), ["participantJoined"]);

    let token = bench.token("S", Role::Subscriber);
    let client = bench.connect();
    let mut result = bench.call(client, "joinRoom", join_params("S", &token));
    let heard = bench.heard(first.client, "participantJoined");
    assert_eq!(heard["id"], result["id"]);
    assert_eq!(heard["metadata"], "{\"clientData\":\"A\"}");
    let user = result["finalUserId"].take();
    assert_eq!(user.as_str().map(str::len), Some(16));
    assert_eq!(
        result,
        json!({"id": heard["id"], "finalUserId": null, "createdAt": bench.now,
            "metadata": "{\"clientData\":\"A\"}", "session": "S", "version": "2.32.2", "mediaServer": "kurento",
            "videoSimulcast": false, "record": true, "role": "SUBSCRIBER", "customIceServers": [],
            "value": [{"id": first.id, "createdAt": bench.now, "metadata": "{\"clientData\":\"A\"}"}]})
    );
}

#[test]
fn participants_joined_is_recorded_with_eleven_keys() {
    let mut bench = Bench::new();
    bench.session("S");
    assert_eq!(bench.records[0].webhook_body().as_object().map(|body| body.len()), Some(4));
    bench.records.clear();
    let member = bench.join("S", Role::Publisher);
    let body = bench.records[0].webhook_body();
    assert_eq!(
        body,
        json!({"event": "participantJoined", "timestamp": bench.now, "sessionId": "S",
            "uniqueSessionId": format!("S_{}", bench.now), "connectionId": member.id, "participantId": member.id,
            "location": "unknown", "ip": "198.51.100.7", "platform": "Chrome 156",
            "clientData": "{\"clientData\":\"A\"}", "serverData": ""})
    );
    assert_eq!(body.as_object().map(|body| body.len()), Some(11));
}

#[test]
fn a_join_waits_for_the_room_and_others_wait_with_it() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.prompt = false;
    let (one, two) = (bench.token("S", Role::Publisher), bench.token("S", Role::Publisher));
    let (a, b) = (bench.connect(), bench.connect());
    let first = bench.ask(a, "joinRoom", join_params("S", &one));
    let second = bench.ask(b, "joinRoom", join_params("S", &two));
    let c = bench.connect();
    assert_eq!(bench.fail(c, "joinRoom", join_params("S", &one)), 401, "the token waits already");
    assert_eq!(bench.asked.len(), 1, "one room");
    assert!(bench.methods(a).is_empty() && bench.methods(b).is_empty());
    bench.run_nodes();
    assert_eq!(bench.answer(a, first)["result"]["value"], json!([]));
    assert_eq!(bench.answer(b, second)["result"]["value"].as_array().map(Vec::len), Some(1));
    assert_eq!(bench.methods(a), ["participantJoined"]);
}

#[test]
fn a_refused_room_costs_no_token() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.prompt = false;
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    let id = bench.ask(client, "joinRoom", join_params("S", &token));
    bench.refuse_one();
    assert_eq!(bench.answer(client, id)["error"]["code"], 204);
    bench.prompt = true;
    assert!(bench.engine.session("S").expect("there").place().is_none(), "not active again");
    let client = bench.connect();
    assert_eq!(bench.call(client, "joinRoom", join_params("S", &token))["role"], "PUBLISHER");
}

#[test]
fn without_a_node_there_is_no_session_and_the_token_still_works() {
    let mut bench = Bench::without_node(EngineConfig::default());
    bench.session("S");
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    assert_eq!(bench.fail(client, "joinRoom", join_params("S", &token)), 204);
    bench.start_node(NODE, "p");
    bench.call(client, "joinRoom", join_params("S", &token));
}

#[test]
fn a_node_that_never_answers_ends_the_wait() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.prompt = false;
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    let id = bench.ask(client, "joinRoom", join_params("S", &token));
    let lost = bench.asked.remove(0);
    bench.pass(Limits::default().node_reply_ms);
    assert_eq!(bench.answer(client, id)["error"]["code"], 204);
    bench.clear();
    bench.reply(lost.1, Ok(()));
    assert!(bench.inbox.is_empty(), "too late");
}

#[test]
fn nobody_is_left_when_the_room_opens() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.prompt = false;
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    bench.ask(client, "joinRoom", join_params("S", &token));
    bench.cut(client);
    bench.run_nodes();
    assert!(bench.node().rooms.is_empty());
    bench.prompt = true;
    let client = bench.connect();
    bench.call(client, "joinRoom", join_params("S", &token));
    assert_eq!(bench.node().rooms.len(), 1);
}

#[test]
fn a_session_that_closes_while_it_opens_refuses_those_who_wait() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.prompt = false;
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    let id = bench.ask(client, "joinRoom", join_params("S", &token));
    let mut out = Vec::new();
    bench.engine.close_session(bench.now, "S", Reason::SessionClosedByServer, &mut out).expect("closed");
    bench.carry_out(out);
    bench.run_nodes();
    assert_eq!(bench.answer(client, id)["error"]["code"], 203);
    assert!(bench.node().rooms.is_empty() && bench.refused.is_empty());
}

#[test]
fn tokens_work_once_and_in_their_session_only() {
    let mut bench = Bench::new();
    bench.session("S");
    bench.session("T");
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    assert_eq!(bench.fail(client, "joinRoom", join_params("X", &token)), 202);
    assert_eq!(bench.fail(client, "joinRoom", join_params("T", &token)), 401);
    assert_eq!(bench.fail(client, "joinRoom", join_params("S", "wss://h?sessionId=S&token=tok_no")), 401);
    assert_eq!(bench.fail(client, "joinRoom", join_params("S", "")), 401);
    bench.call(client, "joinRoom", join_params("S", &token));
    assert_eq!(bench.fail(client, "joinRoom", join_params("S", &token)), 999, "joined already");
    let other = bench.connect();
    assert_eq!(bench.fail(other, "joinRoom", join_params("S", &token)), 401, "used");
}

#[test]
fn a_token_can_be_taken_back() {
    let mut bench = Bench::new();
    bench.session("S");
    let token = bench.token("S", Role::Publisher);
    let id = bench.engine.session("S").expect("there").connections.iter().next().expect("one").id.clone();
    bench.engine.force_disconnect(bench.now, "S", id.as_str(), &mut Vec::new()).expect("pending");
    let client = bench.connect();
    assert_eq!(bench.fail(client, "joinRoom", join_params("S", &token)), 401);
}

#[test]
fn the_secret_opens_a_session_and_recorders_are_hidden() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    let recorder = bench.connect();
    let mut params = join_params("S", "");
    params["secret"] = json!("WRONG");
    assert_eq!(bench.fail(recorder, "joinRoom", params.clone()), 401);
    params["secret"] = json!("MY_SECRET");
    params["recorder"] = json!(true);
    let result = bench.call(recorder, "joinRoom", params.clone());
    assert_eq!((&result["id"], &result["role"]), (&json!("RECORDER"), &json!("MODERATOR")));
    assert!(bench.methods(members[0].client).is_empty() && bench.events().is_empty(), "nobody notices");
    let other = bench.join("S", Role::Publisher);
    assert_eq!(bench.methods(recorder), ["participantJoined"]);
    assert_eq!(
        bench.engine.session("S").expect("there").connections_json(ViewOptions::default())["numberOfElements"],
        2
    );
    bench.clear();
    for member in [&members[0], &other] {
        bench.call(member.client, "leaveRoom", json!({}));
    }
    assert!(bench.engine.session("S").is_none(), "a recorder alone does not hold a session");
    let events = bench.events();
    assert_eq!(
        events,
        ["participantLeft disconnect", "participantLeft disconnect", "sessionDestroyed lastParticipantLeft"]
    );
}

#[test]
fn leaving_tells_the_others_first_and_the_last_one_ends_the_session() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let id = bench.ask(members[0].client, "leaveRoom", json!({}));
    assert_eq!(bench.answer(members[0].client, id)["result"]["sessionId"], members[0].rpc.as_str());
    assert_eq!(
        bench.heard(members[1].client, "participantLeft"),
        json!({"connectionId": members[0].id, "reason": "disconnect"})
    );
    assert_eq!(bench.fail(members[0].client, "echo", json!({})), 803);
    bench.pass(9_999);
    assert!(bench.closes.is_empty(), "the client is expected to close");
    bench.pass(1);
    assert_eq!(bench.closes[0].0, members[0].client);
    bench.clear();
    assert_eq!(bench.call(members[1].client, "closeSession", json!({})), "bye");
    assert_eq!(bench.events(), ["participantLeft disconnect", "sessionDestroyed lastParticipantLeft"]);
    assert!(bench.node().rooms.is_empty() && bench.engine.sessions().count() == 0);
}

#[test]
fn ice_servers_come_from_the_connection_the_configuration_or_the_deployment() {
    let config = EngineConfig {
        ice_servers: vec![IceServer { url: "stun:s".into(), ..Default::default() }],
        coturn: Some(Coturn { ip: "203.0.113.10".into(), port: 3478, secret: "x".into() }),
        ..Default::default()
    };
    let mut bench = Bench::with(config);
    bench.session("S");
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    let result = bench.call(client, "joinRoom", join_params("S", &token));
    assert_eq!(result["customIceServers"], json!([{"url": "stun:s"}]));
    assert_eq!((&result["coturnIp"], &result["coturnPort"]), (&json!("203.0.113.10"), &json!(3478)));
    assert!(result["turnUsername"].as_str().expect("derived").starts_with("1764856800:"));
    let properties = ConnectionProperties { custom_ice_servers: Some(Vec::new()), ..Default::default() };
    let connection = bench.engine.create_connection(bench.now, "S", properties, &mut Vec::new());
    let token = connection.expect("created").token.clone().expect("has one");
    let client = bench.connect();
    let result = bench.call(client, "joinRoom", join_params("S", &token));
    assert_eq!(result["customIceServers"][0]["url"], "turn:203.0.113.10:3478");
    assert_eq!(result["customIceServers"][0]["credential"], result["turnCredential"]);
}

#[test]
fn signals_reach_their_targets_before_the_sender_has_its_answer() {
    let mut bench = Bench::new();
    let members = bench.room_of(3);
    let signal =
        |to: Value| json!({"message": json!({"to": to, "data": "hi", "type": "signal:chat"}).to_string()});
    bench.ask(members[0].client, "sendMessage", signal(json!([])));
    assert_eq!(bench.methods(members[0].client), ["sendMessage", "#result"]);
    let heard = bench.heard(members[1].client, "sendMessage");
    assert_eq!(heard, json!({"data": "hi", "type": "signal:chat", "from": members[0].id}));
    let body = bench.records[0].webhook_body();
    assert_eq!(body["to"].as_array().map(Vec::len), Some(3));
    assert_eq!((&body["type"], &body["from"]), (&json!("chat"), &json!(members[0].id)));
    assert_eq!(body.as_object().map(|body| body.len()), Some(8));
    bench.clear();

    bench.call(members[0].client, "sendMessage", signal(json!([members[2].id])));
    assert_eq!(bench.methods(members[1].client), [""; 0]);
    assert_eq!(bench.methods(members[2].client), ["sendMessage"]);
    bench.clear();

    assert_eq!(bench.fail(members[0].client, "sendMessage", signal(json!([members[2].id, "con_X"]))), 601);
    assert_eq!(bench.fail(members[0].client, "sendMessage", json!({"message": "no JSON"})), 600);
    assert_eq!(bench.fail(members[0].client, "sendMessage", signal(json!([1]))), 600);
    assert_eq!(bench.fail(members[0].client, "sendMessage", json!({})), -32602);
    assert!(bench.methods(members[2].client).is_empty() && bench.events().is_empty());
}

#[test]
fn signals_of_the_rest_api_have_no_sender() {
    let mut bench = Bench::new();
    bench.session("T");
    let members = bench.room_of(2);
    let request = |session: &str, to: &[&str]| SignalRequest {
        session: session.into(),
        to: to.iter().map(|id| (*id).to_owned()).collect(),
        signal_type: Some("chat".into()),
        data: Some("hi".into()),
    };
    for (request, status) in
        [(request("X", &[]), 404), (request("T", &[]), 406), (request("S", &["con_X"]), 406)]
    {
        let refused = bench.engine.send_signal(bench.now, &request, &mut Vec::new());
        assert_eq!(refused.map_err(|error| error.status), Err(status));
    }
    let mut out = Vec::new();
    bench.engine.send_signal(bench.now, &request("S", &[&members[0].id]), &mut out).expect("sent");
    bench.carry_out(out);
    assert_eq!(bench.heard(members[0].client, "sendMessage"), json!({"data": "hi", "type": "signal:chat"}));
    assert!(bench.methods(members[1].client).is_empty());
    let body = bench.records[0].webhook_body();
    assert_eq!(
        (&body["from"], &body["type"], &body["to"]),
        (&Value::Null, &json!("chat"), &json!([members[0].id]))
    );
}

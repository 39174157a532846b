//! Tests of the control state.

use super::*;
use crate::control::proto::{CoreInfo, Fingerprint, TransportInfo};

const CONN: ConnId = ConnId(1);

fn hub(cores: u16) -> Hub {
    let cores = (0..cores).map(|core| CoreInfo { core, candidates: vec![] }).collect();
    let fingerprint = Fingerprint { algorithm: "sha-256".into(), value: "AA".into() };
    let info = NodeInfo {
        version: VERSION,
        process: "p".into(),
        software: "0".into(),
        reactor: "mmsg".into(),
        fingerprint,
        cores,
        rooms: vec![],
        draining: false,
    };
    Hub::new(info, 3)
}

/// What came out, short enough to compare: `> text` to the controller, `core<command` to a shard.
fn show(effects: &[Effect]) -> Vec<String> {
    let one = |effect: &Effect| match effect {
        Effect::Send(conn, text) => format!("{}> {}", conn.0, summary(text)),
        Effect::Close(conn, code, _) => format!("{} closed {code}", conn.0),
        Effect::Command(core, Command::Apply { room, ops, .. }) => {
            format!("{core}<apply {room} {}", ops.len())
        }
        Effect::Command(core, Command::RoomStats { room, .. }) => format!("{core}<stats {room}"),
        Effect::Command(core, Command::ListRooms { .. }) => format!("{core}<list"),
        Effect::Command(core, Command::CloseAll { .. }) => format!("{core}<closeAll"),
        Effect::LoadInterval(interval) => format!("load every {} ms", interval.as_millis()),
        Effect::Exit => "exit".into(),
    };
    effects.iter().map(one).collect()
}

fn summary(text: &str) -> String {
    let frame: Value = serde_json::from_str(text).expect("JSON");
    match (&frame["method"], &frame["error"]["code"]) {
        (Value::String(method), _) => method.clone(),
        (_, Value::Number(code)) => {
            let op = &frame["error"]["data"]["op"];
            if op.is_null() {
                format!("{} error {code}", frame["id"])
            } else {
                format!("{} error {code} op {op}", frame["id"])
            }
        }
        _ => format!("{} ok", frame["id"]),
    }
}

fn tokens(effects: &[Effect]) -> Vec<u64> {
    let token = |effect: &Effect| match effect {
        Effect::Command(
            _,
            Command::Apply { token, .. }
            | Command::RoomStats { token, .. }
            | Command::ListRooms { token }
            | Command::CloseAll { token },
        ) => Some(*token),
        _ => None,
    };
    effects.iter().filter_map(token).collect()
}

fn text(hub: &mut Hub, text: &str) -> Vec<Effect> {
    let mut out = Vec::new();
    hub.handle_text(CONN, text, &mut out);
    out
}

fn call(hub: &mut Hub, id: u32, method: &str, params: Value) -> Vec<Effect> {
    text(hub, &json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string())
}

fn apply(hub: &mut Hub, id: u32, room: &str, ops: Value) -> Vec<Effect> {
    call(hub, id, "apply", json!({"room": room, "ops": ops}))
}

fn reply(hub: &mut Hub, token: u64, result: Result<Answer, OpError>) -> Vec<String> {
    let mut out = Vec::new();
    hub.handle_event(Event::Reply { token, result }, &mut out);
    show(&out)
}

fn refused(op: usize) -> Result<Answer, OpError> {
    Err(OpError { op, ..OpError::not_found("publication", "x") })
}

/// A hub whose controller has said hello.
fn greeted(cores: u16) -> Hub {
    let mut hub = hub(cores);
    hub.attach(CONN, &mut Vec::new());
    for token in tokens(&call(&mut hub, 0, "hello", json!({"version": VERSION, "loadIntervalMs": 500}))) {
        reply(&mut hub, token, Ok(Answer::Rooms(vec![])));
    }
    assert!(hub.has_controller());
    hub
}

fn open(hub: &mut Hub, room: &str, core: u16) {
    let effects = apply(hub, 9, room, json!([{"op": "openRoom", "core": core}]));
    reply(hub, tokens(&effects)[0], Ok(Answer::Done));
}

#[test]
fn hello_lists_what_all_cores_run_before_anything_else_is_told() {
    let mut hub = hub(2);
    hub.attach(CONN, &mut Vec::new());
    assert_eq!(show(&apply(&mut hub, 1, "r", json!([{"op": "closeRoom"}]))), ["1> 1 error -32600"]);
    assert_eq!(
        show(&call(&mut hub, 1, "hello", json!({"version": 99, "loadIntervalMs": 500}))),
        ["1> 1 error 1"]
    );
    assert_eq!(
        show(&call(&mut hub, 1, "hello", json!({"version": 1, "loadIntervalMs": 5}))),
        ["1> 1 error 4"]
    );
    let effects = call(&mut hub, 2, "hello", json!({"version": 1, "loadIntervalMs": 500}));
    assert_eq!(show(&effects), ["load every 500 ms", "0<list", "1<list"]);
    let state = |transport: &str| Event::TransportState {
        room: "a".into(),
        transport: transport.into(),
        state: TransportState::Connected,
        reason: "",
    };
    let mut out = Vec::new();
    hub.handle_event(state("early"), &mut out);
    assert!(out.is_empty());
    let room = |core| RoomInfo {
        room: format!("room{core}"),
        core,
        transports: vec![TransportInfo { transport: "t".into(), state: TransportState::New }],
        publications: vec![],
        subscriptions: vec![],
    };
    let asked = tokens(&effects);
    assert!(reply(&mut hub, asked[1], Ok(Answer::Rooms(vec![room(1)]))).is_empty());
    hub.handle_event(Event::Reply { token: asked[0], result: Ok(Answer::Rooms(vec![room(0)])) }, &mut out);
    assert_eq!(show(&out), ["1> 2 ok", "1> transportState"]);
    let Effect::Send(_, answer) = &out[0] else { unreachable!("shown above") };
    let info: Value = serde_json::from_str(answer).expect("JSON");
    let rooms: Vec<_> =
        info["result"]["rooms"].as_array().expect("rooms").iter().map(|r| r["room"].clone()).collect();
    assert_eq!(rooms, ["room1", "room0"]);
    assert_eq!(hub.room_count(), 2);
    assert_eq!(show(&call(&mut hub, 4, "roomStats", json!({"room": "room1"}))), ["1<stats room1"]);
    assert_eq!(
        show(&call(&mut hub, 3, "hello", json!({"version": 1, "loadIntervalMs": 500}))),
        ["1> 3 error -32600"]
    );
}

#[test]
fn a_core_that_cannot_list_makes_the_controller_come_again() {
    let mut hub = hub(1);
    hub.attach(CONN, &mut Vec::new());
    let effects = call(&mut hub, 2, "hello", json!({"version": 1, "loadIntervalMs": 500}));
    let mut out = Vec::new();
    hub.refuse(tokens(&effects)[0], &mut out);
    assert_eq!(show(&out), ["1 closed 1013"]);
}

#[test]
fn rooms_are_routed_to_their_core() {
    let mut hub = greeted(2);
    let open_on = |core: u16| json!([{"op": "openRoom", "core": core}]);
    assert_eq!(show(&apply(&mut hub, 1, "r", json!([{"op": "closeRoom"}]))), ["1> 1 error 2 op 0"]);
    assert_eq!(show(&apply(&mut hub, 2, "r", open_on(2))), ["1> 2 error 4 op 0"]);
    assert_eq!(show(&apply(&mut hub, 3, "", open_on(0))), ["1> 3 error 4"]);
    assert_eq!(show(&apply(&mut hub, 3, &"x".repeat(201), open_on(0))), ["1> 3 error 4"]);
    assert_eq!(show(&apply(&mut hub, 4, "r", json!([]))), ["1> 4 ok"]);
    let opened = apply(&mut hub, 5, "r", open_on(1));
    assert_eq!(show(&opened), ["1<apply r 1"]);
    // Pipelined: the room counts as there before its core has answered.
    let next = apply(&mut hub, 6, "r", json!([{"op": "unpublish", "publication": "p"}]));
    assert_eq!(show(&next), ["1<apply r 1"]);
    assert_eq!(show(&apply(&mut hub, 7, "r", open_on(0))), ["1> 7 error 3 op 0"]);
    assert_eq!(reply(&mut hub, tokens(&opened)[0], Ok(Answer::Done)), ["1> 5 ok"]);
    assert_eq!(reply(&mut hub, tokens(&next)[0], refused(0)), ["1> 6 error 2 op 0"]);
    assert_eq!(show(&call(&mut hub, 8, "roomStats", json!({"room": "r"}))), ["1<stats r"]);
    assert_eq!(show(&call(&mut hub, 8, "roomStats", json!({"room": "q"}))), ["1> 8 error 2"]);
}

#[test]
fn the_directory_follows_what_was_really_applied() {
    // Ops, index of the failing one, whether the room is there afterwards.
    let o = json!({"op": "openRoom", "core": 0});
    let c = json!({"op": "closeRoom"});
    let x = json!({"op": "unpublish", "publication": "p"});
    for (before, ops, failed, after) in [
        (false, json!([o]), None, true),
        (false, json!([o]), Some(0), false),
        (false, json!([o, x]), Some(1), true),
        (false, json!([o, c]), None, false),
        (false, json!([o, x, c]), Some(1), true),
        (true, json!([x]), Some(0), true),
        (true, json!([c]), None, false),
        (true, json!([x, c]), Some(0), true),
        (true, json!([c, o]), None, true),
        (true, json!([c, o]), Some(1), false),
    ] {
        let mut hub = greeted(1);
        if before {
            open(&mut hub, "r", 0);
        }
        let effects = apply(&mut hub, 1, "r", ops.clone());
        let result = failed.map_or(Ok(Answer::Done), refused);
        reply(&mut hub, tokens(&effects)[0], result);
        assert_eq!(hub.room_count() == 1, after, "{before} {ops} {failed:?}");
    }
}

#[test]
fn a_room_may_return_on_another_core_while_its_end_is_on_the_way() {
    for close_fails in [false, true] {
        let mut hub = greeted(2);
        open(&mut hub, "r", 0);
        let closing =
            apply(&mut hub, 1, "r", json!([{"op": "unpublish", "publication": "p"}, {"op": "closeRoom"}]));
        let opening = apply(&mut hub, 2, "r", json!([{"op": "openRoom", "core": 1}]));
        assert_eq!(show(&opening), ["1<apply r 1"]);
        let result = if close_fails { refused(0) } else { Ok(Answer::Done) };
        let after_close = reply(&mut hub, tokens(&closing)[0], result);
        // A room that did not end on core 0 is ended there: it would be two rooms.
        let expected: &[&str] =
            if close_fails { &["0<apply r 1", "1> 1 error 2 op 0"] } else { &["1> 1 ok"] };
        assert_eq!(after_close, expected);
        assert_eq!(reply(&mut hub, tokens(&opening)[0], Ok(Answer::Done)), ["1> 2 ok"]);
        assert_eq!(show(&call(&mut hub, 3, "roomStats", json!({"room": "r"}))), ["1<stats r"]);
    }
}

#[test]
fn a_second_controller_replaces_the_first() {
    let mut hub = greeted(1);
    let effects = apply(&mut hub, 1, "r", json!([{"op": "openRoom", "core": 0}]));
    let mut out = Vec::new();
    hub.attach(ConnId(2), &mut out);
    assert_eq!(show(&out), ["1 closed 4000"]);
    // The first one's late words and answers go nowhere, the directory follows all the same.
    assert!(apply(&mut hub, 2, "r", json!([{"op": "closeRoom"}])).is_empty());
    assert!(reply(&mut hub, tokens(&effects)[0], Ok(Answer::Done)).is_empty());
    hub.detach(CONN);
    assert_eq!(hub.room_count(), 1);
    out.clear();
    hub.report_load(NodeLoad::default(), &mut out);
    assert!(out.is_empty(), "no load before hello");
    let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "hello", "params": {"version": 1, "loadIntervalMs": 500}});
    hub.handle_text(ConnId(2), &hello.to_string(), &mut out);
    reply(&mut hub, tokens(&out)[0], Ok(Answer::Rooms(vec![])));
    out.clear();
    hub.report_load(NodeLoad::default(), &mut out);
    assert_eq!(show(&out), ["2> load"]);
}

#[test]
fn bounds_are_kept() {
    let mut hub = greeted(1);
    for room in ["a", "b", "c"] {
        open(&mut hub, room, 0);
    }
    assert_eq!(show(&apply(&mut hub, 1, "d", json!([{"op": "openRoom", "core": 0}]))), ["1> 1 error 5 op 0"]);
    let effects = apply(&mut hub, 2, "a", json!([{"op": "closeRoom"}]));
    let mut out = Vec::new();
    hub.refuse(tokens(&effects)[0], &mut out);
    assert_eq!(show(&out), ["1> 2 error 5 op 0"]);
    assert_eq!(hub.room_count(), 3);
    let many: Vec<_> = (0..=MAX_OPS).map(|_| json!({"op": "closeRoom"})).collect();
    assert_eq!(show(&apply(&mut hub, 3, "a", json!(many))), ["1> 3 error 4"]);
}

#[test]
fn drains_when_the_last_room_closes() {
    let mut hub = greeted(1);
    open(&mut hub, "r", 0);
    assert_eq!(show(&call(&mut hub, 1, "drain", json!({}))), ["1> 1 ok"]);
    assert_eq!(show(&apply(&mut hub, 2, "s", json!([{"op": "openRoom", "core": 0}]))), ["1> 2 error 5 op 0"]);
    let effects = apply(&mut hub, 3, "r", json!([{"op": "closeRoom"}]));
    assert_eq!(reply(&mut hub, tokens(&effects)[0], Ok(Answer::Done)), ["1> 3 ok", "exit"]);
    let mut empty = greeted(1);
    assert_eq!(show(&call(&mut empty, 1, "drain", json!({}))), ["1> 1 ok", "exit"]);
}

#[test]
fn shutdown_waits_for_every_core() {
    let mut hub = greeted(2);
    open(&mut hub, "r", 0);
    let effects = call(&mut hub, 1, "shutdown", json!({}));
    assert_eq!(show(&effects), ["1> 1 ok", "0<closeAll", "1<closeAll"]);
    assert!(show(&call(&mut hub, 2, "shutdown", json!({}))).iter().all(|line| line == "1> 2 ok"));
    let asked = tokens(&effects);
    assert!(reply(&mut hub, asked[0], Ok(Answer::Done)).is_empty());
    assert_eq!(reply(&mut hub, asked[1], Ok(Answer::Done)), ["exit"]);
    assert!(reply(&mut hub, asked[1], Ok(Answer::Done)).is_empty(), "exit comes once");
}

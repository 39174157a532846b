//! What is not a request, not allowed, or not there.

use serde_json::{Value, json};

use super::harness::{Bench, join_params, offer, publish_params};
use crate::engine::{EngineConfig, Limits};
use crate::session::{Reason, Role};

#[test]
fn every_request_needs_a_join_but_ping_and_connect() {
    let mut bench = Bench::new();
    let client = bench.connect();
    for method in ["publishVideo", "leaveRoom", "echo", "onIceCandidate", "nonsense"] {
        assert_eq!(bench.fail(client, method, json!({})), 803, "{method}");
    }
    let id = bench.ask(client, "ping", json!({"interval": 5000}));
    assert_eq!(bench.answer(client, id), json!({"id": id, "result": {"value": "pong"}, "jsonrpc": "2.0"}));
    bench.text(client, r#"{"jsonrpc":"2.0","method":"ping","id":"a"}"#);
    assert_eq!(bench.inbox[&client][0]["id"], "a");
}

#[test]
fn bad_messages_are_answered_and_harm_nobody() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let client = members[0].client;
    for (text, code) in [("", -32700), ("{", -32700), ("[]", -32600), (r#"{"jsonrpc":"2.0","id":1}"#, -32600)]
    {
        bench.text(client, text);
        let answer = bench.inbox.remove(&client).expect("answered");
        assert_eq!((answer.len(), &answer[0]["error"]["code"]), (1, &json!(code)), "{text}");
    }
    let long = "x".repeat(Limits::default().message_bytes + 1);
    bench.text(client, &long);
    assert_eq!(bench.inbox.remove(&client).expect("answered")[0]["error"]["code"], -32600);
    bench.text(client, r#"{"jsonrpc":"2.0","method":"echo"}"#);
    bench.text(client, r#"{"jsonrpc":"2.0","method":"nonsense"}"#);
    assert!(bench.inbox.is_empty(), "notifications are not answered");
    assert_eq!(bench.fail(client, "nonsense", json!({})), -32601);
    assert!(bench.methods(members[1].client).is_empty() && bench.events().is_empty());
    assert_eq!(bench.call(client, "echo", json!({})), json!({}));
}

#[test]
fn requests_without_effect_here() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    let client = members[0].client;
    for (method, params) in [
        ("onIceCandidate", json!({"endpointName": "x", "candidate": "", "sdpMid": "0", "sdpMLineIndex": 0})),
        ("videoData", json!({"height": 1, "width": 2, "videoActive": true, "audioActive": true})),
        ("echo", json!({})),
    ] {
        assert_eq!(bench.call(client, method, params), json!({}));
    }
    assert_eq!(bench.call(client, "sessionStatus", json!({"sessionId": "S"})), json!({"life": -1}));
}

#[test]
fn a_subscriber_may_not_publish() {
    let mut bench = Bench::new();
    bench.session("S");
    let member = bench.join("S", Role::Subscriber);
    let params = publish_params(&offer("sendonly", &["VP8"]));
    let id = bench.ask(member.client, "publishVideo", params);
    assert_eq!(
        bench.answer(member.client, id)["error"],
        json!({"code": 401,
               "message": "Unable to publish video. The user does not have a valid token. Code: 401"})
    );
    assert!(bench.room().transports.is_empty());
}

#[test]
fn broken_offers_of_a_publisher() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    let client = members[0].client;
    let with = |sdp: &str| json!({"sdpOffer": sdp, "hasAudio": true, "hasVideo": true});
    let no_ice = offer("sendonly", &["VP8"]).replace("a=ice-ufrag:dPkS\r\n", "");
    for (params, code) in [
        (json!({}), -32602),
        (json!({"sdpOffer": 3}), -32602),
        (with(""), 302),
        (with("garbage"), 302),
        (with(&"v".repeat(100_000)), 302),
        (with(&no_ice), 302),
    ] {
        assert_eq!(bench.fail(client, "publishVideo", params), code);
    }
    assert_eq!(bench.fail(client, "unpublishVideo", json!({})), 105, "nothing was left over");
    bench.publish(&members[0]);
}

#[test]
fn there_are_no_filters_and_no_speech_to_text() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    let about = json!({"streamId": stream, "type": "GStreamerFilter", "options": "{}"});
    for (client, method, params, code) in [
        (members[0].client, "applyFilter", about.clone(), 999),
        (members[0].client, "execFilterMethod", about.clone(), 406),
        (members[0].client, "removeFilter", about.clone(), 406),
        (members[0].client, "addFilterEventListener", about.clone(), 407),
        (members[1].client, "applyFilter", about, 401),
        (members[0].client, "applyFilter", json!({"streamId": "str_X"}), 105),
        (members[0].client, "subscribeToSpeechToText", json!({"connectionId": "x", "lang": "en-US"}), 996),
        (members[0].client, "unsubscribeFromSpeechToText", json!({"connectionId": "x"}), 996),
    ] {
        assert_eq!(bench.fail(client, method, params), code, "{method}");
    }
}

#[test]
fn metadata_has_a_bound() {
    let limits = Limits { metadata_bytes: 10, ..Default::default() };
    let mut bench = Bench::with(EngineConfig { limits, ..Default::default() });
    bench.session("S");
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    let params = json!({"session": "S", "token": token, "metadata": "12345678901"});
    assert_eq!(bench.fail(client, "joinRoom", params), 500);
    let params = json!({"session": "S", "token": token, "metadata": "1234567890"});
    bench.call(client, "joinRoom", params);
}

#[test]
fn a_full_table_of_waiting_requests_refuses_at_once() {
    let limits = Limits { pending_replies: 1, ..Default::default() };
    let mut bench = Bench::with(EngineConfig { limits, ..Default::default() });
    let members = bench.room_of(2);
    bench.prompt = false;
    bench.ask(members[0].client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    let params = publish_params(&offer("sendonly", &["VP8"]));
    assert_eq!(bench.fail(members[1].client, "publishVideo", params), 303);
    bench.run_nodes();
    bench.prompt = true;
    bench.refused.clear();
    bench.publish(&members[1]);
    assert_eq!(bench.room().publications.len(), 2);
}

#[test]
fn what_others_are_told_about_somebody_is_bounded() {
    let mut bench = Bench::new();
    bench.session("S");
    let token = bench.token("S", Role::Publisher);
    let client = bench.connect();
    let mut params = join_params("S", &token);
    params["platform"] = json!("\u{e9}".repeat(5_000));
    bench.call(client, "joinRoom", params);
    let session = bench.engine.session("S").expect("there");
    let (_, active) = session.connections.active().next().expect("joined");
    assert_eq!(active.platform, "\u{e9}".repeat(Limits::default().platform_bytes / 2));

    let mut params = publish_params(&offer("sendonly", &["VP8"]));
    params["videoDimensions"] = json!(format!("\"{}\"", "x".repeat(200_000)));
    let stream = bench.call(client, "publishVideo", params)["id"].clone();
    let session = bench.engine.session("S").expect("there");
    let publisher = session.connections.active().next().expect("joined").1.publisher.as_ref();
    assert_eq!(publisher.expect("publishes").options.video_dimensions, None);
    let changed =
        |value: Value| json!({"streamId": stream, "property": "videoDimensions", "newValue": value});
    let long = format!("{{\"width\":1,\"height\":2{}}}", " ".repeat(1_000));
    for refused in [json!("[1,2]"), json!(long)] {
        assert_eq!(bench.fail(client, "streamPropertyChanged", changed(refused)), -32602);
    }
    bench.call(client, "streamPropertyChanged", changed(json!("{\"width\":1,\"height\":2}")));
}

#[test]
fn requests_behind_the_end_of_a_session_hear_that_it_is_gone() {
    let mut bench = Bench::new();
    let members = bench.room_of(3);
    bench.cut(members[2].client);
    bench.call(members[0].client, "leaveRoom", json!({}));
    assert_eq!(bench.fail(members[0].client, "echo", json!({})), 803, "the session goes on without it");
    let mut out = Vec::new();
    bench.engine.close_session(bench.now, "S", Reason::SessionClosedByServer, &mut out).expect("closed");
    bench.carry_out(out);
    let back = bench.connect();
    bench.ask(back, "connect", json!({"sessionId": members[2].rpc}));
    for client in [members[0].client, members[1].client, back] {
        assert_eq!(bench.fail(client, "publishVideo", publish_params(&offer("sendonly", &["VP8"]))), 202);
    }
    let other = bench.connect();
    assert_eq!(bench.fail(other, "echo", json!({})), 803);
    bench.session("S");
    let token = bench.token("S", Role::Publisher);
    bench.call(members[1].client, "joinRoom", join_params("S", &token));
    assert_eq!(bench.call(members[1].client, "echo", json!({})), json!({}));
}

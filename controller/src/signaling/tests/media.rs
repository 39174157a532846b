//! Publishing and subscribing in both flows.

use serde_json::{Value, json};
use sfu_core::control::proto::{MediaKind, Op};

use super::harness::{Bench, NODE, answer_to, join_params, offer, publish_params};
use crate::session::{ForcedVideoCodec, Reason, Role, SessionProperties, ViewOptions};

#[test]
fn publishing_answers_first_and_then_tells_the_others() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.prompt = false;
    let id = bench.ask(members[0].client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    assert!(bench.inbox.is_empty(), "not before the node has it");
    bench.now += 5;
    bench.run_nodes();
    let result = bench.answer(members[0].client, id)["result"].take();
    let answer = result["sdpAnswer"].as_str().expect("an answer");
    for line in ["a=ice-lite", "a=recvonly", "192.0.2.1 50000 typ host", "a=group:BUNDLE 0 1"] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    let stream = result["id"].as_str().expect("an id");
    assert!(stream.starts_with("str_CAM_") && stream.ends_with(&members[0].id), "{stream}");
    assert_eq!(result["createdAt"], bench.now);
    assert!(bench.methods(members[0].client).is_empty(), "nothing else for the publisher");
    assert_eq!(
        bench.heard(members[1].client, "participantPublished"),
        json!({"id": members[0].id, "streams": [{"id": stream, "createdAt": bench.now, "hasAudio": true,
            "hasVideo": true, "audioActive": true, "videoActive": true, "typeOfVideo": "CAMERA", "frameRate": -1,
            "videoDimensions": "{\"width\":640,\"height\":480}", "filter": {}}]})
    );
    let room = bench.room();
    assert_eq!((room.transports.len(), room.publications.contains_key(stream)), (1, true));
    let body = bench.records[0].webhook_body();
    assert_eq!(body.as_object().map(|body| body.len()), Some(13), "{body}");
    assert_eq!((&body["connection"], &body["videoSource"]), (&json!("OUTBOUND"), &json!("CAMERA")));
}

#[test]
fn those_who_join_later_see_the_stream_as_it_is_now() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.clear();
    for (property, value, told) in [
        ("videoActive", json!(false), json!("false")),
        (
            "videoDimensions",
            json!("{\"width\":1280,\"height\":720}"),
            json!("\"{\\\"width\\\":1280,\\\"height\\\":720}\""),
        ),
        ("videoTrack", json!({"label": "cam"}), json!("{\"label\":\"cam\"}")),
    ] {
        let params = json!({"streamId": stream, "property": property, "newValue": value, "reason": "r"});
        assert_eq!(bench.call(members[0].client, "streamPropertyChanged", params), json!({}));
        assert_eq!(
            bench.heard(members[1].client, "streamPropertyChanged"),
            json!({"connectionId": members[0].id, "streamId": stream, "property": property, "newValue": told,
                   "reason": "r"})
        );
        assert!(bench.methods(members[0].client).is_empty());
    }
    let params = json!({"streamId": stream, "property": "videoActive", "newValue": true, "reason": "r"});
    assert_eq!(bench.fail(members[1].client, "streamPropertyChanged", params), 105, "not the owner");
    let token = bench.token("S", Role::Subscriber);
    let client = bench.connect();
    let result = bench.call(client, "joinRoom", join_params("S", &token));
    let seen = &result["value"][0]["streams"][0];
    assert_eq!(
        (&seen["id"], &seen["videoActive"], &seen["audioActive"]),
        (&json!(stream), &json!(false), &json!(true))
    );
    assert_eq!(seen["videoDimensions"], "{\"width\":1280,\"height\":720}");
    assert_eq!(result["value"][1].get("streams"), None);
}

#[test]
fn subscribing_when_the_client_offers() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.clear();
    bench.subscribe(&members[1], &stream);
    let room = bench.room();
    assert_eq!((room.transports.len(), room.subscriptions.len()), (2, 1));
    let body = bench.records[0].webhook_body();
    assert_eq!((&body["connection"], &body["receivingFrom"]), (&json!("INBOUND"), &json!(members[0].id)));
    assert_eq!((&body["streamId"], &body["connectionId"]), (&json!(stream), &json!(members[1].id)));

    assert_eq!(
        bench.call(members[1].client, "unsubscribeFromVideo", json!({"sender": members[0].id})),
        json!({})
    );
    assert_eq!((bench.room().transports.len(), bench.room().subscriptions.len()), (1, 0));
    assert_eq!(bench.events(), ["webrtcConnectionCreated", "webrtcConnectionDestroyed unsubscribe"]);
    bench.call(members[1].client, "unsubscribeFromVideo", json!({"sender": members[0].id}));
    assert!(bench.events().is_empty(), "nothing to end");
    assert_eq!(bench.fail(members[1].client, "unsubscribeFromVideo", json!({"sender": "con_X"})), 102);
    bench.subscribe(&members[1], &stream);
    assert_eq!(bench.room().subscriptions.len(), 1, "again");
    assert_eq!(bench.refused, []);
}

#[test]
fn subscribing_when_the_server_offers() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.clear();
    let params = json!({"sender": stream, "reconnect": false});
    let result = bench.call(members[1].client, "prepareReceiveVideoFrom", params);
    let offered = result["sdpOffer"].as_str().expect("an offer").to_owned();
    assert_eq!(bench.room().transports.values().filter(|connected| !**connected).count(), 1);
    assert!(bench.events().is_empty() && bench.room().subscriptions.is_empty(), "only offered so far");
    let params = json!({"sender": stream, "sdpAnswer": answer_to(&offered)});
    assert_eq!(bench.call(members[1].client, "receiveVideoFrom", params.clone()), json!({}));
    assert_eq!(bench.room().subscriptions.len(), 1);
    assert_eq!(bench.events(), ["webrtcConnectionCreated"]);
    assert_eq!(bench.fail(members[1].client, "receiveVideoFrom", params), 302, "answered already");
    assert_eq!(bench.room().subscriptions.len(), 1, "still there");
    let view = bench.engine.session("S").expect("there").connections_json(ViewOptions::default());
    assert_eq!(view["content"][1]["subscribers"][0]["streamId"], stream);
    assert_eq!(view["content"][0]["publishers"][0]["mediaOptions"]["typeOfVideo"], "CAMERA");
}

#[test]
fn a_new_offer_replaces_an_older_one() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    let first = bench.call(members[1].client, "prepareReceiveVideoFrom", json!({"sender": stream}));
    let second = bench.call(members[1].client, "prepareReceiveVideoFrom", json!({"sender": stream}));
    assert_ne!(first, second);
    assert_eq!(bench.room().transports.len(), 2, "publisher's and one subscriber's");
    bench.subscribe(&members[1], &stream);
    assert_eq!((bench.room().transports.len(), bench.room().subscriptions.len()), (2, 1));
    assert_eq!(bench.refused, []);
}

#[test]
fn a_publisher_takes_its_subscribers_along() {
    let mut bench = Bench::new();
    let members = bench.room_of(3);
    let stream = bench.publish(&members[0]);
    for member in &members[1..] {
        bench.subscribe(member, &stream);
    }
    bench.clear();
    bench.ask(members[0].client, "unpublishVideo", json!({}));
    assert_eq!(bench.methods(members[0].client), ["#result"]);
    assert_eq!(
        bench.heard(members[1].client, "participantUnpublished"),
        json!({"connectionId": members[0].id, "reason": "unpublish"})
    );
    assert_eq!(bench.events(), ["webrtcConnectionDestroyed unpublish"; 3]);
    assert_eq!(*bench.room(), Default::default());
    assert_eq!(bench.fail(members[0].client, "unpublishVideo", json!({})), 105);
    assert_ne!(bench.publish(&members[0]), stream, "a new stream id");
    assert_eq!(bench.refused, []);
}

#[test]
fn leaving_ends_three_of_four_peer_connections() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let streams: Vec<_> = members.iter().map(|member| bench.publish(member)).collect();
    bench.subscribe(&members[0], &streams[1]);
    bench.subscribe(&members[1], &streams[0]);
    bench.clear();
    bench.call(members[0].client, "leaveRoom", json!({}));
    let destroyed = "webrtcConnectionDestroyed disconnect";
    assert_eq!(bench.events(), [destroyed, destroyed, destroyed, "participantLeft disconnect"]);
    assert_eq!(bench.methods(members[1].client), ["participantLeft"], "no separate participantUnpublished");
    assert_eq!((bench.room().transports.len(), bench.room().publications.len()), (1, 1));
    bench.call(members[1].client, "leaveRoom", json!({}));
    assert_eq!(
        bench.events(),
        [destroyed, "participantLeft disconnect", "sessionDestroyed lastParticipantLeft"]
    );
    assert_eq!(bench.refused, []);
}

#[test]
fn a_node_that_refuses_is_error_303_and_leaves_nothing_behind() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.prompt = false;
    let params = publish_params(&offer("sendonly", &["VP8"]));
    let id = bench.ask(members[0].client, "publishVideo", params.clone());
    assert_eq!(bench.fail(members[0].client, "publishVideo", params), 106, "one is under way");
    bench.refuse_one();
    assert_eq!(bench.answer(members[0].client, id)["error"]["code"], 303);
    assert!(bench.methods(members[1].client).is_empty() && bench.events().is_empty());
    bench.prompt = true;
    bench.refused.clear();
    let stream = bench.publish(&members[0]);
    bench.clear();
    bench.prompt = false;
    let params = json!({"sender": stream, "sdpOffer": offer("recvonly", &["VP8"])});
    let id = bench.ask(members[1].client, "receiveVideoFrom", params);
    bench.refuse_one();
    assert_eq!(bench.answer(members[1].client, id)["error"]["code"], 303);
    bench.prompt = true;
    bench.refused.clear();
    assert!(bench.events().is_empty());
    bench.subscribe(&members[1], &stream);
    assert_eq!(bench.room().transports.len(), 2);
}

#[test]
fn a_publisher_that_leaves_before_the_node_answers_is_not_announced() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    bench.prompt = false;
    bench.ask(members[0].client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    bench.ask(members[0].client, "leaveRoom", json!({}));
    bench.run_nodes();
    assert_eq!(bench.methods(members[0].client), ["#result", "#error"]);
    assert_eq!(bench.methods(members[1].client), ["participantLeft"]);
    assert_eq!(bench.events(), ["participantLeft disconnect"]);
    assert_eq!(*bench.room(), Default::default());
    assert_eq!(bench.refused, []);
}

#[test]
fn a_publisher_that_comes_back_with_the_same_codec_keeps_its_subscribers() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    let before = bench.room().publications[&stream].clone();
    bench.clear();
    let params = json!({"stream": stream, "sdpString": offer("sendonly", &["H264", "VP8"])});
    let result = bench.call(members[0].client, "reconnectStream", params);
    assert_eq!(result["id"], stream);
    assert!(result["sdpAnswer"].as_str().expect("an answer").contains("VP8/90000"), "the codec of before");
    assert_ne!(bench.room().publications[&stream], before, "moved");
    assert_eq!((bench.room().transports.len(), bench.room().subscriptions.len()), (2, 1));
    assert!(bench.events().is_empty() && bench.methods(members[1].client).is_empty());
    assert_eq!(bench.refused, []);
}

#[test]
fn a_publisher_that_comes_back_with_another_codec_forces_its_subscribers() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    let params = json!({"stream": stream, "sdpOffer": offer("sendonly", &["H264"])});
    bench.call(members[0].client, "reconnectStream", params);
    let forced = bench.heard(members[1].client, "forciblyReconnectSubscriber");
    assert_eq!((&forced["connectionId"], &forced["streamId"]), (&json!(members[0].id), &json!(stream)));
    let answer = answer_to(forced["sdpOffer"].as_str().expect("an offer"));
    let params = json!({"stream": stream, "sdpString": answer, "forciblyReconnect": true});
    assert_eq!(bench.call(members[1].client, "reconnectStream", params), json!({}));
    assert_eq!((bench.room().transports.len(), bench.room().subscriptions.len()), (2, 1));
    assert!(bench.events().is_empty(), "the same stream goes on");
    assert_eq!(bench.refused, []);
}

#[test]
fn a_subscriber_reconnects_in_both_flows() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    let params =
        json!({"stream": stream, "sdpOffer": offer("recvonly", &["VP8"]), "forciblyReconnect": false});
    assert!(bench.call(members[1].client, "reconnectStream", params)["sdpAnswer"].is_string());
    let offered = bench.call(
        members[1].client,
        "prepareReceiveVideoFrom",
        json!({"sender": stream, "reconnect": true}),
    );
    let answer = answer_to(offered["sdpOffer"].as_str().expect("an offer"));
    let params = json!({"stream": stream, "sdpString": answer, "forciblyReconnect": false});
    assert_eq!(bench.call(members[1].client, "reconnectStream", params), json!({}));
    assert_eq!((bench.room().transports.len(), bench.room().subscriptions.len()), (2, 1));
    assert!(bench.events().is_empty());
    let params = json!({"stream": "str_CAM_X_con_X", "sdpOffer": offer("recvonly", &["VP8"])});
    assert_eq!(bench.fail(members[1].client, "reconnectStream", params), 105);
    assert_eq!(bench.fail(members[1].client, "reconnectStream", json!({"stream": stream})), -32602);
    assert_eq!(bench.refused, []);
}

#[test]
fn loopback_sends_the_publishers_own_media_back() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    let mut params = publish_params(&offer("sendrecv", &["VP8"]));
    params["doLoopback"] = json!(true);
    let result = bench.call(members[0].client, "publishVideo", params);
    assert!(result["sdpAnswer"].as_str().expect("an answer").contains("a=sendrecv"));
    let room = bench.room();
    assert_eq!((room.transports.len(), room.publications.len(), room.subscriptions.len()), (1, 1, 1));
    bench.call(members[0].client, "unpublishVideo", json!({}));
    assert_eq!(*bench.room(), Default::default());
}

#[test]
fn a_forced_codec_and_the_bandwidth_limit_reach_the_node() {
    let mut bench = Bench::new();
    let properties = SessionProperties {
        custom_session_id: "S".into(),
        forced_video_codec: ForcedVideoCodec::H264,
        ..Default::default()
    };
    bench.engine.create_session(bench.now, properties, &mut Vec::new()).expect("created");
    let member = bench.join("S", Role::Publisher);
    let code = bench.fail(member.client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
    assert_eq!(code, 800);
    bench.prompt = false;
    let id = bench.ask(member.client, "publishVideo", publish_params(&offer("sendonly", &["VP8", "H264"])));
    let Op::Publish { tracks, .. } = &bench.asked[0].3[1] else { panic!("{:?}", bench.asked) };
    let video = tracks.iter().find(|track| track.kind == MediaKind::Video).expect("a picture");
    assert_eq!((video.codec.name.as_str(), video.max_bitrate_bps), ("H264", Some(1_000_000)));
    bench.run_nodes();
    assert!(bench.answer(member.client, id)["result"].is_object());
}

#[test]
fn what_cannot_be_subscribed_to() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.clear();
    let with = |sender: &str| json!({"sender": sender, "sdpOffer": offer("recvonly", &["VP8"])});
    let silent = format!("str_CAM_AAAA_{}", members[1].id);
    for (client, params, code) in [
        (members[0].client, with(&stream), 105),
        (members[0].client, with(&silent), 105),
        (members[1].client, with(&format!("str_CAM_old1_{}", members[0].id)), 105),
        (members[1].client, with("str_CAM_X_con_X"), 102),
        (members[1].client, with("nonsense"), 102),
        (members[1].client, json!({"sender": stream}), -32602),
        (members[1].client, json!({"sdpOffer": "x"}), -32602),
        (members[1].client, json!({"sender": stream, "sdpOffer": "v=0\r\n"}), 302),
        (members[1].client, json!({"sender": stream, "sdpOffer": "garbage"}), 302),
        (members[1].client, json!({"sender": stream, "sdpAnswer": "garbage"}), 302),
    ] {
        assert_eq!(bench.fail(client, "receiveVideoFrom", params.clone()), code, "{params}");
    }
    assert_eq!(bench.fail(members[1].client, "prepareReceiveVideoFrom", with("str_CAM_X_con_X")), 102);
    assert_eq!((bench.room().transports.len(), bench.events().len()), (1, 0));
}

#[test]
fn a_stream_ended_by_the_rest_api_is_unpublished_for_everybody() {
    let mut bench = Bench::new();
    let members = bench.room_of(2);
    let stream = bench.publish(&members[0]);
    bench.subscribe(&members[1], &stream);
    bench.clear();
    for (session, stream, status) in [("X", stream.as_str(), 400), ("S", "str_X", 404)] {
        let refused = bench.engine.force_unpublish(bench.now, session, stream, &mut Vec::new());
        assert_eq!(refused.map_err(|error| error.status), Err(status));
    }
    let mut out = Vec::new();
    bench.engine.force_unpublish(bench.now, "S", &stream, &mut out).expect("ended");
    bench.carry_out(out);
    for member in &members {
        let heard = bench.heard(member.client, "participantUnpublished");
        assert_eq!(heard, json!({"connectionId": members[0].id, "reason": "forceUnpublishByServer"}));
    }
    assert_eq!(bench.events(), ["webrtcConnectionDestroyed forceUnpublishByServer"; 2]);
    assert_eq!(Reason::ForceUnpublishByServer.as_str(), "forceUnpublishByServer");
}

#[test]
fn sdp_is_shown_on_demand_only() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    bench.publish(&members[0]);
    let view = |bench: &Bench, webrtc_stats| {
        let options = ViewOptions { webrtc_stats, ..Default::default() };
        bench.engine.session("S").expect("there").connections_json(options)["content"][0]["publishers"][0]
            .clone()
    };
    assert_eq!(view(&bench, false).get("localSdp"), None);
    let shown = view(&bench, true);
    assert!(shown["localSdp"].as_str().expect("kept").contains("a=ice-lite"));
    assert_eq!((&shown["events"], &shown["localCandidate"]), (&json!([]), &Value::Null));
    let server = &shown["serverIceCandidates"][0];
    assert!(server["candidate"].as_str().expect("text").starts_with("candidate:1 1 udp"), "{server}");
    assert_eq!((&server["sdpMid"], &server["sdpMLineIndex"]), (&json!("0"), &json!(0)));
    assert_eq!(shown["clientIceCandidates"], json!([]));

    let candidate = |text: &str| json!({"endpointName": members[0].id, "candidate": text, "sdpMid": "0", "sdpMLineIndex": 0});
    bench.engine.take_rows();
    bench.call(members[0].client, "onIceCandidate", candidate(""));
    bench.call(members[0].client, "onIceCandidate", candidate(&"x".repeat(1_000)));
    for _ in 0..50 {
        bench.call(
            members[0].client,
            "onIceCandidate",
            candidate("candidate:7 1 udp 9 192.0.2.7 9 typ host"),
        );
    }
    for odd in [json!({}), json!({"endpointName": "con_X", "candidate": "x"}), json!({"candidate": 1})] {
        bench.call(members[0].client, "onIceCandidate", odd);
    }
    assert!(bench.engine.take_rows().is_empty(), "nothing is written for what only a view needs");
    let kept = view(&bench, true)["clientIceCandidates"].as_array().expect("a list").clone();
    assert_eq!(kept.len(), 32, "a bound");
    let expected =
        json!({"candidate": "candidate:7 1 udp 9 192.0.2.7 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0});
    assert_eq!(kept[0], expected);
}

#[test]
fn loopback_outlives_a_new_peer_connection() {
    let mut bench = Bench::new();
    let members = bench.room_of(1);
    let mut params = publish_params(&offer("sendrecv", &["VP8"]));
    params["doLoopback"] = json!(true);
    let stream = bench.call(members[0].client, "publishVideo", params)["id"].clone();
    bench.crash(0);
    bench.reconnect_node(NODE);
    let client = bench.connect();
    bench.ask(client, "connect", json!({"sessionId": members[0].rpc}));
    for codec in ["VP8", "H264"] {
        let params = json!({"stream": stream, "sdpString": offer("sendrecv", &[codec])});
        let result = bench.call(client, "reconnectStream", params);
        assert!(result["sdpAnswer"].as_str().expect("an answer").contains("a=sendrecv"), "{codec}");
        let room = bench.room();
        assert_eq!((room.transports.len(), room.publications.len(), room.subscriptions.len()), (1, 1, 1));
    }
    assert_eq!(bench.refused, []);
}

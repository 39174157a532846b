//! Tables of requests and statuses, one per endpoint of the contract, against a real engine.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sfu_core::control::proto::{CoreInfo, Fingerprint, NodeInfo};

use super::*;
use crate::cluster::Origin;
use crate::config::{Config, Surroundings};
use crate::engine::{EngineConfig, Input, Machine};
use crate::ids::ReplyId;
use crate::session::Place;

const NOW: u64 = 1_800_000_000_000;

struct Server {
    engine: Engine,
    next_reply: u64,
}

impl Server {
    fn new() -> Self {
        Self { engine: Engine::new(EngineConfig::default(), [7; 32], NOW), next_reply: 0 }
    }

    fn with_node(running: bool) -> Self {
        let mut server = Self::new();
        let info = NodeInfo {
            version: 1,
            process: "p".into(),
            software: "weir".into(),
            reactor: "mmsg".into(),
            fingerprint: Fingerprint { algorithm: "sha-256".into(), value: "AA".into() },
            cores: vec![CoreInfo { core: 0, candidates: Vec::new() }],
            rooms: Vec::new(),
            draining: false,
        };
        let uri = "ws://10.0.0.1:8888/kurento".parse().unwrap();
        let machine = Machine { id: "media_1".into(), uri, environment_id: None, origin: Origin::Joined };
        server.engine.join_node(NOW, machine, 1, &mut Vec::new());
        server.engine.handle(NOW, Input::NodeUp { node: "media_1".into(), info }, &mut Vec::new());
        if !running {
            // A session keeps it from going at once.
            server.session("keeps-it");
            let place = Place { node: "media_1".into(), core: 0, room: "r".into() };
            server.engine.nodes.room_opened(&place);
            let drain = json!({"status": "waiting-idle-to-terminate"});
            assert_eq!(server.status("PATCH", "media-nodes/media_1", drain), 200);
        }
        server
    }

    /// Sends through the engine's own entry; returns status and body.
    fn ask(&mut self, method: &str, path: &str, body: Option<Value>) -> (u16, Option<Value>) {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let request = RestRequest {
            method: method.to_owned(),
            path: path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            query: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(),
            body,
        };
        self.next_reply += 1;
        let (reply, mut out) = (ReplyId(self.next_reply), Vec::new());
        self.engine.handle(NOW, Input::Rest { reply, request }, &mut out);
        let found = out.into_iter().find_map(|output| match output {
            Output::RestReply { reply: to, status, body } if to == reply => Some((status, body)),
            _ => None,
        });
        found.expect("every request is answered at once")
    }

    fn status(&mut self, method: &str, path: &str, body: Value) -> u16 {
        let body = if body.is_null() { None } else { Some(body) };
        self.ask(method, path, body).0
    }

    fn session(&mut self, id: &str) {
        assert_eq!(self.status("POST", "sessions", json!({"customSessionId": id})), 200);
    }

    fn connection(&mut self, session: &str) -> String {
        let (status, body) = self.ask("POST", &format!("sessions/{session}/connection"), None);
        assert_eq!(status, 200);
        body.unwrap()["id"].as_str().unwrap().to_owned()
    }
}

#[test]
fn session_bodies() {
    let table = [
        (Value::Null, 200),
        (json!({}), 200),
        (json!({"unknown": [1], "mediaMode": null}), 200),
        (json!({"mediaMode": "ROUTED", "recordingMode": "ALWAYS", "forcedVideoCodec": "VP9"}), 200),
        (json!({"mediaMode": "RELAYED", "allowTranscoding": true, "customSessionId": ""}), 200),
        (json!({"customSessionId": "A-b_9"}), 200),
        (json!({"defaultRecordingProperties": {"outputMode": "INDIVIDUAL"}}), 200),
        (json!({"mediaNode": {"id": "media_1"}}), 200),
        (json!({"mediaNode": "{\"id\": \"media_1\"}"}), 200),
        (json!({"mediaNode": {"id": "media_1", "core": 0}}), 200),
        (json!({"mediaNode": {"id": "media_1", "core": null}}), 200),
        (json!({"mediaNode": {"id": "media_1", "core": 1}}), 400),
        (json!({"mediaNode": {"id": "media_1", "core": "0"}}), 400),
        (json!({"mediaNode": {"id": "media_1", "core": -1}}), 400),
        (json!([]), 400),
        (json!("x"), 400),
        (json!({"mediaMode": "NONE"}), 400),
        (json!({"mediaMode": 1}), 400),
        (json!({"recordingMode": "always"}), 400),
        (json!({"customSessionId": "a b"}), 400),
        (json!({"customSessionId": "a@b"}), 400),
        (json!({"customSessionId": 5}), 400),
        (json!({"forcedVideoCodec": "AV1"}), 400),
        (json!({"allowTranscoding": "true"}), 400),
        (json!({"defaultRecordingProperties": "x"}), 400),
        (json!({"defaultRecordingProperties": {"frameRate": 0}}), 400),
        (json!({"defaultRecordingProperties": {"hasAudio": false, "hasVideo": false}}), 400),
        (json!({"mediaNode": "media_1"}), 400),
        (json!({"mediaNode": {}}), 400),
        (json!({"mediaNode": {"id": 5}}), 400),
        (json!({"mediaNode": {"id": "media_2"}}), 400),
    ];
    for (body, status) in table {
        assert_eq!(Server::with_node(true).status("POST", "sessions", body.clone()), status, "{body}");
    }
    let pinned = json!({"mediaNode": {"id": "media_1"}});
    assert_eq!(Server::with_node(false).status("POST", "sessions", pinned), 400, "not running");
}

#[test]
fn session_life() {
    let mut server = Server::new();
    let (status, session) =
        server.ask("POST", "sessions", Some(json!({"customSessionId": "s", "forcedVideoCodec": "H264"})));
    let session = session.unwrap();
    assert_eq!((status, &session["id"], &session["sessionId"]), (200, &json!("s"), &json!("s")));
    assert_eq!((&session["forcedVideoCodec"], &session["createdAt"]), (&json!("H264"), &json!(NOW)));
    assert_eq!(server.ask("POST", "sessions", Some(json!({"customSessionId": "s"}))), (409, None));
    let table = [
        ("GET", "sessions/s", 200),
        ("HEAD", "sessions/s", 200),
        ("GET", "sessions/s/", 200),
        ("GET", "sessions/x", 404),
        ("GET", "sessions", 200),
        ("DELETE", "sessions", 403),
        ("PUT", "sessions", 403),
        ("PATCH", "sessions/s", 403),
        ("POST", "sessions/s", 403),
        ("GET", "sessions/s/nothing", 404),
        ("GET", "nothing", 404),
        ("DELETE", "sessions/x", 404),
        ("DELETE", "sessions/s", 204),
        ("DELETE", "sessions/s", 404),
        ("GET", "sessions/s", 404),
    ];
    for (method, path, status) in table {
        assert_eq!(server.status(method, path, Value::Null), status, "{method} {path}");
    }
    let (_, list) = server.ask("GET", "sessions", None);
    assert_eq!(list, Some(json!({"numberOfElements": 0, "content": []})));
}

#[test]
fn connection_bodies() {
    let ice = |server: Value| json!({"customIceServers": [server]});
    let table = [
        (Value::Null, 200),
        (json!({}), 200),
        (json!({"type": "WEBRTC", "data": "d", "record": false, "role": "MODERATOR", "x": 1}), 200),
        (json!({"kurentoOptions": {"videoMaxRecvBandwidth": 1000, "allowedFilters": ["A"]}}), 200),
        (json!({"customIceServers": []}), 200),
        (ice(json!({"url": "stun:a.b"})), 200),
        (ice(json!({"url": "turn:a.b:3478?transport=udp", "username": "u", "credential": "c"})), 200),
        (ice(json!({"url": "turn:a.b", "staticAuthSecret": "s"})), 200),
        (json!({"type": "webrtc"}), 400),
        (json!({"data": 5}), 400),
        (json!({"record": "true"}), 400),
        (json!({"role": "ADMIN"}), 400),
        (json!({"role": 5}), 400),
        (json!({"kurentoOptions": []}), 400),
        (json!({"kurentoOptions": {"videoMaxRecvBandwidth": "1000"}}), 400),
        (json!({"kurentoOptions": {"videoMinRecvBandwidth": 1.5}}), 400),
        (json!({"kurentoOptions": {"allowedFilters": "A"}}), 400),
        (json!({"kurentoOptions": {"allowedFilters": [5]}}), 400),
        (json!({"customIceServers": {}}), 400),
        (json!({"customIceServers": ["stun:a.b"]}), 400),
        (ice(json!({})), 400),
        (ice(json!({"url": "turn:a.b"})), 400),
        (ice(json!({"url": "stun:a.b", "username": "u"})), 400),
        (ice(json!({"url": "http://a.b"})), 400),
        (ice(json!({"url": "turn:a.b:99999", "staticAuthSecret": "s"})), 400),
        (json!({"type": "IPCAM"}), 400),
        (json!({"type": "IPCAM", "rtspUri": "ftp://a"}), 400),
        (json!({"type": "IPCAM", "rtspUri": 5}), 400),
        (json!({"type": "IPCAM", "rtspUri": "rtsp://a", "networkCache": "x"}), 400),
        (json!({"type": "IPCAM", "rtspUri": "rtsp://a", "networkCache": 100}), 501),
    ];
    for (body, status) in table {
        let mut server = Server::new();
        server.session("s");
        assert_eq!(server.status("POST", "sessions/s/connection", body.clone()), status, "{body}");
        assert_eq!(server.status("POST", "sessions/x/connection", body), 404, "an unknown session wins");
    }
}

#[test]
fn connection_life() {
    let mut server = Server::new();
    server.session("s");
    let id = server.connection("s");
    let (one, missing) = (format!("sessions/s/connection/{id}"), "sessions/s/connection/con_X");
    let other = format!("sessions/x/connection/{id}");
    let table = [
        ("GET", one.as_str(), Value::Null, 200),
        ("GET", missing, Value::Null, 404),
        ("GET", &other, Value::Null, 400),
        ("GET", "sessions/s/connection", Value::Null, 200),
        ("GET", "sessions/x/connection", Value::Null, 404),
        ("PUT", "sessions/s/connection", Value::Null, 403),
        ("POST", &one, json!({}), 403),
        ("PATCH", &one, json!({}), 200),
        ("PATCH", &one, json!({"role": "SUBSCRIBER", "record": false, "data": 5}), 200),
        ("PATCH", &one, json!({"role": "X"}), 400),
        ("PATCH", &one, json!({"record": 1}), 400),
        ("PATCH", &one, Value::Null, 400),
        ("PATCH", missing, json!({}), 404),
        ("PATCH", &other, json!({"role": 5}), 404),
        ("DELETE", &other, Value::Null, 400),
        ("DELETE", missing, Value::Null, 404),
        ("DELETE", &one, Value::Null, 204),
        ("DELETE", &one, Value::Null, 404),
        ("DELETE", "sessions/s/connection", Value::Null, 403),
    ];
    for (method, path, body, status) in table {
        assert_eq!(server.status(method, path, body.clone()), status, "{method} {path} {body}");
    }
}

#[test]
fn views_of_connections() {
    let mut server = Server::new();
    server.session("s");
    server.connection("s");
    let count = |body: Option<Value>| body.unwrap()["numberOfElements"].clone();
    assert_eq!(count(server.ask("GET", "sessions/s/connection", None).1), 1);
    assert_eq!(count(server.ask("GET", "sessions/s/connection?pendingConnections=false", None).1), 0);
    let session =
        |server: &mut Server, query| server.ask("GET", query, None).1.unwrap()["connections"].clone();
    assert_eq!(session(&mut server, "sessions/s")["numberOfElements"], 0);
    assert_eq!(session(&mut server, "sessions/s?pendingConnections=true")["numberOfElements"], 1);
    let patched = server.connection("s");
    let patch = json!({"role": "SUBSCRIBER", "record": false});
    let (_, body) = server.ask("PATCH", &format!("sessions/s/connection/{patched}"), Some(patch));
    let body = body.unwrap();
    assert_eq!((&body["role"], &body["record"]), (&json!("SUBSCRIBER"), &json!(false)));
}

#[test]
fn streams_signals_tokens() {
    let mut server = Server::new();
    server.session("s");
    let table = [
        ("DELETE", "sessions/x/stream/str_A", Value::Null, 400),
        ("DELETE", "sessions/s/stream/str_A", Value::Null, 404),
        ("GET", "sessions/s/stream/str_A", Value::Null, 403),
        ("GET", "signal", Value::Null, 403),
        ("POST", "signal", Value::Null, 400),
        ("POST", "signal", json!([]), 400),
        ("POST", "signal", json!({}), 400),
        ("POST", "signal", json!({"session": 5}), 400),
        ("POST", "signal", json!({"session": "s", "to": "x"}), 400),
        ("POST", "signal", json!({"session": "s", "to": [5]}), 400),
        ("POST", "signal", json!({"session": "s", "to": [null]}), 406),
        ("POST", "signal", json!({"session": "s", "type": 5}), 400),
        ("POST", "signal", json!({"session": "s", "data": {}}), 400),
        ("POST", "signal", json!({"session": "x"}), 404),
        ("POST", "signal", json!({"session": "s", "type": "t", "data": "d"}), 406),
        ("POST", "tokens", Value::Null, 400),
        ("POST", "tokens", json!({}), 400),
        ("POST", "tokens", json!({"session": 5}), 400),
        ("POST", "tokens", json!({"session": "x"}), 404),
        ("POST", "tokens", json!({"session": "s", "role": "X"}), 400),
        ("POST", "tokens", json!({"session": "s", "record": 5}), 200),
        ("GET", "tokens", Value::Null, 403),
    ];
    for (method, path, body, status) in table {
        assert_eq!(server.status(method, path, body.clone()), status, "{method} {path} {body}");
    }
    let body = json!({"session": "s", "role": "MODERATOR", "data": "d", "kurentoOptions": {"videoMaxSendBandwidth": 7}});
    let (_, token) = server.ask("POST", "tokens", Some(body));
    let token = token.unwrap();
    assert_eq!(token["id"], token["token"]);
    assert!(token["token"].as_str().unwrap().starts_with("ws://localhost:4443?sessionId=s&token=tok_"));
    assert_eq!(
        (&token["role"], &token["kurentoOptions"]),
        (&json!("MODERATOR"), &json!({"videoMaxSendBandwidth": 7}))
    );
    assert!(token.get("record").is_none());
}

#[test]
fn health_follows_the_nodes() {
    let mut server = Server::new();
    let lost = json!([]);
    assert_eq!(
        server.ask("GET", "health", None),
        (503, Some(json!({"status": "DOWN", "disconnectedMediaNodes": lost})))
    );
    let mut server = Server::with_node(true);
    assert_eq!(server.ask("GET", "health", None).1.unwrap()["status"], "UP");
    let nodes = server.ask("GET", "media-nodes?sessions=true&recordings=true", None).1.unwrap();
    assert_eq!((&nodes["numberOfElements"], &nodes["content"][0]["status"]), (&json!(1), &json!("running")));
    assert_eq!(nodes["content"][0]["sessions"], json!([]));
    server.engine.handle(NOW, Input::NodeDown { node: "media_1".into() }, &mut Vec::new());
    let (status, body) = server.ask("GET", "health", None);
    assert_eq!((status, &body.unwrap()["disconnectedMediaNodes"]), (503, &json!(["media_1"])));
    let node = server.ask("GET", "media-nodes/media_1", None).1.unwrap();
    assert_eq!((&node["connected"], &node["disconnectionTime"]), (&json!(false), &json!(NOW)));
    assert_eq!(server.status("GET", "media-nodes/media_2", Value::Null), 404);
}

#[test]
fn what_is_not_built_says_so() {
    let mut server = Server::new();
    server.session("s");
    let table = [
        ("POST", "speech-to-text/load", json!({}), 501),
        ("POST", "broadcast/start", json!({}), 400),
        ("POST", "broadcast/start", json!({"session": "s", "broadcastUrl": "x"}), 400),
        ("POST", "broadcast/start", json!({"session": "x", "broadcastUrl": "rtmp://h/l"}), 404),
        ("POST", "broadcast/start", json!({"session": "s", "broadcastUrl": "rtmp://h/l"}), 406),
        ("POST", "broadcast/stop", json!({"session": "s"}), 409),
        ("POST", "broadcast/stop", json!({"session": "x"}), 404),
        ("GET", "broadcast/start", Value::Null, 403),
    ];
    for (method, path, body, status) in table {
        assert_eq!(server.status(method, path, body.clone()), status, "{method} {path} {body}");
    }
}

#[test]
fn error_bodies_have_the_form_of_the_contract() {
    let (status, body) = Server::new().ask("POST", "sessions", Some(json!({"mediaMode": 5})));
    let body = body.unwrap();
    assert_eq!(status, 400);
    assert_eq!(
        (&body["timestamp"], &body["status"], &body["error"]),
        (&json!(NOW), &json!(400), &json!("Bad Request"))
    );
    assert_eq!(body["path"], "/openvidu/api/sessions");
    assert!(body["message"].as_str().unwrap().contains("mediaMode"));
}

fn config(vars: &[(&str, &str)]) -> Config {
    let environment = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let around = Surroundings { environment, directory: "/nonexistent".into(), ..Default::default() };
    Config::load(&around).unwrap()
}

fn inform(config: &Config, method: &str, path: &str) -> Option<(u16, Option<Value>)> {
    let info = info::ServerInfo { start_ms: 1, restarts: 2, last_restart_ms: 3, cluster_id: "c".into() };
    let request = RestRequest {
        method: method.to_owned(),
        path: path.split('/').map(str::to_owned).collect(),
        ..Default::default()
    };
    info::answer(config, &info, &request, NOW).map(|answer| (answer.status, answer.body))
}

#[test]
fn the_configuration_is_shown_without_secrets() {
    let config = config(&[
        ("OPENVIDU_SECRET", "topsecret"),
        ("OPENVIDU_WEBHOOK", "true"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", "http://127.0.0.1:7777/webhook"),
        ("OPENVIDU_WEBHOOK_HEADERS", "[\"X-A: b\"]"),
    ]);
    let shown = inform(&config, "GET", "config").unwrap().1.unwrap();
    assert!(!shown.to_string().contains("topsecret"));
    for (key, value) in [
        ("VERSION", json!("2.32.2")),
        ("OPENVIDU_PUBLICURL", json!("http://localhost:4443/")),
        ("HTTPS_PORT", json!(4443)),
        ("OPENVIDU_CDR", json!(false)),
        ("OPENVIDU_WEBHOOK_HEADERS", json!(["X-A: b"])),
        ("OPENVIDU_PRO_CLUSTER_ID", json!("c")),
        ("OPENVIDU_PRO_CLUSTER_RECONNECTION_TIMEOUT", json!(-1)),
        ("KMS_URIS", json!([])),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert!(shown.get("OPENVIDU_CDR_PATH").is_none() && shown.get("OPENVIDU_RECORDING_PATH").is_none());
}

#[test]
fn small_variants_status_and_recordings() {
    let (off, on) = (config(&[]), config(&[("OPENVIDU_RECORDING", "true")]));
    let body = |path| inform(&off, "GET", path).unwrap();
    assert_eq!(body("config/openvidu-version"), (200, Some(json!("2.32.2"))));
    assert_eq!(body("config/openvidu-publicurl"), (200, Some(json!("http://localhost:4443/"))));
    assert_eq!(body("config/openvidu-recording"), (200, Some(json!(false))));
    assert_eq!(body("config/openvidu-recording-path"), (200, Some(json!("/opt/openvidu/recordings/"))));
    assert_eq!(body("config/nothing").0, 404);
    assert_eq!(
        body("status"),
        (200, Some(json!({"startTime": 1, "restartCounter": 2, "lastRestartTime": 3})))
    );
    let table = [
        ("POST", "config", 403, 403),
        ("DELETE", "status", 403, 403),
        ("POST", "recordings/start", 501, 501),
        ("POST", "recordings/stop/r", 501, 404),
        ("GET", "recordings", 501, 200),
        ("GET", "recordings/r", 501, 404),
        ("DELETE", "recordings/r", 501, 404),
        ("DELETE", "recordings", 403, 403),
        ("POST", "recordings/stop", 403, 403),
        ("GET", "recordings/a/b/c", 404, 404),
    ];
    for (method, path, disabled, enabled) in table {
        assert_eq!(inform(&off, method, path).unwrap().0, disabled, "{method} {path}");
        assert_eq!(inform(&on, method, path).unwrap().0, enabled, "{method} {path}, enabled");
    }
    assert_eq!(inform(&on, "GET", "recordings").unwrap().1, Some(json!({"count": 0, "items": []})));
    assert_eq!(inform(&off, "GET", "sessions"), None);
}

/// The description is served, and names no operation that the server does not know.
#[test]
fn the_description_tells_of_real_operations() {
    let config = config(&[("OPENVIDU_RECORDING", "true")]);
    let (status, document) = inform(&config, "GET", "openapi.json").unwrap();
    assert_eq!(status, 200);
    let paths = document.unwrap()["paths"].as_object().unwrap().clone();
    assert!(paths.len() > 20);
    for (template, operations) in &paths {
        let path = template.trim_start_matches('/').replace("{name}", "openvidu-cdr").replace(['{', '}'], "");
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let method = method.to_ascii_uppercase();
            let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
            // Two are the shell's own.
            let known = matches!(path.as_str(), "restart" | usage::PATH)
                || inform(&config, &method, &path).is_some_and(|(status, _)| status != route::WRONG_METHOD)
                || Route::of(&method, &segments).is_ok();
            assert!(known, "{method} {template}");
        }
    }
}

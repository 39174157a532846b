//! Media nodes over the whole controller: REST statuses, order of events, start-up, autoscaler, losses.

use serde_json::{Value, json};
use sfu_core::control::proto::{NodeLoad, Notification};

use super::harness::{Bench, NODE, join_params};
use crate::autoscaler;
use crate::cluster::{LaunchRequest, LaunchedNode};
use crate::engine::{Autoscaling, ClusterConfig, EngineConfig, Input, NodeNews, NodeOrder, RestRequest};
use crate::ids::ReplyId;
use crate::session::Role;

const CLUSTER: &str = "c1";

fn config(change: impl FnOnce(&mut EngineConfig)) -> EngineConfig {
    let cluster = ClusterConfig { id: CLUSTER.into(), ..ClusterConfig::default() };
    let mut config = EngineConfig { cluster, ..EngineConfig::default() };
    change(&mut config);
    config
}

/// A cluster that launches nodes.
fn launching(change: impl FnOnce(&mut ClusterConfig)) -> Bench {
    Bench::without_node(config(|config| {
        config.cluster.launches = true;
        config.cluster.discovers = true;
        change(&mut config.cluster);
    }))
}

fn machine(number: u32) -> LaunchedNode {
    LaunchedNode { environment_id: format!("i-{number}"), uri: format!("ws://10.0.0.{number}:8888/kurento") }
}

impl Bench {
    /// Asks; the answer may come later.
    fn rest(&mut self, method: &str, path: &str, body: Value) -> ReplyId {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let request = RestRequest {
            method: method.into(),
            path: path.split('/').map(str::to_owned).collect(),
            query: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: (!body.is_null()).then_some(body),
        };
        self.next_id += 1;
        let reply = ReplyId(self.next_id);
        self.input(Input::Rest { reply, request });
        reply
    }

    /// The answer to a request, if it is there.
    fn replied(&self, reply: ReplyId) -> Option<(u16, Value)> {
        let mut found = self.replies.iter().filter(|(to, ..)| *to == reply);
        let first = found.next().map(|(_, status, body)| (*status, body.clone().unwrap_or_default()));
        assert!(found.next().is_none(), "answered once");
        first
    }

    /// Asks what is answered at once.
    fn ask_rest(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let reply = self.rest(method, path, body);
        self.replied(reply).expect("answered at once")
    }

    fn status_of(&mut self, method: &str, path: &str, body: Value) -> u16 {
        self.ask_rest(method, path, body).0
    }

    fn news(&mut self, news: NodeNews) {
        self.input(Input::NodeNews(news));
    }

    fn orders(&mut self) -> Vec<NodeOrder> {
        std::mem::take(&mut self.orders)
    }

    /// The node whose launch was ordered last.
    fn ordered(&mut self) -> String {
        let launched = |order: &NodeOrder| match order {
            NodeOrder::Launch { node, .. } => Some(node.as_str().to_owned()),
            _ => None,
        };
        let found = self.orders.iter().rev().find_map(launched).expect("a launch");
        self.orders.clear();
        found
    }

    /// A launched node that is connected.
    fn bring_up(&mut self, number: u32) -> String {
        let id = self.ordered();
        self.news(NodeNews::Launched { node: id.as_str().into(), machine: machine(number) });
        self.start_node(&id, &format!("process-{number}"));
        id
    }

    fn report(&mut self, id: &str, load: f64) {
        let load = NodeLoad { load, ..NodeLoad::default() };
        self.input(Input::NodeNotification { node: id.into(), notification: Notification::Load(load) });
    }

    /// Events since the last time; of status changes also from where to where.
    fn story(&mut self) -> Vec<String> {
        let records = std::mem::take(&mut self.records);
        let told = records.into_iter().map(|record| {
            let text = |name: &str| record.fields.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
            match record.event {
                "mediaNodeStatusChanged" => format!("{} to {}", text("oldStatus"), text("newStatus")),
                event => match record.fields.get("reason").and_then(Value::as_str) {
                    Some(reason) if event != "autoscaling" => format!("{event} {reason}"),
                    _ => event.to_owned(),
                },
            }
        });
        told.collect()
    }

    /// Two who publish and see each other.
    fn busy_room(&mut self) -> Vec<super::harness::Member> {
        let members = self.room_of(2);
        let streams: Vec<String> = members.iter().map(|member| self.publish(member)).collect();
        self.subscribe(&members[0], &streams[1]);
        self.subscribe(&members[1], &streams[0]);
        self.clear();
        members
    }
}

const ENDED: [&str; 7] = [
    "webrtcConnectionDestroyed",
    "webrtcConnectionDestroyed",
    "webrtcConnectionDestroyed",
    "participantLeft",
    "webrtcConnectionDestroyed",
    "participantLeft",
    "sessionDestroyed",
];

fn ended(reason: &str) -> Vec<String> {
    ENDED.iter().map(|event| format!("{event} {reason}")).collect()
}

fn around(first: &[&str], middle: Vec<String>, last: &[&str]) -> Vec<String> {
    let text = |events: &[&str]| events.iter().map(|event| (*event).to_owned()).collect::<Vec<_>>();
    [text(first), middle, text(last)].concat()
}

#[test]
fn a_node_is_added_by_its_place() {
    let mut bench = Bench::without_node(config(|_| {}));
    let body = json!({"uri": "ws://10.0.0.7:8888/kurento", "environmentId": "rack 7"});
    let (status, node) = bench.ask_rest("POST", "media-nodes", body);
    let id = node["id"].as_str().expect("an id").to_owned();
    let expected = json!({
        "id": id, "object": "mediaNode", "environmentId": "rack 7", "ip": "10.0.0.7",
        "uri": "ws://10.0.0.7:8888/kurento", "launchingTime": bench.now, "connected": false, "load": 0.0,
        "status": "launching", "mediaServer": "kurento",
    });
    assert_eq!((status, node), (200, expected));
    let uri = "ws://10.0.0.7:8888/kurento".parse().expect("a URI");
    assert_eq!(bench.orders(), [NodeOrder::Connect { node: id.as_str().into(), uri }]);
    let first = bench.records[0].webhook_body();
    let told = json!({
        "event": "mediaNodeStatusChanged", "timestamp": bench.now, "id": id, "environmentId": "rack 7",
        "ip": "10.0.0.7", "uri": "ws://10.0.0.7:8888/kurento", "newStatus": "launching", "oldStatus": null,
        "clusterId": CLUSTER,
    });
    assert_eq!(first, told);
    bench.now += 5;
    bench.start_node(&id, "p");
    let (_, node) =
        bench.ask_rest("GET", &format!("media-nodes/{id}?sessions=true&recordings=true"), Value::Null);
    assert_eq!((&node["status"], &node["connected"]), (&json!("running"), &json!(true)));
    assert_eq!((&node["connectionTime"], &node["launchingTime"]), (&json!(bench.now), &json!(bench.now - 5)));
    assert_eq!(
        (&node["sessions"], &node["recordingIds"], &node["broadcasts"]),
        (&json!([]), &json!([]), &json!([]))
    );
    assert_eq!(bench.story(), ["- to launching", "launching to running"]);
}

#[test]
fn bodies_and_places_of_new_nodes() {
    for (body, status) in [
        (Value::Null, 501),
        (json!({}), 501),
        (json!({"uri": null}), 501),
        (json!({"environmentId": "x"}), 501),
        (json!({"uri": "ws://10.0.0.2"}), 200),
        (json!({"uri": "ws://10.0.0.2", "instanceType": "t", "volumeSize": 5}), 200),
        (json!({"uri": 5}), 400),
        (json!({"uri": "10.0.0.2"}), 400),
        (json!({"uri": "wss://10.0.0.2"}), 400),
        (json!({"uri": "ws://10.0.0.2", "environmentId": 5}), 400),
        (json!({"instanceType": []}), 400),
        (json!({"volumeSize": 0}), 400),
        (json!({"volumeSize": "5"}), 400),
        (json!([]), 400),
        (json!({"uri": "ws://media_1:8888/another/path"}), 409),
    ] {
        let mut bench = Bench::with(config(|_| {}));
        let (answered, error) = bench.ask_rest("POST", "media-nodes", body.clone());
        assert_eq!(answered, status, "{body} {error}");
        if status == 400 && body.is_object() {
            let named = body.as_object().expect("an object").keys();
            let message = error["message"].as_str().expect("a message");
            assert!(named.into_iter().any(|name| message.contains(&format!("'{name}'"))), "{message}");
        }
    }
}

#[test]
fn who_waits_hears_how_joining_went() {
    let mut bench = Bench::without_node(config(|_| {}));
    let body = || json!({"uri": "ws://10.0.0.7"});
    let reply = bench.rest("POST", "media-nodes?wait=true", body());
    assert_eq!(bench.replied(reply), None);
    let [NodeOrder::Connect { node, .. }] = &bench.orders()[..] else { panic!("connects") };
    let node = node.clone();
    bench.news(NodeNews::Unreachable { node: node.clone(), attempt: 1, reason: "refused".into() });
    let (status, error) = bench.replied(reply).expect("answered");
    assert_eq!((status, &error["message"]), (404, &json!("refused")));
    assert_eq!(bench.orders(), [NodeOrder::Disconnect { node: node.clone() }]);
    assert_eq!(bench.story(), ["- to launching", "launching to failed"]);
    let (_, failed) = bench.ask_rest("GET", &format!("media-nodes/{node}"), Value::Null);
    assert_eq!((&failed["status"], &failed["failure"]), (&json!("failed"), &json!("refused")));
    assert_eq!(
        bench.status_of("DELETE", &format!("media-nodes/{node}"), Value::Null),
        404,
        "it is not there"
    );

    let reply = bench.rest("POST", "media-nodes?wait=true", body());
    let [NodeOrder::Connect { node: again, .. }] = &bench.orders()[..] else { panic!("connects") };
    let again = again.clone();
    bench.start_node(again.as_str(), "p");
    let (status, found) = bench.replied(reply).expect("answered");
    assert_eq!((status, &found["status"], &found["id"]), (200, &json!("running"), &json!(again)));
    bench.pass(60_000);
    assert_eq!(
        bench.status_of("GET", &format!("media-nodes/{node}"), Value::Null),
        404,
        "shown for a minute"
    );
}

#[test]
fn removal_on_premises_by_strategy() {
    for (busy, query, status, story) in [
        (false, "", 200, &["running to terminating", "terminating to terminated"][..]),
        (false, "wait=true", 204, &["running to terminating", "terminating to terminated"]),
        (
            false,
            "deletion-strategy=when-no-sessions",
            200,
            &["running to terminating", "terminating to terminated"],
        ),
        (true, "", 409, &[]),
        (true, "deletion-strategy=if-no-sessions&wait=true", 409, &[]),
        (
            true,
            "deletion-strategy=when-no-sessions&wait=true",
            202,
            &["running to waiting-idle-to-terminate"],
        ),
        (true, "deletion-strategy=later", 400, &[]),
        (false, "deletion-strategy=", 400, &[]),
    ] {
        let mut bench = Bench::with(config(|_| {}));
        if busy {
            bench.busy_room();
        }
        let path = format!("media-nodes/{NODE}?{query}");
        assert_eq!(bench.status_of("DELETE", &path, Value::Null), status, "{busy} {query}");
        assert_eq!(bench.story(), story, "{busy} {query}");
        assert_eq!(bench.status_of("DELETE", "media-nodes/media_9", Value::Null), 404);
    }
}

#[test]
fn a_node_removed_now_ends_its_sessions_in_between() {
    let mut bench = Bench::with(config(|_| {}));
    let members = bench.busy_room();
    let pinned = json!({"customSessionId": "P", "mediaNode": {"id": NODE}});
    assert_eq!(bench.status_of("POST", "sessions", pinned), 200);
    bench.clear();
    let path = format!("media-nodes/{NODE}?deletion-strategy=now&wait=true");
    assert_eq!(bench.status_of("DELETE", &path, Value::Null), 204);
    let expected =
        around(&["running to terminating"], ended("mediaServerDisconnect"), &["terminating to terminated"]);
    assert_eq!(bench.story(), expected);
    for member in members {
        let told = bench.inbox.remove(&member.client).unwrap_or_default();
        let last = told.last().expect("told");
        let expected = json!({"connectionId": member.id, "reason": "mediaServerDisconnect"});
        assert_eq!((&last["method"], &last["params"]), (&json!("participantEvicted"), &expected));
    }
    assert!(bench.node().rooms.is_empty(), "the room was closed there");
    assert_eq!(bench.orders(), [NodeOrder::Disconnect { node: NODE.into() }]);
    assert!(bench.engine.session("P").is_none(), "it could live there only");
    assert_eq!(bench.engine.nodes().len(), 0);
}

#[test]
fn a_draining_node_goes_when_its_last_session_ends() {
    let mut bench = Bench::with(config(|_| {}));
    let members = bench.busy_room();
    let path = format!("media-nodes/{NODE}");
    let drain = || json!({"status": "waiting-idle-to-terminate"});
    let (status, node) = bench.ask_rest("PATCH", &path, drain());
    assert_eq!((status, &node["status"]), (200, &json!("waiting-idle-to-terminate")));
    assert_eq!(bench.status_of("PATCH", &path, drain()), 204);
    bench.session("T");
    let token = bench.token("T", Role::Publisher);
    let client = bench.connect();
    assert_eq!(bench.fail(client, "joinRoom", join_params("T", &token)), 204, "it takes no new ones");
    assert_eq!(bench.status_of("PATCH", &path, json!({"status": "running"})), 200);
    bench.call(client, "joinRoom", join_params("T", &token));
    bench.call(client, "leaveRoom", json!({}));
    assert_eq!(bench.status_of("PATCH", &path, drain()), 200);
    bench.clear();
    bench.call(members[0].client, "leaveRoom", json!({}));
    assert!(!bench.story().iter().any(|event| event.contains("terminating")));
    bench.call(members[1].client, "leaveRoom", json!({}));
    let story = bench.story();
    let expected = [
        "participantLeft disconnect",
        "sessionDestroyed lastParticipantLeft",
        "waiting-idle-to-terminate to terminating",
        "terminating to terminated",
    ];
    assert_eq!(story[story.len() - 4..], expected);
}

#[test]
fn patches_by_status() {
    let mut bench = Bench::with(config(|_| {}));
    let path = format!("media-nodes/{NODE}");
    for (body, status) in [
        (Value::Null, 400),
        (json!({}), 400),
        (json!({"status": 5}), 400),
        (json!({"status": "Running"}), 400),
        (json!([]), 400),
        (json!({"status": "launching"}), 400),
        (json!({"status": "canceled"}), 400),
        (json!({"status": "failed"}), 400),
        (json!({"status": "terminated"}), 400),
        (json!({"status": "running"}), 204),
    ] {
        let (answered, error) = bench.ask_rest("PATCH", &path, body.clone());
        assert_eq!(answered, status, "{body}");
        assert!(
            status == 204
                || body.is_array()
                || body.is_null()
                || error["message"].to_string().contains("status"),
            "{error}"
        );
    }
    assert_eq!(bench.story(), [""; 0]);
    assert_eq!(bench.status_of("PATCH", "media-nodes/media_9", json!({"status": "running"})), 404);
    // An empty node that shall drain is idle at once.
    let (status, node) = bench.ask_rest("PATCH", &path, json!({"status": "waiting-idle-to-terminate"}));
    assert_eq!((status, &node["status"], &node["connected"]), (200, &json!("terminated"), &json!(false)));
    let expected = [
        "running to waiting-idle-to-terminate",
        "waiting-idle-to-terminate to terminating",
        "terminating to terminated",
    ];
    assert_eq!(bench.story(), expected);
}

#[test]
fn a_launched_node_from_order_to_end() {
    let mut bench = launching(|cluster| cluster.joins = false);
    let body = json!({"uri": "ws://ignored", "instanceType": "large", "volumeSize": 20});
    let reply = bench.rest("POST", "media-nodes?wait=true", body);
    let request = LaunchRequest { instance_type: Some("large".into()), volume_size: Some(20) };
    let [NodeOrder::Launch { node, request: asked }] = &bench.orders[..] else { panic!("launches") };
    assert_eq!(*asked, request);
    let id = node.as_str().to_owned();
    let (_, node) = bench.ask_rest("GET", &format!("media-nodes/{id}"), Value::Null);
    assert_eq!(
        (&node["uri"], &node["environmentId"], &node["ip"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!(bench.bring_up(1), id);
    let (status, node) = bench.replied(reply).expect("answered");
    assert_eq!((status, &node["environmentId"], &node["ip"]), (200, &json!("i-1"), &json!("10.0.0.1")));
    bench.orders();
    let reply = bench.rest("DELETE", &format!("media-nodes/{id}?wait=true"), Value::Null);
    assert_eq!(bench.replied(reply), None, "the machine has to end first");
    let node = || id.as_str().into();
    let stop = || NodeOrder::Stop { node: node(), environment_id: "i-1".into() };
    assert_eq!(bench.orders(), [NodeOrder::Disconnect { node: node() }, stop()]);
    assert_eq!(bench.status_of("DELETE", &format!("media-nodes/{id}"), Value::Null), 200, "under way");
    bench.news(NodeNews::Stopped { node: node(), result: Err("no such zone".into()) });
    let (status, error) = bench.replied(reply).expect("answered");
    assert_eq!((status, &error["message"]), (502, &json!("no such zone")));
    bench.pass(60_000);
    assert_eq!(bench.orders(), [stop()], "tried again");
    bench.news(NodeNews::Stopped { node: node(), result: Ok(()) });
    let expected =
        ["- to launching", "launching to running", "running to terminating", "terminating to terminated"];
    assert_eq!(bench.story(), expected);
    assert!(bench.engine.nodes().is_empty());
}

#[test]
fn launches_that_fail_or_hang_end_in_failed() {
    let mut bench = launching(|_| {});
    let reply = bench.rest("POST", "media-nodes?wait=true", Value::Null);
    let id = bench.ordered();
    bench.news(NodeNews::LaunchFailed { node: id.as_str().into(), reason: "no capacity".into() });
    let (status, error) = bench.replied(reply).expect("answered");
    assert_eq!((status, &error["message"]), (502, &json!("no capacity")));

    let reply = bench.rest("POST", "media-nodes?wait=true", Value::Null);
    let id = bench.ordered();
    bench.pass(630_000);
    let (status, error) = bench.replied(reply).expect("answered");
    assert_eq!((status, &error["message"]), (502, &json!("the launch did not end in time")));
    bench.news(NodeNews::Launched { node: id.as_str().into(), machine: machine(2) });
    let stop =
        |number: u32| NodeOrder::Stop { node: id.as_str().into(), environment_id: format!("i-{number}") };
    assert_eq!(bench.orders(), [stop(2)], "what comes too late is ended");

    let reply = bench.rest("POST", "media-nodes?wait=true", Value::Null);
    let id = bench.ordered();
    let node = || id.as_str().into();
    bench.news(NodeNews::Launched { node: node(), machine: machine(3) });
    for attempt in 1..50 {
        bench.news(NodeNews::Unreachable { node: node(), attempt, reason: "refused".into() });
        bench.pass(1_000);
    }
    assert_eq!(bench.replied(reply), None, "a machine may take a while");
    bench.pass(11_000);
    let (status, error) = bench.replied(reply).expect("answered");
    assert_eq!((status, &error["message"]), (502, &json!("no connection in time: refused")));
    let orders = bench.orders();
    let ends = [
        NodeOrder::Disconnect { node: node() },
        NodeOrder::Stop { node: node(), environment_id: "i-3".into() },
    ];
    assert_eq!(orders[orders.len() - 2..], ends);
    assert_eq!(bench.story(), ["- to launching", "launching to failed"].repeat(3));
}

#[test]
fn a_canceled_launch_can_be_taken_back() {
    let mut bench = launching(|_| {});
    bench.rest("POST", "media-nodes", Value::Null);
    let id = bench.ordered();
    let path = format!("media-nodes/{id}");
    assert_eq!(bench.status_of("PATCH", &path, json!({"status": "canceled"})), 200);
    assert_eq!(bench.status_of("PATCH", &path, json!({"status": "running"})), 400);
    assert_eq!(bench.status_of("PATCH", &path, json!({"status": "launching"})), 200);
    assert_eq!(bench.status_of("DELETE", &path, Value::Null), 200, "canceled");
    let reply = bench.rest("DELETE", &format!("{path}?wait=true"), Value::Null);
    bench.news(NodeNews::Launched { node: id.as_str().into(), machine: machine(1) });
    let stop = NodeOrder::Stop { node: id.as_str().into(), environment_id: "i-1".into() };
    assert!(bench.orders().contains(&stop));
    bench.news(NodeNews::Stopped { node: id.as_str().into(), result: Ok(()) });
    assert_eq!(bench.replied(reply), Some((204, Value::Null)));
    let expected = [
        "- to launching",
        "launching to canceled",
        "canceled to launching",
        "launching to canceled",
        "canceled to terminating",
        "terminating to terminated",
    ];
    assert_eq!(bench.story(), expected);
}

#[test]
fn nodes_that_are_there_are_found() {
    let mut bench = Bench::with(config(|_| {}));
    assert_eq!(bench.status_of("PUT", "media-nodes", Value::Null), 405, "on premises without a script");
    let mut bench = launching(|_| {});
    bench.rest("POST", "media-nodes", Value::Null);
    bench.bring_up(1);
    bench.clear();
    let (one, two) = (bench.rest("PUT", "media-nodes", Value::Null), ReplyId(9));
    let request =
        RestRequest { method: "PUT".into(), path: vec!["media-nodes".into()], ..Default::default() };
    bench.input(Input::Rest { reply: two, request });
    assert_eq!(bench.orders(), [NodeOrder::Discover], "one search for both");
    bench.news(NodeNews::Discovered { result: Ok(vec![machine(1), machine(2), machine(3)]) });
    assert_eq!(bench.orders().len(), 2, "two are new");
    bench.start_node("media_i-2", "p2");
    assert_eq!(bench.replied(one), None);
    for attempt in 1..=6 {
        let news = NodeNews::Unreachable { node: "media_i-3".into(), attempt, reason: "refused".into() };
        bench.news(news);
    }
    for reply in [one, two] {
        let (status, list) = bench.replied(reply).expect("answered");
        assert_eq!((status, &list["numberOfElements"]), (200, &json!(1)));
        assert_eq!(list["content"][0]["id"], "media_i-2");
    }
    let reply = bench.rest("PUT", "media-nodes", Value::Null);
    bench.news(NodeNews::Discovered { result: Err("no rights".into()) });
    assert_eq!(bench.replied(reply).map(|(status, _)| status), Some(502));
}

#[test]
fn a_server_on_premises_starts_with_all_its_nodes_or_not_at_all() {
    let uris = || {
        ["ws://10.0.0.1:8888/kurento", "ws://10.0.0.2:8888/kurento"].map(|uri| uri.parse().expect("a URI"))
    };
    for reachable in [true, false] {
        let mut bench = Bench::without_node(config(|config| config.cluster.join_at_start = uris().to_vec()));
        bench.input(Input::Start);
        bench.start_node("media_10_0_0_1_8888", "p1");
        assert_eq!(bench.started, None);
        if reachable {
            bench.start_node("media_10_0_0_2_8888", "p2");
            assert_eq!(bench.started, Some(Ok(())));
            continue;
        }
        for attempt in 1..=6 {
            assert_eq!(bench.started, None);
            let node = "media_10_0_0_2_8888".into();
            bench.news(NodeNews::Unreachable { node, attempt, reason: "refused".into() });
        }
        let reason = "KMS_URIS: ws://10.0.0.2:8888/kurento cannot be reached: refused";
        assert_eq!(bench.started, Some(Err(reason.into())));
    }
}

#[test]
fn a_controller_that_comes_back_to_sessions_starts_without_a_node() {
    let uris = ["ws://10.0.0.1:8888/kurento", "ws://10.0.0.2:8888/kurento"];
    let uris = uris.map(|uri| uri.parse().expect("a URI"));
    let mut bench = Bench::without_node(config(|config| config.cluster.join_at_start = uris.to_vec()));
    bench.input(Input::Start);
    for (node, process) in [("media_10_0_0_1_8888", "p1"), ("media_10_0_0_2_8888", "p2")] {
        bench.start_node(node, process);
    }
    bench.room_of(1);
    let home = bench.engine.session("S").and_then(|session| session.place().cloned()).expect("placed").node;
    bench.crash(0);
    bench.reconnect_node(home.as_str());
    let lost = bench.nodes.keys().find(|node| node.as_str() != home.as_str()).expect("two nodes").clone();
    for attempt in 1..=6 {
        let node = lost.as_str().into();
        bench.news(NodeNews::Unreachable { node, attempt, reason: "refused".into() });
    }
    assert_eq!(bench.started, Some(Ok(())));
    assert!(bench.engine.session("S").is_some_and(|session| session.place().is_some()));
}

#[test]
fn a_server_that_launches_starts_with_the_right_number() {
    let mut bench = launching(|cluster| cluster.nodes_at_start = Some(3));
    bench.input(Input::Start);
    assert_eq!(bench.orders(), [NodeOrder::Discover]);
    bench.news(NodeNews::Discovered { result: Ok(vec![machine(1)]) });
    bench.start_node("media_i-1", "p1");
    assert_eq!(bench.orders().len(), 3, "one to connect to, two to launch");
    assert_eq!(bench.engine.nodes().len(), 3);

    let mut bench = launching(|cluster| cluster.nodes_at_start = Some(1));
    bench.input(Input::Start);
    bench.news(NodeNews::Discovered { result: Ok((1..=3).map(machine).collect()) });
    for number in 1..=3 {
        bench.start_node(&format!("media_i-{number}"), "p");
    }
    assert_eq!(bench.started, Some(Ok(())));
    let running = bench.engine.nodes().iter().filter(|node| node.takes_sessions()).count();
    assert_eq!(running, 1, "idle ones above the number go");

    let mut bench = launching(|cluster| (cluster.nodes_at_start, cluster.discovers) = (Some(1), false));
    bench.input(Input::Start);
    let id = bench.ordered();
    bench.news(NodeNews::LaunchFailed { node: id.as_str().into(), reason: "no".into() });
    assert_eq!(bench.started, Some(Ok(())), "the operator can still act");
}

fn scaling(max_nodes: u32) -> Option<Autoscaling> {
    let limits = autoscaler::Limits { max_nodes, min_nodes: 1, max_avg_load: 70.0, min_avg_load: 30.0 };
    Some(Autoscaling { limits, interval_ms: 10_000 })
}

#[test]
fn the_autoscaler_grows_and_shrinks_through_the_same_changes() {
    let mut bench = launching(|cluster| {
        (cluster.autoscaling, cluster.nodes_at_start, cluster.discovers) = (scaling(2), Some(1), false);
    });
    bench.input(Input::Start);
    let first = bench.bring_up(1);
    bench.clear();
    bench.session("S");
    let member = bench.join("S", Role::Publisher);
    bench.report(&first, 73.18);
    bench.clear();
    bench.pass(10_000);
    let event = bench.records[0].webhook_body();
    assert_eq!(event["mediaNodes"]["launch"]["newNodes"], 1);
    assert_eq!(event["system"]["status"]["runningNodes"][0]["load"], 73.18);
    assert_eq!((&event["clusterId"], &event["timestamp"]), (&json!(CLUSTER), &json!(bench.now)));
    assert_eq!(bench.story(), ["autoscaling", "- to launching"]);
    let second = bench.bring_up(2);
    bench.report(&first, 5.0);
    bench.report(&second, 1.0);
    bench.clear();
    bench.pass(10_000);
    assert_eq!(bench.story(), ["autoscaling", "running to terminating"], "the idle one goes");
    bench.news(NodeNews::Stopped { node: second.as_str().into(), result: Ok(()) });
    assert_eq!(bench.story(), ["terminating to terminated"]);
    bench.pass(30_000);
    assert_eq!(bench.story(), [""; 0], "no event when nothing changes");
    bench.report(&first, 95.0);
    bench.pass(10_000);
    let third = bench.bring_up(3);
    bench.report(&first, 4.0);
    // The least loaded one is the busy one.
    bench.report(&third, 9.0);
    bench.clear();
    bench.pass(10_000);
    assert_eq!(bench.story(), ["autoscaling", "running to waiting-idle-to-terminate"]);
    bench.call(member.client, "leaveRoom", json!({}));
    assert_eq!(bench.story().last().map(String::as_str), Some("waiting-idle-to-terminate to terminating"));
}

#[test]
fn on_premises_the_autoscaler_only_says_what_is_needed() {
    let mut bench = Bench::without_node(config(|config| config.cluster.autoscaling = scaling(5)));
    bench.input(Input::Start);
    bench.start_node(NODE, "p");
    bench.report(NODE, 100.0);
    bench.clear();
    for _ in 0..2 {
        bench.pass(10_000);
        assert_eq!(bench.records[0].fields["mediaNodes"]["launch"]["newNodes"], 1);
        assert_eq!(bench.story(), ["autoscaling"], "and says it again");
    }
    assert_eq!(bench.orders(), []);
}

#[test]
fn a_crash_with_and_without_removal() {
    for (total, first, last) in [
        (Some(3_000), &["nodeCrashed", "running to terminating"][..], &["terminating to terminated"][..]),
        (None, &["nodeCrashed"], &[]),
        (Some(10_000), &["nodeCrashed"], &[]),
    ] {
        let mut bench = Bench::with(config(|config| config.node_reconnection_ms = total));
        bench.busy_room();
        let lost_at = bench.now;
        bench.lose_node(NODE);
        bench.pass(2_999);
        assert_eq!(bench.story(), [""; 0], "silent");
        bench.pass(1);
        let crashed = bench.records[0].webhook_body();
        let expected = json!({
            "event": "nodeCrashed", "timestamp": lost_at + 3_000, "id": NODE, "environmentId": null,
            "ip": NODE, "uri": format!("ws://{NODE}:8888/kurento"), "nodeRole": "medianode", "clusterId": CLUSTER,
            "sessionIds": ["S"], "recordingIds": [], "broadcasts": [], "timeOfDisconnection": lost_at,
        });
        assert_eq!(crashed, expected);
        assert_eq!(bench.story(), around(first, ended("nodeCrashed"), last), "{total:?}");
        bench.pass(6_999);
        assert_eq!(bench.story(), [""; 0]);
        if total == Some(10_000) {
            bench.pass(1);
            assert_eq!(bench.story(), ["running to terminating", "terminating to terminated"]);
        }
        assert_eq!(bench.engine.nodes().is_empty(), total.is_some());
    }
}

#[test]
fn a_crashed_node_recovers_empty() {
    let mut bench = Bench::with(config(|config| config.node_reconnection_ms = Some(10_000)));
    bench.busy_room();
    bench.lose_node(NODE);
    assert_eq!(bench.status_of("GET", "health", Value::Null), 503);
    bench.pass(5_000);
    bench.clear();
    bench.reconnect_node(NODE);
    let expected = json!({
        "event": "nodeRecovered", "timestamp": bench.now, "id": NODE, "environmentId": null, "ip": NODE,
        "uri": format!("ws://{NODE}:8888/kurento"), "nodeRole": "medianode", "clusterId": CLUSTER,
    });
    assert_eq!(bench.records[0].webhook_body(), expected);
    assert_eq!(bench.story(), ["nodeRecovered"]);
    assert!(bench.node().rooms.is_empty());
    bench.pass(60_000);
    assert_eq!(bench.story(), [""; 0], "the timeout of the loss before does not count");
    assert_eq!(bench.status_of("GET", "health", Value::Null), 200);
}

#[test]
fn a_draining_node_that_crashes_is_gone() {
    let mut bench = Bench::with(config(|_| {}));
    bench.busy_room();
    let path = format!("media-nodes/{NODE}?deletion-strategy=when-no-sessions");
    assert_eq!(bench.status_of("DELETE", &path, Value::Null), 202);
    bench.lose_node(NODE);
    bench.clear();
    bench.pass(3_000);
    let last = ["waiting-idle-to-terminate to terminating", "terminating to terminated"];
    assert_eq!(bench.story(), around(&["nodeCrashed"], ended("nodeCrashed"), &last));
}

#[test]
fn a_node_with_another_name_keeps_its_sessions() {
    let mut bench = Bench::with(config(|_| {}));
    let members = bench.busy_room();
    // As after a restart: the session is known, its node comes under another name.
    let place = bench.engine.session("S").and_then(|session| session.place().cloned()).expect("placed");
    bench.lose_node(NODE);
    bench.engine.nodes.remove(&place.node);
    let node = bench.nodes.remove(NODE).expect("there");
    let (process, rooms) = (node.process.clone(), node.rooms.clone());
    bench.prompt = false;
    bench.start_named("media_new", super::harness::NodeModel { process, rooms, up: true });
    bench.prompt = true;
    bench.run_nodes();
    let moved = bench.engine.session("S").and_then(|session| session.place().cloned()).expect("placed");
    assert_eq!((moved.node.as_str(), &moved.room), ("media_new", &place.room));
    assert_eq!(bench.nodes["media_new"].rooms.len(), 1, "nothing was closed");
    assert!(bench.inbox.is_empty());
    bench.call(members[0].client, "leaveRoom", json!({}));
    bench.call(members[1].client, "leaveRoom", json!({}));
    assert!(bench.nodes["media_new"].rooms.is_empty());
}

#[test]
fn a_found_node_with_sessions_of_an_earlier_life_is_not_too_much() {
    let mut bench = launching(|cluster| cluster.nodes_at_start = Some(1));
    bench.input(Input::Start);
    bench.news(NodeNews::Discovered { result: Ok(Vec::new()) });
    let before = bench.bring_up(1);
    bench.room_of(1);
    bench.crash(0);
    bench.news(NodeNews::Discovered { result: Ok(vec![machine(1), machine(2)]) });
    bench.start_node("media_i-2", "process-2");
    let model = bench.nodes.remove(before.as_str()).expect("it runs");
    bench.start_named("media_i-1", super::harness::NodeModel { up: true, ..model });
    let place = bench.engine.session("S").and_then(|session| session.place().cloned()).expect("placed");
    assert_eq!(place.node.as_str(), "media_i-1");
    let statuses: Vec<_> = bench.engine.nodes().iter().map(|node| node.status().as_str()).collect();
    assert_eq!(statuses, ["running", "terminating"], "the idle one goes");
}

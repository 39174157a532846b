//! Three media nodes in three network namespaces under one controller: they join, sessions spread, one drains, one is
//! killed, one is cut off for 2 s and for 30 s, the controller is killed. Needs root and `ip`.
//!
//! ```text
//! weir controller ── veth ── namespace 1: weir node 10.251.77.2:8888
//!  (127.0.0.1)    ── veth ── namespace 2: weir node 10.251.77.6:8888
//!                 ── veth ── namespace 3: weir node 10.251.77.10:8888
//! ```

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{PATIENCE, Participant, Weir, directory, now, pause, start, until, within};
use serde_json::{Value, json};

const SECRET: &str = "cluster-netns-secret";

/// A namespace with one end of a link, and a media node in it.
struct Space {
    name: String,
    link: String,
    address: String,
    /// Of the other end of the link.
    outside: String,
    node: Option<Child>,
    id: String,
}

fn ip(arguments: &str) -> bool {
    let done = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    done.is_ok_and(|status| status.success())
}

impl Space {
    fn new(number: u8) -> Self {
        let pid = std::process::id();
        let space = Self {
            name: format!("cluster-{pid}-{number}"),
            link: format!("cl{}n{number}", pid % 1_000_000),
            address: format!("10.251.77.{}", 4 * number - 2),
            outside: format!("10.251.77.{}", 4 * number - 3),
            node: None,
            id: String::new(),
        };
        let Self { name, link, address, outside, .. } = &space;
        for command in [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name eth0 netns {name}"),
            format!("addr add {outside}/30 dev {link}"),
            format!("link set {link} up"),
            format!("-n {name} addr add {address}/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} link set lo up"),
        ] {
            assert!(ip(&command), "ip {command}");
        }
        space
    }

    fn start_node(&mut self, data: &Path) {
        let node = Command::new("ip")
            .args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_weir"), "node", "--cores", "1"])
            .args(["--listen", &format!("{}:8888", self.address), "--media-addresses", &self.address])
            .args(["--media-port", "31000"])
            .env("WEIR_CLUSTER_SECRET", SECRET)
            .env("WEIR_DATA_DIR", data)
            .stdout(Stdio::null())
            .spawn();
        self.node = Some(node.unwrap());
    }

    /// `ip netns exec` becomes the node itself, so this is SIGKILL to the node.
    fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }

    fn cut_off(&self, yes: bool) {
        assert!(ip(&format!("link set {} {}", self.link, if yes { "down" } else { "up" })));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.kill_node();
        ip(&format!("link del {}", self.link));
        ip(&format!("netns del {}", self.name));
    }
}

/// Events of the CDR file so far, as (name, properties).
fn events(dir: &Path) -> Vec<(String, Value)> {
    let files = std::fs::read_dir(dir.join("cdr")).unwrap().flatten();
    let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.flat_map(|line| line.as_object().unwrap().clone()).collect()
}

/// Events about a node since the `from`th event of all, status changes by their new status.
fn story(dir: &Path, from: usize, id: &str) -> Vec<String> {
    let about = events(dir).into_iter().skip(from).filter(|(_, event)| event["id"] == id);
    about.map(|(name, event)| event["newStatus"].as_str().map_or(name, str::to_owned)).collect()
}

fn is_possible() -> bool {
    let probe = format!("cluster-{}-probe", std::process::id());
    let possible = ip(&format!("netns add {probe}"));
    ip(&format!("netns del {probe}"));
    possible
}

#[test]
fn nodes_in_namespaces_join_drain_crash_and_come_back() {
    if !is_possible() {
        eprintln!("SKIPPED: cluster_netns needs root and the command `ip`");
        return;
    }
    let dir = directory("netns");
    std::fs::create_dir_all(dir.join("cdr")).unwrap();
    let cdr = dir.join("cdr").display().to_string();
    let vars = [("WEIR_CLUSTER_SECRET", SECRET), ("OPENVIDU_CDR", "true"), ("OPENVIDU_CDR_PATH", &cdr)];
    let mut weir = start("netns", &["controller"], &vars);
    let mut spaces: Vec<Space> = (1..=3).map(Space::new).collect();
    for space in &mut spaces {
        space.start_node(&dir);
    }
    until("the controller", || common::get(weir.port, "/openvidu/api/health"));
    join_nodes(&weir, &mut spaces);
    let mut people = spread(&weir, &spaces);
    drain(&weir, &spaces[0], &mut people);
    crash(&weir, &mut spaces, &mut people);
    cut_off_shortly(&weir, &spaces[2], &people);
    cut_off_long(&weir, &spaces[2], &mut people);
    lose_the_controller(&mut weir, &spaces[2], &vars);
}

/// A controller that is killed comes back to its node, whose room was open all the time.
fn lose_the_controller(weir: &mut Weir, space: &Space, vars: &[(&str, &str)]) {
    let _kept = weir.join("kept").unwrap();
    let opened = weir.done("GET", "sessions/kept", Value::Null)["createdAt"].clone();
    weir.kill_and_start(&["controller"], vars);
    until("health", || common::healthy(weir.port));
    let nodes = weir.nodes();
    assert_eq!(
        (nodes.len(), &nodes[0]["id"]),
        (1, &json!(space.id)),
        "it was added by REST and is joined again"
    );
    let kept = weir.done("GET", "sessions/kept", Value::Null);
    assert_eq!((&kept["createdAt"], &kept["mediaNodeId"]), (&opened, &json!(space.id)));
    assert_eq!(kept["connections"]["numberOfElements"], 1, "who was there still is");
}

fn join_nodes(weir: &Weir, spaces: &mut [Space]) {
    for space in spaces.iter_mut() {
        let uri = format!("ws://{}:8888/kurento", space.address);
        // The node may need a moment to listen.
        let node = until("a node", || {
            let (status, node) = weir.rest("POST", "media-nodes?wait=true", json!({"uri": uri}));
            assert!(status == 200 || status == 404, "{status} {node}");
            (status == 200).then_some(node)
        });
        assert_eq!((&node["status"], &node["connected"]), (&json!("running"), &json!(true)));
        assert_eq!((&node["ip"], &node["uri"]), (&json!(space.address), &json!(uri)));
        space.id = node["id"].as_str().unwrap().to_owned();
        let (status, _) = weir.rest("POST", "media-nodes", json!({"uri": uri}));
        assert_eq!(status, 409, "it is there");
    }
    assert_eq!(weir.count("running"), 3);
    assert!(common::healthy(weir.port).is_some());
}

/// Sessions with their participant and node.
type People = Vec<(String, Participant, String)>;

fn spread(weir: &Weir, spaces: &[Space]) -> People {
    let mut people = People::new();
    for number in 0..9 {
        let session = format!("spread-{number}");
        let participant = weir.join(&session).unwrap();
        let node = weir.node_of(&session);
        people.push((session, participant, node));
    }
    for space in spaces {
        assert_eq!(people.iter().filter(|(.., node)| *node == space.id).count(), 3, "three each");
    }
    people
}

/// Those who are on a node, taken out.
fn take(people: &mut People, id: &str) -> People {
    people.extract_if(.., |(.., node)| node == id).collect()
}

fn drain(weir: &Weir, space: &Space, people: &mut People) {
    let path = format!("media-nodes/{}", space.id);
    assert_eq!(weir.rest("DELETE", &path, Value::Null).0, 409, "busy");
    let (status, _) = weir.rest("DELETE", &format!("{path}?deletion-strategy=when-no-sessions"), Value::Null);
    assert_eq!(status, 202);
    assert_eq!(weir.done("GET", &path, Value::Null)["status"], "waiting-idle-to-terminate");
    let mut there = take(people, &space.id);
    // A second one may join where a call runs; a new session goes elsewhere.
    let (session, ..) = &there[0];
    let second = weir.join(session).unwrap();
    let elsewhere = weir.join("elsewhere").unwrap();
    assert_ne!(weir.node_of("elsewhere"), space.id);
    elsewhere.leave();
    second.leave();
    let (_, last, _) = there.pop().unwrap();
    for (_, participant, _) in there {
        participant.leave();
    }
    assert_eq!(weir.done("GET", &path, Value::Null)["status"], "waiting-idle-to-terminate");
    last.leave();
    until("the end of the drained node", || (weir.rest("GET", &path, Value::Null).0 == 404).then_some(()));
    let told = until("events", || Some(story(&weir.dir, 0, &space.id)).filter(|told| told.len() == 5));
    let expected = ["launching", "running", "waiting-idle-to-terminate", "terminating", "terminated"];
    assert_eq!(told, expected);
    assert_eq!(weir.count("running"), 2);
}

fn crash(weir: &Weir, spaces: &mut [Space], people: &mut People) {
    let id = spaces[1].id.clone();
    let mut there = take(people, &id);
    assert_eq!(there.len(), 3);
    let from = events(&weir.dir).len();
    let killed = now();
    spaces[1].kill_node();
    let crashed = |dir: &Path| story(dir, from, &id).contains(&"nodeCrashed".to_owned()).then_some(());
    within(Duration::from_secs(4), "nodeCrashed", || crashed(&weir.dir));
    let after = killed.elapsed();
    assert!(after >= Duration::from_millis(2_900), "not before 3 s: {after:?}");
    eprintln!("nodeCrashed {after:?} after SIGKILL");
    for (session, participant, _) in &mut there {
        let told = participant.hears("participantEvicted", PATIENCE).expect("told");
        assert_eq!(told["reason"], "nodeCrashed", "{session}");
    }
    let (session, ..) = &there[0];
    let again = weir.join(session).unwrap();
    assert_eq!(weir.node_of(session), spaces[2].id, "the same session, elsewhere");
    again.leave();
    let names: Vec<String> = events(&weir.dir).into_iter().skip(from).map(|(name, _)| name).collect();
    assert_eq!(names[0], "nodeCrashed");
    assert_eq!(names.iter().filter(|name| *name == "nodeCrashed").count(), 1);
    let (status, _) = weir.rest("GET", "health", Value::Null);
    assert_eq!(status, 409, "unstable");
    let (status, _) = weir.rest("DELETE", &format!("media-nodes/{id}?wait=true"), Value::Null);
    assert_eq!(status, 204);
    assert!(common::healthy(weir.port).is_some());
}

fn cut_off_shortly(weir: &Weir, space: &Space, people: &People) {
    let from = events(&weir.dir).len();
    space.cut_off(true);
    pause(Duration::from_secs(2));
    space.cut_off(false);
    pause(Duration::from_secs(6));
    assert_eq!(story(&weir.dir, from, &space.id), [""; 0], "nobody hears of it");
    for (session, ..) in people {
        assert_eq!(weir.node_of(session), space.id);
    }
    weir.join("after-two-seconds").unwrap().leave();
}

fn cut_off_long(weir: &Weir, space: &Space, people: &mut People) {
    let from = events(&weir.dir).len();
    let begun = now();
    space.cut_off(true);
    until("nodeCrashed", || {
        story(&weir.dir, from, &space.id).contains(&"nodeCrashed".to_owned()).then_some(())
    });
    eprintln!("nodeCrashed {:?} after the link went down", begun.elapsed());
    for (_, participant, _) in people.iter_mut() {
        let told = participant.hears("participantEvicted", PATIENCE).expect("told");
        assert_eq!(told["reason"], "nodeCrashed");
    }
    let refused = weir.join("nowhere").err().expect("no node is left");
    assert_eq!(refused["code"], 204);
    pause(Duration::from_secs(30).saturating_sub(begun.elapsed()));
    space.cut_off(false);
    until("nodeRecovered", || {
        (story(&weir.dir, from, &space.id) == ["nodeCrashed", "nodeRecovered"]).then_some(())
    });
    weir.join("nowhere").unwrap();
    assert_eq!(weir.node_of("nowhere"), space.id);
}

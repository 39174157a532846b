//! One machine that grows and shrinks: `weir` with its process launcher and the autoscaler on, load from a flood of datagrams
//! on the media port, events at a webhook.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod common;

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{children, start, until};
use serde_json::{Value, json};

/// First of the UDP ports of the nodes; each takes one.
const MEDIA_PORT: u16 = 31_500;

/// A webhook endpoint that keeps what it is sent.
fn webhook() -> (u16, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = heard.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            // Connections are kept open and used again.
            while let Some(body) = read_request(&mut reader) {
                kept.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                let _ = reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    (port, heard)
}

fn read_request(reader: &mut BufReader<std::net::TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            return Some(body);
        }
    }
}

/// Keeps a core busy with datagrams that belong to nobody, until told to stop.
fn flood(port: u16) -> (Arc<AtomicBool>, std::thread::JoinHandle<()>) {
    let go_on = Arc::new(AtomicBool::new(true));
    let flag = go_on.clone();
    let flooding = std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let datagram = [0x80; 1_000];
        while flag.load(Ordering::Relaxed) {
            let _ = socket.send_to(&datagram, ("127.0.0.1", port));
        }
    });
    (go_on, flooding)
}

#[test]
fn one_machine_grows_under_load_and_shrinks_after_it() {
    let (webhook_port, heard) = webhook();
    let endpoint = format!("http://127.0.0.1:{webhook_port}/hook");
    let vars = [
        ("OPENVIDU_PRO_CLUSTER_ID", "grows"),
        ("OPENVIDU_PRO_CLUSTER_AUTOSCALING", "true"),
        ("OPENVIDU_PRO_CLUSTER_AUTOSCALING_INTERVAL", "1"),
        ("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_NODES", "2"),
        ("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD", "5"),
        ("OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_LOAD", "2"),
        ("OPENVIDU_WEBHOOK", "true"),
        ("OPENVIDU_WEBHOOK_ENDPOINT", &endpoint),
        ("OPENVIDU_WEBHOOK_EVENTS", "[\"autoscaling\",\"mediaNodeStatusChanged\"]"),
    ];
    let port = MEDIA_PORT.to_string();
    let flags = ["--media-port", &port, "--media-addresses", "127.0.0.1", "--cores", "1"];
    let weir = start("grows", &flags, &vars);
    until("health", || common::healthy(weir.port));
    let first = weir.nodes();
    assert_eq!(first.len(), 1, "as many as the least number");
    assert_eq!(children(weir.process.id()).len(), 1);

    let (go_on, flooding) = flood(MEDIA_PORT);
    until("two nodes", || (weir.count("running") == 2).then_some(()));
    assert_eq!(children(weir.process.id()).len(), 2);
    let participant = weir.join("a").unwrap();
    assert_ne!(json!(weir.node_of("a")), first[0]["id"], "the new node has no load");
    participant.leave();
    go_on.store(false, Ordering::Relaxed);
    flooding.join().unwrap();

    until("one node", || (weir.nodes().len() == 1).then_some(()));
    until("its process is gone", || (children(weir.process.id()).len() == 1).then_some(()));
    let story = until("the last event", || {
        let heard = heard.lock().unwrap().clone();
        (heard.last()?["newStatus"] == "terminated").then_some(heard)
    });
    check(&story);
}

/// The first node, growth, shrinking: each change of the number is told before it is carried out. A node that was busy a
/// moment ago may have drained first, and that may have been taken back.
fn check(story: &[Value]) {
    let told = |event: &Value| event["newStatus"].as_str().unwrap_or("autoscaling").to_owned();
    let names: Vec<String> = story.iter().map(told).collect();
    assert_eq!(names[..5], ["launching", "running", "autoscaling", "launching", "running"], "{names:?}");
    assert!(story.iter().all(|event| event["clusterId"] == "grows"));
    let growth = &story[2];
    assert_eq!(growth["mediaNodes"]["launch"]["newNodes"], 1);
    assert!(growth["system"]["status"]["avgLoad"].as_f64().unwrap() > 5.0, "{growth}");
    assert_eq!(growth["system"]["config"]["maxNodes"], json!(2));
    let shrinks = story.iter().filter(|event| event["mediaNodes"]["terminate"]["total"] == 1);
    assert!(shrinks.count() >= 1);
    assert_eq!(names[names.len() - 2..], ["terminating", "terminated"]);
}

#[test]
fn a_server_without_its_nodes_does_not_start() {
    for (uris, part) in [
        ("[\"ws://127.0.0.1:1/kurento\"]", "KMS_URIS: ws://127.0.0.1:1/kurento cannot be reached"),
        ("[\"wss://127.0.0.1:1/kurento\"]", "KMS_URIS: wss://127.0.0.1:1/kurento"),
    ] {
        let dir = common::directory("no-nodes");
        let mut command = common::command(&dir);
        let refused =
            command.args(["controller", "--listen", "127.0.0.1:0"]).env("KMS_URIS", uris).output().unwrap();
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(text.contains(part), "{text}");
        let _ = std::fs::remove_dir_all(dir);
    }
}

#[test]
fn scripts_that_are_not_there_are_named_at_the_start() {
    let dir = common::directory("no-scripts");
    let mut command = common::command(&dir);
    let vars = [("OPENVIDU_PRO_CLUSTER_ENVIRONMENT", "aws"), ("OPENVIDU_PRO_CLUSTER_PATH", "/no/such/place")];
    let refused = command.args(["controller", "--listen", "127.0.0.1:0"]).envs(vars).output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("/no/such/place/aws/openvidu_launch_kms.sh"), "{text}");
    let _ = std::fs::remove_dir_all(dir);
}

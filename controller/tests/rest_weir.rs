//! The `weir` binary as an operator meets it: start-up lines, health, a media node that dies, the end.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod common;

use std::io::Read as _;
use std::process::Output;

use common::{Weir, children, command, directory, get, healthy, kill, lives, until};
use rustix::process::Signal;
use serde_json::{Value, json};

fn start(name: &str) -> Weir {
    let arguments =
        ["--media-port", "0", "--media-addresses", "127.0.0.1", "--reactor", "mmsg", "--cores", "2"];
    common::start(name, &arguments, &[])
}

#[test]
fn one_command_serves_survives_its_media_node_and_ends_cleanly() {
    let mut weir = start("life");
    until("health", || healthy(weir.port));
    let page = get(weir.port, "/").unwrap();
    assert!(page.0 == 200 && page.1.contains("<title>"), "{page:?}");
    let first = children(weir.process.id());
    assert_eq!(first.len(), 1, "one media node");

    kill(first[0], Signal::KILL);
    let second = until("another media node", || {
        let now = children(weir.process.id());
        (now.len() == 1 && now != first).then(|| now[0])
    });
    until("health again", || healthy(weir.port));

    kill(weir.process.id() as i32, Signal::TERM);
    let status = until("the end", || weir.process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    assert!(!lives(second), "no media node is left");
    let mut lines = String::new();
    weir.process.stdout.take().unwrap().read_to_string(&mut lines).unwrap();
    assert!(lines.lines().count() <= 10, "{lines}");
    for part in [&format!("page      http://localhost:{}/", weir.port), "secret    MY_SECRET", "Ctrl-C"] {
        assert!(lines.contains(part), "{part} in {lines}");
    }
    assert!(lines.contains("media     mmsg on 2 cores of this machine"), "{lines}");
}

/// As in `weir | head -1`.
#[test]
fn nobody_need_read_the_start_up_lines() {
    let mut weir = start("pipe");
    drop(weir.process.stdout.take());
    until("health", || healthy(weir.port));
    until("the media node's line would be out", || {
        weir.nodes().iter().any(|node| node["connected"] == true).then_some(())
    });
    common::pause(std::time::Duration::from_millis(300));
    kill(weir.process.id() as i32, Signal::TERM);
    let status = until("the end", || weir.process.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_killed_parent_leaves_no_child() {
    let weir = start("orphan");
    until("health", || healthy(weir.port));
    let child = children(weir.process.id())[0];
    kill(weir.process.id() as i32, Signal::KILL);
    until("the child's end", || (!lives(child)).then_some(()));
}

fn run(name: &str, arguments: &[&str], vars: &[(&str, &str)]) -> Output {
    command(&directory(name)).args(arguments).envs(vars.iter().copied()).output().unwrap()
}

/// What was accepted is kept and wins over the environment, so a value the next start fails on would be the last one.
#[test]
fn a_restart_into_what_cannot_start_is_refused() {
    let weir = start("restart-refused");
    until("health", || healthy(weir.port));
    for (body, part) in [
        (json!({"OPENVIDU_CDR": true, "OPENVIDU_CDR_PATH": "/proc/nowhere"}), "OPENVIDU_CDR_PATH"),
        (
            json!({"OPENVIDU_PRO_CLUSTER_ENVIRONMENT": "aws", "OPENVIDU_PRO_CLUSTER_PATH": "/no/such/place"}),
            "OPENVIDU_PRO_CLUSTER_ENVIRONMENT",
        ),
        (json!({"KMS_URIS": ["wss://127.0.0.1/"]}), "KMS_URIS"),
    ] {
        let (status, answer) = weir.rest("POST", "restart", body);
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(part), "{status} {answer}");
    }
    assert!(!weir.dir.join("restart.json").exists());
    assert_eq!(weir.rest("GET", "restart", Value::Null).0, 403, "a known path, another method");
    assert!(healthy(weir.port).is_some());
}

#[test]
fn a_bad_configuration_is_refused_with_all_its_errors() {
    let vars = [("OPENVIDU_CDR", "yes"), ("WEIR_REACTOR", "epoll")];
    let refused = run("bad", &["--listen", "0.0.0.0:1"], &vars);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    for part in ["OPENVIDU_SECRET = MY_SECRET", "OPENVIDU_CDR = yes", "WEIR_REACTOR = epoll"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_configuration_is_printed_with_origins() {
    let vars = [("OPENVIDU_SECRET", "topsecret"), ("OPENVIDU_NOPE", "1")];
    let printed = run("check", &["config", "check", "--listen", "127.0.0.1:7"], &vars);
    let (out, err) = (String::from_utf8(printed.stdout).unwrap(), String::from_utf8(printed.stderr).unwrap());
    assert_eq!(printed.status.code(), Some(0), "{err}");
    assert!(
        out.contains("WEIR_LISTEN=127.0.0.1:7  (flag)\n")
            && out.contains("OPENVIDU_SECRET=****  (environment)\n")
    );
    assert!(!out.contains("topsecret") && err.contains("OPENVIDU_NOPE: ignored"), "{err}");
}

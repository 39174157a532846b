//! Media nodes that scripts launch, find and drop: each is a process at a loopback address of its own, as a cloud would give a
//! machine. They outlive a controller that is killed, and the next one finds them.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use common::{PATIENCE, Weir, start, until, within};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The scripts, and what they keep: a directory for each node with its process id and address.
struct Provider(PathBuf);

impl Provider {
    fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("weir-provider-{}", std::process::id()));
        let provider = Self(directory.join("local"));
        std::fs::create_dir_all(&provider.0).unwrap();
        // Addresses of 127.0.0.0/8 that no other run of this test uses.
        let net = format!("127.77.{}", std::process::id() % 250 + 1);
        let program = env!("CARGO_BIN_EXE_weir");
        provider.script(
            "openvidu_launch_kms.sh",
            &format!(
                r#"n=1; while ! mkdir node-$n 2>/dev/null; do n=$((n+1)); done
                {program} node --listen {net}.$n:8888 --media-addresses {net}.$n --media-port 31700 --cores 1 >/dev/null 2>&1 &
                echo $! > node-$n/pid; echo {net}.$n > node-$n/ip
                echo "{{\"id\": \"node-$n\", \"ip\": \"{net}.$n\"}}""#
            ),
        );
        provider.script(
            "openvidu_drop.sh",
            r#"pid=$(cat $1/pid) || exit 1
            kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done; rm -r $1"#,
        );
        provider.script(
            "openvidu_autodiscover.sh",
            r#"list=""; for n in node-*; do
                kill -0 $(cat $n/pid) 2>/dev/null && list="$list,{\"id\": \"$n\", \"ip\": \"$(cat $n/ip)\"}"
            done; echo "[${list#,}]""#,
        );
        provider
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.0.join(name);
        std::fs::write(&path, format!("#!/bin/sh\ncd \"$(dirname \"$0\")\"\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Names of nodes whose process lives.
    fn alive(&self) -> Vec<String> {
        let nodes = std::fs::read_dir(&self.0).unwrap().flatten().filter(|entry| entry.path().is_dir());
        let alive = nodes.filter(|entry| pid(&entry.path()).is_some_and(common::lives));
        let mut names: Vec<String> =
            alive.map(|entry| entry.file_name().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

fn pid(node: &Path) -> Option<i32> {
    std::fs::read_to_string(node.join("pid")).ok()?.trim().parse().ok()
}

impl Drop for Provider {
    fn drop(&mut self) {
        for name in self.alive() {
            if let Some(pid) = pid(&self.0.join(name)) {
                common::kill(pid, Signal::KILL);
            }
        }
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn environment_of(weir: &Weir, node: &str) -> String {
    let node = weir.done("GET", &format!("media-nodes/{node}"), Value::Null);
    node["environmentId"].as_str().unwrap().to_owned()
}

#[test]
fn scripts_launch_find_and_drop_nodes() {
    let provider = Provider::new();
    let path = provider.0.parent().unwrap().display().to_string();
    let vars = [
        ("PATH", "/usr/bin:/bin"),
        ("WEIR_CLUSTER_SECRET", "cluster-script-secret"),
        ("OPENVIDU_PRO_CLUSTER_ENVIRONMENT", "local"),
        ("OPENVIDU_PRO_CLUSTER_MODE", "auto"),
        ("OPENVIDU_PRO_CLUSTER_PATH", &path),
        ("OPENVIDU_PRO_CLUSTER_MEDIA_NODES", "2"),
    ];
    let mut weir = start("script", &["controller"], &vars);
    until("the controller", || common::get(weir.port, "/openvidu/api/health"));
    until("two nodes", || (weir.count("running") == 2).then_some(()));
    assert_eq!(provider.alive(), ["node-1", "node-2"]);

    let third = weir.done("POST", "media-nodes?wait=true", json!({"instanceType": "large"}));
    assert_eq!((&third["status"], &third["environmentId"]), (&json!("running"), &json!("node-3")));
    weir.join("s").unwrap().leave();
    let _stays = weir.join("stays").unwrap();
    let home = environment_of(&weir, &weir.node_of("stays"));

    weir.kill_and_start(&["controller"], &vars);
    assert_eq!(provider.alive().len(), 3, "nodes outlive their controller");
    until("the controller", || common::get(weir.port, "/openvidu/api/health"));
    until("two of the three", || {
        let nodes = weir.nodes();
        (nodes.len() == 2 && nodes.iter().all(|node| node["status"] == "running")).then_some(())
    });
    within(PATIENCE, "one was dropped", || (provider.alive().len() == 2).then_some(()));
    // Its node has another id now, and was not the one to go.
    assert_eq!(environment_of(&weir, &weir.node_of("stays")), home);
    let found = weir.done("PUT", "media-nodes", Value::Null);
    assert_eq!(found["numberOfElements"], 0, "all are known: {found}");

    let node = weir.nodes().remove(0);
    let path = format!("media-nodes/{}?wait=true&deletion-strategy=now", node["id"].as_str().unwrap());
    assert_eq!(weir.rest("DELETE", &path, Value::Null).0, 204);
    let left = provider.alive();
    assert!(left.len() == 1 && json!(left[0]) != node["environmentId"], "{left:?} {node}");
}

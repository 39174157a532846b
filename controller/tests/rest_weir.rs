//! The `weir` binary as an operator meets it: start-up lines, health, a media node that dies, the end.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Long enough for a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Weir {
    process: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn command(dir: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(std::env::temp_dir()).env_clear().env("WEIR_DATA_DIR", dir);
    command
}

fn start(name: &str) -> Weir {
    let dir = std::env::temp_dir().join(format!("weir-bin-{name}-{}", std::process::id()));
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = command(&dir)
        .args([
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--media-port",
            "0",
            "--media-addresses",
            "127.0.0.1",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    Weir { process, port, dir }
}

/// Status and body of a GET; `None` while nobody listens.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // OPENVIDUAPP:MY_SECRET
    let auth = "Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU";
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {auth}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Waits until `ready` gives a value.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let step = Duration::from_millis(50);
    for _ in 0..(PATIENCE.as_millis() / step.as_millis()) {
        if let Some(value) = ready() {
            return value;
        }
        pause(step);
    }
    panic!("not within {PATIENCE:?}: {what}");
}

/// Blocks for a while; the lint is for the product.
#[expect(clippy::disallowed_methods, reason = "a test may wait")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn healthy(port: u16) -> Option<()> {
    get(port, "/openvidu/api/health").filter(|(status, _)| *status == 200).map(drop)
}

/// Process ids of the children that are not zombies.
fn children(parent: u32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some((_, rest)) = stat.rsplit_once(") ") else { return false };
        let mut fields = rest.split(' ');
        fields.next() != Some("Z") && fields.next() == Some(parent.to_string().as_str())
    };
    pids.filter(is_child).collect()
}

fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
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
    for part in [&format!("http://localhost:{}/", weir.port), "MY_SECRET", "on ", "Ctrl-C"] {
        assert!(lines.contains(part), "{part} in {lines}");
    }
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
    let dir = std::env::temp_dir().join(format!("weir-bin-{name}-{}", std::process::id()));
    command(&dir).args(arguments).envs(vars.iter().copied()).output().unwrap()
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

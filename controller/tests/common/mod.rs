//! What tests of the `weir` binary share: a server in a directory of its own, REST requests, participants, processes.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

/// Long enough for a debug build on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A server, ended and cleaned up when dropped.
pub(crate) struct Weir {
    pub(crate) process: Child,
    pub(crate) port: u16,
    pub(crate) dir: PathBuf,
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(std::env::temp_dir()).env_clear().env("WEIR_DATA_DIR", dir);
    command
}

/// A directory for this test of this process; made when the server starts.
pub(crate) fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("weir-bin-{name}-{}", std::process::id()))
}

pub(crate) fn start(name: &str, arguments: &[&str], vars: &[(&str, &str)]) -> Weir {
    let dir = directory(name);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let process = spawn(&dir, port, arguments, vars);
    Weir { process, port, dir }
}

fn spawn(dir: &Path, port: u16, arguments: &[&str], vars: &[(&str, &str)]) -> Child {
    command(dir)
        .args(arguments)
        .args(["--listen", &format!("127.0.0.1:{port}")])
        .envs(vars.iter().copied())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Status and body of a request; `None` while nobody listens.
pub(crate) fn request(port: u16, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    // OPENVIDUAPP:MY_SECRET
    let auth = "Basic T1BFTlZJRFVBUFA6TVlfU0VDUkVU";
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {auth}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text.split_once("\r\n\r\n")?.1.to_owned()))
}

pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    request(port, "GET", path, "")
}

impl Weir {
    /// Kills the server without a word and starts it again, at the same port and with the same data.
    pub(crate) fn kill_and_start(&mut self, arguments: &[&str], vars: &[(&str, &str)]) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(&self.dir, self.port, arguments, vars);
    }

    /// A request of the REST API; `Null` for an empty body, both ways.
    pub(crate) fn rest(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = request(self.port, method, &format!("/openvidu/api/{path}"), &text);
        let (status, body) = answer.unwrap_or_else(|| panic!("no answer to {method} {path}"));
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// A request that succeeds.
    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.rest(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// The media nodes by id.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        self.done("GET", "media-nodes", Value::Null)["content"].as_array().unwrap().clone()
    }

    /// How many nodes are in a status.
    pub(crate) fn count(&self, status: &str) -> usize {
        self.nodes().iter().filter(|node| node["status"] == status).count()
    }

    /// Creates a session and joins it; the answer is an error of the join.
    pub(crate) fn join(&self, session: &str) -> Result<Participant, Value> {
        let body = json!({"customSessionId": session});
        let (status, answer) = self.rest("POST", "sessions", body);
        assert!(status == 200 || status == 409, "{answer}");
        let connection = self.done("POST", &format!("sessions/{session}/connection"), json!({}));
        Participant::join(self.port, session, connection["token"].as_str().unwrap())
    }

    /// The node a session lives on.
    pub(crate) fn node_of(&self, session: &str) -> String {
        let session = self.done("GET", &format!("sessions/{session}"), Value::Null);
        session["mediaNodeId"].as_str().unwrap_or_default().to_owned()
    }
}

/// Somebody who joined: a WebSocket that speaks JSON-RPC.
pub(crate) struct Participant {
    socket: WebSocket<TcpStream>,
    next_id: u64,
    /// Notifications that were not asked for yet.
    heard: Vec<Value>,
}

impl Participant {
    pub(crate) fn join(port: u16, session: &str, token: &str) -> Result<Self, Value> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = client(format!("ws://127.0.0.1:{port}/openvidu"), stream).unwrap();
        let mut participant = Self { socket, next_id: 1, heard: Vec::new() };
        let params = json!({"token": token, "session": session, "platform": "test", "metadata": "", "secret": "",
                            "recorder": false, "stt": false});
        participant.call("joinRoom", params)?;
        Ok(participant)
    }

    /// Result or error of a request.
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        let id = self.next_id;
        self.next_id += 1;
        let text = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id}).to_string();
        self.socket.send(Message::text(text)).unwrap();
        loop {
            let message = self.read().expect("an answer comes");
            if message["id"] == id {
                return message.get("result").cloned().ok_or_else(|| message["error"].clone());
            }
            self.heard.push(message);
        }
    }

    pub(crate) fn leave(mut self) {
        self.call("leaveRoom", json!({})).unwrap();
    }

    /// Params of the next notification of this method that comes within `time`.
    pub(crate) fn hears(&mut self, method: &str, time: Duration) -> Option<Value> {
        let deadline = now() + time;
        loop {
            if let Some(at) = self.heard.iter().position(|message| message["method"] == method) {
                return Some(self.heard.remove(at)["params"].clone());
            }
            let left = deadline.checked_duration_since(now())?;
            self.socket.get_ref().set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let message = self.read();
            self.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
            self.heard.push(message?);
        }
    }

    fn read(&mut self) -> Option<Value> {
        loop {
            match self.socket.read().ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).unwrap()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }
}

/// Waits until `ready` gives a value.
pub(crate) fn until<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ready)
}

/// Waits until `ready` gives a value, for so long.
pub(crate) fn within<T>(time: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let begun = now();
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(begun.elapsed() < time, "not within {time:?}: {what}");
        pause(Duration::from_millis(50));
    }
}

/// The clock; the lint is for the product.
#[expect(clippy::disallowed_methods, reason = "a test may look at the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Blocks for a while; the lint is for the product.
#[expect(clippy::disallowed_methods, reason = "a test may wait")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

pub(crate) fn healthy(port: u16) -> Option<()> {
    get(port, "/openvidu/api/health").filter(|(status, _)| *status == 200).map(drop)
}

/// Process ids of the children that are not zombies.
pub(crate) fn children(parent: u32) -> Vec<i32> {
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

pub(crate) fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

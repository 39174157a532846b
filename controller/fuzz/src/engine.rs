//! A controller's engine with a media node that does whatever it is asked for, and three sockets. Whatever comes out of it is held
//! against what clients insist on.
//!
//! Ids differ from one engine to the next, so seeds name them: `$TOKEN` is good for one more join, `$RPC` the JSON-RPC session of the
//! publisher, `$OWN` its connection, `$OTHER` that of the second participant, `$STREAM` its stream, `$NODE` the node, `$OFFER`,
//! `$RECEIVE` and `$ANSWER` what a browser says to publish, to subscribe and to our offer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use controller::engine::{Engine, EngineConfig, Input, NodeOrder, Output, RestRequest};
use controller::ids::{ClientId, ReplyId};
use serde_json::{Value, json};
use sfu_core::control::proto::{CoreInfo, Fingerprint, HostCandidate, NodeInfo};

const OFFER: &str = include_str!("../../src/sdp/fixtures/chromium_publish.sdp");
const RECEIVE: &str = include_str!("../../src/sdp/fixtures/chromium_recv.sdp");
const ANSWER: &str = include_str!("../../src/sdp/fixtures/chromium_answer.sdp");

/// The engine and what is known of it from outside.
pub struct World {
    engine: Engine,
    now_ms: u64,
    open: BTreeSet<u64>,
    /// What each socket got for the last input.
    inbox: BTreeMap<u64, Vec<Value>>,
    /// Answers of the REST API to the last input.
    replies: Vec<(ReplyId, u16, Option<Value>)>,
    next_reply: u64,
    names: Vec<(&'static str, String)>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A session `S` with a publisher and another participant, and a socket that has not joined.
    pub fn new() -> Self {
        let config = EngineConfig::default();
        let mut world = Self {
            engine: Engine::new(config, [7; 32], 1_800_000_000_000),
            now_ms: 1_800_000_000_000,
            open: BTreeSet::new(),
            inbox: BTreeMap::new(),
            replies: Vec::new(),
            next_reply: 0,
            names: Vec::new(),
        };
        world.request("POST", "media-nodes", r#"{"uri":"ws://192.0.2.1:8888/kurento"}"#);
        let node = world.replies[0].2.take().expect("a node")["id"].as_str().expect("has an id").to_owned();
        world.request("POST", "sessions", r#"{"customSessionId":"S"}"#);
        for client in 0..3 {
            world.open.insert(client);
            let opened = Input::SocketOpened { client: ClientId(client), remote_ip: None, user_agent: None };
            world.feed(opened);
        }
        let (own, rpc) = world.join(0);
        let (other, _) = world.join(1);
        let publish = json!({ "sdpOffer": OFFER, "typeOfVideo": "CAMERA" });
        let stream = world.ask(0, "publishVideo", publish)["id"].as_str().expect("publishes").to_owned();
        let token = world.token();
        let quoted = |sdp: &str| json!(sdp).to_string().trim_matches('"').to_owned();
        let sdps = [("$OFFER", quoted(OFFER)), ("$RECEIVE", quoted(RECEIVE)), ("$ANSWER", quoted(ANSWER))];
        let ids = [("$RPC", rpc), ("$OWN", own), ("$OTHER", other), ("$STREAM", stream), ("$NODE", node)];
        world.names = [("$TOKEN", token)].into_iter().chain(ids).chain(sdps).collect();
        world
    }

    /// A message of a client. A request gets one answer, anything else at most one.
    pub fn message(&mut self, socket: usize, text: &str) {
        let client = socket as u64;
        let text = self.resolve(text);
        let read = self.open.contains(&client) && text.len() <= self.engine.config().limits.message_bytes;
        let asked = request_id(&text).filter(|_| read);
        self.inbox.clear();
        self.feed(Input::SocketText { client: ClientId(client), text });
        let is_answer = |message: &&Value| message.get("method").is_none();
        let answers: Vec<_> = self.inbox.values().flatten().filter(is_answer).collect();
        match asked {
            Some(id) => {
                assert_eq!(answers.len(), 1, "one answer to {id}: {answers:?}");
                // The JSON library rounds fractions, which no client uses (JSON-RPC 2.0 section 4).
                assert!(answers[0]["id"] == id || id.is_f64(), "{id}: {answers:?}");
            }
            None => assert!(answers.len() <= 1, "{answers:?}"),
        }
    }

    /// A request to the REST API. A body that is not JSON does not come this far.
    pub fn request(&mut self, method: &str, path: &str, body: &str) {
        let (path, body) = (self.resolve(path), self.resolve(body));
        let body = match serde_json::from_str(&body) {
            Ok(body) => Some(body),
            Err(_) if body.is_empty() => None,
            Err(_) => return,
        };
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), value.to_owned())
        };
        let request = RestRequest {
            method: method.to_owned(),
            path: path.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect(),
            query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
            body,
        };
        self.next_reply += 1;
        let reply = ReplyId(self.next_reply);
        self.replies.clear();
        self.feed(Input::Rest { reply, request });
        let own = self.replies.iter().filter(|(to, ..)| *to == reply).count();
        assert!(own <= 1, "answered once at most, for it may wait for a node");
        for (_, status, _) in &self.replies {
            assert!((200..600).contains(status), "{status}");
        }
    }

    /// Lets time pass.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while let Some(due) = self.engine.next_timeout().filter(|due| *due <= until) {
            self.now_ms = self.now_ms.max(due);
            self.feed(Input::Tick);
        }
        self.now_ms = until;
    }

    /// Every socket is lost: nobody stays behind for long.
    pub fn end(&mut self) {
        for client in std::mem::take(&mut self.open) {
            self.feed(Input::SocketClosed { client: ClientId(client), code: None, reason: String::new() });
        }
        self.pass(60_000);
        let inhabited = self.engine.sessions().filter(|session| session.connections.active_count() > 0);
        assert_eq!(inhabited.count(), 0, "a participant without a socket is out after a while");
        assert_eq!((self.engine.sockets(), self.engine.pending_replies()), (0, 0));
    }

    fn resolve(&self, text: &str) -> String {
        let known = self.names.iter();
        known.fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// A token for `S`.
    fn token(&mut self) -> String {
        self.request("POST", "sessions/S/connection", r#"{"role":"MODERATOR"}"#);
        let body = self.replies[0].2.take().expect("a connection");
        body["token"].as_str().expect("has a token").to_owned()
    }

    /// Joins and returns connection and JSON-RPC session.
    fn join(&mut self, client: u64) -> (String, String) {
        let params = json!({ "token": self.token(), "session": "S" });
        let mut result = self.ask(client, "joinRoom", params);
        let mut text = |key: &str| match result[key].take() {
            Value::String(text) => text,
            other => panic!("{key}: {other}"),
        };
        (text("id"), text("sessionId"))
    }

    fn ask(&mut self, client: u64, method: &str, params: Value) -> Value {
        let text = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        self.inbox.clear();
        self.feed(Input::SocketText { client: ClientId(client), text });
        let inbox = self.inbox.get_mut(&client).expect("an answer");
        let answer = inbox.iter_mut().find(|message| message["id"] == 1).expect("an answer");
        answer["result"].take()
    }

    /// One input, and all that the node does because of it.
    fn feed(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut out = Vec::new();
            self.engine.handle(self.now_ms, input, &mut out);
            inputs.extend(out.into_iter().filter_map(|output| self.carry_out(output)));
        }
    }

    fn carry_out(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::SocketText { client, text } => {
                assert!(self.open.contains(&client.0), "text for a closed socket: {text}");
                let message = serde_json::from_str(&text).expect("JSON");
                check(&message);
                self.inbox.entry(client.0).or_default().push(message);
            }
            Output::SocketClose { client, .. } => assert!(self.open.remove(&client.0), "closed twice"),
            Output::NodeApply { token, .. } => return Some(Input::NodeReply { token, result: Ok(()) }),
            Output::Node(NodeOrder::Connect { node, .. }) => {
                return Some(Input::NodeUp { node, info: node_info() });
            }
            Output::RestReply { reply, status, body } => self.replies.push((reply, status, body)),
            Output::Node(_) | Output::Started(_) | Output::Record(_) => {}
        }
        None
    }
}

/// What clients insist on (`signaling.md` 1.3): a notification, or an answer with exactly one of result and error.
fn check(message: &Value) {
    assert_eq!(message["jsonrpc"], "2.0", "{message}");
    let has = |key: &str| message.get(key).is_some();
    match has("method") {
        true => assert!(!has("id") && message["params"].is_object(), "{message}"),
        false => assert!(has("id") && has("result") != has("error"), "{message}"),
    }
}

/// Id of a text that has to be answered.
fn request_id(text: &str) -> Option<Value> {
    let object: serde_json::Map<String, Value> = serde_json::from_str(text).ok()?;
    let right = object.get("jsonrpc")? == "2.0" && object.get("method")?.is_string();
    let id = object.get("id").filter(|id| id.is_number() || id.is_string())?;
    right.then(|| id.clone())
}

fn node_info() -> NodeInfo {
    let address = [192, 0, 2, 1].into();
    let candidates = vec![HostCandidate { address, bound: (address, 40_000).into(), port: 40_000 }];
    NodeInfo {
        version: 1,
        process: "p".into(),
        software: "weir".into(),
        reactor: "mmsg".into(),
        fingerprint: Fingerprint { algorithm: "sha-256".into(), value: ["AB"; 32].join(":") },
        cores: vec![CoreInfo { core: 0, candidates }],
        rooms: Vec::new(),
        draining: false,
    }
}

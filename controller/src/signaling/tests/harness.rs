//! A controller with one client per name and modelled media nodes, on a clock that the test moves.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sfu_core::control::proto::{
    CoreInfo, Fingerprint, HostCandidate, NodeInfo, Op, RoomInfo, TransportInfo, TransportState, error_code,
};

use crate::cluster::Origin;
use crate::engine::{
    Engine, EngineConfig, EventRecord, Input, Machine, NodeError, NodeOrder, Output, RowKind, Saved,
};
use crate::ids::{ClientId, NodeId, ReplyId};
use crate::session::{ConnectionProperties, Role, SessionProperties};

/// What runs in one room of the model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Room {
    pub(super) core: u16,
    /// Transport and whether its remote end is known.
    pub(super) transports: BTreeMap<String, bool>,
    /// Publication and its transport.
    pub(super) publications: BTreeMap<String, String>,
    /// Subscription, its transport and publication.
    pub(super) subscriptions: BTreeMap<String, (String, String)>,
}

impl Room {
    fn apply(&mut self, op: &Op) -> Result<(), String> {
        let need = |there: bool, what: &str| if there { Ok(()) } else { Err(format!("{what}: {op:?}")) };
        match op {
            Op::OpenTransport { transport, ice, remote } => {
                need(ice.ufrag.len() >= 4 && ice.pwd.len() >= 22, "credentials")?;
                let older = self.transports.insert(transport.clone(), remote.is_some());
                need(older.is_none(), "transport exists")
            }
            Op::ConnectTransport { transport, .. } => {
                let connected = self.transports.get_mut(transport).ok_or("no such transport")?;
                need(!std::mem::replace(connected, true), "connected already")
            }
            Op::CloseTransport { transport } => {
                need(self.transports.remove(transport).is_some(), "no such transport")?;
                self.publications.retain(|_, by| by != transport);
                self.subscriptions
                    .retain(|_, (by, of)| by != transport && self.publications.contains_key(of));
                Ok(())
            }
            Op::Publish { transport, publication, tracks } => {
                need(
                    self.transports.contains_key(transport) && !tracks.is_empty(),
                    "no transport or tracks",
                )?;
                self.publications.insert(publication.clone(), transport.clone());
                Ok(())
            }
            Op::Subscribe { transport, subscription, publication, tracks } => {
                need(self.transports.get(transport) == Some(&true), "transport is not connected")?;
                need(self.publications.contains_key(publication), "no such publication")?;
                need(!tracks.is_empty() && tracks.len() <= 2, "tracks")?;
                let entry = (transport.clone(), publication.clone());
                need(self.subscriptions.insert(subscription.clone(), entry).is_none(), "subscription exists")
            }
            other => Err(format!("not used: {other:?}")),
        }
    }
}

/// A media node.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeModel {
    pub(super) process: String,
    pub(super) rooms: BTreeMap<String, Room>,
    pub(super) up: bool,
}

impl NodeModel {
    fn apply(&mut self, room: &str, ops: &[Op]) -> Result<(), NodeError> {
        for op in ops {
            let done = match op {
                Op::OpenRoom { core } => {
                    self.rooms.entry(room.to_owned()).or_default().core = *core;
                    Ok(())
                }
                Op::CloseRoom => {
                    self.rooms.remove(room).map(|_| ()).ok_or_else(|| format!("no such room {room}"))
                }
                op => match self.rooms.get_mut(room) {
                    Some(room) => room.apply(op),
                    None => Err(format!("no such room {room}")),
                },
            };
            done.map_err(|message| NodeError { code: error_code::NOT_FOUND, message })?;
        }
        Ok(())
    }

    pub(super) fn info(&self, port: u16) -> NodeInfo {
        let core = |core: u16| CoreInfo {
            core,
            candidates: vec![HostCandidate {
                address: "192.0.2.1".parse().expect("an address"),
                bound: "192.0.2.1:50000".parse().expect("an address"),
                port: port + core,
            }],
        };
        let room_info = |(id, room): (&String, &Room)| RoomInfo {
            room: id.clone(),
            core: room.core,
            transports: room
                .transports
                .keys()
                .map(|transport| TransportInfo {
                    transport: transport.clone(),
                    state: TransportState::Connected,
                })
                .collect(),
            publications: room.publications.keys().cloned().collect(),
            subscriptions: room.subscriptions.keys().cloned().collect(),
        };
        NodeInfo {
            version: 1,
            process: self.process.clone(),
            software: "test".into(),
            reactor: "mmsg".into(),
            fingerprint: Fingerprint { algorithm: "sha-256".into(), value: ["AB"; 32].join(":") },
            cores: vec![core(0), core(1)],
            rooms: self.rooms.iter().map(room_info).collect(),
            draining: false,
        }
    }
}

/// The whole bench.
pub(super) struct Bench {
    pub(super) engine: Engine,
    pub(super) now: u64,
    pub(super) nodes: BTreeMap<NodeId, NodeModel>,
    /// What each open socket got since it was last asked.
    pub(super) inbox: BTreeMap<ClientId, Vec<Value>>,
    pub(super) open: BTreeSet<ClientId>,
    pub(super) closes: Vec<(ClientId, u16, String)>,
    pub(super) records: Vec<EventRecord>,
    /// What was ordered about nodes.
    pub(super) orders: Vec<NodeOrder>,
    /// How the start of the server went.
    pub(super) started: Option<Result<(), String>>,
    /// Answers to REST requests.
    pub(super) replies: Vec<(ReplyId, u16, Option<Value>)>,
    /// Ops that wait for [`Bench::run_nodes`].
    pub(super) asked: Vec<(NodeId, u64, String, Vec<Op>)>,
    /// Errors of modelled nodes.
    pub(super) refused: Vec<NodeError>,
    /// Nodes answer at once.
    pub(super) prompt: bool,
    /// What is on disk.
    pub(super) stored: BTreeMap<(RowKind, String), Vec<u8>>,
    next_life: u64,
    next_client: u64,
    pub(super) next_id: u64,
}

pub(super) const NODE: &str = "media_1";

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(EngineConfig::default())
    }

    pub(super) fn with(config: EngineConfig) -> Self {
        let mut bench = Self::without_node(config);
        bench.start_node(NODE, "process-1");
        bench.clear();
        bench
    }

    pub(super) fn without_node(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config, [42; 32], 0),
            now: 1_764_770_400_000,
            nodes: BTreeMap::new(),
            inbox: BTreeMap::new(),
            open: BTreeSet::new(),
            closes: Vec::new(),
            records: Vec::new(),
            orders: Vec::new(),
            started: None,
            replies: Vec::new(),
            asked: Vec::new(),
            refused: Vec::new(),
            prompt: true,
            stored: BTreeMap::new(),
            next_life: 0,
            next_client: 1,
            next_id: 100,
        }
    }

    pub(super) fn start_node(&mut self, id: &str, process: &str) {
        self.start_named(id, NodeModel { process: process.into(), rooms: BTreeMap::new(), up: true });
    }

    /// A node that runs comes up, under this name.
    pub(super) fn start_named(&mut self, id: &str, node: NodeModel) {
        let info = node.info(50_000);
        self.nodes.insert(id.into(), node);
        if self.engine.nodes().get(id).is_none() {
            let uri = format!("ws://{id}:8888/kurento").parse().expect("a URI");
            let machine = Machine { id: id.into(), uri, environment_id: None, origin: Origin::Joined };
            let mut out = Vec::new();
            assert!(self.engine.join_node(self.now, machine, 1, &mut out));
            self.carry_out(out);
        }
        self.input(Input::NodeUp { node: id.into(), info });
    }

    pub(super) fn reconnect_node(&mut self, id: &str) {
        let node = self.nodes.get_mut(id).expect("a node");
        node.up = true;
        let info = node.info(50_000);
        self.input(Input::NodeUp { node: id.into(), info });
    }

    /// The controller dies and another one goes on with what is on disk. Of the ops on their way `applied` still reach their
    /// node; every connection is lost.
    pub(super) fn crash(&mut self, applied: usize) {
        for row in self.engine.take_rows() {
            match row.value {
                Some(value) => self.stored.insert((row.kind, row.key), value),
                None => self.stored.remove(&(row.kind, row.key)),
            };
        }
        let asked = std::mem::take(&mut self.asked);
        for (node, _, room, ops) in asked.into_iter().take(applied) {
            let _ = self.nodes.get_mut(&node).expect("a node").apply(&room, &ops);
        }
        for node in self.nodes.values_mut() {
            node.up = false;
        }
        self.open.clear();
        self.inbox.clear();
        self.started = None;
        let mut saved = Saved::default();
        for ((kind, key), value) in &self.stored {
            let rows = match kind {
                RowKind::Session => &mut saved.sessions,
                RowKind::Connection => &mut saved.connections,
                RowKind::Node => &mut saved.nodes,
            };
            rows.push((key.clone(), value.clone()));
        }
        // Each life makes up ids of its own.
        let mut seed = [43; 32];
        seed[..8].copy_from_slice(&self.next_life.to_le_bytes());
        self.next_life += 1;
        self.engine = Engine::new(self.engine.config().clone(), seed, self.now);
        let mut out = Vec::new();
        self.engine.restore(self.now, &saved, &mut out).expect("our own rows");
        self.carry_out(out);
        self.input(Input::Start);
    }

    /// The control connection breaks; ops on their way are lost.
    pub(super) fn lose_node(&mut self, id: &str) {
        self.nodes.get_mut(id).expect("a node").up = false;
        self.asked.retain(|(node, ..)| node.as_str() != id);
        self.input(Input::NodeDown { node: id.into() });
    }

    pub(super) fn node(&self) -> &NodeModel {
        &self.nodes[NODE]
    }

    /// The only open room.
    pub(super) fn room(&self) -> &Room {
        assert_eq!(self.node().rooms.len(), 1, "one room");
        self.node().rooms.values().next().expect("one room")
    }

    pub(super) fn input(&mut self, input: Input) {
        let mut out = Vec::new();
        self.engine.handle(self.now, input, &mut out);
        self.carry_out(out);
        if self.prompt {
            self.run_nodes();
        }
    }

    pub(super) fn carry_out(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::SocketText { client, text } => {
                    assert!(self.open.contains(&client), "text for a closed socket: {text}");
                    let message = serde_json::from_str(&text).expect("JSON");
                    self.inbox.entry(client).or_default().push(message);
                }
                Output::SocketClose { client, code, reason } => {
                    assert!(self.open.remove(&client), "closed twice");
                    self.closes.push((client, code, reason));
                }
                Output::NodeApply { node, token, room, ops } => {
                    assert!(self.nodes[&node].up, "ops for a node that is not connected: {ops:?}");
                    self.asked.push((node, token, room, ops));
                }
                Output::Record(record) => self.records.push(record),
                Output::RestReply { reply, status, body } => self.replies.push((reply, status, body)),
                Output::Node(order) => self.orders.push(order),
                Output::Started(result) => {
                    assert!(self.started.replace(result).is_none(), "told once");
                }
            }
        }
    }

    /// Lets nodes do and answer everything they were asked for.
    pub(super) fn run_nodes(&mut self) {
        while !self.asked.is_empty() {
            self.run_one();
        }
    }

    pub(super) fn run_one(&mut self) {
        let (id, token, room, ops) = self.asked.remove(0);
        let result = self.nodes.get_mut(&id).expect("a node").apply(&room, &ops);
        self.refused.extend(result.clone().err());
        self.reply(token, result);
    }

    pub(super) fn reply(&mut self, token: u64, result: Result<(), NodeError>) {
        let mut out = Vec::new();
        self.engine.handle(self.now, Input::NodeReply { token, result }, &mut out);
        self.carry_out(out);
    }

    /// The first op list that is asked for is refused, the rest is done.
    pub(super) fn refuse_one(&mut self) {
        let (_, token, _, _) = self.asked.remove(0);
        self.reply(token, Err(NodeError { code: error_code::OVERLOADED, message: "no room".into() }));
        self.run_nodes();
    }

    /// Moves the clock and fires what is due on the way.
    pub(super) fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(due) = self.engine.next_timeout().filter(|due| *due <= until) {
            self.now = self.now.max(due);
            self.input(Input::Tick);
        }
        self.now = until;
        self.input(Input::Tick);
    }

    pub(super) fn connect(&mut self) -> ClientId {
        let client = ClientId(self.next_client);
        self.next_client += 1;
        self.open.insert(client);
        let remote_ip = Some("198.51.100.7".parse().expect("an address"));
        self.input(Input::SocketOpened { client, remote_ip, user_agent: None });
        client
    }

    pub(super) fn cut(&mut self, client: ClientId) {
        self.open.remove(&client);
        self.input(Input::SocketClosed { client, code: Some(1006), reason: String::new() });
    }

    pub(super) fn text(&mut self, client: ClientId, text: &str) {
        self.input(Input::SocketText { client, text: text.to_owned() });
    }

    /// Sends a request and returns its id.
    pub(super) fn ask(&mut self, client: ClientId, method: &str, params: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": id });
        self.text(client, &message.to_string());
        id
    }

    /// Takes the one response with this id out of an inbox.
    pub(super) fn answer(&mut self, client: ClientId, id: u64) -> Value {
        let inbox = self.inbox.entry(client).or_default();
        let at: Vec<_> = (0..inbox.len()).filter(|at| inbox[*at]["id"] == id).collect();
        assert_eq!(at.len(), 1, "one response to {id} in {inbox:?}");
        inbox.remove(at[0])
    }

    /// Sends a request that succeeds and returns its result, without the `sessionId` that every one has.
    pub(super) fn call(&mut self, client: ClientId, method: &str, params: Value) -> Value {
        let id = self.ask(client, method, params);
        let mut response = self.answer(client, id);
        assert_eq!(response["error"], Value::Null, "{method}");
        let mut result = response["result"].take();
        if let Some(object) = result.as_object_mut() {
            let rpc = object.remove("sessionId").expect("every result names the RPC session");
            assert_eq!(rpc.as_str().map(str::len), Some(32));
        }
        result
    }

    /// Sends a request that fails and returns its code.
    pub(super) fn fail(&mut self, client: ClientId, method: &str, params: Value) -> i64 {
        let id = self.ask(client, method, params);
        let response = self.answer(client, id);
        assert!(response.get("result").is_none(), "{response}");
        let code = response["error"]["code"].as_i64().expect("a code");
        let message = response["error"]["message"].as_str().expect("a message");
        assert!(code == 40007 || message.ends_with(&format!(". Code: {code}")), "{message}");
        code
    }

    /// Everything a socket got, responses as `#result` or `#error`, notifications by method; emptied.
    pub(super) fn methods(&mut self, client: ClientId) -> Vec<String> {
        let inbox = self.inbox.remove(&client).unwrap_or_default();
        inbox.iter().map(Self::name).collect()
    }

    fn name(message: &Value) -> String {
        match (message.get("method"), message.get("result")) {
            (Some(method), _) => method.as_str().expect("text").to_owned(),
            (None, Some(_)) => "#result".into(),
            (None, None) => "#error".into(),
        }
    }

    /// Params of the only notification of this method; the rest of the inbox is dropped.
    pub(super) fn heard(&mut self, client: ClientId, method: &str) -> Value {
        let inbox = self.inbox.remove(&client).unwrap_or_default();
        let found: Vec<_> = inbox.iter().filter(|message| message["method"] == method).collect();
        assert_eq!(found.len(), 1, "{method} in {inbox:?}");
        found[0]["params"].clone()
    }

    pub(super) fn clear(&mut self) {
        self.inbox.clear();
        self.records.clear();
        self.orders.clear();
    }

    /// Names of events since the last time, with the reason if they have one.
    pub(super) fn events(&mut self) -> Vec<String> {
        let name = |record: EventRecord| match record.fields.get("reason") {
            Some(reason) => format!("{} {}", record.event, reason.as_str().expect("text")),
            None => record.event.to_owned(),
        };
        self.records.drain(..).map(name).collect()
    }

    pub(super) fn session(&mut self, id: &str) {
        let mut out = Vec::new();
        let properties = SessionProperties { custom_session_id: id.into(), ..Default::default() };
        self.engine.create_session(self.now, properties, &mut out).expect("created");
        self.carry_out(out);
    }

    /// A token for a session.
    pub(super) fn token(&mut self, session: &str, role: Role) -> String {
        let properties = ConnectionProperties { role, ..Default::default() };
        let mut out = Vec::new();
        let connection = self.engine.create_connection(self.now, session, properties, &mut out);
        connection.expect("created").token.clone().expect("has a token")
    }

    /// Joins with a new token on a new socket.
    pub(super) fn join(&mut self, session: &str, role: Role) -> Member {
        let token = self.token(session, role);
        let client = self.connect();
        let id = self.ask(client, "joinRoom", join_params(session, &token));
        let response = self.answer(client, id);
        let result = &response["result"];
        Member {
            client,
            id: result["id"].as_str().expect("joined").to_owned(),
            rpc: result["sessionId"].as_str().expect("for reconnection").to_owned(),
        }
    }

    /// A session `S` with this many publishers, all inboxes and events emptied.
    pub(super) fn room_of(&mut self, members: usize) -> Vec<Member> {
        self.session("S");
        let members = (0..members).map(|_| self.join("S", Role::Publisher)).collect();
        self.clear();
        members
    }

    /// Publishes and returns the stream id.
    pub(super) fn publish(&mut self, member: &Member) -> String {
        let result = self.call(member.client, "publishVideo", publish_params(&offer("sendonly", &["VP8"])));
        result["id"].as_str().expect("a stream id").to_owned()
    }

    /// Subscribes, the client offering.
    pub(super) fn subscribe(&mut self, member: &Member, stream: &str) {
        let params = json!({ "sender": stream, "sdpOffer": offer("recvonly", &["VP8"]) });
        let result = self.call(member.client, "receiveVideoFrom", params);
        assert!(result["sdpAnswer"].as_str().expect("an answer").contains("a=sendonly"));
    }
}

/// Somebody who joined.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) client: ClientId,
    pub(super) id: String,
    pub(super) rpc: String,
}

pub(super) fn join_params(session: &str, token: &str) -> Value {
    json!({ "token": token, "session": session, "platform": "Chrome 156", "sdkVersion": "2.32.2",
            "metadata": "{\"clientData\":\"A\"}", "secret": "", "recorder": false, "stt": false })
}

pub(super) fn publish_params(offer: &str) -> Value {
    json!({ "doLoopback": false, "hasAudio": true, "hasVideo": true, "audioActive": true, "videoActive": true,
            "typeOfVideo": "CAMERA", "frameRate": -1, "videoDimensions": "{\"width\":640,\"height\":480}",
            "sdpOffer": offer })
}

/// A browser's offer with one audio and one video m-line.
pub(super) fn offer(direction: &str, codecs: &[&str]) -> String {
    let fingerprint = ["CD"; 32].join(":");
    let common = format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:dPkS\r\na=ice-pwd:0123456789abcdef01234567\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\na=rtcp-mux\r\na={direction}\r\n"
    );
    let types: Vec<_> = (96..96 + codecs.len()).map(|number| number.to_string()).collect();
    let mut video = String::new();
    for (number, codec) in types.iter().zip(codecs) {
        video += &format!(
            "a=rtpmap:{number} {codec}/90000\r\na=rtcp-fb:{number} nack\r\na=rtcp-fb:{number} nack pli\r\n"
        );
        if *codec == "H264" {
            video += &format!(
                "a=fmtp:{number} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
            );
        }
    }
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n{common}a=mid:0\r\na=rtpmap:111 opus/48000/2\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF {}\r\n{common}a=mid:1\r\n{video}",
        types.join(" ")
    )
}

/// A browser's answer to our offer.
pub(super) fn answer_to(offer: &str) -> String {
    assert!(offer.contains("a=setup:actpass") && offer.contains("a=sendonly"), "{offer}");
    let dropped = ["a=candidate", "a=ssrc", "a=msid", "a=ice-lite", "a=end-of-candidates"];
    let kept = offer.lines().filter(|line| !dropped.iter().any(|start| line.starts_with(start)));
    let answered = kept.map(|line| match line {
        "a=setup:actpass" => "a=setup:active".to_owned(),
        "a=sendonly" => "a=recvonly".to_owned(),
        line if line.starts_with("a=ice-ufrag") => "a=ice-ufrag:peer".to_owned(),
        line => line.to_owned(),
    });
    answered.map(|line| line + "\r\n").collect()
}

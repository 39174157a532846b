//! Random conversations: nothing panics, the model stays whole, and the node has exactly what the controller thinks.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::harness::{Bench, Member, NODE, answer_to, join_params, offer, publish_params};
use crate::engine::{EngineConfig, Input, Limits, RowKind};
use crate::session::{Phase, Reason, Role, SessionState};

#[derive(Clone, Debug)]
enum Step {
    Join { session: usize, role: usize, secret: bool },
    Publish { who: usize, loopback: bool },
    Subscribe { who: usize, of: usize },
    Prepare { who: usize, of: usize },
    Answer { who: usize, of: usize },
    Reconnect { who: usize, of: usize, codec: bool },
    Unsubscribe { who: usize, of: usize },
    Unpublish { who: usize },
    Leave { who: usize },
    ForceUnpublish { who: usize, of: usize },
    ForceDisconnect { who: usize, of: usize },
    Signal { who: usize, of: usize },
    Property { who: usize },
    Cut { who: usize },
    Return { who: usize },
    Garbage { who: usize, text: String },
    CloseSession { session: usize },
    Evict { who: usize },
    NodeWorks { count: usize },
    NodeRefuses,
    LoseNode,
    ReturnNode { restarted: bool },
    Crash { applied: usize },
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..6usize;
    prop_oneof![
        4 => (0..2usize, 0..3usize, prop::bool::weighted(0.1))
            .prop_map(|(session, role, secret)| Step::Join { session, role, secret }),
        4 => (who.clone(), prop::bool::weighted(0.2)).prop_map(|(who, loopback)| Step::Publish { who, loopback }),
        4 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::Subscribe { who, of }),
        2 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::Prepare { who, of }),
        3 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::Answer { who, of }),
        2 => (who.clone(), who.clone(), any::<bool>()).prop_map(|(who, of, codec)| Step::Reconnect { who, of, codec }),
        1 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::Unsubscribe { who, of }),
        1 => who.clone().prop_map(|who| Step::Unpublish { who }),
        1 => who.clone().prop_map(|who| Step::Leave { who }),
        1 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::ForceUnpublish { who, of }),
        1 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::ForceDisconnect { who, of }),
        1 => (who.clone(), who.clone()).prop_map(|(who, of)| Step::Signal { who, of }),
        1 => who.clone().prop_map(|who| Step::Property { who }),
        1 => who.clone().prop_map(|who| Step::Cut { who }),
        1 => who.clone().prop_map(|who| Step::Return { who }),
        1 => (who.clone(), garbage()).prop_map(|(who, text)| Step::Garbage { who, text }),
        1 => (0..2usize).prop_map(|session| Step::CloseSession { session }),
        1 => who.prop_map(|who| Step::Evict { who }),
        8 => (1..6usize).prop_map(|count| Step::NodeWorks { count }),
        1 => Just(Step::NodeRefuses),
        1 => Just(Step::LoseNode),
        1 => any::<bool>().prop_map(|restarted| Step::ReturnNode { restarted }),
        1 => (0..8usize).prop_map(|applied| Step::Crash { applied }),
        2 => (0..4_000u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

fn garbage() -> impl Strategy<Value = String> {
    let method = prop::sample::select(vec![
        "joinRoom",
        "connect",
        "publishVideo",
        "receiveVideoFrom",
        "prepareReceiveVideoFrom",
        "reconnectStream",
        "streamPropertyChanged",
        "sendMessage",
        "forceUnpublish",
        "forceDisconnect",
        "applyFilter",
        "ping",
        "unsubscribeFromVideo",
        "onIceCandidate",
        "leaveroom",
        "",
    ]);
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!(["x", 1])),
        Just(json!({"a": null})),
    ];
    let key = prop::sample::select(vec![
        "token",
        "session",
        "secret",
        "sessionId",
        "sdpOffer",
        "sdpAnswer",
        "sdpString",
        "sender",
        "stream",
        "streamId",
        "property",
        "newValue",
        "message",
        "connectionId",
        "interval",
        "metadata",
        "frameRate",
    ]);
    let params = prop::collection::btree_map(key, value, 0..5);
    let request = (method, params, any::<Option<u32>>()).prop_map(|(method, params, id)| {
        json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id}).to_string()
    });
    prop_oneof![3 => request, 1 => "\\PC{0,40}"]
}

const SESSIONS: [&str; 2] = ["S", "T"];

struct World {
    bench: Bench,
    members: Vec<Member>,
    offers: Vec<(String, String)>,
}

impl World {
    fn new() -> Self {
        let limits = Limits { queue_messages: 20, ..Default::default() };
        let mut bench = Bench::with(EngineConfig { limits, ..Default::default() });
        bench.prompt = false;
        Self { bench, members: Vec::new(), offers: Vec::new() }
    }

    fn member(&self, index: usize) -> Option<Member> {
        self.members.iter().rev().nth(index % self.members.len().max(1)).cloned()
    }

    /// A stream of this member, or one that could be.
    fn stream(&self, index: usize) -> String {
        let Some(member) = self.member(index) else { return "str_none".into() };
        let sessions = self.bench.engine.sessions();
        let found = sessions.filter_map(|session| session.connections.get(&member.id)).next();
        let stream = found.and_then(|found| found.stream()).map(|stream| stream.as_str().to_owned());
        stream.unwrap_or_else(|| format!("str_CAM_none_{}", member.id))
    }

    fn ask(&mut self, who: usize, method: &str, params: Value) {
        if let Some(member) = self.member(who) {
            self.bench.ask(member.client, method, params);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Join { session, role, secret } => self.join(SESSIONS[session], role, secret),
            Step::Publish { who, loopback } => {
                let mut params = publish_params(&offer("sendrecv", &["VP8"]));
                params["doLoopback"] = loopback.into();
                self.ask(who, "publishVideo", params);
            }
            Step::Subscribe { who, of } => {
                let params =
                    json!({"sender": self.stream(of), "sdpOffer": offer("recvonly", &["VP8", "H264"])});
                self.ask(who, "receiveVideoFrom", params);
            }
            Step::Prepare { who, of } => {
                self.ask(who, "prepareReceiveVideoFrom", json!({"sender": self.stream(of)}));
            }
            Step::Answer { who, of } => {
                let stream = self.stream(of);
                let known = self.offers.iter().rev().find(|(of, _)| *of == stream);
                let answer = known.or(self.offers.last()).map(|(_, offer)| answer_to(offer));
                let params = json!({"sender": stream, "sdpAnswer": answer.unwrap_or_default()});
                self.ask(who, "receiveVideoFrom", params);
            }
            Step::Reconnect { who, of, codec } => {
                let codec = if codec { "VP8" } else { "H264" };
                let params = json!({"stream": self.stream(of), "sdpOffer": offer("sendrecv", &[codec])});
                self.ask(who, "reconnectStream", params);
            }
            Step::Unsubscribe { who, of } => {
                let sender = self.member(of).map(|member| member.id);
                self.ask(who, "unsubscribeFromVideo", json!({"sender": sender}));
            }
            Step::Unpublish { who } => self.ask(who, "unpublishVideo", json!({})),
            Step::Leave { who } => self.ask(who, "leaveRoom", json!({})),
            Step::ForceUnpublish { who, of } => {
                self.ask(who, "forceUnpublish", json!({"streamId": self.stream(of)}));
            }
            Step::ForceDisconnect { who, of } => {
                let id = self.member(of).map(|member| member.id);
                self.ask(who, "forceDisconnect", json!({"connectionId": id}));
            }
            Step::Signal { who, of } => {
                let to = self.member(of).map(|member| member.id);
                let message = json!({"to": [to], "data": "x", "type": "signal:t"}).to_string();
                self.ask(who, "sendMessage", json!({"message": message}));
            }
            Step::Property { who } => {
                let params =
                    json!({"streamId": self.stream(who), "property": "videoActive", "newValue": false});
                self.ask(who, "streamPropertyChanged", params);
            }
            Step::Garbage { who, text } => {
                if let Some(member) = self.member(who) {
                    self.bench.text(member.client, &text);
                }
            }
            other => self.take_outside(other),
        }
    }

    fn take_outside(&mut self, step: Step) {
        match step {
            Step::Cut { who } => {
                if let Some(member) = self.member(who) {
                    self.bench.cut(member.client);
                }
            }
            Step::Return { who } => {
                let Some(at) = self.members.len().checked_sub(1 + who % self.members.len().max(1)) else {
                    return;
                };
                let client = self.bench.connect();
                let rpc = self.members[at].rpc.clone();
                self.bench.ask(client, "connect", json!({"sessionId": rpc}));
                self.members[at].client = client;
            }
            Step::CloseSession { session } => {
                let mut out = Vec::new();
                let reason = Reason::SessionClosedByServer;
                let _ = self.bench.engine.close_session(self.bench.now, SESSIONS[session], reason, &mut out);
                self.bench.carry_out(out);
            }
            Step::Evict { who } => {
                let Some(member) = self.member(who) else { return };
                let mut out = Vec::new();
                for session in SESSIONS {
                    let _ = self.bench.engine.force_disconnect(self.bench.now, session, &member.id, &mut out);
                }
                self.bench.carry_out(out);
            }
            Step::NodeWorks { count } => {
                for _ in 0..count.min(self.bench.asked.len()) {
                    self.bench.run_one();
                }
            }
            Step::NodeRefuses => {
                // A node that refuses has done nothing: only what only opens something can be refused like that.
                let opens = |asked: &(_, u64, String, Vec<sfu_core::control::proto::Op>)| {
                    use sfu_core::control::proto::Op;
                    matches!(asked.3.first(), Some(Op::OpenTransport { .. } | Op::OpenRoom { .. }))
                };
                if self.bench.asked.first().is_some_and(opens) {
                    let (_, token, ..) = self.bench.asked.remove(0);
                    let error = crate::engine::NodeError { code: 5, message: "full".into() };
                    self.bench.reply(token, Err(error));
                }
            }
            Step::LoseNode if self.bench.node().up => self.bench.lose_node(NODE),
            Step::ReturnNode { restarted } if !self.bench.node().up => {
                if restarted {
                    let process = format!("process at {}", self.bench.now);
                    self.bench.start_node(NODE, &process);
                } else {
                    self.bench.reconnect_node(NODE);
                }
            }
            Step::Pass { ms } => self.bench.pass(ms),
            Step::Crash { applied } => self.bench.crash(applied),
            _ => {}
        }
    }

    fn join(&mut self, session: &str, role: usize, secret: bool) {
        if self.bench.engine.session(session).is_none() {
            self.bench.session(session);
        }
        let token = self.bench.token(session, [Role::Subscriber, Role::Publisher, Role::Moderator][role]);
        let client = self.bench.connect();
        let mut params = join_params(session, &token);
        if secret {
            params["secret"] = "MY_SECRET".into();
            params["recorder"] = (role == 0).into();
        }
        self.bench.ask(client, "joinRoom", params);
    }

    /// Learns who joined and what was offered from what sockets got.
    fn read_inboxes(&mut self) {
        for (client, messages) in std::mem::take(&mut self.bench.inbox) {
            for message in messages {
                let result = &message["result"];
                if let (Some(id), Some(rpc), true) =
                    (result["id"].as_str(), result["sessionId"].as_str(), result["role"].is_string())
                {
                    self.members.push(Member { client, id: id.into(), rpc: rpc.into() });
                }
                for (offer, stream) in [
                    (&result["sdpOffer"], String::new()),
                    (&message["params"]["sdpOffer"], message["params"]["streamId"].to_string()),
                ] {
                    if let Some(offer) = offer.as_str() {
                        self.offers.push((stream.trim_matches('"').to_owned(), offer.to_owned()));
                    }
                }
            }
        }
    }

    /// Rules that hold after every step.
    fn check(&self) {
        let engine = &self.bench.engine;
        for session in engine.sessions() {
            let mut owned = 0;
            for (connection, active) in session.connections.active() {
                assert!(
                    matches!(session.state, SessionState::Active(_)),
                    "nobody is in a session without a room"
                );
                let publisher = active.publisher.iter();
                owned += publisher.map(|publisher| 1 + publisher.replacing.len()).sum::<usize>();
                owned += active.subscribers.len();
                for (of, subscriber) in &active.subscribers {
                    let source = session.connections.get(of.as_str()).expect("its publisher is there");
                    let live = source.live_publisher().expect("and publishes");
                    assert_eq!(live.stream, subscriber.stream, "no dangling subscriber");
                    assert_ne!(connection.id, *of);
                    assert!(session.transports.contains_key(&subscriber.transport));
                }
            }
            assert_eq!(owned, session.transports.len(), "every transport has one owner");
            let active = session.connections.active().count();
            assert_eq!(session.connections.active_count(), active);
        }
        let mut joined = 0;
        for (rpc, session, connection) in engine.peers.participants() {
            let session = engine.session(session.as_str()).expect("its session");
            let found = session.connections.get(connection.as_str()).and_then(|found| found.active.as_ref());
            assert_eq!(found.map(|active| &active.rpc), Some(rpc));
            joined += 1;
        }
        let active: usize = engine.sessions().map(|session| session.connections.active_count()).sum();
        assert_eq!(joined, active, "every participant has exactly one JSON-RPC session");
    }

    /// When everything has been answered, the node runs what the controller thinks it runs.
    fn settle(&mut self) {
        if !self.bench.node().up {
            self.bench.reconnect_node(NODE);
        }
        self.bench.run_nodes();
        self.bench.pass(20_000);
        self.bench.run_nodes();
        self.check();
        let engine = &self.bench.engine;
        assert!(engine.pending.is_empty() && engine.opening.values().all(Vec::is_empty));
        let node = self.bench.node();
        let placed: Vec<_> =
            engine.sessions().filter_map(|session| Some((session, session.place()?))).collect();
        assert_eq!(placed.len(), node.rooms.len(), "rooms");
        for (session, place) in placed {
            let room = &node.rooms[&place.room];
            let theirs: Vec<_> = room.transports.keys().collect();
            let mut ours: Vec<_> = session.transports.keys().collect();
            ours.sort();
            assert_eq!(ours, theirs, "transports");
            for (connection, active) in session.connections.active() {
                for subscriber in active.subscribers.values() {
                    let runs = room.subscriptions.contains_key(&subscriber.transport);
                    assert_eq!(runs, subscriber.phase == Phase::Live, "{} {subscriber:?}", connection.id);
                }
                if let Some(publisher) = &active.publisher {
                    assert_eq!(publisher.phase, Phase::Live);
                    assert_eq!(room.publications.get(publisher.stream.as_str()), Some(&publisher.transport));
                }
            }
        }
        self.end();
    }

    /// Everything that began has ended, once every session is closed.
    fn end(&mut self) {
        for session in SESSIONS {
            let mut out = Vec::new();
            let reason = Reason::SessionClosedByServer;
            let _ = self.bench.engine.close_session(self.bench.now, session, reason, &mut out);
            self.bench.carry_out(out);
        }
        self.bench.run_nodes();
        assert!(self.bench.node().rooms.is_empty());
        self.bench.crash(0);
        let sessions = self.bench.stored.keys().filter(|(kind, _)| *kind != RowKind::Node);
        assert_eq!(sessions.count(), 0);
        let events = self.bench.events();
        let count = |name: &str| events.iter().filter(|event| event.starts_with(name)).count();
        for (begin, end) in [
            ("participantJoined", "participantLeft"),
            ("webrtcConnectionCreated", "webrtcConnectionDestroyed"),
        ] {
            assert_eq!(count(begin), count(end), "{begin} in {events:?}");
        }
    }
}

proptest! {
    #[test]
    fn any_conversation_leaves_a_whole_model(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.read_inboxes();
            world.check();
        }
        world.settle();
    }

    #[test]
    fn any_text_is_survived(texts in prop::collection::vec(garbage(), 1..20)) {
        let mut bench = Bench::new();
        let members = bench.room_of(2);
        for text in texts {
            bench.text(members[0].client, &text);
            bench.input(Input::Tick);
        }
        prop_assert_eq!(bench.call(members[1].client, "echo", json!({})), json!({}));
    }
}

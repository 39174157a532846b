//! The control socket over real TCP: a controller on one side, cores that answer from a script on the other.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sfu_core::config::Secret;
use sfu_core::control::proto::{
    CoreInfo, Fingerprint, MAX_MESSAGE_BYTES, NodeInfo, Op, RoomInfo, RoomStats, TransportState, VERSION,
};
use sfu_core::control::server::{CommandSink, EventSink, ServerConfig, event_queue, serve};
use sfu_core::metrics::{ControlCounters, CoreProbe, NodeMetrics};
use sfu_core::shard::{Answer, Command, Event, Gauges, OpError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const SECRET: &str = "cluster-secret";
const PATIENCE: Duration = Duration::from_secs(10);

/// Rooms that are open, with the core they are on.
type Rooms = Mutex<Vec<(String, u16)>>;

/// A node whose cores are closures.
struct FakeNode {
    addr: SocketAddr,
    events: EventSink,
    rooms: Arc<Rooms>,
    counters: Arc<ControlCounters>,
    stop: mpsc::Sender<()>,
    serving: JoinHandle<()>,
}

/// How a fake core behaves beyond the ordinary.
#[derive(Clone, Copy, Default)]
struct Behaviour {
    /// Its inbox is always full.
    full: bool,
    /// It never answers `CloseAll`.
    deaf: bool,
}

impl FakeNode {
    async fn start(behaviour: Behaviour, drain: Duration) -> FakeNode {
        let counters = Arc::new(ControlCounters::default());
        let (events, source) = event_queue(counters.clone());
        let rooms = Arc::new(Mutex::new(Vec::new()));
        let probes: Vec<CoreProbe> = (0..2)
            .map(|core| CoreProbe { core, gauges: Arc::new(Gauges::default()), thread: None })
            .collect();
        let config = ServerConfig {
            secret: Secret::new(SECRET).expect("valid"),
            info: info(),
            max_rooms: 10,
            drain,
            metrics: NodeMetrics { cores: probes.into(), control: counters.clone() },
        };
        let commands = (0..2).map(|core| fake_core(core, behaviour, rooms.clone(), events.clone())).collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("bound");
        let (stop, stopped) = mpsc::channel(2);
        let serving = tokio::spawn(serve(listener, config, commands, source, stopped));
        FakeNode { addr, events, rooms, counters, stop, serving }
    }
}

fn info() -> NodeInfo {
    NodeInfo {
        version: VERSION,
        process: "process".into(),
        software: "test".into(),
        reactor: "mmsg".into(),
        fingerprint: Fingerprint { algorithm: "sha-256".into(), value: "AA".into() },
        cores: (0..2).map(|core| CoreInfo { core, candidates: vec![] }).collect(),
        rooms: vec![],
        draining: false,
    }
}

/// Knows `openRoom` and `closeRoom`; any other op is refused.
fn fake_core(core: u16, behaviour: Behaviour, rooms: Arc<Rooms>, events: EventSink) -> CommandSink {
    Box::new(move |command| {
        if behaviour.full {
            return Err(command);
        }
        let (token, result) = match command {
            Command::Apply { token, room, ops } => (token, apply(core, &room, &ops, &rooms)),
            Command::RoomStats { token, .. } => (token, Ok(Answer::RoomStats(RoomStats::default()))),
            Command::ListRooms { token } => (token, Ok(Answer::Rooms(list(core, &rooms)))),
            Command::CloseAll { .. } if behaviour.deaf => return Ok(()),
            Command::CloseAll { token } => {
                rooms.lock().expect("lock").retain(|(_, at)| *at != core);
                (token, Ok(Answer::Done))
            }
        };
        events.push(Event::Reply { token, result });
        Ok(())
    })
}

fn apply(core: u16, room: &str, ops: &[Op], rooms: &Rooms) -> Result<Answer, OpError> {
    let mut rooms = rooms.lock().expect("lock");
    for (index, op) in ops.iter().enumerate() {
        match op {
            Op::OpenRoom { .. } => rooms.push((room.to_owned(), core)),
            Op::CloseRoom => rooms.retain(|(name, _)| name != room),
            _ => return Err(OpError { op: index, ..OpError::not_found("thing", "x") }),
        }
    }
    Ok(Answer::Done)
}

fn list(core: u16, rooms: &Rooms) -> Vec<RoomInfo> {
    let rooms = rooms.lock().expect("lock");
    let here = rooms.iter().filter(|(_, at)| *at == core);
    here.map(|(room, core)| RoomInfo {
        room: room.clone(),
        core: *core,
        transports: vec![],
        publications: vec![],
        subscriptions: vec![],
    })
    .collect()
}

/// The other side.
struct FakeController {
    socket: WebSocketStream<TcpStream>,
    next: u64,
}

impl FakeController {
    /// The HTTP status is the error when the upgrade is refused.
    async fn connect(addr: SocketAddr, authorization: Option<&str>) -> Result<FakeController, u16> {
        let mut request = format!("ws://{addr}/kurento").into_client_request().expect("valid URI");
        if let Some(value) = authorization {
            request.headers_mut().insert("authorization", value.parse().expect("header"));
        }
        let stream = TcpStream::connect(addr).await.expect("connects");
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(FakeController { socket, next: 0 }),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Connected, with hello said.
    async fn greeted(addr: SocketAddr) -> (FakeController, Value) {
        let mut controller = Self::connect(addr, Some("Bearer cluster-secret")).await.expect("accepted");
        let hello = controller.call("hello", json!({"version": VERSION, "loadIntervalMs": 100})).await;
        (controller, hello)
    }

    async fn send(&mut self, method: &str, params: Value) -> u64 {
        self.next += 1;
        let frame = json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        self.socket.send(Message::text(frame.to_string())).await.expect("sends");
        self.next
    }

    /// The next text frame; `None` when the connection has ended.
    async fn next_frame(&mut self) -> Option<Value> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("in time")? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Close(frame)) => {
                    return Some(json!({"closed": frame.map(|f| u16::from(f.code))}));
                }
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    /// The next frame that `wanted` likes.
    async fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.next_frame().await.expect("connection is up");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        self.find(|frame| frame["id"] == id).await
    }

    async fn open_room(&mut self, room: &str, core: u16) {
        let answer =
            self.call("apply", json!({"room": room, "ops": [{"op": "openRoom", "core": core}]})).await;
        assert_eq!(answer["result"], json!({}), "{answer}");
    }

    async fn closed(&mut self) -> Value {
        self.find(|frame| frame.get("closed").is_some()).await["closed"].clone()
    }
}

async fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("reads");
    text
}

#[tokio::test]
async fn only_the_secret_opens_the_door() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    for (authorization, status) in [
        (None, Some(401)),
        (Some("Bearer wrong"), Some(401)),
        (Some("Bearer cluster-secre"), Some(401)),
        (Some("Basic cluster-secret"), Some(401)),
        (Some("Bearer "), Some(401)),
        (Some("Bearer cluster-secret"), None),
        (Some("bearer cluster-secret"), None),
    ] {
        let refused = FakeController::connect(node.addr, authorization).await.err();
        assert_eq!(refused, status, "{authorization:?}");
    }
    assert_eq!(node.counters.unauthorized.load(Ordering::Relaxed), 5);
}

#[tokio::test]
async fn requests_reach_the_room_and_answers_come_in_order() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let (mut controller, hello) = FakeController::greeted(node.addr).await;
    assert_eq!(hello["result"]["process"], "process");
    assert_eq!(hello["result"]["cores"].as_array().map(Vec::len), Some(2));
    // Pipelined: nobody waits for an answer before the next request.
    for (room, ops) in [
        ("a", json!([{"op": "openRoom", "core": 0}])),
        ("b", json!([{"op": "openRoom", "core": 1}])),
        ("a", json!([{"op": "openRoom", "core": 0}, {"op": "unpublish", "publication": "p"}])),
        ("c", json!([{"op": "closeRoom"}])),
        ("b", json!([{"op": "closeRoom"}])),
    ] {
        controller.send("apply", json!({"room": room, "ops": ops})).await;
    }
    let mut answers = Vec::new();
    while answers.len() < 5 {
        let frame = controller.find(|frame| frame.get("id").is_some()).await;
        answers.push((frame["id"].as_u64().expect("id"), frame["error"].clone()));
    }
    // Refusals of the control thread itself overtake nothing on the same core, but may come before other answers.
    answers.sort_by_key(|(id, _)| *id);
    let code_and_op = |(_, error): &(u64, Value)| (error["code"].as_i64(), error["data"]["op"].as_u64());
    assert_eq!(
        answers.iter().map(code_and_op).collect::<Vec<_>>(),
        [(None, None), (None, None), (Some(2), Some(1)), (Some(2), Some(0)), (None, None)]
    );
    let rooms: Vec<_> =
        node.rooms.lock().expect("lock").iter().map(|(room, core)| (room.clone(), *core)).collect();
    assert_eq!(rooms, [("a".to_owned(), 0), ("a".to_owned(), 0)]);
    let stats = controller.call("roomStats", json!({"room": "a"})).await;
    assert_eq!(stats["result"], json!({"inbound": [], "outbound": []}));
}

#[tokio::test]
async fn garbage_is_answered_and_oversize_ends_the_connection() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    for text in ["", "{", "[]", "{\"jsonrpc\":\"2.0\",\"method\":\"drain\"}"] {
        controller.socket.send(Message::text(text)).await.expect("sends");
        let frame = controller.find(|frame| frame.get("error").is_some()).await;
        assert_eq!((&frame["id"], &frame["error"]["code"]), (&Value::Null, &json!(-32600)), "{text}");
    }
    // The largest message that is allowed is only an unknown room.
    let fill = |bytes: usize| {
        let frame =
            json!({"jsonrpc": "2.0", "id": 77, "method": "roomStats", "params": {"room": "x"}}).to_string();
        format!("{frame}{}", " ".repeat(bytes - frame.len()))
    };
    controller.socket.send(Message::text(fill(MAX_MESSAGE_BYTES))).await.expect("sends");
    assert_eq!(controller.find(|frame| frame["id"] == 77).await["error"]["code"], 2);
    let _ = controller.socket.send(Message::text(fill(MAX_MESSAGE_BYTES + 1))).await;
    loop {
        match controller.next_frame().await {
            Some(frame) if frame["method"] == "load" => {}
            // The kernel may reset the connection before the close frame is read.
            None => break,
            Some(frame) => {
                assert_eq!(frame["closed"], 1009, "{frame}");
                break;
            }
        }
    }
    FakeController::greeted(node.addr).await;
}

#[tokio::test]
async fn binary_frames_are_refused() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    controller.socket.send(Message::binary(vec![1, 2, 3])).await.expect("sends");
    assert_eq!(controller.closed().await, 1003);
}

#[tokio::test]
async fn rooms_outlive_the_controller_and_the_next_one_is_told() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let (mut first, _) = FakeController::greeted(node.addr).await;
    first.open_room("kept", 1).await;
    drop(first);
    let (mut second, hello) = FakeController::greeted(node.addr).await;
    assert_eq!(hello["result"]["rooms"][0]["room"], "kept");
    assert_eq!(hello["result"]["rooms"][0]["core"], 1);
    let elsewhere =
        second.call("apply", json!({"room": "kept", "ops": [{"op": "openRoom", "core": 0}]})).await;
    assert_eq!(elsewhere["error"]["code"], 3);
    // A third one takes over although the second is still there.
    let (mut third, hello) = FakeController::greeted(node.addr).await;
    assert_eq!(second.closed().await, 4000);
    assert_eq!(hello["result"]["rooms"].as_array().map(Vec::len), Some(1));
    third.open_room("more", 0).await;
}

#[tokio::test]
async fn events_and_load_reach_the_controller() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    node.events.push(Event::TransportState {
        room: "r".into(),
        transport: "t".into(),
        state: TransportState::Failed,
        reason: "consent expired",
    });
    let event = controller.find(|frame| frame["method"] == "transportState").await;
    assert_eq!(
        event["params"],
        json!({"room": "r", "transport": "t", "state": "failed", "reason": "consent expired"})
    );
    let load = controller.find(|frame| frame["method"] == "load").await;
    assert_eq!(load["params"]["cores"].as_array().map(Vec::len), Some(2));
    assert!(load["params"]["residentBytes"].as_u64().is_some_and(|bytes| bytes > 0));
}

#[tokio::test]
async fn a_full_core_refuses_and_says_so() {
    let node = FakeNode::start(Behaviour { full: true, deaf: false }, Duration::ZERO).await;
    let mut controller =
        FakeController::connect(node.addr, Some("Bearer cluster-secret")).await.expect("accepted");
    controller.send("hello", json!({"version": VERSION, "loadIntervalMs": 100})).await;
    // A core that cannot be asked what it runs: the controller has to come again.
    assert_eq!(controller.closed().await, 1013);
    assert!(node.counters.inbox_full.load(Ordering::Relaxed) >= 1);
}

#[tokio::test]
async fn lost_events_make_the_controller_reconcile() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    controller.open_room("r", 0).await;
    // The test holds the only thread, so the queue must run over.
    while node.counters.events_lost.load(Ordering::Relaxed) == 0 {
        node.events.push(Event::TransportState {
            room: "r".into(),
            transport: "t".into(),
            state: TransportState::New,
            reason: "",
        });
    }
    assert_eq!(controller.closed().await, 1001);
    let (_, hello) = FakeController::greeted(node.addr).await;
    assert_eq!(hello["result"]["rooms"][0]["room"], "r");
}

#[tokio::test]
async fn metrics_and_health_need_no_secret() {
    let node = FakeNode::start(Behaviour::default(), Duration::ZERO).await;
    let health = get(node.addr, "/health").await;
    assert!(health.starts_with("HTTP/1.1 200 OK") && health.contains("\"controller\":false"), "{health}");
    let (_controller, _) = FakeController::greeted(node.addr).await;
    assert!(get(node.addr, "/health").await.contains("\"controller\":true"));
    let metrics = get(node.addr, "/metrics").await;
    assert!(metrics.contains("application/openmetrics-text"), "{metrics}");
    assert!(metrics.contains("weir_node_control_connected 1") && metrics.ends_with("# EOF\n"), "{metrics}");
    assert!(get(node.addr, "/else").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn shutdown_closes_the_rooms_and_ends() {
    let node = FakeNode::start(Behaviour::default(), Duration::from_secs(60)).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    controller.open_room("r", 0).await;
    assert_eq!(controller.call("shutdown", json!({})).await["result"], json!({}));
    assert_eq!(controller.closed().await, 1001);
    timeout(PATIENCE, node.serving).await.expect("ends").expect("no panic");
    assert!(node.rooms.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn a_stop_waits_for_the_rooms_and_a_second_one_does_not() {
    let node = FakeNode::start(Behaviour::default(), Duration::from_secs(60)).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    controller.open_room("r", 0).await;
    node.stop.send(()).await.expect("serving");
    let late = loop {
        let answer =
            controller.call("apply", json!({"room": "late", "ops": [{"op": "openRoom", "core": 0}]})).await;
        if answer.get("error").is_some() {
            break answer;
        }
        controller.call("apply", json!({"room": "late", "ops": [{"op": "closeRoom"}]})).await;
    };
    assert_eq!(late["error"]["code"], 5, "{late}");
    assert!(!node.serving.is_finished());
    node.stop.send(()).await.expect("serving");
    timeout(PATIENCE, node.serving).await.expect("ends").expect("no panic");
}

#[tokio::test]
async fn a_core_that_hangs_does_not_keep_the_node() {
    let node = FakeNode::start(Behaviour { full: false, deaf: true }, Duration::ZERO).await;
    let (mut controller, _) = FakeController::greeted(node.addr).await;
    controller.open_room("r", 0).await;
    node.stop.send(()).await.expect("serving");
    timeout(PATIENCE, node.serving).await.expect("ends").expect("no panic");
}

//! Links against scripted nodes: in memory for behaviour, refusing for the reconnect schedule.

use std::collections::VecDeque;
use std::sync::Mutex;

use serde_json::{Value, json};
use sfu_core::control::proto::{Fingerprint, NodeLoad, VERSION};
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// What happens when the link dials.
enum Dialled {
    /// Refused at once.
    Refused,
    /// Never answers.
    Hangs,
    /// The test plays the node at the other end.
    Stream(DuplexStream),
}

/// Plays a script and notes when it was dialled. When the script is over, dialling is refused.
#[derive(Default)]
struct Script {
    plan: Mutex<VecDeque<Dialled>>,
    dialled: Mutex<Vec<Instant>>,
}

#[derive(Clone, Default)]
struct ScriptedDial(Arc<Script>);

impl Dial for ScriptedDial {
    type Stream = DuplexStream;

    async fn dial(&self, _: &NodeUri) -> io::Result<DuplexStream> {
        self.0.dialled.lock().expect("lock").push(Instant::now());
        let step = self.0.plan.lock().expect("lock").pop_front();
        match step {
            Some(Dialled::Stream(stream)) => Ok(stream),
            Some(Dialled::Hangs) => std::future::pending().await,
            Some(Dialled::Refused) | None => Err(io::Error::from(io::ErrorKind::ConnectionRefused)),
        }
    }
}

struct Fixture {
    links: NodeLinks<ScriptedDial>,
    events: mpsc::Receiver<LinkEvent>,
    script: ScriptedDial,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut LinkConfig)) -> Fixture {
        let mut config = LinkConfig::new("s3cret");
        change(&mut config);
        let (sender, events) = mpsc::channel(64);
        let script = ScriptedDial::default();
        Fixture { links: NodeLinks::with_dial(config, script.clone(), sender), events, script }
    }

    /// Lets the next dial succeed; returns the node's end.
    fn expect_dial(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        self.push(Dialled::Stream(ours));
        theirs
    }

    fn push(&self, step: Dialled) {
        self.script.0.plan.lock().expect("lock").push_back(step);
    }

    fn connect(&mut self) {
        self.links.connect(node(), "ws://10.0.0.1:8888/kurento".parse().expect("valid"));
    }

    async fn event(&mut self) -> LinkEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("links live")
    }

    /// A connected link, and the node it is connected to.
    async fn up(change: impl FnOnce(&mut LinkConfig)) -> (Fixture, FakeNode) {
        let mut fixture = Fixture::new(change);
        let stream = fixture.expect_dial();
        fixture.connect();
        let node = FakeNode::accept(stream).await;
        assert!(matches!(fixture.event().await, LinkEvent::Up { .. }));
        (fixture, node)
    }

    fn close_room(&self, token: u64) -> Result<(), NodeError> {
        self.links.apply(&node(), token, format!("room{token}"), vec![Op::CloseRoom])
    }

    async fn reply(&mut self) -> (u64, Result<(), i64>) {
        match self.event().await {
            LinkEvent::Reply { token, result } => (token, result.map_err(|error| error.code)),
            other => panic!("{other:?}"),
        }
    }
}

fn node() -> NodeId {
    NodeId::from("media_A".to_owned())
}

fn info() -> NodeInfo {
    NodeInfo {
        version: VERSION,
        process: "p1".into(),
        software: "0".into(),
        reactor: "mmsg".into(),
        fingerprint: Fingerprint { algorithm: "sha-256".into(), value: "AA".into() },
        cores: vec![],
        rooms: vec![],
        draining: false,
    }
}

/// The node's end of a connection.
struct FakeNode(WebSocketStream<DuplexStream>);

impl FakeNode {
    /// Takes the upgrade and answers hello.
    async fn accept(stream: DuplexStream) -> FakeNode {
        let mut node = FakeNode::upgrade(stream).await;
        let hello = node.receive().await;
        assert_eq!((&hello["method"], &hello["params"]["version"]), (&json!("hello"), &json!(VERSION)));
        node.send(json!({"jsonrpc": "2.0", "id": hello["id"], "result": info()})).await;
        node
    }

    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    async fn upgrade(stream: DuplexStream) -> FakeNode {
        let check = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/kurento");
            assert_eq!(request.headers()["authorization"], "Bearer s3cret");
            assert_eq!(request.headers()["host"], "10.0.0.1:8888");
            Ok(response)
        };
        FakeNode(tokio_tungstenite::accept_hdr_async(stream, check).await.expect("upgrade"))
    }

    async fn receive(&mut self) -> Value {
        use futures_util::StreamExt;
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("in time").expect("open").expect("sound") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Close(_) => return json!("closed"),
                _ => {}
            }
        }
    }

    async fn send(&mut self, frame: Value) {
        use futures_util::SinkExt;
        self.0.send(Message::text(frame.to_string())).await.expect("sends");
    }
}

#[tokio::test]
async fn says_hello_and_tells_what_the_node_is() {
    let mut fixture = Fixture::new(|config| config.load_interval = Duration::from_secs(3));
    let stream = fixture.expect_dial();
    fixture.connect();
    let mut fake = FakeNode::upgrade(stream).await;
    let hello = fake.receive().await;
    assert_eq!(hello["params"], json!({"version": VERSION, "loadIntervalMs": 3000}));
    fake.send(json!({"jsonrpc": "2.0", "id": hello["id"], "result": info()})).await;
    assert_eq!(fixture.event().await, LinkEvent::Up { node: node(), info: Box::new(info()) });
    fake.send(json!({"jsonrpc": "2.0", "method": "load", "params": {"load": 7.0}})).await;
    let notification = Notification::Load(NodeLoad { load: 7.0, ..NodeLoad::default() });
    assert_eq!(fixture.event().await, LinkEvent::Notification { node: node(), notification });
}

#[tokio::test]
async fn requests_are_pipelined_in_order() {
    let (mut fixture, mut fake) = Fixture::up(|_| {}).await;
    for token in 0..200 {
        fixture.close_room(token).expect("queued");
    }
    let mut ids = Vec::new();
    for token in 0..200u64 {
        let request = fake.receive().await;
        assert_eq!(request["params"], json!({"room": format!("room{token}"), "ops": [{"op": "closeRoom"}]}));
        ids.push(request["id"].clone());
    }
    fake.send(json!({"id": ids[1], "error": {"code": 2, "message": "gone", "data": {"op": 0}}})).await;
    fake.send(json!({"id": ids[0], "result": {}})).await;
    assert_eq!(fixture.reply().await, (1, Err(2)));
    assert_eq!(fixture.reply().await, (0, Ok(())));
    fixture.links.drain(&node()).expect("queued");
    fixture.links.shutdown(&node()).expect("queued");
    assert_eq!(fake.receive().await["method"], "drain");
    assert_eq!(fake.receive().await["method"], "shutdown");
}

#[tokio::test]
async fn a_loss_answers_what_was_on_its_way_and_connects_again() {
    let (mut fixture, mut fake) = Fixture::up(|config| config.retry_every = Duration::from_millis(50)).await;
    fixture.close_room(1).expect("queued");
    fake.receive().await;
    fixture.push(Dialled::Refused);
    let again = fixture.expect_dial();
    drop(fake);
    assert_eq!(fixture.reply().await, (1, Err(NodeError::LOST)));
    assert_eq!(fixture.event().await, LinkEvent::Down { node: node() });
    assert!(matches!(fixture.event().await, LinkEvent::Unreachable { attempt: 1, .. }));
    // Between two connections requests are refused, not kept.
    fixture.close_room(2).expect("queued");
    assert_eq!(fixture.reply().await, (2, Err(NodeError::LOST)));
    FakeNode::accept(again).await;
    assert!(matches!(fixture.event().await, LinkEvent::Up { .. }));
}

#[tokio::test]
async fn six_attempts_in_three_seconds() {
    let (mut fixture, fake) = Fixture::up(|_| {}).await;
    // Longer than one period, so that the first attempt is due at once.
    sleep(Duration::from_millis(600)).await;
    let lost_at = Instant::now();
    drop(fake);
    assert_eq!(fixture.event().await, LinkEvent::Down { node: node() });
    for attempt in 1..=7 {
        match fixture.event().await {
            LinkEvent::Unreachable { attempt: counted, .. } => assert_eq!(counted, attempt),
            other => panic!("{other:?}"),
        }
    }
    let dialled = fixture.script.0.dialled.lock().expect("lock")[1..].to_vec();
    for pair in dialled.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= Duration::from_millis(499), "{gap:?}");
    }
    // The first at once, the sixth 2.5 s later; the machine may be busy, but not by a whole period.
    assert!(dialled[5] - lost_at < Duration::from_millis(3_000), "{:?}", dialled[5] - lost_at);
    assert!(dialled[6] - lost_at >= Duration::from_millis(2_990), "{:?}", dialled[6] - lost_at);
}

#[tokio::test]
async fn an_attempt_that_hangs_is_given_up_and_the_next_follows_at_once() {
    let mut fixture = Fixture::new(|config| {
        config.connect_timeout = Duration::from_millis(300);
        config.retry_every = Duration::from_millis(100);
    });
    fixture.push(Dialled::Hangs);
    fixture.connect();
    let LinkEvent::Unreachable { attempt: 1, reason, .. } = fixture.event().await else { panic!("refused") };
    assert_eq!(reason, "no connection within 300 ms");
    assert!(matches!(fixture.event().await, LinkEvent::Unreachable { attempt: 2, .. }));
    let dialled = fixture.script.0.dialled.lock().expect("lock").clone();
    assert!(dialled[1] - dialled[0] >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_refused_secret_or_version_is_said() {
    for (answer, part) in [
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "refuses the cluster secret"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "HTTP 503"),
    ] {
        use tokio::io::AsyncWriteExt;
        let mut fixture = Fixture::new(|_| {});
        let mut stream = fixture.expect_dial();
        fixture.connect();
        stream.write_all(answer.as_bytes()).await.expect("writes");
        let LinkEvent::Unreachable { reason, .. } = fixture.event().await else { panic!("refused") };
        assert!(reason.contains(part), "{reason}");
    }
    let mut fixture = Fixture::new(|_| {});
    let stream = fixture.expect_dial();
    fixture.connect();
    let mut fake = FakeNode::upgrade(stream).await;
    let id = fake.receive().await["id"].clone();
    fake.send(json!({"id": id, "error": {"code": 1, "message": "version 1 asked for, this node speaks 2"}}))
        .await;
    let LinkEvent::Unreachable { reason, .. } = fixture.event().await else { panic!("refused") };
    assert!(reason.contains("this node speaks 2"), "{reason}");
}

#[tokio::test]
async fn a_request_without_an_answer_times_out() {
    let (mut fixture, mut fake) = Fixture::up(|config| {
        config.request_timeout = Duration::from_millis(200);
        config.heartbeat = Duration::from_millis(50);
    })
    .await;
    fixture.close_room(5).expect("queued");
    let id = fake.receive().await["id"].clone();
    // The node is well, it only does not answer; it has to be read for its pongs to be written.
    let (answer, ()) = tokio::join!(fixture.reply(), async {
        let _ = timeout(Duration::from_millis(400), fake.receive()).await;
    });
    assert_eq!(answer, (5, Err(NodeError::LOST)));
    // The answer that comes too late goes nowhere, the connection is the same.
    fake.send(json!({"id": id, "result": {}})).await;
    fixture.close_room(6).expect("queued");
    let id = fake.receive().await["id"].clone();
    fake.send(json!({"id": id, "result": {}})).await;
    assert_eq!(fixture.reply().await, (6, Ok(())));
}

#[tokio::test]
async fn a_node_that_falls_silent_is_lost() {
    let (mut fixture, _fake) = Fixture::up(|config| {
        config.heartbeat = Duration::from_millis(50);
        config.silence = Duration::from_millis(300);
    })
    .await;
    // Nobody reads the fake node's end, so no ping is answered.
    assert_eq!(fixture.event().await, LinkEvent::Down { node: node() });
}

#[tokio::test]
async fn an_unwanted_link_closes_and_answers() {
    let (mut fixture, mut fake) = Fixture::up(|_| {}).await;
    fixture.close_room(1).expect("queued");
    fake.receive().await;
    fixture.links.disconnect(&node());
    assert_eq!(fake.receive().await, json!("closed"));
    assert_eq!(fixture.reply().await, (1, Err(NodeError::LOST)));
    assert_eq!(fixture.close_room(2).expect_err("no link").code, NodeError::LOST);
    drop(fixture.links);
    // No `Down`, and no task that goes on dialling.
    assert_eq!(timeout(PATIENCE, fixture.events.recv()).await.expect("in time"), None);
}

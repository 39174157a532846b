//! A whole node as a controller meets it: real cores, real sockets, both reactors.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sfu_core::config::{NodeConfig, Settings};
use sfu_core::control::proto::VERSION;
use sfu_core::node::{Node, NodeError};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const PATIENCE: Duration = Duration::from_secs(20);

fn config(change: impl FnOnce(&mut Settings)) -> NodeConfig {
    let mut settings = Settings {
        listen: Some("127.0.0.1:0".into()),
        secret: Some("s3cret".into()),
        media_addresses: Some("127.0.0.1,::1".into()),
        media_port: Some("0".into()),
        cores: Some("2".into()),
        slots_per_core: Some("512".into()),
        ..Settings::default()
    };
    change(&mut settings);
    NodeConfig::parse(&settings).expect("valid")
}

/// A controller that has said hello.
struct Controller {
    socket: WebSocketStream<TcpStream>,
    next: u64,
}

impl Controller {
    async fn greeted(addr: SocketAddr) -> (Controller, Value) {
        let mut request = format!("ws://{addr}/kurento").into_client_request().expect("valid URI");
        request.headers_mut().insert("authorization", "Bearer s3cret".parse().expect("header"));
        let stream = TcpStream::connect(addr).await.expect("connects");
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("accepted");
        let mut controller = Controller { socket, next: 0 };
        let hello = controller.call("hello", json!({"version": VERSION, "loadIntervalMs": 100})).await;
        (controller, hello["result"].clone())
    }

    async fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = timeout(PATIENCE, self.socket.next()).await.expect("in time").expect("open");
            if let Message::Text(text) = frame.expect("sound") {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                if wanted(&frame) {
                    return frame;
                }
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.socket.send(Message::text(frame.to_string())).await.expect("sends");
        self.find(|frame| frame["id"] == id).await
    }

    async fn apply(&mut self, room: &str, ops: Value) -> Value {
        self.call("apply", json!({"room": room, "ops": ops})).await
    }
}

/// Waits for a node to end, off the runtime's thread.
async fn ended(node: Node) {
    timeout(PATIENCE, tokio::task::spawn_blocking(|| node.join()))
        .await
        .expect("ends")
        .expect("no panic")
        .expect("nothing had ended before");
}

async fn lives_and_ends(reactor: &str) {
    let node = match Node::start(&config(|settings| settings.reactor = Some(reactor.into()))) {
        Ok(node) => node,
        // Containers commonly forbid it; `auto` covers that case.
        Err(NodeError::Core { reason, .. }) if reactor == "io_uring" => {
            eprintln!("io_uring is not to be had here: {reason}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (mut controller, hello) = Controller::greeted(node.control).await;
    assert_eq!(hello["fingerprint"]["algorithm"], "sha-256");
    assert_eq!(hello["fingerprint"]["value"].as_str().map(str::len), Some(95));
    assert_eq!(hello["process"].as_str().map(str::len), Some(32));
    if reactor != "auto" {
        assert_eq!(hello["reactor"], reactor);
    }
    let mut ports = Vec::new();
    for core in hello["cores"].as_array().expect("cores") {
        for candidate in core["candidates"].as_array().expect("candidates") {
            let bound: SocketAddr = candidate["bound"].as_str().expect("text").parse().expect("address");
            assert_eq!(candidate["port"], bound.port());
            ports.push(bound);
        }
    }
    assert_eq!(ports.len(), 4, "two cores with two addresses each");

    // One room per core, with a transport each.
    for core in 0..2 {
        let ice = json!({"ufrag": format!("ufrag{core}"), "pwd": "0123456789012345678901"});
        let ops =
            json!([{"op": "openRoom", "core": core}, {"op": "openTransport", "transport": "t", "ice": ice}]);
        let answer = controller.apply(&format!("room{core}"), ops).await;
        assert_eq!(answer["result"], json!({}), "{answer}");
    }
    let beyond = controller.apply("room2", json!([{"op": "openRoom", "core": 2}])).await;
    assert_eq!(beyond["error"]["code"], 4);
    let unknown = controller.apply("room1", json!([{"op": "unsubscribe", "subscription": "s"}])).await;
    assert_eq!((&unknown["error"]["code"], &unknown["error"]["data"]), (&json!(2), &json!({"op": 0})));
    let load = controller
        .find(|frame| {
            frame["params"]["cores"].as_array().is_some_and(|cores| cores.iter().all(|c| c["rooms"] == 1))
        })
        .await;
    assert_eq!(
        (&load["method"], load["params"]["cores"].as_array().map(Vec::len)),
        (&json!("load"), Some(2))
    );

    // The controller goes, the rooms stay.
    drop(controller);
    let (mut controller, again) = Controller::greeted(node.control).await;
    assert_eq!(again["process"], hello["process"]);
    let mut rooms: Vec<Value> = again["rooms"].as_array().expect("rooms").clone();
    rooms.sort_by_key(|room| room["core"].as_u64());
    let shown: Vec<_> =
        rooms.iter().map(|room| (&room["room"], &room["core"], &room["transports"][0]["state"])).collect();
    assert_eq!(
        shown,
        [(&json!("room0"), &json!(0), &json!("new")), (&json!("room1"), &json!(1), &json!("new")),]
    );
    assert_eq!(controller.call("shutdown", json!({})).await["result"], json!({}));
    ended(node).await;
    for port in ports {
        // A ring lets go of its sockets a moment after its thread has ended.
        let free = async {
            while UdpSocket::bind(port).is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, free).await.unwrap_or_else(|_| panic!("{port} is still held"));
    }
}

#[tokio::test]
async fn lives_and_ends_on_mmsg() {
    lives_and_ends("mmsg").await;
}

#[tokio::test]
async fn lives_and_ends_on_io_uring() {
    lives_and_ends("io_uring").await;
}

#[tokio::test]
async fn lives_and_ends_on_what_there_is() {
    lives_and_ends("auto").await;
}

#[tokio::test]
async fn a_stop_ends_it_although_rooms_are_open() {
    let node = Node::start(&config(|_| {})).expect("starts");
    let (mut controller, _) = Controller::greeted(node.control).await;
    controller.apply("r", json!([{"op": "openRoom", "core": 0}])).await;
    node.stopper().send(()).await.expect("runs");
    ended(node).await;
}

#[tokio::test]
async fn a_draining_node_ends_with_its_last_room() {
    let node = Node::start(&config(|_| {})).expect("starts");
    let (mut controller, _) = Controller::greeted(node.control).await;
    controller.apply("r", json!([{"op": "openRoom", "core": 1}])).await;
    controller.call("drain", json!({})).await;
    assert_eq!(controller.apply("s", json!([{"op": "openRoom", "core": 0}])).await["error"]["code"], 5);
    controller.apply("r", json!([{"op": "closeRoom"}])).await;
    ended(node).await;
}

#[test]
fn says_which_socket_cannot_be_had() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let port = udp.local_addr().expect("bound").port();
    let taken = config(|settings| {
        settings.media_port = Some(port.to_string());
        settings.media_addresses = Some("127.0.0.1".into());
        settings.cores = Some("1".into());
    });
    let error = Node::start(&taken).err().expect("the port is taken").to_string();
    assert!(error.contains(&format!("127.0.0.1:{port}")), "{error}");

    let foreign = config(|settings| settings.media_addresses = Some("192.0.2.1".into()));
    let error = Node::start(&foreign).err().expect("not our address").to_string();
    assert!(error.contains("192.0.2.1"), "{error}");

    let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = tcp.local_addr().expect("bound");
    let error = Node::start(&config(|settings| settings.listen = Some(address.to_string())));
    let error = error.err().expect("the control port is taken").to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[test]
fn names_the_port_setting_that_leaves_no_port_for_a_core() {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
        eprintln!("`auto` is one core here, which has a port");
        return;
    }
    let config = config(|settings| {
        settings.media_port = Some("65535".into());
        settings.media_addresses = Some("127.0.0.1".into());
        settings.cores = Some("auto".into());
    });
    let error = Node::start(&config).err().expect("there is no port 65536").to_string();
    assert!(error.contains("media-port") && error.contains("65535"), "{error}");
}

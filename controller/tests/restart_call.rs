//! The controller is killed during a call and started again: the media node goes on untouched, clients come back with
//! `connect` and find everything as it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod support;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use support::{Dir, PATIENCE, Process, Rest, free_port, listening, until};

/// A client of the signaling protocol.
struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u64,
    /// Notifications that came while an answer was waited for.
    heard: Vec<Value>,
}

impl Client {
    async fn open(port: u16) -> Self {
        let (socket, _) = connect_async(format!("ws://127.0.0.1:{port}/openvidu?sessionId=S")).await.unwrap();
        Self { socket, next_id: 0, heard: Vec::new() }
    }

    async fn read(&mut self) -> Value {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap();
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        let id = self.next_id;
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": id});
        self.socket.send(Message::text(request.to_string())).await.unwrap();
        loop {
            let message = self.read().await;
            if message["id"] == id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].clone();
            }
            self.heard.push(message);
        }
    }

    /// Params of the next notification of this name.
    async fn hear(&mut self, method: &str) -> Value {
        loop {
            let found = self.heard.iter().position(|message| message["method"] == method);
            if let Some(at) = found {
                return self.heard.remove(at)["params"].clone();
            }
            let message = self.read().await;
            self.heard.push(message);
        }
    }
}

async fn token(rest: &mut Rest) -> String {
    let (status, connection) = rest.ask("POST", "sessions/S/connection", Some(json!({}))).await.unwrap();
    assert_eq!(status, 200);
    connection["token"].as_str().unwrap().to_owned()
}

async fn join(port: u16, token: &str) -> (Client, Value) {
    let mut client = Client::open(port).await;
    let params = json!({"token": token, "session": "S", "platform": "test", "metadata": "m", "secret": ""});
    let joined = client.call("joinRoom", params).await;
    (client, joined)
}

/// A browser's offer with one audio m-line.
fn offer(direction: &str) -> String {
    let fingerprint = ["CD"; 32].join(":");
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:dPkS\r\n\
         a=ice-pwd:0123456789abcdef01234567\r\na=fingerprint:sha-256 {fingerprint}\r\na=setup:actpass\r\n\
         a=rtcp-mux\r\na={direction}\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\n"
    )
}

async fn session(port: u16) -> Value {
    let mut rest = listening(port).await;
    rest.ask("GET", "sessions/S?pendingConnections=true", None).await.unwrap().1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_when_its_controller_is_killed() {
    let dir = Dir::new("restart-call");
    let (port, control) = (free_port(), free_port());
    let secret = ("WEIR_CLUSTER_SECRET".to_owned(), "cluster-secret".to_owned());
    let mut node = Process::start(
        &[
            "node",
            "--listen",
            &format!("127.0.0.1:{control}"),
            "--media-port",
            "0",
            "--cores",
            "1",
            "--media-addresses",
            "127.0.0.1",
        ],
        std::slice::from_ref(&secret),
    );
    let variables = vec![
        secret,
        ("WEIR_DATA_DIR".into(), dir.path("data")),
        ("WEIR_LISTEN".into(), format!("127.0.0.1:{port}")),
        ("KMS_URIS".into(), format!("[\"ws://127.0.0.1:{control}/kurento\"]")),
        ("OPENVIDU_CDR".into(), "true".into()),
        ("OPENVIDU_CDR_PATH".into(), dir.path("cdr")),
    ];
    let mut weir = Process::start(&["controller"], &variables);
    let mut rest = listening(port).await;
    until("the node", || async {
        let mut rest = Rest::connect(port).await?;
        rest.ask("GET", "health", None).await.filter(|(status, _)| *status == 200)
    })
    .await;
    rest.ask("POST", "sessions", Some(json!({"customSessionId": "S"}))).await.unwrap();
    let (mut alice, alice_joined) = join(port, &token(&mut rest).await).await;
    let (mut bob, bob_joined) = join(port, &token(&mut rest).await).await;
    let params = json!({"sdpOffer": offer("sendonly"), "doLoopback": false, "hasAudio": true,
        "hasVideo": false, "audioActive": true, "videoActive": false, "typeOfVideo": "", "frameRate": -1,
        "videoDimensions": "{}"});
    let stream = alice.call("publishVideo", params).await["id"].as_str().unwrap().to_owned();
    assert_eq!(bob.hear("participantPublished").await["streams"][0]["id"], stream.as_str());
    let receive = json!({"sender": stream, "sdpOffer": offer("recvonly")});
    bob.call("receiveVideoFrom", receive.clone()).await;
    let unused = token(&mut rest).await;
    let before = session(port).await;

    weir.kill();
    assert!(node.runs(), "the media node does not care");
    weir = Process::start(&["controller"], &variables);
    let after = session(port).await;
    assert_eq!(after, before);

    // The unclean end closed what was open; both nodes count again.
    let usage = listening(port).await.ask("GET", "usage", None).await.unwrap().1;
    let master: Vec<_> =
        usage["records"].as_array().unwrap().iter().filter(|r| r["nodeRole"] == "masternode").collect();
    let reasons: Vec<_> =
        master.iter().map(|record| (&record["startReason"], &record["endReason"])).collect();
    assert_eq!(reasons, [(&json!("restart"), &Value::Null)], "{usage}");

    // Clients come back as openvidu-browser does, on a new socket with the id that joinRoom gave them.
    let mut alice = Client::open(port).await;
    let rpc = &alice_joined["sessionId"];
    let back = alice.call("connect", json!({"sessionId": rpc, "reconnect": true})).await;
    assert_eq!((&back["value"], &back["sessionId"]), (&json!("reconnection successful"), rpc));
    let mut bob = Client::open(port).await;
    bob.call("connect", json!({"sessionId": bob_joined["sessionId"], "reconnect": true})).await;
    until("the node again", || async {
        let mut rest = Rest::connect(port).await?;
        rest.ask("GET", "health", None).await.filter(|(status, _)| *status == 200)
    })
    .await;

    // A third one joins with a token from before, sees both, and can subscribe: the publication lives on the node.
    let (mut carol, joined) = join(port, &unused).await;
    let others = joined["value"].as_array().unwrap();
    assert_eq!(others.len(), 2);
    assert!(others.iter().any(|other| other["streams"][0]["id"] == stream.as_str()), "{others:?}");
    carol.call("receiveVideoFrom", receive).await;
    assert_eq!(alice.hear("participantJoined").await["id"], joined["id"]);
    // The subscription from before is the same one: it can be ended.
    bob.call("unsubscribeFromVideo", json!({"sender": alice_joined["id"]})).await;
    alice.call("unpublishVideo", json!({})).await;
    carol.hear("participantUnpublished").await;
    assert!(node.runs() && weir.runs());

    let cdr = until("the CDR", || async {
        let files = std::fs::read_dir(dir.path("cdr")).ok()?;
        let mut names: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let text: String = names.iter().map(|name| std::fs::read_to_string(name).unwrap()).collect();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let name = |line: &Value| {
            let (name, fields) = line.as_object().unwrap().iter().next().unwrap();
            format!("{name} {}", fields["reason"].as_str().unwrap_or_default())
        };
        let names: Vec<_> = lines.iter().map(name).collect();
        let done = names.iter().filter(|name| name.starts_with("webrtcConnectionDestroyed")).count() == 3;
        done.then_some(names)
    })
    .await;
    let expected = [
        "sessionCreated ",
        "participantJoined ",
        "participantJoined ",
        "webrtcConnectionCreated ",
        "webrtcConnectionCreated ",
        "participantJoined ",
        "webrtcConnectionCreated ",
        "webrtcConnectionDestroyed unsubscribe",
        "webrtcConnectionDestroyed unpublish",
        "webrtcConnectionDestroyed unpublish",
    ];
    assert_eq!(
        cdr.iter().filter(|name| !name.starts_with("mediaNode")).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
}

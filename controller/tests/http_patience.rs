//! Clients that hold a connection and do nothing with it lose it, whatever they speak.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod http_port;

use std::time::Duration;

use controller::http::{Event, Patience};
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use self::http_port::{Running, basic, request, start_with, tls_stream};

/// Short enough for a test, long enough for a busy machine.
const SHORT: Patience = Patience {
    head: Duration::from_millis(1500),
    idle: Duration::from_millis(1000),
    write: Duration::from_millis(500),
};
/// The limits above, twice, and the end of what was under way.
const LONG: Duration = Duration::from_secs(15);

/// Waits until the server has no connection left.
async fn none_open(running: &Running, what: &str) {
    let none = async {
        while running.shared.metrics.connections.get() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, none).await.unwrap_or_else(|_| panic!("{what}: the connection is still open"));
}

async fn ends(what: &str, mut stream: impl AsyncRead + Unpin) {
    let mut got = Vec::new();
    // A reset is an end as good as any.
    let ended = timeout(LONG, stream.read_to_end(&mut got)).await;
    let _ = ended.unwrap_or_else(|_| panic!("{what}: the connection is still open"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_not_waited_for() {
    let running = start_with("patience-silent", &[], SHORT).await;
    ends("a silent client with TLS", tls_stream(running.port, b"http/1.1").await).await;
    ends("a silent client with TLS and HTTP/2", tls_stream(running.port, b"h2").await).await;
    for text in ["P", "PRI * HTTP/2.0\r\n\r\nSM\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut stream = TcpStream::connect(("127.0.0.1", running.port)).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        ends(text, stream).await;
    }
    none_open(&running, "all of them").await;
}

#[tokio::test]
async fn a_client_of_http2_that_only_answers_pings_is_let_go() {
    let running = start_with("patience-h2", &[], SHORT).await;
    let stream = tls_stream(running.port, b"h2").await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request(Method::GET, "https://localhost/", None, "")).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    timeout(LONG, connection).await.expect("the server ends it").unwrap().unwrap();
    none_open(&running, "an idle one").await;
    assert_eq!(running.shared.metrics.idle.get(), 1);
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_not_kept() {
    let running = start_with("patience-unread", &[], SHORT).await;
    let name = "CDR.2026-11-22_10-00-00.log";
    std::fs::write(running.dir.join("cdr").join(name), vec![b'x'; 8 << 20]).unwrap();
    let head = format!(
        "GET /openvidu/cdr/{name} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\r\n",
        basic("MY_SECRET")
    );
    let mut stream = TcpStream::connect(("127.0.0.1", running.port)).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.readable().await.unwrap();
    none_open(&running, "an unread answer").await;
}

/// A WebSocket whose peer takes nothing, but answers pings nobody could send it: that is no sign of life.
#[tokio::test]
async fn a_websocket_that_takes_nothing_is_cut_though_it_sends() {
    let mut running = start_with("patience-ws", &[], SHORT).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], running.port).into()).await.unwrap();
    let url = format!("ws://127.0.0.1:{}/openvidu", running.port);
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    let Some(Event::SocketOpened { outbox, .. }) = running.events.recv().await else { panic!("no socket") };
    let (mut to_server, unread) = socket.split();
    let pongs = tokio::spawn(async move {
        while to_server.send(Message::Pong("here".into())).await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    });
    // Less than what cuts a client at once, more than the kernel takes for one that does not read.
    for _ in 0..60 {
        outbox.send("x".repeat(64 * 1024).into()).unwrap();
    }
    outbox.close(1000, "the engine has had enough".into()).unwrap();
    match timeout(LONG, running.events.recv()).await.expect("it ends") {
        Some(Event::SocketClosed { code: None, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(running.shared.metrics.sockets_cut.get(), 1);
    timeout(LONG, pongs).await.expect("the peer sees the end").unwrap();
    drop(unread);
}

//! The client port for real: a server on an ephemeral loopback port, a hyper client, TLS, raw sockets. The shell behind it
//! is played by the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod http_port;

use std::time::Duration;

use bytes::Bytes;
use controller::engine::RestResponse;
use controller::http::Event;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use self::http_port::{basic, body_json, request, send, start, start_echo, tls_stream};

#[tokio::test]
async fn credentials_are_asked_for() {
    let (running, _shell) = start_echo("auth").await;
    let good = basic("MY_SECRET");
    let (wrong, garbage) = (basic("MY_SECRETX"), "Basic !!!".to_owned());
    let table: &[(Method, &str, Option<&str>, u16)] = &[
        (Method::GET, "/openvidu/api/sessions", Some(&good), 200),
        (Method::GET, "/openvidu/api/sessions", Some(&wrong), 401),
        (Method::GET, "/openvidu/api/sessions", Some(&garbage), 401),
        (Method::GET, "/openvidu/api/sessions", None, 401),
        (Method::GET, "/openvidu/api/nonsense", None, 401),
        (Method::GET, "/openvidu/api/config/openvidu-publicurl", None, 200),
        (Method::HEAD, "/openvidu/api/config/openvidu-publicurl", None, 200),
        (Method::POST, "/openvidu/api/config/openvidu-publicurl", None, 401),
        (Method::GET, "/config/openvidu-publicurl", None, 200),
        (Method::GET, "/api/sessions", None, 401),
        (Method::GET, "/api/sessions", Some(&good), 200),
        (Method::GET, "/openvidu/cdr", None, 401),
        (Method::GET, "/openvidu/cdr", Some(&good), 200),
        (Method::GET, "/openvidu/recordings/x/x.mp4", None, 401),
        (Method::GET, "/openvidu/recordings/x/x.mp4", Some(&good), 404),
        (Method::GET, "/metrics", None, 401),
        (Method::GET, "/metrics", Some(&good), 200),
        (Method::GET, "/openvidu/accept-certificate", None, 200),
        (Method::GET, "/", None, 200),
        (Method::GET, "/nothing", None, 404),
        (Method::GET, "/openvidu", None, 426),
    ];
    for (method, path, auth, status) in table {
        let response = send(running.port, request(method.clone(), path, *auth, "")).await;
        assert_eq!(response.status().as_u16(), *status, "{method} {path} {auth:?}");
    }
    let refused = send(running.port, request(Method::GET, "/openvidu/api/sessions", None, "")).await;
    assert!(refused.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
    let body = body_json(&refused);
    assert_eq!((&body["status"], &body["error"]), (&json!(401), &json!("Unauthorized")));
    assert_eq!(body["path"], "/openvidu/api/sessions");
}

#[tokio::test]
async fn requests_arrive_parsed_and_answers_go_back() {
    let (running, _shell) = start_echo("parsed").await;
    let good = basic("MY_SECRET");
    let path = "/openvidu/api/sessions/a%20b/connection/?pendingConnections=true&x=%26";
    let response =
        send(running.port, request(Method::POST, path, Some(&good), "{\"role\":\"PUBLISHER\"}")).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(
        body_json(&response),
        json!({"method": "POST", "path": ["sessions", "a b", "connection"],
               "query": {"pendingConnections": "true", "x": "&"}, "body": {"role": "PUBLISHER"}})
    );
    let response =
        send(running.port, request(Method::POST, "/openvidu/api/sessions", Some(&good), " ")).await;
    assert_eq!(body_json(&response)["body"], Value::Null);
}

#[tokio::test]
async fn bad_bodies_are_refused_before_the_shell() {
    let (running, _shell) = start_echo("bodies").await;
    let good = basic("MY_SECRET");
    for (body, status) in [
        (Bytes::from("{"), 400),
        (Bytes::from("not json"), 400),
        (Bytes::from("{\"a\":1}x"), 400),
        (Bytes::from_static(b"\xff\xfe"), 400),
        (Bytes::from("[".repeat(200_000)), 400),
        (Bytes::from(format!("\"{}\"", "x".repeat((1 << 20) - 2))), 200),
        (Bytes::from(format!("\"{}\"", "x".repeat((1 << 20) - 1))), 413),
        (Bytes::from("x".repeat(3 << 20)), 413),
    ] {
        let length = body.len();
        let response =
            send(running.port, request(Method::POST, "/openvidu/api/sessions", Some(&good), body)).await;
        assert_eq!(response.status().as_u16(), status, "{length} bytes");
        if status != 200 {
            assert_eq!(body_json(&response)["status"], status);
        }
    }
}

fn preflight(origin: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(Method::OPTIONS)
        .uri("/openvidu/api/sessions")
        .header("origin", origin)
        .header("access-control-request-method", "PATCH")
        .header("access-control-request-headers", "authorization,content-type")
        .body(Full::new(Bytes::new()))
        .unwrap()
}

fn from_page(origin: &str, auth: Option<&str>) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, "/openvidu/api/sessions", auth, "");
    request.headers_mut().insert("origin", origin.parse().unwrap());
    request
}

#[tokio::test]
async fn pages_of_any_origin_may_call() {
    let secret = [("OPENVIDU_SECRET", "own")];
    for (name, vars, origin) in
        [("cors", &secret[..], "https://app.example.org:4200"), ("cors-local", &[], "http://localhost:4200")]
    {
        let running = start(name, vars).await;
        let response = send(running.port, preflight(origin)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["access-control-allow-methods"], "PATCH");
        assert_eq!(response.headers()["access-control-allow-headers"], "authorization,content-type");
        let response = send(running.port, from_page(origin, None)).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(response.headers()["access-control-allow-origin"], "*", "also on errors");
    }
}

#[tokio::test]
async fn with_the_well_known_secret_other_machines_pages_are_refused() {
    let (running, _shell) = start_echo("cors-default").await;
    let (good, origin) = (basic("MY_SECRET"), "https://app.example.org");
    let mut upgrade = request(Method::GET, "/openvidu", None, "");
    for (name, value) in [
        ("origin", origin),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ] {
        upgrade.headers_mut().insert(name, value.parse().unwrap());
    }
    for request in
        [preflight(origin), from_page(origin, Some(&good)), from_page("null", Some(&good)), upgrade]
    {
        let response = send(running.port, request).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(!response.headers().contains_key("access-control-allow-origin"));
    }
    let own = send(running.port, from_page("http://localhost:4200", Some(&good))).await;
    assert_eq!(own.status(), StatusCode::OK);
    assert_eq!(own.headers()["access-control-allow-origin"], "*");
}

#[tokio::test]
async fn cdr_files_are_listed_and_served() {
    let (running, _shell) = start_echo("cdr").await;
    let good = basic("MY_SECRET");
    let name = "CDR.2026-11-22_10-00-00.log";
    let content = "{\"sessionCreated\":{}}\n".repeat(20_000);
    std::fs::write(running.dir.join("cdr").join(name), &content).unwrap();
    std::fs::write(running.dir.join("cdr/other.txt"), "x").unwrap();
    let get = |path: String| send(running.port, request(Method::GET, &path, Some(&good), ""));
    assert_eq!(body_json(&get("/openvidu/cdr".into()).await), json!([name]));
    assert_eq!(body_json(&get("/cdr".into()).await), json!([name]));
    let file = get(format!("/openvidu/cdr/{name}")).await;
    assert_eq!(file.headers()["content-length"], content.len().to_string());
    assert_eq!(file.body(), content.as_bytes());
    for missing in ["other.txt", "..%2f..%2ftls%2fkey.pem", "CDR.1.log", "../tls/key.pem"] {
        assert_eq!(get(format!("/openvidu/cdr/{missing}")).await.status(), 404, "{missing}");
    }
}

#[tokio::test]
async fn plain_and_tls_and_http2_share_the_port() {
    let (running, _shell) = start_echo("tls").await;
    let good = basic("MY_SECRET");
    let plain = send(running.port, request(Method::GET, "/openvidu/api/sessions", Some(&good), "")).await;
    assert_eq!(plain.status(), 200);
    let stream = tls_stream(running.port, b"http/1.1").await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let answer =
        sender.send_request(request(Method::GET, "/openvidu/api/sessions", Some(&good), "")).await.unwrap();
    assert_eq!(answer.status(), 200);
    let stream = tls_stream(running.port, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let uri = "https://localhost/openvidu/api/sessions";
    let answer = sender.send_request(request(Method::GET, uri, Some(&good), "")).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
}

#[tokio::test]
async fn websockets_carry_texts_both_ways() {
    let mut running = start("ws", &[]).await;
    let url = format!("ws://127.0.0.1:{}/openvidu?sessionId=s", running.port);
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let Some(Event::SocketOpened { client, remote_ip, outbox, .. }) = running.events.recv().await else {
        panic!("no socket")
    };
    assert!(remote_ip.is_loopback());
    socket.send(Message::Ping("p".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("p".into()));
    socket.send(Message::text("{\"method\":\"ping\"}")).await.unwrap();
    match running.events.recv().await {
        Some(Event::SocketText { client: from, text }) => {
            assert_eq!((from, text.as_str()), (client, "{\"method\":\"ping\"}"));
        }
        other => panic!("{other:?}"),
    }
    // A join answer in a large session with much metadata is longer than what may wait.
    let long = "x".repeat(10 << 20);
    for text in ["one", &long] {
        outbox.send(text.into()).unwrap();
    }
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("one"));
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(long));
    outbox.send("two".into()).unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("two"));
    outbox.close(1000, "bye".into()).unwrap();
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => {
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1000, "bye"))
        }
        other => panic!("{other:?}"),
    }
    let _ = socket.next().await;
    match running.events.recv().await {
        Some(Event::SocketClosed { client: from, code, .. }) => {
            assert_eq!((from, code), (client, Some(1000)))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn websockets_over_tls_and_their_ends() {
    let mut running = start("wss", &[]).await;
    let stream = tls_stream(running.port, b"http/1.1").await;
    let (mut socket, _) = tokio_tungstenite::client_async("wss://localhost/openvidu", stream).await.unwrap();
    let Some(Event::SocketOpened { outbox, .. }) = running.events.recv().await else { panic!("no socket") };
    // A message a little over the limit arrives, for JSON-RPC to answer it; a much longer one ends the socket.
    socket.send(Message::text("x".repeat(256 * 1024 + 1))).await.unwrap();
    assert!(matches!(running.events.recv().await, Some(Event::SocketText { .. })));
    socket.send(Message::text("x".repeat(512 * 1024))).await.unwrap();
    match socket.next().await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1009),
        other => panic!("{other:?}"),
    }
    assert!(matches!(running.events.recv().await, Some(Event::SocketClosed { code: Some(1009), .. })));
    assert_eq!(running.shared.metrics.messages_too_long.get(), 1);
    drop(outbox);
    // A client that vanishes is reported.
    let url = format!("ws://127.0.0.1:{}/openvidu", running.port);
    let (socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    assert!(matches!(running.events.recv().await, Some(Event::SocketOpened { .. })));
    drop(socket);
    assert!(matches!(running.events.recv().await, Some(Event::SocketClosed { code: None, .. })));
    // A close code of the client's own reaches the shell.
    let (mut socket, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    assert!(matches!(running.events.recv().await, Some(Event::SocketOpened { .. })));
    let frame =
        tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4102.into(), reason: "closed".into() };
    socket.close(Some(frame)).await.unwrap();
    let _ = socket.next().await;
    match running.events.recv().await {
        Some(Event::SocketClosed { code, reason, .. }) => {
            assert_eq!((code, reason.as_str()), (Some(4102), "closed"))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_nobody_else_waits() {
    let mut running = start("cut", &[]).await;
    let url = format!("ws://127.0.0.1:{}/openvidu", running.port);
    let (deaf, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let Some(Event::SocketOpened { client: deaf_id, outbox: to_deaf, .. }) = running.events.recv().await
    else {
        panic!("no socket")
    };
    let (mut good, _) = tokio_tungstenite::connect_async(&url).await.unwrap();
    let Some(Event::SocketOpened { outbox: to_good, .. }) = running.events.recv().await else {
        panic!("no socket")
    };
    let text = "x".repeat(64 * 1024);
    let mut sent = 0;
    while to_deaf.send(text.clone().into()).is_ok() {
        sent += 1;
        assert!(sent < 10_000, "the queue is bounded");
        tokio::task::yield_now().await;
    }
    to_good.send("still here".into()).unwrap();
    assert_eq!(good.next().await.unwrap().unwrap(), Message::text("still here"));
    match running.events.recv().await {
        Some(Event::SocketClosed { client, .. }) => assert_eq!(client, deaf_id),
        other => panic!("{other:?}"),
    }
    assert_eq!(running.shared.metrics.sockets_cut.get(), 1);
    drop(deaf);
}

#[tokio::test]
async fn connections_are_capped() {
    let running = start("cap", &[("WEIR_MAX_CONNECTIONS", "2")]).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(TcpStream::connect(("127.0.0.1", running.port)).await.unwrap());
    }
    let mut third = TcpStream::connect(("127.0.0.1", running.port)).await.unwrap();
    let mut byte = [0];
    let read =
        tokio::time::timeout(Duration::from_secs(5), third.read(&mut byte)).await.expect("closed at once");
    assert!(matches!(read, Ok(0) | Err(_)));
    assert_eq!(running.shared.metrics.refused.get(), 1);
    drop(held);
    for _ in 0..100 {
        let response = TcpStream::connect(("127.0.0.1", running.port)).await.unwrap();
        let mut response = response;
        response.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = Vec::new();
        if response.read_to_end(&mut text).await.is_ok() && text.starts_with(b"HTTP/1.1 200") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("places are given back");
}

#[tokio::test]
async fn long_heads_are_refused() {
    let (running, _shell) = start_echo("head").await;
    let mut stream = TcpStream::connect(("127.0.0.1", running.port)).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "y".repeat(64 * 1024));
    let _ = stream.write_all(head.as_bytes()).await;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text).await;
    assert!(text.starts_with(b"HTTP/1.1 431") || text.is_empty(), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn stopping_finishes_what_is_under_way() {
    let mut running = start("stop", &[]).await;
    let port = running.port;
    let good = basic("MY_SECRET");
    let asking = tokio::spawn(async move {
        send(port, request(Method::GET, "/openvidu/api/health", Some(&good), "")).await
    });
    let Some(Event::Rest { reply, .. }) = running.events.recv().await else { panic!("no request") };
    running.stop.send(true).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "no new connections");
    reply.send(RestResponse { status: 200, body: None }).unwrap();
    assert_eq!(asking.await.unwrap().status(), 200);
    let done = std::mem::replace(&mut running.done, tokio::spawn(async {}));
    tokio::time::timeout(Duration::from_secs(5), done).await.expect("ends").unwrap();
}

#[tokio::test]
async fn the_page_may_join_where_the_demo_is_on() {
    for (demo, status) in [("true", 200), ("false", 404)] {
        let mut running = start(&format!("demo-{demo}"), &[("WEIR_DEMO", demo)]).await;
        let mut events = std::mem::replace(&mut running.events, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let Event::Rest { request, reply } = event else { continue };
                let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
                let answer = match path.as_slice() {
                    ["sessions"] => RestResponse { status: 409, body: None },
                    ["sessions", "room", "connection"] => RestResponse {
                        status: 200,
                        body: Some(json!({"token": "ws://h?sessionId=room&token=t"})),
                    },
                    _ => RestResponse { status: 404, body: None },
                };
                let _ = reply.send(answer);
            }
        });
        let on = send(running.port, request(Method::GET, "/demo", None, "")).await;
        assert_eq!(body_json(&on)["enabled"], demo == "true");
        let ask = |kind: &str, body: &str| {
            let mut request = request(Method::POST, "/demo/token", None, body.to_owned());
            request.headers_mut().insert("content-type", kind.parse().unwrap());
            send(running.port, request)
        };
        let token = ask("application/json", "{\"session\":\"room\",\"data\":\"d\"}").await;
        assert_eq!(token.status(), status);
        if status == 200 {
            assert_eq!(body_json(&token)["token"], "ws://h?sessionId=room&token=t");
            assert!(!token.headers().contains_key("access-control-allow-origin"));
            assert_eq!(
                ask("text/plain", "{\"session\":\"room\"}").await.status(),
                415,
                "no simple cross-origin POST"
            );
            assert_eq!(ask("application/json", "{}").await.status(), 400);
            let nameless = "{\"session\":\"\"}";
            assert_eq!(
                ask("application/json", nameless).await.status(),
                400,
                "or a session nobody knows is made"
            );
            for (name, value, status) in [
                ("host", "rebound.example", 403),
                ("origin", "http://evil.example", 403),
                ("origin", "null", 403),
                ("origin", "http://localhost:1", 200),
                ("host", "127.0.0.1:1", 200),
            ] {
                let mut request =
                    request(Method::POST, "/demo/token", None, "{\"session\":\"room\"}".to_owned());
                request.headers_mut().insert("content-type", "application/json".parse().unwrap());
                request.headers_mut().insert(name, value.parse().unwrap());
                assert_eq!(send(running.port, request).await.status(), status, "{name}: {value}");
            }
        }
    }
}

/// Clients that send nothing, half a head, half a body, or a byte now and then do not hold their connection for long.
#[tokio::test]
async fn slow_clients_lose_their_connection() {
    let (running, _shell) = start_echo("slow").await;
    let half_body = format!(
        "POST /openvidu/api/sessions HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\n\
         content-type: application/json\r\ncontent-length: 100\r\n\r\n{{",
        basic("MY_SECRET")
    );
    let (head_limit, body_limit) = (controller::http::HEAD_TIMEOUT, controller::http::BODY_TIMEOUT);
    let table: [(&str, &str, bool, Duration, &str); 4] = [
        ("silent", "", false, head_limit, ""),
        ("half a head", "GET /openvidu/api/config HTTP/1.1\r\nhost: loc", false, head_limit, ""),
        ("a drip", "GET /openvidu/api/config HTTP/1.1\r\nx: ", true, head_limit, ""),
        ("half a body", &half_body, false, body_limit, "HTTP/1.1 408"),
    ];
    let held = table.map(|(name, text, drips, limit, answer)| {
        let port = running.port;
        async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            let (mut reader, mut writer) = stream.into_split();
            let dripping = tokio::spawn(async move {
                while drips && writer.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                // Kept open: the server shall close it, not we.
                std::future::pending::<()>().await;
                drop(writer);
            });
            let mut got = Vec::new();
            // A reset is an end as good as any.
            let _ = tokio::time::timeout(limit + Duration::from_secs(8), reader.read_to_end(&mut got))
                .await
                .unwrap_or_else(|_| panic!("{name}: the connection is still open"));
            dripping.abort();
            let got = String::from_utf8_lossy(&got);
            assert!(got.starts_with(answer), "{name}: {got}");
        }
    });
    futures_util::future::join_all(held).await;
    let good = basic("MY_SECRET");
    let answer = send(running.port, request(Method::GET, "/openvidu/api/sessions", Some(&good), "")).await;
    assert_eq!(answer.status(), 200, "others are served meanwhile and after");
}

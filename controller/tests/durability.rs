//! The controller is killed in the middle of a burst, again and again: nothing that was answered is lost, the CDR holds each
//! event once and in order, the webhook each at least once and in order.

#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up may panic")]

mod support;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

use support::{Dir, Process, Rest, free_port, listening, until};

/// Clients that create and close sessions at one time.
const CLIENTS: usize = 6;
/// Kills.
const ROUNDS: usize = 5;

/// What a client was told is so.
#[derive(Clone, Debug, Default)]
struct Told {
    created: Vec<String>,
    tokens: Vec<(String, String)>,
    closed: Vec<String>,
    /// It was asked for and not answered: it may be so.
    unknown: HashSet<String>,
}

/// Bodies of the webhook's POSTs, in order of arrival.
#[derive(Clone, Default)]
struct Hook {
    bodies: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    async fn serve(self, listener: TcpListener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let hook = self.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let hook = hook.clone();
                async move {
                    let bytes = request.into_body().collect().await.map(|body| body.to_bytes());
                    if let Ok(body) = serde_json::from_slice(&bytes.unwrap_or_default()) {
                        hook.bodies.lock().unwrap().push(body);
                    }
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    }
}

/// Creates sessions with a token each and closes every third, until the server is gone.
async fn burst(port: u16, round: usize, client: usize) -> Told {
    let mut told = Told::default();
    let Some(mut rest) = Rest::connect(port).await else { return told };
    for number in 0.. {
        let id = format!("r{round}_c{client}_{number}");
        told.unknown.insert(id.clone());
        let body = json!({"customSessionId": id});
        let Some((200, _)) = rest.ask("POST", "sessions", Some(body)).await else { break };
        told.unknown.remove(&id);
        told.created.push(id.clone());
        let path = format!("sessions/{id}/connection");
        let Some((200, connection)) = rest.ask("POST", &path, Some(json!({"data": "d"}))).await else {
            break;
        };
        told.tokens.push((id.clone(), connection["token"].as_str().unwrap().to_owned()));
        if number % 3 == 2 {
            told.unknown.insert(id.clone());
            let Some((204, _)) = rest.ask("DELETE", &format!("sessions/{id}"), None).await else { break };
            told.unknown.remove(&id);
            told.closed.push(id);
        }
    }
    told
}

fn check_told(told: &[Told], list: &Value) {
    let mut tokens = HashMap::<&str, HashSet<&str>>::new();
    for session in list["content"].as_array().unwrap() {
        let connections = session["connections"]["content"].as_array().unwrap();
        let found = connections.iter().map(|connection| connection["token"].as_str().unwrap()).collect();
        tokens.insert(session["id"].as_str().unwrap(), found);
    }
    for told in told {
        let closed: HashSet<_> = told.closed.iter().collect();
        for id in told.created.iter().filter(|id| !told.unknown.contains(*id)) {
            assert_eq!(tokens.contains_key(id.as_str()), !closed.contains(id), "{id}");
        }
        for (id, token) in &told.tokens {
            if let Some(found) = tokens.get(id.as_str()) {
                assert!(found.contains(token.as_str()), "token of {id}");
            }
        }
    }
}

/// Name and session of each event of the CDR, in order.
fn cdr(dir: &str) -> Vec<(String, String)> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut events = Vec::new();
    for name in names {
        let text = std::fs::read_to_string(name).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "a torn line is left");
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let (name, fields) = event.as_object().unwrap().iter().next().unwrap();
            events.push((name.clone(), fields["sessionId"].as_str().unwrap().to_owned()));
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_told_is_lost_and_the_cdr_repeats_nothing() {
    let dir = Dir::new("durable");
    let hook = Hook::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(hook.clone().serve(listener));
    let port = free_port();
    let variables: Vec<_> = [
        ("WEIR_DATA_DIR", dir.path("data")),
        ("WEIR_LISTEN", format!("127.0.0.1:{port}")),
        ("OPENVIDU_CDR", "true".into()),
        ("OPENVIDU_CDR_PATH", dir.path("cdr")),
        ("OPENVIDU_WEBHOOK", "true".into()),
        ("OPENVIDU_WEBHOOK_ENDPOINT", endpoint),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec();

    let mut told = Vec::new();
    let mut weir = Process::start(&["controller"], &variables);
    for round in 0..ROUNDS {
        listening(port).await;
        let clients: Vec<_> = (0..CLIENTS).map(|client| tokio::spawn(burst(port, round, client))).collect();
        let time = rand::rng().random_range(200..1_200);
        sleep(Duration::from_millis(time)).await;
        weir.kill();
        for client in clients {
            told.push(client.await.unwrap());
        }
        weir = Process::start(&["controller"], &variables);
        let (_, list) =
            listening(port).await.ask("GET", "sessions?pendingConnections=true", None).await.unwrap();
        check_told(&told, &list);
    }
    let created: usize = told.iter().map(|told| told.created.len()).sum();
    assert!(created > ROUNDS * CLIENTS, "a burst deserves its name: {created}");

    // The last event: when it is out, all are.
    let last = json!({"customSessionId": "last"});
    listening(port).await.ask("POST", "sessions", Some(last)).await.unwrap();
    let is_last = |event: &(String, String)| event.1 == "last";
    let written =
        until("the CDR", || async { Some(cdr(&dir.path("cdr"))).filter(|all| all.iter().any(is_last)) });
    let written = written.await;
    let sent = until("the webhook", || async {
        let bodies = hook.bodies.lock().unwrap();
        let name = |body: &Value, key: &str| body[key].as_str().unwrap().to_owned();
        let all: Vec<_> = bodies.iter().map(|body| (name(body, "event"), name(body, "sessionId"))).collect();
        Some(all).filter(|all| all.iter().any(is_last))
    });
    let sent = sent.await;

    let once: BTreeSet<_> = written.iter().collect();
    assert_eq!(once.len(), written.len(), "each event once");
    for told in &told {
        for (event, ids) in [("sessionCreated", &told.created), ("sessionDestroyed", &told.closed)] {
            let places: Vec<_> = ids
                .iter()
                .map(|id| written.iter().position(|found| found.0 == event && found.1 == *id).expect(id))
                .collect();
            assert!(places.is_sorted(), "in the order of their causes");
        }
    }
    let mut seen = HashSet::new();
    let first_times: Vec<_> = sent.iter().filter(|event| seen.insert(*event)).cloned().collect();
    assert_eq!(first_times, written, "the webhook has the same, in the same order");
    println!(
        "{ROUNDS} kills, {created} sessions told, {} events in the CDR, {} in the webhook",
        written.len(),
        sent.len()
    );
}

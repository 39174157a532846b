//! Sessions and connections created through the engine and made durable, without HTTP: everything on the caller's core.

use std::sync::Arc;
use std::time::Duration;

use controller::engine::{Engine, EngineConfig, Input, Output, RestRequest};
use controller::ids::ReplyId;
use controller::shell::durable::Durable;
use controller::store::RedbStore;
use serde_json::{Value, json};

use super::{Dir, Watch, config, now_ms};

/// Requests under way at one time, as from as many clients.
const CLIENTS: usize = 64;

fn request(path: &[&str], body: Value) -> RestRequest {
    let path = path.iter().map(|part| (*part).to_owned()).collect();
    RestRequest { method: "POST".into(), path, body: Some(body), ..Default::default() }
}

/// Creates sessions with a connection each for a while; pairs per second that were answered, which is after they were on
/// disk. CDR on.
///
/// # Errors
/// The disk's.
pub async fn pairs_per_second(dir: &Dir, time: Duration) -> anyhow::Result<f64> {
    let config = config(dir.path())?;
    let store = Arc::new(RedbStore::open(&dir.path().join("weir.redb"))?);
    let (mut durable, sinks, _) = Durable::open(store, &config, now_ms())?;
    let mut engine = Engine::new(EngineConfig::default(), [1; 32], now_ms());
    let (mut next, mut pairs, watch) = (0, 0u64, Watch::start());
    let mut create = |engine: &mut Engine, durable: &mut Durable, path: &[&str], body: Value| {
        next += 1;
        let mut out = Vec::new();
        let input = Input::Rest { reply: ReplyId(next), request: request(path, body) };
        engine.handle(now_ms(), input, &mut out);
        durable.hold(engine.take_rows(), Vec::new(), out);
    };
    for _ in 0..CLIENTS {
        create(&mut engine, &mut durable, &["sessions"], json!({}));
    }
    while watch.time() < time {
        durable.progress().await;
        while let Some(out) = durable.release() {
            for output in out {
                let Output::RestReply { status, body, .. } = output else { continue };
                let body = body.unwrap_or_default();
                anyhow::ensure!(status == 200, "{body}");
                // A client that has its session asks for a connection, and then for the next session.
                if body["object"] == "session" {
                    let id = body["id"].as_str().unwrap_or_default().to_owned();
                    create(
                        &mut engine,
                        &mut durable,
                        &["sessions", &id, "connection"],
                        json!({"data": "user"}),
                    );
                } else {
                    pairs += 1;
                    create(&mut engine, &mut durable, &["sessions"], json!({}));
                }
            }
        }
        // Readers of the event log have their turn.
        tokio::task::yield_now().await;
    }
    let rate = pairs as f64 / watch.time().as_secs_f64();
    sinks.finish(Duration::from_secs(5)).await;
    Ok(rate)
}

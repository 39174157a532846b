//! `GET /media-nodes` and `/health` (`rest-api.md` sections 8 and 10).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Answer, flag, ok};
use crate::engine::{ApiError, Engine, MediaNode, RestResponse};
use crate::ids::NodeId;
use crate::session::ViewOptions;

type Query = BTreeMap<String, String>;

pub(super) fn list(engine: &Engine, query: &Query) -> RestResponse {
    let content: Vec<Value> =
        engine.nodes().iter().map(|(id, node)| to_json(engine, id, node, query)).collect();
    ok(json!({"numberOfElements": content.len(), "content": content}))
}

pub(super) fn one(engine: &Engine, id: &str, query: &Query) -> Answer {
    let node = engine.nodes().get(id).ok_or(ApiError::status(404))?;
    Ok(ok(to_json(engine, &id.into(), node, query)))
}

fn to_json(engine: &Engine, id: &NodeId, node: &MediaNode, query: &Query) -> Value {
    let mut object = json!({
        "id": id,
        "object": "mediaNode",
        "environmentId": null,
        "ip": null,
        "uri": null,
        "connected": node.connected,
        "load": (node.load.load * 100.0).round() / 100.0,
        "status": if node.running { "running" } else { "waiting-idle-to-terminate" },
        "mediaServer": engine.config().media_server,
    });
    if let Some(lost_at) = node.lost_at_ms.filter(|_| !node.connected) {
        object["disconnectionTime"] = lost_at.into();
    }
    if flag(query, "sessions", false) {
        let here = engine.sessions().filter(|s| s.place().is_some_and(|place| place.node == *id));
        object["sessions"] = here.map(|s| s.to_json(ViewOptions::default())).collect();
    }
    if flag(query, "recordings", false) {
        object["recordingIds"] = json!([]);
        object["broadcasts"] = json!([]);
    }
    object
}

/// `UP`: a node takes sessions and none is lost; `UNSTABLE`: some are lost; `DOWN`: none takes sessions.
pub(super) fn health(engine: &Engine) -> RestResponse {
    let lost: Vec<&NodeId> = engine.nodes().iter().filter(|(_, n)| !n.connected).map(|(id, _)| id).collect();
    let ready = engine.nodes().iter().any(|(_, node)| node.takes_sessions());
    let (status, text) = match (ready, lost.is_empty()) {
        (true, true) => (200, "UP"),
        (true, false) => (409, "UNSTABLE"),
        (false, _) => (503, "DOWN"),
    };
    RestResponse { status, body: Some(json!({"status": text, "disconnectedMediaNodes": lost})) }
}

//! `/media-nodes` and `/health` (`rest-api.md` sections 8 and 10).
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::field::Fields;
use super::{flag, ok, optional, required};
use crate::cluster::{DeletionStrategy, LaunchRequest, Node, NodeUri, Status};
use crate::engine::{ApiError, Engine, NewNode, Output, Removed, RestRequest, RestResponse, Wish};
use crate::ids::{NodeId, ReplyId};
use crate::session::{Session, ViewOptions};

type Query = BTreeMap<String, String>;
/// `None`: the answer follows when the outcome is known.
type Answer = Result<Option<RestResponse>, ApiError>;

pub(super) fn list(engine: &Engine, query: &Query) -> RestResponse {
    let mut sessions = if flag(query, "sessions", false) { sessions_by_node(engine) } else { HashMap::new() };
    let described = engine.nodes().iter().map(|node| {
        let here = sessions.remove(&node.id).unwrap_or_default();
        describe(engine, node, query, here)
    });
    listed(described.collect())
}

/// All sessions that have a place, in one pass.
fn sessions_by_node(engine: &Engine) -> HashMap<&NodeId, Vec<Value>> {
    let mut by_node = HashMap::<_, Vec<_>>::new();
    for session in engine.sessions() {
        if let Some(place) = session.place() {
            by_node.entry(&place.node).or_default().push(session.to_json(ViewOptions::default()));
        }
    }
    by_node
}

pub(super) fn one(engine: &Engine, id: &str, query: &Query) -> Result<RestResponse, ApiError> {
    let node = engine.nodes().get(id).ok_or(ApiError::status(404))?;
    Ok(ok(to_json(engine, node, query)))
}

/// A node as the answer to whoever waited for it.
pub fn media_node(engine: &Engine, id: &NodeId) -> RestResponse {
    one(engine, id.as_str(), &Query::new()).unwrap_or_default()
}

/// Some nodes as the answer to whoever waited for them.
pub fn media_nodes(engine: &Engine, ids: &[NodeId]) -> RestResponse {
    let found = ids.iter().filter_map(|id| engine.nodes().get(id.as_str()));
    listed(found.map(|node| to_json(engine, node, &Query::new())).collect())
}

fn listed(content: Vec<Value>) -> RestResponse {
    ok(json!({"numberOfElements": content.len(), "content": content}))
}

pub(super) fn add(
    engine: &mut Engine,
    now_ms: u64,
    reply: ReplyId,
    request: &RestRequest,
    out: &mut Vec<Output>,
) -> Answer {
    let new = new_node(optional(request.body.as_ref())?, engine)?;
    let id = engine.add_media_node(now_ms, new, out)?;
    if flag(&request.query, "wait", false) {
        engine.wait_for_node(reply, id, Wish::Running)?;
        return Ok(None);
    }
    Ok(Some(media_node(engine, &id)))
}

/// Validates the body of `POST /media-nodes`; every problem is 400. A provider's fields mean nothing where nodes are added by
/// their place, and the other way round, but they must be well formed.
fn new_node(fields: Fields<'_>, engine: &Engine) -> Result<NewNode, ApiError> {
    let uri = fields.string("uri")?;
    let environment_id = fields.string("environmentId")?.map(str::to_owned);
    let instance_type = fields.string("instanceType")?.map(str::to_owned);
    let size = fields.unsigned("volumeSize")?;
    let in_range = |size: u64| u32::try_from(size).ok().filter(|size| *size > 0);
    let volume_size = size
        .map(|size| in_range(size).ok_or(ApiError::with(400, "Property 'volumeSize' must be at least 1")))
        .transpose()?;
    match uri.filter(|_| engine.config().cluster.joins) {
        Some(uri) => {
            let uri: NodeUri =
                uri.parse().map_err(|error| ApiError::with(400, format!("Property 'uri': {error}")))?;
            Ok(NewNode::At { uri, environment_id })
        }
        None => Ok(NewNode::Launched(LaunchRequest { instance_type, volume_size })),
    }
}

pub(super) fn remove(
    engine: &mut Engine,
    now_ms: u64,
    (reply, id): (ReplyId, &str),
    query: &Query,
    out: &mut Vec<Output>,
) -> Answer {
    if engine.nodes().get(id).is_none() {
        return Err(ApiError::status(404));
    }
    let strategy = match query.get("deletion-strategy") {
        None => DeletionStrategy::default(),
        Some(text) => text
            .parse()
            .map_err(|error| ApiError::with(400, format!("Parameter 'deletion-strategy' must be {error}")))?,
    };
    match engine.remove_media_node(now_ms, id, strategy, out)? {
        Removed::Later => Ok(Some(RestResponse { status: 202, body: None })),
        Removed::Begun if !flag(query, "wait", false) => Ok(Some(RestResponse { status: 200, body: None })),
        Removed::Begun if engine.nodes().get(id).is_none() => {
            Ok(Some(RestResponse { status: 204, body: None }))
        }
        Removed::Begun => {
            engine.wait_for_node(reply, id.into(), Wish::Gone)?;
            Ok(None)
        }
    }
}

pub(super) fn patch(
    engine: &mut Engine,
    now_ms: u64,
    id: &str,
    body: Option<&Value>,
    out: &mut Vec<Output>,
) -> Result<RestResponse, ApiError> {
    let before = engine.nodes().get(id).ok_or(ApiError::status(404))?.clone();
    let text = required(body)?.mandatory_string("status")?;
    let target: Status = text
        .parse()
        .map_err(|error| ApiError::with(400, format!("Property 'status' has no value '{text}': {error}")))?;
    if !engine.patch_media_node(now_ms, id, target, out)? {
        return Ok(RestResponse { status: 204, body: None });
    }
    Ok(match engine.nodes().get(id) {
        Some(node) => ok(to_json(engine, node, &Query::new())),
        // On premises a node that is let go is gone at once.
        None => {
            let mut object = to_json(engine, &before, &Query::new());
            object["status"] = Status::Terminated.as_str().into();
            object["connected"] = false.into();
            object["disconnectionTime"] = now_ms.into();
            ok(object)
        }
    })
}

fn to_json(engine: &Engine, node: &Node, query: &Query) -> Value {
    let here = |session: &&Session| session.place().is_some_and(|place| place.node == node.id);
    let wanted = flag(query, "sessions", false);
    let sessions = wanted.then(|| engine.sessions().filter(here)).into_iter().flatten();
    describe(engine, node, query, sessions.map(|session| session.to_json(ViewOptions::default())).collect())
}

/// `sessions`: those on the node, if they are asked for.
fn describe(engine: &Engine, node: &Node, query: &Query, sessions: Vec<Value>) -> Value {
    let id = &node.id;
    let mut object = json!({
        "id": id,
        "object": "mediaNode",
        "environmentId": node.environment_id,
        "ip": node.ip,
        "uri": node.uri,
        "launchingTime": node.launched_at_ms,
        "connected": node.connected,
        "load": (engine.nodes().load(id.as_str()) * 100.0).round() / 100.0,
        "status": node.status(),
        "mediaServer": engine.config().media_server,
    });
    if let Some(connected_at) = node.connected_at_ms {
        object["connectionTime"] = connected_at.into();
    }
    if let Some(lost_at) = node.lost_at_ms.filter(|_| !node.connected) {
        object["disconnectionTime"] = lost_at.into();
    }
    if let Some(failure) = &node.failure {
        object["failure"] = failure.as_str().into();
    }
    if flag(query, "sessions", false) {
        object["sessions"] = sessions.into();
    }
    if flag(query, "recordings", false) {
        object["recordingIds"] = json!([]);
        object["broadcasts"] = json!([]);
    }
    object
}

/// Of the nodes that can host sessions: `UP`, all are connected; `UNSTABLE`, some are not; `DOWN`, none is, or there are none.
pub(super) fn health(engine: &Engine) -> RestResponse {
    let registered = engine.nodes().iter().filter(|node| node.status().can_have_load());
    let (up, lost): (Vec<&Node>, Vec<&Node>) = registered.partition(|node| node.connected);
    let lost: Vec<&NodeId> = lost.into_iter().map(|node| &node.id).collect();
    let (status, text) = match (up.is_empty(), lost.is_empty()) {
        (false, true) => (200, "UP"),
        (false, false) => (409, "UNSTABLE"),
        (true, _) => (503, "DOWN"),
    };
    RestResponse { status, body: Some(json!({"status": text, "disconnectedMediaNodes": lost})) }
}

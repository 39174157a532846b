//! `/sessions` (`rest-api.md` section 2).
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::field::{Fields, is_word};
use super::{Answer, empty, ok, optional, recording};
use crate::engine::{ApiError, Engine, EngineConfig, Nodes, Output, RestResponse};
use crate::ids::NodeId;
use crate::session::{ForcedVideoCodec, MediaMode, Reason, RecordingMode, SessionProperties, ViewOptions};

pub(super) fn list(engine: &Engine, view: ViewOptions) -> RestResponse {
    let content: Vec<Value> = engine.sessions().map(|session| session.to_json(view)).collect();
    ok(json!({"numberOfElements": content.len(), "content": content}))
}

pub(super) fn one(engine: &Engine, id: &str, view: ViewOptions) -> Answer {
    engine.session(id).map(|session| ok(session.to_json(view))).ok_or(ApiError::status(404))
}

pub(super) fn create(
    engine: &mut Engine,
    now_ms: u64,
    body: Option<&Value>,
    out: &mut Vec<Output>,
) -> Answer {
    let properties = properties(optional(body)?, engine.config(), engine.nodes())?;
    let session = engine.create_session(now_ms, properties, out)?;
    Ok(ok(session.to_json(ViewOptions::default())))
}

pub(super) fn close(engine: &mut Engine, now_ms: u64, id: &str, out: &mut Vec<Output>) -> Answer {
    engine.close_session(now_ms, id, Reason::SessionClosedByServer, out)?;
    Ok(empty(204))
}

/// Validates the body of `POST /sessions`; every problem is 400.
fn properties(
    fields: Fields<'_>,
    config: &EngineConfig,
    nodes: &Nodes,
) -> Result<SessionProperties, ApiError> {
    let custom_session_id = fields.string("customSessionId")?.unwrap_or_default();
    if !custom_session_id.is_empty() && !is_word(custom_session_id, "") {
        return Err(ApiError::with(400, "Parameter \"customSessionId\" must match [a-zA-Z0-9_-]+"));
    }
    let recording = match fields.object("defaultRecordingProperties")? {
        Some(fields) => recording::properties(fields).map_err(|e| ApiError { status: 400, ..e })?,
        None => Default::default(),
    };
    let (media_node, media_core) = media_node(fields, nodes)?;
    Ok(SessionProperties {
        media_mode: fields.one_of("mediaMode", MediaMode::parse)?.unwrap_or(MediaMode::Routed),
        recording_mode: fields
            .one_of("recordingMode", RecordingMode::parse)?
            .unwrap_or(RecordingMode::Manual),
        custom_session_id: custom_session_id.to_owned(),
        forced_video_codec: fields
            .one_of("forcedVideoCodec", ForcedVideoCodec::parse)?
            .unwrap_or(config.forced_video_codec),
        allow_transcoding: fields.boolean("allowTranscoding")?.unwrap_or(config.allow_transcoding),
        default_recording_properties: recording,
        media_node,
        media_core,
    })
}

/// `mediaNode: {"id": ..., "core": ...}`, as an object or as text that holds one; the node must take sessions. `core` is
/// Weir's own.
fn media_node(fields: Fields<'_>, nodes: &Nodes) -> Result<(Option<NodeId>, Option<u16>), ApiError> {
    let Some(value) = fields.raw("mediaNode") else { return Ok((None, None)) };
    let wrong = || ApiError::with(400, "Property 'mediaNode' must be {\"id\": string}");
    let parsed: Value;
    let value = match value {
        Value::String(text) => {
            parsed = serde_json::from_str(text).map_err(|_| wrong())?;
            &parsed
        }
        other => other,
    };
    let object = value.as_object().ok_or_else(wrong)?;
    let id = object.get("id").and_then(Value::as_str).ok_or_else(wrong)?;
    let refused = |what: String| ApiError::with(400, format!("Property 'mediaNode': {what}"));
    let media = match nodes.media(id) {
        Some(media) if nodes.takes_sessions(id) => media,
        _ if nodes.get(id).is_some() => return Err(refused(format!("media node {id} is not running"))),
        _ => return Err(refused(format!("media node {id} does not exist"))),
    };
    let core = match object.get("core") {
        None | Some(Value::Null) => None,
        Some(core) => {
            let known = media.info.cores.iter().map(|core| core.core);
            let wanted = core.as_u64().and_then(|core| u16::try_from(core).ok());
            let found = wanted.and_then(|wanted| known.into_iter().find(|known| *known == wanted));
            Some(found.ok_or_else(|| refused(format!("media node {id} has no core {core}")))?)
        }
    };
    Ok((Some(id.into()), core))
}

//! What can be answered without the engine: `/config`, `/status`, recordings (`rest-api.md` sections 6, 9, 10), the description of the API.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::route::WRONG_METHOD;
use super::{empty, ok, refusal};
use crate::config::{Config, OPENVIDU_VERSION};
use crate::engine::{ApiError, RestRequest, RestResponse};

/// Description of this API (OpenAPI 3.1).
pub(super) static OPENAPI: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../api/openapi.json")).expect("checked by the tests")
});

/// What the server knows about itself.
#[derive(Clone, Debug)]
pub struct ServerInfo {
    /// Start of the process, UTC milliseconds.
    pub start_ms: u64,
    /// Restarts by `POST /restart` so far.
    pub restarts: u64,
    /// Time of the last of them, UTC milliseconds; the start if there was none.
    pub last_restart_ms: u64,
    /// Name of the cluster.
    pub cluster_id: String,
}

/// The answer, or `None` when the request is for the engine.
pub fn answer(
    config: &Config,
    info: &ServerInfo,
    request: &RestRequest,
    now_ms: u64,
) -> Option<RestResponse> {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let method = if request.method == "HEAD" { "GET" } else { request.method.as_str() };
    match path.as_slice() {
        ["config", rest @ ..] if rest.len() < 2 => Some(match (method, rest) {
            (_, [name]) if variant(config, name).is_none() => empty(404),
            ("GET", [name]) => ok(variant(config, name).unwrap_or(Value::Null)),
            ("GET", _) => ok(active(config, info)),
            _ => empty(WRONG_METHOD),
        }),
        ["status"] if method == "GET" => Some(ok(json!({
            "startTime": info.start_ms,
            "restartCounter": info.restarts,
            "lastRestartTime": info.last_restart_ms,
        }))),
        ["status"] => Some(empty(WRONG_METHOD)),
        ["openapi.json"] if method == "GET" => Some(ok(OPENAPI.clone())),
        ["openapi.json"] => Some(empty(WRONG_METHOD)),
        ["recordings", rest @ ..] => Some(
            recordings(config.recording.enabled, method, rest)
                .unwrap_or_else(|error| refusal(error, &request.path.join("/"), now_ms)),
        ),
        _ => None,
    }
}

/// Disabled, everything is 501. Enabled, the list is empty and there is nobody to start one: 501 again.
fn recordings(enabled: bool, method: &str, rest: &[&str]) -> Result<RestResponse, ApiError> {
    let known = match (method, rest) {
        ("POST", ["start"] | ["stop", _]) | ("GET", [] | [_]) => true,
        ("DELETE", [id]) => !matches!(*id, "start" | "stop"),
        (_, [] | [_] | ["stop", _]) => false,
        _ => return Err(ApiError::status(404)),
    };
    match (known, enabled, method, rest) {
        (false, ..) => Err(ApiError::status(WRONG_METHOD)),
        (_, false, ..) => Err(ApiError::status(501)),
        (_, _, "POST", ["start"]) => Err(ApiError::with(501, "there is no recorder")),
        (_, _, "GET", []) => Ok(ok(json!({"count": 0, "items": []}))),
        _ => Err(ApiError::status(404)),
    }
}

/// `GET /config/NAME`.
fn variant(config: &Config, name: &str) -> Option<Value> {
    Some(match name {
        "openvidu-version" => OPENVIDU_VERSION.into(),
        "openvidu-publicurl" => public_url(config).into(),
        "openvidu-recording" => config.recording.enabled.into(),
        "openvidu-recording-path" => config.recording.path.as_str().into(),
        "openvidu-cdr" => config.cdr.enabled.into(),
        _ => return None,
    })
}

fn public_url(config: &Config) -> String {
    format!("{}/", config.public.http())
}

/// `GET /config`: the active configuration without secrets.
fn active(config: &Config, info: &ServerInfo) -> Value {
    let mut all = Map::new();
    for group in [basics(config), recording(config), events(config), pro(config, info), cluster(config)] {
        let Value::Object(group) = group else { unreachable!("groups are objects") };
        all.extend(group);
    }
    Value::Object(all)
}

fn basics(config: &Config) -> Value {
    let streams = &config.streams;
    json!({
        "VERSION": OPENVIDU_VERSION,
        "DOMAIN_OR_PUBLIC_IP": config.public.host,
        "HTTPS_PORT": config.public.port,
        "OPENVIDU_PUBLICURL": public_url(config),
        "OPENVIDU_STREAMS_VIDEO_MAX_RECV_BANDWIDTH": streams.video_max_recv_kbps,
        "OPENVIDU_STREAMS_VIDEO_MIN_RECV_BANDWIDTH": streams.video_min_recv_kbps,
        "OPENVIDU_STREAMS_VIDEO_MAX_SEND_BANDWIDTH": streams.video_max_send_kbps,
        "OPENVIDU_STREAMS_VIDEO_MIN_SEND_BANDWIDTH": streams.video_min_send_kbps,
        "OPENVIDU_STREAMS_FORCED_VIDEO_CODEC": streams.forced_codec.name(),
        "OPENVIDU_STREAMS_ALLOW_TRANSCODING": streams.allow_transcoding,
        "OPENVIDU_WEBRTC_SIMULCAST": streams.simulcast,
        "OPENVIDU_SESSIONS_GARBAGE_INTERVAL": config.sessions.garbage_interval_s,
        "OPENVIDU_SESSIONS_GARBAGE_THRESHOLD": config.sessions.garbage_threshold_s,
    })
}

fn recording(config: &Config) -> Value {
    let recording = &config.recording;
    if !recording.enabled {
        return json!({"OPENVIDU_RECORDING": false});
    }
    let mut group = json!({
        "OPENVIDU_RECORDING": true,
        "OPENVIDU_RECORDING_VERSION": recording.version,
        "OPENVIDU_RECORDING_PATH": recording.path,
        "OPENVIDU_RECORDING_PUBLIC_ACCESS": recording.public_access,
        "OPENVIDU_RECORDING_NOTIFICATION": recording.notification,
        "OPENVIDU_RECORDING_CUSTOM_LAYOUT": recording.custom_layout,
        "OPENVIDU_RECORDING_AUTOSTOP_TIMEOUT": recording.autostop_timeout_s,
    });
    if let Some(url) = &recording.composed_url {
        group["OPENVIDU_RECORDING_COMPOSED_URL"] = url.as_str().into();
    }
    group
}

fn events(config: &Config) -> Value {
    let mut group = json!({"OPENVIDU_CDR": config.cdr.enabled, "OPENVIDU_WEBHOOK": config.webhook.enabled});
    if config.cdr.enabled {
        group["OPENVIDU_CDR_PATH"] = config.cdr.path.as_str().into();
    }
    if config.webhook.enabled {
        let headers = config.webhook.headers.iter().map(|(name, value)| format!("{name}: {value}"));
        group["OPENVIDU_WEBHOOK_ENDPOINT"] = json!(config.webhook.endpoint);
        group["OPENVIDU_WEBHOOK_HEADERS"] = headers.collect::<Vec<_>>().into();
        group["OPENVIDU_WEBHOOK_EVENTS"] = json!(config.webhook.events);
    }
    group
}

fn pro(config: &Config, info: &ServerInfo) -> Value {
    let stats = &config.stats;
    let mut group = json!({
        "OPENVIDU_EDITION": config.edition,
        "OPENVIDU_SERVER_DEPENDENCY_VERSION": OPENVIDU_VERSION,
        "OPENVIDU_PRO_CLUSTER_ID": info.cluster_id,
        "OPENVIDU_PRO_STATS_SESSION_INTERVAL": stats.session_interval_s,
        "OPENVIDU_PRO_STATS_SERVER_INTERVAL": stats.server_interval_s,
        "OPENVIDU_PRO_STATS_MONITORING_INTERVAL": stats.monitoring_interval_s,
        "OPENVIDU_PRO_STATS_WEBRTC_INTERVAL": stats.webrtc_interval_s,
        "OPENVIDU_PRO_NETWORK_QUALITY": stats.network_quality,
        "OPENVIDU_PRO_ELASTICSEARCH": false,
        "OPENVIDU_PRO_ELASTICSEARCH_HOST": "",
        "OPENVIDU_PRO_ELASTICSEARCH_VERSION": "",
        "OPENVIDU_PRO_KIBANA": false,
        "OPENVIDU_PRO_KIBANA_HOST": "",
        "OPENVIDU_PRO_KIBANA_VERSION": "",
        "OPENVIDU_PRO_RECORDING_STORAGE": config.recording.storage,
        "OPENVIDU_PRO_SPEECH_TO_TEXT": "disabled",
    });
    if stats.network_quality {
        group["OPENVIDU_PRO_NETWORK_QUALITY_INTERVAL"] = stats.network_quality_interval_s.into();
    }
    group
}

fn cluster(config: &Config) -> Value {
    let cluster = &config.cluster;
    let scaling = &cluster.autoscaling;
    let mut group = json!({
        "KMS_URIS": cluster.kms_uris,
        "OPENVIDU_PRO_CLUSTER_ENVIRONMENT": cluster.environment,
        "OPENVIDU_PRO_CLUSTER_MEDIA_NODES": cluster.media_nodes,
        "OPENVIDU_PRO_CLUSTER_PATH": cluster.path,
        "OPENVIDU_PRO_CLUSTER_RECONNECTION_TIMEOUT": cluster.reconnection_timeout_s.map_or(-1, |s| s as i64),
        "OPENVIDU_PRO_CLUSTER_AUTOSCALING": scaling.enabled,
    });
    if scaling.enabled {
        group["OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_NODES"] = scaling.max_nodes.into();
        group["OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_NODES"] = scaling.min_nodes.into();
        group["OPENVIDU_PRO_CLUSTER_AUTOSCALING_MAX_LOAD"] = scaling.max_load.into();
        group["OPENVIDU_PRO_CLUSTER_AUTOSCALING_MIN_LOAD"] = scaling.min_load.into();
    }
    group
}

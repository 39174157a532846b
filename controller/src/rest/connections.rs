//! `/sessions/{id}/connection` and the deprecated `/tokens` (`rest-api.md` sections 3 and 11).
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::field::Fields;
use super::{Answer, ok, optional, required};
use crate::config;
use crate::engine::{ApiError, Engine, Output};
use crate::session::{
    ConnectionPatch, ConnectionProperties, ConnectionType, IceServer, IpCamera, KurentoOptions, Role,
    ViewOptions,
};

/// Schemes an IP camera may be pulled by.
const CAMERA_SCHEMES: [&str; 5] = ["file", "rtsp", "rtsps", "http", "https"];
/// Default buffer of an IP camera, milliseconds.
const NETWORK_CACHE_MS: u64 = 2000;

pub(super) fn list(engine: &Engine, session: &str, view: ViewOptions) -> Answer {
    engine.session(session).map(|session| ok(session.connections_json(view))).ok_or(ApiError::status(404))
}

/// An unknown session is 400 here, an unknown connection 404.
pub(super) fn one(engine: &Engine, session: &str, connection: &str, view: ViewOptions) -> Answer {
    if engine.session(session).is_none() {
        return Err(ApiError::unknown_session(session));
    }
    Ok(ok(engine.connection(session, connection)?.to_json(view)))
}

pub(super) fn create(
    engine: &mut Engine,
    now_ms: u64,
    session: &str,
    body: Option<&Value>,
    out: &mut Vec<Output>,
) -> Answer {
    if engine.session(session).is_none() {
        return Err(ApiError::status(404));
    }
    let properties = properties(optional(body)?)?;
    let connection = engine.create_connection(now_ms, session, properties, out)?;
    Ok(ok(connection.to_json(ViewOptions::default())))
}

pub(super) fn patch(
    engine: &mut Engine,
    now_ms: u64,
    (session, connection): (&str, &str),
    body: Option<&Value>,
    out: &mut Vec<Output>,
) -> Answer {
    if engine.session(session).is_none() {
        return Err(ApiError::status(404));
    }
    let fields = required(body)?;
    let patch =
        ConnectionPatch { role: fields.one_of("role", Role::parse)?, record: fields.boolean("record")? };
    let changed = engine.patch_connection(now_ms, session, connection, patch, out)?;
    Ok(ok(changed.to_json(ViewOptions::default())))
}

/// The old way to a token: a WEBRTC connection shown as a token object. `record` is ignored.
pub(super) fn create_token(
    engine: &mut Engine,
    now_ms: u64,
    body: Option<&Value>,
    out: &mut Vec<Output>,
) -> Answer {
    let fields = required(body)?;
    let session = fields.mandatory_string("session")?;
    if engine.session(session).is_none() {
        return Err(ApiError::status(404));
    }
    let properties = web_rtc(fields, true)?;
    let connection = engine.create_connection(now_ms, session, properties, out)?;
    let mut token = json!({
        "id": connection.token,
        "token": connection.token,
        "connectionId": connection.id,
        "createdAt": connection.created_at,
        "session": connection.session,
        "role": connection.properties.role.as_str(),
        "data": connection.properties.data,
    });
    if let Some(options) = &connection.properties.kurento_options {
        token["kurentoOptions"] = options.to_json();
    }
    Ok(ok(token))
}

/// Validates the body of `POST /sessions/{id}/connection`; every problem is 400.
fn properties(fields: Fields<'_>) -> Result<ConnectionProperties, ApiError> {
    match fields.one_of("type", ConnectionType::parse)?.unwrap_or(ConnectionType::WebRtc) {
        ConnectionType::WebRtc => web_rtc(fields, fields.boolean("record")?.unwrap_or(true)),
        ConnectionType::IpCam => ip_camera(fields),
    }
}

fn web_rtc(fields: Fields<'_>, record: bool) -> Result<ConnectionProperties, ApiError> {
    Ok(ConnectionProperties {
        data: fields.string("data")?.unwrap_or_default().to_owned(),
        record,
        role: fields.one_of("role", Role::parse)?.unwrap_or(Role::Publisher),
        kurento_options: fields.object("kurentoOptions")?.map(kurento_options).transpose()?,
        custom_ice_servers: fields.array("customIceServers")?.map(|items| ice_servers(items)).transpose()?,
        ip_camera: None,
    })
}

fn ip_camera(fields: Fields<'_>) -> Result<ConnectionProperties, ApiError> {
    let uri = fields.mandatory_string("rtspUri")?;
    let scheme_ok = uri
        .split_once("://")
        .is_some_and(|(scheme, rest)| CAMERA_SCHEMES.contains(&scheme) && !rest.is_empty());
    if !scheme_ok {
        return Err(ApiError::with(
            400,
            format!("\"rtspUri\" must be an URL of {}", CAMERA_SCHEMES.join(", ")),
        ));
    }
    let camera = IpCamera {
        rtsp_uri: uri.to_owned(),
        adaptative_bitrate: fields.boolean("adaptativeBitrate")?.unwrap_or(true),
        only_play_with_subscribers: fields.boolean("onlyPlayWithSubscribers")?.unwrap_or(true),
        network_cache: fields.unsigned("networkCache")?.unwrap_or(NETWORK_CACHE_MS),
    };
    Ok(ConnectionProperties {
        data: fields.string("data")?.unwrap_or_default().to_owned(),
        record: fields.boolean("record")?.unwrap_or(true),
        ip_camera: Some(camera),
        ..Default::default()
    })
}

fn kurento_options(fields: Fields<'_>) -> Result<KurentoOptions, ApiError> {
    let filter = |value: &Value| {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| ApiError::with(400, "\"allowedFilters\" must hold strings"))
    };
    let filters =
        fields.array("allowedFilters")?.map(|items| items.iter().map(filter).collect()).transpose()?;
    Ok(KurentoOptions {
        video_max_recv_bandwidth: fields.unsigned("videoMaxRecvBandwidth")?,
        video_min_recv_bandwidth: fields.unsigned("videoMinRecvBandwidth")?,
        video_max_send_bandwidth: fields.unsigned("videoMaxSendBandwidth")?,
        video_min_send_bandwidth: fields.unsigned("videoMinSendBandwidth")?,
        allowed_filters: filters,
    })
}

fn ice_servers(items: &[Value]) -> Result<Vec<IceServer>, ApiError> {
    items.iter().map(ice_server).collect()
}

fn ice_server(value: &Value) -> Result<IceServer, ApiError> {
    let fields =
        Fields::of(value).map_err(|_| ApiError::with(400, "\"customIceServers\" must hold objects"))?;
    let text = |name: &str| fields.string(name).map(|text| text.map(str::to_owned));
    let (url, user, credential, secret) =
        (text("url")?, text("username")?, text("credential")?, text("staticAuthSecret")?);
    config::IceServer::new(url, user, credential, secret)
        .map(IceServer::from)
        .map_err(|e| ApiError::with(400, format!("\"customIceServers\": {e}")))
}

impl From<config::IceServer> for IceServer {
    fn from(server: config::IceServer) -> Self {
        let (username, credential, static_auth_secret) = match server.auth {
            config::IceAuth::None => (None, None, None),
            config::IceAuth::Fixed { username, credential } => {
                (Some(username), Some(credential.expose().to_owned()), None)
            }
            config::IceAuth::StaticAuthSecret(secret) => (None, None, Some(secret.expose().to_owned())),
        };
        Self { url: server.url, username, credential, static_auth_secret }
    }
}

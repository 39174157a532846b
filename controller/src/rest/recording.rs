//! Recording properties (`rest-api.md` 6.2): validation with the status of each rule.
#![forbid(unsafe_code)]

use serde_json::Value;

use super::field::{Fields, is_word};
use crate::engine::ApiError;
use crate::ids::NodeId;
use crate::session::{OutputMode, RecordingLayout, RecordingProperties};

/// Smallest `shmSize`, bytes.
const SHM_BYTES_MIN: u64 = 134_217_728;

/// Validates recording properties. Wrong types, enumerations and names are 400, values out of range 422; inside a session's
/// defaults all of them are 400.
pub(super) fn properties(fields: Fields<'_>) -> Result<RecordingProperties, ApiError> {
    let defaults = RecordingProperties::default();
    let name = fields.string("name")?.unwrap_or_default();
    if !name.is_empty() && !is_word(name, "~") {
        return Err(ApiError::with(400, "Parameter 'name' must match [a-zA-Z0-9_-~]+"));
    }
    let properties = RecordingProperties {
        name: name.to_owned(),
        has_audio: fields.boolean("hasAudio")?.unwrap_or(true),
        has_video: fields.boolean("hasVideo")?.unwrap_or(true),
        output_mode: fields.one_of("outputMode", OutputMode::parse)?.unwrap_or(defaults.output_mode),
        recording_layout: fields
            .one_of("recordingLayout", RecordingLayout::parse)?
            .unwrap_or(defaults.recording_layout),
        custom_layout: fields.string("customLayout")?.unwrap_or_default().to_owned(),
        resolution: fields.string("resolution")?.unwrap_or(&defaults.resolution).to_owned(),
        frame_rate: frame_rate(fields)?.unwrap_or(defaults.frame_rate),
        shm_size: shm_size(fields)?.unwrap_or(defaults.shm_size),
        ignore_failed_streams: fields.boolean("ignoreFailedStreams")?.unwrap_or(false),
        media_node: media_node(fields)?,
    };
    if !properties.has_audio && !properties.has_video {
        return Err(ApiError::with(
            422,
            "Cannot record with both \"hasAudio\" and \"hasVideo\" set to false",
        ));
    }
    if !is_resolution(&properties.resolution) {
        let text =
            "Parameter \"resolution\" must be WIDTHxHEIGHT, each of 100 to 1999, without leading zeros";
        return Err(ApiError::with(422, text));
    }
    Ok(properties)
}

fn frame_rate(fields: Fields<'_>) -> Result<Option<u32>, ApiError> {
    let Some(rate) = fields.number("frameRate")? else { return Ok(None) };
    if rate.fract() == 0.0 && (1.0..=120.0).contains(&rate) {
        return Ok(Some(rate as u32));
    }
    Err(ApiError::with(422, "Parameter \"frameRate\" must be of 1 to 120"))
}

fn shm_size(fields: Fields<'_>) -> Result<Option<u64>, ApiError> {
    let Some(bytes) = fields.number("shmSize")? else { return Ok(None) };
    if bytes >= SHM_BYTES_MIN as f64 && bytes < 9e15 {
        return Ok(Some(bytes as u64));
    }
    Err(ApiError::with(422, format!("Parameter \"shmSize\" must be at least {SHM_BYTES_MIN} (bytes)")))
}

fn is_resolution(text: &str) -> bool {
    let side = |text: &str| {
        let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        plain && text.parse::<u32>().is_ok_and(|n| (100..=1999).contains(&n))
    };
    text.split_once('x').is_some_and(|(width, height)| side(width) && side(height))
}

/// `{"id": ...}` or a bare string.
fn media_node(fields: Fields<'_>) -> Result<Option<NodeId>, ApiError> {
    let id = match fields.raw("mediaNode") {
        None => return Ok(None),
        Some(Value::Object(object)) => object.get("id").and_then(Value::as_str),
        Some(value) => value.as_str(),
    };
    let id = id.filter(|id| !id.is_empty());
    id.map(|id| Some(id.into()))
        .ok_or_else(|| ApiError::with(400, "Property 'mediaNode' must be {\"id\": string}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_rule_has_its_status() {
        let table = [
            (json!({}), 200),
            (json!({"name": "a~b_C-9", "outputMode": "INDIVIDUAL", "ignoreFailedStreams": true}), 200),
            (json!({"recordingLayout": "CUSTOM", "customLayout": "x", "resolution": "1999x100"}), 200),
            (json!({"frameRate": 1, "shmSize": 134217728}), 200),
            (json!({"frameRate": 120, "mediaNode": {"id": "media_1"}}), 200),
            (json!({"mediaNode": "media_1"}), 200),
            (json!({"name": null, "hasAudio": null}), 200),
            (json!({"name": "a b"}), 400),
            (json!({"name": 5}), 400),
            (json!({"hasAudio": "true"}), 400),
            (json!({"outputMode": "composed"}), 400),
            (json!({"recordingLayout": "NO_SUCH_LAYOUT"}), 400),
            (json!({"resolution": 1280}), 400),
            (json!({"mediaNode": {}}), 400),
            (json!({"mediaNode": 5}), 400),
            (json!({"hasAudio": false, "hasVideo": false}), 422),
            (json!({"resolution": "99x1280"}), 422),
            (json!({"resolution": "2000x100"}), 422),
            (json!({"resolution": "0100x100"}), 422),
            (json!({"resolution": "1280"}), 422),
            (json!({"resolution": "+200x200"}), 422),
            (json!({"frameRate": 0}), 422),
            (json!({"frameRate": 121}), 422),
            (json!({"frameRate": "25"}), 400),
            (json!({"shmSize": 134217727}), 422),
        ];
        for (body, status) in table {
            let got = Fields::of(&body).and_then(properties).map_or_else(|e| e.status, |_| 200);
            assert_eq!(got, status, "{body}");
        }
    }
}

//! `streamPropertyChanged`: mute, resize, another track (`signaling.md` 2.5 and 4.7).
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::dispatch::{Done, Request};
use super::envelope::notification;
use super::error::{RpcError, code};
use super::params::{PropertyChanged, are_dimensions};
use crate::engine::{Engine, Output};
use crate::session::MediaOptions;

impl Engine {
    /// Remembers the new value for those who join later, and tells the others.
    pub(super) fn on_property_changed(
        &mut self,
        request: &Request,
        params: PropertyChanged,
        out: &mut Vec<Output>,
    ) -> Result<Done, RpcError> {
        let session = self.registry.get_mut(request.session.as_str());
        let own = session.and_then(|session| session.connections.get_mut(request.connection.as_str()));
        let publisher = own.and_then(|own| own.active.as_mut()?.publisher.as_mut());
        let publisher = publisher.filter(|publisher| publisher.stream.as_str() == params.stream_id);
        let Some(publisher) = publisher else {
            let message = format!("Stream {} is not published by {}", params.stream_id, request.connection);
            return Err(RpcError::new(code::USER_NOT_STREAMING, message));
        };
        change(&mut publisher.options, &params.property, &params.new_value)?;
        let text = notification(
            "streamPropertyChanged",
            json!({
                "connectionId": request.connection,
                "streamId": params.stream_id,
                "property": params.property,
                "newValue": params.new_value.to_string(),
                "reason": params.reason.unwrap_or_default(),
            }),
        );
        self.notify_all(&request.session, &text, Some(&request.connection), out);
        Ok(Done::empty())
    }
}

fn change(options: &mut MediaOptions, property: &str, value: &Value) -> Result<(), RpcError> {
    let wrong = || RpcError::params(format!("newValue of {property} cannot be used"));
    match property {
        "audioActive" => options.audio_active = value.as_bool().ok_or_else(wrong)?,
        "videoActive" => options.video_active = value.as_bool().ok_or_else(wrong)?,
        "videoDimensions" => {
            let text = value.as_str().filter(|text| are_dimensions(text)).ok_or_else(wrong)?;
            options.video_dimensions = Some(text.to_owned());
        }
        "videoTrack" | "audioTrack" if value.is_object() => {}
        "videoTrack" | "audioTrack" => return Err(wrong()),
        _ => return Err(RpcError::params(format!("Unknown property {property}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_properties_with_values_that_others_can_read() {
        let mut options = MediaOptions {
            has_audio: true,
            has_video: true,
            audio_active: true,
            video_active: true,
            type_of_video: None,
            frame_rate: None,
            video_dimensions: None,
        };
        for (property, value, accepted) in [
            ("audioActive", json!(false), true),
            ("videoActive", json!("false"), false),
            ("videoDimensions", json!("{\"width\":1,\"height\":2}"), true),
            ("videoDimensions", json!("not JSON"), false),
            ("videoDimensions", json!("[1,2]"), false),
            ("videoDimensions", json!(format!("{{{}}}", " ".repeat(200))), false),
            ("videoDimensions", json!({"width": 1}), false),
            ("videoTrack", json!({"label": "cam"}), true),
            ("audioTrack", json!("cam"), false),
            ("filter", json!({}), false),
        ] {
            assert_eq!(change(&mut options, property, &value).is_ok(), accepted, "{property} {value}");
        }
        assert!(!options.audio_active && options.video_active);
        assert_eq!(options.video_dimensions.as_deref(), Some("{\"width\":1,\"height\":2}"));
    }
}

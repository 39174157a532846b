//! Recording properties: body of a recording's start, and a session's `defaultRecordingProperties` (`rest-api.md` 6.2).
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ids::NodeId;

wire_enum!(
    /// What a recording produces.
    OutputMode {
        /// All streams in one picture.
        Composed = "COMPOSED",
        /// One file per stream.
        Individual = "INDIVIDUAL",
        /// As `COMPOSED`, with a recorder kept ready.
        ComposedQuickStart = "COMPOSED_QUICK_START",
    }
);

wire_enum!(
    /// How a composed picture is arranged.
    RecordingLayout {
        /// Fills the picture as well as possible.
        BestFit = "BEST_FIT",
        /// Accepted, not available.
        PictureInPicture = "PICTURE_IN_PICTURE",
        /// Accepted, not available.
        VerticalPresentation = "VERTICAL_PRESENTATION",
        /// Accepted, not available.
        HorizontalPresentation = "HORIZONTAL_PRESENTATION",
        /// A page of the application.
        Custom = "CUSTOM",
    }
);

/// Properties of a recording, validated by the REST layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordingProperties {
    /// `""`: the id.
    pub name: String,
    /// Whether sound is recorded.
    pub has_audio: bool,
    /// Whether pictures are recorded.
    pub has_video: bool,
    /// What comes out.
    pub output_mode: OutputMode,
    /// Composed only.
    pub recording_layout: RecordingLayout,
    /// Layout `CUSTOM` only.
    pub custom_layout: String,
    /// Composed only, `WIDTHxHEIGHT`.
    pub resolution: String,
    /// Composed only, frames per second.
    pub frame_rate: u32,
    /// Composed only, bytes.
    pub shm_size: u64,
    /// Individual only.
    pub ignore_failed_streams: bool,
    /// Composed only.
    pub media_node: Option<NodeId>,
}

impl Default for RecordingProperties {
    fn default() -> Self {
        Self {
            name: String::new(),
            has_audio: true,
            has_video: true,
            output_mode: OutputMode::Composed,
            recording_layout: RecordingLayout::BestFit,
            custom_layout: String::new(),
            resolution: "1280x720".into(),
            frame_rate: 25,
            shm_size: 536_870_912,
            ignore_failed_streams: false,
            media_node: None,
        }
    }
}

impl RecordingProperties {
    /// The form inside a session object: only what applies to the output mode.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut put = |key: &str, value: Value| object.insert(key.to_owned(), value);
        put("name", self.name.clone().into());
        put("hasAudio", self.has_audio.into());
        put("hasVideo", self.has_video.into());
        put("outputMode", self.output_mode.as_str().into());
        if self.output_mode == OutputMode::Individual {
            put("ignoreFailedStreams", self.ignore_failed_streams.into());
        } else if self.has_video {
            put("recordingLayout", self.recording_layout.as_str().into());
            put("resolution", self.resolution.clone().into());
            put("frameRate", self.frame_rate.into());
            put("shmSize", self.shm_size.into());
            if self.recording_layout == RecordingLayout::Custom && !self.custom_layout.is_empty() {
                put("customLayout", self.custom_layout.clone().into());
            }
        }
        if let Some(node) = &self.media_node {
            put("mediaNode", node.as_str().into());
        }
        Value::Object(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_fields_of_the_output_mode_are_shown() {
        let composed = RecordingProperties::default();
        assert_eq!(
            composed.to_json(),
            json!({"name": "", "hasAudio": true, "hasVideo": true, "outputMode": "COMPOSED",
                   "recordingLayout": "BEST_FIT", "resolution": "1280x720", "frameRate": 25, "shmSize": 536870912})
        );
        let individual = RecordingProperties {
            output_mode: OutputMode::Individual,
            media_node: Some("media_1".into()),
            ..Default::default()
        };
        assert_eq!(
            individual.to_json(),
            json!({"name": "", "hasAudio": true, "hasVideo": true, "outputMode": "INDIVIDUAL",
                   "ignoreFailedStreams": false, "mediaNode": "media_1"})
        );
        let sound = RecordingProperties { has_video: false, ..Default::default() };
        assert_eq!(
            sound.to_json(),
            json!({"name": "", "hasAudio": true, "hasVideo": false, "outputMode": "COMPOSED"})
        );
    }
}

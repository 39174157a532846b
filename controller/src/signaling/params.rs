//! Parameters of requests as clients send them (`signaling.md` sections 2 and 3). Unknown members are ignored.
#![forbid(unsafe_code)]

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::session::{MediaOptions, TypeOfVideo};

/// `publishVideo`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PublishVideo {
    pub(crate) sdp_offer: String,
    #[serde(default)]
    pub(crate) do_loopback: Option<bool>,
    #[serde(default)]
    has_audio: Option<bool>,
    #[serde(default)]
    has_video: Option<bool>,
    #[serde(default)]
    audio_active: Option<bool>,
    #[serde(default)]
    video_active: Option<bool>,
    #[serde(default)]
    type_of_video: Option<String>,
    #[serde(default)]
    frame_rate: Option<f64>,
    #[serde(default)]
    video_dimensions: Option<String>,
}

impl PublishVideo {
    /// What the client told, cut down to the kinds that were really negotiated.
    pub(crate) fn options(&self, audio: bool, video: bool) -> MediaOptions {
        let has_video = video && self.has_video.unwrap_or(true);
        MediaOptions {
            has_audio: audio && self.has_audio.unwrap_or(true),
            has_video,
            audio_active: self.audio_active.unwrap_or(true),
            video_active: self.video_active.unwrap_or(true),
            type_of_video: self.type_of_video.as_deref().and_then(TypeOfVideo::parse),
            frame_rate: Some(self.frame_rate.map_or(-1, |rate| rate as i64)).filter(|_| has_video),
            video_dimensions: self.video_dimensions.clone().filter(|text| are_dimensions(text)),
        }
    }
}

/// `{"width":7680,"height":4320}` has 29 bytes.
const DIMENSIONS_BYTES_MAX: usize = 128;

/// Whether a text can be a `videoDimensions`. Clients parse it without a net, and whoever joins later gets that of everybody.
pub(crate) fn are_dimensions(text: &str) -> bool {
    text.len() <= DIMENSIONS_BYTES_MAX && serde_json::from_str::<Map<String, Value>>(text).is_ok()
}

/// `receiveVideoFrom`: exactly one of offer and answer.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReceiveVideoFrom {
    /// A stream id.
    pub(crate) sender: String,
    #[serde(default)]
    pub(crate) sdp_offer: Option<String>,
    #[serde(default)]
    pub(crate) sdp_answer: Option<String>,
}

/// `prepareReceiveVideoFrom`. Its `reconnect` changes nothing: an older peer connection is replaced in any case.
#[derive(Debug, Deserialize)]
pub(crate) struct PrepareReceive {
    /// A stream id.
    pub(crate) sender: String,
}

/// `unsubscribeFromVideo`.
#[derive(Debug, Deserialize)]
pub(crate) struct Unsubscribe {
    /// A connection id.
    pub(crate) sender: String,
}

/// `onIceCandidate`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OnIceCandidate {
    /// The connection that publishes.
    pub(crate) endpoint_name: String,
    /// Empty at the end of candidates.
    pub(crate) candidate: String,
    #[serde(default)]
    pub(crate) sdp_mid: Option<String>,
    #[serde(default, rename = "sdpMLineIndex")]
    pub(crate) line: Option<u16>,
}

/// `reconnectStream`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReconnectStream {
    pub(crate) stream: String,
    /// Publisher: an offer. Subscriber: an answer.
    #[serde(default)]
    pub(crate) sdp_string: Option<String>,
    /// Subscriber, or publisher before 2.18: an offer.
    #[serde(default)]
    pub(crate) sdp_offer: Option<String>,
}

/// `streamPropertyChanged`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PropertyChanged {
    pub(crate) stream_id: String,
    pub(crate) property: String,
    pub(crate) new_value: Value,
    #[serde(default)]
    pub(crate) reason: Option<String>,
}

/// `sendMessage`.
#[derive(Debug, Deserialize)]
pub(crate) struct SendMessage {
    /// JSON in a string.
    pub(crate) message: String,
}

/// What is inside of [`SendMessage`].
#[derive(Debug, Deserialize)]
pub(crate) struct Signal {
    #[serde(default)]
    pub(crate) to: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) data: Option<String>,
    #[serde(default, rename = "type")]
    pub(crate) signal_type: Option<String>,
}

/// `forceUnpublish` and the filter requests.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AboutStream {
    pub(crate) stream_id: String,
}

/// `forceDisconnect`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AboutConnection {
    pub(crate) connection_id: String,
}

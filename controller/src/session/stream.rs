//! Streams: what a connection publishes and what it is subscribed to.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ids::StreamId;
use crate::sdp::{self, IceCandidate, PendingOffer, PublishPlan};
use crate::session::ViewOptions;

wire_enum!(
    /// Where a picture comes from.
    TypeOfVideo {
        /// A camera.
        Camera = "CAMERA",
        /// A shared screen.
        Screen = "SCREEN",
        /// A track that the application made.
        Custom = "CUSTOM",
        /// An IP camera.
        IpCam = "IPCAM",
    }
);

/// What a publisher told about its media; changed by `streamPropertyChanged`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MediaOptions {
    /// There is an audio track.
    pub has_audio: bool,
    /// There is a video track.
    pub has_video: bool,
    /// Sound is not muted. Means nothing without `has_audio`.
    pub audio_active: bool,
    /// Picture is not muted. Means nothing without `has_video`.
    pub video_active: bool,
    /// `None` when the client did not say (clients of 2.16, sound only).
    pub type_of_video: Option<TypeOfVideo>,
    /// Frames per second; -1 is unknown.
    pub frame_rate: Option<i64>,
    /// JSON text such as `{"width":640,"height":480}`, as the client sent it.
    pub video_dimensions: Option<String>,
}

impl MediaOptions {
    /// The three letters in the stream's id.
    pub fn stream_kind(&self) -> &'static str {
        match (self.has_video, self.type_of_video) {
            (false, _) => "MIC",
            (true, Some(TypeOfVideo::Screen)) => "SCR",
            (true, Some(TypeOfVideo::Custom)) => "CUS",
            (true, Some(TypeOfVideo::IpCam)) => "IPC",
            (true, Some(TypeOfVideo::Camera) | None) => "CAM",
        }
    }

    /// `mediaOptions` of a publisher object in the REST API.
    pub fn to_json(&self) -> Value {
        let mut object = self.common();
        object.insert("filter".into(), json!({}));
        Value::Object(object)
    }

    /// The stream object of `joinRoom` and `participantPublished`.
    pub fn to_stream_json(&self, id: &StreamId, created_at: u64) -> Value {
        let mut object = self.common();
        object.insert("id".into(), id.as_str().into());
        object.insert("createdAt".into(), created_at.into());
        object.insert("filter".into(), json!({}));
        Value::Object(object)
    }

    /// `audioEnabled`, `videoEnabled`, `videoSource`, ... of webrtcConnection events.
    pub fn to_event_fields(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("audioEnabled".into(), self.has_audio.into());
        object.insert("videoEnabled".into(), self.has_video.into());
        if self.has_video {
            object.insert("videoSource".into(), self.type_of_video.map(TypeOfVideo::as_str).into());
            object.insert("videoFramerate".into(), self.frame_rate.into());
            object.insert("videoDimensions".into(), self.video_dimensions.clone().into());
        }
        object
    }

    fn common(&self) -> Map<String, Value> {
        let mut object = Map::new();
        object.insert("hasAudio".into(), self.has_audio.into());
        object.insert("hasVideo".into(), self.has_video.into());
        if self.has_audio {
            object.insert("audioActive".into(), self.audio_active.into());
        }
        if self.has_video {
            object.insert("videoActive".into(), self.video_active.into());
            object.insert("typeOfVideo".into(), self.type_of_video.map(TypeOfVideo::as_str).into());
            object.insert("frameRate".into(), self.frame_rate.into());
            object.insert("videoDimensions".into(), self.video_dimensions.clone().into());
        }
        object
    }
}

/// How far a stream of a connection got.
///
/// ```text
/// publisher:                 Opening ─▶ Live
/// subscriber, client offers: Opening ─▶ Live
/// subscriber, server offers: Opening ─▶ Offered ─▶ Answered ─▶ Live
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The node has not confirmed the transport yet.
    Opening,
    /// The client has our offer and owes an answer.
    Offered,
    /// The client's answer is with the node, which has not confirmed yet.
    Answered,
    /// The node forwards.
    Live,
}

/// Candidates of a client kept for one peer connection, and the longest one, bytes. A browser with three addresses sends twelve.
const CANDIDATES_MAX: usize = 32;
const CANDIDATE_BYTES_MAX: usize = 256;

/// Both descriptions of one peer connection, kept for `webRtcStats=true`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SdpTexts {
    /// What the client sent.
    pub remote: Option<Box<str>>,
    /// What we sent.
    pub local: Option<Box<str>>,
    /// What the client trickled, in the order in which it came.
    pub trickled: Vec<IceCandidate>,
}

impl SdpTexts {
    /// Keeps a candidate of the client, if there is room.
    pub fn trickle(&mut self, candidate: IceCandidate) {
        let length = candidate.candidate.len() + candidate.mid.as_ref().map_or(0, String::len);
        let room = self.trickled.len() < CANDIDATES_MAX && length <= CANDIDATE_BYTES_MAX;
        // Firefox says with an empty one that no more come.
        if room && !candidate.candidate.is_empty() {
            self.trickled.push(candidate);
        }
    }

    fn add_to(&self, object: &mut Map<String, Value>, endpoint: &str) {
        object.insert("webrtcEndpointName".into(), endpoint.into());
        object.insert("remoteSdp".into(), self.remote.as_deref().into());
        object.insert("localSdp".into(), self.local.as_deref().into());
        let in_sdp = |sdp: &Option<Box<str>>| sdp.as_deref().map(sdp::candidates).unwrap_or_default();
        let shown = |candidates: &[IceCandidate]| candidates.iter().map(candidate_json).collect::<Value>();
        let client = [in_sdp(&self.remote), self.trickled.clone()].concat();
        object.insert("clientIceCandidates".into(), shown(&client));
        object.insert("serverIceCandidates".into(), shown(&in_sdp(&self.local)));
        object.insert("events".into(), json!([]));
        for key in ["localCandidate", "remoteCandidate"] {
            object.insert(key.into(), Value::Null);
        }
    }
}

fn candidate_json(candidate: &IceCandidate) -> Value {
    json!({ "candidate": candidate.candidate, "sdpMid": candidate.mid, "sdpMLineIndex": candidate.line })
}

/// The stream that a connection publishes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Publisher {
    /// Its id; also the publication's id on the node.
    pub stream: StreamId,
    /// UTC, milliseconds.
    pub created_at: u64,
    /// What the client told.
    pub options: MediaOptions,
    /// How far it got. Others see it only when `Live`.
    pub phase: Phase,
    /// Its transport on the node.
    pub transport: String,
    /// Transports that shall replace it and that the node has not confirmed yet.
    pub replacing: Vec<String>,
    /// Whether it gets its own media back (`doLoopback`), on every peer connection it makes for the stream.
    #[serde(default)]
    pub loopback: bool,
    /// What was negotiated, and so what subscribers can get.
    pub plan: PublishPlan,
    /// Descriptions of its peer connection; not kept over a restart, since nothing but a view needs them.
    #[serde(skip)]
    pub sdp: SdpTexts,
}

impl Publisher {
    /// Publisher object of the REST API.
    pub fn to_json(&self, options: ViewOptions) -> Value {
        let mut object = Map::new();
        object.insert("streamId".into(), self.stream.as_str().into());
        object.insert("createdAt".into(), self.created_at.into());
        object.insert("mediaOptions".into(), self.options.to_json());
        if options.webrtc_stats {
            self.sdp.add_to(&mut object, &self.transport);
        }
        Value::Object(object)
    }

    /// The stream object of `joinRoom` and `participantPublished`.
    pub fn to_stream_json(&self) -> Value {
        self.options.to_stream_json(&self.stream, self.created_at)
    }
}

/// A connection's subscription to another connection's stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subscriber {
    /// The publisher's stream.
    pub stream: StreamId,
    /// UTC, milliseconds.
    pub created_at: u64,
    /// How far it got.
    pub phase: Phase,
    /// It was `Live` once: its creation is in the event log.
    pub recorded: bool,
    /// Its transport on the node; also the subscription's id there.
    pub transport: String,
    /// Server offers: what the client has to answer.
    pub offer: Option<PendingOffer>,
    /// Descriptions of its peer connection; not kept over a restart.
    #[serde(skip)]
    pub sdp: SdpTexts,
}

impl Subscriber {
    /// Subscriber object of the REST API.
    pub fn to_json(&self, options: ViewOptions) -> Value {
        let mut object = Map::new();
        object.insert("streamId".into(), self.stream.as_str().into());
        object.insert("createdAt".into(), self.created_at.into());
        if options.webrtc_stats {
            self.sdp.add_to(&mut object, &self.transport);
        }
        Value::Object(object)
    }
}

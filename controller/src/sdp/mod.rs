//! Session descriptions in and out: the only place that knows the syntax (RFC 8866) and the offer/answer rules
//! (RFC 3264, RFC 9429, RFC 9143).
//!
//! ```text
//! publisher's offer ──▶ Offer::parse ──▶ publish_answer ──▶ answer text + PublishPlan
//!                                                                            │  kept with the stream
//! subscriber's offer ─▶ Offer::parse ──▶ subscribe_answer ◀──────────────────┤  ▶ answer text + SubscribePlan
//! the server offers:                     subscribe_offer ◀───────────────────┘  ▶ offer text + PendingOffer
//! subscriber's answer ─▶ accept_answer(PendingOffer)  ▶ SubscribePlan
//! ```
//!
//! A plan is what the media node needs, in the words of [`sfu_core::control::proto`]: the peer's transport and one track per m-line with the
//! one codec that was chosen. The node answers with its own ICE credentials, candidates and certificate, which the caller
//! hands in as [`LocalTransport`]; all of them are known before the node is asked, so an answer costs no round trip.
//!
//! What is deliberately absent: renegotiation (a change is a new peer connection), data channels, more than one track of a
//! kind, RED, FEC, and trickled candidates of the peer (the node is ICE-lite and learns addresses from the checks).
//!
//! Limits: [`MAX_SDP_BYTES`], [`MAX_LINES`], [`MAX_MEDIA_SECTIONS`], [`MAX_SIMULCAST_LAYERS`]. Nothing of a peer's text
//! reaches another peer: answers are composed from parsed values.
#![forbid(unsafe_code)]

mod attribute;
mod candidate;
mod codec;
mod compose;
mod description;
mod extension;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use sfu_core::control::proto::{
    Fingerprint, HostCandidate, IceCredentials, MediaKind, PublicationTrack, RemoteTransport,
    SubscriptionTrack,
};

pub use candidate::{IceCandidate, candidates};
pub use codec::{CodecPolicy, Format, Parameters, VideoChoice, VideoCodec};
pub use description::Offer;
pub use publish::{loopback_answer, publish_answer};
pub use subscribe::{PendingOffer, accept_answer, subscribe_answer, subscribe_offer};

/// Longest description accepted, bytes. Chromium's longest offer with two m-lines has about 6 KiB.
pub const MAX_SDP_BYTES: usize = 64 * 1024;
/// Most lines accepted. Chromium's longest offer has about 200.
pub const MAX_LINES: usize = 2_000;
/// Most m-lines accepted; a stream has at most one audio and one video track.
pub const MAX_MEDIA_SECTIONS: usize = 4;
/// Most simulcast layers accepted; further ones are left out of the answer.
pub const MAX_SIMULCAST_LAYERS: usize = 3;

/// The node's end of a peer connection, all of it known before the node is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalTransport {
    /// Credentials made up for this transport (RFC 8445 §5.3).
    pub ice: IceCredentials,
    /// Where the room's core listens, the preferred one first. At least one.
    pub candidates: Vec<HostCandidate>,
    /// Certificate of the node's process.
    pub fingerprint: Fingerprint,
}

/// What the node sends with towards one subscriber.
#[derive(Clone, Debug, PartialEq)]
pub struct SendIds {
    /// SSRC of the audio track.
    pub audio: u32,
    /// SSRC of the video track.
    pub video: u32,
    /// SSRC of the video track's retransmissions (RFC 4588); used when RTX is negotiated.
    pub video_rtx: u32,
    /// Name of the media stream in `a=msid` and of the source in `a=ssrc ... cname`: 1 to 64 letters, digits, `-`, `_`.
    /// Both tracks share it, which is what makes a browser play them in step.
    pub stream: String,
}

/// What a publisher's offer and our answer agreed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishPlan {
    /// The publisher's end of the transport.
    pub remote: RemoteTransport,
    /// What comes in, in the order of the m-lines; one or two.
    pub tracks: Vec<PublicationTrack>,
    /// Codec of each track with its format parameters, in the same order.
    pub formats: Vec<Format>,
    /// The video codec was forced by the session, so a subscriber without it is an error.
    pub forced: bool,
}

impl PublishPlan {
    /// Codec of the track of this kind.
    pub fn format(&self, kind: MediaKind) -> Option<&Format> {
        self.tracks.iter().zip(&self.formats).find(|(track, _)| track.kind == kind).map(|(_, format)| format)
    }

    /// Track of this kind.
    pub fn track(&self, kind: MediaKind) -> Option<&PublicationTrack> {
        self.tracks.iter().find(|track| track.kind == kind)
    }

    /// Whether subscribers of `earlier` can go on with this plan: the same kinds and codecs. A publisher that comes back
    /// with another codec needs its subscribers to renegotiate.
    pub fn continues(&self, earlier: &PublishPlan) -> bool {
        [MediaKind::Audio, MediaKind::Video].into_iter().all(|kind| {
            match (self.format(kind), earlier.format(kind)) {
                (None, None) => true,
                (Some(new), Some(old)) => new.decodes_as(old),
                _ => false,
            }
        })
    }
}

/// What a subscriber agreed to receive.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscribePlan {
    /// The subscriber's end of the transport.
    pub remote: RemoteTransport,
    /// What goes out, in the order of the m-lines; one or two.
    pub tracks: Vec<SubscriptionTrack>,
}

/// Why a description cannot be used. [`SdpError::code`] is the code of the JSON-RPC error.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// More than [`MAX_SDP_BYTES`].
    #[error("SDP of {0} bytes is too long, {MAX_SDP_BYTES} are allowed")]
    TooLong(usize),
    /// More than [`MAX_LINES`].
    #[error("SDP has more than {MAX_LINES} lines")]
    TooManyLines,
    /// More than [`MAX_MEDIA_SECTIONS`].
    #[error("SDP has {0} m-lines, {MAX_MEDIA_SECTIONS} are allowed")]
    TooManySections(usize),
    /// Not SDP.
    #[error("SDP is malformed: {0}")]
    Syntax(String),
    /// An attribute every usable description has is absent or broken.
    #[error("SDP has no usable a={0}")]
    Missing(&'static str),
    /// Two m-lines have one mid.
    #[error("two m-lines have the mid {0}")]
    DuplicateMid(String),
    /// No m-line is left that both sides can use.
    #[error("no m-line of the SDP can be used")]
    NothingUsable,
    /// The session forces a video codec that the peer does not have.
    #[error("forced video codec {} is not in the SDP", .0.name())]
    CodecMissing(VideoCodec),
    /// An answer does not belong to the offer it was given for.
    #[error("SDP answer does not fit the offer: {0}")]
    AnswerMismatch(&'static str),
}

impl SdpError {
    /// Code for the JSON-RPC error: 800 for a forced codec, 302 for everything else.
    pub fn code(&self) -> i64 {
        match self {
            SdpError::CodecMissing(_) => 800,
            _ => 302,
        }
    }
}

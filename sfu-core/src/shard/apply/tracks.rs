//! From the control protocol's description of an m-line to the state that serves it.
#![forbid(unsafe_code)]

use crate::control::proto::{
    Codec, Encoding, HeaderExtension, MediaKind, PublicationTrack, SubscriptionTrack,
};
use crate::forward::egress::{Egress, EgressConfig};
use crate::forward::feedback::KeyFrameRequests;
use crate::forward::ingress::Ingress;
use crate::forward::nack::{NackTracker, OUTSTANDING_MAX};
use crate::forward::resend_cache::{AUDIO_ENTRIES, ResendCache, VIDEO_ENTRIES, VIDEO_ENTRIES_MAX};
use crate::forward::rewrite::{URI_AUDIO_LEVEL, URI_MID, URI_REPAIRED_RID, URI_RID, URI_TRANSPORT_WIDE_CC};
use crate::forward::room::{Accepted, Format, Layer, PerKind, Track, TrackExtensions};
use crate::forward::route::{Candidate, RouteExtensions, RouteTable, Target};
use crate::forward::seq_map::SourceId;
use crate::ids::{PayloadType, Ssrc};
use crate::shard::OpError;
use crate::time::Timestamp;

/// Simulcast layers of one track; Chromium sends three at most.
const MAX_LAYERS: usize = 4;
/// SSRCs that media goes out with in the life of one transport.
const MAX_SENT_SSRCS: usize = 4096;

/// Builds the reception state of a publication.
pub(super) fn build(now: Timestamp, tracks: &[PublicationTrack]) -> Result<PerKind<Track>, OpError> {
    if tracks.is_empty() {
        return Err(OpError::invalid("tracks: at least one is needed"));
    }
    let mut built = PerKind::default();
    for track in tracks {
        let place = built.slot(track.kind);
        if place.is_some() {
            return Err(OpError::invalid(format!("tracks: more than one {:?} track", track.kind)));
        }
        *place = Some(build_track(now, track)?);
    }
    Ok(built)
}

fn build_track(now: Timestamp, track: &PublicationTrack) -> Result<Track, OpError> {
    check_codec(&track.codec)?;
    if !(1..=MAX_LAYERS).contains(&track.encodings.len()) {
        let message = format!("encodings: {} given, allowed are 1 to {MAX_LAYERS}", track.encodings.len());
        return Err(OpError::invalid(message));
    }
    let (entries, entries_max) = match track.kind {
        MediaKind::Video => (VIDEO_ENTRIES, VIDEO_ENTRIES_MAX),
        MediaKind::Audio => (AUDIO_ENTRIES, AUDIO_ENTRIES),
    };
    let layer = |encoding: &Encoding| Layer {
        rid: encoding.rid.as_deref().map(Into::into),
        source: SourceId::default(),
        ssrc: encoding.ssrc.map(Ssrc),
        rtx_ssrc: encoding.rtx_ssrc.map(Ssrc),
        ingress: Ingress::new(track.codec.clock_rate, now),
        nack: NackTracker::new(OUTSTANDING_MAX),
        cache: ResendCache::new(entries, entries_max),
    };
    let layers: Vec<_> = track.encodings.iter().map(layer).collect();
    Ok(Track {
        kind: track.kind,
        format: format_of(track.kind, &track.codec),
        payload_type: PayloadType(track.codec.payload_type),
        rtx_payload_type: track.codec.rtx_payload_type.map(PayloadType),
        clock_rate: track.codec.clock_rate,
        extensions: TrackExtensions {
            audio_level: id_of(&track.extensions, URI_AUDIO_LEVEL),
            transport_seq: id_of(&track.extensions, URI_TRANSPORT_WIDE_CC),
        },
        header_extensions: track.extensions.clone(),
        feedback: track.feedback,
        max_bitrate_bps: track.max_bitrate_bps,
        current: (layers.len() - 1) as u8,
        left: None,
        layers,
        key_frames: KeyFrameRequests::default(),
    })
}

fn format_of(kind: MediaKind, codec: &Codec) -> Format {
    match (kind, codec.name.to_ascii_uppercase().as_str()) {
        (MediaKind::Audio, _) => Format::Audio,
        (MediaKind::Video, "VP9") => Format::Vp9,
        (MediaKind::Video, "H264") => Format::H264,
        (MediaKind::Video, "AV1") => Format::Av1,
        (MediaKind::Video, _) => Format::Vp8,
    }
}

fn check_codec(codec: &Codec) -> Result<(), OpError> {
    if codec.clock_rate == 0 {
        return Err(OpError::invalid("codec.clockRate: 0, must be positive"));
    }
    if codec.payload_type > 127 || codec.rtx_payload_type.is_some_and(|pt| pt > 127) {
        return Err(OpError::invalid("codec.payloadType: above 127"));
    }
    let known = ["OPUS", "VP8", "VP9", "H264", "AV1"];
    if !known.contains(&codec.name.to_ascii_uppercase().as_str()) {
        let message = format!("codec.name: {:?}, allowed are opus, VP8, VP9, H264, AV1", codec.name);
        return Err(OpError::invalid(message));
    }
    Ok(())
}

/// Tells a transport's route table how to recognise the publication's packets.
pub(super) fn enter_routes(
    routes: &mut RouteTable,
    publication: u32,
    tracks: &[PublicationTrack],
) -> Result<(), OpError> {
    for track in tracks {
        let extensions = RouteExtensions {
            mid: id_of(&track.extensions, URI_MID),
            rid: id_of(&track.extensions, URI_RID),
            repaired_rid: id_of(&track.extensions, URI_REPAIRED_RID),
        };
        for (encoding, spec) in track.encodings.iter().enumerate() {
            let target = Target { publication, kind: track.kind, encoding: encoding as u8, repair: false };
            let candidate = Candidate {
                target,
                mid: track.mid.as_deref().map(Into::into),
                rid: spec.rid.as_deref().map(Into::into),
                payload_type: PayloadType(track.codec.payload_type),
                rtx_payload_type: track.codec.rtx_payload_type.map(PayloadType),
                extensions,
            };
            let media = spec.ssrc.is_none_or(|ssrc| routes.insert(Ssrc(ssrc), target));
            let repair = Target { repair: true, ..target };
            let rtx = spec.rtx_ssrc.is_none_or(|ssrc| routes.insert(Ssrc(ssrc), repair));
            if !(media && rtx && routes.add_candidate(candidate)) {
                return Err(OpError::invalid("encodings: too many for one transport"));
            }
        }
    }
    Ok(())
}

fn id_of(extensions: &[HeaderExtension], uri: &str) -> u8 {
    extensions.iter().find(|extension| extension.uri == uri).map_or(0, |extension| extension.id)
}

/// Adds the SSRCs of `tracks` to those `used` on a transport. One that was used before is refused even if its
/// subscription is gone: its numbers would begin anew under the same keys, and no two packets may share one.
pub(super) fn claim_ssrcs(used: &[Ssrc], tracks: &[SubscriptionTrack]) -> Result<Vec<Ssrc>, OpError> {
    let mut claimed = used.to_vec();
    for ssrc in tracks.iter().flat_map(|track| std::iter::once(track.ssrc).chain(track.rtx_ssrc)) {
        if claimed.contains(&Ssrc(ssrc)) {
            return Err(OpError::conflict("ssrc", &ssrc.to_string()));
        }
        claimed.push(Ssrc(ssrc));
    }
    if claimed.len() > MAX_SENT_SSRCS {
        return Err(OpError::overloaded("ssrc", MAX_SENT_SSRCS));
    }
    Ok(claimed)
}

/// Builds what one subscriber gets of `from`.
pub(super) fn egress(track: &SubscriptionTrack, from: &Track, random: u32) -> Result<Egress, OpError> {
    check_codec(&track.codec)?;
    let format = format_of(track.kind, &track.codec);
    if !from.decodes_as(format, track.codec.clock_rate) {
        let Codec { name, clock_rate, .. } = &track.codec;
        let message =
            format!("codec: {name}/{clock_rate}, the publication has {:?}/{}", from.format, from.clock_rate);
        return Err(OpError::invalid(message));
    }
    let rtx = track.rtx_ssrc.zip(track.codec.rtx_payload_type);
    let config = EgressConfig {
        kind: track.kind,
        format,
        ssrc: Ssrc(track.ssrc),
        payload_type: PayloadType(track.codec.payload_type),
        clock_rate: track.codec.clock_rate,
        rtx: rtx.map(|(ssrc, payload_type)| (Ssrc(ssrc), PayloadType(payload_type))),
        extensions: accepted(track).map_from(from),
        first_seq: random as u16,
        first_rtx_seq: (random >> 16) as u16,
    };
    Ok(Egress::new(config, from.layers[usize::from(from.current)].source))
}

/// What the subscriber takes of header extensions.
pub(super) fn accepted(track: &SubscriptionTrack) -> Accepted {
    Accepted { extensions: track.extensions.clone(), mid: track.mid.clone() }
}

//! Answers to publishers.

use sfu_core::control::proto::{DtlsRole, Feedback, MediaKind, PublicationTrack, SubscriptionTrack};

use super::attribute::{Direction, Setup};
use super::codec::{self, CodecPolicy, Format};
use super::compose::{Entry, Line, Source, compose};
use super::description::{Offer, Section};
use super::{LocalTransport, PublishPlan, SdpError, SendIds, SubscribePlan, extension};

/// What was decided about one m-line of a publisher's offer.
struct Accepted<'a> {
    section: &'a Section,
    format: Format,
    track: PublicationTrack,
    /// The same media back to the publisher, for loopback.
    back: Option<SubscriptionTrack>,
}

/// Answers a publisher: one audio and one video m-line, one codec each, `recvonly`; anything else gets port 0.
///
/// # Errors
/// [`SdpError::CodecMissing`] (code 800) when the policy forces a video codec that is not offered;
/// [`SdpError::NothingUsable`] when no m-line is left; [`SdpError::Missing`] without ICE credentials or fingerprint.
pub fn publish_answer(
    offer: &Offer,
    local: &LocalTransport,
    policy: &CodecPolicy,
) -> Result<(String, PublishPlan), SdpError> {
    let (text, plan, _) = answer(offer, local, policy, None)?;
    Ok((text, plan))
}

/// Answers a publisher that wants its own media back on the same peer connection (`doLoopback`): m-lines that are `sendrecv`
/// in the offer are in the answer as well.
///
/// # Errors
/// As [`publish_answer`].
pub fn loopback_answer(
    offer: &Offer,
    local: &LocalTransport,
    policy: &CodecPolicy,
    ids: &SendIds,
) -> Result<(String, PublishPlan, SubscribePlan), SdpError> {
    answer(offer, local, policy, Some(ids))
}

fn answer(
    offer: &Offer,
    local: &LocalTransport,
    policy: &CodecPolicy,
    ids: Option<&SendIds>,
) -> Result<(String, PublishPlan, SubscribePlan), SdpError> {
    let (accepted, forced) = accept(offer, policy, ids)?;
    let first = accepted.iter().flatten().next().ok_or(SdpError::NothingUsable)?.section;
    let remote = offer.remote(first)?;
    let entries: Vec<_> = offer
        .sections
        .iter()
        .zip(&accepted)
        .map(|(section, accepted)| match accepted {
            Some(accepted) => Entry::Used(line(accepted, ids)),
            None => Entry::Rejected(section),
        })
        .collect();
    let text = compose(local, answering_setup(remote.dtls_role), !offer.bundle.is_empty(), &entries);
    let back = accepted.iter().flatten().filter_map(|accepted| accepted.back.clone()).collect();
    let (tracks, formats) =
        accepted.into_iter().flatten().map(|accepted| (accepted.track, accepted.format)).unzip();
    let plan = PublishPlan { remote: remote.clone(), tracks, formats, forced };
    Ok((text, plan, SubscribePlan { remote, tracks: back }))
}

/// `a=setup` of an answer to a peer of this role.
pub(super) fn answering_setup(peer: DtlsRole) -> Setup {
    match peer {
        DtlsRole::Client => Setup::Passive,
        DtlsRole::Server => Setup::Active,
    }
}

/// Decides about every m-line; also whether the video codec was forced.
fn accept<'a>(
    offer: &'a Offer,
    policy: &CodecPolicy,
    ids: Option<&SendIds>,
) -> Result<(Vec<Option<Accepted<'a>>>, bool), SdpError> {
    let mut accepted: Vec<Option<Accepted<'a>>> = Vec::with_capacity(offer.sections.len());
    let mut any_forced = false;
    for section in &offer.sections {
        let earlier = |kind| accepted.iter().flatten().any(|other| other.section.kind == Some(kind));
        let kind = section.kind.filter(|kind| {
            !section.rejected
                && section.direction.sends()
                && !earlier(*kind)
                && offer
                    .shares_transport(section, accepted.iter().flatten().next().map(|first| first.section))
        });
        let chosen = match kind {
            Some(kind) => {
                codec::choose_published(&section.formats, kind, policy)?.map(|chosen| (kind, chosen))
            }
            None => None,
        };
        accepted.push(chosen.map(|(kind, (format, forced))| {
            any_forced |= forced;
            accept_section(section, kind, format, ids)
        }));
    }
    Ok((accepted, any_forced))
}

fn accept_section<'a>(
    section: &'a Section,
    kind: MediaKind,
    format: &Format,
    ids: Option<&SendIds>,
) -> Accepted<'a> {
    let extensions = extension::accept_inbound(&section.sent_extensions, kind, format.name());
    let track = PublicationTrack {
        kind,
        mid: section.mid.clone(),
        codec: format.to_proto(),
        encodings: section.encodings.clone(),
        extensions,
        feedback: format.feedback,
        max_bitrate_bps: None,
    };
    let back = ids.filter(|_| section.direction.receives()).map(|ids| SubscriptionTrack {
        kind,
        mid: section.mid.clone(),
        codec: format.to_proto(),
        ssrc: ids.ssrc(kind),
        rtx_ssrc: ids.rtx_ssrc(kind, format),
        extensions: extension::accept_outbound(
            &section.received_extensions,
            kind,
            format.name(),
            &track.extensions,
        ),
        feedback: Feedback { transport_cc: false, ..format.feedback },
    });
    Accepted { section, format: format.clone(), track, back }
}

fn line<'a>(accepted: &'a Accepted<'_>, ids: Option<&'a SendIds>) -> Line<'a> {
    let track = &accepted.track;
    let sending = ids.zip(accepted.back.as_ref());
    Line {
        kind: track.kind,
        mid: track.mid.as_deref(),
        direction: if sending.is_some() { Direction::SendRecv } else { Direction::RecvOnly },
        format: &accepted.format,
        extensions: &track.extensions,
        feedback: track.feedback,
        rids: &accepted.section.rids,
        source: sending.map(|(ids, back)| Source {
            ssrc: back.ssrc,
            rtx_ssrc: back.rtx_ssrc,
            stream: &ids.stream,
        }),
    }
}

impl SendIds {
    pub(super) fn ssrc(&self, kind: MediaKind) -> u32 {
        match kind {
            MediaKind::Audio => self.audio,
            MediaKind::Video => self.video,
        }
    }

    pub(super) fn rtx_ssrc(&self, kind: MediaKind, format: &Format) -> Option<u32> {
        (kind == MediaKind::Video && format.rtx_payload_type.is_some()).then_some(self.video_rtx)
    }
}

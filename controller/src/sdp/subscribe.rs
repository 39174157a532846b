//! Both ways to a subscriber's peer connection: answering its offer, or offering and taking its answer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sfu_core::control::proto::{
    Codec, Feedback, HeaderExtension, MediaKind, PublicationTrack, SubscriptionTrack,
};

use super::attribute::{Direction, Setup};
use super::codec::{self, Format};
use super::compose::{Entry, Line, Source, compose};
use super::description::{Offer, Section};
use super::publish::answering_setup;
use super::{LocalTransport, Parameters, PublishPlan, SdpError, SendIds, SubscribePlan, extension};

/// An offer of ours that waits for its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingOffer {
    offered: Vec<Offered>,
}

/// One m-line of a [`PendingOffer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Offered {
    mid: Cow<'static, str>,
    format: Format,
    track: SubscriptionTrack,
}

/// What was decided about one m-line of a subscriber's offer.
struct Accepted<'a> {
    section: &'a Section,
    format: Format,
    track: SubscriptionTrack,
}

/// Answers a subscriber's offer: `sendonly` for each kind that is published and that it can decode; anything else gets port 0.
///
/// # Errors
/// [`SdpError::CodecMissing`] (code 800) when the session forces a video codec that is not offered;
/// [`SdpError::NothingUsable`] when nothing of the publication can go out; [`SdpError::Missing`] without ICE credentials
/// or fingerprint.
pub fn subscribe_answer(
    offer: &Offer,
    published: &PublishPlan,
    local: &LocalTransport,
    ids: &SendIds,
) -> Result<(String, SubscribePlan), SdpError> {
    let accepted = accept(offer, published, ids)?;
    let first = accepted.iter().flatten().next().ok_or(SdpError::NothingUsable)?.section;
    let remote = offer.remote(first)?;
    let entries: Vec<_> = offer
        .sections
        .iter()
        .zip(&accepted)
        .map(|(section, accepted)| match accepted {
            Some(accepted) => Entry::Used(line(&accepted.format, &accepted.track, ids)),
            None => Entry::Rejected(section),
        })
        .collect();
    let text = compose(local, answering_setup(remote.dtls_role), !offer.bundle.is_empty(), &entries);
    let tracks = accepted.into_iter().flatten().map(|accepted| accepted.track).collect();
    Ok((text, SubscribePlan { remote, tracks }))
}

fn accept<'a>(
    offer: &'a Offer,
    published: &PublishPlan,
    ids: &SendIds,
) -> Result<Vec<Option<Accepted<'a>>>, SdpError> {
    let mut accepted: Vec<Option<Accepted<'a>>> = Vec::with_capacity(offer.sections.len());
    for section in &offer.sections {
        let earlier = |kind| accepted.iter().flatten().any(|other| other.section.kind == Some(kind));
        let kind = section.kind.filter(|kind| {
            !section.rejected
                && section.direction.receives()
                && !earlier(*kind)
                && offer
                    .shares_transport(section, accepted.iter().flatten().next().map(|first| first.section))
        });
        let source = kind.and_then(|kind| Some((published.track(kind)?, published.format(kind)?)));
        accepted.push(match source {
            Some((track, format)) => accept_section(section, track, format, published.forced, ids)?,
            None => None,
        });
    }
    Ok(accepted)
}

fn accept_section<'a>(
    section: &'a Section,
    published: &PublicationTrack,
    format: &Format,
    forced: bool,
    ids: &SendIds,
) -> Result<Option<Accepted<'a>>, SdpError> {
    let Some(own) = codec::choose_subscribed(&section.formats, format) else {
        return match format.video_codec() {
            Some(codec) if forced => Err(SdpError::CodecMissing(codec)),
            _ => Ok(None),
        };
    };
    let kind = published.kind;
    let track = SubscriptionTrack {
        kind,
        mid: section.mid.clone(),
        codec: own.to_proto(),
        ssrc: ids.ssrc(kind),
        rtx_ssrc: ids.rtx_ssrc(kind, own),
        extensions: extension::accept_outbound(
            &section.received_extensions,
            kind,
            own.name(),
            &published.extensions,
        ),
        feedback: Feedback { transport_cc: false, ..own.feedback },
    };
    Ok(Some(Accepted { section, format: own.clone(), track }))
}

fn line<'a>(format: &'a Format, track: &'a SubscriptionTrack, ids: &'a SendIds) -> Line<'a> {
    Line {
        kind: track.kind,
        mid: track.mid.as_deref(),
        direction: Direction::SendOnly,
        format,
        extensions: &track.extensions,
        feedback: track.feedback,
        rids: &[],
        source: Some(Source { ssrc: track.ssrc, rtx_ssrc: track.rtx_ssrc, stream: &ids.stream }),
    }
}

/// Offers a publication to a subscriber (server-offer flow): one m-line per kind, `sendonly`, `actpass`, with payload types and
/// extension ids of our own.
pub fn subscribe_offer(
    published: &PublishPlan,
    local: &LocalTransport,
    ids: &SendIds,
) -> (String, PendingOffer) {
    let offered: Vec<_> = published
        .tracks
        .iter()
        .zip(&published.formats)
        .zip(["0", "1"])
        .map(|((track, format), mid)| offer_track(track, format, mid, ids))
        .collect();
    let entries: Vec<_> =
        offered.iter().map(|offered| Entry::Used(line(&offered.format, &offered.track, ids))).collect();
    let text = compose(local, Setup::ActPass, true, &entries);
    (text, PendingOffer { offered })
}

fn offer_track(published: &PublicationTrack, format: &Format, mid: &'static str, ids: &SendIds) -> Offered {
    let (payload_type, rtx_payload_type) = our_payload_types(format);
    let format = Format { payload_type, rtx_payload_type, ..format.clone() };
    let kind = published.kind;
    let video = kind == MediaKind::Video;
    let track = SubscriptionTrack {
        kind,
        mid: Some(mid.to_owned()),
        codec: format.to_proto(),
        ssrc: ids.ssrc(kind),
        rtx_ssrc: ids.rtx_ssrc(kind, &format),
        extensions: extension::offer_outbound(kind, format.name(), &published.extensions),
        feedback: Feedback { nack: video, pli: video, fir: video, transport_cc: false, remb: video },
    };
    Offered { mid: mid.into(), format, track }
}

/// Chromium's numbers, so that captures read alike; audio and video never share one.
fn our_payload_types(format: &Format) -> (u8, Option<u8>) {
    match format.parameters {
        Parameters::Opus { .. } => (111, None),
        Parameters::Vp8 => (96, Some(97)),
        Parameters::Vp9 { .. } => (98, Some(99)),
        Parameters::H264 { .. } => (102, Some(103)),
        Parameters::Av1 { .. } => (45, Some(46)),
    }
}

/// Takes a subscriber's answer to our offer. What it left out (an m-line, RTX, an extension, a kind of feedback) is left out.
///
/// # Errors
/// [`SdpError::AnswerMismatch`] when it answers something else, [`SdpError::NothingUsable`] when it refused everything,
/// and those of [`Offer::parse`].
pub fn accept_answer(pending: &PendingOffer, answer: &str) -> Result<SubscribePlan, SdpError> {
    let answer = Offer::parse(answer)?;
    if answer.sections.len() != pending.offered.len() {
        return Err(SdpError::AnswerMismatch("number of m-lines"));
    }
    let mut tracks = Vec::with_capacity(pending.offered.len());
    let mut first: Option<&Section> = None;
    for (section, offered) in answer.sections.iter().zip(&pending.offered) {
        if section.mid.as_deref().is_some_and(|mid| mid != offered.mid) {
            return Err(SdpError::AnswerMismatch("mid"));
        }
        let usable = section.kind == Some(offered.track.kind)
            && !section.rejected
            && section.direction.receives()
            && answer.shares_transport(section, first);
        let own = codec::choose_subscribed(&section.formats, &offered.format).filter(|_| usable);
        if let Some(own) = own {
            tracks.push(narrow(&offered.track, section, own));
            first = first.or(Some(section));
        }
    }
    let first = first.ok_or(SdpError::NothingUsable)?;
    if first.setup == Some(Setup::ActPass) {
        return Err(SdpError::AnswerMismatch("setup"));
    }
    Ok(SubscribePlan { remote: answer.remote(first)?, tracks })
}

/// What is left of an offered track after the answer.
fn narrow(offered: &SubscriptionTrack, section: &Section, own: &Format) -> SubscriptionTrack {
    let rtx_payload_type = own.rtx_payload_type.filter(|_| offered.codec.rtx_payload_type.is_some());
    let answered = |uri: &str| section.received_extensions.iter().find(|extension| extension.uri == uri);
    let extensions = offered.extensions.iter().filter_map(|extension| {
        answered(&extension.uri).map(|own| HeaderExtension { id: own.id, uri: own.uri.clone() })
    });
    SubscriptionTrack {
        codec: Codec { rtx_payload_type, ..own.to_proto() },
        rtx_ssrc: offered.rtx_ssrc.filter(|_| rtx_payload_type.is_some()),
        extensions: extensions.collect(),
        feedback: Feedback {
            nack: offered.feedback.nack && own.feedback.nack,
            pli: offered.feedback.pli && own.feedback.pli,
            fir: offered.feedback.fir && own.feedback.fir,
            transport_cc: false,
            remb: offered.feedback.remb && own.feedback.remb,
        },
        ..offered.clone()
    }
}

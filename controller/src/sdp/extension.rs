//! RTP header extensions (RFC 8285): which are taken from publishers and which go on to subscribers.

use sfu_core::control::proto::{HeaderExtension, MediaKind};

pub(super) const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
pub(super) const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
pub(super) const TRANSPORT_CC: &str =
    "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
pub(super) const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
pub(super) const RID: &str = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id";
pub(super) const REPAIRED_RID: &str = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id";
pub(super) const ORIENTATION: &str = "urn:3gpp:video-orientation";
pub(super) const PLAYOUT_DELAY: &str = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay";
pub(super) const CONTENT_TYPE: &str = "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type";
pub(super) const COLOR_SPACE: &str = "http://www.webrtc.org/experiments/rtp-hdrext/color-space";
pub(super) const DEPENDENCY_DESCRIPTOR: &str =
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/// Where an extension is used.
struct Use {
    uri: &'static str,
    audio: bool,
    video: bool,
    /// Taken from publishers.
    inbound: bool,
    /// Towards subscribers: not at all, made by the node itself, or passed on as it came.
    outbound: Outbound,
    /// Id in our own offers; Chromium's numbers, so that captures read alike. One number means one thing in all m-lines.
    id: u8,
}

#[derive(Clone, Copy, PartialEq)]
enum Outbound {
    No,
    Own,
    Passed,
}

#[rustfmt::skip]
const USES: &[Use] = &[
    Use { uri: AUDIO_LEVEL,           audio: true,  video: false, inbound: true, outbound: Outbound::Passed, id: 1 },
    Use { uri: ABS_SEND_TIME,         audio: true,  video: true,  inbound: true, outbound: Outbound::Own,    id: 2 },
    Use { uri: TRANSPORT_CC,          audio: true,  video: true,  inbound: true, outbound: Outbound::No,     id: 3 },
    Use { uri: MID,                   audio: true,  video: true,  inbound: true, outbound: Outbound::Own,    id: 4 },
    Use { uri: PLAYOUT_DELAY,         audio: false, video: true,  inbound: true, outbound: Outbound::Passed, id: 5 },
    Use { uri: CONTENT_TYPE,          audio: false, video: true,  inbound: true, outbound: Outbound::Passed, id: 6 },
    Use { uri: COLOR_SPACE,           audio: false, video: true,  inbound: true, outbound: Outbound::Passed, id: 8 },
    Use { uri: RID,                   audio: false, video: true,  inbound: true, outbound: Outbound::No,     id: 10 },
    Use { uri: REPAIRED_RID,          audio: false, video: true,  inbound: true, outbound: Outbound::No,     id: 11 },
    Use { uri: DEPENDENCY_DESCRIPTOR, audio: false, video: true,  inbound: true, outbound: Outbound::Passed, id: 12 },
    Use { uri: ORIENTATION,           audio: false, video: true,  inbound: true, outbound: Outbound::Passed, id: 13 },
];

fn lookup(uri: &str, kind: MediaKind) -> Option<&'static Use> {
    USES.iter().find(|entry| {
        entry.uri == uri
            && match kind {
                MediaKind::Audio => entry.audio,
                MediaKind::Video => entry.video,
            }
    })
}

/// Whether the extension makes sense with the codec `name`.
fn fits_codec(uri: &str, name: &str) -> bool {
    uri != DEPENDENCY_DESCRIPTOR || name.eq_ignore_ascii_case("AV1")
}

/// Of what a publisher offered, what is accepted.
pub(super) fn accept_inbound(
    offered: &[HeaderExtension],
    kind: MediaKind,
    codec: &str,
) -> Vec<HeaderExtension> {
    offered
        .iter()
        .filter(|ext| {
            lookup(&ext.uri, kind).is_some_and(|entry| entry.inbound) && fits_codec(&ext.uri, codec)
        })
        .cloned()
        .collect()
}

/// Of what a subscriber offered, what is sent: what the node makes itself, and what this publisher sends as well.
pub(super) fn accept_outbound(
    offered: &[HeaderExtension],
    kind: MediaKind,
    codec: &str,
    published: &[HeaderExtension],
) -> Vec<HeaderExtension> {
    offered.iter().filter(|ext| goes_out(&ext.uri, kind, codec, published)).cloned().collect()
}

/// What our own offer to a subscriber has, with our own ids.
pub(super) fn offer_outbound(
    kind: MediaKind,
    codec: &str,
    published: &[HeaderExtension],
) -> Vec<HeaderExtension> {
    USES.iter()
        .filter(|entry| goes_out(entry.uri, kind, codec, published))
        .map(|entry| HeaderExtension { id: entry.id, uri: entry.uri.to_owned() })
        .collect()
}

fn goes_out(uri: &str, kind: MediaKind, codec: &str, published: &[HeaderExtension]) -> bool {
    let Some(entry) = lookup(uri, kind) else { return false };
    match entry.outbound {
        Outbound::No => false,
        Outbound::Own => true,
        Outbound::Passed => fits_codec(uri, codec) && published.iter().any(|ext| ext.uri == uri),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_ids_are_unique_and_fit_one_byte_headers() {
        for (index, entry) in USES.iter().enumerate() {
            assert!((1..=14).contains(&entry.id));
            assert!(USES[..index].iter().all(|other| other.id != entry.id && other.uri != entry.uri));
        }
    }

    #[test]
    fn nothing_unknown_and_nothing_of_the_other_kind_is_taken() {
        let offered: Vec<_> =
            [AUDIO_LEVEL, ORIENTATION, MID, "urn:ietf:params:rtp-hdrext:toffset", DEPENDENCY_DESCRIPTOR]
                .into_iter()
                .zip(1..)
                .map(|(uri, id)| HeaderExtension { id, uri: uri.to_owned() })
                .collect();
        let ids = |list: Vec<HeaderExtension>| list.iter().map(|ext| ext.id).collect::<Vec<_>>();
        assert_eq!(ids(accept_inbound(&offered, MediaKind::Audio, "opus")), [1, 3]);
        assert_eq!(ids(accept_inbound(&offered, MediaKind::Video, "VP8")), [2, 3]);
        assert_eq!(ids(accept_inbound(&offered, MediaKind::Video, "AV1")), [2, 3, 5]);
        assert_eq!(ids(accept_outbound(&offered, MediaKind::Video, "AV1", &[])), [3]);
        assert_eq!(ids(accept_outbound(&offered, MediaKind::Video, "AV1", &offered)), [2, 3, 5]);
        assert_eq!(ids(offer_outbound(MediaKind::Audio, "opus", &offered)), [1, 2, 4]);
    }
}

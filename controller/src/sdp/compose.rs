//! Composes our descriptions. Every value comes from a typed field; of the peer's text only mids, rids and the m-line words of
//! a rejected section are repeated, all of them checked or stripped of line ends by `sdp-types`.

use std::net::IpAddr;

use sdp_types::{Attribute, Connection, Media, Origin, Session, Time};
use sfu_core::control::proto::{Feedback, HeaderExtension, HostCandidate, MediaKind};

use super::LocalTransport;
use super::attribute::{Direction, Setup, is_token};
use super::codec::Format;
use super::description::Section;

/// One m-line of ours that is in use.
pub(super) struct Line<'a> {
    pub(super) kind: MediaKind,
    pub(super) mid: Option<&'a str>,
    pub(super) direction: Direction,
    pub(super) format: &'a Format,
    pub(super) extensions: &'a [HeaderExtension],
    pub(super) feedback: Feedback,
    /// Simulcast layers to receive; none without simulcast.
    pub(super) rids: &'a [String],
    /// What we send, if we do.
    pub(super) source: Option<Source<'a>>,
}

/// Identity of a stream of ours (RFC 5576, RFC 8830).
pub(super) struct Source<'a> {
    pub(super) ssrc: u32,
    pub(super) rtx_ssrc: Option<u32>,
    pub(super) stream: &'a str,
}

/// An m-line of the answer.
pub(super) enum Entry<'a> {
    Used(Line<'a>),
    /// Answered with port 0 (RFC 3264 §6).
    Rejected(&'a Section),
}

/// The whole text. `setup` is `passive` or `active` in answers, `actpass` in offers. `bundle`: whether to group the m-lines,
/// which an answer may only do when the offer did (RFC 9143 §7.3).
pub(super) fn compose(local: &LocalTransport, setup: Setup, bundle: bool, entries: &[Entry<'_>]) -> String {
    let origin = Origin::with_ip_addr(session_number(&local.ice.ufrag), 2, IpAddr::from([127, 0, 0, 1]));
    let mut session = Session::new(origin, "-");
    session.add_time(Time::new(0, 0));
    let mids: Vec<_> = entries.iter().filter_map(Entry::used).filter_map(|line| line.mid).collect();
    if bundle && !mids.is_empty() {
        session.add_attribute_with_value("group", format!("BUNDLE {}", mids.join(" ")));
    }
    session.add_attribute_from_str("ice-lite");
    session.add_attribute_with_value("msid-semantic", " WMS *");
    for entry in entries {
        session.add_media(match entry {
            Entry::Used(line) => used(line, local, setup),
            Entry::Rejected(section) => rejected(section),
        });
    }
    let mut bytes = Vec::with_capacity(4096);
    session.write(&mut bytes).expect("writing into memory does not fail");
    String::from_utf8(bytes).expect("composed from text")
}

impl Entry<'_> {
    fn used(&self) -> Option<&Line<'_>> {
        match self {
            Entry::Used(line) => Some(line),
            Entry::Rejected(_) => None,
        }
    }
}

/// A number for the o-line that differs between transports (RFC 8866 §5.2), from the random ufrag: FNV-1a, 63 bits as
/// RFC 9429 §5.2.1 asks.
fn session_number(ufrag: &str) -> u64 {
    let hash = ufrag.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash >> 1
}

fn attribute(name: &str, value: impl ToString) -> Attribute {
    Attribute::with_value(name, value)
}

fn media(kind: &str, port: u16, proto: &str, fmt: &str) -> Media {
    Media {
        media: kind.to_owned(),
        port,
        num_ports: None,
        proto: proto.to_owned(),
        fmt: fmt.to_owned(),
        media_title: None,
        connections: vec![Connection::from_ip_addr(IpAddr::from([0, 0, 0, 0]))],
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

fn rejected(section: &Section) -> Media {
    let word = |text: &str, default: &str| if is_token(text) { text.to_owned() } else { default.to_owned() };
    let proto = if section.proto.split('/').all(is_token) { &section.proto } else { "UDP/TLS/RTP/SAVPF" };
    let mut media = media(&word(&section.media, "application"), 0, proto, &word(&section.first_format, "0"));
    if let Some(mid) = &section.mid {
        media.add_attribute(attribute("mid", mid));
    }
    media.add_attribute_from_str(Direction::Inactive.name());
    media
}

fn used(line: &Line<'_>, local: &LocalTransport, setup: Setup) -> Media {
    let format = line.format;
    let payload_types = match format.rtx_payload_type {
        Some(rtx) => format!("{} {rtx}", format.payload_type),
        None => format.payload_type.to_string(),
    };
    let kind = match line.kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    };
    let mut media = media(kind, 9, "UDP/TLS/RTP/SAVPF", &payload_types);
    if let Some(mid) = line.mid {
        media.add_attribute(attribute("mid", mid));
    }
    media.add_attribute_from_str(line.direction.name());
    add_transport(&mut media, local, setup);
    media.add_attribute_from_str("rtcp-mux");
    media.add_attribute_from_str("rtcp-rsize");
    for extension in line.extensions {
        media.add_attribute(attribute("extmap", format!("{} {}", extension.id, extension.uri)));
    }
    add_format(&mut media, format, line.feedback);
    if let Some(source) = &line.source {
        add_source(&mut media, line.kind, source);
    }
    if !line.rids.is_empty() {
        for rid in line.rids {
            media.add_attribute(attribute("rid", format!("{rid} recv")));
        }
        media.add_attribute(attribute("simulcast", format!("recv {}", line.rids.join(";"))));
    }
    media
}

fn add_transport(media: &mut Media, local: &LocalTransport, setup: Setup) {
    media.add_attribute(attribute("ice-ufrag", &local.ice.ufrag));
    media.add_attribute(attribute("ice-pwd", &local.ice.pwd));
    media.add_attribute(attribute(
        "fingerprint",
        format!("{} {}", local.fingerprint.algorithm, local.fingerprint.value),
    ));
    media.add_attribute(attribute("setup", setup.name()));
    for (index, candidate) in local.candidates.iter().enumerate() {
        media.add_attribute(attribute("candidate", candidate_value(index, candidate)));
    }
    media.add_attribute_from_str("end-of-candidates");
}

/// RFC 8839 §5.1: a UDP host candidate. Local preference falls with the index, so priorities are unique (RFC 8445 §5.1.2).
fn candidate_value(index: usize, candidate: &HostCandidate) -> String {
    let local_preference = 65_535_u32.saturating_sub(u32::try_from(index).unwrap_or(u32::MAX));
    let priority = (126 << 24) | (local_preference << 8) | 255;
    format!("{} 1 udp {priority} {} {} typ host", index + 1, candidate.address, candidate.port)
}

fn add_format(media: &mut Media, format: &Format, feedback: Feedback) {
    let number = format.payload_type;
    media.add_attribute(attribute("rtpmap", format!("{number} {}", format.encoding())));
    if let Some(parameters) = format.fmtp() {
        media.add_attribute(attribute("fmtp", format!("{number} {parameters}")));
    }
    let lines = [
        (feedback.remb, "goog-remb"),
        (feedback.transport_cc, "transport-cc"),
        (feedback.fir, "ccm fir"),
        (feedback.nack, "nack"),
        (feedback.pli, "nack pli"),
    ];
    for (_, name) in lines.into_iter().filter(|(agreed, _)| *agreed) {
        media.add_attribute(attribute("rtcp-fb", format!("{number} {name}")));
    }
    if let Some(rtx) = format.rtx_payload_type {
        media.add_attribute(attribute("rtpmap", format!("{rtx} rtx/90000")));
        media.add_attribute(attribute("fmtp", format!("{rtx} apt={number}")));
    }
}

fn add_source(media: &mut Media, kind: MediaKind, source: &Source<'_>) {
    let track = match kind {
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    };
    let msid = format!("{} {}-{track}", source.stream, source.stream);
    media.add_attribute(attribute("msid", &msid));
    if let Some(rtx) = source.rtx_ssrc {
        media.add_attribute(attribute("ssrc-group", format!("FID {} {rtx}", source.ssrc)));
    }
    for ssrc in std::iter::once(source.ssrc).chain(source.rtx_ssrc) {
        media.add_attribute(attribute("ssrc", format!("{ssrc} cname:{}", source.stream)));
        media.add_attribute(attribute("ssrc", format!("{ssrc} msid:{msid}")));
    }
}

//! A parsed description: what the peer's text says, reduced to what the rules need.
//!
//! Parsing is tolerant where browsers differ (unknown attributes, session-level or media-level fingerprints, any order) and
//! strict where a guess would cross streams (mids, BUNDLE, payload types).

use sdp_types::{Media, Session};
use sfu_core::control::proto::{
    DtlsRole, Encoding, Feedback, Fingerprint, HeaderExtension, MediaKind, RemoteTransport,
};

use super::attribute::{self, Direction, Fmtp, RtpMap, Setup};
use super::codec::Format;
use super::{MAX_LINES, MAX_MEDIA_SECTIONS, MAX_SDP_BYTES, MAX_SIMULCAST_LAYERS, SdpError};

/// Most fingerprints of one description that are handed on.
const MAX_FINGERPRINTS: usize = 8;

/// A peer's offer (or answer), parsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    pub(super) sections: Vec<Section>,
    /// Mids of the BUNDLE group; empty without one.
    pub(super) bundle: Vec<String>,
}

/// One m-line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Section {
    /// First three fields of the m-line and its first format, for a rejection.
    pub(super) media: String,
    pub(super) proto: String,
    pub(super) first_format: String,
    /// `None` for anything but audio and video over DTLS-SRTP with RTCP on the same port.
    pub(super) kind: Option<MediaKind>,
    /// Port 0 without `a=bundle-only`.
    pub(super) rejected: bool,
    pub(super) mid: Option<String>,
    pub(super) direction: Direction,
    pub(super) rsize: bool,
    pub(super) ufrag: Option<String>,
    pub(super) pwd: Option<String>,
    pub(super) fingerprints: Vec<Fingerprint>,
    pub(super) setup: Option<Setup>,
    /// Formats the node can pass on, in the order of the m-line.
    pub(super) formats: Vec<Format>,
    /// Extensions the peer is willing to send, and to receive.
    pub(super) sent_extensions: Vec<HeaderExtension>,
    pub(super) received_extensions: Vec<HeaderExtension>,
    /// The peer's RTP streams: one, or one per simulcast layer.
    pub(super) encodings: Vec<Encoding>,
    /// Rids that were offered as `a=simulcast:send`, or as a single `a=rid`.
    pub(super) rids: Vec<String>,
}

impl Offer {
    /// Parses a description.
    ///
    /// # Errors
    /// Too long, not SDP, too many m-lines, or two m-lines with one mid. An m-line that cannot be used is no error here.
    pub fn parse(text: &str) -> Result<Offer, SdpError> {
        if text.len() > MAX_SDP_BYTES {
            return Err(SdpError::TooLong(text.len()));
        }
        if text.lines().count() > MAX_LINES {
            return Err(SdpError::TooManyLines);
        }
        let session =
            Session::parse(text.as_bytes()).map_err(|error| SdpError::Syntax(bounded(&error.to_string())))?;
        if session.medias.len() > MAX_MEDIA_SECTIONS {
            return Err(SdpError::TooManySections(session.medias.len()));
        }
        let sections: Vec<_> = session.medias.iter().map(|media| Section::new(&session, media)).collect();
        check_mids(&sections)?;
        let groups = session.attributes.iter().filter(|attribute| attribute.attribute == "group");
        let bundle = groups.filter_map(|group| group.value.as_deref()).find_map(attribute::parse_bundle);
        let bundle = bundle.unwrap_or_default().into_iter().map(str::to_owned).collect();
        Ok(Offer { sections, bundle })
    }

    /// Whether there is an m-line of this kind.
    pub fn has(&self, kind: MediaKind) -> bool {
        self.sections.iter().any(|section| section.kind == Some(kind) && !section.rejected)
    }

    /// The peer's end of the transport, taken from the first m-line of `used` (BUNDLE: all of them share it).
    ///
    /// # Errors
    /// [`SdpError::Missing`] without ICE credentials or a SHA-256 fingerprint.
    pub(super) fn remote(&self, used: &Section) -> Result<RemoteTransport, SdpError> {
        let ice_ufrag = used.ufrag.clone().ok_or(SdpError::Missing("ice-ufrag"))?;
        if used.pwd.is_none() {
            return Err(SdpError::Missing("ice-pwd"));
        }
        if used.fingerprints.is_empty() {
            return Err(SdpError::Missing("fingerprint:sha-256"));
        }
        // RFC 5763 §5: without a=setup the offerer is active.
        let dtls_role = match used.setup {
            Some(Setup::Passive) => DtlsRole::Server,
            Some(Setup::Active | Setup::ActPass) | None => DtlsRole::Client,
        };
        Ok(RemoteTransport { ice_ufrag, fingerprints: used.fingerprints.clone(), dtls_role })
    }

    /// Whether an m-line can share the transport of the first one that is used, or be that one.
    pub(super) fn shares_transport(&self, section: &Section, first: Option<&Section>) -> bool {
        let Some(first) = first else { return true };
        let bundled = |section: &Section| section.mid.as_ref().is_some_and(|mid| self.bundle.contains(mid));
        bundled(section) && bundled(first)
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(120).collect()
}

fn check_mids(sections: &[Section]) -> Result<(), SdpError> {
    for (index, section) in sections.iter().enumerate() {
        if let Some(mid) = &section.mid
            && sections[..index].iter().any(|other| other.mid.as_ref() == Some(mid))
        {
            return Err(SdpError::DuplicateMid(mid.clone()));
        }
    }
    Ok(())
}

/// Attributes of one m-line with the session's as a fallback.
struct Attributes<'a> {
    session: &'a Session,
    media: &'a Media,
}

impl<'a> Attributes<'a> {
    fn of_media(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.media
            .attributes
            .iter()
            .filter(move |attribute| attribute.attribute == name)
            .filter_map(|attribute| attribute.value.as_deref())
    }

    fn of_session(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        self.session
            .attributes
            .iter()
            .filter(move |attribute| attribute.attribute == name)
            .filter_map(|attribute| attribute.value.as_deref())
    }

    /// First value at media level, else at session level.
    fn first(&self, name: &'static str) -> Option<&'a str> {
        self.of_media(name).next().or_else(|| self.of_session(name).next())
    }

    fn flag(&self, name: &str) -> bool {
        self.media.attributes.iter().any(|attribute| attribute.attribute == name)
    }

    fn direction(&self) -> Direction {
        let named = |list: &'a [sdp_types::Attribute]| {
            list.iter().find_map(|attribute| Direction::from_name(&attribute.attribute))
        };
        named(&self.media.attributes)
            .or_else(|| named(&self.session.attributes))
            .unwrap_or(Direction::SendRecv)
    }

    fn fingerprints(&self) -> Vec<Fingerprint> {
        let parse = |value| attribute::parse_fingerprint(value);
        let of_media: Vec<_> =
            self.of_media("fingerprint").filter_map(parse).take(MAX_FINGERPRINTS).collect();
        if of_media.is_empty() {
            return self.of_session("fingerprint").filter_map(parse).take(MAX_FINGERPRINTS).collect();
        }
        of_media
    }

    fn extensions(&self, wanted: fn(Direction) -> bool) -> Vec<HeaderExtension> {
        let mut list: Vec<HeaderExtension> = Vec::new();
        let values = self.of_media("extmap").chain(self.of_session("extmap"));
        for (id, direction, uri) in values.filter_map(attribute::parse_extmap) {
            if wanted(direction) && list.iter().all(|known| known.id != id && known.uri != uri) {
                list.push(HeaderExtension { id, uri: uri.to_owned() });
            }
        }
        list
    }
}

impl Section {
    fn new(session: &Session, media: &Media) -> Section {
        let attributes = Attributes { session, media };
        let kind = usable_kind(media).filter(|_| attributes.flag("rtcp-mux"));
        let ice = |name, min| {
            attributes.first(name).filter(|text| attribute::is_ice_string(text, min)).map(str::to_owned)
        };
        let rids = offered_rids(&attributes);
        Section {
            media: media.media.clone(),
            proto: media.proto.clone(),
            first_format: media.fmt.split(' ').next().unwrap_or("0").to_owned(),
            kind,
            rejected: media.port == 0 && !attributes.flag("bundle-only"),
            mid: attributes.of_media("mid").next().filter(|mid| attribute::is_mid(mid)).map(str::to_owned),
            direction: attributes.direction(),
            rsize: attributes.flag("rtcp-rsize"),
            ufrag: ice("ice-ufrag", 4),
            pwd: ice("ice-pwd", 22),
            fingerprints: attributes.fingerprints(),
            setup: attributes.first("setup").and_then(Setup::parse),
            formats: kind.map(|kind| formats(kind, media, &attributes)).unwrap_or_default(),
            sent_extensions: attributes.extensions(Direction::sends),
            received_extensions: attributes.extensions(Direction::receives),
            encodings: encodings(&attributes, &rids),
            rids,
        }
    }
}

fn usable_kind(media: &Media) -> Option<MediaKind> {
    if !matches!(
        media.proto.as_str(),
        "UDP/TLS/RTP/SAVPF" | "UDP/TLS/RTP/SAVP" | "RTP/SAVPF" | "TCP/TLS/RTP/SAVPF"
    ) {
        return None;
    }
    match media.media.as_str() {
        "audio" => Some(MediaKind::Audio),
        "video" => Some(MediaKind::Video),
        _ => None,
    }
}

/// The formats of the m-line that the node can pass on, in its order, each with its RTX format and feedback.
fn formats(kind: MediaKind, media: &Media, attributes: &Attributes<'_>) -> Vec<Format> {
    let maps: Vec<_> = attributes.of_media("rtpmap").filter_map(RtpMap::parse).collect();
    let parameters: Vec<_> = attributes.of_media("fmtp").filter_map(Fmtp::parse).collect();
    let no_parameters = Fmtp::default();
    let fmtp = |payload_type: u8| {
        parameters.iter().find(|(number, _)| *number == payload_type).map_or(&no_parameters, |(_, fmtp)| fmtp)
    };
    let listed: Vec<u8> = media.fmt.split(' ').filter_map(attribute::parse_payload_type).collect();
    let map_of = |payload_type| maps.iter().find(|map| map.payload_type == payload_type);
    let rtx_of = |payload_type: u8| {
        listed.iter().copied().find(|number| {
            map_of(*number).is_some_and(|map| map.name.eq_ignore_ascii_case("rtx"))
                && fmtp(*number).number("apt", u32::MAX) == u32::from(payload_type)
        })
    };
    let mut formats: Vec<Format> = Vec::new();
    for map in listed.iter().filter_map(|number| map_of(*number)) {
        let Some(mut format) = Format::from_rtpmap(kind, map, fmtp(map.payload_type)) else { continue };
        if formats.iter().any(|known| known.payload_type == format.payload_type) {
            continue;
        }
        format.rtx_payload_type = rtx_of(format.payload_type);
        format.feedback = feedback(attributes, format.payload_type);
        formats.push(format);
    }
    formats
}

fn feedback(attributes: &Attributes<'_>, payload_type: u8) -> Feedback {
    let mut feedback = Feedback::default();
    for (number, value) in attributes.of_media("rtcp-fb").filter_map(attribute::parse_rtcp_fb) {
        if number.is_some_and(|number| number != payload_type) {
            continue;
        }
        match value {
            "nack" => feedback.nack = true,
            "nack pli" => feedback.pli = true,
            "ccm fir" => feedback.fir = true,
            "transport-cc" => feedback.transport_cc = true,
            "goog-remb" => feedback.remb = true,
            _ => {}
        }
    }
    feedback
}

/// Rids of the simulcast layers that also have an `a=rid` line, at most [`MAX_SIMULCAST_LAYERS`].
fn offered_rids(attributes: &Attributes<'_>) -> Vec<String> {
    let declared: Vec<_> = attributes.of_media("rid").filter_map(attribute::parse_send_rid).collect();
    let listed: Vec<&str> = match attributes.of_media("simulcast").next() {
        Some(value) => attribute::parse_simulcast_send(value),
        None => declared.iter().copied().take(1).collect(),
    };
    let mut rids: Vec<String> = Vec::new();
    for rid in listed {
        if declared.contains(&rid)
            && !rids.iter().any(|known| known == rid)
            && rids.len() < MAX_SIMULCAST_LAYERS
        {
            rids.push(rid.to_owned());
        }
    }
    rids
}

/// One encoding per rid, in the order of `a=simulcast`, which is from the smallest (contract 6.3); else one, with the
/// SSRCs as far as they are told.
fn encodings(attributes: &Attributes<'_>, rids: &[String]) -> Vec<Encoding> {
    if !rids.is_empty() {
        return rids.iter().map(|rid| Encoding { rid: Some(rid.clone()), ..Encoding::default() }).collect();
    }
    let group = attributes.of_media("ssrc-group").find_map(attribute::parse_fid);
    let first = attributes.of_media("ssrc").find_map(attribute::parse_ssrc);
    let encoding = match group {
        Some((ssrc, rtx_ssrc)) if ssrc != rtx_ssrc => {
            Encoding { ssrc: Some(ssrc), rtx_ssrc: Some(rtx_ssrc), rid: None }
        }
        _ => Encoding { ssrc: first, rtx_ssrc: None, rid: None },
    };
    vec![encoding]
}

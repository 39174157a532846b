//! The SDP that clients write and read: one audio and one video m-line, bundled, as a browser's SDK has it.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};

use super::ice::Credentials;

/// Header extensions that our publishers send, with the ids that Chromium uses.
pub(crate) mod extension {
    pub(crate) const AUDIO_LEVEL: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";
    pub(crate) const ABS_SEND_TIME: &str = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time";
    pub(crate) const TRANSPORT_CC: &str =
        "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01";
    pub(crate) const MID: &str = "urn:ietf:params:rtp-hdrext:sdes:mid";
}

/// Payload types of our own offers, Chromium's numbers.
const OPUS: u8 = 111;
const VP8: u8 = 96;
const VP8_RTX: u8 = 97;

/// What is ours in a description.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) ice: Credentials,
    /// `AA:BB:...`, SHA-256.
    pub(crate) fingerprint: String,
    /// Our host candidate.
    pub(crate) address: SocketAddr,
    /// Source identifiers; only publishers have them.
    pub(crate) ssrcs: Option<Ssrcs>,
}

/// Source identifiers of a publisher.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ssrcs {
    pub(crate) audio: u32,
    pub(crate) video: u32,
    pub(crate) video_rtx: u32,
}

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Audio,
    Video,
}

/// The other side's description.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) ice: Credentials,
    /// SHA-256 of its certificate.
    pub(crate) fingerprint: [u8; 32],
    /// We send the ClientHello.
    pub(crate) we_are_dtls_client: bool,
    pub(crate) candidates: Vec<SocketAddr>,
    pub(crate) sections: Vec<Section>,
}

/// One m-line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Section {
    /// `audio`, `video`, or what else the m-line says.
    media: String,
    pub(crate) mid: String,
    rejected: bool,
    /// Payload type of Opus or VP8.
    pub(crate) payload_type: Option<u8>,
    /// Payload type of its retransmission format.
    pub(crate) rtx_payload_type: Option<u8>,
    /// The first SSRC that is no retransmission.
    pub(crate) ssrc: Option<u32>,
    pub(crate) rtx_ssrc: Option<u32>,
    /// Ids and URIs.
    pub(crate) extensions: Vec<(u8, String)>,
    /// Feedback lines of the payload type.
    pub(crate) feedback: Vec<String>,
}

impl Section {
    /// Audio or video, for sections in use.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self.media.as_str() {
            _ if self.rejected => None,
            "audio" => Some(Kind::Audio),
            "video" => Some(Kind::Video),
            _ => None,
        }
    }

    /// Id of an extension, if it was negotiated.
    pub(crate) fn extension(&self, uri: &str) -> Option<u8> {
        self.extensions.iter().find(|(_, name)| name == uri).map(|(id, _)| *id)
    }
}

impl Remote {
    /// The section of a kind.
    pub(crate) fn section(&self, kind: Kind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind() == Some(kind))
    }

    /// Reads an offer or an answer.
    ///
    /// # Errors
    /// When what a connection needs is missing.
    pub(crate) fn parse(sdp: &str) -> Result<Remote> {
        let mut transport = Transport::default();
        let mut sections: Vec<Section> = Vec::new();
        for line in sdp.lines().map(str::trim_end) {
            if let Some(media) = line.strip_prefix("m=") {
                sections.push(Section::begin(media));
            } else if let Some(attribute) = line.strip_prefix("a=") {
                let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
                if !transport.attribute(name, value)
                    && let Some(section) = sections.last_mut()
                {
                    section.attribute(name, value);
                }
            }
        }
        let ufrag = transport.ufrag.context("no ice-ufrag")?;
        let pwd = transport.pwd.context("no ice-pwd")?;
        Ok(Remote {
            ice: Credentials { ufrag, pwd },
            fingerprint: transport.fingerprint.context("no SHA-256 fingerprint")?,
            we_are_dtls_client: transport.setup.as_deref() != Some("active"),
            candidates: transport.candidates,
            sections,
        })
    }
}

/// Attributes of the bundled transport; the first m-line's count.
#[derive(Default)]
struct Transport {
    ufrag: Option<String>,
    pwd: Option<String>,
    fingerprint: Option<[u8; 32]>,
    setup: Option<String>,
    candidates: Vec<SocketAddr>,
}

impl Transport {
    fn attribute(&mut self, name: &str, value: &str) -> bool {
        match name {
            "ice-ufrag" => set_once(&mut self.ufrag, value.to_owned()),
            "ice-pwd" => set_once(&mut self.pwd, value.to_owned()),
            "setup" => set_once(&mut self.setup, value.to_owned()),
            "fingerprint" => {
                if let Some(digest) = parse_fingerprint(value) {
                    set_once(&mut self.fingerprint, digest);
                }
            }
            "candidate" => {
                if let Some(address) = parse_candidate(value)
                    && !self.candidates.contains(&address)
                {
                    self.candidates.push(address);
                }
            }
            _ => return false,
        }
        true
    }
}

fn set_once<T>(slot: &mut Option<T>, value: T) {
    if slot.is_none() {
        *slot = Some(value);
    }
}

impl Section {
    fn begin(media: &str) -> Section {
        let mut words = media.split(' ');
        let kind = words.next().unwrap_or_default();
        let rejected = words.next() == Some("0");
        Section { media: kind.to_owned(), rejected, ..Section::default() }
    }

    fn attribute(&mut self, name: &str, value: &str) {
        match name {
            "mid" => self.mid = value.to_owned(),
            "rtpmap" => self.rtpmap(value),
            "fmtp" => self.fmtp(value),
            "rtcp-fb" => self.rtcp_fb(value),
            "extmap" => {
                let mut words = value.split(' ');
                let id = words.next().and_then(|id| id.split('/').next()).and_then(|id| id.parse().ok());
                if let (Some(id), Some(uri)) = (id, words.next()) {
                    self.extensions.push((id, uri.to_owned()));
                }
            }
            "ssrc" => {
                let ssrc = value.split(' ').next().and_then(|ssrc| ssrc.parse().ok());
                if self.ssrc.is_none() && ssrc != self.rtx_ssrc {
                    self.ssrc = ssrc;
                }
            }
            "ssrc-group" => {
                let mut words = value.split(' ').filter(|word| !word.is_empty());
                if words.next() == Some("FID") {
                    let mut ssrc = || words.next().and_then(|ssrc| ssrc.parse().ok());
                    (self.ssrc, self.rtx_ssrc) = (ssrc(), ssrc());
                }
            }
            _ => {}
        }
    }

    fn rtpmap(&mut self, value: &str) {
        let Some((number, encoding)) = value.split_once(' ') else { return };
        let encoding = encoding.to_ascii_lowercase();
        let wanted = if self.media == "audio" { "opus/48000" } else { "vp8/90000" };
        if self.payload_type.is_none() && encoding.starts_with(wanted) {
            self.payload_type = number.parse().ok();
        }
    }

    fn fmtp(&mut self, value: &str) {
        let Some((number, parameters)) = value.split_once(' ') else { return };
        let apt = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("apt="));
        if apt.and_then(|apt| apt.parse().ok()) == self.payload_type && self.payload_type.is_some() {
            self.rtx_payload_type = number.parse().ok();
        }
    }

    fn rtcp_fb(&mut self, value: &str) {
        let Some((number, feedback)) = value.split_once(' ') else { return };
        if number == "*" || number.parse().ok() == self.payload_type {
            self.feedback.push(feedback.to_owned());
        }
    }
}

fn parse_fingerprint(value: &str) -> Option<[u8; 32]> {
    let (algorithm, digest) = value.split_once(' ')?;
    if !algorithm.eq_ignore_ascii_case("sha-256") {
        return None;
    }
    let bytes: Option<Vec<u8>> =
        digest.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// Address of a UDP candidate of component 1 (RFC 8839 §5.1). Names (mDNS) and TCP are not for us.
pub(crate) fn parse_candidate(value: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
    let [_, "1", protocol, _, ip, port, ..] = words[..] else { return None };
    protocol.eq_ignore_ascii_case("udp").then_some(())?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

/// An offer to send one audio and one video track.
pub(crate) fn publish_offer(local: &Local) -> Result<String> {
    let Some(ssrcs) = local.ssrcs else { bail!("a publisher needs SSRCs") };
    let mut out = head(local, "0 1");
    media_line(&mut out, "audio", &OPUS.to_string());
    transport_lines(&mut out, local, "0", "sendonly", "actpass");
    let _ = write!(
        out,
        "a=extmap:1 {}\r\na=extmap:2 {}\r\na=extmap:3 {}\r\na=extmap:4 {}\r\na=msid:s a\r\n\
         a=rtpmap:{OPUS} opus/48000/2\r\na=rtcp-fb:{OPUS} transport-cc\r\na=fmtp:{OPUS} minptime=10;useinbandfec=1\r\n\
         a=ssrc:{} cname:c\r\na=ssrc:{} msid:s a\r\n",
        extension::AUDIO_LEVEL,
        extension::ABS_SEND_TIME,
        extension::TRANSPORT_CC,
        extension::MID,
        ssrcs.audio,
        ssrcs.audio,
    );
    media_line(&mut out, "video", &format!("{VP8} {VP8_RTX}"));
    transport_lines(&mut out, local, "1", "sendonly", "actpass");
    let _ = write!(
        out,
        "a=extmap:2 {}\r\na=extmap:3 {}\r\na=extmap:4 {}\r\na=msid:s v\r\na=rtpmap:{VP8} VP8/90000\r\n",
        extension::ABS_SEND_TIME,
        extension::TRANSPORT_CC,
        extension::MID,
    );
    for feedback in ["goog-remb", "transport-cc", "ccm fir", "nack", "nack pli"] {
        let _ = write!(out, "a=rtcp-fb:{VP8} {feedback}\r\n");
    }
    let _ = write!(
        out,
        "a=rtpmap:{VP8_RTX} rtx/90000\r\na=fmtp:{VP8_RTX} apt={VP8}\r\na=ssrc-group:FID {v} {r}\r\n\
         a=ssrc:{v} cname:c\r\na=ssrc:{v} msid:s v\r\na=ssrc:{r} cname:c\r\na=ssrc:{r} msid:s v\r\n",
        v = ssrcs.video,
        r = ssrcs.video_rtx,
    );
    Ok(out)
}

/// An answer that receives what `offer` sends: Opus, VP8 with RTX, the extensions we know.
pub(crate) fn subscribe_answer(local: &Local, offer: &Remote) -> String {
    let mids: Vec<&str> = offer
        .sections
        .iter()
        .filter(|s| s.usable() || s.is_data())
        .map(|section| section.mid.as_str())
        .collect();
    let mut out = head(local, &mids.join(" "));
    let setup = if offer.we_are_dtls_client { "active" } else { "passive" };
    for section in &offer.sections {
        if section.is_data() {
            // The channel is agreed upon and never opened: a server may offer it before any stream.
            out += "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\n";
            transport_lines(&mut out, local, &section.mid, "sendrecv", setup);
            out += "a=sctp-port:5000\r\n";
            continue;
        }
        let Some(payload_type) = section.payload_type.filter(|_| section.usable()) else {
            let _ = write!(
                out,
                "m={} 0 UDP/TLS/RTP/SAVPF 0\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\na=inactive\r\n",
                section.media, section.mid
            );
            continue;
        };
        let formats = section.rtx_payload_type.map_or_else(String::new, |rtx| format!(" {rtx}"));
        media_line(&mut out, &section.media, &format!("{payload_type}{formats}"));
        transport_lines(&mut out, local, &section.mid, "recvonly", setup);
        for (id, uri) in &section.extensions {
            if [extension::AUDIO_LEVEL, extension::ABS_SEND_TIME, extension::TRANSPORT_CC, extension::MID]
                .contains(&uri.as_str())
            {
                let _ = write!(out, "a=extmap:{id} {uri}\r\n");
            }
        }
        let encoding = if section.kind() == Some(Kind::Audio) { "opus/48000/2" } else { "VP8/90000" };
        let _ = write!(out, "a=rtpmap:{payload_type} {encoding}\r\n");
        for feedback in &section.feedback {
            let _ = write!(out, "a=rtcp-fb:{payload_type} {feedback}\r\n");
        }
        if let Some(rtx) = section.rtx_payload_type {
            let _ = write!(out, "a=rtpmap:{rtx} rtx/90000\r\na=fmtp:{rtx} apt={payload_type}\r\n");
        }
    }
    out
}

impl Section {
    fn is_data(&self) -> bool {
        self.media == "application" && !self.rejected
    }

    fn usable(&self) -> bool {
        self.kind().is_some() && self.payload_type.is_some()
    }
}

fn head(local: &Local, mids: &str) -> String {
    let port = local.address.port();
    format!(
        "v=0\r\no=- {}{port} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {mids}\r\na=extmap-allow-mixed\r\n\
         a=msid-semantic: WMS\r\n",
        4_611_686_018_427_u64 + u64::from(port)
    )
}

fn media_line(out: &mut String, kind: &str, formats: &str) {
    let _ = write!(
        out,
        "m={kind} 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n"
    );
}

fn transport_lines(out: &mut String, local: &Local, mid: &str, direction: &str, setup: &str) {
    let _ = write!(
        out,
        "a=candidate:1 1 udp 2122260223 {} {} typ host generation 0\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\n\
         a=fingerprint:sha-256 {}\r\na=setup:{setup}\r\na=mid:{mid}\r\na={direction}\r\na=rtcp-mux\r\na=rtcp-rsize\r\n",
        local.address.ip(),
        local.address.port(),
        local.ice.ufrag,
        local.ice.pwd,
        local.fingerprint,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Local {
        Local {
            ice: Credentials { ufrag: "abcd".into(), pwd: "0123456789012345678901".into() },
            fingerprint: vec!["AB"; 32].join(":"),
            address: "127.0.0.1:4000".parse().expect("address"),
            ssrcs: Some(Ssrcs { audio: 1, video: 2, video_rtx: 3 }),
        }
    }

    #[test]
    fn our_offer_says_what_we_send() {
        let offer = publish_offer(&local()).expect("complete");
        let read = Remote::parse(&offer).expect("readable");
        assert_eq!(read.ice, local().ice);
        assert_eq!(read.fingerprint, [0xAB; 32]);
        assert_eq!(read.candidates, [local().address]);
        let video = read.section(Kind::Video).expect("video");
        assert_eq!((video.payload_type, video.rtx_payload_type), (Some(96), Some(97)));
        assert_eq!((video.ssrc, video.rtx_ssrc), (Some(2), Some(3)));
        assert_eq!(video.extension(extension::TRANSPORT_CC), Some(3));
        assert_eq!(video.feedback.len(), 5);
        assert_eq!(read.section(Kind::Audio).and_then(|audio| audio.ssrc), Some(1));
    }

    #[test]
    fn an_answer_keeps_mids_and_refuses_what_it_does_not_know() {
        let offer = "v=0\r\na=ice-ufrag:u\r\na=ice-pwd:p\r\na=setup:actpass\r\n\
            a=fingerprint:sha-256 "
            .to_owned()
            + &vec!["00"; 32].join(":")
            + "\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:d\r\n\
            m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:t\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 100 101\r\na=mid:v\r\na=rtpmap:100 VP8/90000\r\na=rtcp-fb:100 nack\r\n\
            a=rtpmap:101 rtx/90000\r\na=fmtp:101 apt=100\r\na=extmap:9 urn:unknown\r\n\
            a=ssrc-group:FID 7 8\r\na=ssrc:8 cname:x\r\na=candidate:1 1 UDP 1 192.0.2.7 5000 typ host\r\n";
        let read = Remote::parse(&offer).expect("readable");
        assert_eq!(read.candidates, ["192.0.2.7:5000".parse().expect("address")]);
        assert_eq!(read.section(Kind::Video).and_then(|video| video.ssrc), Some(7));
        let answer = subscribe_answer(&local(), &read);
        assert!(answer.contains("a=group:BUNDLE d v\r\n"), "{answer}");
        assert!(answer.contains("m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n"), "{answer}");
        assert!(answer.contains("m=text 0 "), "{answer}");
        assert!(answer.contains("m=video 9 UDP/TLS/RTP/SAVPF 100 101\r\n"), "{answer}");
        assert!(answer.contains("a=setup:active") && !answer.contains("urn:unknown"), "{answer}");
    }

    #[test]
    fn candidates() {
        assert_eq!(parse_candidate("1 1 udp 1 ::1 9 typ host"), "[::1]:9".parse().ok());
        for other in
            ["", "1 2 udp 1 ::1 9 typ host", "1 1 tcp 1 ::1 9 typ host", "1 1 udp 1 x.local 9 typ host"]
        {
            assert_eq!(parse_candidate(other), None, "{other}");
        }
    }
}

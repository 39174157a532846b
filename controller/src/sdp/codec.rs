//! Codecs that pass through the node, their format parameters, which one a session takes and who can decode it.

use serde::{Deserialize, Serialize};
use sfu_core::control::proto::{Codec, Feedback, MediaKind};

use super::SdpError;
use super::attribute::{Fmtp, RtpMap};

/// A video codec that the node passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VideoCodec {
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184.
    H264,
    /// AOMedia's RTP payload format; not in OpenVidu's list of forced codecs.
    Av1,
}

impl VideoCodec {
    /// Encoding name of the rtpmap.
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::Vp8 => "VP8",
            VideoCodec::Vp9 => "VP9",
            VideoCodec::H264 => "H264",
            VideoCodec::Av1 => "AV1",
        }
    }
}

/// Which video codec a session takes from its publishers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum VideoChoice {
    /// `MEDIA_SERVER_PREFERRED`: VP8 where the publisher has it, else its first one.
    #[default]
    ServerPreferred,
    /// `NONE`: the publisher's first one.
    ClientPreferred,
    /// This one.
    Forced(VideoCodec),
}

impl VideoChoice {
    /// From a value of `OPENVIDU_STREAMS_FORCED_VIDEO_CODEC` or a session's `forcedVideoCodec`; `AV1` is Weir's addition.
    pub fn from_name(name: &str) -> Option<VideoChoice> {
        Some(match name {
            "MEDIA_SERVER_PREFERRED" => VideoChoice::ServerPreferred,
            "NONE" => VideoChoice::ClientPreferred,
            "VP8" => VideoChoice::Forced(VideoCodec::Vp8),
            "VP9" => VideoChoice::Forced(VideoCodec::Vp9),
            "H264" => VideoChoice::Forced(VideoCodec::H264),
            "AV1" => VideoChoice::Forced(VideoCodec::Av1),
            _ => return None,
        })
    }
}

/// A session's rules about codecs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CodecPolicy {
    /// Which video codec.
    pub video: VideoChoice,
    /// A publisher without the forced codec is taken with another one instead of being refused. Weir does not transcode,
    /// so this is all that `allowTranscoding` means.
    pub allow_transcoding: bool,
}

/// Format parameters, as far as they matter for passing media on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parameters {
    /// RFC 7587.
    Opus {
        /// In-band forward error correction is wanted.
        fec: bool,
        /// Two channels are wanted.
        stereo: bool,
        /// Silence may be left out.
        dtx: bool,
    },
    /// No parameters.
    Vp8,
    /// `profile-id`.
    Vp9 {
        /// 0 to 3.
        profile: u32,
    },
    /// RFC 6184 §8.1.
    H264 {
        /// 0 or 1; 2 (interleaved) is not passed on.
        packetization_mode: u32,
        /// profile_idc, profile_iop and level_idc, one byte each.
        profile_level_id: u32,
    },
    /// Profile, level and tier.
    Av1 {
        /// 0 to 2.
        profile: u32,
        /// `level-idx`.
        level: u32,
        /// 0 or 1.
        tier: u32,
    },
}

/// One codec of an m-line with its numbers there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Format {
    /// Codec and format parameters.
    pub parameters: Parameters,
    /// Payload type.
    pub payload_type: u8,
    /// Payload type of its retransmission format (RFC 4588).
    pub rtx_payload_type: Option<u8>,
    /// RTCP feedback listed for it.
    pub feedback: Feedback,
}

impl Format {
    /// A format the node can pass on, or `None`.
    pub(super) fn from_rtpmap(kind: MediaKind, map: &RtpMap, fmtp: &Fmtp) -> Option<Format> {
        let name = map.name.to_ascii_uppercase();
        let flag = |key| fmtp.number(key, 0) == 1;
        let parameters = match (kind, name.as_str(), map.clock_rate) {
            (MediaKind::Audio, "OPUS", 48_000) if map.channels == 2 => Parameters::Opus {
                fec: flag("useinbandfec"),
                stereo: flag("stereo") || flag("sprop-stereo"),
                dtx: flag("usedtx"),
            },
            (MediaKind::Video, "VP8", 90_000) => Parameters::Vp8,
            (MediaKind::Video, "VP9", 90_000) => {
                Parameters::Vp9 { profile: Some(fmtp.number("profile-id", 0)).filter(|id| *id < 4)? }
            }
            (MediaKind::Video, "H264", 90_000) => Parameters::H264 {
                packetization_mode: Some(fmtp.number("packetization-mode", 0)).filter(|mode| *mode < 2)?,
                profile_level_id: h264::parse_profile_level_id(fmtp.get("profile-level-id"))?,
            },
            (MediaKind::Video, "AV1", 90_000) => Parameters::Av1 {
                profile: Some(fmtp.number("profile", 0)).filter(|profile| *profile < 3)?,
                level: Some(fmtp.number("level-idx", 5)).filter(|level| *level < 32)?,
                tier: Some(fmtp.number("tier", 0)).filter(|tier| *tier < 2)?,
            },
            _ => return None,
        };
        Some(Format {
            parameters,
            payload_type: map.payload_type,
            rtx_payload_type: None,
            feedback: Feedback::default(),
        })
    }

    /// Audio or video.
    pub fn kind(&self) -> MediaKind {
        match self.video_codec() {
            None => MediaKind::Audio,
            Some(_) => MediaKind::Video,
        }
    }

    /// The video codec, if it is one.
    pub fn video_codec(&self) -> Option<VideoCodec> {
        match self.parameters {
            Parameters::Opus { .. } => None,
            Parameters::Vp8 => Some(VideoCodec::Vp8),
            Parameters::Vp9 { .. } => Some(VideoCodec::Vp9),
            Parameters::H264 { .. } => Some(VideoCodec::H264),
            Parameters::Av1 { .. } => Some(VideoCodec::Av1),
        }
    }

    /// Encoding name of the rtpmap.
    pub fn name(&self) -> &'static str {
        self.video_codec().map_or("opus", VideoCodec::name)
    }

    /// The same in the words of the control protocol.
    pub fn to_proto(&self) -> Codec {
        Codec {
            name: self.name().to_owned(),
            payload_type: self.payload_type,
            clock_rate: if self.kind() == MediaKind::Audio { 48_000 } else { 90_000 },
            rtx_payload_type: self.rtx_payload_type,
        }
    }

    /// Encoding part of `a=rtpmap`.
    pub(super) fn encoding(&self) -> String {
        match self.kind() {
            MediaKind::Audio => "opus/48000/2".to_owned(),
            MediaKind::Video => format!("{}/90000", self.name()),
        }
    }

    /// Parameters part of `a=fmtp`, where there is one.
    pub(super) fn fmtp(&self) -> Option<String> {
        Some(match self.parameters {
            Parameters::Vp8 => return None,
            Parameters::Opus { fec, stereo, dtx } => {
                let mut text = "minptime=10".to_owned();
                for (wanted, parameter) in
                    [(fec, ";useinbandfec=1"), (stereo, ";stereo=1;sprop-stereo=1"), (dtx, ";usedtx=1")]
                {
                    if wanted {
                        text.push_str(parameter);
                    }
                }
                text
            }
            Parameters::Vp9 { profile } => format!("profile-id={profile}"),
            Parameters::H264 { packetization_mode, profile_level_id } => format!(
                "level-asymmetry-allowed=1;packetization-mode={packetization_mode};profile-level-id={profile_level_id:06x}"
            ),
            Parameters::Av1 { profile, level, tier } => {
                format!("level-idx={level};profile={profile};tier={tier}")
            }
        })
    }

    /// Whether a stream of format `published` can be decoded by someone who offers this format.
    pub fn decodes_as(&self, published: &Format) -> bool {
        self.decoding_distance(published).is_some()
    }

    /// 0 for the same, more for a format that includes it, `None` for one that does not.
    fn decoding_distance(&self, published: &Format) -> Option<u32> {
        match (self.parameters, published.parameters) {
            (Parameters::Opus { .. }, Parameters::Opus { .. }) | (Parameters::Vp8, Parameters::Vp8) => {
                Some(0)
            }
            (Parameters::Vp9 { profile: own }, Parameters::Vp9 { profile }) => (own == profile).then_some(0),
            (Parameters::Av1 { profile: own, .. }, Parameters::Av1 { profile, .. }) => {
                (own >= profile).then(|| own - profile)
            }
            (
                Parameters::H264 { packetization_mode: own_mode, profile_level_id: own },
                Parameters::H264 { packetization_mode: mode, profile_level_id },
            ) => {
                let profile = h264::decoding_distance(own, profile_level_id)?;
                // Mode 1 includes the single NAL units of mode 0, not the other way round (RFC 6184 §6).
                (own_mode >= mode).then(|| 2 * profile + (own_mode - mode))
            }
            _ => None,
        }
    }
}

/// The format a publisher shall send, and whether the session forced its codec.
///
/// # Errors
/// [`SdpError::CodecMissing`] when the forced codec is not there and nothing else is allowed. `Ok(None)` when no format of
/// the m-line can be passed on.
pub(super) fn choose_published<'a>(
    formats: &'a [Format],
    kind: MediaKind,
    policy: &CodecPolicy,
) -> Result<Option<(&'a Format, bool)>, SdpError> {
    if kind == MediaKind::Audio {
        return Ok(formats.first().map(|format| (format, false)));
    }
    let has = |codec| formats.iter().any(|format| format.video_codec() == Some(codec));
    let first = formats.first().and_then(Format::video_codec);
    let (codec, forced) = match policy.video {
        VideoChoice::Forced(codec) if has(codec) => (Some(codec), !policy.allow_transcoding),
        VideoChoice::Forced(codec) if !policy.allow_transcoding => return Err(SdpError::CodecMissing(codec)),
        VideoChoice::ClientPreferred => (first, false),
        _ if has(VideoCodec::Vp8) => (Some(VideoCodec::Vp8), false),
        _ => (first, false),
    };
    let of_codec = formats.iter().filter(|format| codec.is_some() && format.video_codec() == codec);
    Ok(of_codec.min_by_key(|format| reach_rank(format)).map(|format| (format, forced)))
}

/// Lower for the format of a codec that more subscribers can decode.
fn reach_rank(format: &Format) -> u32 {
    match format.parameters {
        Parameters::Opus { .. } | Parameters::Vp8 => 0,
        Parameters::Vp9 { profile } | Parameters::Av1 { profile, .. } => profile,
        Parameters::H264 { packetization_mode, profile_level_id } => {
            2 * h264::reach_rank(profile_level_id) + (1 - packetization_mode.min(1))
        }
    }
}

/// The subscriber's format that fits what is published best.
pub(super) fn choose_subscribed<'a>(formats: &'a [Format], published: &Format) -> Option<&'a Format> {
    formats
        .iter()
        .filter_map(|format| Some((format.decoding_distance(published)?, format)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, format)| format)
}

/// `profile-level-id` (RFC 6184 §8.1): which profile it means and which decoders include which.
mod h264 {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Profile {
        ConstrainedBaseline,
        Baseline,
        Main,
        ConstrainedHigh,
        High,
        Other(u32),
    }

    /// Six hexadecimal digits; absent means Baseline level 1 (RFC 6184 §8.1).
    pub(super) fn parse_profile_level_id(text: Option<&str>) -> Option<u32> {
        let Some(text) = text else { return Some(0x42_00_0a) };
        let well_formed = text.len() == 6 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        well_formed.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    }

    /// Table 5 of RFC 6184: profile_idc and the constraint flags give the profile.
    pub(super) fn profile(profile_level_id: u32) -> Profile {
        let (idc, iop) = (profile_level_id >> 16 & 0xff, profile_level_id >> 8 & 0xff);
        match (idc, iop) {
            (0x42, iop) if iop & 0x4f == 0x40 => Profile::ConstrainedBaseline,
            (0x4d, iop) if iop & 0x8f == 0x80 => Profile::ConstrainedBaseline,
            (0x58, iop) if iop & 0xcf == 0xc0 => Profile::ConstrainedBaseline,
            (0x42, iop) if iop & 0x4f == 0 => Profile::Baseline,
            (0x58, iop) if iop & 0xcf == 0x80 => Profile::Baseline,
            (0x4d, iop) if iop & 0xaf == 0 => Profile::Main,
            (0x64, 0x0c) => Profile::ConstrainedHigh,
            (0x64, 0) => Profile::High,
            _ => Profile::Other(profile_level_id >> 8),
        }
    }

    /// Baseline counts as its constrained form: no browser's encoder uses what the constraint takes away, and Firefox lists
    /// only the constrained one.
    pub(super) fn decoding_distance(own: u32, published: u32) -> Option<u32> {
        let rank = |profile| match profile {
            Profile::ConstrainedBaseline => Some(0),
            Profile::Baseline => Some(1),
            Profile::Main => Some(2),
            Profile::ConstrainedHigh => Some(3),
            Profile::High => Some(4),
            Profile::Other(_) => None,
        };
        let (own, published) = (profile(own), profile(published));
        if own == published {
            return Some(0);
        }
        match (rank(own)?, rank(published)?) {
            (own, published) if own > published => Some(own - published),
            // The one step down that works in practice.
            (0, 1) => Some(1),
            _ => None,
        }
    }

    /// Lower for profiles that more decoders include.
    pub(super) fn reach_rank(profile_level_id: u32) -> u32 {
        match profile(profile_level_id) {
            Profile::ConstrainedBaseline => 0,
            Profile::Baseline => 1,
            Profile::Main => 2,
            Profile::ConstrainedHigh => 3,
            Profile::High => 4,
            Profile::Other(_) => 5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn video(text: &str, parameters: &str) -> Format {
        let map = RtpMap::parse(text).expect("rtpmap");
        let fmtp = Fmtp::parse(&format!("{} {parameters}", map.payload_type)).expect("fmtp").1;
        Format::from_rtpmap(MediaKind::Video, &map, &fmtp).expect("a format we pass on")
    }

    fn h264(payload_type: u8, mode: u8, profile: &str) -> Format {
        video(
            &format!("{payload_type} H264/90000"),
            &format!("packetization-mode={mode};profile-level-id={profile}"),
        )
    }

    fn chosen(
        formats: &[Format],
        video: VideoChoice,
        allow_transcoding: bool,
    ) -> Result<(u8, bool), SdpError> {
        choose_published(formats, MediaKind::Video, &CodecPolicy { video, allow_transcoding })
            .map(|choice| choice.map_or((0, false), |(format, forced)| (format.payload_type, forced)))
    }

    #[test]
    fn policies() {
        let formats = [
            h264(102, 1, "42001f"),
            h264(104, 0, "42e01f"),
            h264(108, 1, "42e01f"),
            video("100 VP9/90000", "profile-id=2"),
            video("98 VP9/90000", "profile-id=0"),
            video("96 VP8/90000", ""),
        ];
        let forced = VideoChoice::Forced;
        assert_eq!(chosen(&formats, VideoChoice::ServerPreferred, false), Ok((96, false)));
        assert_eq!(chosen(&formats[..5], VideoChoice::ServerPreferred, false), Ok((108, false)));
        assert_eq!(chosen(&formats, VideoChoice::ClientPreferred, false), Ok((108, false)));
        assert_eq!(chosen(&formats, forced(VideoCodec::Vp9), false), Ok((98, true)));
        assert_eq!(chosen(&formats, forced(VideoCodec::Vp9), true), Ok((98, false)));
        assert_eq!(
            chosen(&formats, forced(VideoCodec::Av1), false),
            Err(SdpError::CodecMissing(VideoCodec::Av1))
        );
        assert_eq!(chosen(&formats, forced(VideoCodec::Av1), true), Ok((96, false)));
        assert_eq!(chosen(&[], VideoChoice::ServerPreferred, false), Ok((0, false)));
    }

    #[test]
    fn h264_profiles_match_by_what_a_decoder_includes() {
        // publisher, subscriber, payload type taken
        let own = [h264(1, 0, "42e01f"), h264(2, 1, "42e01f"), h264(3, 1, "42001f"), h264(4, 1, "64001f")];
        let cases = [
            (h264(96, 1, "42e034"), Some(2)),
            (h264(96, 0, "42e01f"), Some(1)),
            (h264(96, 1, "42001f"), Some(3)),
            (h264(96, 1, "4d001f"), Some(4)),
            (h264(96, 1, "640c1f"), Some(4)),
            (h264(96, 1, "f4001f"), None),
            (video("96 VP8/90000", ""), None),
        ];
        for (published, expected) in cases {
            let taken = choose_subscribed(&own, &published).map(|format| format.payload_type);
            assert_eq!(taken, expected, "{published:?}");
        }
        let only_constrained = [h264(5, 1, "42e01f")];
        assert!(choose_subscribed(&only_constrained, &h264(96, 1, "42001f")).is_some());
        assert!(choose_subscribed(&only_constrained, &h264(96, 1, "4d001f")).is_none());
        assert!(choose_subscribed(&[h264(5, 0, "42e01f")], &h264(96, 1, "42e01f")).is_none());
    }

    #[test]
    fn foreign_formats_are_left_out() {
        let cases = [
            (MediaKind::Audio, "111 opus/48000", ""),
            (MediaKind::Audio, "0 PCMU/8000", ""),
            (MediaKind::Video, "96 VP8/48000", ""),
            (MediaKind::Audio, "96 VP8/90000", ""),
            (MediaKind::Video, "96 H264/90000", "packetization-mode=2;profile-level-id=42e01f"),
            (MediaKind::Video, "96 H264/90000", "profile-level-id=42e0"),
            (MediaKind::Video, "96 VP9/90000", "profile-id=9"),
        ];
        for (kind, map, parameters) in cases {
            let map = RtpMap::parse(map).expect("rtpmap");
            let fmtp = Fmtp::parse(&format!("96 {parameters}")).expect("fmtp").1;
            assert_eq!(Format::from_rtpmap(kind, &map, &fmtp), None, "{map:?} {parameters}");
        }
    }
}

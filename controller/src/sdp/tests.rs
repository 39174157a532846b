//! The whole of it on offers that Chromium 156, Firefox and aiortc made (`fixtures/`), and on mangled ones.

use proptest::prelude::*;
use sfu_core::control::proto::{DtlsRole, Fingerprint, HostCandidate, IceCredentials};

use super::*;

const CHROMIUM_PUBLISH: &str = include_str!("fixtures/chromium_publish.sdp");
const CHROMIUM_SIMULCAST: &str = include_str!("fixtures/chromium_simulcast.sdp");
const CHROMIUM_AUDIO: &str = include_str!("fixtures/chromium_audio_only.sdp");
const CHROMIUM_RECEIVE: &str = include_str!("fixtures/chromium_recv.sdp");
const AIORTC_PUBLISH: &str = include_str!("fixtures/aiortc_publish.sdp");
const AIORTC_RECEIVE: &str = include_str!("fixtures/aiortc_recv.sdp");
const FIREFOX_PUBLISH: &str = include_str!("fixtures/firefox_publish.sdp");
const FIREFOX_RECEIVE: &str = include_str!("fixtures/firefox_recv.sdp");
const ALL: &[&str] = &[
    FIREFOX_PUBLISH,
    FIREFOX_RECEIVE,
    CHROMIUM_PUBLISH,
    CHROMIUM_SIMULCAST,
    CHROMIUM_AUDIO,
    CHROMIUM_RECEIVE,
    AIORTC_PUBLISH,
    AIORTC_RECEIVE,
];

fn local() -> LocalTransport {
    let candidate = |address: &str, port| {
        let address = address.parse().expect("an address");
        HostCandidate { address, bound: (address, port).into(), port }
    };
    LocalTransport {
        ice: IceCredentials { ufrag: "weirufrag".into(), pwd: "0123456789abcdefghijklmn".into() },
        candidates: vec![candidate("127.0.0.1", 40_000), candidate("::1", 40_001)],
        fingerprint: Fingerprint { algorithm: "sha-256".into(), value: vec!["AB"; 32].join(":") },
    }
}

fn ids() -> SendIds {
    SendIds { audio: 1001, video: 2001, video_rtx: 2002, stream: "str_CAM_X9aB_con_QwErTyUiOp".into() }
}

fn forced(codec: VideoCodec, allow_transcoding: bool) -> CodecPolicy {
    CodecPolicy { video: VideoChoice::Forced(codec), allow_transcoding }
}

fn publish(text: &str, policy: CodecPolicy) -> (String, PublishPlan) {
    publish_answer(&Offer::parse(text).expect("parses"), &local(), &policy).expect("has an answer")
}

fn subscribe(text: &str, plan: &PublishPlan) -> (String, SubscribePlan) {
    subscribe_answer(&Offer::parse(text).expect("parses"), plan, &local(), &ids()).expect("has an answer")
}

fn lines_of<'a>(text: &'a str, prefix: &'a str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(prefix)).collect()
}

#[test]
fn chromium_publishes_vp8_and_opus() {
    let (answer, plan) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    insta::assert_snapshot!("chromium_publish_answer", answer.replace('\r', ""));
    insta::assert_json_snapshot!("chromium_publish_plan", plan.tracks);
    assert_eq!(plan.remote.ice_ufrag, "COMC");
    assert_eq!(plan.remote.dtls_role, DtlsRole::Client);
    assert_eq!(plan.remote.fingerprints.len(), 1);
    assert!(!plan.forced);
}

#[test]
fn chromium_simulcast_layers_are_listed_from_the_smallest() {
    let (answer, plan) = publish(CHROMIUM_SIMULCAST, CodecPolicy::default());
    assert_eq!(lines_of(&answer, "a=rid:"), ["a=rid:rdiv4 recv", "a=rid:rdiv2 recv", "a=rid:rdiv1 recv"]);
    assert_eq!(lines_of(&answer, "a=simulcast:"), ["a=simulcast:recv rdiv4;rdiv2;rdiv1"]);
    let rids: Vec<_> =
        plan.tracks[1].encodings.iter().filter_map(|encoding| encoding.rid.as_deref()).collect();
    assert_eq!(rids, ["rdiv4", "rdiv2", "rdiv1"]);
    assert!(plan.tracks[1].encodings.iter().all(|encoding| encoding.ssrc.is_none()));
    assert!(!answer.contains("dependency-descriptor"), "only with AV1");
}

#[test]
fn the_forced_codec_is_the_only_one_answered() {
    for (codec, payload_type, rtx) in
        [(VideoCodec::Vp9, 98, 99), (VideoCodec::H264, 108, 109), (VideoCodec::Av1, 45, 46)]
    {
        let (answer, plan) = publish(CHROMIUM_PUBLISH, forced(codec, false));
        let line = format!("m=video 9 UDP/TLS/RTP/SAVPF {payload_type} {rtx}");
        assert_eq!(lines_of(&answer, "m=video"), [line]);
        assert_eq!(lines_of(&answer, "a=rtpmap:").len(), 3, "opus, the codec, its rtx");
        assert_eq!((plan.tracks[1].codec.name.as_str(), plan.forced), (codec.name(), true));
    }
}

#[test]
fn a_forced_codec_that_is_absent_is_error_800_or_falls_back() {
    let offer = Offer::parse(AIORTC_PUBLISH).expect("parses");
    let error = publish_answer(&offer, &local(), &forced(VideoCodec::Vp9, false)).expect_err("no VP9 there");
    assert_eq!((error.code(), &error), (800, &SdpError::CodecMissing(VideoCodec::Vp9)));
    let (_, plan) = publish(AIORTC_PUBLISH, forced(VideoCodec::Vp9, true));
    assert_eq!((plan.tracks[1].codec.name.as_str(), plan.forced), ("VP8", false));

    let (_, vp9) = publish(CHROMIUM_PUBLISH, forced(VideoCodec::Vp9, false));
    let subscriber = Offer::parse(AIORTC_RECEIVE).expect("parses");
    let error = subscribe_answer(&subscriber, &vp9, &local(), &ids()).expect_err("no VP9 there");
    assert_eq!(error.code(), 800);
    let (_, unforced) = publish(CHROMIUM_PUBLISH, forced(VideoCodec::Vp9, true));
    let (answer, plan) = subscribe(AIORTC_RECEIVE, &unforced);
    assert_eq!(plan.tracks.len(), 1, "sound is left");
    assert_eq!(lines_of(&answer, "m=video").len(), 1);
    assert!(answer.contains("m=video 0 "), "{answer}");
}

#[test]
fn chromium_receives_what_chromium_sends() {
    let (_, published) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    let (answer, plan) = subscribe(CHROMIUM_RECEIVE, &published);
    insta::assert_snapshot!("chromium_subscribe_answer", answer.replace('\r', ""));
    insta::assert_json_snapshot!("chromium_subscribe_plan", plan.tracks);
}

#[test]
fn aiortc_publishes_and_receives() {
    let (answer, published) = publish(AIORTC_PUBLISH, CodecPolicy::default());
    insta::assert_snapshot!("aiortc_publish_answer", answer.replace('\r', ""));
    assert_eq!(published.remote.fingerprints.len(), 1, "of three digests only SHA-256");
    assert_eq!(published.tracks[1].encodings[0].ssrc, Some(525_949_279));
    assert_eq!(published.tracks[1].encodings[0].rtx_ssrc, Some(1_257_240_927));
    let (_, plan) = subscribe(AIORTC_RECEIVE, &published);
    let codecs: Vec<_> = plan.tracks.iter().map(|track| track.codec.name.as_str()).collect();
    assert_eq!(codecs, ["opus", "VP8"]);
}

#[test]
fn firefox_publishes_and_receives() {
    let (answer, published) = publish(FIREFOX_PUBLISH, CodecPolicy::default());
    insta::assert_snapshot!("firefox_publish_answer", answer.replace('\r', ""));
    assert_eq!(published.remote.fingerprints.len(), 1, "at session level");
    let uris: Vec<_> =
        published.tracks[1].extensions.iter().map(|extension| extension.uri.as_str()).collect();
    assert!(!uris.iter().any(|uri| uri.contains("playout-delay")), "Firefox only receives it: {uris:?}");
    let (_, chromium) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    let (_, plan) = subscribe(FIREFOX_RECEIVE, &chromium);
    let codecs: Vec<_> =
        plan.tracks.iter().map(|track| (track.codec.name.as_str(), track.codec.payload_type)).collect();
    assert_eq!(codecs, [("opus", 109), ("VP8", 120)]);
}

#[test]
fn h264_goes_to_a_subscriber_by_profile_and_packetization_mode() {
    let (_, published) = publish(CHROMIUM_PUBLISH, forced(VideoCodec::H264, false));
    let (_, plan) = subscribe(AIORTC_RECEIVE, &published);
    assert_eq!(plan.tracks[1].codec.payload_type, 101, "42e01f, mode 1, in aiortc's numbers");
}

#[test]
fn loopback_sends_back_on_the_same_lines() {
    let offer = Offer::parse(&CHROMIUM_PUBLISH.replace("a=sendonly", "a=sendrecv")).expect("parses");
    let (answer, published, back) =
        loopback_answer(&offer, &local(), &CodecPolicy::default(), &ids()).expect("has an answer");
    assert_eq!(lines_of(&answer, "a=sendrecv").len(), 2);
    assert_eq!(lines_of(&answer, "a=ssrc-group:"), ["a=ssrc-group:FID 2001 2002"]);
    assert_eq!((published.tracks.len(), back.tracks.len()), (2, 2));
    assert_eq!(back.tracks[0].ssrc, 1001);
    let (answer, _) = publish_answer(&offer, &local(), &CodecPolicy::default()).expect("has an answer");
    assert_eq!(lines_of(&answer, "a=recvonly").len(), 2, "without loopback nothing is sent back");
}

#[test]
fn our_offer_and_an_answer_to_it() {
    let (_, published) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    let (offer, pending) = subscribe_offer(&published, &local(), &ids());
    insta::assert_snapshot!("subscribe_offer", offer.replace('\r', ""));

    let answer = include_str!("fixtures/chromium_answer.sdp");
    let plan = accept_answer(&pending, answer).expect("fits");
    insta::assert_json_snapshot!("accepted_answer_plan", plan.tracks);
    assert_eq!(plan.remote.dtls_role, DtlsRole::Client);

    let passive = accept_answer(&pending, &answer.replace("setup:active", "setup:passive")).expect("fits");
    assert_eq!(passive.remote.dtls_role, DtlsRole::Server);
}

#[test]
fn an_answer_may_leave_things_out() {
    let (_, published) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    let (_, pending) = subscribe_offer(&published, &local(), &ids());
    let answer = include_str!("fixtures/chromium_answer.sdp");

    let no_rtx = answer.replace("a=fmtp:97 apt=96\r\n", "").replace("a=rtpmap:97 rtx/90000\r\n", "");
    let plan = accept_answer(&pending, &no_rtx).expect("fits");
    assert_eq!((plan.tracks[1].codec.rtx_payload_type, plan.tracks[1].rtx_ssrc), (None, None));

    let plan = accept_answer(&pending, &answer.replace("m=video 9", "m=video 0")).expect("fits");
    assert_eq!(plan.tracks.len(), 1);

    let refused = answer.replace("m=video 9", "m=video 0").replace("m=audio 9", "m=audio 0");
    assert_eq!(accept_answer(&pending, &refused), Err(SdpError::NothingUsable));
    let other = answer.replace("a=mid:1", "a=mid:7").replace("BUNDLE 0 1", "BUNDLE 0 7");
    assert_eq!(accept_answer(&pending, &other), Err(SdpError::AnswerMismatch("mid")));
    let undecided = answer.replace("setup:active", "setup:actpass");
    assert_eq!(accept_answer(&pending, &undecided), Err(SdpError::AnswerMismatch("setup")));
    let short = &answer[..answer.find("m=video").expect("has video")];
    assert_eq!(accept_answer(&pending, short), Err(SdpError::AnswerMismatch("number of m-lines")));
}

#[test]
fn a_publication_goes_on_with_the_same_codecs_only() {
    let (_, vp8) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    let (_, again) = publish(AIORTC_PUBLISH, CodecPolicy::default());
    let (_, vp9) = publish(CHROMIUM_PUBLISH, forced(VideoCodec::Vp9, false));
    let (_, audio) = publish(CHROMIUM_AUDIO, CodecPolicy::default());
    assert!(again.continues(&vp8));
    assert!(!vp9.continues(&vp8));
    assert!(!audio.continues(&vp8));
}

#[test]
fn lines_that_cannot_be_used_get_port_0_and_keep_their_place() {
    let application = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\na=sctp-port:5000\r\n";
    // Each case: what is changed in the offer, and the m-lines of the answer.
    let cases: &[(&str, &str, &[&str])] = &[
        ("a=rtcp-mux\r\n", "", &[]),
        ("a=group:BUNDLE 0 1", "a=group:BUNDLE 0", &["m=audio 9", "m=video 0"]),
        ("m=video 9", "m=video 0", &["m=audio 9", "m=video 0"]),
        ("m=audio 9", "m=audio 0", &["m=audio 0", "m=video 9"]),
        ("UDP/TLS/RTP/SAVPF 111", "RTP/AVP 111", &["m=audio 0", "m=video 9"]),
        ("opus/48000/2", "opus/16000/2", &["m=audio 0", "m=video 9"]),
        ("m=audio 9", "m=text 9", &["m=text 0", "m=video 9"]),
    ];
    for (from, to, expected) in cases {
        let offer = Offer::parse(&CHROMIUM_PUBLISH.replace(from, to)).expect("parses");
        match publish_answer(&offer, &local(), &CodecPolicy::default()) {
            Err(error) => assert_eq!((expected.len(), error), (0, SdpError::NothingUsable), "{from}"),
            Ok((answer, _)) => {
                let lines = lines_of(&answer, "m=");
                let starts: Vec<_> = lines
                    .iter()
                    .filter_map(|line| Some(line.rsplit_once(" UDP/").or(line.rsplit_once(" RTP/"))?.0))
                    .collect();
                assert_eq!(starts, *expected, "{from}");
            }
        }
    }
    let (answer, plan) = publish(&format!("{CHROMIUM_PUBLISH}{application}"), CodecPolicy::default());
    assert_eq!(lines_of(&answer, "m=")[2], "m=application 0 UDP/DTLS/SCTP webrtc-datachannel");
    assert_eq!(lines_of(&answer, "a=group:"), ["a=group:BUNDLE 0 1"]);
    assert_eq!(plan.tracks.len(), 2);
}

#[test]
fn bundle_only_lines_are_in_use_although_their_port_is_0() {
    let offer =
        CHROMIUM_PUBLISH.replace("m=video 9", "m=video 0").replace("a=mid:1", "a=bundle-only\r\na=mid:1");
    assert_eq!(publish(&offer, CodecPolicy::default()).1.tracks.len(), 2);
}

#[test]
fn offers_without_what_a_transport_needs_are_refused() {
    let cases =
        [("a=ice-ufrag:", "ice-ufrag"), ("a=ice-pwd:", "ice-pwd"), ("a=fingerprint:", "fingerprint:sha-256")];
    for (prefix, missing) in cases {
        let text: String = CHROMIUM_PUBLISH
            .lines()
            .filter(|line| !line.starts_with(prefix))
            .map(|line| format!("{line}\r\n"))
            .collect();
        let offer = Offer::parse(&text).expect("parses");
        let error = publish_answer(&offer, &local(), &CodecPolicy::default()).expect_err("unusable");
        assert_eq!((error.code(), error), (302, SdpError::Missing(missing)));
    }
}

#[test]
fn limits() {
    let long = format!("{CHROMIUM_PUBLISH}a=x:{}\r\n", "y".repeat(MAX_SDP_BYTES));
    assert_eq!(Offer::parse(&long), Err(SdpError::TooLong(long.len())));
    let many = format!("{CHROMIUM_PUBLISH}{}", "a=x\r\n".repeat(MAX_LINES));
    assert_eq!(Offer::parse(&many), Err(SdpError::TooManyLines));
    let sections = format!("v=0\r\n{}", "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n".repeat(5));
    assert_eq!(Offer::parse(&sections), Err(SdpError::TooManySections(5)));
    let twice = CHROMIUM_PUBLISH.replace("a=mid:1", "a=mid:0");
    assert_eq!(Offer::parse(&twice), Err(SdpError::DuplicateMid("0".into())));
    for text in ["", "v=1\r\n", "hello", "\0", "v=0\r\nm=audio"] {
        assert!(matches!(Offer::parse(text), Err(SdpError::Syntax(_))), "{text:?}");
    }
}

#[test]
fn nothing_of_a_publisher_reaches_a_subscriber_but_typed_values() {
    let marked =
        CHROMIUM_PUBLISH.replace("useinbandfec=1", "useinbandfec=1;x-evil=1").replace("cname:", "cname:evil");
    let (answer, published) = publish(&marked, CodecPolicy::default());
    let (offer, _) = subscribe_offer(&published, &local(), &ids());
    assert!(!answer.contains("evil") && !offer.contains("evil"));
}

/// Whatever happens to a description on its way, the functions return.
fn exercise(text: &str) {
    let Ok(offer) = Offer::parse(text) else { return };
    for policy in [CodecPolicy::default(), forced(VideoCodec::H264, true)] {
        if let Ok((answer, plan, _)) = loopback_answer(&offer, &local(), &policy, &ids()) {
            let parsed = Offer::parse(&answer).expect("what we write parses");
            assert_eq!(parsed.sections.len(), offer.sections.len());
            assert!((1..=2).contains(&plan.tracks.len()));
            let (text, _) = subscribe_offer(&plan, &local(), &ids());
            Offer::parse(&text).expect("what we write parses");
        }
    }
    let (_, plan) = publish(CHROMIUM_PUBLISH, CodecPolicy::default());
    let (_, pending) = subscribe_offer(&plan, &local(), &ids());
    let answered = subscribe_answer(&offer, &plan, &local(), &ids());
    if let Ok((_, plan)) = answered {
        assert!(plan.tracks.iter().all(|track| track.codec.payload_type < 128));
    }
    if let Ok(plan) = accept_answer(&pending, text) {
        assert!(!plan.tracks.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
        exercise(&text);
        exercise(&format!("v=0\r\n{text}"));
    }

    #[test]
    fn mangled_offers_never_panic(
        which in 0..ALL.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6_u8, any::<u8>()), 1..12),
    ) {
        let mut bytes = ALL[which].as_bytes().to_vec();
        for (at, edit, value) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = value,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, value),
                3 => bytes.truncate(at + 40),
                4 => { let piece: Vec<u8> = bytes[at..(at + 60).min(bytes.len())].to_vec(); bytes.extend(piece); }
                _ => bytes[at] = b"0 \r\n:=;/9"[usize::from(value) % 9],
            }
        }
        exercise(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn shuffled_lines_never_panic(which in 0..ALL.len(), seed in any::<u64>()) {
        let mut lines: Vec<_> = ALL[which].lines().collect();
        let mut state = seed | 1;
        for index in (2..lines.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            lines.swap(index, 1 + (state >> 33) as usize % index);
        }
        exercise(&lines.join("\r\n"));
    }
}

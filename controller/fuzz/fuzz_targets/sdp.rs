//! Any text as an offer of a publisher, an offer of a subscriber and an answer: nothing panics, and what is written parses.
//!
//! `cargo fuzz run sdp fuzz/corpus/sdp ../src/sdp/fixtures` in `controller/`: the captured descriptions are the seeds.
#![no_main]

use std::sync::OnceLock;

use controller::sdp::{
    CodecPolicy, LocalTransport, Offer, PublishPlan, SendIds, accept_answer, loopback_answer, publish_answer,
    subscribe_answer, subscribe_offer,
};
use libfuzzer_sys::fuzz_target;
use sfu_core::control::proto::{Fingerprint, HostCandidate, IceCredentials};

const OFFER: &str = include_str!("../../src/sdp/fixtures/chromium_publish.sdp");

fn local() -> LocalTransport {
    let address = [127, 0, 0, 1].into();
    LocalTransport {
        ice: IceCredentials { ufrag: "weirufrag".into(), pwd: "0123456789abcdefghijklmn".into() },
        candidates: vec![HostCandidate { address, bound: (address, 40_000).into(), port: 40_000 }],
        fingerprint: Fingerprint { algorithm: "sha-256".into(), value: ["AB"; 32].join(":") },
    }
}

fn plan() -> &'static PublishPlan {
    static PLAN: OnceLock<PublishPlan> = OnceLock::new();
    PLAN.get_or_init(|| {
        let offer = Offer::parse(OFFER).expect("a captured offer parses");
        publish_answer(&offer, &local(), &CodecPolicy::default()).expect("and can be answered").1
    })
}

fuzz_target!(|text: &str| {
    let ids = SendIds { audio: 1, video: 2, video_rtx: 3, stream: "stream".into() };
    let Ok(offer) = Offer::parse(text) else { return };
    if let Ok((answer, plan, _)) = loopback_answer(&offer, &local(), &CodecPolicy::default(), &ids) {
        Offer::parse(&answer).expect("our answer parses");
        let (offer, _) = subscribe_offer(&plan, &local(), &ids);
        Offer::parse(&offer).expect("our offer parses");
    }
    if let Ok((answer, _)) = subscribe_answer(&offer, plan(), &local(), &ids) {
        Offer::parse(&answer).expect("our answer parses");
    }
    let (_, pending) = subscribe_offer(plan(), &local(), &ids);
    if let Ok(plan) = accept_answer(&pending, text) {
        assert!(!plan.tracks.is_empty());
    }
});

//! One function per fuzz target: bytes in, panics out.
//!
//! Also compiled into `controller/tests/fuzz_seeds.rs`, so it may use public items of `controller` and of its dependencies only.

use std::sync::OnceLock;

use controller::sdp::{
    CodecPolicy, LocalTransport, Offer, PublishPlan, SendIds, accept_answer, loopback_answer, publish_answer,
    subscribe_answer, subscribe_offer,
};
use sfu_core::control::proto::{Fingerprint, HostCandidate, IceCredentials};

use super::engine::World;

/// Takes what somebody sent, and panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target: its name, its function and the folder of its seeds.
pub const TARGETS: &[(&str, Target, &str)] =
    &[("sdp", sdp, "../src/sdp/fixtures"), ("rpc", rpc, "seeds/rpc"), ("rest", rest, "seeds/rest")];

const OFFER: &str = include_str!("../../src/sdp/fixtures/chromium_publish.sdp");

/// Any text as an offer of a publisher, an offer of a subscriber and an answer: what is written parses.
pub fn sdp(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
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
}

/// Messages of clients, one a line, in a session with a publisher. A line begins with the number of the socket it comes by: 0
/// publishes, 1 has joined, 2 is new. `+` lets ten seconds pass.
pub fn rpc(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut world = World::new();
    for line in text.lines().take(50) {
        match line.split_at_checked(1) {
            Some(("+", _)) => world.pass(10_000),
            Some((socket, message)) => {
                let socket = socket.parse::<usize>().unwrap_or(0).min(2);
                world.message(socket, message);
            }
            None => {}
        }
    }
    world.end();
}

/// Requests to the REST API, one a line: method, path with query, body.
pub fn rest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut world = World::new();
    for line in text.lines().take(50) {
        let mut parts = line.splitn(3, ' ');
        match (parts.next(), parts.next()) {
            (Some("+"), _) => world.pass(10_000),
            (Some(method), Some(path)) => world.request(method, path, parts.next().unwrap_or_default()),
            _ => {}
        }
    }
    world.end();
}

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

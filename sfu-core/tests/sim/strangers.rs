//! What a stranger or a broken peer can send: it is counted, not forwarded, and nobody else notices.

use sfu_core::control::proto::{DtlsRole, TransportState};
use sfu_core::drop_reason::DropReason;
use sfu_core::ids::{ExtSeq, LocalId, PayloadType, SeqNo, Ssrc};
use sfu_core::wire::demux::{Protocol, classify};
use sfu_core::wire::rtcp::{write_fir, write_nack, write_pli};
use sfu_core::wire::rtp::HeaderFields;
use sfu_core::wire::stun::Role;

use crate::support::ms;
use crate::support::peer::{STRANGER, certificate};
use crate::support::room::{Join, Publish, Subscribe, Subscribed};
use crate::support::world::World;

struct Call {
    world: World,
    alice: usize,
    bob: usize,
    subscribed: Subscribed,
}

fn call(seed: u64) -> Call {
    let mut world = World::new(seed);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(2_000));
    Call { world, alice, bob, subscribed }
}

impl Call {
    /// Media goes on as if nothing had happened.
    fn assert_unharmed(mut self) {
        self.world.run_for(ms(1_000));
        let video = self.world.video(self.subscribed);
        video.assert_gap_free();
        video.assert_decodable();
        self.world.audio(self.subscribed).assert_gap_free();
        assert!(self.world.now.since(video.last().at) < ms(100));
        assert_eq!(self.world.peers[self.bob].heard.srtp_errors, 0);
        self.world.close_and_check();
    }

    /// Hands `datagrams` over from `from` and says how many left the shard because of them.
    fn inject(&mut self, from: std::net::SocketAddr, datagrams: &[Vec<u8>]) -> u64 {
        let before: u64 = self.world.tap.to.values().sum();
        for datagram in datagrams {
            self.world.deliver(from, LocalId(0), datagram);
        }
        self.world.turn();
        self.world.tap.to.values().sum::<u64>() - before
    }

    /// Alice's next media packets, which have not left yet.
    fn take_media(&mut self) -> Vec<Vec<u8>> {
        self.world.now += ms(40);
        self.world.turn();
        let now = self.world.now;
        self.world.peers[self.alice].tick(now);
        let out = std::mem::take(&mut self.world.peers[self.alice].out);
        let media: Vec<_> = out.into_iter().filter(|bytes| classify(bytes) == Protocol::Rtp).collect();
        assert!(media.len() >= 4);
        media
    }

    fn drops(&self) -> u64 {
        self.world.shard.counters().drops.iter().sum()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.world.dropped(reason)
    }
}

const FOREIGN: ([u8; 4], u16) = ([198, 51, 100, 66], 6666);

#[test]
fn a_wrong_fingerprint_fails_and_no_media_passes() {
    for role in [DtlsRole::Client, DtlsRole::Server] {
        let mut world = World::new(71);
        let join = Join { told: STRANGER, role, ..Join::default() };
        let alice = world.join_as("alice", join).unwrap();
        world.publish(alice, "cam", &Publish::default()).unwrap();
        let bob = world.join("bob");
        let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
        world.run_for(ms(5_000));
        assert_eq!(world.states("alice"), [TransportState::Connecting, TransportState::Failed]);
        let reason =
            world.changes.iter().find(|change| change.state == TransportState::Failed).unwrap().reason;
        assert!(reason.contains("fingerprint"), "{reason}");
        assert_eq!(world.video(subscribed).len() + world.audio(subscribed).len(), 0);
        let counters = world.shard.counters();
        assert_eq!((counters.rtp_in, counters.rtp_forwarded, counters.handshakes_failed), (0, 0, 1));
        world.close_and_check();
    }
}

#[test]
fn an_impostor_with_the_ice_password_gets_no_media() {
    // It saw signaling, so it passes ICE; its certificate gives it away.
    let mut world = World::new(72);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let mallory = world.join("mallory");
    world.peers[mallory].certificate = certificate(STRANGER);
    world.subscribe(mallory, "mallory", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    assert_eq!(world.states("mallory").last(), Some(&TransportState::Failed));
    assert_eq!(world.shard.counters().rtp_forwarded, 0);
    world.close_and_check();
}

#[test]
fn dtls_from_a_foreign_address_is_ignored() {
    let mut call = call(73);
    let hello = vec![client_hello()];
    let before = call.dropped(DropReason::UnknownAddress);
    assert_eq!(call.inject(FOREIGN.into(), &hello), 0, "no answer");
    assert_eq!(call.dropped(DropReason::UnknownAddress), before + 1);
    // The same from Alice's address in the middle of her call changes nothing either.
    let addr = call.world.peers[call.alice].addr;
    call.inject(addr, &hello);
    call.world.run_for(ms(500));
    assert_eq!(call.world.states("alice"), [TransportState::Connecting, TransportState::Connected]);
    call.assert_unharmed();
}

fn client_hello() -> Vec<u8> {
    use sfu_core::crypto::{Dtls, DtlsEndpoint, DtlsOutput, Role};
    use sfu_core::time::Timestamp;
    let mut dtls =
        Dtls::new(Role::Client, &certificate(STRANGER), crate::support::peer::epoch(), Timestamp::ZERO);
    let mut buf = [0; 2048];
    match dtls.poll(&mut buf) {
        DtlsOutput::Datagram(len) => buf[..len].to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn replayed_and_forged_media_is_counted_and_not_forwarded() {
    let mut call = call(74);
    let alice = call.world.peers[call.alice].addr;
    let media = call.take_media();
    // Forged first: the real ones must still pass afterwards.
    let mut forged = Vec::new();
    for (at, datagram) in media.iter().enumerate() {
        for byte in [2, 8, 20, datagram.len() / 2, datagram.len() - 1] {
            let mut bytes = datagram.clone();
            bytes[byte] ^= 1 << (at % 8);
            forged.push(bytes);
        }
        forged.push(datagram[..datagram.len() - 1].to_vec());
    }
    let (before, auth) = (call.drops(), call.dropped(DropReason::AuthFailed));
    assert_eq!(call.inject(alice, &forged), 0);
    assert_eq!(call.drops() - before, forged.len() as u64, "each counts once");
    assert!(call.dropped(DropReason::AuthFailed) - auth > forged.len() as u64 / 2);
    assert!(call.inject(alice, &media) > 0, "the real ones pass");
    // Again, and from elsewhere.
    let before = call.dropped(DropReason::Replayed);
    assert_eq!(call.inject(alice, &media), 0);
    assert_eq!(call.dropped(DropReason::Replayed) - before, media.len() as u64);
    let before = call.dropped(DropReason::UnknownAddress);
    assert_eq!(call.inject(FOREIGN.into(), &media), 0);
    let bob = call.world.peers[call.bob].addr;
    assert_eq!(call.dropped(DropReason::UnknownAddress) - before, media.len() as u64);
    // From another peer's address: other keys.
    let before = call.dropped(DropReason::AuthFailed);
    assert_eq!(call.inject(bob, &media), 0);
    assert_eq!(call.dropped(DropReason::AuthFailed) - before, media.len() as u64);
    call.assert_unharmed();
}

#[test]
fn forged_and_replayed_rtcp_does_nothing() {
    let mut call = call(75);
    let bob = call.world.peers[call.bob].addr;
    let video = Ssrc(call.subscribed.video);
    call.world.peers[call.bob].send_rtcp(|out| write_pli(out, Ssrc(1), video));
    let pli = std::mem::take(&mut call.world.peers[call.bob].out).pop().unwrap();
    let mut forged = pli.clone();
    forged[10] ^= 1;
    let (auth, replayed) = (call.dropped(DropReason::AuthFailed), call.dropped(DropReason::Replayed));
    call.inject(bob, &[forged, pli.clone(), pli.clone(), pli]);
    assert_eq!(call.dropped(DropReason::AuthFailed) - auth, 1);
    assert_eq!(call.dropped(DropReason::Replayed) - replayed, 2);
    call.assert_unharmed();
}

#[test]
fn garbage_is_counted_once_and_answered_never() {
    let mut call = call(76);
    let addrs = [FOREIGN.into(), call.world.peers[call.alice].addr, call.world.peers[call.bob].addr];
    for round in 0..3_000_u64 {
        let len = call.world.rng.below(160) as usize;
        let mut bytes = call.world.rng.bytes(len);
        if let Some(first) = bytes.first_mut() {
            // Every protocol's range, and none.
            *first = [0x00, 0x01, 0x16, 0x17, 0x80, 0x90, 0xb0, 0x40, 0xff, *first][round as usize % 10];
        }
        let dtls = classify(&bytes) == Protocol::Dtls;
        let before = call.drops();
        assert_eq!(call.inject(addrs[round as usize % 3], &[bytes]), 0);
        // Noise inside an established DTLS association is no drop: the engine's to judge.
        assert!(call.drops() - before == 1 || dtls, "round {round}");
    }
    call.assert_unharmed();
}

#[test]
fn checks_that_do_not_know_the_password_are_not_answered() {
    let mut call = call(77);
    let carol = call.world.join("carol");
    call.world.peers[carol].checking = false;
    let right = call.world.peers[carol].node.clone();
    let addr = call.world.peers[carol].addr;
    let peer = |call: &mut Call, pwd: &str, ufrag: &str, own: &str| {
        let peer = &mut call.world.peers[carol];
        (peer.node.pwd, peer.node.ufrag, peer.ufrag) = (pwd.into(), ufrag.into(), own.into());
        peer.check()
    };
    let own = call.world.peers[carol].ufrag.clone();
    for (pwd, ufrag, own, reason) in [
        ("0123456789012345678901wrong", &*right.ufrag, &*own, DropReason::StunBadIntegrity),
        (&*right.pwd, "nobody", &*own, DropReason::StunUnknownUser),
        (&*right.pwd, &*right.ufrag, "somebody", DropReason::StunUnknownUser),
    ] {
        let check = peer(&mut call, pwd, ufrag, own);
        let before = call.dropped(reason);
        assert_eq!(call.inject(addr, std::slice::from_ref(&check)), 0, "{reason:?}");
        assert_eq!(call.dropped(reason), before + 1, "{reason:?}");
        for len in 0..check.len() {
            assert_eq!(call.inject(addr, &[check[..len].to_vec()]), 0);
        }
    }
    assert!(call.world.states("carol").is_empty());
    let check = peer(&mut call, &right.pwd, &right.ufrag, &own);
    assert!(call.inject(addr, &[check]) > 0, "the right one is answered");
    assert_eq!(call.world.states("carol"), [TransportState::Connecting]);
    call.assert_unharmed();
}

/// A third participant of Alice's and Bob's call.
fn mallory(call: &mut Call) -> usize {
    let mallory = call.world.join("mallory");
    call.world.run_for(ms(2_000));
    mallory
}

#[test]
fn a_participant_cannot_take_anothers_address() {
    for nominates_always in [true, false] {
        let mut call = call(35);
        if !nominates_always {
            call.world.peers[call.alice].nominate_once();
        }
        let mallory = mallory(&mut call);
        let alice = call.world.peers[call.alice].addr;
        for _ in 0..100 {
            let check = call.world.peers[mallory].check_that(true);
            assert_eq!(call.inject(alice, &[check]), 0, "and it is not answered");
            call.world.run_for(ms(100));
        }
        assert_eq!(call.dropped(DropReason::PairHeld), 100);
        assert_eq!(call.dropped(DropReason::AuthFailed), 0);
        call.assert_unharmed();
    }
}

#[test]
fn an_address_that_was_taken_comes_back() {
    let mut call = call(36);
    let mallory = mallory(&mut call);
    let alice = call.world.peers[call.alice].addr;
    call.world.peers[call.alice].checking = false;
    call.world.run_for(ms(8_000));
    let check = call.world.peers[mallory].check_that(false);
    call.world.inject(alice, &check);
    call.world.run_for(ms(1_000));
    assert!(call.dropped(DropReason::AuthFailed) > 50, "Alice's media does not fit Mallory's keys");
    call.world.peers[call.alice].checking = true;
    call.world.run_for(ms(8_000));
    let lost = call.dropped(DropReason::AuthFailed);
    call.world.run_for(ms(1_000));
    assert_eq!(call.dropped(DropReason::AuthFailed), lost);
    let last = call.world.video(call.subscribed).last().at;
    assert!(call.world.now.since(last) < ms(100));
    call.world.close_and_check();
}

#[test]
fn a_nomination_in_anothers_name_leads_media_there_for_a_moment_only() {
    let mut call = call(37);
    call.world.peers[call.bob].nominate_once();
    // Bob has his media sent to a victim, and goes on to check from his own address.
    let check = call.world.peers[call.bob].check_that(true);
    call.world.inject(FOREIGN.into(), &check);
    call.world.run_for(ms(12_000));
    let sent = call.world.tap.to[&FOREIGN.into()];
    assert!(sent > 100);
    call.world.run_for(ms(30_000));
    assert_eq!(call.world.tap.to[&FOREIGN.into()], sent, "the victim never agreed (RFC 7675)");
    assert_eq!(call.world.states("bob"), [TransportState::Connecting, TransportState::Connected]);
    call.world.close_and_check();
}

#[test]
fn a_peer_that_wants_to_be_controlled_is_told_of_the_conflict() {
    let mut world = World::new(78);
    let alice = world.join("alice");
    world.peers[alice].ice_role = Role::Controlled(9);
    world.run_for(ms(500));
    let errors = &world.peers[alice].heard.ice_errors;
    assert!(errors.len() > 3 && errors.iter().all(|code| *code == 487), "{errors:?}");
    assert!(world.states("alice").is_empty());
    world.peers[alice].ice_role = Role::Controlling(9);
    world.run_for(ms(2_000));
    assert_eq!(world.states("alice"), [TransportState::Connecting, TransportState::Connected]);
    world.close_and_check();
}

/// A packet of `peer` with numbers of the test's choice, sealed as it should be.
fn sealed(
    world: &mut World,
    peer: usize,
    ssrc: u32,
    payload_type: u8,
    index: u64,
    payload: &[u8],
) -> Vec<u8> {
    let fields = HeaderFields {
        marker: false,
        padding: false,
        payload_type: PayloadType(payload_type),
        seq: ExtSeq(index).seq(),
        timestamp: 1,
        ssrc: Ssrc(ssrc),
    };
    let (_, tx) = world.peers[peer].srtp.as_mut().expect("connected");
    let mut out = vec![0; 1500];
    let len = fields.write(&mut out, &[]).unwrap();
    let len = tx.protect_rtp(&mut out, len, payload, Ssrc(ssrc), ExtSeq(index));
    out.truncate(len);
    out
}

#[test]
fn streams_that_were_not_negotiated_go_nowhere() {
    let mut call = call(79);
    let addr = call.world.peers[call.alice].addr;
    // A publication she does not send on.
    call.world.publish(call.alice, "idle", &Publish { video: false, ..Publish::default() }).unwrap();
    call.world.peers[call.alice].senders[2].muted = true;
    let idle = call.world.peers[call.alice].senders[2].spec.ssrc;
    for (ssrc, payload_type, reason) in
        [(7, 50, DropReason::UnknownStream), (idle, 8, DropReason::UnknownPayloadType)]
    {
        let before = call.dropped(reason);
        let make = |n: u64| sealed(&mut call.world, call.alice, ssrc, payload_type, 5 + n, &[1; 40]);
        let datagrams: Vec<_> = (0..3).map(make).collect();
        assert_eq!(call.inject(addr, &datagrams), 0);
        assert_eq!(call.dropped(reason) - before, 3);
    }
    // SSRCs without end.
    let many: Vec<_> =
        (0..40).map(|n| sealed(&mut call.world, call.alice, 1_000 + n, 50, 5, &[1; 40])).collect();
    assert_eq!(call.inject(addr, &many), 0);
    assert!(call.dropped(DropReason::TooManyStreams) >= 24);
    call.assert_unharmed();
}

#[test]
fn feedback_about_other_peoples_streams_does_nothing() {
    let mut call = call(80);
    let carol = call.world.join("carol");
    call.world.run_for(ms(1_000));
    let before = call.world.shard.counters().clone();
    let asked = call.world.peers[call.alice].senders[1].key_frame_requests.len();
    let alices = call.world.peers[call.alice].senders[1].spec.ssrc;
    for media in [call.subscribed.video, call.subscribed.audio, alices, 0] {
        let newest = *call.world.video(call.subscribed).arrivals.keys().next_back().unwrap() as u16;
        let media = Ssrc(media);
        let fir = sfu_core::wire::rtcp::FirEntry { media, command: 1 };
        let peer = &mut call.world.peers[carol];
        peer.send_rtcp(|out| write_pli(out, Ssrc(1), media));
        peer.send_rtcp(|out| write_fir(out, Ssrc(1), &[fir]));
        peer.send_rtcp(|out| write_nack(out, Ssrc(1), media, (newest.wrapping_sub(9)..=newest).map(SeqNo)));
        call.world.flush(carol);
    }
    call.world.run_for(ms(1_000));
    let after = call.world.shard.counters();
    assert_eq!((after.resent, after.resend_missed), (before.resent, before.resend_missed));
    assert_eq!(call.world.peers[call.alice].senders[1].key_frame_requests.len(), asked);
    call.assert_unharmed();
}

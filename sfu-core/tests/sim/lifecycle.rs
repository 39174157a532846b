//! How things end: by command while packets wait, by silence, by goodbye; and that every slot comes back.

use sfu_core::control::proto::{Op, TransportState, error_code};
use sfu_core::drop_reason::DropReason;
use sfu_core::engine::Engine;
use sfu_core::ids::{LocalId, SeqNo, Ssrc};
use sfu_core::shard::Limits;
use sfu_core::wire::rtcp::write_nack;

use crate::support::ms;
use crate::support::peer::State;
use crate::support::room::{Publish, Subscribe, Subscribed};
use crate::support::world::{Settings, World};

struct Call {
    world: World,
    alice: usize,
    bob: usize,
    subscribed: Subscribed,
}

/// Alice publishes, Bob watches, and it has gone on for two seconds.
fn call(seed: u64) -> Call {
    let mut world = World::new(seed);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(2_000));
    Call { world, alice, bob, subscribed }
}

/// Hands over what a peer sends, without a turn: it waits in the shard.
fn deliver(world: &mut World, peer: usize) {
    let (from, now) = (world.peers[peer].addr, world.now);
    world.peers[peer].tick(now);
    for datagram in std::mem::take(&mut world.peers[peer].out) {
        world.deliver(from, LocalId(0), &datagram);
    }
}

/// Media of Alice and a NACK of Bob wait for the next drain.
fn let_packets_wait(call: &mut Call) {
    let world = &mut call.world;
    world.now += ms(100);
    deliver(world, call.alice);
    let newest = *world.video(call.subscribed).arrivals.keys().next_back().unwrap();
    let wanted = (5..25).rev().map(|back| SeqNo((newest - back) as u16));
    let media = Ssrc(call.subscribed.video);
    world.peers[call.bob].send_rtcp(|out| write_nack(out, Ssrc(1), media, wanted));
    deliver(world, call.bob);
}

#[test]
fn anything_may_end_while_packets_wait() {
    let id = |text: &str| text.to_owned();
    let ops = [
        Op::Unsubscribe { subscription: id("bob") },
        Op::Unpublish { publication: id("cam") },
        Op::CloseTransport { transport: id("alice") },
        Op::CloseTransport { transport: id("bob") },
        Op::CloseRoom,
        Op::Pause { subscription: id("bob"), audio: true, video: true },
        Op::RequestKeyFrame { publication: id("cam") },
    ];
    for op in ops {
        let mut call = call(51);
        let_packets_wait(&mut call);
        assert!(call.world.pool.free() + 40 < call.world.pool.capacity(), "packets wait");
        let resent = call.world.shard.counters().resent;
        call.world.apply(vec![op.clone()]).unwrap();
        let kept = matches!(op, Op::Pause { .. } | Op::RequestKeyFrame { .. });
        assert_eq!(call.world.shard.counters().resent > resent, kept, "{op:?}");
        call.world.run_for(ms(3_000));
        call.world.close_and_check();
    }
}

#[test]
fn a_move_while_resends_wait_sends_none_of_them() {
    let mut call = call(52);
    let again = call.world.join("alice-again");
    call.world.run_for(ms(500));
    let_packets_wait(&mut call);
    let resent = call.world.shard.counters().resent;
    call.world.publish(again, "cam", &Publish::default()).unwrap();
    assert_eq!(call.world.shard.counters().resent, resent);
    call.world.run_for(ms(2_000));
    call.world.video(call.subscribed).assert_gap_free();
    call.world.close_and_check();
}

#[test]
fn feedback_that_is_due_does_not_outlive_its_publication() {
    let mut call = call(53);
    let_packets_wait(&mut call);
    call.world.apply(vec![Op::Unpublish { publication: "cam".into() }]).unwrap();
    // Alice goes on sending for a while, as a browser does until it hears of it.
    call.world.run_for(ms(5_000));
    assert!(call.world.dropped(DropReason::UnknownStream) > 100);
    call.world.close_and_check();
}

#[test]
fn caches_expire_when_nothing_comes_any_more() {
    let mut call = call(54);
    assert!(call.world.pool.free() < call.world.pool.capacity());
    call.world.peers[call.alice].senders.clear();
    call.world.run_for(ms(3_500));
    assert_eq!(call.world.pool.free(), call.world.pool.capacity());
    call.world.close_and_check();
}

#[test]
fn a_transport_that_is_over_holds_no_slots() {
    for goodbye in [true, false] {
        let mut call = call(55);
        if goodbye {
            call.world.hang_up(call.alice);
            call.world.run_for(ms(50));
            assert_eq!(call.world.states("alice").last(), Some(&TransportState::Closed));
        } else {
            call.world.peers[call.alice].checking = false;
            call.world.run_for(ms(31_000));
            assert_eq!(call.world.states("alice").last(), Some(&TransportState::Failed));
        }
        assert_eq!(call.world.pool.free(), call.world.pool.capacity());
        // What still comes from there is a stranger's now.
        let addr = call.world.peers[call.alice].addr;
        let before = call.world.dropped(DropReason::UnknownAddress);
        call.world.inject(addr, &[0x80; 50]);
        assert_eq!(call.world.dropped(DropReason::UnknownAddress), before + 1);
        call.world.close_and_check();
    }
}

#[test]
fn consent_goes_comes_back_and_expires() {
    use TransportState::{Connected, Connecting, Disconnected, Failed};
    let mut call = call(56);
    let world = &mut call.world;
    world.peers[call.bob].checking = false;
    world.run_for(ms(13_000));
    assert_eq!(world.states("bob"), [Connecting, Connected, Disconnected]);
    assert!(world.now.since(world.video(call.subscribed).last().at) < ms(100), "still sent to");
    world.peers[call.bob].checking = true;
    world.run_for(ms(1_000));
    assert_eq!(world.states("bob"), [Connecting, Connected, Disconnected, Connected]);
    world.peers[call.bob].checking = false;
    world.run_for(ms(33_000));
    let states = world.states("bob");
    assert_eq!(states, [Connecting, Connected, Disconnected, Connected, Disconnected, Failed]);
    assert_eq!(world.changes.last().unwrap().reason, "ICE consent expired");
    assert_eq!(world.shard.counters().consent_expired, 1);
    let sent = world.tap.to[&world.peers[call.bob].addr];
    world.run_for(ms(5_000));
    assert_eq!(world.tap.to[&world.peers[call.bob].addr], sent, "sending has stopped (RFC 7675)");
    world.video(call.subscribed).assert_gap_free();
    world.close_and_check();
}

#[test]
fn a_peer_that_never_comes_fails_after_a_while() {
    let mut world = World::new(57);
    let silent = world.join("silent");
    world.peers[silent].checking = false;
    let mute = world.join("mute");
    // Sends checks and no ClientHello.
    world.peers[mute].state = State::Handshaking;
    world.run_for(ms(29_000));
    assert!(world.states("silent").is_empty());
    assert_eq!(world.states("mute"), [TransportState::Connecting]);
    world.run_for(ms(4_000));
    assert_eq!(world.states("silent"), [TransportState::Failed]);
    assert_eq!(world.states("mute"), [TransportState::Connecting, TransportState::Failed]);
    world.close_and_check();
}

#[test]
fn half_open_handshakes_end_and_make_room() {
    let mut settings = Settings::new(66);
    settings.limits.handshakes = 1;
    let mut world = World::with(settings);
    let lazy = world.join("lazy");
    while world.peers[lazy].state != State::Handshaking {
        world.run_for(ms(1));
    }
    world.peers[lazy].abandon_handshake();
    world.run_for(ms(1_000));
    let next = world.join("next");
    world.run_for(ms(5_000));
    assert_ne!(world.peers[next].state, State::Connected);
    assert!(world.dropped(DropReason::DtlsOverload) > 0);
    world.run_for(ms(26_000));
    assert_eq!(world.states("lazy"), [TransportState::Connecting, TransportState::Failed]);
    let later = world.join("later");
    world.run_for(ms(2_000));
    assert_eq!(world.peers[later].state, State::Connected);
    world.close_and_check();
}

#[test]
fn both_sides_can_say_goodbye() {
    let mut call = call(58);
    call.world.hang_up(call.bob);
    call.world.run_for(ms(100));
    assert_eq!(call.world.states("bob").last(), Some(&TransportState::Closed));
    let sent = call.world.tap.to[&call.world.peers[call.bob].addr];
    call.world.run_for(ms(1_000));
    assert_eq!(call.world.tap.to[&call.world.peers[call.bob].addr], sent);
    call.world.apply(vec![Op::CloseTransport { transport: "alice".into() }]).unwrap();
    call.world.run_for(ms(100));
    assert_eq!(call.world.peers[call.alice].state, State::Over, "the node said goodbye");
    call.world.close_and_check();
}

#[test]
fn a_refused_op_changes_nothing() {
    let mut call = call(59);
    let world = &mut call.world;
    let carol = world.join("carol");
    let too_many = Publish { layers: 5, ..Publish::default() };
    for peer in [call.alice, carol] {
        assert_eq!(world.publish(peer, "cam", &too_many).unwrap_err().code, error_code::INVALID);
    }
    // Sixteen streams fit one transport: two of the publication itself, one of its RTX, and eight more.
    for n in 0..2 {
        let id = format!("more{n}");
        world.publish(call.alice, &id, &Publish { layers: 2, ..Publish::default() }).unwrap();
    }
    let last = world.publish(call.alice, "cam", &Publish { layers: 4, ..Publish::default() });
    assert_eq!(last.unwrap_err().code, error_code::INVALID);
    let unknown = [
        Op::Subscribe {
            transport: "bob".into(),
            subscription: "x".into(),
            publication: "nothing".into(),
            tracks: vec![],
        },
        Op::Unsubscribe { subscription: "x".into() },
        Op::CloseTransport { transport: "x".into() },
    ];
    for op in unknown {
        assert_eq!(world.apply(vec![op]).unwrap_err().code, error_code::NOT_FOUND);
    }
    let twice = world.subscribe(call.bob, "bob", "cam", Subscribe::default()).unwrap_err();
    assert_eq!(twice.code, error_code::CONFLICT);
    world.run_for(ms(2_000));
    let video = world.video(call.subscribed);
    video.assert_gap_free();
    assert!(world.now.since(video.last().at) < ms(100), "the publication goes on");
    world.close_and_check();
}

#[test]
fn an_ssrc_is_never_used_twice_on_a_transport() {
    let mut call = call(60);
    let world = &mut call.world;
    // The same numbers again, while in use and after.
    let given = world.given;
    for ends in [false, true] {
        if ends {
            world.apply(vec![Op::Unsubscribe { subscription: "bob".into() }]).unwrap();
        }
        world.given = call.subscribed.audio - 500_000 - 1;
        let again = world.subscribe(call.bob, "again", "cam", Subscribe::default());
        assert_eq!(again.unwrap_err().code, error_code::CONFLICT);
    }
    world.given = given;
    world.subscribe(call.bob, "again", "cam", Subscribe::default()).unwrap();
    world.close_and_check();
}

#[test]
fn limits_are_refused_with_an_error_and_handshakes_beyond_them_wait() {
    let mut settings = Settings::new(61);
    settings.limits = Limits { transports: 6, rooms: 1, fan_out: 2, handshakes: 2, handshakes_per_turn: 1 };
    let mut world = World::with(settings);
    for n in 0..6 {
        world.join(&format!("p{n}"));
    }
    let refused = world.join_as("one more", Default::default()).unwrap_err();
    assert_eq!(refused.code, error_code::OVERLOADED);
    world.run_for(ms(300));
    assert!(world.dropped(DropReason::DtlsOverload) > 0);
    // They retransmit, and get their turn.
    world.run_for(ms(20_000));
    assert!(world.peers.iter().all(|peer| peer.state == State::Connected));
    world.publish(0, "cam", &Publish::default()).unwrap();
    for n in 1..=2 {
        world.subscribe(n, &format!("s{n}"), "cam", Subscribe::default()).unwrap();
    }
    let refused = world.subscribe(3, "s3", "cam", Subscribe::default()).unwrap_err();
    assert_eq!(refused.code, error_code::OVERLOADED);
    world.close_and_check();
}

#[test]
fn a_pool_that_runs_dry_drops_counts_and_recovers() {
    let mut settings = Settings::new(62);
    settings.slots = 48;
    let mut world = World::with(settings);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    assert!(world.shard.counters().cache_skipped > 100, "live media comes first");
    world.video(subscribed).assert_gap_free();
    // A burst that no turn drains.
    for _ in 0..30 {
        world.now += ms(34);
        deliver(&mut world, alice);
    }
    assert!(world.dropped(DropReason::PoolExhausted) > 0);
    world.turn();
    world.run_for(ms(2_000));
    assert!(world.now.since(world.video(subscribed).last().at) < ms(100));
    world.close_and_check();
}

#[test]
fn a_peer_that_changes_its_address_goes_on() {
    let mut call = call(63);
    let world = &mut call.world;
    for (peer, port) in [(call.alice, 40_001), (call.bob, 40_002)] {
        world.rebind(peer, ([203, 0, 113, 9], port).into());
    }
    world.run_for(ms(6_000));
    assert_eq!(world.states("bob"), [TransportState::Connecting, TransportState::Connected]);
    assert!(world.now.since(world.video(call.subscribed).last().at) < ms(100));
    world.close_and_check();
}

#[test]
fn a_peer_that_nominates_once_is_followed_to_its_new_address() {
    let mut call = call(67);
    let world = &mut call.world;
    for peer in [call.alice, call.bob] {
        world.peers[peer].nominate_once();
    }
    world.run_for(ms(10_000));
    // Its NAT has forgotten the port, and gave it another one.
    let old = world.peers[call.bob].addr;
    world.rebind(call.bob, ([203, 0, 113, 9], 40_003).into());
    world.run_for(ms(12_000));
    let sent = world.tap.to[&old];
    world.run_for(ms(60_000));
    assert_eq!(world.tap.to[&old], sent, "nothing goes to the dead address");
    assert!(world.now.since(world.video(call.subscribed).last().at) < ms(100));
    assert_eq!(world.states("bob"), [TransportState::Connecting, TransportState::Connected]);
    world.close_and_check();
}

#[test]
fn addresses_that_change_hands_come_back() {
    let mut call = call(68);
    let world = &mut call.world;
    let addrs = [world.peers[call.alice].addr, world.peers[call.bob].addr];
    // A NAT swaps the ports of two peers, and swaps them back.
    for (alice, bob) in [(1, 0), (0, 1)] {
        world.rebind(call.alice, addrs[alice]);
        world.rebind(call.bob, addrs[bob]);
        world.run_for(ms(20_000));
        assert!(world.now.since(world.video(call.subscribed).last().at) < ms(100));
        for peer in ["alice", "bob"] {
            assert_eq!(world.states(peer), [TransportState::Connecting, TransportState::Connected]);
        }
    }
    assert!(world.dropped(DropReason::PairHeld) > 0);
    world.close_and_check();
}

#[test]
fn an_address_passes_to_the_peer_that_proves_itself_last() {
    let mut call = call(64);
    let world = &mut call.world;
    // Bob's page was reloaded without a goodbye, and some time later a connection of it got the old port.
    let addr = world.peers[call.bob].addr;
    world.peers[call.bob].checking = false;
    world.run_for(ms(7_000));
    let again = world.join("bob-again");
    world.rebind(again, addr);
    let subscribed = world.subscribe(again, "bob-again", "cam", Subscribe::default()).unwrap();
    world.apply(vec![Op::Unsubscribe { subscription: "bob".into() }]).unwrap();
    world.run_for(ms(2_000));
    assert!(world.video(subscribed).len() > 150);
    // The old transport's end takes nothing from the new one.
    world.apply(vec![Op::CloseTransport { transport: "bob".into() }]).unwrap();
    world.run_for(ms(40_000));
    assert!(world.now.since(world.video(subscribed).last().at) < ms(100));
    world.close_and_check();
}

#[test]
fn an_idle_shard_sleeps() {
    let mut call = call(65);
    call.world.peers[call.alice].senders.clear();
    call.world.run_for(ms(5_000));
    // Reports once a second each, consent checks and nothing else.
    let mut wakes = 0;
    let end = call.world.now + ms(10_000);
    while let Some(next) = call.world.shard.next_timeout().filter(|next| *next < end) {
        call.world.run_until(next);
        wakes += 1;
        assert!(wakes < 100, "woken again and again");
    }
    call.world.close_and_check();
}

//! Lossy paths: what is lost is asked for and comes, by RTX or as it was.

use sfu_core::drop_reason::DropReason;
use sfu_core::time::Timestamp;

use crate::support::ms;
use crate::support::network::Link;
use crate::support::room::{Publish, Subscribe, Subscribed};
use crate::support::sender::VIDEO_CLOCK;
use crate::support::world::{Settings, World};

const SEEDS: u64 = 6;

/// 5 % lost, some doubled, and overtaking.
const LOSSY: Link = Link { delay: ms(15), jitter: ms(8), loss: 0.05, duplicate: 0.02 };

/// One publisher and two subscribers over `LOSSY`, the subscribers with and without RTX; at the end the sender stops and
/// everything comes to rest.
fn call(seed: u64, publisher_rtx: bool) -> (World, usize, [Subscribed; 2]) {
    let mut world = World::new(seed);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish { rtx: publisher_rtx, ..Publish::default() }).unwrap();
    let bob = world.join("bob");
    let carol = world.join("carol");
    let take = |rtx| Subscribe { rtx, pli: true, ..Subscribe::default() };
    let rtx = world.subscribe(bob, "bob", "cam", take(true)).unwrap();
    let plain = world.subscribe(carol, "carol", "cam", take(false)).unwrap();
    // The very first packets are missed by nobody who has not seen one: what becomes of them is another test.
    world.run_for(ms(600));
    world.network.set_default(LOSSY);
    world.run_for(ms(12_000));
    world.peers[alice].senders[1].muted = true;
    world.run_for(ms(1_500));
    (world, alice, [rtx, plain])
}

#[test]
fn every_video_packet_arrives_in_the_end() {
    for seed in 0..SEEDS {
        for publisher_rtx in [true, false] {
            let (mut world, alice, subscribed) = call(seed, publisher_rtx);
            for subscribed in subscribed {
                let video = world.video(subscribed);
                video.assert_gap_free();
                video.assert_decodable();
                video.assert_timestamps(VIDEO_CLOCK);
                assert_eq!((video.missing(), video.given_up), (0, 0));
                assert!(video.len() > 900, "{}", video.len());
                assert!(video.nacks_sent > 30, "{}", video.nacks_sent);
                // To the very last packet of the source.
                let sender = &world.peers[alice].senders[1];
                assert_eq!(video.last().body.frame + 1, sender.frames());
            }
            let [rtx, plain] = subscribed;
            assert!(world.video(rtx).arrivals.values().any(|arrival| arrival.resent));
            assert!(world.video(plain).arrivals.values().all(|arrival| !arrival.resent));
            // The tap has compared each of them bit by bit.
            assert!(world.tap.repeated > 30, "{} plain resends", world.tap.repeated);
            assert!(world.peers[alice].senders[1].nacked > 30);
            assert!(world.peers[alice].heard.lost_max > 20, "our reports tell of the loss");
            // Nothing was given up, so nobody needed key frames but at the start.
            let requests = world.peers[alice].senders[1].key_frame_requests.len();
            assert!(requests < 8, "{requests} key frame requests");
            world.close_and_check();
        }
    }
}

fn video_began(world: &World, subscribed: Subscribed) -> bool {
    world.video(subscribed).arrivals.values().any(|arrival| arrival.body.begins_key_frame())
}

#[test]
fn a_call_comes_about_over_a_bad_path() {
    for seed in 0..2 * SEEDS {
        let mut world = World::new(seed);
        world.network.set_default(Link { loss: 0.1, ..LOSSY });
        let alice = world.join("alice");
        world.publish(alice, "cam", &Publish::default()).unwrap();
        let bob = world.join("bob");
        let take = Subscribe { pli: true, ..Subscribe::default() };
        let subscribed = world.subscribe(bob, "bob", "cam", take).unwrap();
        // Handshakes have randomness of their own, beside the seed's, and wait ever longer for what is lost.
        for _ in 0..40 {
            world.run_for(ms(1_000));
            if video_began(&world, subscribed) {
                break;
            }
        }
        assert!(video_began(&world, subscribed), "seed {seed}: no key frame");
        world.run_for(ms(10_000));
        let video = world.video(subscribed);
        assert!(video.len() > 300, "{} packets", video.len());
        assert!(world.now.since(video.last().at) < ms(200));
        world.close_and_check();
    }
}

#[test]
fn audio_goes_on_over_its_losses() {
    let (mut world, alice, [bob, _]) = call(77, true);
    let audio = world.audio(bob);
    let sent = world.peers[alice].senders[0].packets as usize;
    assert!(audio.len() > sent * 85 / 100 && audio.len() < sent, "{} of {sent}", audio.len());
    assert!(audio.arrivals.values().zip(audio.arrivals.values().skip(1)).all(|(a, b)| {
        b.timestamp.wrapping_sub(a.timestamp) == b.body.timestamp.wrapping_sub(a.body.timestamp)
    }));
    world.close_and_check();
}

#[test]
fn reordering_alone_loses_nothing() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        let alice = world.join("alice");
        world.publish(alice, "cam", &Publish::default()).unwrap();
        let bob = world.join("bob");
        let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
        world.run_for(ms(500));
        // Audio packets are overtaken, video frames mixed.
        world.network.set_default(Link { jitter: ms(40), ..Link::clean(5) });
        world.run_for(ms(6_000));
        world.peers[alice].senders[0].muted = true;
        world.peers[alice].senders[1].muted = true;
        world.run_for(ms(1_500));
        world.video(subscribed).assert_gap_free();
        world.video(subscribed).assert_decodable();
        world.audio(subscribed).assert_gap_free();
        let lost = &world.peers[alice].heard.lost;
        // A packet that was overtaken by its own retransmission counts as lost (RFC 4588 leaves it open).
        assert!(lost.len() == 2 && lost.values().any(|lost| *lost == 0), "{lost:?}");
        assert!(lost.values().all(|lost| *lost < 30), "{lost:?}");
        world.close_and_check();
    }
}

#[test]
fn a_large_key_frame_is_repaired_to_its_first_packet() {
    for (seed, rtx) in [(21, true), (22, false), (23, true)] {
        let mut world = World::with(Settings { slots: 8192, ..Settings::new(seed) });
        let alice = world.join("alice");
        world.publish(alice, "cam", &Publish::default()).unwrap();
        let bob = world.join("bob");
        let take = Subscribe { rtx, ..Subscribe::default() };
        let subscribed = world.subscribe(bob, "bob", "cam", take).unwrap();
        world.run_for(ms(1_000));
        let addr = world.peers[bob].addr;
        world.network.set_link(addr, Link::clean(60), Link { loss: 0.1, ..Link::clean(60) });
        for _ in 0..5 {
            let sender = &mut world.peers[alice].senders[1];
            sender.spec.key_parts = 240;
            sender.force_key_frame();
            world.run_for(ms(1_500));
        }
        world.peers[alice].senders[1].muted = true;
        world.run_for(ms(1_500));
        let video = world.video(subscribed);
        video.assert_gap_free();
        video.assert_decodable();
        assert_eq!((video.missing(), video.given_up), (0, 0));
        assert_eq!(world.shard.counters().resend_missed, 0);
        world.close_and_check();
    }
}

#[test]
fn a_path_that_fails_for_a_while_recovers_with_a_key_frame() {
    for seed in 0..SEEDS {
        for downlink in [true, false] {
            let mut world = World::new(seed);
            let alice = world.join("alice");
            world.publish(alice, "cam", &Publish::default()).unwrap();
            let bob = world.join("bob");
            let take = Subscribe { pli: true, ..Subscribe::default() };
            let subscribed = world.subscribe(bob, "bob", "cam", take).unwrap();
            world.run_for(ms(3_000));
            let (dead, clean) = (Link { loss: 0.95, ..Link::clean(10) }, Link::clean(10));
            let addr = world.peers[if downlink { bob } else { alice }].addr;
            if downlink {
                world.network.set_link(addr, clean, dead);
            } else {
                world.network.set_link(addr, dead, clean);
            }
            world.run_for(ms(3_000));
            world.network.set_link(addr, clean, clean);
            let healed = world.now;
            world.run_for(ms(6_000));
            assert!(world.now.since(world.video(subscribed).last().at) < ms(100));
            let key = whole_from(&world, subscribed);
            assert!(key.since(healed) < ms(2_500), "{:?} until it came", key.since(healed));
            world.close_and_check();
        }
    }
}

/// When the key frame came behind which nothing is missing.
fn whole_from(world: &World, subscribed: Subscribed) -> Timestamp {
    let video = world.video(subscribed);
    let numbers: Vec<u64> = video.arrivals.keys().copied().collect();
    let hole = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|pair| pair[1]).max();
    let rest: Vec<_> = video.arrivals.range(hole.expect("much was lost")..).map(|(_, a)| a).collect();
    let key = rest.iter().position(|a| a.body.key && a.body.part == 0).expect("a key frame came");
    assert!(rest.len() - key > 200, "{} packets behind it", rest.len() - key);
    rest[key].at
}

#[test]
fn nacks_of_one_datagram_count_whatever_stands_beside_them() {
    use sfu_core::ids::{SeqNo, Ssrc};
    use sfu_core::wire::rtcp::{CompoundWriter, write_nack};
    let mut world = World::new(6);
    let bob = world.join("bob");
    let subscribed = ["cam", "screen"].map(|id| {
        let peer = world.join(id);
        world.publish(peer, id, &Publish::default()).unwrap();
        world.subscribe(bob, id, id, Subscribe::default()).unwrap()
    });
    world.run_for(ms(3_000));
    for torn in [false, true] {
        let before = world.shard.counters().resent;
        let newest =
            subscribed.map(|subscribed| *world.video(subscribed).arrivals.keys().next_back().unwrap());
        world.peers[bob].send_rtcp(|out| {
            let mut compound = CompoundWriter::new(out);
            for (subscribed, newest) in subscribed.iter().zip(newest) {
                let wanted = (0..5).rev().map(|back| SeqNo((newest - back) as u16));
                compound.push(|out| write_nack(out, Ssrc(1), Ssrc(subscribed.video), wanted))?;
            }
            if torn {
                // A NACK without anything in it.
                compound.push(|out| {
                    out[..8].copy_from_slice(&[0x81, 205, 0, 1, 0, 0, 0, 1]);
                    Ok(8)
                })?;
            }
            Ok(compound.len())
        });
        world.flush(bob);
        world.run_for(ms(100));
        assert_eq!(world.shard.counters().resent - before, 10, "torn: {torn}");
        assert_eq!(world.dropped(DropReason::RtcpMalformed), u64::from(torn));
    }
    world.close_and_check();
}

#[test]
fn all_that_is_missing_is_asked_for_at_once() {
    let mut world = World::new(7);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    world.run_for(ms(1_000));
    let addr = world.peers[alice].addr;
    let sender = &mut world.peers[alice].senders[1];
    // A whole key frame is lost; what comes behind it shows that.
    sender.spec.key_parts = 250;
    sender.force_key_frame();
    world.network.set_link(addr, Link { loss: 1.0, ..Link::clean(10) }, Link::clean(10));
    while world.peers[alice].senders[1].key_frames.len() < 2 {
        world.run_for(ms(1));
    }
    world.network.set_link(addr, Link::clean(10), Link::clean(10));
    world.run_for(ms(70));
    assert_eq!(world.peers[alice].senders[1].nacked, 250);
    world.close_and_check();
}

#[test]
fn nobody_can_make_a_flood_of_a_nack() {
    use sfu_core::ids::{SeqNo, Ssrc};
    use sfu_core::wire::rtcp::write_nack;
    let mut world = World::new(5);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    let newest = *world.video(subscribed).arrivals.keys().next_back().unwrap();
    let before = world.shard.counters().resent;
    for _ in 0..200 {
        let wanted = (0..60).rev().map(|back| SeqNo((newest - back) as u16));
        world.peers[bob].send_rtcp(|out| write_nack(out, Ssrc(1), Ssrc(subscribed.video), wanted));
        world.flush(bob);
        world.run_for(ms(5));
    }
    let resent = world.shard.counters().resent - before;
    assert!((60..=200).contains(&resent), "{resent} resends for 12000 asked");
    world.close_and_check();
}

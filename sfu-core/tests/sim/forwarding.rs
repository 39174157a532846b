//! Media that arrives as it should over clean paths.

use std::time::Duration;

use sfu_core::control::proto::{DtlsRole, MediaKind, Op, TransportState};
use sfu_core::engine::{Engine, Turn};
use sfu_core::shard::{Answer, Command, MAX_AUDIO_HOLD};

use crate::support::ms;
use crate::support::network::Link;
use crate::support::peer::State;
use crate::support::room::{Join, Publish, Subscribe, Subscribed};
use crate::support::sender::{AUDIO_CLOCK, VIDEO_CLOCK};
use crate::support::world::World;

/// Both streams of a subscription arrived without a hole, can be decoded, and their timestamps are right.
fn assert_whole(world: &World, subscribed: Subscribed) {
    for (receiver, clock) in [(world.audio(subscribed), AUDIO_CLOCK), (world.video(subscribed), VIDEO_CLOCK)]
    {
        receiver.assert_gap_free();
        receiver.assert_decodable();
        receiver.assert_timestamps(clock);
        assert_eq!(receiver.duplicates, 0);
    }
    let heard = &world.peers[subscribed.peer].heard;
    assert_eq!((heard.srtp_errors, heard.strange), (0, 0));
}

#[test]
fn two_subscribers_get_everything() {
    let mut world = World::new(1);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish { max_bitrate_bps: Some(2_000_000), ..Publish::default() }).unwrap();
    let others: Vec<_> = ["bob", "carol"]
        .map(|name| {
            let peer = world.join(name);
            world.subscribe(peer, name, "cam", Subscribe::default()).unwrap()
        })
        .into();
    world.run_for(ms(10_000));
    for subscribed in &others {
        assert_whole(&world, *subscribed);
        let (audio, video) = (world.audio(*subscribed), world.video(*subscribed));
        assert!(audio.len() > 480 && video.len() > 860, "{} {}", audio.len(), video.len());
        // Up to date but for the 20 ms on the way.
        assert!(world.now.since(audio.last().at) < ms(25) && world.now.since(video.last().at) < ms(40));
        // One sender report a second each, on the publisher's line between its two clocks.
        assert!((7..=14).contains(&audio.sender_reports.len()), "{}", audio.sender_reports.len());
        assert_on_the_senders_line(&world, alice, *subscribed);
    }
    let heard = &world.peers[alice].heard;
    assert!(heard.twcc > 150, "transport-wide feedback: {}", heard.twcc);
    let sent: u32 = world.peers[alice].senders.iter().map(|sender| sender.packets).sum();
    assert!(heard.twcc_arrivals + 30 > sent, "{} of {sent} packets told of", heard.twcc_arrivals);
    assert!(heard.report_blocks >= 14 && heard.lost_max == 0);
    assert_eq!(heard.remb, Some(2_000_000));
    assert_eq!(world.tap.repeated, 0);
    assert_stats(&mut world, alice);
    world.close_and_check();
}

#[test]
fn a_loaded_core_sends_audio_behind_frames_and_an_idle_one_at_once() {
    let mut world = World::new(7);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(2_000));
    let idle = world.tap.messages;
    world.run_for(ms(10_000));
    let idle = world.tap.messages - idle;
    assert_eq!(world.shard.counters().audio_held, 0);

    let second = Duration::from_secs(1);
    world.shard.on_turn(world.now, Turn { busy: second, wall: second, ..Turn::default() });
    world.run_for(ms(1_000));
    assert_eq!(world.shard.counters().audio_held, 0, "nothing can go behind the short end of a frame");
    let video = world.peers[alice].senders.iter().position(|s| s.spec.kind == MediaKind::Video).unwrap();
    world.peers[alice].senders[video].spec.even = true;
    world.run_for(ms(1_000));

    let before = world.shard.counters().clone();
    let loaded = world.tap.messages;
    world.run_for(ms(10_000));
    let loaded = world.tap.messages - loaded;
    let counters = world.shard.counters();
    let held = counters.audio_held - before.audio_held;
    let held_us = counters.audio_held_us - before.audio_held_us;
    // 500 audio packets; a frame is due within 10 ms of three in ten.
    assert!((100..=250).contains(&held), "{held}");
    let longest = MAX_AUDIO_HOLD.as_micros() as u64;
    assert!(held_us <= held * longest, "{held_us} us");
    assert!(loaded + 90 < idle, "{loaded} messages, {idle} before");
    assert_whole(&world, subscribed);

    // The frames end: audio that waits for the one that does not come goes out in time.
    world.peers[alice].senders[video].muted = true;
    let before = world.audio(subscribed).len();
    world.run_for(ms(2_000));
    let audio = world.audio(subscribed);
    assert!((98..=102).contains(&(audio.len() - before)), "{}", audio.len() - before);
    assert!(world.now.since(audio.last().at) < ms(55));
    world.close_and_check();
}

/// The parts of a frame differ by a byte. With RTX they are padded and leave as one message; without it a resend must repeat
/// the very bytes, so they stay as they are.
#[test]
fn fragments_are_padded_into_one_message_where_resends_go_by_rtx() {
    let [padded, plain] = [true, false].map(|rtx| {
        let mut world = World::new(11);
        let alice = world.join("alice");
        world.publish(alice, "cam", &Publish::default()).unwrap();
        let video = world.peers[alice].senders.iter().position(|s| s.spec.kind == MediaKind::Video).unwrap();
        world.peers[alice].senders[video].spec.even = true;
        let bob = world.join("bob");
        let subscribed =
            world.subscribe(bob, "bob", "cam", Subscribe { rtx, ..Subscribe::default() }).unwrap();
        world.run_for(ms(10_000));
        assert_whole(&world, subscribed);
        let messages = world.tap.messages;
        world.close_and_check();
        messages
    });
    let frames = 30 * 10;
    assert!(padded + 2 * frames * 8 / 10 < plain, "{padded} messages with padding, {plain} without");
}

/// (NTP, RTP) of each sender report lies on the line that the publisher's own reports lie on.
fn assert_on_the_senders_line(world: &World, publisher: usize, subscribed: Subscribed) {
    let receivers = [(world.audio(subscribed), AUDIO_CLOCK), (world.video(subscribed), VIDEO_CLOCK)];
    for (receiver, clock) in receivers {
        let tag = receiver.last().body.tag;
        let sender = world.peers[publisher].senders.iter().find(|s| s.spec.tag == tag).unwrap();
        let now = crate::support::peer::ntp(world.now);
        for (_, info) in &receiver.sender_reports {
            // Nothing was dropped or switched, so that timestamps are the source's.
            let behind = (now.0 - info.ntp.0) as f64 / f64::from(u32::MAX);
            let ticks = f64::from(sender.timestamp().wrapping_sub(info.rtp_timestamp) as i32);
            let error = (behind - ticks / f64::from(clock)).abs();
            // A report is made up to a frame after its last timestamp.
            assert!(error < 0.05, "{error} s off the line");
        }
    }
}

fn assert_stats(world: &mut World, publisher: usize) {
    let stats = world.command(|token| Command::RoomStats { token, room: "room".into() });
    let Ok(Answer::RoomStats(stats)) = stats else { panic!("{stats:?}") };
    assert_eq!((stats.inbound.len(), stats.outbound.len()), (2, 4));
    for inbound in &stats.inbound {
        let senders = &world.peers[publisher].senders;
        let sender = senders.iter().find(|sender| sender.spec.ssrc == inbound.ssrc).unwrap();
        assert!(inbound.packets + 10 > u64::from(sender.packets) && inbound.lost == 0);
    }
    for outbound in &stats.outbound {
        assert!((19_000..25_000).contains(&outbound.rtt_us), "{} us", outbound.rtt_us);
    }
}

#[test]
fn every_dtls_role_and_order_of_signaling_connects() {
    for role in [DtlsRole::Client, DtlsRole::Server] {
        for (remote_later, ipv6) in [(false, true), (true, false)] {
            let mut world = World::new(2);
            let alice = world.join_as("alice", Join { role, remote_later, ipv6, ..Join::default() }).unwrap();
            world.publish(alice, "cam", &Publish::default()).unwrap();
            let bob = world.join("bob");
            let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
            world.run_for(ms(500));
            if remote_later {
                assert_eq!(world.states("alice"), [TransportState::Connecting]);
                world.connect(alice).unwrap();
                assert!(world.connect(alice).is_err(), "a second peer on one transport");
            }
            world.run_for(ms(2_000));
            assert_eq!(world.states("alice"), [TransportState::Connecting, TransportState::Connected]);
            assert_eq!(world.peers[alice].state, State::Connected);
            assert_whole(&world, subscribed);
            assert!(world.video(subscribed).len() > 80);
            world.close_and_check();
        }
    }
}

#[test]
fn a_late_subscriber_begins_with_a_key_frame_and_requests_are_merged() {
    let mut world = World::new(3);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let first = world.join("bob");
    world.subscribe(first, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    let before = world.peers[alice].senders[1].key_frame_requests.len();
    let key_frames = world.peers[alice].senders[1].key_frames.len();
    // Twenty join at once. None of them asks for a key frame itself.
    let late: Vec<_> = (0..20)
        .map(|n| {
            let name = format!("late{n}");
            let peer = world.join(&name);
            world.subscribe(peer, &name, "cam", Subscribe::default()).unwrap()
        })
        .collect();
    let joined = world.now;
    world.run_for(ms(3_000));
    let requests = world.peers[alice].senders[1].key_frame_requests.len() - before;
    assert!((1..=3).contains(&requests), "{requests} requests for twenty subscribers");
    assert!(world.peers[alice].senders[1].key_frames.len() - key_frames <= 3);
    for subscribed in late {
        assert_whole(&world, subscribed);
        assert!(world.video(subscribed).first().at.since(joined) < ms(600), "picture comes soon");
    }
    world.close_and_check();
}

#[test]
fn requests_for_key_frames_are_throttled() {
    for pli in [true, false] {
        let mut world = World::new(4);
        let alice = world.join("alice");
        world.publish(alice, "cam", &Publish { pli, ..Publish::default() }).unwrap();
        let bob = world.join("bob");
        let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
        world.run_for(ms(2_000));
        let before = world.peers[alice].senders[1].key_frame_requests.len();
        for _ in 0..100 {
            use sfu_core::ids::Ssrc;
            use sfu_core::wire::rtcp::write_pli;
            world.peers[bob].send_rtcp(|out| write_pli(out, Ssrc(1), Ssrc(subscribed.video)));
            world.flush(bob);
            world.run_for(ms(50));
        }
        let asked = &world.peers[alice].senders[1].key_frame_requests[before..];
        assert!((8..=11).contains(&asked.len()), "{} requests in 5 s", asked.len());
        assert!(asked.windows(2).all(|pair| pair[1].since(pair[0]) >= ms(499)));
        world.close_and_check();
    }
}

#[test]
fn pause_holds_back_and_resume_goes_on_without_a_gap() {
    let mut world = World::new(5);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    let pause = |audio, video| vec![Op::Pause { subscription: "bob".into(), audio, video }];
    world.run_for(ms(2_000));
    world.apply(pause(true, true)).unwrap();
    world.run_for(ms(100));
    let held = (world.audio(subscribed).len(), world.video(subscribed).len());
    world.run_for(ms(5_000));
    assert_eq!((world.audio(subscribed).len(), world.video(subscribed).len()), held);
    world.apply(pause(false, true)).unwrap();
    world.run_for(ms(1_000));
    assert!(world.audio(subscribed).len() > held.0 + 40);
    assert_eq!(world.video(subscribed).len(), held.1);
    world.apply(pause(false, false)).unwrap();
    let resumed = world.now;
    world.run_for(ms(2_000));
    assert_whole(&world, subscribed);
    let next = world.video(subscribed).arrivals.values().nth(held.1).unwrap();
    assert!(next.body.key && next.at.since(resumed) < ms(200), "a key frame comes at once");
    world.close_and_check();
}

#[test]
fn padding_only_packets_leave_no_gap() {
    let mut world = World::new(6);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish { padding_every: Some(3), ..Publish::default() }).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(5_000));
    assert_whole(&world, subscribed);
    let frames = world.peers[alice].senders[1].frames();
    assert!(world.peers[alice].senders[1].packets > 3 * frames + 40, "padding was sent");
    assert!(world.video(subscribed).len() as u32 > 3 * (frames - 15));
    world.close_and_check();
}

#[test]
fn a_publication_moves_to_another_transport() {
    let mut world = World::new(7);
    let alice = world.join("alice");
    let before = world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    // The page was cut off: the old connection is silent, the new one comes a while later.
    world.peers[alice].senders.clear();
    world.run_for(ms(2_000));
    let again = world.join("alice-again");
    let after = world.publish(again, "cam", &Publish { first_seq: 7, ..Publish::default() }).unwrap();
    world.apply(vec![Op::CloseTransport { transport: "alice".into() }]).unwrap();
    world.run_for(ms(3_000));
    assert_whole(&world, subscribed);
    for (receiver, kind) in [(world.audio(subscribed), 0), (world.video(subscribed), 1)] {
        assert!(receiver.of(before[kind]).count() > 80 && receiver.of(after[kind]).count() > 80);
        assert!(receiver.of(after[kind]).next().unwrap().body.key);
    }
    world.close_and_check();
}

#[test]
fn a_move_to_a_connected_transport_asks_for_a_key_frame() {
    let mut world = World::new(8);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    let again = world.join("alice-again");
    world.run_for(ms(3_000));
    // The encoder of the new connection runs already, and its key frame is lost.
    let after = world.publish(again, "cam", &Publish::default()).unwrap();
    world.peers[again].senders[1].muted = true;
    world.run_for(ms(100));
    world.peers[again].senders[1].muted = false;
    let addr = world.peers[again].addr;
    world.network.set_link(addr, Link { loss: 1.0, ..Link::clean(10) }, Link::clean(10));
    world.run_for(ms(60));
    world.network.set_link(addr, Link::clean(10), Link::clean(10));
    world.run_for(ms(2_500));
    assert!(world.video(subscribed).of(after[1]).count() > 100, "the picture comes back");
    assert!(world.peers[again].senders[1].key_frames.len() > 1);
    world.video(subscribed).assert_gap_free();
    world.close_and_check();
}

#[test]
fn nobody_gets_a_codec_that_was_not_negotiated() {
    let mut world = World::new(12);
    let alice = world.join("alice");
    let vp8 = Publish::default();
    world.publish(alice, "cam", &vp8).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(2_000));
    // The publisher comes back with another codec: what was negotiated with Bob for video means nothing now.
    let other = world.join("alice-vp9");
    let moved = world.publish(other, "cam", &Publish { video_codec: "VP9", ..Publish::default() }).unwrap();
    world.run_for(ms(2_000));
    assert!(world.audio(subscribed).of(moved[0]).count() > 50, "audio is what it was");
    assert_eq!(world.video(subscribed).of(moved[1]).count(), 0);
    let reports = world.video(subscribed).sender_reports.len();
    // Who asks for what is not there any more is told so; who negotiates anew gets it.
    world.published.get_mut("cam").unwrap().video_codec = "VP8";
    let refused = world.subscribe(bob, "late", "cam", Subscribe::default()).unwrap_err();
    assert!(refused.message.contains("VP8"), "{refused:?}");
    world.published.get_mut("cam").unwrap().video_codec = "VP9";
    world.subscribe(bob, "anew", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    assert_eq!(
        world.video(subscribed).sender_reports.len(),
        reports,
        "nothing is said about another stream's clock"
    );
    // And back.
    let again = world.join("alice-vp8");
    let back = world.publish(again, "cam", &vp8).unwrap();
    world.run_for(ms(3_000));
    assert!(world.video(subscribed).of(back[1]).count() > 100);
    world.video(subscribed).assert_gap_free();
    world.video(subscribed).assert_decodable();
    world.close_and_check();
}

#[test]
fn streams_nobody_announced_are_learnt_from_mid_and_payload_type() {
    let mut world = World::new(9);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish { signaled: false, ..Publish::default() }).unwrap();
    let bob = world.join("bob");
    let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    assert_whole(&world, subscribed);
    assert!(world.video(subscribed).len() > 200 && world.audio(subscribed).len() > 100);
    world.close_and_check();
}

#[test]
fn a_peer_may_watch_itself_and_publish_twice() {
    let mut world = World::new(10);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish { signaled: true, audio: false, ..Publish::default() }).unwrap();
    world.publish(alice, "mic", &Publish { video: false, ..Publish::default() }).unwrap();
    let own = world.subscribe(alice, "own", "cam", Subscribe::default()).unwrap();
    let mic = world.subscribe(alice, "own-mic", "mic", Subscribe::default()).unwrap();
    world.run_for(ms(3_000));
    world.video(own).assert_decodable();
    world.video(own).assert_gap_free();
    assert!(world.video(own).len() > 200 && world.audio(mic).len() > 100);
    world.close_and_check();
}

#[test]
fn a_small_batch_sends_the_same() {
    let mut settings = crate::support::world::Settings::new(11);
    settings.batch = (4096, 3);
    let mut world = World::with(settings);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let all: Vec<_> = (0..6)
        .map(|n| {
            let peer = world.join(&format!("p{n}"));
            world.subscribe(peer, &format!("s{n}"), "cam", Subscribe::default()).unwrap()
        })
        .collect();
    world.run_for(ms(3_000));
    for subscribed in all {
        assert_whole(&world, subscribed);
        assert!(world.video(subscribed).len() > 200);
    }
    world.close_and_check();
}

#[test]
fn one_kind_may_be_left_out() {
    let mut world = World::new(12);
    let alice = world.join("alice");
    world.publish(alice, "cam", &Publish::default()).unwrap();
    let bob = world.join("bob");
    let only = Subscribe { video: false, ..Subscribe::default() };
    let subscribed = world.subscribe(bob, "bob", "cam", only).unwrap();
    world.run_for(Duration::from_secs(2));
    assert!(world.audio(subscribed).len() > 60);
    assert!(world.peers[bob].receivers.iter().all(|receiver| receiver.spec.kind == MediaKind::Audio));
    assert_eq!(world.peers[bob].heard.strange, 0);
    world.close_and_check();
}

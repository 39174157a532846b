//! A stream that goes on under another SSRC, as after a collision (RFC 3550 §8.2).

use sfu_core::drop_reason::DropReason;

use crate::support::ms;
use crate::support::network::Link;
use crate::support::room::{Publish, Subscribe, Subscribed};
use crate::support::sender::{AUDIO_CLOCK, Sender, StreamSpec, VIDEO_CLOCK};
use crate::support::world::World;

struct Call {
    world: World,
    alice: usize,
    subscribed: [Subscribed; 2],
}

/// One publisher, and two subscribers with and without RTX.
fn call(seed: u64, what: &Publish) -> Call {
    let mut world = World::new(seed);
    let alice = world.join("alice");
    world.publish(alice, "cam", what).unwrap();
    let subscribed = [("bob", true), ("carol", false)].map(|(name, rtx)| {
        let peer = world.join(name);
        world.subscribe(peer, name, "cam", Subscribe { rtx, ..Subscribe::default() }).unwrap()
    });
    world.run_for(ms(3_000));
    Call { world, alice, subscribed }
}

impl Call {
    /// Gives each of the publisher's streams another SSRC. Returns their tags.
    fn change(&mut self, first_seq: u16, rtx: bool) -> Vec<u32> {
        let count = self.world.peers[self.alice].senders.len();
        let tags: Vec<u32> = (0..count).map(|_| self.world.give()).collect();
        for (sender, tag) in self.world.peers[self.alice].senders.iter_mut().zip(&tags) {
            sender.change_ssrc(*tag, first_seq, rtx);
        }
        tags
    }

    /// Everybody sees what is sent now, in one piece with what was before.
    fn assert_goes_on(&self, tags: &[u32]) {
        for subscribed in self.subscribed {
            let (audio, video) = (self.world.audio(subscribed), self.world.video(subscribed));
            assert_eq!([audio.last().body.tag, video.last().body.tag], [tags[0], tags[tags.len() - 1]]);
            assert!(self.world.now.since(video.last().at) < ms(80));
            for (receiver, clock) in [(audio, AUDIO_CLOCK), (video, VIDEO_CLOCK)] {
                receiver.assert_gap_free();
                receiver.assert_timestamps(clock);
            }
            video.assert_decodable();
        }
    }
}

#[test]
fn a_stream_goes_on_under_another_ssrc() {
    for signaled in [true, false] {
        // Below where the old numbers were, far above, and close by.
        for first_seq in [100, 40_000, 300] {
            let mut call = call(501, &Publish { signaled, ..Publish::default() });
            let tags = call.change(first_seq, first_seq == 300);
            call.world.run_for(ms(3_000));
            call.assert_goes_on(&tags);
            let requests = |at: usize| call.world.peers[call.alice].senders[at].key_frame_requests.len();
            assert!(requests(0) == 0 && (1..6).contains(&requests(1)), "{} {}", requests(0), requests(1));
            for subscribed in call.subscribed {
                assert!(call.world.video(subscribed).of(tags[1]).count() > 200);
                assert!(call.world.audio(subscribed).of(tags[0]).count() > 130);
                // Reports go on as well, and tell the new clock.
                let (_, info) = call.world.video(subscribed).sender_reports.last().unwrap();
                let newest = call.world.video(subscribed).last().timestamp;
                assert!((newest.wrapping_sub(info.rtp_timestamp) as i32).unsigned_abs() < 3 * VIDEO_CLOCK);
            }
            call.world.close_and_check();
        }
    }
}

#[test]
fn what_is_lost_of_the_new_ssrc_is_repaired() {
    for (seed, rtx) in [(511, true), (512, false), (513, true)] {
        let mut call = call(seed, &Publish { rtx, ..Publish::default() });
        call.change(100, true);
        call.world.run_for(ms(1_000));
        call.world.network.set_default(Link { jitter: ms(8), loss: 0.05, ..Link::clean(15) });
        call.world.run_for(ms(4_000));
        call.world.peers[call.alice].senders[1].muted = true;
        call.world.run_for(ms(1_500));
        for subscribed in call.subscribed {
            let video = call.world.video(subscribed);
            video.assert_gap_free();
            video.assert_decodable();
            assert_eq!((video.missing(), video.given_up), (0, 0));
        }
        assert!(call.world.peers[call.alice].senders[1].nacked > 5);
        call.world.close_and_check();
    }
}

#[test]
fn a_hundred_ssrcs_exhaust_nothing() {
    let mut call = call(521, &Publish::default());
    let mut tags = Vec::new();
    for n in 0..100 {
        tags = call.change(n * 601, true);
        call.world.run_for(ms(700));
    }
    call.world.run_for(ms(1_000));
    assert_eq!(call.world.dropped(DropReason::TooManyStreams), 0);
    call.assert_goes_on(&tags);
    call.world.close_and_check();
}

#[test]
fn layers_of_simulcast_change_theirs_too() {
    for signaled in [true, false] {
        let what = Publish { layers: 3, signaled, ..Publish::default() };
        let mut call = call(531, &what);
        let tags = call.change(100, true);
        call.world.run_for(ms(4_000));
        call.assert_goes_on(&tags);
        call.world.close_and_check();
    }
}

#[test]
fn two_ssrcs_for_one_place_do_not_toss_it_to_and_fro() {
    let mut call = call(551, &Publish::default());
    let now = call.world.now;
    let tag = call.world.give();
    let senders = &mut call.world.peers[call.alice].senders;
    let first = senders[1].spec.tag;
    let rival = StreamSpec { ssrc: 100_000 + tag, tag, rtx: None, ..senders[1].spec.clone() };
    senders.push(Sender::new(rival, now));
    call.world.run_for(ms(3_000));
    let requests = |call: &Call| -> usize {
        let senders = &call.world.peers[call.alice].senders;
        senders.iter().map(|sender| sender.key_frame_requests.len()).sum()
    };
    let before = requests(&call);
    for (muted, expected) in [(None, first), (Some(1), tag), (Some(2), first)] {
        for (at, sender) in call.world.peers[call.alice].senders.iter_mut().enumerate() {
            sender.muted = muted == Some(at);
        }
        call.world.run_for(ms(2_000));
        for subscribed in call.subscribed {
            assert_eq!(call.world.video(subscribed).last().body.tag, expected, "without {muted:?}");
        }
    }
    assert!(requests(&call) - before <= 4, "one for each change");
    for subscribed in call.subscribed {
        call.world.video(subscribed).assert_gap_free();
        call.world.video(subscribed).assert_decodable();
    }
    call.world.close_and_check();
}

#[test]
fn an_old_ssrc_that_is_played_again_takes_nothing_over() {
    let mut call = call(541, &Publish::default());
    let addr = call.world.peers[call.alice].addr;
    let senders = &call.world.peers[call.alice].senders;
    let recorded: Vec<_> = senders.iter().flat_map(|sender| sender.sealed()).collect();
    assert!(recorded.len() > 300);
    let tags = call.change(100, true);
    call.world.run_for(ms(1_000));
    // While she says nothing the place is free for who has the keys.
    for sender in &mut call.world.peers[call.alice].senders {
        sender.muted = true;
    }
    call.world.run_for(ms(300));
    let before = call.world.shard.counters().rtp_in;
    for datagram in recorded {
        call.world.inject(addr, &datagram);
    }
    assert_eq!(call.world.shard.counters().rtp_in, before, "no packet opens twice");
    for sender in &mut call.world.peers[call.alice].senders {
        sender.muted = false;
        sender.force_key_frame();
    }
    call.world.run_for(ms(1_000));
    call.assert_goes_on(&tags);
    call.world.close_and_check();
}

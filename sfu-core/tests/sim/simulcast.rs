//! Simulcast: the largest layer that is there goes out, and every change happens at a key frame.

use crate::support::ms;
use crate::support::network::Link;
use crate::support::room::{Publish, Subscribe};
use crate::support::world::World;

fn publish(world: &mut World, alice: usize, signaled: bool) -> Vec<u32> {
    let what = Publish { layers: 3, audio: false, signaled, ..Publish::default() };
    world.publish(alice, "cam", &what).unwrap()
}

#[test]
fn the_largest_layer_goes_out_and_smaller_ones_stand_in() {
    for signaled in [true, false] {
        let mut world = World::new(31);
        let alice = world.join("alice");
        let tags = publish(&mut world, alice, signaled);
        let bob = world.join("bob");
        let subscribed = world.subscribe(bob, "bob", "cam", Subscribe::default()).unwrap();
        world.run_for(ms(4_000));
        let last = |world: &World| world.video(subscribed).last().body.tag;
        assert_eq!(last(&world), tags[2]);
        assert!(world.video(subscribed).of(tags[2]).count() > 250);

        // Bandwidth goes down: the publisher stops its largest layer, then the next.
        for layer in [2, 1] {
            world.peers[alice].senders[layer].muted = true;
            world.run_for(ms(3_000));
            assert_eq!(last(&world), tags[layer - 1], "layer {layer} is silent");
            assert!(world.now.since(world.video(subscribed).last().at) < ms(50));
        }
        // And up again, with a key frame as encoders do.
        for layer in [1, 2] {
            world.peers[alice].senders[layer].muted = false;
            world.peers[alice].senders[layer].force_key_frame();
            world.run_for(ms(1_000));
            assert_eq!(last(&world), tags[layer], "layer {layer} is back");
        }
        let video = world.video(subscribed);
        video.assert_gap_free();
        video.assert_decodable();
        video.assert_timestamps(90_000);
        world.close_and_check();
    }
}

#[test]
fn layers_survive_loss() {
    for seed in 40..44 {
        let mut world = World::new(seed);
        world.network.set_default(Link { jitter: ms(8), loss: 0.05, ..Link::clean(15) });
        let alice = world.join("alice");
        let tags = publish(&mut world, alice, true);
        let bob = world.join("bob");
        let take = Subscribe { pli: true, ..Subscribe::default() };
        let subscribed = world.subscribe(bob, "bob", "cam", take).unwrap();
        for layer in [2, 1, 2] {
            world.run_for(ms(3_000));
            let muted = world.peers[alice].senders[layer].muted;
            world.peers[alice].senders[layer].muted = !muted;
            world.peers[alice].senders[layer].force_key_frame();
        }
        world.run_for(ms(5_000));
        assert_eq!(world.video(subscribed).last().body.tag, tags[2]);
        assert!(world.now.since(world.video(subscribed).last().at) < ms(200));
        world.close_and_check();
    }
}

/// The largest layer goes and comes back, again and again, over such paths from and to the publisher.
fn to_and_fro(seed: u64, path: Link) {
    let mut world = World::new(seed);
    let alice = world.join("alice");
    let tags = publish(&mut world, alice, seed.is_multiple_of(2));
    let takes = [("bob", true), ("carol", false)].map(|(name, rtx)| {
        let peer = world.join(name);
        world.subscribe(peer, name, "cam", Subscribe { rtx, ..Subscribe::default() }).unwrap()
    });
    world.run_for(ms(2_000));
    let addr = world.peers[alice].addr;
    world.network.set_link(addr, path, path);
    for muted in [true, false, true, false, true, false] {
        world.peers[alice].senders[2].muted = muted;
        world.peers[alice].senders[2].force_key_frame();
        world.run_for(ms(if muted { 2_000 } else { 1_500 }));
    }
    for sender in &mut world.peers[alice].senders {
        sender.muted = true;
    }
    world.run_for(ms(1_500));
    for subscribed in takes {
        let video = world.video(subscribed);
        assert_eq!(video.last().body.tag, tags[2]);
        video.assert_gap_free();
        video.assert_decodable();
        video.assert_timestamps(90_000);
        assert_eq!((video.missing(), video.given_up), (0, 0));
    }
    world.close_and_check();
}

#[test]
fn the_beginning_of_a_key_frame_may_come_last() {
    for seed in 50..60 {
        to_and_fro(seed, Link { jitter: ms(8), ..Link::clean(15) });
    }
}

#[test]
fn the_beginning_of_a_key_frame_may_be_lost() {
    for seed in 60..68 {
        to_and_fro(seed, Link { loss: 0.1, jitter: ms(4), ..Link::clean(15) });
    }
}

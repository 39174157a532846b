//! The media path allocates nothing: from the received datagram over timers and reports to the sealed batch.
//!
//! The packets come from the simulated network of `sim/`, so that everything is on: audio and video, loss both ways, NACK,
//! RTX and plain resend, transport-wide feedback, sender and receiver reports, key frame requests. Counted is what the
//! shard does with RTP and RTCP, in its timers and in its drain; STUN (a check every few seconds) and DTLS may allocate.

mod counting;
#[path = "sim/support/mod.rs"]
mod support;

use counting::allocations;
use sfu_core::engine::{Engine, Turn};
use support::ms;
use support::network::Link;
use support::room::{Publish, Subscribe};
use support::world::{Settings, World};

/// Two publishers and four subscribers each, over a path with this loss; warm.
fn warm_call(seed: u64, loss: f64, batch: (usize, usize)) -> World {
    let mut world = World::with(Settings { batch, ..Settings::new(seed) });
    for publisher in ["alice", "bob"] {
        let peer = world.join(publisher);
        world.publish(peer, publisher, &Publish::default()).expect("published");
        for n in 0..4 {
            let name = format!("{publisher}-{n}");
            let peer = world.join(&name);
            let take = Subscribe { rtx: n % 2 == 0, pli: true, ..Subscribe::default() };
            world.subscribe(peer, &name, publisher, take).expect("subscribed");
        }
    }
    world.run_for(ms(1_000));
    // Tables of repair take their memory with the first loss.
    world.network.set_default(Link { loss: 0.1, jitter: ms(10), ..Link::clean(10) });
    world.run_for(ms(4_000));
    world.network.set_default(Link { loss, jitter: ms(5), ..Link::clean(10) });
    world.run_for(ms(1_000));
    world
}

/// Lets a call go on for ten seconds and counts.
fn measure(world: &mut World) {
    let before = world.shard.counters().clone();
    let heard = |world: &World| world.peers.iter().map(|peer| peer.heard.twcc).sum::<u32>();
    let twcc = heard(world);
    world.probe = allocations;
    world.allocated = 0;
    world.run_for(ms(10_000));
    world.probe = || 0;
    let after = world.shard.counters();
    assert!(after.rtp_in - before.rtp_in > 2_500, "{} packets in", after.rtp_in - before.rtp_in);
    assert!(after.rtp_forwarded - before.rtp_forwarded > 10_000);
    assert!(after.rtcp_in - before.rtcp_in > 80, "reports came in");
    assert!(heard(world) - twcc > 250, "and feedback went out");
    assert_eq!(world.allocated, 0, "allocations for {} packets", after.rtp_in - before.rtp_in);
}

#[test]
fn the_counter_counts() {
    let before = allocations();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(allocations() - before, 1);
}

#[test]
fn the_probe_sees_what_a_command_allocates() {
    // The same probe around something that does allocate, so that a zero elsewhere means something.
    let mut world = World::new(1);
    world.join("alice");
    world.probe = allocations;
    world.run_for(ms(1_000));
    world.probe = || 0;
    assert!(world.allocated > 0, "a DTLS handshake is worked on in the timers and allocates");
}

#[test]
fn no_packet_of_a_clean_call_allocates() {
    let mut world = warm_call(91, 0.0, (1 << 20, 256));
    measure(&mut world);
    world.close_and_check();
}

#[test]
fn no_packet_of_a_lossy_call_allocates() {
    let mut world = warm_call(92, 0.05, (1 << 20, 256));
    let before = world.shard.counters().clone();
    measure(&mut world);
    let after = world.shard.counters();
    assert!(after.resent - before.resent > 200 && after.nacked - before.nacked > 50, "repair was at work");
    world.close_and_check();
}

#[test]
fn caches_that_have_grown_allocate_no_more() {
    let mut world = World::with(Settings { slots: 16_384, ..Settings::new(95) });
    let peer = world.join("alice");
    world.publish(peer, "alice", &Publish::default()).expect("published");
    for n in 0..8 {
        let name = format!("peer-{n}");
        let peer = world.join(&name);
        let take = Subscribe { rtx: n % 2 == 0, ..Subscribe::default() };
        world.subscribe(peer, &name, "alice", take).expect("subscribed");
    }
    world.peers[0].senders[1].spec.key_parts = 250;
    world.run_for(ms(1_000));
    world.network.set_default(Link { loss: 0.03, ..Link::clean(10) });
    let key_frames = |world: &mut World| {
        for _ in 0..4 {
            world.peers[0].senders[1].force_key_frame();
            world.run_for(ms(500));
        }
    };
    key_frames(&mut world);
    world.probe = allocations;
    world.allocated = 0;
    key_frames(&mut world);
    world.probe = || 0;
    assert!(world.shard.counters().resent > 200, "caches were at work");
    assert_eq!(world.allocated, 0);
    world.close_and_check();
}

#[test]
fn no_packet_of_a_loaded_core_allocates() {
    let mut world = warm_call(94, 0.0, (1 << 20, 256));
    for sender in world.peers.iter_mut().flat_map(|peer| &mut peer.senders) {
        sender.spec.even = true;
    }
    let second = ms(1_000);
    world.shard.on_turn(world.now, Turn { busy: second, wall: second, ..Turn::default() });
    measure(&mut world);
    assert!(world.shard.counters().audio_held > 100, "audio waited for frames");
    world.close_and_check();
}

#[test]
fn a_batch_that_is_full_again_and_again_allocates_nothing() {
    let mut world = warm_call(93, 0.02, (4096, 3));
    measure(&mut world);
    world.close_and_check();
}

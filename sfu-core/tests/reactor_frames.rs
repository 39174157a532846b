//! Frames by a packet socket over a real (veth) Ethernet: what arrives is what was sent, runs included, and what frames cannot
//! carry goes by the UDP socket. Needs root for network namespaces; without it the tests say so and pass nothing off as
//! checked.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod reactor_common;

use std::collections::HashSet;
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::process::Command as Process;
use std::time::{Duration, Instant};

use reactor_common::{Command, Shard, client, packet, receive};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use sfu_core::reactor::ReactorChoice;
use sfu_core::reactor::frame::Resolver;

const FAMILIES: [(&str, &str); 2] = [("10.9.0.1:0", "10.9.0.2:0"), ("[fd00:9::1]:0", "[fd00:9::2]:0")];

fn ip(arguments: &str) -> bool {
    Process::new("ip").args(arguments.split(' ')).output().is_ok_and(|output| output.status.success())
}

/// Two network namespaces with a cable between them: the calling thread is moved into one, the other is where peers are.
struct Cable {
    peers: String,
}

impl Cable {
    #[expect(
        deprecated,
        reason = "its unsafe successor is about memory-sharing flags, of which none is used"
    )]
    fn lay(name: &str) -> Option<Cable> {
        let peers = format!("weir-frames-{}-{name}", std::process::id());
        if rustix::thread::unshare(UnshareFlags::NEWNET).is_err() || !ip(&format!("netns add {peers}")) {
            eprintln!("SKIPPED: no right to make a network namespace");
            return None;
        }
        let cable = Cable { peers };
        let peers = &cable.peers;
        for command in [
            format!("link add va type veth peer name vb netns {peers}"),
            "address add 10.9.0.1/24 dev va".to_owned(),
            "address add fd00:9::1/64 dev va nodad".to_owned(),
            "link set va up".to_owned(),
            format!("-n {peers} address add 10.9.0.2/24 dev vb"),
            format!("-n {peers} address add fd00:9::2/64 dev vb nodad"),
            format!("-n {peers} link set vb up"),
        ] {
            assert!(ip(&command), "ip {command}");
        }
        Some(cable)
    }

    /// A peer's socket; it stays in its namespace whoever uses it.
    fn peer(&self, at: &str) -> UdpSocket {
        let (namespace, at) = (File::open(format!("/run/netns/{}", self.peers)).unwrap(), at.to_owned());
        let made = std::thread::spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            client(&at)
        });
        made.join().unwrap()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.peers));
    }
}

/// A shard, the peer that feeds it and the peer it sends to; frames are known to flow.
struct Stage {
    shard: Shard,
    source: UdpSocket,
    target: UdpSocket,
}

impl Stage {
    fn open(cable: &Cable, choice: ReactorChoice, (here, there): (&str, &str)) -> Stage {
        let (source, target) = (cable.peer(there), cable.peer(there));
        let frames = Resolver::start().unwrap().frames().unwrap();
        let to = vec![target.local_addr().unwrap()];
        let shard = Shard::start_with(choice, 512, to, &[here], Some(frames));
        let stage = Stage { shard, source, target };
        let start = Instant::now();
        // The first goes by the socket, and so does what comes before the neighbour is known.
        while stage.shard.report().total.frames == 0 {
            assert!(start.elapsed() < Duration::from_secs(10), "no frame: {:?}", stage.shard.report().total);
            stage.send(&packet(1, 100));
            assert_eq!(receive(&stage.target), packet(1, 100));
        }
        stage
    }

    fn send(&self, bytes: &[u8]) {
        self.source.send_to(bytes, self.shard.addrs[0]).unwrap();
    }

    /// Sends `lengths` within one gather window and checks that all of them arrive; returns messages and frames.
    fn burst(&self, lengths: &[usize]) -> (u32, u32) {
        let before = self.shard.report().total;
        self.shard.command(Command::Window(Duration::from_millis(150)));
        self.shard.sync();
        let packets: Vec<_> = lengths.iter().enumerate().map(|(n, len)| packet(n, *len)).collect();
        for bytes in &packets {
            self.send(bytes);
        }
        let got: HashSet<_> = packets.iter().map(|_| receive(&self.target)).collect();
        assert!(got == packets.iter().cloned().collect(), "every packet, each whole");
        let sent = before.sent + lengths.len() as u32;
        let after = self.shard.report_when(|report| report.total.sent == sent).total;
        assert_eq!(after.send_failed, before.send_failed);
        self.shard.command(Command::Window(Duration::ZERO));
        (after.messages - before.messages, after.frames - before.frames)
    }
}

fn frames_arrive(name: &str, choice: ReactorChoice) {
    let Some(cable) = Cable::lay(name) else { return };
    for family in FAMILIES {
        let stage = Stage::open(&cable, choice, family);
        let run: Vec<usize> = [vec![1100; 20], vec![300]].concat();
        // Nearly all: once in three seconds a message goes by the socket.
        let frames: u32 = (0..5)
            .map(|_| {
                let (messages, frames) = stage.burst(&run);
                assert!(messages <= 3, "{messages} messages for a run of {}", run.len());
                frames
            })
            .sum();
        assert!(frames >= 3, "{frames} frames of five runs");
        assert_eq!(stage.burst(&[1600, 1600]).1, 0, "larger than the MTU");
        // A device that takes no runs: the kernel cuts our frames up.
        assert!(ip("link set va gso_max_segs 1"));
        assert!((0..3).map(|_| stage.burst(&run).1).sum::<u32>() > 0);
        assert!(ip("link set va gso_max_segs 64"));
    }
}

#[test]
fn frames_arrive_over_mmsg() {
    frames_arrive("m", ReactorChoice::Mmsg);
}

#[test]
fn frames_arrive_over_io_uring() {
    frames_arrive("r", ReactorChoice::IoUring);
}

/// A frame that the kernel refuses is sent by the socket, and nothing is lost.
fn a_device_that_goes_away_loses_nothing_for_good(name: &str, choice: ReactorChoice) {
    let Some(cable) = Cable::lay(name) else { return };
    let stage = Stage::open(&cable, choice, FAMILIES[0]);
    for command in ["link set va name old", "link set old down", "link set old up"] {
        assert!(ip(command), "ip {command}");
    }
    let start = Instant::now();
    let mut arrived = 0;
    while arrived < 20 {
        assert!(start.elapsed() < Duration::from_secs(15), "{arrived} arrived after the link was down");
        stage.send(&packet(7, 500));
        let mut buffer = [0; 2048];
        stage.target.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        arrived += usize::from(stage.target.recv(&mut buffer).is_ok());
    }
}

#[test]
fn a_link_that_was_down_over_mmsg() {
    a_device_that_goes_away_loses_nothing_for_good("dm", ReactorChoice::Mmsg);
}

#[test]
fn a_link_that_was_down_over_io_uring() {
    a_device_that_goes_away_loses_nothing_for_good("dr", ReactorChoice::IoUring);
}

/// Loopback and the machine's own addresses are not Ethernet.
#[test]
fn what_stays_on_the_machine_goes_by_the_socket() {
    let Some(_cable) = Cable::lay("lo") else { return };
    assert!(ip("link set lo up"));
    for at in ["127.0.0.1:0", "10.9.0.1:0"] {
        let target = client(at);
        let frames = Resolver::start().unwrap().frames().unwrap();
        let to = vec![target.local_addr().unwrap()];
        let shard = Shard::start_with(ReactorChoice::Mmsg, 512, to, &[at], Some(frames));
        let source = client(at);
        for n in 0..20 {
            source.send_to(&packet(n, 200), shard.addrs[0]).unwrap();
            assert_eq!(receive(&target), packet(n, 200));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(shard.report().total.frames, 0, "{at}");
    }
}

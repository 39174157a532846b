//! Runs whose segments are larger than the interface's MTU: the kernel refuses them whole, and they must arrive all the
//! same. Needs root for a network namespace of its own; without it the test says so and passes nothing off as checked.
#![allow(clippy::unwrap_used, reason = "a test")]

mod reactor_common;

use std::collections::HashSet;
use std::process::Command as Process;
use std::time::Duration;

use reactor_common::{Command, Shard, client, packet, receive};
use sfu_core::reactor::ReactorChoice;

/// Moves this thread to a new network namespace whose loopback has an MTU of `mtu` bytes.
#[expect(deprecated, reason = "its unsafe successor is about memory-sharing flags, of which none is used")]
fn narrow_namespace(mtu: u32) -> bool {
    if rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).is_err() {
        eprintln!("SKIPPED: no right to make a network namespace");
        return false;
    }
    let mtu = mtu.to_string();
    let up = Process::new("ip").args(["link", "set", "lo", "mtu", &mtu, "up"]).status();
    assert!(up.is_ok_and(|status| status.success()), "`ip link` (iproute2) is needed");
    true
}

fn oversized_segments_arrive(choice: ReactorChoice) {
    if !narrow_namespace(1400) {
        return;
    }
    let target = client("127.0.0.1:0");
    let shard = Shard::start(choice, 512, vec![target.local_addr().unwrap()]);
    shard.command(Command::Window(Duration::from_millis(150)));
    shard.sync();
    let source = client("127.0.0.1:0");
    let expected: Vec<_> = (0..30).map(|n| packet(n, if n < 10 { 1600 } else { 1200 })).collect();
    for bytes in &expected {
        source.send_to(bytes, shard.addrs[0]).unwrap();
    }
    // The ring learns of the refusal after the runs behind have left, so the order is not given.
    let got: HashSet<_> = expected.iter().map(|_| receive(&target)).collect();
    assert!(got == expected.iter().cloned().collect(), "30 different packets, each whole");
    let total = shard.report_when(|r| r.total.sent == 30).total;
    // Ten singles for the run that was refused; the others still leave as runs.
    assert_eq!(total.send_failed, 0);
    assert!((11..=20).contains(&total.messages), "{} messages", total.messages);
}

#[test]
fn oversized_segments_arrive_over_mmsg() {
    oversized_segments_arrive(ReactorChoice::Mmsg);
}

#[test]
fn oversized_segments_arrive_over_io_uring() {
    oversized_segments_arrive(ReactorChoice::IoUring);
}

//! What the io_uring reactor rests on, checked on the kernel at hand: a send with `MSG_DONTWAIT` and no completion on
//! success has been executed, or has failed with a completion, when the submitting call returns.
#![allow(unsafe_code, reason = "speaks to the ring directly")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode, types::Fd};

fn ring() -> IoUring {
    IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(64).unwrap()
}

/// Sends `bytes` to `to` through `ring` and returns without looking at completions.
fn send(ring: &mut IoUring, socket: &UdpSocket, to: &socket2::SockAddr, bytes: &[u8]) {
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all zero is a header without anything.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    header.msg_iov = &mut iov;
    header.msg_iovlen = 1;
    let entry = opcode::SendMsg::new(Fd(socket.as_raw_fd()), &raw const header)
        .flags(libc::MSG_DONTWAIT as u32)
        .build()
        .flags(Flags::SKIP_SUCCESS);
    // SAFETY: everything the entry points to lives through the submit below, by which it has been executed: the very
    // thing under test.
    unsafe { ring.submission().push(&entry) }.unwrap();
    assert_eq!(ring.submit().unwrap(), 1);
}

#[test]
fn a_send_is_over_when_submit_returns() {
    let mut ring = ring();
    let (source, sink) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let to = sink.local_addr().unwrap().into();
    let mut bytes = [0u8; 1200];
    let mut got = [0u8; 2048];
    for round in 0..2000u32 {
        bytes.fill(round as u8);
        send(&mut ring, &source, &to, &bytes);
        // Were the send still to come, this is what it would carry.
        bytes.fill(!(round as u8));
        assert_eq!(ring.completion().len(), 0, "no completion on success");
        assert_eq!(sink.recv(&mut got).unwrap(), 1200);
        assert!(got[..1200].iter().all(|&b| b == round as u8), "round {round}");
    }
}

#[test]
fn a_failed_send_has_its_completion_when_submit_returns() {
    let mut ring = ring();
    let source = UdpSocket::bind("127.0.0.1:0").unwrap();
    let broadcast = "255.255.255.255:9".parse::<std::net::SocketAddr>().unwrap().into();
    for _ in 0..100 {
        send(&mut ring, &source, &broadcast, b"no");
        let results: Vec<_> = ring.completion().map(|c| c.result()).collect();
        assert_eq!(results, [-libc::EACCES]);
    }
}

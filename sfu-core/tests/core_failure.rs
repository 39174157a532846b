//! A core that dies takes the node with it: a node that goes on without would be given calls that nobody serves.
#![allow(unsafe_code)] // A socket is taken away from under the reactor that owns it.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;

use sfu_core::config::{NodeConfig, Settings};
use sfu_core::node::{Node, NodeError};

/// Two cores on free ports, with the reactor that has a socket's descriptor and nothing else.
fn start() -> Node {
    let settings = Settings {
        listen: Some("127.0.0.1:0".into()),
        secret: Some("s3cret".into()),
        media_addresses: Some("127.0.0.1".into()),
        media_port: Some("0".into()),
        cores: Some("2".into()),
        reactor: Some("mmsg".into()),
        send_path: Some("sockets".into()),
        slots_per_core: Some("512".into()),
        ..Settings::default()
    };
    Node::start(&NodeConfig::parse(&settings).expect("valid")).expect("starts")
}

/// Puts a file where the process has the UDP socket that is bound to this port.
fn break_socket(port: u16) {
    let table = fs::read_to_string("/proc/net/udp").expect("the kernel lists sockets");
    let bound = format!(":{port:04X}");
    let line = table.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|a| a.ends_with(&bound)));
    let inode = line.and_then(|line| line.split_whitespace().nth(9)).expect("the socket is listed");
    let target = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc/self/fd").expect("descriptors are listed").map(|e| e.expect("listed"));
    let is_it = |path: &std::path::Path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy() == target);
    let entry = entries.map(|entry| entry.path()).find(|path| is_it(path)).expect("a descriptor of ours");
    let fd = entry.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let file = fs::File::open("/dev/null").expect("opens");
    // SAFETY: both descriptors are open; the owner of the second one finds that it is no socket, which is the point.
    let result = unsafe { libc::dup2(file.as_raw_fd(), fd.expect("a number")) };
    assert!(result >= 0);
}

#[test]
fn a_core_that_ends_by_itself_ends_the_node() {
    let node = start();
    let victim = node.info.cores[1].candidates[0].bound;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(node.run_until_signalled(None)));
    assert!(told.recv_timeout(Duration::from_millis(200)).is_err(), "it runs");
    break_socket(victim.port());
    wake(victim);
    let ended = told.recv_timeout(Duration::from_secs(10)).expect("it ends at once");
    let error = ended.expect_err("and not as if nothing had happened");
    assert!(matches!(error, NodeError::CoreEnded { core: 1, .. }), "{error}");
    assert!(error.to_string().starts_with("core 1 has ended: "), "{error}");
}

/// The core may sleep on the socket that it had.
fn wake(victim: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("binds");
    socket.send_to(b"are you there", victim).expect("sent");
}

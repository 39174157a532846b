//! The load a node reports must agree with what the operating system says of its threads.
//!
//! Alone in its file: the core's thread is found by name in this process.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use sfu_core::config::{NodeConfig, Settings};
use sfu_core::node::Node;

/// Datagrams sent at once, and the pause between: some ten thousand a second, well below what a core can take.
const BURST: usize = 20;
const PAUSE: Duration = Duration::from_millis(2);
const MEASURED: Duration = Duration::from_secs(3);

fn metric(addr: SocketAddr, name: &str) -> f64 {
    let mut stream = TcpStream::connect(addr).expect("connects");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("reads");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().expect("a number")
}

/// Seconds the thread was ready to run but had no CPU: somebody else's load, which counts as busy and not as CPU time.
fn waited(thread_name: &str) -> f64 {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux").flatten();
    let ours = tasks
        .map(|task| task.path())
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == thread_name))
        .expect("the core's thread is there");
    let text = fs::read_to_string(ours.join("schedstat")).expect("schedstat");
    let waited: f64 =
        text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).expect("second field");
    waited / 1e9
}

#[test]
#[expect(clippy::disallowed_methods, reason = "measures real time")]
fn busy_share_and_cpu_time_agree() {
    for reactor in ["mmsg", "auto"] {
        let settings = Settings {
            listen: Some("127.0.0.1:0".into()),
            secret: Some("s3cret".into()),
            media_addresses: Some("127.0.0.1".into()),
            media_port: Some("0".into()),
            cores: Some("1".into()),
            reactor: Some(reactor.into()),
            ..Settings::default()
        };
        let node = Node::start(&NodeConfig::parse(&settings).expect("valid")).expect("starts");
        let media = node.info.cores[0].candidates[0].bound;
        let read = || {
            let busy = metric(node.control, "weir_node_busy_seconds_total{core=\"0\"}");
            let cpu = metric(node.control, "weir_node_thread_cpu_seconds_total{core=\"0\"}");
            (busy, cpu, waited("weir-core-0"))
        };
        let sender = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let (busy_before, cpu_before, waited_before) = read();
        let begun = Instant::now();
        while begun.elapsed() < MEASURED {
            for _ in 0..BURST {
                // STUN Binding requests that name nobody: parsed, refused, counted.
                let _ = sender.send_to(
                    &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
                    media,
                );
            }
            std::thread::sleep(PAUSE);
        }
        let wall = begun.elapsed().as_secs_f64();
        let (busy_after, cpu_after, waited_after) = read();
        let (busy, cpu) = ((busy_after - busy_before) / wall, (cpu_after - cpu_before) / wall);
        let waited = (waited_after - waited_before) / wall;
        println!("{reactor}: busy {busy:.3}, CPU {cpu:.3}, waited for a CPU {waited:.3}");
        assert!(metric(node.control, "weir_node_packets_in_total{core=\"0\"}") > 1_000.0);
        assert!(cpu > 0.002, "the core did nothing");
        assert!(busy > cpu - 0.03, "busy share {busy} misses work, the CPU time is {cpu}");
        assert!(
            busy < cpu + waited + 0.03,
            "busy share {busy} is more than CPU time {cpu} and waiting {waited}"
        );
        node.stopper().try_send(()).expect("runs");
        node.join().expect("a clean end");
    }
}

//! The layer rules of the media node, read off its sources.
//!
//! ```text
//! 6  node                                    sets everything up
//! 5  reactor  control::server  metrics       I/O: never each other, but for what is allowed below
//! 4  control::{hub, report, rpc}             the control plane's state, pure
//! 3  shard                                   the engine of a core
//! 2  forward  transport                      what it is made of: they do not know each other
//! 1  wire  crypto  buf  engine  control::proto
//! 0  time  ids  drop_reason  config  prefetch
//! ```

mod architecture_common;

use std::path::Path;

use architecture_common::{Rules, Source, impurities, read, shape_violations, without_forbid};

const RULES: Rules<'_> = Rules {
    ranks: &[
        ("time", 0),
        ("ids", 0),
        ("drop_reason", 0),
        ("config", 0),
        ("prefetch", 0),
        ("wire", 1),
        ("crypto", 1),
        ("crypto::aws_lc", 1),
        ("buf", 1),
        ("engine", 1),
        ("control::proto", 1),
        ("forward", 2),
        ("transport", 2),
        ("shard", 3),
        ("control::hub", 4),
        ("control::report", 4),
        ("control::rpc", 4),
        ("reactor", 5),
        ("metrics", 5),
        ("control::server", 5),
        ("control", 5),
        ("node", 6),
        ("lib", 6),
    ],
    allowed: &[
        ("crypto", "crypto::aws_lc", "the calls into C are in a file of their own"),
        ("engine", "buf", "the seam hands datagrams and batches over: its signatures name the buffers"),
        ("control::hub", "control::rpc", "the hub reads requests and writes answers in their frame"),
        ("control::server", "metrics", "one port serves the control socket and the metrics"),
    ],
};

/// Modules without I/O: everything below the adapters, but `buf`, which maps memory.
const PURE_BELOW: u8 = 5;

/// Where memory is mapped, asked for, or shared with the kernel and with C.
const UNSAFE_HOMES: &[&str] = &["buf", "reactor", "prefetch", "crypto::aws_lc"];

/// Crates that one module only may name, so that they can be exchanged there.
const HIDDEN_CRATES: &[(&str, &[&str])] = &[
    ("dimpl", &["crypto"]),
    ("aws_lc_rs", &["crypto"]),
    ("aws_lc_sys", &["crypto::aws_lc"]),
    ("subtle", &["crypto", "config"]),
    ("hmac", &["crypto"]),
    ("sha1", &["crypto"]),
    ("aes", &["crypto"]),
    ("ctr", &["crypto"]),
    ("io_uring", &["reactor"]),
    ("netlink_sys", &["reactor"]),
    ("netlink_packet_core", &["reactor"]),
    ("netlink_packet_route", &["reactor"]),
    ("socket2", &["reactor"]),
    ("rustix", &["reactor", "node"]),
    ("libc", &["reactor", "buf", "node"]),
    ("hyper", &["control::server"]),
    ("prometheus_client", &["metrics"]),
];

fn sources() -> Vec<Source> {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn layer(source: &Source) -> (&str, u8) {
    RULES.layer(&source.module).unwrap_or_else(|| panic!("{} belongs to no layer", source.path))
}

fn is_pure(source: &Source) -> bool {
    layer(source).1 < PURE_BELOW
}

fn assert_none(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

#[test]
fn a_module_imports_from_lower_layers_only() {
    assert_none(&RULES.violations(&sources()));
}

#[test]
fn pure_layers_have_no_socket_clock_thread_lock_or_async() {
    assert_none(&impurities(&sources(), is_pure, &[]));
}

#[test]
fn pure_layers_forbid_unsafe_code() {
    // What a parent forbids its children cannot allow.
    let parent = |source: &Source| source.path == "crypto/mod.rs";
    let pure =
        |source: &Source| is_pure(source) && !UNSAFE_HOMES.contains(&layer(source).0) && !parent(source);
    assert_none(&without_forbid(&sources(), pure));
}

#[test]
fn unsafe_code_lies_in_its_few_homes_only() {
    let sources = sources();
    let has = |source: &&Source| source.names("unsafe");
    let strays = sources.iter().filter(has).filter(|source| !UNSAFE_HOMES.contains(&layer(source).0));
    assert_none(&strays.map(|source| source.path.clone()).collect::<Vec<_>>());
    assert!(sources.iter().filter(has).count() > 2, "the word was looked for in vain");
}

#[test]
fn outside_crates_stay_where_they_can_be_exchanged() {
    let mut strays = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (name, homes) in HIDDEN_CRATES {
            if source.names(&format!("{name}::")) && !homes.contains(&layer(source).0) {
                strays.push(format!("{} names {name}", source.path));
            }
        }
    }
    assert_none(&strays);
}

#[test]
fn the_clock_of_the_media_path_is_read_in_one_place() {
    let readers: Vec<_> = sources()
        .into_iter()
        .filter(|source| source.names("Instant::now") || source.names("SystemTime::now"))
        .map(|source| source.path)
        .collect();
    // The control socket's timers are tokio's, and so is their clock; no media passes there.
    assert_eq!(readers, ["control/server.rs", "reactor/clock.rs"]);
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    assert_none(&shape_violations(&sources()));
}

/// The checks above find nothing; these show that they could.
mod the_checks_can_fail {
    use super::*;

    fn source(path: &str, text: &str) -> Vec<Source> {
        vec![Source::new(path, text.into())]
    }

    fn violations(path: &str, text: &str) -> Vec<String> {
        let rules = Rules { allowed: &[], ..RULES };
        rules.violations(&source(path, text))
    }

    #[test]
    fn imports_upwards_and_sideways_are_found_however_they_are_written() {
        for (path, text) in [
            ("wire/rtp.rs", "use crate::forward::room::Track;"),
            ("wire/rtp.rs", "use crate::{ids::Ssrc, shard::Shard as S};"),
            ("wire/rtcp/nack.rs", "use crate::{\n    ids::{Ssrc, SeqNo},\n    buf::{RxPool, TxBatch},\n};"),
            ("wire/rtp.rs", "fn f(x: &crate::buf::RxPool) {}"),
            ("wire/rtp.rs", "use super::super::reactor::Socket;"),
            ("forward/room.rs", "use crate::transport::Transport;"),
            ("control/proto.rs", "use super::hub::Hub;"),
            ("strange.rs", ""),
        ] {
            assert!(!violations(path, text).is_empty(), "{path}: {text}");
        }
    }

    #[test]
    fn what_is_allowed_said_or_tested_is_no_violation() {
        for (path, text) in [
            ("wire/rtp.rs", "use crate::ids::Ssrc; use crate::wire::rtp_ext; use super::demux;"),
            (
                "wire/rtp.rs",
                "// use crate::shard::Shard;\n/* crate::shard */ const A: &str = \"crate::shard\";",
            ),
            ("wire/rtp.rs", "const A: char = '\"'; const B: char = '\\''; // crate::shard\n"),
            ("wire/rtp.rs", "const A: &str = r#\"a \" crate::shard\"#; fn f<'a>(x: &'a str) {}"),
            ("wire/rtp.rs", "#[cfg(test)]\nmod tests {\n    use crate::shard::Shard;\n}\n"),
            ("wire/stun/tests.rs", "use crate::shard::Shard;"),
            ("shard/apply/tracks.rs", "use super::super::OpError; use crate::forward::room::Track;"),
        ] {
            assert_eq!(violations(path, text), [""; 0], "{path}: {text}");
        }
        let behind = "#[cfg(test)]\nmod tests {\n}\nuse crate::shard::Shard;\n";
        assert_eq!(violations("wire/rtp.rs", behind).len(), 1);
    }

    #[test]
    fn an_allowance_that_is_not_needed_is_told() {
        let rules = Rules { allowed: &[("wire", "buf", "")], ..RULES };
        assert_eq!(rules.violations(&source("wire/rtp.rs", "")).len(), 1);
    }

    #[test]
    fn impurities_are_found() {
        for text in [
            "use std::net::UdpSocket;",
            "let now = std::time::Instant::now();",
            "use tokio::sync::mpsc;",
            "async fn f() {}",
            "let x = std::sync::Mutex::new(1);",
        ] {
            assert_eq!(impurities(&source("wire/rtp.rs", text), |_| true, &[]).len(), 1, "{text}");
        }
        let unused = [("wire/rtp.rs", "tokio", "")];
        assert_eq!(impurities(&source("wire/rtp.rs", ""), |_| true, &unused).len(), 1);
    }

    #[test]
    fn a_missing_forbid_is_found_and_a_parents_counts() {
        let mut files = source("wire/rtp.rs", "//! A file.");
        assert_eq!(without_forbid(&files, |_| true), ["wire/rtp.rs"]);
        files.extend(source("wire/mod.rs", "#![forbid(unsafe_code)]"));
        assert_eq!(without_forbid(&files, |_| true), [""; 0]);
    }

    #[test]
    fn long_and_speechless_files_are_found() {
        let long = format!("//! Long.\n{}", "const A: u8 = 1;\n".repeat(600));
        assert_eq!(shape_violations(&source("wire/rtp.rs", &long)).len(), 1);
        let tested = format!("//! Tested.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    // x\n".repeat(600));
        assert_eq!(shape_violations(&source("wire/rtp.rs", &tested)).len(), 0);
        assert_eq!(shape_violations(&source("wire/rtp.rs", "use std::fmt;")).len(), 1);
    }
}

//! The layer rules of the controller, read off its sources.
//!
//! ```text
//! 8  main  up  commands  cli  surroundings            the binary
//! 7  shell  fleet                                     owns the state, reads the clock; the media nodes outside
//! 6  http  store  launcher  node_link  events         I/O: never each other
//! 5  private_file  log                                what two of them share
//! 4  simulate                                         the pure cores on a virtual clock
//! 3  engine  signaling  rest                          one state machine in three parts
//! 2  session  autoscaler
//! 1  sdp  cluster  placement  metering
//! 0  ids  date  config
//! ```

#[path = "../../sfu-core/tests/architecture_common/mod.rs"]
mod architecture_common;

use std::path::Path;

use architecture_common::{Rules, Source, impurities, read, shape_violations, without_forbid};

const RULES: Rules<'_> = Rules {
    ranks: &[
        ("ids", 0),
        ("date", 0),
        ("config", 0),
        ("sdp", 1),
        ("cluster", 1),
        ("placement", 1),
        ("metering", 1),
        ("session", 2),
        ("autoscaler", 2),
        ("engine", 3),
        ("signaling", 3),
        ("rest", 3),
        ("simulate", 4),
        ("private_file", 5),
        ("log", 5),
        ("http", 6),
        ("store", 6),
        ("launcher", 6),
        ("node_link", 6),
        ("events", 6),
        ("shell", 7),
        ("fleet", 7),
        ("lib", 7),
        ("main", 8),
        ("up", 8),
        ("commands", 8),
        ("cli", 8),
        ("surroundings", 8),
    ],
    allowed: &[
        ("engine", "signaling", "the engine hands a client's messages to signaling"),
        ("engine", "rest", "and requests to rest"),
        ("signaling", "engine", "methods of the one state, kept by topic"),
        ("rest", "engine", "the same"),
        ("fleet", "shell", "it is the shell's way to the media nodes"),
        ("commands", "cli", "parts of the binary"),
        ("commands", "surroundings", "parts of the binary"),
        ("commands", "up", "parts of the binary"),
    ],
};

/// Modules without I/O.
const PURE_BELOW: u8 = 5;

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
    let allowed = [
        ("config/source.rs", "std::fs", "reads .env and TOML files once, at the start"),
        ("config/probe.rs", "std::fs", "looks whether what a value names is there, when it is checked"),
    ];
    assert_none(&impurities(&sources(), is_pure, &allowed));
}

#[test]
fn pure_layers_forbid_unsafe_code_and_nobody_uses_it() {
    let sources = sources();
    assert_none(&without_forbid(&sources, |source| is_pure(source) && !source.is_test()));
    let unsafe_files = sources.iter().filter(|source| source.names("unsafe"));
    assert_none(&unsafe_files.map(|source| source.path.clone()).collect::<Vec<_>>());
}

/// The controller never sees a media packet: of the media node it knows the control protocol, and the binary the call
/// that runs one.
#[test]
fn of_the_media_node_only_the_protocol_is_known() {
    let mut strays = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let all = count(source, "sfu_core::");
        let proto = count(source, "sfu_core::control::proto");
        let binary = layer(source).1 == 8;
        if all != proto && !binary {
            strays.push(format!("{} names more of sfu_core than control::proto", source.path));
        }
    }
    assert_none(&strays);
}

fn count(source: &Source, path: &str) -> usize {
    let wanted = &Source::new("x.rs", path.into()).tokens;
    source.tokens.windows(wanted.len()).filter(|row| row == wanted).count()
}

/// Adapters have tokio's timers; what a date or a deadline of a session hangs on comes from one place.
#[test]
fn the_wall_clock_is_read_in_the_shell_only() {
    let readers: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.is_test() && source.names("SystemTime::now"))
        .map(|source| source.path)
        .collect();
    assert_eq!(readers, ["shell.rs"]);
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    assert_none(&shape_violations(&sources()));
}

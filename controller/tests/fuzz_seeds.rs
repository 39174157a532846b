//! Replays every kept fuzz seed through the functions that the fuzz targets run (`fuzz/src/harness.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/engine.rs"]
#[expect(unreachable_pub, reason = "public in the crate of the fuzz targets")]
mod engine;
#[path = "../fuzz/src/harness.rs"]
#[expect(unreachable_pub, reason = "public in the crate of the fuzz targets")]
mod harness;

/// How many prefixes of a seed are tried, and how many copies with one byte spoilt.
const VARIANTS: usize = 40;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

#[test]
fn every_seed_passes() {
    for (target, run, folder) in harness::TARGETS {
        let mut seeds = 0;
        for entry in fs::read_dir(fuzz_dir().join(folder)).expect("every target has seeds") {
            let path = entry.expect("the folder can be listed").path();
            let seed = fs::read(&path).expect("a seed can be read");
            // Shown only when the seed fails.
            println!("{}", path.display());
            run(&seed);
            for len in (0..seed.len()).step_by(seed.len() / VARIANTS + 1) {
                run(&seed[..len]);
                let mut spoilt = seed.clone();
                spoilt[len] = b'9';
                run(&spoilt);
            }
            seeds += 1;
        }
        assert!(seeds >= 3, "{target} has {seeds} seeds");
    }
}

#[test]
fn harness_and_targets_belong_together() {
    let harness: BTreeSet<String> = harness::TARGETS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let files = fs::read_dir(fuzz_dir().join("fuzz_targets")).expect("the folder is in the repository");
    let files = files.map(|file| file.expect("the folder can be listed").path());
    let names = files.map(|file| file.file_stem().expect("a file has a name").to_string_lossy().into_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), harness);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("the manifest can be read");
    for name in &harness {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no [[bin]]");
    }
}

//! Replays every kept fuzz seed through the functions that the fuzz targets run (`fuzz/src/harness.rs`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../fuzz/src/harness.rs"]
#[expect(unreachable_pub, reason = "public in the crate of the fuzz targets")]
mod harness;

/// What the target `shard_ops` plays on.
#[path = "sim/support/mod.rs"]
mod support;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// File names in a folder of `fuzz/`, without extension.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz_dir().join(folder)).expect("the folder is in the repository");
    entries
        .map(|entry| entry.expect("the folder can be listed").path())
        .map(|path| path.file_stem().expect("an entry has a name").to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_seed_passes() {
    for (target, run) in harness::TARGETS {
        let mut seeds = 0;
        for entry in fs::read_dir(fuzz_dir().join("seeds").join(target)).expect("every target has seeds") {
            let path = entry.expect("the folder can be listed").path();
            let seed = fs::read(&path).expect("a seed can be read");
            // Shown only when the seed fails.
            println!("{}", path.display());
            run(&seed);
            // Each prefix and each cleared byte as well: cheap, and close to what a fuzzer tries first.
            // A life of a shard is dear: a few of them.
            let stride = if *target == "shard_ops" { 11 } else { 1 };
            for len in (0..seed.len()).step_by(stride) {
                run(&seed[..len]);
                let mut holed = seed.clone();
                holed[len] = 0;
                run(&holed);
            }
            seeds += 1;
        }
        assert!(seeds >= 3, "{target} has {seeds} seeds");
    }
}

#[test]
fn harness_targets_and_seeds_belong_together() {
    let harness: BTreeSet<String> = harness::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), harness);
    assert_eq!(names("seeds"), harness);
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).expect("the manifest can be read");
    for name in &harness {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} has no [[bin]]");
    }
}

//! A thousand random lives of a shard; see `support/history.rs`.

use crate::support::history;
use crate::support::rng::Rng;

const HISTORIES: u64 = 1_000;
/// Test functions they are spread over, so that they run side by side.
const SHARES: u64 = 4;

fn run_share(share: u64) {
    // SIM_SEED=n runs that one alone; SIM_HISTORIES=n runs more of them.
    let only = env("SIM_SEED");
    let histories = env("SIM_HISTORIES").unwrap_or(HISTORIES);
    for seed in (0..histories).filter(|seed| seed % SHARES == share) {
        if only.is_some_and(|only| only != seed) {
            continue;
        }
        // Shown only when the history fails.
        println!("SIM_SEED={seed}");
        history::run(&bytes(seed));
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

/// A call is set up first; in random bytes one would seldom come about.
fn bytes(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = rng.bytes(4);
    let random = |rng: &mut Rng, n: u64| rng.below(n) as u8;
    for _ in 0..2 + rng.below(3) {
        // Join.
        bytes.extend([0, random(&mut rng, 256)]);
    }
    for _ in 0..1 + rng.below(2) {
        bytes.extend([3, random(&mut rng, 4), random(&mut rng, 3), random(&mut rng, 256)]);
    }
    for _ in 0..1 + rng.below(3) {
        bytes.extend([
            6,
            random(&mut rng, 4),
            random(&mut rng, 6),
            random(&mut rng, 3),
            random(&mut rng, 256),
        ]);
    }
    bytes.extend([10, 250]);
    let rest = 40 + rng.below(200) as usize;
    bytes.extend(rng.bytes(rest));
    bytes
}

#[test]
fn random_histories_0() {
    run_share(0);
}

#[test]
fn random_histories_1() {
    run_share(1);
}

#[test]
fn random_histories_2() {
    run_share(2);
}

#[test]
fn random_histories_3() {
    run_share(3);
}

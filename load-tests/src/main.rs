//! `load-tests`: thousands of real WebRTC clients against Weir or one of its peers, and what the media node made of them.
//!
//! Layers, each importing only those below it:
//!
//! | | |
//! |---|---|
//! | 4 commands | `main.rs`, `plan.rs` (capacity advice from a report) |
//! | 3 runs | `run/` (steps, ramp, turns), `witness.rs` (browsers that look on), `report/` (model, terminal, JSON, HTML) |
//! | 2 adapters | `target/` (systems under test over their public wire) |
//! | 1 clients | `client/` (light clients and full ones), `media/` (the encoded clip they publish) |
//! | 0 words | `clock.rs`, `scenario.rs`, `host.rs` |
//!
//! No line of the node is used here: codecs and ciphers are checked by an independent stack.

mod cli;
mod client;
mod clock;
mod host;
mod media;
mod plan;
mod report;
mod run;
mod scenario;
mod target;
mod witness;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().command {
        cli::Command::Run(options) => run::command(&options),
        cli::Command::Plan(options) => plan::command(&options),
        cli::Command::Report(options) => report::command(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load-tests: {error:#}");
            ExitCode::FAILURE
        }
    }
}

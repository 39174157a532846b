//! The `weir` binary: everything on one machine, the controller alone, a media node, a simulation, a configuration check.
//!
//! Exit codes: 0 after a clean end, 1 after a failure, 2 for a bad command line.

mod cli;
mod commands;
mod surroundings;
mod up;

use std::process::ExitCode;

use clap::Parser as _;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! Runs: steps, ramp, turns.

use anyhow::Result;

use crate::cli::RunOptions;

/// Runs a scenario.
pub(crate) fn command(options: &RunOptions) -> Result<()> {
    anyhow::bail!("{}: not there yet", options.scenario)
}

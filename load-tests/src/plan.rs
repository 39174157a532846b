//! Capacity advice: nodes, headroom and cost from a measured report and a wish.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

/// What the advice starts from.
#[derive(Args, Clone, Debug)]
pub(crate) struct PlanOptions {
    /// JSON report of a run.
    pub(crate) report: PathBuf,
}

/// Prints the advice.
///
/// # Errors
/// When the report cannot be read or lacks what the arithmetic needs.
pub(crate) fn command(options: &PlanOptions) -> Result<()> {
    anyhow::bail!("no advice yet from {}", options.report.display())
}

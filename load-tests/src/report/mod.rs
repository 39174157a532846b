//! What a run found, and its forms: terminal table, JSON, HTML.
//!
//! ```text
//! model ── summary (medians, ratios) ── figures (words and rows) ──┬── terminal
//!                                       published (the table's)    ├── html ── plot
//!                                                                  └── progress
//! ```

mod figures;
mod html;
pub(crate) mod model;
mod plot;
pub(crate) mod progress;
pub(crate) mod published;
pub(crate) mod summary;
mod terminal;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Deserialize;

use model::{FORMAT, Report};

/// A saved report, shown again.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReportOptions {
    /// JSON report of a run.
    report: PathBuf,
    /// Writes one self-contained HTML page.
    #[arg(long)]
    html: Option<PathBuf>,
}

/// Shows a saved report.
///
/// # Errors
/// When it cannot be read or shown.
pub(crate) fn command(options: &ReportOptions) -> Result<()> {
    deliver(&load(&options.report)?, None, options.html.as_deref())
}

/// Shows a report on standard output and writes the files that were asked for.
///
/// # Errors
/// When a file cannot be written or a plot cannot be drawn.
pub(crate) fn deliver(report: &Report, json: Option<&Path>, html: Option<&Path>) -> Result<()> {
    println!("{}", terminal::render(report));
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(report).context("the report as JSON")?;
        write(path, &(text + "\n"))?;
    }
    if let Some(path) = html {
        write(path, &html::render(report)?)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// One line about the machine of a report, and how target and generator were placed on it.
pub(crate) fn machine_line(report: &Report) -> String {
    format!("{}; {}", figures::machine(&report.machine), figures::setup(&report.setup))
}

/// Reads a report that a run wrote.
///
/// # Errors
/// When the file cannot be read, is none of ours, or of another format.
pub(crate) fn load(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<Report> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let head: Head = serde_json::from_str(text).context("this is no report of `load-tests run --json`")?;
    ensure!(head.format == FORMAT, "report format {}, this program reads {FORMAT}", head.format);
    serde_json::from_str(text).context("this is no report of `load-tests run --json`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_from_json() {
        let report = summary::tests::report();
        let text = serde_json::to_string_pretty(&report).expect("plain data");
        assert_eq!(parse(&text).expect("its own form"), report);
    }

    #[test]
    fn foreign_files_and_other_formats_are_refused_with_a_reason() {
        let error = |text: &str| format!("{:#}", parse(text).expect_err("refused"));
        assert!(error("{}").contains("no report of"), "{}", error("{}"));
        assert!(error(r#"{"format": 9}"#).contains("report format 9, this program reads 1"));
    }
}

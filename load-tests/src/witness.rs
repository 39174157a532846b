//! Browsers that join a loaded session and report what they decoded: `browser/witness.mjs` as a child process.
//!
//! They receive and do not publish, so that they disturb little; they run on the generator's cores. Their figures come from
//! the browser's own statistics and pass through unchanged.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::report::model::Witnesses;

/// How long browsers may take to start and to decode every stream.
const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// How long they may take to answer once their time is over.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// What browsers are asked to do.
pub(crate) struct Order {
    /// A token for each browser.
    pub(crate) tokens: Vec<String>,
    /// Streams that each will receive.
    pub(crate) streams: u32,
    /// Pause between the first frames and the measurement.
    pub(crate) settle: Duration,
    /// Length of the measurement.
    pub(crate) seconds: Duration,
}

/// Browsers that decode all streams.
pub(crate) struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    until: Duration,
}

impl Watching {
    /// Starts browsers on `cores` and waits until each decodes everything.
    ///
    /// # Errors
    /// When Node.js, its packages or Chromium are missing (with the remedy), or streams do not come.
    pub(crate) async fn begin(order: &Order, cores: &[usize]) -> Result<Watching> {
        let folder = folder()?;
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let mut child = Command::new("taskset")
            .args(["--cpu-list", &cores.join(","), "node", "witness.mjs"])
            .current_dir(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .context("starting node")?;
        let request = json!({
            "tokens": order.tokens, "streams": order.streams,
            "settle": order.settle.as_secs_f64(), "seconds": order.seconds.as_secs_f64(),
        });
        let mut stdin = child.stdin.take().context("node's input")?;
        stdin.write_all(request.to_string().as_bytes()).await.context("node's input")?;
        drop(stdin);
        let stdout = child.stdout.take().context("node's output")?;
        let mut watching = Watching {
            child,
            lines: BufReader::new(stdout).lines(),
            until: order.settle + order.seconds + ANSWER_TIMEOUT,
        };
        match watching.line(READY_TIMEOUT).await? {
            word if word == "ready" => Ok(watching),
            other => bail!("witness.mjs said \"{other}\""),
        }
    }

    /// Waits for the end of the measurement.
    ///
    /// # Errors
    /// When the browsers do not answer.
    pub(crate) async fn end(mut self) -> Result<Witnesses> {
        let text = self.line(self.until).await?;
        let seen = parse(&text)?;
        let _ = self.child.wait().await;
        Ok(seen)
    }

    async fn line(&mut self, limit: Duration) -> Result<String> {
        let line = tokio::time::timeout(limit, self.lines.next_line()).await;
        let line = line.with_context(|| format!("witness.mjs says nothing for {} s", limit.as_secs()))?;
        line.context("node's output")?.context("witness.mjs ended early; its message is above")
    }
}

fn parse(text: &str) -> Result<Witnesses> {
    let seen: Witnesses =
        serde_json::from_str(text).with_context(|| format!("witness.mjs' figures: {text}"))?;
    ensure!(!seen.streams.is_empty(), "the browsers received no stream");
    Ok(seen)
}

/// The folder of the script, its packages installed.
fn folder() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser");
    ensure!(super::target::process::on_path("node").is_some(), "witnesses need Node.js (`node` on the path)");
    ensure!(
        folder.join("node_modules").is_dir(),
        "witnesses need the packages of {0}: npm ci --prefix {0}",
        folder.display()
    );
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scripts_line_is_read() {
        let line = r#"{"browsers":1,"seconds":10,"streams":[{"browser":0,"stream":"str_x","frames_per_s":29.9,"width":540,
            "height":360,"freezes":0,"frozen_s":0,"frames_dropped":2,"packets_lost":-1,"jitter_buffer_ms":31.5,"concealed":0.001}]}"#;
        let seen = parse(line).expect("figures");
        assert_eq!((seen.streams[0].width, seen.streams[0].packets_lost), (540, -1));
        assert!(parse(r#"{"browsers":1,"seconds":10,"streams":[]}"#).is_err());
        assert!(parse("ready").is_err());
    }
}

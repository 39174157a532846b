//! The CDR file: JSON Lines, one event per line, a file per day, 30 days and 20 GB kept.
//!
//! `CDR.<yyyy-MM-dd>_<HH-mm-ss>.log`: the day is the event's (UTC), the time that of the server's start, so that a restart
//! begins a new file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::date::Date;
use crate::engine::EventRecord;

/// Files kept: one a day.
const FILES_MAX: usize = 30;
/// Bytes kept in total.
const TOTAL_BYTES_MAX: u64 = 20 << 30;
/// Lines written at a time.
const BATCH: usize = 256;

/// The open file and how its name is made.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    time: String,
    day: String,
    file: Option<File>,
}

impl Writer {
    /// A writer into `directory`, which is made if missing. `start_ms`: start of the server.
    ///
    /// # Errors
    /// The directory cannot be made or written.
    pub fn new(directory: &Path, start_ms: u64) -> anyhow::Result<Self> {
        let what = || format!("OPENVIDU_CDR_PATH {}: it must be a writable directory", directory.display());
        std::fs::create_dir_all(directory).with_context(what)?;
        let probe = directory.join(".weir-probe");
        std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe)).with_context(what)?;
        let time = Date::from_unix(start_ms / 1000).time();
        Ok(Self { directory: directory.to_owned(), time, day: String::new(), file: None })
    }

    /// Appends events in order.
    ///
    /// # Errors
    /// The disk's.
    pub async fn write(&mut self, events: &[EventRecord]) -> std::io::Result<()> {
        let mut lines = String::new();
        for event in events {
            let day = Date::from_unix(event.timestamp / 1000).day();
            if day > self.day || self.file.is_none() {
                self.flush(&mut lines).await?;
                self.rotate(day).await?;
            }
            lines.push_str(&event.cdr_line().to_string());
            lines.push('\n');
        }
        self.flush(&mut lines).await
    }

    async fn flush(&mut self, lines: &mut String) -> std::io::Result<()> {
        if let Some(file) = self.file.as_mut().filter(|_| !lines.is_empty()) {
            file.write_all(lines.as_bytes()).await?;
            file.flush().await?;
            lines.clear();
        }
        Ok(())
    }

    async fn rotate(&mut self, day: String) -> std::io::Result<()> {
        let path = self.directory.join(format!("CDR.{day}_{}.log", self.time));
        self.file = Some(OpenOptions::new().create(true).append(true).open(path).await?);
        self.day = day;
        self.remove_old().await
    }

    /// Names sort by date, so the oldest come first.
    async fn remove_old(&self) -> std::io::Result<()> {
        let mut files = Vec::new();
        let mut entries = tokio::fs::read_dir(&self.directory).await?;
        while let Some(entry) = entries.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("CDR.") && name.ends_with(".log") {
                files.push((name, entry.metadata().await?.len()));
            }
        }
        files.sort_unstable();
        let (mut count, mut bytes) = (files.len(), files.iter().map(|(_, len)| len).sum::<u64>());
        for (name, length) in files {
            if count <= FILES_MAX && bytes <= TOTAL_BYTES_MAX || count <= 1 {
                break;
            }
            tokio::fs::remove_file(self.directory.join(name)).await?;
            count -= 1;
            bytes -= length;
        }
        Ok(())
    }
}

/// Writes what is queued until the queue is closed. A failed write is logged; its events are lost.
pub async fn run(mut writer: Writer, mut queue: mpsc::Receiver<EventRecord>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        if let Err(error) = writer.write(&batch).await {
            tracing::error!(%error, events = batch.len(), "CDR not written");
            writer.file = None;
        }
        batch.clear();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn event(timestamp: u64) -> EventRecord {
        EventRecord::new("signalSent", timestamp, json!({"sessionId": "s"}))
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[tokio::test]
    async fn one_line_per_event_one_file_per_day() {
        let dir = std::env::temp_dir().join(format!("weir-cdr-{}", std::process::id()));
        let start = 1_700_000_000_000;
        let mut writer = Writer::new(&dir, start).unwrap();
        writer.write(&[event(start), event(start + 1), event(start + DAY_MS)]).await.unwrap();
        assert_eq!(names(&dir), ["CDR.2023-11-14_22-13-20.log", "CDR.2023-11-15_22-13-20.log"]);
        let text = std::fs::read_to_string(dir.join("CDR.2023-11-14_22-13-20.log")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], json!({"signalSent": {"sessionId": "s", "timestamp": start}}));
        // A straggler of yesterday goes into today's file.
        writer.write(&[event(start)]).await.unwrap();
        for day in 2..40 {
            writer.write(&[event(start + day * DAY_MS)]).await.unwrap();
        }
        assert_eq!(names(&dir).len(), FILES_MAX);
        assert!(names(&dir)[0].starts_with("CDR.2023-11-24"), "{:?}", names(&dir));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused() {
        let error = Writer::new(Path::new("/proc/nowhere"), 0).expect_err("refused");
        assert!(format!("{error:#}").contains("OPENVIDU_CDR_PATH"));
    }
}

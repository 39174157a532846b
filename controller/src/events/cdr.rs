//! The CDR file: JSON Lines, one event per line, a file per day, 30 days and 20 GB kept.
//!
//! `CDR.<yyyy-MM-dd>_<HH-mm-ss>.log`: the day is the event's (UTC), the time that of the server's start, so that a restart
//! begins a new file.
//!
//! Each event once, also after a crash. The cursor in the store names the file and its length up to the last event that is
//! done with; before a new file is begun, the cursor says so. So at the next start everything unaccounted for is the end of
//! that one file, and what it must look like is in the log: lines that are there are skipped, a torn one is completed, the
//! rest is written to the new file. Nothing that was written is ever taken back.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::{Feed, RETRY};
use crate::date::Date;
use crate::log::LoggedEvent;

/// Its name as a reader of the log.
pub const READER: &str = "cdr";
/// Files kept: one a day.
const FILES_MAX: usize = 30;
/// Bytes kept in total.
const TOTAL_BYTES_MAX: u64 = 20 << 30;
/// Pause between a write and its fsync, so that a busy server does not fsync for each event.
const SYNC_PAUSE: Duration = Duration::from_millis(50);

/// The open file and how its name is made.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    time: String,
    day: String,
    open: Option<Open>,
    /// Number of the last event that was written.
    seq: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    name: String,
    /// Length behind the last whole line.
    length: u64,
}

/// Note of the cursor.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    file: String,
    length: u64,
}

impl Note {
    fn text(file: &str, length: u64) -> String {
        serde_json::to_string(&Note { file: file.to_owned(), length }).expect("plain data")
    }
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
        let start = Date::from_unix(start_ms / 1000);
        Ok(Self { directory: directory.to_owned(), time: start.time(), day: start.day(), open: None, seq: 0 })
    }

    /// Appends events in order; those up to [`Writer::seq`] are written already.
    async fn write(&mut self, events: &[(u64, LoggedEvent)], feed: &Feed) -> io::Result<()> {
        let mut lines = String::new();
        let (before, mut last) = (self.seq, self.seq);
        for (seq, event) in events.iter().filter(|(seq, _)| *seq > before) {
            let day = Date::from_unix(event.timestamp / 1000).day();
            if day > self.day || self.open.is_none() {
                self.append(&mut lines, last).await?;
                self.rotate(day, feed).await?;
            }
            lines.push_str(&event.cdr_line());
            lines.push('\n');
            last = *seq;
        }
        self.append(&mut lines, last).await
    }

    async fn append(&mut self, lines: &mut String, last: u64) -> io::Result<()> {
        if let Some(open) = self.open.as_mut().filter(|_| !lines.is_empty()) {
            open.file.write_all(lines.as_bytes()).await?;
            open.file.flush().await?;
            open.length += lines.len() as u64;
            lines.clear();
        }
        self.seq = last;
        Ok(())
    }

    /// Begins the file of a day. A straggler of yesterday goes into today's.
    async fn rotate(&mut self, day: String, feed: &Feed) -> io::Result<()> {
        self.sync().await?;
        self.open = None;
        if day > self.day {
            self.day = day;
        }
        let name = format!("CDR.{}_{}.log", self.day, self.time);
        let file = OpenOptions::new().create(true).append(true).open(self.directory.join(&name)).await?;
        let length = file.metadata().await?.len();
        if !feed.advance_now(self.seq, Note::text(&name, length)).await {
            return Err(io::Error::other("the event log is closed"));
        }
        self.open = Some(Open { file, name, length });
        self.remove_old().await
    }

    async fn sync(&self) -> io::Result<()> {
        match &self.open {
            Some(open) => open.file.sync_data().await,
            None => Ok(()),
        }
    }

    /// Names sort by date, so the oldest come first.
    async fn remove_old(&self) -> io::Result<()> {
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

/// The end of the file that was open when the server crashed, to be compared with what should be there.
#[derive(Debug)]
struct Tail {
    path: PathBuf,
    /// What follows the cursor and was not recognised yet.
    rest: Vec<u8>,
}

impl Tail {
    /// `None`: there is nothing behind the cursor.
    fn read(directory: &Path, note: &str) -> Option<Self> {
        let note: Note = serde_json::from_str(note).ok()?;
        let path = directory.join(note.file);
        let mut file = std::fs::File::open(&path).ok()?;
        let mut rest = Vec::new();
        file.seek(SeekFrom::Start(note.length)).and_then(|_| file.read_to_end(&mut rest)).ok()?;
        (!rest.is_empty()).then_some(Self { path, rest })
    }

    /// Whether this event is in the file now; a torn line is completed.
    fn holds(&mut self, event: &LoggedEvent) -> io::Result<bool> {
        let line = event.cdr_line() + "\n";
        let line = line.as_bytes();
        if self.rest.is_empty() {
            return Ok(false);
        }
        if self.rest.starts_with(line) {
            self.rest.drain(..line.len());
            return Ok(true);
        }
        if !line.starts_with(&self.rest) {
            tracing::warn!(file = %self.path.display(), "ends with something else than expected, left alone");
            self.rest.clear();
            return Ok(false);
        }
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.path)?;
        io::Write::write_all(&mut file, &line[self.rest.len()..])?;
        self.rest.clear();
        Ok(true)
    }
}

/// Writes events until the server stops and none is left. What cannot be written is tried again: nothing is lost while the
/// log has room.
pub async fn run(mut writer: Writer, mut feed: Feed) {
    let mut tail = Tail::read(&writer.directory, &feed.note);
    writer.seq = feed.seq;
    while let Some(events) = feed.next().await {
        while let Some(left) = &mut tail {
            let next = events.iter().find(|(seq, _)| *seq > writer.seq);
            let Some((seq, event)) = next else { break };
            match left.holds(event) {
                Ok(true) => writer.seq = *seq,
                Ok(false) => tail = None,
                Err(error) => {
                    tracing::error!(%error, "a torn line of the CDR file cannot be completed");
                    tail = None;
                }
            }
        }
        if !write(&mut writer, &events, &mut feed).await {
            return;
        }
    }
}

/// Until it is done; `false`: the server stops before.
async fn write(writer: &mut Writer, events: &[(u64, LoggedEvent)], feed: &mut Feed) -> bool {
    loop {
        let written = match writer.write(events, feed).await {
            Ok(()) => {
                feed.pause(SYNC_PAUSE).await;
                writer.sync().await
            }
            Err(error) => Err(error),
        };
        match written {
            Ok(()) => break,
            Err(error) => tracing::error!(%error, events = events.len(), "CDR not written, tried again"),
        }
        // A line may be torn: what is there counts, as after a crash.
        let note = writer.open.take().map(|open| Note::text(&open.name, open.length));
        if let Some(mut tail) = note.and_then(|note| Tail::read(&writer.directory, &note)) {
            for (seq, event) in events {
                if *seq > writer.seq && tail.holds(event).unwrap_or(false) {
                    writer.seq = *seq;
                }
            }
        }
        if !feed.pause(RETRY).await {
            return false;
        }
    }
    if let Some(open) = &writer.open {
        feed.advance(writer.seq, Note::text(&open.name, open.length));
    }
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::fake_log::FakeLog;
    use super::*;
    use crate::log::{Cursor, Log as _};
    use crate::session::EventRecord;

    const DAY_MS: u64 = 86_400_000;
    const START: u64 = 1_700_000_000_000;

    fn event(timestamp: u64) -> LoggedEvent {
        EventRecord::new("signalSent", timestamp, json!({"sessionId": "s"})).into()
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("weir-cdr-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            Self(dir)
        }

        fn names(&self) -> Vec<String> {
            let entries = std::fs::read_dir(&self.0).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort_unstable();
            names
        }

        fn text(&self) -> String {
            self.names().iter().map(|name| std::fs::read_to_string(self.0.join(name)).unwrap()).collect()
        }

        /// Time stamps of all lines of all files.
        fn written(&self) -> Vec<u64> {
            let text = self.text();
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            lines.map(|line| line["signalSent"]["timestamp"].as_u64().unwrap()).collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// One life of the server.
    async fn life(dir: &Dir, log: &Arc<FakeLog>, start: u64) {
        run(Writer::new(&dir.0, start).unwrap(), log.feed(READER, log.cursor(READER))).await;
    }

    #[tokio::test]
    async fn one_line_per_event_one_file_per_day() {
        let dir = Dir::new("days");
        let mut events = vec![event(START), event(START + 1), event(START + DAY_MS)];
        // A straggler of yesterday goes into today's file.
        events.push(event(START));
        let log = FakeLog::new(events);
        life(&dir, &log, START).await;
        assert_eq!(dir.names(), ["CDR.2023-11-14_22-13-20.log", "CDR.2023-11-15_22-13-20.log"]);
        let first = std::fs::read_to_string(dir.0.join(&dir.names()[0])).unwrap();
        let lines: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], json!({"signalSent": {"sessionId": "s", "timestamp": START}}));
        let log = FakeLog::new((2..40).map(|day| event(START + day * DAY_MS)).collect());
        life(&dir, &log, START + DAY_MS).await;
        assert_eq!(dir.names().len(), FILES_MAX);
        assert!(dir.names()[0].starts_with("CDR.2023-11-24"), "{:?}", dir.names());
    }

    #[tokio::test]
    async fn a_new_start_goes_on_in_a_new_file() {
        let dir = Dir::new("start");
        let log = FakeLog::new((0..3).map(|n| event(START + n)).collect());
        life(&dir, &log, START).await;
        let log = FakeLog::new((0..5).map(|n| event(START + n)).collect());
        log.cursors.lock().unwrap().insert(READER, Cursor { seq: 3, note: String::new() });
        life(&dir, &log, START + 60_000).await;
        assert_eq!(dir.names().len(), 2);
        assert_eq!(dir.written(), (START..START + 5).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_foreign_end_is_left_alone() {
        let dir = Dir::new("foreign");
        let log = FakeLog::new(vec![event(START), event(START + 1)]);
        std::fs::create_dir_all(&dir.0).unwrap();
        std::fs::write(dir.0.join("CDR.2023-11-14_00-00-00.log"), "operator's own words\n").unwrap();
        let note = Note::text("CDR.2023-11-14_00-00-00.log", 0);
        log.cursors.lock().unwrap().insert(READER, Cursor { seq: 0, note });
        life(&dir, &log, START).await;
        let text = dir.text();
        assert!(text.starts_with("operator's own words\n{"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused() {
        let error = Writer::new(Path::new("/proc/nowhere"), 0).expect_err("refused");
        assert!(format!("{error:#}").contains("OPENVIDU_CDR_PATH"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// A crash anywhere: the cursor is somewhere behind, the file ends at any byte behind the cursor.
        #[test]
        fn each_event_is_written_once_whatever_the_crash_left(
            total in 1..8usize, done in 0..8usize, cut in 0..100usize, same_second in any::<bool>(),
        ) {
            let done = done.min(total);
            let dir = Dir::new("crash");
            std::fs::create_dir_all(&dir.0).unwrap();
            let events: Vec<_> = (0..total as u64).map(|n| event(START + n)).collect();
            let all: String = events.iter().map(|event| event.cdr_line() + "\n").collect();
            let behind: usize = events[..done].iter().map(|event| event.cdr_line().len() + 1).sum();
            let length = behind + (all.len() - behind) * cut / 99;
            std::fs::write(dir.0.join("CDR.2023-11-14_22-13-20.log"), &all[..length]).unwrap();
            let log = FakeLog::new(events);
            let note = Note::text("CDR.2023-11-14_22-13-20.log", behind as u64);
            log.cursors.lock().unwrap().insert(READER, Cursor { seq: done as u64, note });
            let start = if same_second { START } else { START + 5_000 };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(life(&dir, &log, start));
            prop_assert_eq!(dir.text(), all);
        }
    }
}

//! The one thread that changes the store: whatever waits goes into one commit, so an fsync serves many.
//!
//! ```text
//! submit(batch) ─▶ queue ─┐                         ┌─▶ progress: batches on disk        (the shell lets answers go)
//! advance(cursor) ────────┴─▶ gather ─▶ one commit ─┼─▶ end: newest event on disk        (readers of the log wake)
//!                                 ▲         │       └─▶ trim: events all readers are done with
//!                                 └─ retry ─┘ disk refuses: nothing is lost, nothing is answered meanwhile
//! ```
//!
//! Events are numbered here. A cursor alone waits [`LAZY`] for something to travel with.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::{Change, Store, StoreError, Table};
use crate::log::{Cursor, Later, Log, LoggedEvent};

/// Messages that may wait for the thread. The shell stops taking inputs long before.
const QUEUE_BATCHES_MAX: usize = 16 * 1024;
/// Changes and events in one commit, about.
const GROUP_MAX: usize = 16 * 1024;
/// How long a cursor may wait for a commit to travel with.
const LAZY: Duration = Duration::from_millis(100);
/// Pause before a refused commit is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Events read at a time.
const READ_EVENTS: usize = 4096;
/// Their bytes, about.
const READ_BYTES: usize = 4 << 20;
/// Row of [`Table::Meta`]: number of the newest event, which may be trimmed already.
const LOG_END: &str = "logEnd";

/// Changes and events that belong together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Rows: [`Change::Put`] and [`Change::Delete`].
    pub changes: Vec<Change>,
    /// Events, in order.
    pub events: Vec<LoggedEvent>,
}

impl Batch {
    /// Puts another batch behind this one.
    pub fn append(&mut self, other: Batch) {
        self.changes.extend(other.changes);
        self.events.extend(other.events);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty()
    }
}

/// How long the log may become when a reader does not keep up; the oldest events are dropped beyond.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Events.
    pub events: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { events: 1_000_000, bytes: 512 << 20 }
    }
}

/// What the thread did so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commits.
    pub commits: AtomicU64,
    /// Batches in them.
    pub batches: AtomicU64,
    /// Commits that the disk refused.
    pub failures: AtomicU64,
    /// Events dropped unread because the log was full.
    pub dropped: AtomicU64,
    /// Events in the log.
    pub log_events: AtomicU64,
}

/// The thread's queue is full; here is the batch again.
#[derive(Debug, thiserror::Error)]
#[error("the store does not keep up")]
pub struct QueueFull(pub Batch);

enum Message {
    Batch(Batch),
    Cursor { reader: &'static str, cursor: Cursor, done: Option<oneshot::Sender<()>> },
}

/// The way into the store. One owner.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    progress: watch::Receiver<u64>,
    submitted: u64,
    counters: Arc<Counters>,
}

impl Writer {
    /// Starts the thread. `readers`: who reads the log; it is kept for those only, and a new one begins at its end. The
    /// thread ends when the writer and every [`Journal`] are gone.
    ///
    /// # Errors
    /// The disk's, or rows that are not ours.
    pub fn start(
        store: Arc<dyn Store>,
        readers: &[&'static str],
        bounds: Bounds,
    ) -> Result<(Self, Journal), StoreError> {
        let (queue, messages) = mpsc::sync_channel(QUEUE_BATCHES_MAX);
        let counters = Arc::<Counters>::default();
        let log = LogState::load(&*store, readers, bounds)?;
        let (progress_in, progress) = watch::channel(0);
        let (end_in, end) = watch::channel(log.last);
        let cursors = Arc::new(log.cursors.clone());
        let thread = Thread {
            store: store.clone(),
            messages,
            log,
            progress: progress_in,
            end: end_in,
            counters: counters.clone(),
        };
        let spawned = std::thread::Builder::new().name("store".into()).spawn(move || thread.run());
        spawned.map_err(|error| StoreError::Database(format!("no thread: {error}")))?;
        let journal = Journal { store, queue: queue.clone(), end, cursors };
        Ok((Self { queue, progress, submitted: 0, counters }, journal))
    }

    /// Queues a batch and returns its number.
    ///
    /// # Errors
    /// [`QueueFull`]: to be tried again when there was progress.
    pub fn submit(&mut self, batch: Batch) -> Result<u64, QueueFull> {
        match self.queue.try_send(Message::Batch(batch)) {
            Ok(()) => self.submitted += 1,
            Err(
                TrySendError::Full(Message::Batch(batch)) | TrySendError::Disconnected(Message::Batch(batch)),
            ) => {
                return Err(QueueFull(batch));
            }
            Err(_) => unreachable!("what comes back is what was sent"),
        }
        Ok(self.submitted)
    }

    /// Number of the last batch that was queued.
    pub fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Number of the last batch that is on disk.
    pub fn committed(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Batches that are not on disk yet.
    pub fn in_flight(&self) -> u64 {
        self.submitted - self.committed()
    }

    /// Ready when [`Writer::committed`] has moved since the last call.
    pub async fn progress(&mut self) {
        if self.progress.changed().await.is_err() {
            // The thread lives as long as we do.
            std::future::pending::<()>().await;
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

/// The event log in the store, for its readers.
#[derive(Clone)]
pub struct Journal {
    store: Arc<dyn Store>,
    queue: SyncSender<Message>,
    end: watch::Receiver<u64>,
    cursors: Arc<BTreeMap<&'static str, Cursor>>,
}

impl Log for Journal {
    fn cursor(&self, reader: &str) -> Cursor {
        self.cursors.get(reader).cloned().unwrap_or_default()
    }

    fn events(&self, after: u64) -> Later<Vec<(u64, LoggedEvent)>> {
        let store = self.store.clone();
        let read = move || store.events(after, READ_EVENTS, READ_BYTES);
        Box::pin(async move {
            let read = tokio::task::spawn_blocking(read).await;
            let rows = match read {
                Ok(Ok(rows)) => rows,
                Ok(Err(error)) => {
                    tracing::error!(%error, "events cannot be read");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
            let decoded = rows.into_iter().filter_map(|(seq, bytes)| {
                let event = LoggedEvent::decode(&bytes);
                if event.is_none() {
                    tracing::error!(seq, "an event of the log cannot be read and is left out");
                }
                Some((seq, event?))
            });
            decoded.collect()
        })
    }

    fn end(&self) -> watch::Receiver<u64> {
        self.end.clone()
    }

    fn advance(&self, reader: &'static str, cursor: Cursor) {
        // When the queue is full the next call says more than this one.
        let _ = self.queue.try_send(Message::Cursor { reader, cursor, done: None });
    }

    fn advance_now(&self, reader: &'static str, cursor: Cursor) -> Later<bool> {
        let (done, wait) = oneshot::channel();
        let queued = self.queue.try_send(Message::Cursor { reader, cursor, done: Some(done) });
        Box::pin(async move { queued.is_ok() && wait.await.is_ok() })
    }
}

/// What is in the log, and who needs it.
struct LogState {
    /// Number of the newest event.
    last: u64,
    /// Sizes of the events kept; the last one is that of `last`.
    sizes: VecDeque<u64>,
    bytes: u64,
    cursors: BTreeMap<&'static str, Cursor>,
    bounds: Bounds,
}

impl LogState {
    fn load(store: &dyn Store, readers: &[&'static str], bounds: Bounds) -> Result<Self, StoreError> {
        let meta = store.rows(Table::Meta)?;
        let end = meta.iter().find(|(key, _)| key == LOG_END);
        let last = end.map_or(Ok(0), |(_, value)| parse(LOG_END, value))?;
        let mut log = Self { last, sizes: VecDeque::new(), bytes: 0, cursors: BTreeMap::new(), bounds };
        let mut after = 0;
        loop {
            let page = store.events(after, READ_EVENTS, READ_BYTES)?;
            let Some((newest, _)) = page.last() else { break };
            after = *newest;
            for (_, event) in page {
                log.push(event.len());
            }
        }
        let mut changes = Vec::new();
        for (key, value) in store.rows(Table::Cursors)? {
            match readers.iter().find(|reader| **reader == key) {
                Some(reader) => drop(log.cursors.insert(reader, parse(&key, &value)?)),
                None => changes.push(Change::Delete { table: Table::Cursors, key }),
            }
        }
        for reader in readers {
            if !log.cursors.contains_key(reader) {
                let cursor = Cursor { seq: last, note: String::new() };
                changes.push(put_cursor(reader, &cursor));
                log.cursors.insert(reader, cursor);
            }
        }
        if !changes.is_empty() {
            store.commit(&changes)?;
        }
        Ok(log)
    }

    fn push(&mut self, bytes: usize) {
        self.sizes.push_back(bytes as u64);
        self.bytes += bytes as u64;
    }

    /// Number of the oldest event kept.
    fn first(&self) -> u64 {
        self.last + 1 - self.sizes.len() as u64
    }

    /// Takes out what nobody needs, and what is too much. Returns the last one taken, and how many were unread.
    fn trim(&mut self) -> (Option<u64>, u64) {
        let done = self.cursors.values().map(|cursor| cursor.seq).min().unwrap_or(self.last);
        let (mut upto, mut unread) = (None, 0);
        while let Some(size) = self.sizes.front().copied() {
            let first = self.first();
            let too_much = self.sizes.len() > self.bounds.events || self.bytes > self.bounds.bytes;
            if first > done && !too_much {
                break;
            }
            unread += u64::from(first > done);
            self.sizes.pop_front();
            self.bytes -= size;
            upto = Some(first);
        }
        (upto, unread)
    }
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value).map_err(|error| StoreError::Database(format!("row {key}: {error}")))
}

fn put_cursor(reader: &str, cursor: &Cursor) -> Change {
    let value = serde_json::to_vec(cursor).expect("plain data");
    Change::Put { table: Table::Cursors, key: reader.to_owned(), value }
}

struct Thread {
    store: Arc<dyn Store>,
    messages: Receiver<Message>,
    log: LogState,
    progress: watch::Sender<u64>,
    end: watch::Sender<u64>,
    counters: Arc<Counters>,
}

/// What one commit holds. Of several changes to a row the last one counts.
#[derive(Default)]
struct Group {
    rows: BTreeMap<(Table, String), Option<Vec<u8>>>,
    events: Vec<Vec<u8>>,
    batches: u64,
    done: Vec<oneshot::Sender<()>>,
    /// It holds nothing that somebody waits for.
    lazy: bool,
}

impl Group {
    fn weight(&self) -> usize {
        self.rows.len() + self.events.len()
    }
}

impl Thread {
    fn run(mut self) {
        while let Ok(first) = self.messages.recv() {
            let group = self.gather(first);
            self.commit(group);
        }
    }

    fn gather(&mut self, first: Message) -> Group {
        let mut group = Group { lazy: true, ..Group::default() };
        self.take(first, &mut group);
        let mut waited = false;
        while group.weight() < GROUP_MAX {
            match self.messages.try_recv() {
                Ok(message) => self.take(message, &mut group),
                Err(_) if group.lazy && !waited => match self.messages.recv_timeout(LAZY) {
                    // Once: cursors that trickle in do not prolong the wait for ever.
                    Ok(message) => {
                        waited = true;
                        self.take(message, &mut group);
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                },
                Err(_) => break,
            }
        }
        group
    }

    fn take(&mut self, message: Message, group: &mut Group) {
        match message {
            Message::Batch(batch) => {
                for change in batch.changes {
                    match change {
                        Change::Put { table, key, value } => group.rows.insert((table, key), Some(value)),
                        Change::Delete { table, key } => group.rows.insert((table, key), None),
                        Change::Append { .. } | Change::Trim { .. } => {
                            unreachable!("the log is the writer's own")
                        }
                    };
                }
                group.events.extend(batch.events.iter().map(LoggedEvent::encode));
                group.batches += 1;
                group.lazy = false;
            }
            Message::Cursor { reader, cursor, done } => {
                if let Some(known) = self.log.cursors.get_mut(reader).filter(|known| known.seq <= cursor.seq)
                {
                    *known = cursor;
                    if let Change::Put { table, key, value } = put_cursor(reader, known) {
                        group.rows.insert((table, key), Some(value));
                    }
                }
                group.lazy &= done.is_none();
                group.done.extend(done);
            }
        }
    }

    fn commit(&mut self, group: Group) {
        let mut changes = Vec::with_capacity(group.weight() + 2);
        for ((table, key), value) in group.rows {
            changes.push(match value {
                Some(value) => Change::Put { table, key, value },
                None => Change::Delete { table, key },
            });
        }
        if !group.events.is_empty() {
            changes.extend(self.append(group.events));
        }
        let (trimmed, unread) = self.log.trim();
        changes.extend(trimmed.map(|upto| Change::Trim { upto }));
        if unread > 0 {
            let before = self.counters.dropped.fetch_add(unread, Ordering::Relaxed);
            tracing::error!(
                unread,
                in_all = before + unread,
                "event log is full, the oldest events are dropped"
            );
        }
        self.write(&changes);
        self.counters.batches.fetch_add(group.batches, Ordering::Relaxed);
        self.counters.log_events.store(self.log.sizes.len() as u64, Ordering::Relaxed);
        self.progress.send_modify(|done| *done += group.batches);
        self.end.send_if_modified(|end| std::mem::replace(end, self.log.last) != self.log.last);
        for done in group.done {
            // Whoever waited may be gone.
            let _ = done.send(());
        }
    }

    /// Numbers events. They are not kept when nobody reads them.
    fn append(&mut self, events: Vec<Vec<u8>>) -> Vec<Change> {
        let mut changes = Vec::with_capacity(events.len() + 1);
        let wanted = !self.log.cursors.is_empty();
        for event in events {
            self.log.last += 1;
            if wanted {
                self.log.push(event.len());
                changes.push(Change::Append { seq: self.log.last, event });
            }
        }
        let value = self.log.last.to_string().into_bytes();
        changes.push(Change::Put { table: Table::Meta, key: LOG_END.into(), value });
        changes
    }

    /// Until it is done: what waits for it must not be answered, and must not be forgotten.
    fn write(&self, changes: &[Change]) {
        while let Err(error) = self.store.commit(changes) {
            let failures = self.counters.failures.fetch_add(1, Ordering::Relaxed) + 1;
            if failures.is_power_of_two() {
                tracing::error!(%error, failures, "the store refuses; nothing is answered until it takes this");
            }
            std::thread::park_timeout(RETRY);
        }
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

//! The way out of events: the CDR file and the webhook, each a reader of the durable log with a cursor of its own.
//!
//! ```text
//! Log ─┬─▶ cdr      one JSON line per event, a file per day; each event once, also after a crash
//!      └─▶ webhook  one POST at a time, strict order; after a crash the last ones may come again
//! ```
//!
//! The log is the only queue: a slow endpoint or disk makes it longer, up to its bound, and delays nobody else.

pub mod cdr;
pub mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::log::{Cursor, Log, LoggedEvent};

/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The readers.
#[derive(Debug)]
pub struct Sinks {
    workers: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    counters: Arc<SinkCounters>,
}

/// What did not get out.
#[derive(Debug, Default)]
pub struct SinkCounters {
    /// Events that the webhook's endpoint did not take.
    pub webhook_lost: AtomicU64,
    /// Events that were dropped from the log before a reader had them; once for each reader.
    pub missed: AtomicU64,
}

/// Who reads the log in this configuration.
pub fn readers(config: &Config) -> Vec<&'static str> {
    let all = [(config.cdr.enabled, cdr::READER), (config.webhook.enabled, webhook::READER)];
    all.into_iter().filter_map(|(enabled, reader)| enabled.then_some(reader)).collect()
}

impl Sinks {
    /// Starts the readers that the configuration asks for, each from its cursor on. `now_ms`: start of the server, for the
    /// CDR file's name.
    ///
    /// # Errors
    /// The CDR directory cannot be written, or the webhook's client cannot be made.
    pub fn start(config: &Config, log: &Arc<dyn Log>, now_ms: u64) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut sinks = Self { workers: Vec::new(), stop, counters: Arc::default() };
        let feed = |reader| {
            let cursor = log.cursor(reader);
            Feed {
                reader,
                end: log.end(),
                log: log.clone(),
                stop: stopped.clone(),
                seq: cursor.seq,
                note: cursor.note,
                counters: sinks.counters.clone(),
            }
        };
        let mut workers = Vec::new();
        if config.cdr.enabled {
            let writer = cdr::Writer::new(config.cdr.path.as_ref(), now_ms)?;
            workers.push(tokio::spawn(cdr::run(writer, feed(cdr::READER))));
        }
        if config.webhook.enabled {
            let sender = webhook::Sender::new(&config.webhook)?;
            let wanted = config.webhook.events.clone();
            workers.push(tokio::spawn(webhook::run(sender, wanted, feed(webhook::READER))));
        }
        sinks.workers = workers;
        Ok(sinks)
    }

    /// What did not get out so far.
    pub fn counters(&self) -> &SinkCounters {
        &self.counters
    }

    /// Lets the readers get to the end of the log, for `within` at most. What is left goes out after the next start.
    pub async fn finish(self, within: Duration) {
        self.stop.send_replace(true);
        let all = futures_util::future::join_all(self.workers);
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("some events wait for the next start");
        }
    }
}

/// One reader's place in the log.
pub struct Feed {
    reader: &'static str,
    log: Arc<dyn Log>,
    end: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    /// Number of the last event that was handed out.
    seq: u64,
    /// Note of the cursor at the start.
    note: String,
    counters: Arc<SinkCounters>,
}

impl Feed {
    /// The next events, as soon as there are some. `None`: there are none left and the server stops.
    pub async fn next(&mut self) -> Option<Vec<(u64, LoggedEvent)>> {
        loop {
            if *self.end.borrow_and_update() > self.seq {
                let found = self.log.events(self.seq).await;
                if let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) {
                    self.miss(first - self.seq - 1);
                    self.seq = *last;
                    return Some(found);
                }
                if !self.pause(RETRY).await {
                    return None;
                }
            } else if *self.stop.borrow() {
                return None;
            } else {
                tokio::select! {
                    open = self.end.changed() => open.ok()?,
                    _ = self.stop.wait_for(|stop| *stop) => {}
                }
            }
        }
    }

    fn miss(&self, count: u64) {
        if count > 0 {
            tracing::error!(reader = self.reader, count, "events were dropped before they could be written");
            self.counters.missed.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Waits. `false`, at once or early: the server stops.
    pub async fn pause(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stop.wait_for(|stop| *stop)).await.is_err()
    }

    /// Done with everything up to this event; on disk soon.
    pub fn advance(&self, seq: u64, note: String) {
        self.log.advance(self.reader, Cursor { seq, note });
    }

    /// The same; ready when it is on disk.
    pub async fn advance_now(&self, seq: u64, note: String) -> bool {
        self.log.advance_now(self.reader, Cursor { seq, note }).await
    }
}

#[cfg(test)]
mod fake_log;

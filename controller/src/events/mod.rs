//! The way out of events: the CDR file and the webhook, each an ordered worker with a bounded queue of its own.
//!
//! ```text
//! Output::Record ─▶ EventLog::append ─┬─▶ queue ─▶ cdr      one JSON line per event, a file per day
//!                                     └─▶ queue ─▶ webhook  one POST at a time, strict order
//! ```
//!
//! Neither ever blocks calls: a full queue drops the event, counts it and says so once in a while. The queues live in
//! memory; a durable log in front of them is a later step.

pub mod cdr;
pub mod webhook;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::engine::EventRecord;

/// Events that may wait for a slow endpoint or disk; about 50 MiB at worst.
pub const QUEUE_EVENTS_MAX: usize = 100_000;

/// Sending end of both workers.
#[derive(Debug)]
pub struct EventLog {
    sinks: Vec<Sink>,
    workers: Vec<JoinHandle<()>>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Sink {
    name: &'static str,
    queue: mpsc::Sender<EventRecord>,
    /// Names that are wanted; `None`: all.
    filter: Option<std::collections::BTreeSet<String>>,
}

impl EventLog {
    /// Starts the workers that the configuration asks for. `now_ms`: start of the server, for the CDR file's name.
    ///
    /// # Errors
    /// The CDR directory cannot be written, or the webhook's client cannot be made.
    pub fn start(config: &Config, now_ms: u64) -> anyhow::Result<Self> {
        let mut log = Self { sinks: Vec::new(), workers: Vec::new(), dropped: Arc::default() };
        if config.cdr.enabled {
            let writer = cdr::Writer::new(config.cdr.path.as_ref(), now_ms)?;
            log.add("cdr", None, |queue| tokio::spawn(cdr::run(writer, queue)));
        }
        if config.webhook.enabled {
            let sender = webhook::Sender::new(&config.webhook)?;
            log.add("webhook", Some(config.webhook.events.clone()), |queue| {
                tokio::spawn(webhook::run(sender, queue))
            });
        }
        Ok(log)
    }

    fn add(
        &mut self,
        name: &'static str,
        filter: Option<std::collections::BTreeSet<String>>,
        spawn: impl FnOnce(mpsc::Receiver<EventRecord>) -> JoinHandle<()>,
    ) {
        let (sender, receiver) = mpsc::channel(QUEUE_EVENTS_MAX);
        self.workers.push(spawn(receiver));
        self.sinks.push(Sink { name, queue: sender, filter });
    }

    /// Hands an event to every worker that wants it.
    pub fn append(&self, record: &EventRecord) {
        for sink in &self.sinks {
            let wanted = sink.filter.as_ref().is_none_or(|names| names.contains(record.event));
            if wanted && sink.queue.try_send(record.clone()).is_err() {
                let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
                if dropped.is_power_of_two() {
                    tracing::error!(
                        sink = sink.name,
                        event = record.event,
                        dropped,
                        "event queue full, event dropped"
                    );
                }
            }
        }
    }

    /// Events dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lets the workers finish what is queued, for `within` at most.
    pub async fn finish(self, within: Duration) {
        drop(self.sinks);
        let all = futures_util::future::join_all(self.workers);
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("some events were not delivered before the end");
        }
    }
}

//! Nothing leaves before what it tells is on disk.
//!
//! ```text
//! Engine::handle ─┬─ rows, events ─▶ store::Writer ──── committed ────┐
//!                 └─ outputs ──────▶ held, in order ◀─────────────────┘──▶ carried out
//! ```
//!
//! Inputs are taken meanwhile, so many of them share one commit; only when very much is held the shell stops listening.
//! Media nodes, too, hear of a change after it is committed: so whatever lives there is known to a server that comes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::Config;
use crate::engine::{Output, Row, RowKind, Saved};
use crate::events::{self, Sinks};
use crate::http::metrics::StoreMetrics;
use crate::log::{Log, LoggedEvent};
use crate::metering::UsageRow;
use crate::store::{Batch, Bounds, Change, QueueFull, Store, Table, Writer};

/// Batches that may wait for the disk; the shell takes no inputs beyond.
const IN_FLIGHT_MAX: u64 = 4096;
/// Outputs that may wait for the disk; the same.
const HELD_MAX: usize = 65_536;

/// The store's writer, and what waits for it.
#[derive(Debug)]
pub struct Durable {
    writer: Writer,
    /// What the writer had no room for.
    waiting: Batch,
    held: VecDeque<(u64, Vec<Output>)>,
    outputs: usize,
}

/// What an earlier life of the server left.
#[derive(Debug, Default)]
pub struct Earlier {
    /// For [`crate::engine::Engine::restore`].
    pub engine: Saved,
    /// Usage records, by id.
    pub usage: Vec<(String, Vec<u8>)>,
}

impl Durable {
    /// Reads what an earlier life left, starts the writer and the readers of the event log. `now_ms`: start of the server.
    ///
    /// # Errors
    /// The disk's, or a configuration of webhook or CDR that cannot work.
    pub fn open(
        store: Arc<dyn Store>,
        config: &Config,
        now_ms: u64,
    ) -> anyhow::Result<(Self, Sinks, Earlier)> {
        let earlier = Earlier {
            engine: Saved {
                sessions: store.rows(Table::Sessions)?,
                connections: store.rows(Table::Connections)?,
                nodes: store.rows(Table::Nodes)?,
            },
            usage: store.rows(Table::Usage)?,
        };
        let (writer, journal) = Writer::start(store, &events::readers(config), Bounds::default())?;
        let log: Arc<dyn Log> = Arc::new(journal);
        let sinks = Sinks::start(config, &log, now_ms)?;
        Ok((Self { writer, waiting: Batch::default(), held: VecDeque::new(), outputs: 0 }, sinks, earlier))
    }

    /// Queues what changed and keeps the outputs until it is on disk.
    pub fn hold(&mut self, rows: Vec<Row>, usage: Vec<UsageRow>, outputs: Vec<Output>) {
        let mut batch = Batch { changes: rows.into_iter().map(change).collect(), events: Vec::new() };
        batch.changes.extend(usage.into_iter().map(|(key, value)| put_or_delete(Table::Usage, key, value)));
        let mut rest = Vec::with_capacity(outputs.len());
        for output in outputs {
            match output {
                Output::Record(record) => batch.events.push(LoggedEvent::from(record)),
                other => rest.push(other),
            }
        }
        self.waiting.append(batch);
        self.submit();
        self.outputs += rest.len();
        if !rest.is_empty() {
            let number = self.writer.submitted() + u64::from(!self.waiting.is_empty());
            self.held.push_back((number, rest));
        }
    }

    /// Queues what waits, if the writer has room.
    fn submit(&mut self) {
        let batch = std::mem::take(&mut self.waiting);
        if !batch.is_empty()
            && let Err(QueueFull(batch)) = self.writer.submit(batch)
        {
            self.waiting = batch;
        }
    }

    /// The next outputs that may leave.
    pub fn release(&mut self) -> Option<Vec<Output>> {
        self.submit();
        let committed = self.writer.committed();
        let (_, outputs) = self.held.pop_front_if(|(number, _)| *number <= committed)?;
        self.outputs -= outputs.len();
        Some(outputs)
    }

    /// Whether more inputs may be taken.
    pub fn has_room(&self) -> bool {
        self.writer.in_flight() < IN_FLIGHT_MAX && self.outputs < HELD_MAX
    }

    /// Whether everything is on disk.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.writer.in_flight() == 0
    }

    /// Ready when more is on disk.
    pub async fn progress(&mut self) {
        self.writer.progress().await;
    }

    /// Gauges of `/metrics`.
    pub fn count(&self, metrics: &StoreMetrics) {
        let counters = self.writer.counters();
        let gauge = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let load = |counter: &std::sync::atomic::AtomicU64| gauge(counter.load(Ordering::Relaxed));
        metrics.commits.set(load(&counters.commits));
        metrics.failures.set(load(&counters.failures));
        metrics.log_events.set(load(&counters.log_events));
        metrics.log_dropped.set(load(&counters.dropped));
        metrics.waiting.set(gauge(self.writer.in_flight()));
    }
}

fn change(row: Row) -> Change {
    let table = match row.kind {
        RowKind::Session => Table::Sessions,
        RowKind::Connection => Table::Connections,
        RowKind::Node => Table::Nodes,
    };
    put_or_delete(table, row.key, row.value)
}

fn put_or_delete(table: Table, key: String, value: Option<Vec<u8>>) -> Change {
    match value {
        Some(value) => Change::Put { table, key, value },
        None => Change::Delete { table, key },
    }
}

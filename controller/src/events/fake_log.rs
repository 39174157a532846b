//! A log for tests of its readers: a list, and the cursors they left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::{Feed, SinkCounters};
use crate::log::{Cursor, Later, Log, LoggedEvent};

pub(super) struct FakeLog {
    pub(super) events: Mutex<Vec<(u64, LoggedEvent)>>,
    pub(super) cursors: Mutex<BTreeMap<&'static str, Cursor>>,
    end: watch::Sender<u64>,
}

impl FakeLog {
    pub(super) fn new(events: Vec<LoggedEvent>) -> Arc<Self> {
        let events: Vec<_> = (1..).zip(events).collect();
        let end = watch::channel(events.len() as u64).0;
        Arc::new(Self { events: Mutex::new(events), cursors: Mutex::default(), end })
    }

    /// A feed that ends at the end of the log.
    pub(super) fn feed(self: &Arc<Self>, reader: &'static str, from: Cursor) -> Feed {
        Feed {
            reader,
            log: self.clone(),
            end: self.end(),
            stop: watch::channel(true).1,
            seq: from.seq,
            note: from.note,
            counters: Arc::<SinkCounters>::default(),
        }
    }
}

impl Log for FakeLog {
    fn cursor(&self, reader: &str) -> Cursor {
        self.cursors.lock().unwrap().get(reader).cloned().unwrap_or_default()
    }

    fn events(&self, after: u64) -> Later<Vec<(u64, LoggedEvent)>> {
        let found = self.events.lock().unwrap().iter().filter(|(seq, _)| *seq > after).cloned().collect();
        Box::pin(std::future::ready(found))
    }

    fn end(&self) -> watch::Receiver<u64> {
        self.end.subscribe()
    }

    fn advance(&self, reader: &'static str, cursor: Cursor) {
        self.cursors.lock().unwrap().insert(reader, cursor);
    }

    fn advance_now(&self, reader: &'static str, cursor: Cursor) -> Later<bool> {
        self.advance(reader, cursor);
        Box::pin(std::future::ready(true))
    }
}

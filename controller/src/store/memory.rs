//! The store's double: in memory, and failing when told to.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Change, Row, Store, StoreError, Table};

/// A store that is gone with its owner.
#[derive(Debug, Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rows: BTreeMap<(Table, String), Vec<u8>>,
    events: BTreeMap<u64, Vec<u8>>,
    commits: u64,
    failures: u32,
}

impl MemoryStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` commits fail.
    pub fn fail(&self, count: u32) {
        self.state().failures = count;
    }

    /// How many commits succeeded.
    pub fn commits(&self) -> u64 {
        self.state().commits
    }
}

impl Store for MemoryStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut state = self.state();
        if let Some(left) = state.failures.checked_sub(1) {
            state.failures = left;
            return Err(StoreError::Database("told to fail".into()));
        }
        for change in changes.iter().cloned() {
            match change {
                Change::Put { table, key, value } => drop(state.rows.insert((table, key), value)),
                Change::Delete { table, key } => drop(state.rows.remove(&(table, key))),
                Change::Append { seq, event } => drop(state.events.insert(seq, event)),
                Change::Trim { upto } => state.events = state.events.split_off(&(upto + 1)),
            }
        }
        state.commits += 1;
        Ok(())
    }

    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        let state = self.state();
        let rows = state.rows.iter().filter(|((of, _), _)| *of == table);
        Ok(rows.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn events(&self, after: u64, max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        let state = self.state();
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (seq, event) in state.events.range(after.saturating_add(1)..) {
            if found.len() == max || bytes >= bytes_max {
                break;
            }
            bytes += event.len();
            found.push((*seq, event.clone()));
        }
        Ok(found)
    }
}

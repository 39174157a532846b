//! The embedded store: one redb file. A commit is one transaction with one fsync.
//!
//! A transaction that failed leaves the database unusable by redb's rules; it is then closed and opened again, which
//! brings back the last commit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{Change, Row, Store, StoreError, Table};

/// Layout of the file; another number for each change that older versions cannot read.
const LAYOUT: &str = "1";
/// Row of [`Table::Meta`] that holds it.
const LAYOUT_KEY: &str = "layout";
/// Pages kept in memory. Rows are read at the start only; writing touches few pages.
const CACHE_BYTES: usize = 64 << 20;
const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");

fn definition(table: Table) -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(table.name())
}

fn refused(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(error.into().to_string())
}

/// The store in one file.
#[derive(Debug)]
pub struct RedbStore {
    path: PathBuf,
    /// `None` while it could not be opened again.
    database: RwLock<Option<Database>>,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`StoreError::Layout`], or the disk's.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let store = Self { path: path.to_owned(), database: RwLock::new(Some(database(path)?)) };
        store.check_layout()?;
        Ok(store)
    }

    /// Tables are made here, so that reading never meets one that is missing.
    fn check_layout(&self) -> Result<(), StoreError> {
        let known = self.rows(Table::Meta).ok();
        let layout = known.iter().flatten().find(|(key, _)| key == LAYOUT_KEY);
        match layout {
            Some((_, found)) if found == LAYOUT.as_bytes() => Ok(()),
            Some((_, found)) => Err(StoreError::Layout {
                path: self.path.clone(),
                found: String::from_utf8_lossy(found).into_owned(),
                known: LAYOUT,
            }),
            None => self.commit(&[Change::Put {
                table: Table::Meta,
                key: LAYOUT_KEY.into(),
                value: LAYOUT.into(),
            }]),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = database.as_ref().ok_or_else(|| StoreError::Database("not open".into()))?;
        work(database).map_err(refused)
    }

    fn reopen(&self) {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        *open = None;
        match database(&self.path) {
            Ok(database) => *open = Some(database),
            Err(error) => tracing::error!(%error, "the store cannot be opened again"),
        }
    }
}

fn database(path: &Path) -> Result<Database, StoreError> {
    let failed = |source| StoreError::File { path: path.to_owned(), source };
    // Tokens and credentials are in it.
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let is_new = !fs::exists(path).map_err(failed)?;
    let file = open().map_err(failed)?;
    let backend = redb::backends::FileBackend::new(file).map_err(refused)?;
    let database =
        redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend).map_err(refused)?;
    if is_new {
        sync_directory(path).map_err(failed)?;
    }
    Ok(database)
}

/// A new file is there after a power cut only when its directory was written too.
fn sync_directory(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

fn write(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut events = transaction.open_table(EVENTS)?;
        let mut tables = Vec::with_capacity(Table::ALL.len());
        for table in Table::ALL {
            tables.push(transaction.open_table(definition(table))?);
        }
        for change in changes {
            match change {
                Change::Put { table, key, value } => {
                    tables[*table as usize].insert(key.as_str(), value.as_slice())?;
                }
                Change::Delete { table, key } => {
                    tables[*table as usize].remove(key.as_str())?;
                }
                Change::Append { seq, event } => {
                    events.insert(seq, event.as_slice())?;
                }
                Change::Trim { upto } => events.retain_in(..=*upto, |_, _| false)?,
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

impl Store for RedbStore {
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let done = self.with(|database| write(database, changes));
        if done.is_err() {
            self.reopen();
        }
        done
    }

    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            let mut rows = Vec::new();
            for row in transaction.open_table(definition(table))?.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        })
    }

    fn events(&self, after: u64, max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.with(|database| {
            let transaction = database.begin_read()?;
            let (mut found, mut bytes) = (Vec::new(), 0);
            for row in transaction.open_table(EVENTS)?.range(after.saturating_add(1)..)? {
                if found.len() == max || bytes >= bytes_max {
                    break;
                }
                let (seq, event) = row?;
                bytes += event.value().len();
                found.push((seq.value(), event.value().to_vec()));
            }
            Ok(found)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::MemoryStore;
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("weir-redb-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn file(&self) -> PathBuf {
            self.0.join("weir.redb")
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn put(table: Table, key: &str, value: &[u8]) -> Change {
        Change::Put { table, key: key.into(), value: value.to_vec() }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let dir = Dir::new("again");
        let store = RedbStore::open(&dir.file()).unwrap();
        store
            .commit(&[put(Table::Sessions, "a", b"1"), Change::Append { seq: 7, event: b"e".into() }])
            .unwrap();
        drop(store);
        let store = RedbStore::open(&dir.file()).unwrap();
        assert_eq!(store.rows(Table::Sessions).unwrap(), [("a".to_owned(), b"1".to_vec())]);
        assert_eq!(store.events(0, 9, 99).unwrap(), [(7, b"e".to_vec())]);
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(dir.file()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn another_layout_is_refused_with_its_name() {
        let dir = Dir::new("layout");
        RedbStore::open(&dir.file()).unwrap().commit(&[put(Table::Meta, LAYOUT_KEY, b"99")]).unwrap();
        let error = RedbStore::open(&dir.file()).expect_err("refused").to_string();
        assert!(error.contains("layout 99") && error.contains("layout 1"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_database_is_refused() {
        let dir = Dir::new("junk");
        fs::write(dir.file(), vec![b'x'; 8192]).unwrap();
        assert!(RedbStore::open(&dir.file()).is_err());
    }

    fn change() -> impl Strategy<Value = Change> {
        let table = prop::sample::select(&[Table::Sessions, Table::Connections, Table::Usage][..]);
        let key = "[a-c]{1,2}";
        let value = prop::collection::vec(any::<u8>(), 0..20);
        prop_oneof![
            (table.clone(), key, value.clone()).prop_map(|(table, key, value)| Change::Put {
                table,
                key,
                value
            }),
            (table, key).prop_map(|(table, key)| Change::Delete { table, key }),
            (1..50u64, value).prop_map(|(seq, event)| Change::Append { seq, event }),
            (0..50u64).prop_map(|upto| Change::Trim { upto }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_file_and_the_double_hold_the_same(
            commits in prop::collection::vec(prop::collection::vec(change(), 0..12), 1..5),
            after in 0..50u64,
        ) {
            let dir = Dir::new("same");
            let (store, double) = (RedbStore::open(&dir.file()).unwrap(), MemoryStore::default());
            for changes in &commits {
                store.commit(changes).unwrap();
                double.commit(changes).unwrap();
            }
            for table in [Table::Sessions, Table::Connections, Table::Usage] {
                prop_assert_eq!(store.rows(table).unwrap(), double.rows(table).unwrap());
            }
            for (max, bytes) in [(99, 9999), (2, 9999), (99, 25)] {
                prop_assert_eq!(store.events(after, max, bytes).unwrap(), double.events(after, max, bytes).unwrap());
            }
        }
    }
}

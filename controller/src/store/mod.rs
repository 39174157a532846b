//! What outlives the process: rows and the event log, changed all or nothing.
//!
//! ```text
//! shell ─▶ Writer::submit ─▶ bounded queue ─▶ one thread ─▶ Store::commit ─▶ `committed` moves on
//!                                            (many batches,  (one fsync)
//!                                             one commit)
//! ```
//!
//! [`Store`] has two implementations: [`RedbStore`], one file in the data directory, and [`MemoryStore`], the double for
//! tests, which fails when told to. What rows mean is the business of whoever writes them; how the log is numbered, trimmed
//! and bounded is [`Writer`]'s.

mod directory;
mod memory;
mod redb;
mod writer;

use std::io;
use std::path::PathBuf;

pub use self::directory::{Directory, Identity, Restarts, restart_file, restarts};
pub use self::memory::MemoryStore;
pub use self::redb::RedbStore;
pub use self::writer::{Batch, Bounds, Counters, Journal, QueueFull, Writer};

/// Rows of one kind, by text key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Sessions, by id.
    Sessions,
    /// Connections, by session and connection.
    Connections,
    /// Media nodes, by id.
    Nodes,
    /// Usage records, by id.
    Usage,
    /// How far each reader of the log is.
    Cursors,
    /// Single values.
    Meta,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 6] =
        [Table::Sessions, Table::Connections, Table::Nodes, Table::Usage, Table::Cursors, Table::Meta];

    /// Its name in the file.
    pub fn name(self) -> &'static str {
        match self {
            Table::Sessions => "sessions",
            Table::Connections => "connections",
            Table::Nodes => "nodes",
            Table::Usage => "usage",
            Table::Cursors => "cursors",
            Table::Meta => "meta",
        }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a row, new or not.
    Put {
        /// Where.
        table: Table,
        /// Key.
        key: String,
        /// Content.
        value: Vec<u8>,
    },
    /// Removes a row, which need not be there.
    Delete {
        /// Where.
        table: Table,
        /// Key.
        key: String,
    },
    /// Appends to the event log.
    Append {
        /// Its number, greater than all before.
        seq: u64,
        /// Content.
        event: Vec<u8>,
    },
    /// Removes the events up to and including this one.
    Trim {
        /// The last one removed.
        upto: u64,
    },
}

/// A row: key and content.
pub type Row = (String, Vec<u8>);

/// Durable rows and an event log.
pub trait Store: Send + Sync + 'static {
    /// Applies all changes in order, or none. They are on disk when it returns.
    ///
    /// # Errors
    /// The disk's. Nothing was changed then, and the call may be repeated.
    fn commit(&self, changes: &[Change]) -> Result<(), StoreError>;

    /// All rows of a table, by key.
    ///
    /// # Errors
    /// The disk's.
    fn rows(&self, table: Table) -> Result<Vec<Row>, StoreError>;

    /// Events behind number `after`, oldest first: `max` at most, and no more once they have `bytes_max` together.
    ///
    /// # Errors
    /// The disk's.
    fn events(&self, after: u64, max: usize, bytes_max: usize) -> Result<Vec<(u64, Vec<u8>)>, StoreError>;
}

/// Why the data directory or the store in it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file cannot be read or written.
    #[error("data directory: {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has other content than we write.
    #[error("data directory: {path}: {message}; remove the file to start afresh")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Another process owns it.
    #[error("data directory {0} is in use by another weir; give --data-dir another one")]
    InUse(PathBuf),
    /// The database has a layout of another version.
    #[error(
        "{path} has layout {found}, this version of weir reads layout {known}: start the version that wrote it, or \
         move the file away to start afresh"
    )]
    Layout {
        /// The database.
        path: PathBuf,
        /// What is in it.
        found: String,
        /// What we write.
        known: &'static str,
    },
    /// The database refuses.
    #[error("store: {0}")]
    Database(String),
}

//! The data directory: one process owns it. Two small files lie in it beside the database.
//!
//! `identity.json` holds what is made up at first start (name of the cluster, secret of its control connections);
//! `restart.json` the properties set through the REST API and the count of restarts, which are configuration and so are
//! read before the directory is owned.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::distr::Alphanumeric;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::StoreError;
use crate::private_file;

/// Characters of a made-up secret: 190 bits.
const SECRET_CHARS: usize = 32;
/// Characters of a made-up cluster name.
const CLUSTER_CHARS: usize = 10;

/// Made up at first start.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// `OPENVIDU_PRO_CLUSTER_ID` when none is configured.
    pub cluster_id: String,
    /// Bearer secret of control connections when none is configured.
    pub cluster_secret: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

/// What `POST /restart` left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// How often it happened.
    pub count: u64,
    /// When it happened last, UTC milliseconds.
    pub last_ms: u64,
    /// Properties set, as text.
    pub properties: BTreeMap<String, String>,
}

/// An owned data directory.
#[derive(Debug)]
pub struct Directory {
    directory: PathBuf,
    _lock: File,
}

impl Directory {
    /// Takes ownership of `directory`, which is made if missing.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or the disk's.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::File { path, source }
        };
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let path = directory.join("lock");
        let lock = File::create(&path).map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StoreError::InUse(directory.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(StoreError::File { path, source }),
        }
    }

    /// The identity; made up when there is none.
    ///
    /// # Errors
    /// The disk's, or a file that is not ours.
    pub fn identity(&self) -> Result<Identity, StoreError> {
        let path = self.directory.join("identity.json");
        if let Some(identity) = read_json(&path)? {
            return Ok(identity);
        }
        let random =
            |count| rand::rng().sample_iter(Alphanumeric).take(count).map(char::from).collect::<String>();
        let identity = Identity { cluster_id: random(CLUSTER_CHARS), cluster_secret: random(SECRET_CHARS) };
        write_json(&path, &identity)?;
        Ok(identity)
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.directory.join("weir.redb")
    }

    /// Remembers a restart.
    ///
    /// # Errors
    /// The disk's.
    pub fn save_restarts(&self, restarts: &Restarts) -> Result<(), StoreError> {
        write_json(&restart_file(&self.directory), restarts)
    }
}

/// Where the properties set through the REST API are kept.
pub fn restart_file(directory: &Path) -> PathBuf {
    directory.join("restart.json")
}

/// What `POST /restart` left in a data directory; readable before the directory is owned, because it is configuration.
///
/// # Errors
/// The disk's, or a file that is not ours.
pub fn restarts(directory: &Path) -> Result<Restarts, StoreError> {
    Ok(read_json(&restart_file(directory))?.unwrap_or_default())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| StoreError::Content { path: path.to_owned(), message: e.to_string() }),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::File { path: path.to_owned(), source }),
    }
}

/// Writes beside and renames, so that a crash leaves the old content or the new one.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let text = serde_json::to_string_pretty(value).expect("plain data");
    let beside = path.with_extension("new");
    let written = private_file::write(&beside, &text).and_then(|()| fs::rename(&beside, path));
    written.map_err(|source| StoreError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_keeps_what_it_is_told() {
        let dir = std::env::temp_dir().join(format!("weir-store-{}", std::process::id()));
        let owned = Directory::open(&dir).unwrap();
        assert!(matches!(Directory::open(&dir), Err(StoreError::InUse(_))));
        let identity = owned.identity().unwrap();
        assert_eq!((identity.cluster_id.len(), identity.cluster_secret.len()), (CLUSTER_CHARS, SECRET_CHARS));
        assert!(!format!("{identity:?}").contains(&identity.cluster_secret));
        assert_eq!(restarts(&dir).unwrap(), Restarts::default());
        let changed =
            Restarts { count: 2, last_ms: 7, properties: [("OPENVIDU_CDR".into(), "true".into())].into() };
        owned.save_restarts(&changed).unwrap();
        drop(owned);
        let owned = Directory::open(&dir).unwrap();
        assert_eq!(owned.identity().unwrap().cluster_secret, identity.cluster_secret);
        assert_eq!(restarts(&dir).unwrap(), changed);
        fs::write(dir.join("restart.json"), "{").unwrap();
        assert!(matches!(restarts(&dir), Err(StoreError::Content { .. })));
        fs::remove_dir_all(&dir).unwrap();
    }
}

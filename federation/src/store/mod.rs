//! The replica's disk: one redb file with the log, the vote and the last snapshot.
//!
//! The registry itself lives in memory. It is rebuilt from the last snapshot and the log after it, which
//! the Raft library replays on start; so an acknowledged write is on disk exactly once, in the log, and is
//! synced before it is acknowledged. Records are JSON with a format number in the file, so that a later
//! version can tell what it reads: it takes the format before its own over when it opens the file, and refuses every other.

mod disk;
mod log;
mod machine;
mod seed;
mod snapshot;
mod survey;

use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use isthmus_identity::random_digest;
use isthmus_model::registry::token::Digest;
use openraft::{ErrorSubject, ErrorVerb, StorageIOError};
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::raft_types::StorageError;
use crate::understood::NotUnderstood;

pub use disk::Disk;
pub use log::LogStore;
pub use machine::StateMachine;
pub use seed::{SeedError, seed};
pub use survey::{Survey, survey};

/// The layout of the file. Raised when a change would make an older version read nonsense. Format 2 had the snapshot as one
/// record, without a digest.
const FORMAT: u64 = 3;
/// The earliest that is taken over.
const FORMAT_BEFORE: u64 = 2;

/// Memory for pages of the file, of which redb takes a gibibyte by default. Reads are rare and cheap, for the kernel has the file too: the
/// registry itself is in memory, and the log is read at a start and by replicas that are behind.
const CACHE_BYTES_MAX: usize = 4 << 20;

/// The file's mode: its owner's alone.
const FILE_MODE: u32 = 0o600;

/// Log index → entry.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// The name of the file's own mark, by which its owner knows it again.
const ID: &str = "id";
/// Singletons by name.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// Why the store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("the registry at {path} is open already: another gateway uses this data directory")]
    InUse {
        /// The file.
        path: String,
    },
    /// What is in it is not what was written.
    #[error(
        "the registry at {path} is damaged: {source}. The disk lost or changed what was written. If most voters are up, move \
         the data directory away and join again with a new token; if not, recover on one that is left (isthmus registry \
         recover), or move the file away and restore a backup"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What redb said.
        source: DatabaseError,
    },
    /// redb would not open it.
    #[error("cannot open the registry at {path}: {source}; check the data directory and its disk")]
    Database {
        /// The file.
        path: String,
        /// What redb said.
        source: DatabaseError,
    },
    /// The file is there but cannot be read or prepared.
    #[error("cannot read the registry at {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// What went wrong.
        source: redb::Error,
    },
    /// A part of it was written by a newer version.
    #[error("a record of the registry at {path} cannot be used: {reason}")]
    NotUnderstood {
        /// The file.
        path: String,
        /// What it is.
        reason: NotUnderstood,
    },
    /// Written by a later version.
    #[error(
        "the registry at {path} has format {found}, and isthmus {} reads {FORMAT_BEFORE} and {FORMAT}: use the version that \
         wrote it, or a later one", env!("CARGO_PKG_VERSION")
    )]
    TooNew {
        /// The file.
        path: String,
        /// Its format.
        found: String,
    },
    /// Written by a version that is too long ago.
    #[error(
        "the registry at {path} has format {found}, and isthmus {} reads {FORMAT_BEFORE} and {FORMAT}: start the version \
         between them once, or move the data directory away and join again with a new token", env!("CARGO_PKG_VERSION")
    )]
    TooOld {
        /// The file.
        path: String,
        /// Its format.
        found: String,
    },
}

impl OpenError {
    fn of(path: String, source: DatabaseError) -> Self {
        use redb::StorageError::{Corrupted, Io};
        match source {
            DatabaseError::DatabaseAlreadyOpen => Self::InUse { path },
            // redb's words for a file that does not begin as one of its own, or ends in the middle.
            DatabaseError::Storage(Io(ref error))
                if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
            {
                Self::Damaged { path, source }
            }
            DatabaseError::Storage(Corrupted(_)) => Self::Damaged { path, source },
            source => Self::Database { path, source },
        }
    }

    fn reading(path: &Path, failure: Failure) -> Self {
        let path = path.display().to_string();
        match failure {
            Failure::NotUnderstood(reason) => Self::NotUnderstood { path, reason },
            Failure::Disk(source) => Self::Unreadable { path, source },
            Failure::Snapshot => {
                Self::Damaged { path, source: redb::StorageError::Corrupted(failure.to_string()).into() }
            }
            failure => Self::Unreadable { path, source: redb::Error::Corrupted(failure.to_string()) },
        }
    }
}

/// Opens or creates the registry's file at `path`.
///
/// # Errors
/// [`OpenError`] when it is unreadable, in use, or of another format.
pub fn open(path: &Path, disk: &Disk) -> Result<(LogStore, StateMachine), OpenError> {
    let file = open_file(path, disk)?;
    let machine = StateMachine::load(file.clone()).map_err(|failure| OpenError::reading(path, failure))?;
    // An entry that this version does not understand is an error now, and not when it is its turn.
    log::read_range(&file, ..).map_err(|failure| OpenError::reading(path, failure))?;
    Ok((LogStore::new(file), machine))
}

fn open_file(path: &Path, disk: &Disk) -> Result<File, OpenError> {
    let shown = path.display().to_string();
    let database = database(path, disk).map_err(|source| OpenError::of(shown.clone(), source))?;
    let file = File { database: Arc::new(database), disk: disk.clone() };
    let unreadable = |source: redb::Error| OpenError::Unreadable { path: shown.clone(), source };
    let drawn = random_digest().map_err(|error| unreadable(redb::Error::Corrupted(error.to_string())))?;
    let found = file.prepare(drawn).map_err(unreadable)?;
    match found.parse::<u64>() {
        Ok(FORMAT) => Ok(file),
        Ok(before) if before < FORMAT => Err(OpenError::TooOld { path: shown, found }),
        _ => Err(OpenError::TooNew { path: shown, found }),
    }
}

/// Opens the file, or makes it. A new one is made beside its place and moved there once it is whole: one that a
/// crash left half made could not be opened, and the gateway would never start again.
fn database(path: &Path, disk: &Disk) -> Result<Database, DatabaseError> {
    if path.exists() {
        return private(path, disk);
    }
    let draft = path.with_extension("redb.new");
    let database = match private(&draft, disk) {
        Err(DatabaseError::DatabaseAlreadyOpen) => return Err(DatabaseError::DatabaseAlreadyOpen),
        Err(_) if draft.exists() => {
            fs::remove_file(&draft).map_err(redb::StorageError::from)?;
            private(&draft, disk)?
        }
        created => created?,
    };
    // The open file keeps its lock under its new name.
    fs::rename(&draft, path).map_err(redb::StorageError::from)?;
    sync_parent(path).map_err(redb::StorageError::from)?;
    Ok(database)
}

/// Makes a rename to `path` durable.
fn sync_parent(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(directory).and_then(|directory| directory.sync_all())
}

/// Opens or makes a file that is the gateway's user's alone: it has the hashes of tokens. One of an earlier version
/// was not.
fn private(path: &Path, disk: &Disk) -> Result<Database, DatabaseError> {
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path);
    let made = file.and_then(|file| file.set_permissions(fs::Permissions::from_mode(FILE_MODE)));
    made.map_err(redb::StorageError::from)?;
    // A file that the disk has damaged is an error then, and not a panic or a wrong state. It is read whole at every
    // start: some megabytes. (After an unclean stop, redb goes back to the commit before one whose pages are bad: it
    // takes that for a commit that was not synced yet, which it can be only on a disk that lies about it.)
    disk.open(Database::builder().set_cache_size(CACHE_BYTES_MAX).set_check_integrity_on_open(true), path)
}

/// The open file. Cheap to clone.
#[derive(Clone)]
struct File {
    database: Arc<Database>,
    disk: Disk,
}

impl File {
    /// Makes the tables of a new file, which is known by `id` from then on, and takes over one in the format before this
    /// version's. Returns the format that the file has then. One of another format is left alone.
    fn prepare(&self, id: Digest) -> Result<String, redb::Error> {
        let transaction = self.database.begin_write()?;
        let known = {
            transaction.open_table(LOG)?;
            let meta = transaction.open_table(META)?;
            meta.get("format")?.map(|value| String::from_utf8_lossy(value.value()).into_owned())
        };
        let before = FORMAT_BEFORE.to_string();
        let current = FORMAT.to_string();
        if known.as_ref().is_some_and(|known| *known != before && *known != current) {
            transaction.abort()?;
            return Ok(known.unwrap_or_default());
        }
        snapshot::prepare(&transaction, known == Some(before))?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", current.as_bytes())?;
            if meta.get(ID)?.is_none() {
                meta.insert(ID, format!("\"{id}\"").as_bytes())?;
            }
        }
        transaction.commit()?;
        Ok(current)
    }

    /// Reads a singleton.
    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let transaction = self.database.begin_read().map_err(redb::Error::from)?;
        let meta = transaction.open_table(META).map_err(redb::Error::from)?;
        let value = meta.get(name).map_err(redb::Error::from)?;
        value.map(|value| Ok(serde_json::from_slice(value.value())?)).transpose()
    }

    /// Writes a singleton.
    fn put<T: Serialize>(&self, name: &str, value: &T) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(value)?;
        self.write(|transaction| {
            let mut meta = transaction.open_table(META)?;
            meta.insert(name, bytes.as_slice())?;
            Ok(())
        })
    }

    /// Runs one write transaction, which is synced when this returns.
    fn write(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<(), Failure> {
        let transaction = self.database.begin_write().map_err(redb::Error::from)?;
        change(&transaction)?;
        transaction.commit().map_err(redb::Error::from)?;
        Ok(())
    }
}

/// Why one read or write failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Disk(#[from] redb::Error),
    #[error("a record of the registry's file is not what this version writes: {0}")]
    Record(#[from] serde_json::Error),
    #[error("a record of the registry's file: {0}")]
    NotUnderstood(#[from] NotUnderstood),
    #[error("the snapshot in the registry's file is damaged: the disk lost or changed what was written")]
    Snapshot,
}

impl Failure {
    fn on(self, subject: ErrorSubject<u64>, verb: ErrorVerb) -> StorageError {
        StorageError::IO { source: StorageIOError::new(subject, verb, openraft::AnyError::new(&self)) }
    }
}

/// Runs a blocking disk operation off the async workers: a sync can take as long as the disk likes.
async fn off_thread<T: Send + 'static>(
    disk: &Disk,
    subject: ErrorSubject<u64>,
    verb: ErrorVerb,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, StorageError> {
    match disk.run(work).await {
        Ok(result) => result.map_err(|failure| failure.on(subject, verb)),
        Err(join) => {
            Err(StorageError::IO { source: StorageIOError::new(subject, verb, openraft::AnyError::new(&join)) })
        }
    }
}

#[cfg(test)]
mod tests;

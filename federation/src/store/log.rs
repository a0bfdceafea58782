//! The replicated log on disk.

use std::fmt::Debug;
use std::ops::{Range, RangeBounds};

use isthmus_model::registry::token::Digest;
use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{ErrorSubject, ErrorVerb, LogState, OptionalSend, RaftLogReader, Vote};
use redb::{ReadableDatabase, ReadableTable};

use super::{Failure, File, ID, LOG, off_thread};
use crate::raft_types::{LogEntry, LogId, RegistryRaft, StorageError};
use crate::understood;

const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
/// Bytes of entries in one message, unless one alone is longer: no more than a piece of a snapshot, so that the answer to
/// it is not later than the next heartbeat.
const BATCH_LEN_MAX: usize = 256 << 10;

/// The log, the vote and the commit mark of one replica.
#[derive(Clone)]
pub struct LogStore {
    file: File,
}

impl LogStore {
    pub(super) fn new(file: File) -> Self {
        Self { file }
    }

    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// By what the file is known.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn id(&self) -> Result<Option<Digest>, String> {
        self.file.get(ID).map_err(|failure| failure.to_string())
    }
}

pub(super) fn read_range(file: &File, range: impl RangeBounds<u64>) -> Result<Vec<LogEntry>, Failure> {
    let transaction = file.database.begin_read().map_err(redb::Error::from)?;
    let log = transaction.open_table(LOG).map_err(redb::Error::from)?;
    let rows = log.range(range).map_err(redb::Error::from)?;
    rows.map(|row| {
        let (_, value) = row.map_err(redb::Error::from)?;
        Ok(understood::read(value.value())?)
    })
    .collect()
}

/// The entries from `range` on that fit one message; one at least, if there is one.
fn read_batch(file: &File, range: Range<u64>) -> Result<Vec<LogEntry>, Failure> {
    let transaction = file.database.begin_read().map_err(redb::Error::from)?;
    let log = transaction.open_table(LOG).map_err(redb::Error::from)?;
    let (mut entries, mut len) = (Vec::new(), 0);
    for row in log.range(range).map_err(redb::Error::from)? {
        let (_, value) = row.map_err(redb::Error::from)?;
        len += value.value().len();
        if len > BATCH_LEN_MAX && !entries.is_empty() {
            break;
        }
        entries.push(understood::read(value.value())?);
    }
    Ok(entries)
}

/// The last entry that is known to be agreed.
pub(super) fn committed(file: &File) -> Result<Option<LogId>, Failure> {
    let committed: Option<Option<LogId>> = file.get(COMMITTED)?;
    Ok(committed.flatten())
}

fn last_entry(file: &File) -> Result<Option<LogEntry>, Failure> {
    let transaction = file.database.begin_read().map_err(redb::Error::from)?;
    let log = transaction.open_table(LOG).map_err(redb::Error::from)?;
    let last = log.last().map_err(redb::Error::from)?;
    last.map(|(_, value)| Ok(understood::read(value.value())?)).transpose()
}

impl RaftLogReader<RegistryRaft> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Read, move || read_range(&file, bounds)).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, StorageError> {
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Read, move || read_batch(&file, start..end)).await
    }
}

impl RaftLogStorage<RegistryRaft> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<RegistryRaft>, StorageError> {
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Read, move || {
            let last_purged_log_id: Option<LogId> = file.get(PURGED)?;
            let last_log_id = last_entry(&file)?.map(|entry| entry.log_id).or(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let (file, vote) = (self.file.clone(), *vote);
        off_thread(&self.file.disk, ErrorSubject::Vote, ErrorVerb::Write, move || file.put(VOTE, &vote)).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.file.get(VOTE).map_err(|failure| failure.on(ErrorSubject::Vote, ErrorVerb::Read))
    }

    /// Synced before the entries are applied: what was once seen as agreed is seen again after a restart, also
    /// where no quorum is left to ask.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Write, move || file.put(COMMITTED, &committed)).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        committed(&self.file).map_err(|failure| failure.on(ErrorSubject::Logs, ErrorVerb::Read))
    }

    /// Entries are on disk, synced, before the callback says so.
    async fn append<I>(&mut self, entries: I, callback: LogFlushed<RegistryRaft>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Write, move || {
            let rows: Vec<(u64, Vec<u8>)> = entries
                .iter()
                .map(|entry| Ok((entry.log_id.index, serde_json::to_vec(entry)?)))
                .collect::<Result<_, Failure>>()?;
            file.write(|transaction| {
                let mut log = transaction.open_table(LOG)?;
                for (index, bytes) in &rows {
                    log.insert(index, bytes.as_slice())?;
                }
                Ok(())
            })
        })
        .await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Write, move || {
            file.write(|transaction| {
                transaction.open_table(LOG)?.retain_in(log_id.index.., |_, _| false)?;
                Ok(())
            })
        })
        .await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let file = self.file.clone();
        off_thread(&self.file.disk, ErrorSubject::Logs, ErrorVerb::Write, move || {
            // Mark first: a crash in between leaves entries that are known to be purged, never a hole.
            file.put(PURGED, &log_id)?;
            file.write(|transaction| {
                transaction.open_table(LOG)?.retain_in(..=log_id.index, |_, _| false)?;
                Ok(())
            })
        })
        .await
    }
}

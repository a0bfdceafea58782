//! The last snapshot on disk: in pieces, so that whoever writes entries never waits for more than one piece, and with
//! the digest of the whole.
//!
//! redb keeps checksums of its pages and compares them when the file is opened, not when a page is read later: what the
//! disk changes under an open file would go unnoticed to a learner. So the digest is compared at every reading.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::Digest;
use openraft::SnapshotMeta;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::{Disk, Failure, File, META};
use crate::raft_types::Peer;
use crate::snapshot::{Encoded, Image};

/// Generation and place → bytes.
const PIECES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("snapshot");
/// Which generation counts: [`Record`] among the singletons. In format 2 the whole snapshot was there.
const SNAPSHOT: &str = "snapshot";
/// Bytes of a piece: some milliseconds of a slow disk.
const PIECE_LEN: usize = 1 << 20;
/// Between two pieces, so that whoever waits gets a turn: redb's lock goes to who comes first, which would be the next piece.
const TURN: Duration = Duration::from_millis(1);

/// The snapshot that counts. Pieces of another generation are left from a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    generation: u64,
    len: u64,
    sha256: Digest,
    meta: SnapshotMeta<NodeId, Peer>,
}

/// A snapshot, and what it is of.
pub(super) type Stored = (SnapshotMeta<NodeId, Peer>, Encoded);

/// Reads and writes the snapshot. Clones share it.
#[derive(Clone)]
pub(super) struct SnapshotFile {
    file: File,
    /// The last one as long as a transfer holds on to it. Locked by whoever writes one, of whom there is one at a time.
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    digest: Option<Digest>,
    bytes: Weak<Vec<u8>>,
}

impl SnapshotFile {
    pub(super) fn new(file: File) -> Self {
        Self { file, shared: Arc::default() }
    }

    /// Where it is.
    pub(super) fn disk(&self) -> &Disk {
        &self.file.disk
    }

    /// Writes a snapshot, unless a later one is there already: one that was built while a leader's was installed.
    pub(super) fn write(&self, meta: &SnapshotMeta<NodeId, Peer>, encoded: &Encoded) -> Result<(), Failure> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Option<Record> = self.file.get(SNAPSHOT)?;
        if known.as_ref().is_some_and(|known| known.meta.last_log_id > meta.last_log_id) {
            return Ok(());
        }
        let generation = known.map_or(0, |known| known.generation + 1);
        self.file.write(|transaction| keep_only(transaction, generation.checked_sub(1)))?;
        for (place, piece) in (0..).zip(encoded.bytes.chunks(PIECE_LEN)) {
            if place > 0 {
                std::thread::sleep(TURN);
            }
            self.file.write(|transaction| {
                transaction.open_table(PIECES)?.insert((generation, place), piece)?;
                Ok(())
            })?;
        }
        let (len, sha256) = (encoded.bytes.len() as u64, encoded.digest);
        let record = serde_json::to_vec(&Record { generation, len, sha256, meta: meta.clone() })?;
        self.file.write(|transaction| {
            transaction.open_table(META)?.insert(SNAPSHOT, record.as_slice())?;
            keep_only(transaction, Some(generation))
        })?;
        *shared = Shared { digest: Some(sha256), bytes: Arc::downgrade(&encoded.bytes) };
        Ok(())
    }

    /// Reads the last snapshot.
    pub(super) fn read(&self) -> Result<Option<Stored>, Failure> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.file.get::<Record>(SNAPSHOT)? else { return Ok(None) };
        if let Some(bytes) = shared.bytes.upgrade().filter(|_| shared.digest == Some(record.sha256)) {
            return Ok(Some((record.meta, Encoded { bytes, digest: record.sha256, registry: None })));
        }
        let encoded = Encoded::new(self.pieces(record.generation)?);
        if encoded.digest != record.sha256 || encoded.bytes.len() as u64 != record.len {
            return Err(Failure::Snapshot);
        }
        *shared = Shared { digest: Some(record.sha256), bytes: Arc::downgrade(&encoded.bytes) };
        Ok(Some((record.meta, encoded)))
    }

    /// Reads what the last snapshot says, which has to be understood whole.
    pub(super) fn image(&self) -> Result<Option<Image>, Failure> {
        let Some((meta, encoded)) = self.read()? else { return Ok(None) };
        let image = encoded.read()?;
        Ok(Some(Image { meta, ..image }))
    }

    fn pieces(&self, generation: u64) -> Result<Vec<u8>, Failure> {
        let transaction = self.file.database.begin_read().map_err(redb::Error::from)?;
        let pieces = transaction.open_table(PIECES).map_err(redb::Error::from)?;
        let mut bytes = Vec::new();
        for row in pieces.range((generation, 0)..=(generation, u64::MAX)).map_err(redb::Error::from)? {
            bytes.extend_from_slice(row.map_err(redb::Error::from)?.1.value());
        }
        Ok(bytes)
    }
}

/// Drops the pieces of other generations.
fn keep_only(transaction: &WriteTransaction, generation: Option<u64>) -> Result<(), redb::Error> {
    let mut pieces = transaction.open_table(PIECES)?;
    match generation {
        Some(generation) => {
            pieces.retain_in(..(generation, 0), |_, _| false)?;
            pieces.retain_in((generation + 1, 0).., |_, _| false)?;
        }
        None => pieces.retain(|_, _| false)?,
    }
    Ok(())
}

/// Makes the table of pieces; of a file in format 2, puts the snapshot into it.
pub(super) fn prepare(transaction: &WriteTransaction, from_format_2: bool) -> Result<(), redb::Error> {
    let mut pieces = transaction.open_table(PIECES)?;
    let mut meta = transaction.open_table(META)?;
    let whole = meta.get(SNAPSHOT)?.filter(|_| from_format_2).map(|whole| whole.value().to_vec());
    let Some(whole) = whole else { return Ok(()) };
    let unreadable = |error: serde_json::Error| redb::Error::Corrupted(error.to_string());
    let of: MetaOf = serde_json::from_slice(&whole).map_err(unreadable)?;
    let encoded = Encoded::new(whole);
    for (place, piece) in (0..).zip(encoded.bytes.chunks(PIECE_LEN)) {
        pieces.insert((0, place), piece)?;
    }
    let record = Record { generation: 0, len: encoded.bytes.len() as u64, sha256: encoded.digest, meta: of.meta };
    meta.insert(SNAPSHOT, serde_json::to_vec(&record).map_err(unreadable)?.as_slice())?;
    Ok(())
}

/// What a snapshot is of, without what it says.
#[derive(Deserialize)]
struct MetaOf {
    meta: SnapshotMeta<NodeId, Peer>,
}

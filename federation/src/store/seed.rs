//! A registry's file that begins with a state instead of with nothing.
//!
//! The state is written as the snapshot that covers the first place in the log, where otherwise the Raft library's own
//! initialization would be: the replica starts as if it had compacted its log there, and others get the snapshot.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::token::Digest;
use openraft::{CommittedLeaderId, Membership, SnapshotMeta};

use super::snapshot::SnapshotFile;
use super::{Disk, Failure, File, OpenError, private, sync_parent};
use crate::raft_types::{LogId, Peer, StoredMembership};
use crate::snapshot::{Encoded, Image};

/// Why the file was not written.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// It could not be made.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It could not be filled.
    #[error("cannot write the registry at {path}: {reason}; check the disk under the data directory")]
    Write {
        /// The file.
        path: String,
        /// What went wrong.
        reason: String,
    },
}

/// Makes the file of a replica that starts with `registry` and is the only voter, known by `id`. The file appears at
/// `path` when it is whole.
///
/// # Errors
/// [`SeedError`].
pub fn seed(path: &Path, id: Digest, node: NodeId, peer: Peer, registry: &Registry) -> Result<(), SeedError> {
    let draft = path.with_extension("redb.seed");
    let write = |reason: String| SeedError::Write { path: draft.display().to_string(), reason };
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(write(error.to_string())),
        _ => {}
    }
    let database = private(&draft, &Disk::Real).map_err(|source| OpenError::of(draft.display().to_string(), source))?;
    let file = File { database: database.into(), disk: Disk::Real };
    fill(&file, id, node, peer, registry).map_err(|error| write(error.to_string()))?;
    drop(file);
    fs::rename(&draft, path).and_then(|()| sync_parent(path)).map_err(|error| write(error.to_string()))
}

fn fill(file: &File, id: Digest, node: NodeId, peer: Peer, registry: &Registry) -> Result<(), Failure> {
    file.prepare(id)?;
    let first = LogId::new(CommittedLeaderId::new(0, 0), 0);
    let membership = Membership::new(vec![[node].into()], BTreeMap::from([(node, peer)]));
    let meta = SnapshotMeta {
        last_log_id: Some(first),
        last_membership: StoredMembership::new(Some(first), membership),
        snapshot_id: "restored".to_owned(),
    };
    let image = Image { meta, registry: Arc::new(registry.clone()) };
    SnapshotFile::new(file.clone()).write(&image.meta, &Encoded::of(&image)?)
}

//! The registry as the Raft library's state machine, and its snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;

use isthmus_model::registry::Registry;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, SnapshotMeta};
use tokio::sync::watch;

use super::snapshot::{SnapshotFile, Stored};
use super::{Failure, File, off_thread};
use crate::raft_types::{Applied, LogEntry, LogId, Peer, RegistryRaft, StorageError, StoredMembership};
use crate::snapshot::{Encoded, Image};

/// The agreed registry in memory, published to everyone who watches.
pub struct StateMachine {
    snapshots: SnapshotFile,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    registry: watch::Sender<Arc<Registry>>,
}

impl StateMachine {
    /// Starts from the last snapshot, or empty. The log after it is replayed by the Raft library.
    pub(super) fn load(file: File) -> Result<Self, Failure> {
        let snapshots = SnapshotFile::new(file);
        let image = snapshots.image()?;
        let mut machine = Self {
            snapshots,
            last_applied: None,
            membership: StoredMembership::default(),
            registry: watch::Sender::new(Arc::default()),
        };
        if let Some(image) = image {
            machine.adopt(image);
        }
        Ok(machine)
    }

    /// Watches the registry. Every state that is seen was agreed.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Registry>> {
        self.registry.subscribe()
    }

    /// Applies a batch and publishes it as one state.
    pub(super) fn take(&mut self, entries: impl IntoIterator<Item = LogEntry>) -> Vec<Applied> {
        let mut registry = self.registry.borrow().clone();
        let before = registry.revision();
        let mut results = Vec::new();
        for entry in entries {
            self.last_applied = Some(entry.log_id);
            results.push(match entry.payload {
                EntryPayload::Blank => Applied::Nothing,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                    Applied::Nothing
                }
                EntryPayload::Normal(batch) => {
                    let registry = Arc::make_mut(&mut registry);
                    Applied::Each(batch.entries().iter().map(|entry| registry.apply(entry)).collect())
                }
            });
        }
        let changed = registry.revision() != before;
        self.registry.send_if_modified(|current| {
            *current = registry;
            changed
        });
        results
    }

    /// The last entry that is in the state.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last_applied
    }

    /// Who votes.
    pub(super) fn voters(&self) -> BTreeSet<u64> {
        self.membership.membership().voter_ids().collect()
    }

    fn adopt(&mut self, image: Image) {
        self.last_applied = image.meta.last_log_id;
        self.membership = image.meta.last_membership;
        self.registry.send_replace(image.registry);
    }
}

/// Builds a snapshot of the state at the moment that it was asked for. The state is shared, not copied.
pub struct SnapshotBuilder {
    snapshots: SnapshotFile,
    image: Image,
}

fn snapshot_id(last: Option<LogId>) -> String {
    last.map_or_else(|| "empty".to_owned(), |last| format!("{}-{}", last.leader_id, last.index))
}

fn as_snapshot((meta, encoded): Stored) -> Snapshot<RegistryRaft> {
    Snapshot { meta, snapshot: Box::new(encoded) }
}

impl RaftSnapshotBuilder<RegistryRaft> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<RegistryRaft>, StorageError> {
        let (snapshots, image) = (self.snapshots.clone(), self.image.clone());
        off_thread(self.snapshots.disk(), ErrorSubject::Snapshot(None), ErrorVerb::Write, move || {
            let encoded = Encoded::of(&image)?;
            snapshots.write(&image.meta, &encoded)?;
            Ok(as_snapshot((image.meta, encoded)))
        })
        .await
    }
}

impl RaftStateMachine<RegistryRaft> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(self.take(entries))
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let registry = Arc::clone(&self.registry.borrow());
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id: snapshot_id(self.last_applied),
        };
        SnapshotBuilder { snapshots: self.snapshots.clone(), image: Image { meta, registry } }
    }

    /// Not used: [`crate::snapshot`] receives into a place of its own, and installs what is whole.
    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Encoded>, StorageError> {
        Ok(Box::new(Encoded::new(Vec::new())))
    }

    /// Takes over a leader's snapshot, once it is on disk.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Peer>,
        snapshot: Box<Encoded>,
    ) -> Result<(), StorageError> {
        let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
        let image = off_thread(self.snapshots.disk(), ErrorSubject::Snapshot(None), ErrorVerb::Write, move || {
            let registry = match &snapshot.registry {
                Some(read) => Arc::clone(read),
                None => snapshot.read()?.registry,
            };
            snapshots.write(&meta, &snapshot)?;
            Ok(Image { meta, registry })
        })
        .await?;
        self.adopt(image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<RegistryRaft>>, StorageError> {
        let snapshots = self.snapshots.clone();
        off_thread(self.snapshots.disk(), ErrorSubject::Snapshot(None), ErrorVerb::Read, move || {
            Ok(snapshots.read()?.map(as_snapshot))
        })
        .await
    }
}

//! The registry as the Raft library's state machine, and its snapshots.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;

use isthmus_model::registry::Registry;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, RaftSnapshotBuilder, SnapshotMeta};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Failure, File, off_thread};
use crate::raft_types::{Applied, LogEntry, LogId, Peer, RegistryRaft, StorageError, StoredMembership};

pub(super) const SNAPSHOT: &str = "snapshot";

/// The agreed registry in memory, published to everyone who watches.
pub struct StateMachine {
    file: File,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    registry: watch::Sender<Arc<Registry>>,
}

/// A snapshot as it lies on disk and goes over the wire.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Image {
    pub(super) meta: SnapshotMeta<u64, Peer>,
    pub(super) registry: Registry,
}

impl StateMachine {
    /// Starts from the last snapshot, or empty. The log after it is replayed by the Raft library.
    pub(super) fn load(file: File) -> Result<Self, Failure> {
        let image: Option<Image> = file.get(SNAPSHOT)?;
        let mut machine = Self {
            file,
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
                EntryPayload::Normal(entry) => match Arc::make_mut(&mut registry).apply(&entry) {
                    Ok(outcome) => Applied::Done(outcome),
                    Err(refusal) => Applied::Refused(refusal),
                },
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
        self.registry.send_replace(Arc::new(image.registry));
    }
}

/// Builds a snapshot of the state at the moment that it was asked for.
pub struct SnapshotBuilder {
    file: File,
    image: Image,
}

fn snapshot_id(last: Option<LogId>) -> String {
    last.map_or_else(|| "empty".to_owned(), |last| format!("{}-{}", last.leader_id, last.index))
}

fn as_snapshot(image: &Image) -> Result<Snapshot<RegistryRaft>, Failure> {
    Ok(Snapshot { meta: image.meta.clone(), snapshot: Box::new(Cursor::new(serde_json::to_vec(image)?)) })
}

impl RaftSnapshotBuilder<RegistryRaft> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<RegistryRaft>, StorageError> {
        let image = self.image.clone();
        off_thread(&self.file, ErrorSubject::Snapshot(None), ErrorVerb::Write, move |file| {
            file.put(SNAPSHOT, &image)?;
            as_snapshot(&image)
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
        let registry = self.registry.borrow().as_ref().clone();
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id: snapshot_id(self.last_applied),
        };
        SnapshotBuilder { file: self.file.clone(), image: Image { meta, registry } }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    /// Takes over a leader's snapshot, once it is on disk.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, Peer>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let meta = meta.clone();
        let image = off_thread(&self.file, ErrorSubject::Snapshot(None), ErrorVerb::Write, move |file| {
            let received: Image = serde_json::from_slice(snapshot.get_ref())?;
            let image = Image { meta, registry: received.registry };
            file.put(SNAPSHOT, &image)?;
            Ok(image)
        })
        .await?;
        self.adopt(image);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<RegistryRaft>>, StorageError> {
        off_thread(&self.file, ErrorSubject::Snapshot(None), ErrorVerb::Read, |file| {
            let image: Option<Image> = file.get(SNAPSHOT)?;
            image.as_ref().map(as_snapshot).transpose()
        })
        .await
    }
}

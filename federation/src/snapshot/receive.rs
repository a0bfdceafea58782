//! Takes a snapshot piece by piece, checks it whole, and has the Raft library install it.

use std::sync::Arc;
use std::time::Duration;

use openraft::Snapshot;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;
use tonic::Status;

use super::partial::{Receiving, Taken, Unchecked};
use super::{Answer, Encoded, Head};
use crate::raft_types::{Raft, RegistryRaft};
use crate::store::Disk;

/// How long a part of a snapshot is kept when nothing more comes: longer than an outage that its sender outlasts.
const PART_KEPT: Duration = Duration::from_secs(600);

/// Receives for one replica.
#[derive(Clone)]
pub(crate) struct Receiver {
    raft: Raft,
    disk: Disk,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    receiving: Receiving,
    /// Whether somebody looks that nothing is kept for too long.
    watched: bool,
}

impl Receiver {
    pub(crate) fn new(raft: Raft, disk: Disk) -> Self {
        Self { raft, disk, state: Arc::default() }
    }

    /// Takes a piece of a leader's snapshot.
    ///
    /// # Errors
    /// What keeps it from being taken, for the sender and its log.
    pub(crate) async fn take(&self, head: Head, offset: u64, data: &[u8]) -> Result<Answer, Status> {
        let stopped = |error| Status::unavailable(format!("the replica stopped: {error}"));
        let own = self.raft.with_raft_state(|state| *state.vote_ref()).await.map_err(stopped)?;
        if head.vote.partial_cmp(&own).is_none_or(std::cmp::Ordering::is_lt) {
            return Ok(Answer::Settled(own));
        }
        // While one is installed, the next has to wait: its sender asks again.
        let mut state = self.state.clone().lock_owned().await;
        match state.receiving.take(&head, offset, data, Instant::now())? {
            Taken::Next(next) => {
                if !std::mem::replace(&mut state.watched, true) {
                    tokio::spawn(forget_when_idle(Arc::downgrade(&self.state)));
                }
                Ok(Answer::Next(next))
            }
            Taken::Installed => Ok(Answer::Settled(head.vote)),
            Taken::Whole(whole) => {
                // A task of its own, because the call may be over before this is: then the sender asks again.
                let installing = tokio::spawn(install(self.raft.clone(), self.disk.clone(), state, head, whole));
                installing.await.map_err(|error| Status::internal(error.to_string()))?
            }
        }
    }
}

async fn install(
    raft: Raft,
    disk: Disk,
    mut state: OwnedMutexGuard<State>,
    head: Head,
    whole: Unchecked,
) -> Result<Answer, Status> {
    let (digest, len) = (head.sha256, head.len);
    let snapshot = match disk.run(move || open(&head, whole).map(|encoded| (head, encoded))).await {
        Ok(Ok((head, encoded))) => (head.vote, Snapshot { meta: head.meta, snapshot: Box::new(encoded) }),
        Ok(Err(why)) => {
            tracing::error!(%digest, len, "a snapshot of the registry was not taken: {}", why.message());
            return Err(why);
        }
        Err(error) => return Err(Status::internal(error.to_string())),
    };
    let (vote, snapshot): (_, Snapshot<RegistryRaft>) = snapshot;
    let installed = raft.install_full_snapshot(vote, snapshot).await;
    let installed = installed.map_err(|error| Status::unavailable(format!("the replica stopped: {error}")))?;
    if installed.vote == vote {
        state.receiving.installed(digest);
        tracing::info!(%digest, len, "installed a snapshot of the registry");
    }
    Ok(Answer::Settled(installed.vote))
}

/// Reads a snapshot before the Raft library gets it, for which one that cannot be read is the end.
fn open(head: &Head, whole: Unchecked) -> Result<Encoded, Status> {
    let encoded = whole.check().map_err(|found| {
        let announced = head.sha256;
        Status::data_loss(format!(
            "the snapshot was damaged on its way, or is not the one that was announced: SHA-256 {found} instead of \
             {announced}. It starts over"
        ))
    })?;
    let image = encoded.read().map_err(|error| Status::failed_precondition(format!("the snapshot: {error}")))?;
    if image.meta != head.meta {
        return Err(Status::invalid_argument("the snapshot is of another place in the log than was announced"));
    }
    Ok(Encoded { registry: Some(image.registry), ..encoded })
}

/// Drops what is under way once nothing has come for long; ends when there is nothing.
async fn forget_when_idle(state: std::sync::Weak<Mutex<State>>) {
    let mut wait = PART_KEPT;
    loop {
        tokio::time::sleep(wait).await;
        let Some(state) = state.upgrade() else { return };
        let mut state = state.lock().await;
        let idle = state.receiving.touched().map(|touched| touched.elapsed());
        match idle {
            Some(idle) if idle < PART_KEPT => wait = PART_KEPT - idle,
            _ => {
                let len = state.receiving.forget();
                if len > 0 {
                    tracing::info!(len, "a part of a snapshot was dropped: nothing more came for {PART_KEPT:?}");
                }
                state.watched = false;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_identity::sha256;
    use openraft::{SnapshotMeta, Vote};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_part_is_dropped_once_nothing_has_come_for_long() {
        let state = Arc::<Mutex<State>>::default();
        let bytes = [7; 100];
        let head = Head { vote: Vote::new(1, 1), meta: SnapshotMeta::default(), len: 100, sha256: sha256(&bytes) };
        let take = async |offset: usize, end: usize| {
            let mut state = state.lock().await;
            let taken = state.receiving.take(&head, offset as u64, &bytes[offset..end], Instant::now());
            matches!(taken, Ok(Taken::Next(next)) if next == end as u64)
        };
        assert!(take(0, 10).await);
        state.lock().await.watched = true;
        let watching = tokio::spawn(forget_when_idle(Arc::downgrade(&state)));
        tokio::time::sleep(PART_KEPT / 2).await;
        assert!(take(10, 20).await, "it is there");
        tokio::time::sleep(PART_KEPT - Duration::from_secs(1)).await;
        assert!(take(20, 30).await, "since the last piece it was not long");
        tokio::time::sleep(PART_KEPT * 2).await;
        watching.await.expect("it ended");
        assert!(state.lock().await.receiving.touched().is_none() && !state.lock().await.watched);
    }
}

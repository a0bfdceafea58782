//! Keeps the registry's record of the own cluster's exports equal to the own catalog.
//!
//! There is no queue: what is left to write is the difference between the two, taken anew each time. So changes made
//! without a quorum are written when there is one again, and only their sum. It is taken from where both agreed last:
//! what other clusters change costs nothing here. A cluster that has been drained offers nothing. Of several gateways
//! one speaks for the cluster ([`isthmus_model::speaker`]); when it is gone, the next one writes what it sees, which is
//! the same as soon as both were given the same manifests.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use isthmus_model::catalog::LocalCatalog;
use isthmus_model::command::Command;
use isthmus_model::drain;
use isthmus_model::health::PeerTable;
use isthmus_model::registry::exports::Offered;
use isthmus_model::registry::node::NodeId;
use isthmus_model::speaker;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::node::Handle;
use crate::propose::ProposeError;

/// Writes under way at once: enough to fill a WAN's round trip, few enough not to crowd out other clusters.
const WRITES_AT_ONCE: usize = 16;
/// Pause after a write that was not confirmed or was refused, and between looks at the clock while draining.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the exports agreed until told to stop, whenever gateway `own` speaks for its cluster.
pub async fn keep(
    handle: Handle,
    own: NodeId,
    mut catalog: watch::Receiver<Arc<LocalCatalog>>,
    mut peers: watch::Receiver<Arc<PeerTable>>,
    shutdown: CancellationToken,
) {
    let cluster = handle.cluster().clone();
    let mut registry = handle.registry();
    let nothing = Arc::new(LocalCatalog::default());
    // What was offered and on record when both agreed last.
    let mut agreed: Option<(Arc<LocalCatalog>, Offered)> = None;
    let mut draining;
    loop {
        let commands = {
            let registry = registry.borrow_and_update();
            let catalog = catalog.borrow_and_update();
            // Before the founding or the first replicated entry, the registry knows no member at all.
            let speaks = speaker::speaks(own, &registry, &peers.borrow_and_update());
            draining = registry.draining_since(&cluster);
            let drained = draining.is_some_and(|since| drain::is_over(since, SystemTime::now().into()));
            let offered = if drained { &nothing } else { &*catalog };
            let record = registry.exports_of(&cluster);
            let commands = match &agreed {
                _ if !speaks => Vec::new(),
                Some((before, known)) => offered.diff_since(before, known, &record),
                None => offered.diff(&record),
            };
            agreed = (speaks && commands.is_empty()).then(|| (offered.clone(), record)).or(agreed);
            commands
        };
        let settled = tokio::select! {
            () = shutdown.cancelled() => return,
            settled = write(&handle, commands) => settled,
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE), if !settled || draining.is_some() => {}
            changed = peers.changed() => if changed.is_err() { return },
            changed = catalog.changed() => if changed.is_err() { return },
            changed = registry.changed(), if settled => if changed.is_err() { return },
        }
    }
}

/// Writes all commands. Returns whether each was taken.
async fn write(handle: &Handle, commands: Vec<Command>) -> bool {
    let writes = commands.into_iter().map(|command| async move {
        let what = match &command {
            Command::SetExport { service, .. } | Command::WithdrawExport { service } => service.clone(),
            _ => return true,
        };
        match handle.propose(command).await {
            Ok(_) => true,
            Err(ProposeError::Refused(refusal)) => {
                tracing::error!(service = %what, %refusal, "the federation refused an export");
                false
            }
            Err(error) => {
                tracing::warn!(service = %what, %error, "an export is not agreed yet");
                false
            }
        }
    });
    let results = futures_util::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
    results.fold(true, |all, taken| std::future::ready(all && taken)).await
}

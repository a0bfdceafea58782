//! How the registry stands, as this replica sees it.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::health::Agreement;
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_model::time::UnixMillis;
use openraft::{RaftMetrics, ServerState};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clocks::Clocks;
use crate::quorum::QuorumWord;
use crate::raft_types::{Peer, Raft};
use crate::replicas::Growth;

/// How often the status is taken. Staleness grows with time, not with events.
const INTERVAL: Duration = Duration::from_millis(100);

/// What this replica is in the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Votes.
    Follower,
    /// Votes, and is looking for a leader.
    Candidate,
    /// Replicates without a vote.
    #[default]
    Learner,
    /// Does nothing any more: its disk failed, or it is being shut down.
    Stopped,
}

/// The registry as this replica sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryStatus {
    /// This replica.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// The current term.
    pub term: u64,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who replicates without a vote.
    pub learners: Vec<NodeId>,
    /// Index of the last entry in this replica's log.
    pub last_log: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Since when no quorum stands behind what this replica knows; `None` while one does.
    pub stale_since: Option<UnixMillis>,
}

impl RegistryStatus {
    /// The part that snapshots carry.
    #[must_use]
    pub fn agreement(&self, registry: &Registry) -> Agreement {
        let leader = self.leader.and_then(|leader| registry.nodes().get(&leader));
        Agreement { leader: leader.map(|node| node.cluster.clone()), stale_since: self.stale_since }
    }
}

/// Since when, if `silence` is longer than `patience`.
fn stale_since(silence: Duration, patience: Duration, now: UnixMillis) -> Option<UnixMillis> {
    let millis = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
    (silence > patience).then(|| UnixMillis(now.0.saturating_sub(millis)))
}

fn status(metrics: &RaftMetrics<NodeId, Peer>, stale_since: Option<UnixMillis>) -> RegistryStatus {
    let membership = metrics.membership_config.membership();
    let voters: Vec<NodeId> = membership.voter_ids().collect();
    let role = match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower => Role::Follower,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    };
    let role = if metrics.running_state.is_err() { Role::Stopped } else { role };
    RegistryStatus {
        node: metrics.id,
        role,
        term: metrics.current_term,
        // A leader that was not heard for that long is a memory, not a leader.
        leader: metrics.current_leader.filter(|_| stale_since.is_none()),
        learners: membership.learner_ids().collect(),
        voters,
        last_log: metrics.last_log_index.unwrap_or(0),
        applied: metrics.last_applied.map_or(0, |log| log.index),
        stale_since,
    }
}

/// What the status is taken from.
pub(crate) struct Looking {
    pub(crate) raft: Raft,
    pub(crate) quorum: QuorumWord,
    pub(crate) growth: Growth,
    pub(crate) clocks: Clocks,
    /// How long silence is nothing special: an election.
    pub(crate) patience: Duration,
}

/// Publishes the status until told to stop.
pub(crate) async fn keep(looking: Looking, publish: watch::Sender<RegistryStatus>, shutdown: CancellationToken) {
    let Looking { raft, quorum, growth, clocks, patience } = looking;
    let metrics = raft.metrics();
    let mut stopped = false;
    loop {
        let now = clocks.own();
        let current = {
            let metrics = metrics.borrow();
            if let Err(error) = &metrics.running_state
                && !stopped
            {
                stopped = true;
                tracing::error!(%error, "the registry's replica stopped; traffic goes on with what is agreed. \
                    Check the disk under the data directory, then restart this gateway");
            }
            growth.note(metrics.last_log_index.unwrap_or(0));
            if let Some(millis) = metrics.millis_since_quorum_ack.filter(|_| metrics.state.is_leader()) {
                quorum.note(Duration::from_millis(millis));
            }
            status(&metrics, stale_since(quorum.silence(), patience, now))
        };
        publish.send_if_modified(|known| {
            let changed = *known != current;
            *known = current;
            changed
        });
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// Watches the registry.
pub type RegistryWatch = watch::Receiver<Arc<Registry>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_stale_only_when_it_is_longer_than_an_election() {
        let since = |secs| stale_since(Duration::from_secs(secs), Duration::from_secs(2), UnixMillis(100_000));
        assert_eq!((since(0), since(2), since(7)), (None, None, Some(UnixMillis(93_000))));
    }
}

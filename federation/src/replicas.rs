//! How the registry's replicas stand, taken when somebody asks: what changes with every heartbeat, and would make
//! everyone look up if it were published.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use isthmus_model::registry::node::NodeId;
use openraft::RaftMetrics;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clocks::Clocks;
use crate::raft_types::{Peer, Raft};

/// Whoever was not heard for longer is not heard.
const TOLD_WITHIN: Duration = Duration::from_secs(60);
/// Steps of the log's growth that are remembered. With one each 100 ms, a minute and more.
const STEPS_MAX: usize = 1_024;

/// When the log had which length. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Growth(Arc<Mutex<VecDeque<(u64, Instant)>>>);

impl Growth {
    /// The log ends with entry `last` now.
    pub(crate) fn note(&self, last: u64) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if steps.back().is_some_and(|(known, _)| *known == last) {
            return;
        }
        if steps.len() >= STEPS_MAX {
            steps.pop_front();
        }
        steps.push_back((last, Instant::now()));
    }

    /// For how long the log has been longer than `matched`; zero while it is not.
    fn behind(&self, matched: u64) -> Duration {
        let steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first_after = steps.iter().find(|(last, _)| *last > matched);
        first_after.map_or(Duration::ZERO, |(_, at)| at.elapsed())
    }
}

/// One replica, as another one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Which one.
    pub node: NodeId,
    /// Whether it votes.
    pub votes: bool,
    /// Entries of the log that it has not confirmed. Only the leader knows.
    pub lag_entries: Option<u64>,
    /// For how long it has been behind, in milliseconds. Only the leader knows.
    pub lag_ms: Option<u64>,
    /// How long ago it was heard, in milliseconds; none if not within a minute, or if it is this one.
    pub heard_ms_ago: Option<u64>,
}

/// The registry's replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replicas {
    /// All of them.
    pub replicas: Vec<ReplicaView>,
    /// Voters that may fail yet before nothing can be agreed; negative when that is so now. Only the leader knows.
    pub quorum_margin: Option<i64>,
    /// Index of the last entry that is in a snapshot on disk; 0 before the first.
    pub snapshot: u64,
    /// Index of the last entry that the log does not have any more.
    pub purged: u64,
    /// Bytes of the registry's file.
    pub file_bytes: u64,
    /// Bytes that are free where it is.
    pub disk_free_bytes: u64,
}

/// Takes a look at the replicas.
#[derive(Clone)]
pub struct Replicating {
    pub(crate) raft: Raft,
    pub(crate) clocks: Clocks,
    pub(crate) growth: Growth,
    pub(crate) file: PathBuf,
    /// How long a voter may be silent and still be counted on.
    pub(crate) lately: Duration,
}

impl Replicating {
    /// How the replicas stand now.
    #[must_use]
    pub fn view(&self) -> Replicas {
        let (file_bytes, disk_free_bytes) = disk(&self.file);
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let replicas: Vec<ReplicaView> = self.replicas(&metrics);
        let leads = metrics.state.is_leader();
        Replicas {
            quorum_margin: leads.then(|| margin(metrics.id, &replicas, self.lately)),
            snapshot: metrics.snapshot.map_or(0, |log| log.index),
            purged: metrics.purged.map_or(0, |log| log.index),
            replicas,
            file_bytes,
            disk_free_bytes,
        }
    }

    fn replicas(&self, metrics: &RaftMetrics<NodeId, Peer>) -> Vec<ReplicaView> {
        let membership = metrics.membership_config.membership();
        let end = metrics.last_log_index.unwrap_or(0);
        let matched = |node: NodeId| {
            let replication = metrics.replication.as_ref()?;
            Some(replication.get(&node)?.map_or(0, |log| log.index))
        };
        let view = |(node, _): (&NodeId, &Peer)| {
            let matched = matched(*node);
            ReplicaView {
                node: *node,
                votes: membership.voter_ids().any(|voter| voter == *node),
                lag_entries: matched.map(|matched| end.saturating_sub(matched)),
                lag_ms: matched.map(|matched| millis(self.growth.behind(matched))),
                heard_ms_ago: self.clocks.heard(*node).filter(|ago| *ago <= TOLD_WITHIN).map(millis),
            }
        };
        membership.nodes().map(view).collect()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many of the voters that are there a quorum does not need.
fn margin(own: NodeId, replicas: &[ReplicaView], lately: Duration) -> i64 {
    let voters = || replicas.iter().filter(|replica| replica.votes);
    let is_there =
        |replica: &&ReplicaView| replica.node == own || replica.heard_ms_ago.is_some_and(|ago| ago <= millis(lately));
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let needed = voters().count() / 2 + 1;
    count(voters().filter(is_there).count()) - count(needed)
}

/// The size of the file, and the room that is left beside it.
fn disk(file: &Path) -> (u64, u64) {
    let size = std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    let free = rustix::fs::statvfs(file).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    (size, free)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: NodeId, votes: bool, heard_ms_ago: Option<u64>) -> ReplicaView {
        ReplicaView { node, votes, lag_entries: None, lag_ms: None, heard_ms_ago }
    }

    #[test]
    fn the_margin_counts_voters_that_were_heard_lately() {
        let sole = [replica(1, true, None), replica(2, false, Some(5))];
        let margin = |replicas: &[ReplicaView]| margin(1, replicas, Duration::from_secs(3));
        assert_eq!(margin(&sole), 0);
        let three = |second, third| [replica(1, true, None), replica(2, true, second), replica(3, true, third)];
        assert_eq!(margin(&three(Some(5), Some(90))), 1);
        assert_eq!(margin(&three(Some(5), Some(59_000))), 0);
        assert_eq!(margin(&three(None, None)), -1);
    }

    #[test]
    fn who_has_the_whole_log_is_not_behind() {
        let growth = Growth::default();
        for last in [1, 1, 2] {
            growth.note(last);
        }
        assert_eq!(growth.behind(2), Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        assert!(growth.behind(1) >= Duration::from_millis(2) && growth.behind(0) >= growth.behind(1));
        (0..2 * STEPS_MAX as u64).for_each(|last| growth.note(last));
        assert_eq!(growth.0.lock().expect("no panic").len(), STEPS_MAX);
    }
}

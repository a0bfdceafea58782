//! What voters think of each other: whether they would vote, and how far apart they are.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use isthmus_model::registry::NODES_MAX;
use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::election_client::ElectionClient;
use isthmus_wire::peer::{Candidacy, Opinion};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use super::{DISTANCE_FRESH, Election, placement};
use crate::raft_types::{LogId, Peer};

/// Whether most of each council are among the `willing`. While voters change there are two.
fn is_quorum(willing: &BTreeSet<NodeId>, councils: &[BTreeSet<NodeId>]) -> bool {
    councils.iter().all(|council| council.intersection(willing).count() > council.len() / 2)
}

impl Election {
    /// Whether most voters would vote for this replica.
    pub(super) async fn would_be_elected(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> bool {
        let councils = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().get_joint_config().clone()
        };
        let mut answers = self.canvass(own, voters).await;
        let mut willing = BTreeSet::from([own]);
        while !is_quorum(&willing, &councils) {
            match answers.next().await {
                Some((voter, Some(opinion))) if opinion.would_vote => {
                    willing.insert(voter);
                }
                Some(_) => {}
                None => return false,
            }
        }
        // Meanwhile another may have been elected.
        self.is_abandoned()
    }

    /// Asks all other voters for their opinion of this replica. Opinions come as they are given, in good time or not at
    /// all.
    async fn canvass(
        &self,
        own: NodeId,
        voters: &BTreeSet<NodeId>,
    ) -> FuturesUnordered<impl Future<Output = (NodeId, Option<Opinion>)>> {
        let last = self.last_entry().await;
        let peers: Vec<(NodeId, Peer)> = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let others = voters.iter().filter(|voter| **voter != own);
            others.filter_map(|voter| Some((*voter, membership.get_node(voter)?.clone()))).collect()
        };
        peers.into_iter().map(|(voter, peer)| async move { (voter, self.ask(own, voter, &peer, last).await) }).collect()
    }

    pub(super) fn candidacy(&self, own: NodeId, last: Option<LogId>) -> Candidacy {
        let (term, leader) = last.map_or((0, 0), |last| (last.leader_id.term, last.leader_id.node_id));
        let index = last.map_or(0, |last| last.index);
        Candidacy { node: own, term, leader, index, lineage: self.lineage.own(), clock_ms: Some(self.clocks.own().0) }
    }

    async fn ask(&self, own: NodeId, voter: NodeId, peer: &Peer, last: Option<LogId>) -> Option<Opinion> {
        let mut client = ElectionClient::new(self.dialer.channel(peer.0.as_ref()?));
        let asked = Instant::now();
        let answer =
            timeout(self.timing.heartbeat, client.canvass(Request::new(self.candidacy(own, last)))).await.ok()?;
        match answer {
            Ok(opinion) => {
                let opinion = opinion.into_inner();
                self.note_round_trip(voter, asked.elapsed());
                self.clocks.note(voter, opinion.clock_ms, Some(asked.elapsed()));
                if let Some(micros) = opinion.distance_us {
                    self.note_distance(voter, Duration::from_micros(micros));
                }
                Some(opinion)
            }
            // A version that knows no opinions: it will say so by its vote.
            Err(status) if status.code() == Code::Unimplemented => {
                Some(Opinion { would_vote: true, ..Opinion::default() })
            }
            Err(status) => {
                tracing::debug!(voter, %status, "a voter gives no opinion");
                None
            }
        }
    }

    /// Measures how far the other voters are, and hears how far they are from each other.
    pub(super) async fn sound(&self, own: NodeId, voters: &BTreeSet<NodeId>) {
        let mut answers = self.canvass(own, voters).await;
        while answers.next().await.is_some() {}
    }

    /// Of a question that costs nothing to answer: those of a leader wait for disks.
    fn note_round_trip(&self, voter: NodeId, round_trip: Duration) {
        let mut measured = self.shared.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        if measured.len() >= NODES_MAX {
            measured.clear();
        }
        measured.insert(voter, round_trip);
    }

    fn note_distance(&self, voter: NodeId, distance: Duration) {
        let mut distances = self.shared.distances.lock().unwrap_or_else(PoisonError::into_inner);
        distances.retain(|_, (_, at)| at.elapsed() <= DISTANCE_FRESH);
        if distances.len() < NODES_MAX {
            distances.insert(voter, (distance, Instant::now()));
        }
    }

    /// The median of the round trips to the other voters, once all are known.
    pub(super) fn own_distance(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> Option<Duration> {
        let others = voters.iter().filter(|voter| **voter != own);
        let measured = self.shared.round_trips.lock().unwrap_or_else(PoisonError::into_inner);
        placement::median(others.map(|voter| measured.get(voter).copied()).collect::<Option<Vec<_>>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_voters_change_most_of_both_councils_have_to_be_willing() {
        let councils = |ids: &[&[NodeId]]| ids.iter().map(|ids| ids.iter().copied().collect()).collect::<Vec<_>>();
        let willing = BTreeSet::from([1, 2]);
        assert!(is_quorum(&willing, &councils(&[&[1, 2, 3]])));
        assert!(is_quorum(&willing, &councils(&[&[1, 2, 3], &[1, 2, 4]])));
        assert!(!is_quorum(&willing, &councils(&[&[1, 2, 3], &[2, 3, 4]])));
        assert!(!is_quorum(&willing, &councils(&[&[1, 2, 3, 4]])));
    }
}

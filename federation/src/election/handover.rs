//! A leader that lets another one lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::election_client::ElectionClient;
use tokio::time::timeout;
use tonic::{Request, Status};

use super::{DISTANCE_FRESH, Election, LOOK_INTERVAL, placement, voters};
use crate::node::lease;

/// Voters that could lead at once, with how far they say that they are from the others.
type Candidates = BTreeMap<NodeId, Option<Duration>>;

/// Why a leader did not hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHandedOver {
    /// Nothing to hand over.
    #[error("this gateway does not lead the registry")]
    DoesNotLead,
    /// Nobody to hand over to.
    #[error("no other voter is in step and answers")]
    NoSuccessor,
    /// One at a time.
    #[error("it is being handed over already")]
    UnderWay,
    /// Nobody leads in its place yet: the others will elect one.
    #[error("the successor was not elected in time")]
    NotElected,
}

/// A handover under way, of which there is one at a time. However it ends, this replica is heard again, if it leads still.
struct HandingOver<'a>(&'a Election);

impl<'a> HandingOver<'a> {
    fn begin(election: &'a Election) -> Option<Self> {
        let free = !election.shared.handing_over.swap(true, Ordering::Relaxed);
        free.then_some(Self(election))
    }
}

impl Drop for HandingOver<'_> {
    fn drop(&mut self) {
        self.0.shared.handing_over.store(false, Ordering::Relaxed);
        self.0.speak(true);
    }
}

impl Election {
    fn candidates(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> Candidates {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let distances = self.shared.distances.lock().unwrap_or_else(PoisonError::into_inner);
        let in_step = |voter: &NodeId| {
            let matched = metrics.replication.as_ref()?.get(voter)?.as_ref()?;
            let lately = self.clocks.heard(*voter)? <= self.timing.election_min;
            (lately && Some(matched.index) >= metrics.last_log_index).then_some(*voter)
        };
        let others = voters.iter().filter(|voter| **voter != own).filter_map(in_step);
        let fresh = |voter: NodeId| {
            let (distance, at) = distances.get(&voter)?;
            (at.elapsed() <= DISTANCE_FRESH).then_some(*distance)
        };
        others.map(|voter| (voter, fresh(voter))).collect()
    }

    /// Hands over to a voter that is much better placed, if there is one. Returns whether it was tried.
    pub(super) async fn make_way(&self, own: NodeId, voters: &BTreeSet<NodeId>) -> bool {
        let Some(distance) = self.own_distance(own, voters) else { return false };
        if placement::better(distance, &self.candidates(own, voters)).is_none() {
            return false;
        }
        tracing::info!("another voter is nearer to all others: it is to lead the registry");
        if let Err(error) = self.hand_over_to(|candidates| placement::better(distance, candidates)).await {
            tracing::info!(%error, "the registry's leader stays");
        }
        true
    }

    /// Hands over to the voter that is best placed, before this replica stops.
    pub(crate) async fn hand_over(&self) -> Result<NodeId, NotHandedOver> {
        self.hand_over_to(placement::nearest).await
    }

    /// Takes no more writes, waits for a successor that has all of them, falls silent until voters are free to vote for
    /// another, and lets it stand.
    async fn hand_over_to(&self, choose: impl Fn(&Candidates) -> Option<NodeId>) -> Result<NodeId, NotHandedOver> {
        let (own, voters) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            if !metrics.state.is_leader() {
                return Err(NotHandedOver::DoesNotLead);
            }
            (metrics.id, voters(&metrics))
        };
        if voters.len() == 1 {
            return Err(NotHandedOver::NoSuccessor);
        }
        let _handing_over = HandingOver::begin(self).ok_or(NotHandedOver::UnderWay)?;
        self.writer.close(true);
        let chosen = timeout(self.timing.heartbeat, async {
            loop {
                if let Some(successor) = choose(&self.candidates(own, &voters)) {
                    return successor;
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        });
        let successor = chosen.await.map_err(|_| NotHandedOver::NoSuccessor)?;
        self.speak(false);
        // As long as the library's voters keep to a leader that they heard.
        tokio::time::sleep(lease(self.timing) + LOOK_INTERVAL).await;
        let elected = timeout(self.timing.heartbeat * 3, self.have_stand(own, successor)).await;
        elected.unwrap_or(Err(NotHandedOver::NotElected)).map(|()| successor)
    }

    async fn have_stand(&self, own: NodeId, successor: NodeId) -> Result<(), NotHandedOver> {
        let peer = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.membership_config.membership().get_node(&successor).and_then(|peer| peer.0.clone())
        };
        let peer = peer.ok_or(NotHandedOver::NoSuccessor)?;
        let candidacy = self.candidacy(own, self.last_entry().await);
        let mut client = ElectionClient::new(self.dialer.channel(&peer));
        client.stand(Request::new(candidacy)).await.map_err(|status: Status| {
            tracing::debug!(successor, %status, "the successor does not stand");
            NotHandedOver::NotElected
        })?;
        let elected = self.raft.wait(None).metrics(|metrics| !metrics.state.is_leader(), "another leads").await;
        elected.map(drop).map_err(|_| NotHandedOver::NotElected)
    }
}

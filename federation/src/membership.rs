//! The leader's care for who replicates and who votes.
//!
//! The registry says who is a member; the pure plan in [`isthmus_model::voters`] says who votes. This task
//! moves the Raft membership there, one step at a time, and only while this node leads. Every step follows
//! from the current state alone, so a new leader goes on where the last one stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::voters;
use openraft::{ChangeMembers, RaftMetrics};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::raft_types::{Peer, Raft};

/// How far behind the log's end a learner may be to become a voter. A voter further behind would hold up
/// commits until it caught up.
const PROMOTION_LAG_MAX: u64 = 64;
/// A step that is not agreed in this time is given up and planned anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the state is looked at when nothing is heard: replication progress has no event of its own.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A change of the Raft membership.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Start replicating to a new member.
    AddLearner(NodeId, Peer),
    /// A member has a new address.
    Readdress(NodeId, Peer),
    /// Other nodes should vote.
    SetVoters(BTreeSet<NodeId>),
    /// Stop replicating to one that is no member.
    Remove(NodeId),
}

/// The Raft membership as the leader sees it.
struct View {
    nodes: BTreeMap<NodeId, Peer>,
    voters: BTreeSet<NodeId>,
    /// Nodes whose log is near the end.
    in_step: BTreeSet<NodeId>,
}

impl View {
    fn of(metrics: &RaftMetrics<NodeId, Peer>) -> Self {
        let membership = metrics.membership_config.membership();
        let end = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let in_step = matched.filter(|(_, log)| log.is_some_and(|log| log.index + PROMOTION_LAG_MAX >= end));
        Self {
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            voters: membership.voter_ids().collect(),
            in_step: in_step.map(|(id, _)| *id).collect(),
        }
    }
}

/// The next step from `view` to what `members` want, if any.
fn next_step(members: &BTreeMap<NodeId, Node>, view: &View) -> Option<Step> {
    if members.is_empty() {
        return None;
    }
    for (id, member) in members {
        let peer = Peer::from(member);
        match view.nodes.get(id) {
            None => return Some(Step::AddLearner(*id, peer)),
            Some(known) if *known != peer => return Some(Step::Readdress(*id, peer)),
            Some(_) => {}
        }
    }
    let eligible: BTreeMap<NodeId, Node> = members
        .iter()
        .filter(|(id, _)| view.voters.contains(id) || view.in_step.contains(id))
        .map(|(id, member)| (*id, member.clone()))
        .collect();
    let wanted = voters::plan(&eligible, &view.voters);
    if !wanted.is_empty() && wanted != view.voters {
        return Some(Step::SetVoters(wanted));
    }
    let gone = view.nodes.keys().find(|id| !members.contains_key(id));
    gone.map(|id| Step::Remove(*id))
}

async fn take(raft: &Raft, step: Step) -> Result<(), String> {
    let change = match step {
        Step::AddLearner(id, peer) => {
            return raft.add_learner(id, peer, false).await.map(|_| ()).map_err(|error| error.to_string());
        }
        Step::Readdress(id, peer) => ChangeMembers::SetNodes(BTreeMap::from([(id, peer)])),
        Step::SetVoters(voters) => ChangeMembers::ReplaceAllVoters(voters),
        Step::Remove(id) => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
    };
    // Former voters stay as learners: they are members still.
    raft.change_membership(change, true).await.map(|_| ()).map_err(|error| error.to_string())
}

/// Keeps the membership right until told to stop.
pub(crate) async fn keep(raft: Raft, mut registry: watch::Receiver<Arc<Registry>>, shutdown: CancellationToken) {
    let metrics = raft.metrics();
    loop {
        let step = {
            let metrics = metrics.borrow();
            let leads = metrics.current_leader == Some(metrics.id) && metrics.state.is_leader();
            let registry = registry.borrow_and_update();
            let members = || registry.members().map(|(id, node)| (*id, node.clone())).collect();
            leads.then(|| next_step(&members(), &View::of(&metrics))).flatten()
        };
        if let Some(step) = step {
            tracing::info!(?step, "changing the registry's replicas");
            match tokio::time::timeout(STEP_TIMEOUT, take(&raft, step)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => tracing::warn!(%error, "the replicas could not be changed yet"),
                Err(_) => tracing::warn!("no quorum agreed to change the replicas in time"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            changed = registry.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use isthmus_model::fixture;

    fn member(id: NodeId) -> (NodeId, Node) {
        let key = u8::try_from(id).expect("small");
        let node = fixture::member(&format!("c{id}"), &format!("r{id}"), key);
        (id, node)
    }

    fn view(nodes: &[NodeId], voters: &[NodeId], in_step: &[NodeId]) -> View {
        View {
            nodes: nodes.iter().map(|id| (*id, Peer::from(&member(*id).1))).collect(),
            voters: voters.iter().copied().collect(),
            in_step: in_step.iter().copied().collect(),
        }
    }

    #[test]
    fn a_member_becomes_learner_then_voter_once_it_is_in_step() {
        let members: BTreeMap<NodeId, Node> = [member(1), member(2), member(3)].into();
        let step = next_step(&members, &view(&[1], &[1], &[1]));
        assert!(matches!(step, Some(Step::AddLearner(2, _))), "{step:?}");
        let step = next_step(&members, &view(&[1, 2], &[1], &[1]));
        assert!(matches!(step, Some(Step::AddLearner(3, _))), "{step:?}");
        assert_eq!(next_step(&members, &view(&[1, 2, 3], &[1], &[1, 2])), None, "two voters are worse than one");
        let step = next_step(&members, &view(&[1, 2, 3], &[1], &[1, 2, 3]));
        assert_eq!(step, Some(Step::SetVoters([1, 2, 3].into())));
        assert_eq!(next_step(&members, &view(&[1, 2, 3], &[1, 2, 3], &[1])), None, "a slow voter keeps its seat");
    }

    #[test]
    fn one_that_left_loses_its_vote_before_its_place() {
        let members: BTreeMap<NodeId, Node> = [member(1), member(2), member(3), member(4)].into();
        let members = members.into_iter().filter(|(id, _)| *id != 2).collect();
        let step = next_step(&members, &view(&[1, 2, 3, 4], &[1, 2, 3], &[1, 3, 4]));
        assert_eq!(step, Some(Step::SetVoters([1, 3, 4].into())));
        let step = next_step(&members, &view(&[1, 2, 3, 4], &[1, 3, 4], &[1, 3, 4]));
        assert_eq!(step, Some(Step::Remove(2)));
    }

    #[test]
    fn a_new_address_is_told_to_everyone() {
        let mut members: BTreeMap<NodeId, Node> = [member(1)].into();
        for node in members.values_mut() {
            node.east_west.set_port(16000);
        }
        let step = next_step(&members, &view(&[1], &[1], &[1]));
        assert!(matches!(step, Some(Step::Readdress(1, _))), "{step:?}");
    }
}

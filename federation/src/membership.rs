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
use isthmus_model::voters::{self, Candidate};
use openraft::{ChangeMembers, RaftMetrics};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clocks::Clocks;
use crate::raft_types::{Peer, Raft};

/// How far behind the log's end a learner may be to become a voter. A voter further behind would hold up
/// commits until it caught up.
const PROMOTION_LAG_MAX: u64 = 64;
/// A step that is not agreed in this time is given up and planned anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How far away a member is that never answered: further than any that did.
const FAR: Duration = Duration::MAX;
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
    /// The leader itself.
    own: NodeId,
    nodes: BTreeMap<NodeId, Peer>,
    voters: BTreeSet<NodeId>,
    /// Nodes whose log is near the end.
    in_step: BTreeSet<NodeId>,
    /// Nodes that do not answer: voters for as long as the operator gives them, others lately.
    silent: BTreeSet<NodeId>,
    /// How far away they are.
    distance: BTreeMap<NodeId, Duration>,
    /// Whether a change of voters is half done: until it is finished, both councils have to agree to everything.
    joint: bool,
}

/// Who votes, as the operator wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voting {
    /// Voters at most: 1, 3, 5 or 7.
    pub seats: usize,
    /// How long a voter may be silent before another one takes its seat.
    pub replace_after: Duration,
}

impl Default for Voting {
    /// A gateway that is upgraded or moved is back by then.
    fn default() -> Self {
        Self { seats: voters::VOTERS_DEFAULT, replace_after: Duration::from_secs(600) }
    }
}

/// How long a member may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// One that votes, to keep its seat.
    pub(crate) replace_after: Duration,
    /// One that does not, to get one: several heartbeats.
    pub(crate) lately: Duration,
}

impl View {
    /// As the leader sees it, which has led for `led_for`: before that it heard of nobody.
    fn of(metrics: &RaftMetrics<NodeId, Peer>, clocks: &Clocks, patience: &Patience, led_for: Duration) -> Self {
        let membership = metrics.membership_config.membership();
        let end = metrics.last_log_index.unwrap_or(0);
        let matched = metrics.replication.iter().flatten();
        let in_step = matched.filter(|(_, log)| log.is_some_and(|log| log.index + PROMOTION_LAG_MAX >= end));
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let silent = |id: &NodeId| {
            let patience = if voters.contains(id) { patience.replace_after } else { patience.lately };
            *id != metrics.id && clocks.heard(*id).unwrap_or(led_for).min(led_for) > patience
        };
        let ids = || membership.nodes().map(|(id, _)| *id);
        Self {
            own: metrics.id,
            joint: membership.get_joint_config().len() > 1,
            silent: ids().filter(silent).collect(),
            distance: ids().filter_map(|id| Some((id, clocks.round_trip(id)?))).collect(),
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
            voters,
            in_step: in_step.map(|(id, _)| *id).collect(),
        }
    }
}

/// The next step from `view` to what `members` want, with so many voters at most, if any.
fn next_step(members: &BTreeMap<NodeId, Node>, view: &View, seats: usize) -> Option<Step> {
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
    let candidate = |(id, member): (&NodeId, &Node)| {
        let sitting = view.voters.contains(id);
        let follows = sitting || view.in_step.contains(id);
        let distance = if *id == view.own { Duration::ZERO } else { view.distance.get(id).copied().unwrap_or(FAR) };
        (*id, Candidate { fit: follows && !view.silent.contains(id), distance, ..Candidate::of(member, sitting) })
    };
    let wanted = voters::plan(&members.iter().map(candidate).collect(), seats);
    if !wanted.is_empty() && (wanted != view.voters || view.joint) {
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
pub(crate) async fn keep(
    raft: Raft,
    clocks: Clocks,
    (voting, lately): (Voting, Duration),
    mut registry: watch::Receiver<Arc<Registry>>,
    shutdown: CancellationToken,
) {
    let metrics = raft.metrics();
    let patience = Patience { replace_after: voting.replace_after, lately };
    let mut leading_since: Option<Instant> = None;
    loop {
        let step = {
            let metrics = metrics.borrow();
            let leads = metrics.current_leader == Some(metrics.id) && metrics.state.is_leader();
            let registry = registry.borrow_and_update();
            let members = || registry.members().map(|(id, node)| (*id, node.clone())).collect();
            leading_since = leads.then(|| leading_since.unwrap_or_else(Instant::now));
            let led_for = leading_since.map(|since| since.elapsed());
            led_for.and_then(|led_for| {
                next_step(&members(), &View::of(&metrics, &clocks, &patience, led_for), voting.seats)
            })
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
            own: 1,
            silent: BTreeSet::new(),
            distance: BTreeMap::new(),
            joint: false,
        }
    }

    fn next_step_of(members: &BTreeMap<NodeId, Node>, view: &View) -> Option<Step> {
        next_step(members, view, voters::VOTERS_DEFAULT)
    }

    #[test]
    fn a_change_of_voters_that_was_left_half_done_is_finished() {
        let members: BTreeMap<NodeId, Node> = [member(1), member(2), member(3)].into();
        let settled = view(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]);
        assert_eq!(next_step_of(&members, &settled), None);
        let joint = View { joint: true, ..settled };
        assert_eq!(next_step_of(&members, &joint), Some(Step::SetVoters([1, 2, 3].into())));
    }

    #[test]
    fn a_voter_that_is_silent_gives_its_seat_to_one_that_follows_and_answers() {
        let members: BTreeMap<NodeId, Node> = [member(1), member(2), member(3), member(4)].into();
        let silent = |silent: &[NodeId]| View {
            silent: silent.iter().copied().collect(),
            ..view(&[1, 2, 3, 4], &[1, 2, 3], &[1, 3, 4])
        };
        assert_eq!(next_step_of(&members, &silent(&[])), None);
        assert_eq!(next_step_of(&members, &silent(&[2])), Some(Step::SetVoters([1, 3, 4].into())));
        assert_eq!(next_step_of(&members, &silent(&[2, 4])), None, "there is nobody else");
        assert_eq!(next_step(&members, &silent(&[]), 1), Some(Step::SetVoters([1].into())), "as the operator wants it");
    }

    #[test]
    fn a_member_becomes_learner_then_voter_once_it_is_in_step() {
        let members: BTreeMap<NodeId, Node> = [member(1), member(2), member(3)].into();
        let step = next_step_of(&members, &view(&[1], &[1], &[1]));
        assert!(matches!(step, Some(Step::AddLearner(2, _))), "{step:?}");
        let step = next_step_of(&members, &view(&[1, 2], &[1], &[1]));
        assert!(matches!(step, Some(Step::AddLearner(3, _))), "{step:?}");
        assert_eq!(next_step_of(&members, &view(&[1, 2, 3], &[1], &[1, 2])), None, "two voters are worse than one");
        let step = next_step_of(&members, &view(&[1, 2, 3], &[1], &[1, 2, 3]));
        assert_eq!(step, Some(Step::SetVoters([1, 2, 3].into())));
        assert_eq!(next_step_of(&members, &view(&[1, 2, 3], &[1, 2, 3], &[1])), None, "a slow voter keeps its seat");
    }

    #[test]
    fn one_that_left_loses_its_vote_before_its_place() {
        let members: BTreeMap<NodeId, Node> = [member(1), member(2), member(3), member(4)].into();
        let members = members.into_iter().filter(|(id, _)| *id != 2).collect();
        let step = next_step_of(&members, &view(&[1, 2, 3, 4], &[1, 2, 3], &[1, 3, 4]));
        assert_eq!(step, Some(Step::SetVoters([1, 3, 4].into())));
        let step = next_step_of(&members, &view(&[1, 2, 3, 4], &[1, 3, 4], &[1, 3, 4]));
        assert_eq!(step, Some(Step::Remove(2)));
    }

    #[test]
    fn a_new_address_is_told_to_everyone() {
        let mut members: BTreeMap<NodeId, Node> = [member(1)].into();
        for node in members.values_mut() {
            node.east_west.set_port(16000);
        }
        let step = next_step_of(&members, &view(&[1], &[1], &[1]));
        assert!(matches!(step, Some(Step::Readdress(1, _))), "{step:?}");
    }
}

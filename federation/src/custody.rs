//! Keeping the root's key: sealing it to whoever votes, and signing with it what gateways ask for.
//!
//! The key exists in the clear only while something is signed or sealed, on a gateway that votes. The leader acts at
//! once; another voter only when the leader does not, perhaps because it cannot open the key yet. Every step follows
//! from the agreed state alone, so whoever takes over goes on where the last one stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{IdentityError, OpeningKey, RootAuthority};
use isthmus_model::command::Command;
use isthmus_model::name::FederationDomain;
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Custody, Envelopes, Root};
use isthmus_model::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::propose::Proposer;

/// How often the state is looked at when nothing is heard: leadership has no event of its own.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a keeper that does not lead leaves a task to the one that does.
const STANDBY: Duration = Duration::from_secs(3);

/// Pause before a task that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// What a keeper of the root needs.
pub(crate) struct Keeper {
    pub(crate) node: NodeId,
    pub(crate) federation: FederationDomain,
    pub(crate) opening_key: OpeningKey,
    /// How long what it signs is good for.
    pub(crate) lifetime: Duration,
    pub(crate) proposer: Proposer,
}

/// Something to do with the root's key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Task {
    /// A root's key is sealed to others than those that vote.
    Reseal { root: Digest, voters: BTreeSet<NodeId> },
    /// A gateway waits for certificates for this authority key.
    Sign { node: NodeId, authority_key: Digest },
}

/// A task that was seen before, so that one which fails holds up no other.
#[derive(Clone, Debug)]
struct Seen {
    task: Task,
    since: Instant,
    not_before: Instant,
}

impl Seen {
    fn is_due(&self, leads: bool) -> bool {
        (leads || self.since.elapsed() >= STANDBY) && Instant::now() >= self.not_before
    }
}

/// What there is to do for a keeper, given who votes.
fn tasks(registry: &Registry, keeper: NodeId, voters: &BTreeSet<NodeId>) -> Vec<Task> {
    let Some(trust) = registry.trust() else { return Vec::new() };
    let certified = |id: &NodeId| registry.nodes().get(id).is_some_and(Node::is_certified);
    let voters: BTreeSet<NodeId> = voters.iter().copied().filter(certified).collect();
    let mut tasks = Vec::new();
    for root in trust.roots() {
        let Custody::Sealed { envelopes } = &root.custody else { continue };
        let kept = envelopes.0.contains_key(&keeper);
        if kept && !voters.is_empty() && !envelopes.0.keys().eq(&voters) {
            tasks.push(Task::Reseal { root: root.key, voters: voters.clone() });
        }
    }
    if trust.is_keeper(&trust.issuer().key, keeper) {
        let waiting = registry.nodes().iter().filter_map(|(id, node)| Some((*id, node.pending.as_ref()?)));
        let sign = |(node, pending): (_, &isthmus_model::registry::node::Pending)| Task::Sign {
            node,
            authority_key: pending.requests.authority_key,
        };
        tasks.extend(waiting.map(sign));
    }
    tasks
}

/// Why a task could not be done.
#[derive(Debug, thiserror::Error)]
enum Undone {
    #[error("{0}")]
    Identity(#[from] IdentityError),
    #[error("{0}")]
    Propose(#[from] crate::propose::ProposeError),
    #[error("the state changed meanwhile")]
    Outdated,
}

impl Keeper {
    fn open(&self, root: &Root) -> Result<RootAuthority, IdentityError> {
        RootAuthority::unseal(&self.federation, root, self.node, &self.opening_key)
    }

    /// Does a task, as it is in `registry`.
    async fn carry_out(&self, registry: &Registry, task: &Task) -> Result<(), Undone> {
        let command = match task {
            Task::Reseal { root, voters } => self.reseal(registry, root, voters)?,
            Task::Sign { node, authority_key } => self.sign(registry, *node, authority_key)?,
        };
        self.proposer.propose(command).await?;
        Ok(())
    }

    fn reseal(&self, registry: &Registry, key: &Digest, voters: &BTreeSet<NodeId>) -> Result<Command, Undone> {
        let trust = registry.trust().ok_or(Undone::Outdated)?;
        let root = trust.roots().iter().find(|root| root.key == *key).ok_or(Undone::Outdated)?;
        let authority = self.open(root)?;
        let seal = |id: &NodeId| {
            let node = registry.nodes().get(id).ok_or(Undone::Outdated)?;
            Ok((*id, authority.seal(*id, &node.sealing_key)?))
        };
        let envelopes = voters.iter().map(seal).collect::<Result<BTreeMap<_, _>, Undone>>()?;
        tracing::info!(root = %key, ?voters, "sealing the root's key to those that vote");
        Ok(Command::Reseal { root: *key, envelopes: Envelopes(envelopes) })
    }

    fn sign(&self, registry: &Registry, id: NodeId, authority_key: &Digest) -> Result<Command, Undone> {
        let node = registry.nodes().get(&id).ok_or(Undone::Outdated)?;
        let pending = node.pending.as_ref().ok_or(Undone::Outdated)?;
        let root = registry.trust().ok_or(Undone::Outdated)?.issuer();
        let identity = SpiffeId::gateway(self.federation.trust_domain(&node.cluster), node.gateway.clone());
        let now = SystemTime::now();
        let certificates = self.open(root)?.certify(&pending.requests, &identity, self.lifetime, now)?;
        tracing::info!(%identity, node = id, root = %root.key, "signed a gateway's certificates");
        Ok(Command::Issue { node: id, authority_key: *authority_key, certificates })
    }

    /// Does whatever there is to do, until told to stop. `leadership` tells who leads and who votes.
    pub(crate) async fn keep(
        self,
        leadership: impl Fn() -> (bool, BTreeSet<NodeId>) + Send,
        mut registry: watch::Receiver<Arc<Registry>>,
        shutdown: CancellationToken,
    ) {
        let mut seen: Vec<Seen> = Vec::new();
        loop {
            let current = registry.borrow_and_update().clone();
            let (leads, voters) = leadership();
            let known = |task: Task| match seen.iter().find(|seen| seen.task == task) {
                Some(seen) => seen.clone(),
                None => Seen { task, since: Instant::now(), not_before: Instant::now() },
            };
            seen = tasks(&current, self.node, &voters).into_iter().map(known).collect();
            for seen in seen.iter_mut().filter(|seen| seen.is_due(leads)) {
                let Err(error) = self.carry_out(&current, &seen.task).await else {
                    // The state that the next one is judged by has changed.
                    break;
                };
                tracing::warn!(task = ?seen.task, %error, "what the root's key is needed for is not done yet");
                seen.not_before = Instant::now() + RETRY_PAUSE;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                changed = registry.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_model::command::Entry;
    use isthmus_model::fixture::{self, FOUNDER, ROOT};
    use isthmus_model::registry::token::TokenId;
    use isthmus_model::time::UnixMillis;

    use super::*;

    fn apply(registry: &mut Registry, command: Command) {
        let entry = Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(1), command };
        registry.apply(&entry).expect("a legal command");
    }

    fn founded() -> Registry {
        let mut registry = Registry::default();
        let founder = fixture::introduction("us-east", "gw-1", "r1", 1);
        apply(&mut registry, fixture::found("acme.mesh".parse().expect("valid"), founder));
        registry
    }

    #[test]
    fn newcomers_are_signed_for_and_voters_sealed_to_once_they_are_certified() {
        let mut registry = founded();
        let voters = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(tasks(&registry, FOUNDER, &voters(&[1])), []);
        assert_eq!(tasks(&registry, FOUNDER, &voters(&[])), [], "no voters are known yet");
        let (id, secret_hash) = (TokenId::from_random([1; 8]), Digest([0; 32]));
        let (grant, gateway) = (fixture::join("us-west"), "gw-1".parse().expect("valid"));
        let expires_at = UnixMillis(u64::MAX);
        apply(
            &mut registry,
            Command::MintToken { id: id.clone(), secret_hash, grant, expires_at, gateway, root: Digest([ROOT; 32]) },
        );
        let newcomer = fixture::introduction("us-west", "gw-1", "r2", 2);
        apply(&mut registry, Command::RedeemToken { id, secret_hash, newcomer, from: None });
        let sign = Task::Sign { node: 2, authority_key: fixture::requests(2).authority_key };
        assert_eq!(tasks(&registry, FOUNDER, &voters(&[1, 2])), [sign], "not sealed to one that is not certified");
        assert_eq!(tasks(&registry, 2, &voters(&[1])), [], "it does not keep the root");
        apply(&mut registry, fixture::issue(2, 2, ROOT));
        let reseal = Task::Reseal { root: Digest([ROOT; 32]), voters: voters(&[1, 2]) };
        assert_eq!(tasks(&registry, FOUNDER, &voters(&[1, 2])), [reseal]);
    }
}

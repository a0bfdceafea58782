//! Changes to who is a member: draining, leaving, fencing, and who administers; and what was done.

use std::time::Duration;

use isthmus_federation::ProposeError;
use isthmus_model::command::{Command, Outcome, Refusal};
use isthmus_model::name::ClusterName;
use isthmus_model::registry::Registry;
use isthmus_model::registry::departure::{Departure, Manner};

use super::failure::Failure;
use super::view::Reading;
use super::{AdminState, api};

/// How long a cluster that leaves waits to hear that it has. Its connections are cut when the others hear it, so that
/// the answer may not arrive; the entry itself comes with the log.
const DEPARTURE_WITHIN: Duration = Duration::from_secs(5);

/// Makes a change to a cluster's membership.
pub(super) async fn change(
    state: &AdminState,
    cluster: ClusterName,
    change: api::MembershipChange,
) -> Result<api::MembershipChanged, Failure> {
    let leaves = matches!(change, api::MembershipChange::Leave {});
    let command = match change {
        api::MembershipChange::Drain { draining } => Command::Drain { cluster: cluster.clone(), draining },
        api::MembershipChange::Leave {} => Command::Leave { cluster: cluster.clone() },
        api::MembershipChange::Fence { why } => Command::Fence { cluster: cluster.clone(), why },
        api::MembershipChange::Unfence {} => Command::Unfence { cluster: cluster.clone() },
        api::MembershipChange::Administer { administrator } => {
            Command::SetAdministrator { cluster: cluster.clone(), administrator }
        }
    };
    let outcome = if leaves && cluster == state.config.cluster {
        leave(state, command, &cluster).await
    } else {
        state.proposals.propose(command).await
    };
    let changed = outcome? != Outcome::Unchanged;
    tracing::info!(%cluster, changed, "an operator changed the membership of a cluster");
    Ok(api::MembershipChanged { cluster, changed })
}

/// Proposes the own cluster's departure.
async fn leave(state: &AdminState, command: Command, cluster: &ClusterName) -> Result<Outcome, ProposeError> {
    let mut registry = state.registry.clone();
    let gone =
        |registry: &Registry| registry.departed().contains_key(cluster) && !registry.clusters().contains(cluster);
    let proposed = state.proposals.propose(command);
    let heard = registry.wait_for(|registry| gone(registry));
    let refused = tokio::select! {
        outcome = proposed => outcome,
        heard = heard => return Ok(if heard.is_ok() { Outcome::Changed } else { Outcome::Unchanged }),
    };
    // A second try was made by one that is no member any more.
    match refused {
        Err(ProposeError::Refused(Refusal::NotMember { .. }) | ProposeError::NoQuorum { .. }) => {
            let mut registry = state.registry.clone();
            let heard = tokio::time::timeout(DEPARTURE_WITHIN, registry.wait_for(|registry| gone(registry)));
            if matches!(heard.await, Ok(Ok(_))) { Ok(Outcome::Changed) } else { refused }
        }
        outcome => outcome,
    }
}

impl Reading {
    /// Clusters that are gone.
    pub(super) fn departed(&self) -> Vec<api::Departed> {
        let gone = self.registry.departed().iter().filter(|(name, _)| !self.registry.clusters().contains(name));
        gone.map(|(name, departure)| departed(name, departure)).collect()
    }

    /// What was done to membership and trust.
    pub(super) fn audit(&self) -> api::Audit {
        api::Audit { records: self.registry.audit().iter().cloned().collect() }
    }
}

fn departed(name: &ClusterName, departure: &Departure) -> api::Departed {
    let fenced_because = match &departure.manner {
        Manner::Left => None,
        Manner::Fenced { why } => Some(why.clone()),
    };
    api::Departed { cluster: name.clone(), fenced_because, by: departure.by.clone(), at: departure.at }
}

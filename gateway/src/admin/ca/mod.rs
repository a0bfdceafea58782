//! Roots of trust: what they are, and the change from one to the next.
//!
//! The gateway that is asked to begin a rotation makes the new root's key, seals it to those that vote, and forgets
//! it. It has to vote itself, so that no learner ever has a root's key in its memory. Everything after that is agreed
//! step by step, so that any gateway of an administering cluster can be asked to go on.

pub mod api;
mod routes;
mod view;

use std::collections::BTreeMap;
use std::time::SystemTime;

use axum::http::StatusCode;
use isthmus_federation::ProposeError;
use isthmus_identity::{IdentityError, RootAuthority};
use isthmus_model::command::{Command, Outcome, Refusal};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Custody, Envelopes, Phase, Root};

use super::AdminState;
use super::failure::Failure;
use super::view::Reading;

pub(super) use routes::{changes, reads};

/// Begins a rotation, unless one is under way.
async fn start(state: &AdminState) -> Result<api::RotationStarted, Failure> {
    let reading = state.read(SystemTime::now().into());
    if let Some(root) = under_way(&reading.registry) {
        return Ok(api::RotationStarted { root, changed: false });
    }
    let root = new_root(&reading)?;
    let key = root.key;
    match state.proposals.propose(Command::StartRotation { root }).await {
        Ok(_) => {
            tracing::info!(root = %key, "began to rotate the root");
            Ok(api::RotationStarted { root: key, changed: true })
        }
        // Someone else was quicker, or an earlier request whose answer was lost.
        Err(ProposeError::Refused(Refusal::RotationUnderWay)) => {
            let unheard = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, Refusal::RotationUnderWay.to_string());
            let root = under_way(&state.registry.borrow()).ok_or_else(unheard)?;
            Ok(api::RotationStarted { root, changed: false })
        }
        Err(error) => Err(error.into()),
    }
}

/// The root of the rotation that is under way.
fn under_way(registry: &Registry) -> Option<Digest> {
    let trust = registry.trust()?;
    trust.rotation().and(trust.roots().last()).map(|root| root.key)
}

/// Makes a root and seals its key to those that vote.
fn new_root(reading: &Reading) -> Result<Root, Failure> {
    let conflict = |text: &str| Failure::new(StatusCode::CONFLICT, text);
    let unheard = || {
        let message = "this gateway has not heard of its federation yet: see `isthmus status` for the registry";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, message)
    };
    let federation = reading.registry.federation().ok_or_else(unheard)?;
    if federation.trust.issuer().custody == Custody::Offline {
        return Err(conflict(
            "the root's key is with the operator, not in the registry, and so would be the next one's: \
             `isthmus ca rotate` is for roots that the federation keeps itself",
        ));
    }
    if !reading.status.voters.contains(&reading.status.node) {
        return Err(conflict(
            "this gateway does not vote, and a root's key is made only where it may be kept: ask a gateway that \
             `isthmus status` lists among the voters",
        ));
    }
    let failed = |error: IdentityError| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let authority = RootAuthority::create(&federation.domain, SystemTime::now()).map_err(failed)?;
    let keepers = reading.registry.members().filter(|(id, _)| reading.status.voters.contains(id));
    let seal = |(id, node): (&NodeId, &Node)| Ok((*id, authority.seal(*id, &node.sealing_key).map_err(failed)?));
    let envelopes = Envelopes(keepers.map(seal).collect::<Result<BTreeMap<_, _>, Failure>>()?);
    let custody = Custody::Sealed { envelopes };
    Ok(Root { certificate: authority.certificate().to_vec().into(), key: authority.digest(), custody })
}

/// Goes on to the next phase. Of the clusters that may be fenced, those are that have not done their part.
async fn advance(state: &AdminState, request: api::Advance) -> Result<api::RotationChanged, Failure> {
    let api::Advance { root, from, fence } = request;
    let waits_for = state.read(SystemTime::now().into()).waited_for(&root, from);
    if let Some(named) = waits_for.iter().find(|cluster| !fence.contains(cluster)) {
        let others = waits_for.len() - 1;
        let more = if others == 0 { String::new() } else { format!(" and {others} more") };
        let message = format!(
            "{named}{more} has not done its part yet: see `isthmus ca status`; bring it back, or let the federation \
             go on without it (--fence {named})"
        );
        return Err(Failure::new(StatusCode::CONFLICT, message));
    }
    for cluster in &waits_for {
        let why = format!("did not follow the change to root {root}");
        state.proposals.propose(Command::Fence { cluster: cluster.clone(), why }).await?;
        tracing::warn!(%cluster, "fenced: it did not follow the new root");
    }
    let outcome = state.proposals.propose(Command::AdvanceRotation { root, from }).await?;
    let done = match from {
        Phase::Distribute => "the new root signs",
        Phase::Reissue => "the old root is retired",
    };
    tracing::info!(%root, done);
    Ok(api::RotationChanged { changed: outcome == Outcome::Changed, fenced: waits_for })
}

/// Gives the rotation up.
async fn abort(state: &AdminState) -> Result<api::RotationChanged, Failure> {
    let aborted = state.proposals.propose(Command::AbortRotation).await;
    let outcome = aborted.map_err(|error| match error {
        ProposeError::Refused(Refusal::RotationUnderWay) => {
            let message = "the new root signs already, so that there is no way back: finish with `isthmus ca rotate`";
            Failure::new(StatusCode::CONFLICT, message)
        }
        other => other.into(),
    })?;
    Ok(api::RotationChanged { changed: outcome == Outcome::Changed, fenced: Vec::new() })
}

#[cfg(test)]
mod tests;

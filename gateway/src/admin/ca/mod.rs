//! Roots of trust: what they are, and the change from one to the next.
//!
//! Where the next root comes from is in `next_root`. Everything after the beginning is agreed step by step, so that any
//! gateway of an administering cluster can be asked to go on.

pub mod api;
mod next_root;
mod routes;
mod view;

use std::time::SystemTime;

use axum::http::StatusCode;
use isthmus_federation::ProposeError;
use isthmus_model::command::{Command, Outcome, Refusal};
use isthmus_model::registry::Registry;
use isthmus_model::registry::trust::{Phase, Root};

use super::AdminState;
use super::failure::Failure;

pub(super) use routes::{changes, reads};

/// Begins a rotation to `next`, unless one is under way.
async fn start(state: &AdminState, next: Option<api::NextRoot>) -> Result<api::RotationStarted, Failure> {
    let reading = state.read(SystemTime::now().into());
    if let Some(root) = under_way(&reading.registry) {
        return goes_on(root, next.as_ref());
    }
    let root = next_root::make(&reading, &state.opening_key, next.clone())?;
    let key = root.key;
    match state.proposals.propose(Command::StartRotation { root }).await {
        Ok(_) => {
            tracing::info!(root = %key, "began to rotate the root");
            Ok(api::RotationStarted { root: key, changed: true })
        }
        // Someone else was quicker, or an earlier request whose answer was lost.
        Err(ProposeError::Refused(Refusal::RotationUnderWay)) => {
            let unheard = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, Refusal::RotationUnderWay.to_string());
            let registry = state.registry.borrow().clone();
            goes_on(under_way(&registry).ok_or_else(unheard)?, next.as_ref())
        }
        Err(error) => Err(error.into()),
    }
}

/// The root of the rotation that is under way.
fn under_way(registry: &Registry) -> Option<&Root> {
    let trust = registry.trust()?;
    trust.rotation().and(trust.roots().last())
}

/// The answer when a rotation is under way, if it is to the root that is asked for.
fn goes_on(root: &Root, next: Option<&api::NextRoot>) -> Result<api::RotationStarted, Failure> {
    if next.is_some_and(|next| !next_root::is_such(root, next)) {
        let message = format!(
            "a rotation to another root is under way, {}: finish it with `isthmus ca rotate`, or give it up with --abort",
            root.key
        );
        return Err(Failure::new(StatusCode::CONFLICT, message));
    }
    Ok(api::RotationStarted { root: root.key, changed: false })
}

/// Goes on to the next phase. Of the clusters that may be fenced, those are that have not done their part.
async fn advance(state: &AdminState, request: api::Advance) -> Result<api::RotationChanged, Failure> {
    let api::Advance { root, from, fence } = request;
    let (unsigned, waits_for) = state.read(SystemTime::now().into()).waited_for(&root, from);
    if let Some(named) = unsigned.first() {
        let message = format!(
            "{named} waits for the root, whose key is offline: see `isthmus ca pending`, sign, and `isthmus ca import`"
        );
        return Err(Failure::new(StatusCode::CONFLICT, message));
    }
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

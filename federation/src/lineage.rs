//! Keeps replicas of a lost registry away from the one that was restored in its place.
//!
//! A registry that was restored from a backup is another one than it was made from: the log of a replica that still has
//! the lost one says other things at the same places. Raft cannot tell, so every message has the sender's lineage, and a
//! replica takes none of another lineage than its own. One whose registry is empty takes any: that is how it comes to
//! a lineage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use isthmus_model::blob::Blob;
use isthmus_model::registry::Registry;
use tokio::sync::watch;
use tonic::Status;

use crate::caller::GatewayCaller;

/// What an operator has to do with a replica of the lost registry.
const ADVICE: &str = "one of both was restored. On the gateway that was not: stop it, run isthmus registry \
    discard, start it again; it keeps its identity and gets the restored registry";
/// What an operator has to do with a replica that discarded this very registry.
const REJOIN: &str = "this gateway discarded its part of the registry, which was not restored since, and could have forgotten \
    what it acknowledged. Move its data directory away and join again with a new token";

/// Compares messages' lineage with that of the own registry. Cheap to clone.
#[derive(Clone)]
pub struct LineageCheck {
    registry: watch::Receiver<Arc<Registry>>,
    /// The lineages of registries that this gateway discarded.
    discarded: Arc<[Blob]>,
    /// Whether an operator was told: messages come several times a second.
    told: Arc<AtomicBool>,
}

impl LineageCheck {
    /// Compares with `registry`, and with one that was discarded.
    #[must_use]
    pub fn new(registry: watch::Receiver<Arc<Registry>>, discarded: Vec<Blob>) -> Self {
        Self { registry, discarded: discarded.into(), told: Arc::default() }
    }

    /// What own messages carry.
    pub(crate) fn own(&self) -> Vec<u8> {
        mark(&self.registry.borrow()).0
    }

    /// Whether a message of a replica with that lineage may be taken.
    pub(crate) fn check(&self, theirs: &[u8], caller: &GatewayCaller) -> Result<(), Status> {
        if self.discarded.iter().any(|discarded| discarded.0 == theirs) {
            if !self.told.swap(true, Ordering::Relaxed) {
                tracing::error!("{REJOIN}");
            }
            return Err(Status::failed_precondition(REJOIN));
        }
        if same(&self.registry.borrow(), theirs) {
            return Ok(());
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::error!(peer = %caller.id(), "a gateway replicates another registry than this one: {ADVICE}");
        }
        Err(Status::failed_precondition(format!("this gateway replicates another registry: {ADVICE}")))
    }
}

/// The mark of a registry's lineage in messages and files.
pub(crate) fn mark(registry: &Registry) -> Blob {
    Blob(registry.lineage().map(|lineage| lineage.0.to_vec()).unwrap_or_default())
}

fn same(own: &Registry, theirs: &[u8]) -> bool {
    own.federation().is_none() || own.lineage().map(|lineage| lineage.0.as_slice()).unwrap_or_default() == theirs
}

#[cfg(test)]
mod tests {
    use isthmus_model::command::{Entry, Refusal};
    use isthmus_model::fixture;
    use isthmus_model::registry::restoration::{Restoration, Survivor};
    use isthmus_model::registry::token::Digest;
    use isthmus_model::registry::trust::Envelope;
    use isthmus_model::time::UnixMillis;

    use super::*;

    #[test]
    fn only_an_empty_registry_takes_another_lineage() {
        let empty = Registry::default();
        let mut lost = Registry::default();
        let command =
            fixture::found("acme.mesh".parse().expect("valid"), fixture::introduction("us-east", "gw-1", "r1", 1));
        let entry = Entry { origin: "us-east".parse().expect("valid"), at: UnixMillis(1), command };
        lost.apply(&entry).expect("founded");
        let (lineage, survivor) = (Digest([7; 32]), Survivor::Known(1));
        let restoration = Restoration { lineage, survivor, taken_at: UnixMillis(1), at: UnixMillis(2) };
        let seal = |_, _: &_| Ok::<_, Refusal>(Envelope { encapsulated: vec![].into(), ciphertext: vec![].into() });
        let (restored, _) = lost.clone().restored(&restoration, seal).expect("restored");
        assert!(same(&empty, &[7; 32]) && same(&empty, &[]));
        assert!(same(&lost, &[]) && same(&restored, &[7; 32]));
        assert!(!same(&lost, &[7; 32]) && !same(&restored, &[]) && !same(&restored, &[8; 32]));
    }
}

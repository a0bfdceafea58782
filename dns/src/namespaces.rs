//! Which namespaces have a federated service. Built when first asked for and kept until the snapshot changes,
//! so that a flood of questions about namespaces costs one walk over the services per snapshot, and a
//! snapshot about which nobody asks costs none.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use isthmus_model::name::Label;
use isthmus_model::snapshot::Snapshot;

/// The index of the last snapshot that was asked about.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// Weak, so that an old snapshot is not kept alive; its address cannot be reused while this exists.
    of: Weak<Snapshot>,
    names: HashSet<Label>,
}

impl Namespaces {
    /// Whether a federated service of `snapshot` lives in `namespace`.
    pub(crate) fn contains(&self, snapshot: &Arc<Snapshot>, namespace: &str) -> bool {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(index.of.as_ptr(), Arc::as_ptr(snapshot)) {
            let federated = snapshot.services.iter().filter(|(_, service)| service.federated);
            *index = Index {
                of: Arc::downgrade(snapshot),
                names: federated.map(|(name, _)| name.namespace.clone()).collect(),
            };
        }
        index.names.contains(namespace)
    }
}

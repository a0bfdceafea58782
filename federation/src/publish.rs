//! From everything a gateway knows to the one view that its data planes read.

use std::sync::Arc;

use ipnet::IpNet;
use isthmus_model::catalog::LocalCatalog;
use isthmus_model::health::{FailedEndpoints, PeerTable};
use isthmus_model::registry::Registry;
use isthmus_model::snapshot::{Coverage, Site, Snapshot, Sources};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::RegistryStatus;

/// What a gateway knows, as it changes.
pub struct Inputs {
    /// Where it stands.
    pub site: Site,
    /// Its range of virtual addresses.
    pub vip_range: Option<IpNet>,
    /// What is agreed.
    pub registry: watch::Receiver<Arc<Registry>>,
    /// What its own cluster has.
    pub catalog: watch::Receiver<Arc<LocalCatalog>>,
    /// What its peers tell.
    pub peers: watch::Receiver<Arc<PeerTable>>,
    /// Own endpoints that do not answer.
    pub failed: watch::Receiver<Arc<FailedEndpoints>>,
    /// How the registry stands.
    pub status: watch::Receiver<RegistryStatus>,
}

impl Inputs {
    fn build(&mut self, generation: u64) -> Snapshot {
        let registry = self.registry.borrow_and_update().clone();
        let agreement = self.status.borrow_and_update().agreement(&registry);
        let sources = Sources {
            site: &self.site,
            registry: &registry,
            catalog: &self.catalog.borrow_and_update().clone(),
            peers: &self.peers.borrow_and_update().clone(),
            failed: &self.failed.borrow_and_update().clone(),
            vip_range: self.vip_range.as_ref(),
            agreement: &agreement,
        };
        sources.build(generation)
    }

    /// Waits for any input to change. `false` when one has ended.
    async fn changed(&mut self) -> bool {
        let changed = tokio::select! {
            changed = self.registry.changed() => changed,
            changed = self.catalog.changed() => changed,
            changed = self.peers.changed() => changed,
            changed = self.failed.changed() => changed,
            changed = self.status.changed() => changed,
        };
        changed.is_ok()
    }
}

/// Starts publishing. The first view is built when this returns. Changes that come while a view is being
/// built go into the next one together; a view that says nothing new is not published.
#[must_use]
pub fn start(mut inputs: Inputs, shutdown: CancellationToken) -> watch::Receiver<Arc<Snapshot>> {
    let (publish, view) = watch::channel(Arc::new(Snapshot::empty(inputs.site.clone(), Coverage::Complete)));
    publish.send_replace(Arc::new(inputs.build(1)));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                alive = inputs.changed() => if !alive { return },
            }
            let last = publish.borrow().clone();
            let next = inputs.build(last.generation + 1);
            let news = Snapshot { generation: last.generation, ..next.clone() } != *last;
            if news {
                publish.send_replace(Arc::new(next));
            }
        }
    });
    view
}

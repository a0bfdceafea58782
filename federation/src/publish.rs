//! From everything a gateway knows to the one view that its data planes read.

use std::sync::Arc;

use ipnet::IpNet;
use isthmus_model::catalog::LocalCatalog;
use isthmus_model::health::{FailedEndpoints, PeerTable};
use isthmus_model::registry::Registry;
use isthmus_model::snapshot::{Builder, Site, Snapshot, Sources};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::status::RegistryStatus;

/// What a gateway knows, as it changes.
pub struct Inputs {
    /// Where it stands.
    pub site: Arc<Site>,
    /// Its range of virtual addresses.
    pub vip_range: Option<IpNet>,
    /// The name by which routes know the gateways that take requests from outside, if they do.
    pub ingress: Option<Arc<str>>,
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
    fn sources(&mut self) -> Sources {
        let registry = self.registry.borrow_and_update().clone();
        let agreement = self.status.borrow_and_update().agreement(&registry);
        Sources {
            site: self.site.clone(),
            registry,
            catalog: self.catalog.borrow_and_update().clone(),
            peers: self.peers.borrow_and_update().clone(),
            failed: self.failed.borrow_and_update().clone(),
            vip_range: self.vip_range,
            ingress: self.ingress.clone(),
            agreement,
        }
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
    let mut builder = Builder::new(inputs.sources());
    let (publish, view) = watch::channel(builder.view().clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                alive = inputs.changed() => if !alive { return },
            }
            if let Some(next) = builder.next(inputs.sources()) {
                publish.send_replace(next);
            }
        }
    });
    view
}

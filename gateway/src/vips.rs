//! Listeners on the virtual addresses: for clients without a sidecar, who connect to what DNS gave them.
//!
//! Each service of the federation has one address in the cluster's range and a listener for each of its ports
//! there. Listeners follow the snapshot; a port that stays keeps its listener and its connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_model::name::ServiceName;
use isthmus_model::snapshot::Snapshot;
use isthmus_proxy::DataPlane;
use isthmus_proxy::outbound::{Mode, OutboundListener};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Listeners at most. Each is one file descriptor; beyond, clients use the forward proxy.
const LISTENERS_MAX: usize = 8_192;
/// Pause before addresses that could not be bound are tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// What should be listened on.
fn wanted(view: &Snapshot) -> BTreeMap<SocketAddr, ServiceName> {
    let services = view.services.values().filter(|service| service.federated);
    let ports = services.filter_map(|service| Some((service.vip?, service))).flat_map(|(vip, service)| {
        service.ports.iter().map(move |port| (SocketAddr::new(vip, port.port), service.name.clone()))
    });
    ports.take(LISTENERS_MAX).collect()
}

/// Keeps the listeners until told to stop, then lets their connections finish.
pub async fn keep(plane: DataPlane, shutdown: CancellationToken) {
    let mut view = plane.view();
    let mut open: BTreeMap<SocketAddr, (ServiceName, CancellationToken)> = BTreeMap::new();
    let tasks = TaskTracker::new();
    loop {
        let wanted = wanted(&view.borrow_and_update().clone());
        open.retain(|address, (service, stop)| {
            let keep = wanted.get(address) == Some(service);
            if !keep {
                stop.cancel();
            }
            keep
        });
        let mut failed = 0_usize;
        for (address, service) in wanted {
            if open.contains_key(&address) {
                continue;
            }
            let mode = Mode::Service { name: service.clone(), port: address.port() };
            match OutboundListener::bind(address, plane.clone(), mode) {
                Ok(listener) => {
                    let stop = shutdown.child_token();
                    tasks.spawn(listener.serve(stop.clone()));
                    open.insert(address, (service, stop));
                }
                Err(error) => {
                    failed += 1;
                    tracing::warn!(%service, %error, "a virtual address is not served yet");
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            () = tokio::time::sleep(RETRY_PAUSE), if failed > 0 => {}
            changed = view.changed() => if changed.is_err() { break },
        }
    }
    tasks.close();
    tasks.wait().await;
}

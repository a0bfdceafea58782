//! Active probing of the own cluster's endpoints: does something still listen where the catalog says?
//!
//! A TCP connection to the sidecar and to the application, closed at once. It finds a workload that died
//! without its manifest being told; how well a workload serves is learnt from requests, not from probes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use isthmus_model::catalog::LocalCatalog;
use isthmus_model::health::FailedEndpoints;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause between rounds.
const INTERVAL: Duration = Duration::from_millis(500);
/// A connection within a cluster takes a millisecond; a host that lost its power does not answer at all.
const TIMEOUT: Duration = Duration::from_millis(500);
/// Connections under way at once.
const AT_ONCE: usize = 64;
/// Addresses probed per round. Beyond, requests and the source's own readiness have to do.
const ADDRESSES_MAX: usize = 4_096;
/// Addresses that the log names at once.
const LOGGED_MAX: usize = 3;

/// Where the catalog says that something listens.
fn addresses(catalog: &LocalCatalog) -> BTreeSet<SocketAddr> {
    let endpoints = catalog.services.values().flat_map(|service| service.endpoints.iter());
    let ports = endpoints.filter(|endpoint| endpoint.ready).flat_map(|endpoint| {
        let ports = endpoint.ports.values().chain(&endpoint.sidecar_port);
        ports.map(|port| SocketAddr::new(endpoint.address, *port))
    });
    ports.take(ADDRESSES_MAX).collect()
}

async fn failed(addresses: BTreeSet<SocketAddr>) -> FailedEndpoints {
    let probes = addresses.into_iter().map(|address| async move {
        let connected = tokio::time::timeout(TIMEOUT, TcpStream::connect(address)).await;
        (!matches!(connected, Ok(Ok(_)))).then_some(address)
    });
    futures_util::stream::iter(probes).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Says what has changed, by a few examples: a node that is gone may have had thousands.
fn log(known: &FailedEndpoints, found: &FailedEndpoints) {
    let examples = |of: &FailedEndpoints, without: &FailedEndpoints| {
        of.difference(without).take(LOGGED_MAX).map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")
    };
    let (silent, back) = (examples(found, known), examples(known, found));
    tracing::info!(failed = found.len(), %silent, %back, "the endpoints that do not answer have changed");
}

/// Probes until told to stop, and publishes the addresses that do not answer.
#[must_use]
pub fn start(
    catalog: watch::Receiver<Arc<LocalCatalog>>,
    shutdown: CancellationToken,
) -> watch::Receiver<Arc<FailedEndpoints>> {
    let (publish, watch) = watch::channel(Arc::default());
    tokio::spawn(async move {
        loop {
            let addresses = addresses(&catalog.borrow());
            let found = failed(addresses).await;
            publish.send_if_modified(|known: &mut Arc<FailedEndpoints>| {
                let news = **known != found;
                if news {
                    log(known, &found);
                    *known = Arc::new(found);
                }
                news
            });
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    });
    watch
}

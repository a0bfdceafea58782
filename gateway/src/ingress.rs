//! Requests from outside: the listeners, and their certificates as the files change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use ipnet::IpNet;
use isthmus_identity::{PublicCertificates, Reading};
use isthmus_proxy::DataPlane;
use isthmus_proxy::accept::patiently;
use isthmus_proxy::ingress::{IngressListener, Security};
use isthmus_proxy::opening::LoadBalancers;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Ingress;

/// How often the certificates' files are looked at. A renewed one is there weeks before the old one ends.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Files and when each was written, and how long it is.
type Stamps = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Starts taking requests. When this returns, the listeners are bound and served.
///
/// # Errors
/// Certificates that cannot be used, or an address that cannot be listened on.
pub async fn start(
    config: &Ingress,
    load_balancers: &[IpNet],
    plane: &DataPlane,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let certificates = PublicCertificates::default();
    let stamps = stamps(&config.certificates);
    let reading = certificates.read(&config.certificates).context("ingress.certificates")?;
    if let Some(error) = reading.failed.into_iter().next() {
        // There is no earlier one that could stay, and whoever starts it is there to read this.
        return Err(error).context("ingress.certificates");
    }
    let secure = Security::Tls(certificates.clone());
    let clear = config.http.map(|address| (address, Security::None));
    for (address, security) in [(config.https, secure)].into_iter().chain(clear) {
        let bind = async || {
            let load_balancers = LoadBalancers::new(load_balancers, "proxy_protocol.ingress");
            let (plane, security, quiet) = (plane.clone(), security.clone(), config.stream_idle_timeout);
            IngressListener::bind(address, plane, security, load_balancers, quiet)
        };
        let listener = patiently(bind).await.context("ingress")?;
        tasks.spawn(listener.serve(shutdown.clone()));
    }
    let (directory, shutdown) = (config.certificates.clone(), shutdown.clone());
    tasks.spawn(async move { shutdown.run_until_cancelled(follow(directory, certificates, stamps)).await });
    Ok(())
}

/// Reads the certificates again when their files have changed. One that cannot be used is told once, and its earlier one stays.
async fn follow(directory: PathBuf, certificates: PublicCertificates, mut known: Stamps) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = stamps(&directory);
        if now == known {
            continue;
        }
        known = now;
        match certificates.read(&directory) {
            Ok(Reading { shown, failed }) => {
                tracing::info!(shown, "the certificates for requests from outside were read again");
                for error in failed {
                    tracing::warn!(%error, "a certificate for requests from outside stays as it was");
                }
            }
            Err(error) => tracing::warn!(%error, "the certificates for requests from outside stay as they were"),
        }
    }
}

/// The state of a directory, as far as it can be read. Links are followed: secrets that are mounted are behind them.
fn stamps(directory: &Path) -> Stamps {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let stamp = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok()?;
        Some((path, (metadata.modified().ok(), metadata.len())))
    };
    entries.filter_map(|entry| stamp(entry.path())).collect()
}

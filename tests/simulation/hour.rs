//! Many clusters that each keep what they offer agreed, while some of it changes and things go wrong.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::catalog::{AppProtocol, LocalCatalog, LocalService, ServicePort};
use isthmus_model::snapshot::Snapshot;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::world::World;

/// Between two changes of a catalog.
const CHANGE_EVERY: Duration = Duration::from_secs(10);
/// Changes between two faults.
const CHANGES_PER_FAULT: usize = 6;
/// Services of a cluster that others have too.
const SHARED: usize = 5;
/// All of what was changed while things went wrong is seen everywhere so soon after.
const AGREED_MAX: Duration = Duration::from_secs(120);

/// How much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Federation {
    pub(crate) clusters: usize,
    /// Of each.
    pub(crate) exports: usize,
    /// In virtual time.
    pub(crate) lasts: Duration,
}

/// What was seen.
pub(crate) struct Account {
    federation: Federation,
    joined_in: Duration,
    agreed_in: Duration,
    changes: usize,
    faults: usize,
    slowest: Duration,
    took: std::time::Duration,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { federation: Federation { clusters, exports, lasts }, .. } = self;
        write!(
            f,
            "{clusters} clusters of {exports} exports for {} s of virtual time, in {:.0} s: joined within {:.1} s, first agreed \
             within {:.1} s; {} changes and {} faults, after which all was seen everywhere within {:.1} s at most",
            lasts.as_secs(),
            self.took.as_secs_f64(),
            self.joined_in.as_secs_f64(),
            self.agreed_in.as_secs_f64(),
            self.changes,
            self.faults,
            self.slowest.as_secs_f64(),
        )
    }
}

fn name(cluster: usize, number: usize) -> isthmus_model::name::ServiceName {
    let name = if number < SHARED { format!("shop/s{number}") } else { format!("c{cluster}/s{number}") };
    name.parse().expect("valid")
}

fn service(port: u16) -> LocalService {
    let ports = vec![ServicePort { name: None, port, protocol: AppProtocol::Http }];
    LocalService { ports, endpoints: Arc::from([]), exported: true }
}

fn catalog(cluster: usize, exports: usize) -> LocalCatalog {
    let services = (0..exports).map(|number| (name(cluster, number), service(80))).collect();
    LocalCatalog { services, ..LocalCatalog::default() }
}

impl World {
    /// Waits until every gateway's view has what all clusters offer, and returns how long that took.
    async fn all_seen(&self) -> Duration {
        let began = Instant::now();
        let catalogs: Vec<Arc<LocalCatalog>> = self
            .hosts
            .iter()
            .filter_map(|host| host.catalog.as_ref())
            .map(|catalog| catalog.borrow().clone())
            .collect();
        for host in &self.hosts {
            let mut view = host.view().expect("it publishes");
            let whole = |view: &Arc<Snapshot>| {
                let offered = |(cluster, catalog): (usize, &Arc<LocalCatalog>)| {
                    catalog.services.iter().all(|(name, service)| offers(view, cluster, name, service.ports[0].port))
                };
                catalogs.iter().enumerate().filter(|(cluster, _)| *cluster != host.machine).all(offered)
            };
            let seen =
                tokio::time::timeout(AGREED_MAX, view.wait_for(whole)).await.map(|seen| drop(seen.expect("it runs")));
            assert!(
                seen.is_ok(),
                "{} does not see all, and is {:?}",
                host.name.cluster,
                *self.handle(host.machine).status().borrow()
            );
        }
        began.elapsed()
    }
}

fn offers(view: &Snapshot, cluster: usize, name: &isthmus_model::name::ServiceName, port: u16) -> bool {
    let Some(service) = view.services.get(name) else { return false };
    let cluster = format!("c{cluster}");
    service.remotes.iter().any(|remote| remote.cluster.name.as_str() == cluster && remote.ports == [port])
}

/// Lets a federation of that size live.
pub(crate) async fn hour(world: &mut World, federation: Federation) -> Account {
    let began = std::time::Instant::now();
    let Federation { clusters, exports, lasts } = federation;
    let founded = Instant::now();
    world.found(clusters).await;
    let joined_in = founded.elapsed();
    for host in &mut world.hosts {
        // With its next life it publishes.
        host.catalog = Some(watch::Sender::new(Arc::new(catalog(host.machine, exports))));
        host.crash(usize::MAX).await;
        host.start().await;
    }
    let agreed_in = world.all_seen().await;
    world.setting.story.tell(format!("{} exports are agreed after {} ms", clusters * exports, agreed_in.as_millis()));
    let (mut changes, mut faults, mut slowest) = (0, 0, Duration::ZERO);
    while founded.elapsed() < lasts {
        tokio::time::sleep(CHANGE_EVERY).await;
        let cluster = world.chance.gen_range(0..clusters);
        let (number, port) = (world.chance.gen_range(0..exports), world.chance.gen_range(1..u16::MAX));
        let catalog = world.hosts[cluster].catalog.as_ref().expect("it has one");
        catalog.send_modify(|catalog| {
            Arc::make_mut(catalog).services.insert(name(cluster, number), service(port));
        });
        changes += 1;
        if changes % CHANGES_PER_FAULT == 0 {
            let fault = world.draw_fault();
            world.suffer(&fault).await;
            faults += 1;
            let seen = world.all_seen().await;
            world.setting.story.tell(format!("all is seen everywhere after {} ms", seen.as_millis()));
            slowest = slowest.max(seen);
        }
    }
    slowest = slowest.max(world.all_seen().await);
    Account { federation, joined_in, agreed_in, changes, faults, slowest, took: began.elapsed() }
}

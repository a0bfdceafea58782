//! The next view, out of the last one and what changed since: its cost follows the change, not the catalog.
//!
//! What changed is read off the sources' structure. Maps that share their subtrees are compared by where they part, and
//! everything else by its place in memory first. From that follow the services whose entry may read otherwise; only
//! those are made anew, and those that come out as before keep their place in memory, so that whoever remembers
//! something by it (the balancer, the sidecars' streams) still does.
//!
//! What it costs most is a cluster whose gateways change or come and go: each of its services refers to it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::{RemoteCluster, Service, Snapshot, Sources};
use crate::health::PeerHealth;
use crate::http_route::{ByService, HttpRoute, changed};
use crate::name::{ClusterName, ServiceName};
use crate::outside::Outside;
use crate::registry::exports::Offered;
use crate::shared::key;

/// Builds views one after the other, for one site and one range of virtual addresses.
#[derive(Debug)]
pub struct Builder {
    sources: Sources,
    /// The routes of the sources' catalog.
    routes: ByService,
    view: Arc<Snapshot>,
}

impl Builder {
    /// Builds the first view, whole.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let routes = ByService::of(&sources.catalog.routes);
        let view = Arc::new(sources.build_with(1, &routes));
        Self { sources, routes, view }
    }

    /// The last view.
    #[must_use]
    pub fn view(&self) -> &Arc<Snapshot> {
        &self.view
    }

    /// The view of `sources`; `None` when it says what the last one said.
    pub fn next(&mut self, sources: Sources) -> Option<Arc<Snapshot>> {
        self.routes.follow(&self.sources.catalog.routes, &sources.catalog.routes);
        let next = Change { before: &self.sources, now: &sources, routes: &self.routes, view: &self.view }.next();
        self.sources = sources;
        self.view = Arc::new(next?);
        Some(self.view.clone())
    }
}

/// From one state of the sources to the next.
struct Change<'a> {
    before: &'a Sources,
    now: &'a Sources,
    /// The routes of now.
    routes: &'a ByService,
    /// The view of the state before.
    view: &'a Snapshot,
}

/// The services that a change may touch.
type Touched<'a> = BTreeSet<&'a ServiceName>;

impl<'a> Change<'a> {
    fn next(&self) -> Option<Snapshot> {
        let (registry, site) = (&self.now.registry, &self.now.site);
        let mut next = Snapshot {
            roots: kept(&self.view.roots, registry.root_certificates().into()),
            epoch: registry.epoch(),
            clusters: self.clusters(),
            agreement: self.now.agreement.clone(),
            draining: registry.draining_since(&site.cluster),
            ..self.view.clone()
        };
        if !self.before.catalog.routes.ptr_eq(&self.now.catalog.routes) {
            next.routes = self.now.routes();
        }
        if !self.before.catalog.outside.ptr_eq(&self.now.catalog.outside) {
            next.outside = Outside::of(&self.now.catalog.outside);
        }
        if !self.before.catalog.authorizations.ptr_eq(&self.now.catalog.authorizations) {
            next.authorizations = self.now.catalog.authorizations.clone();
        }
        if !self.same_nodes() {
            next.control_ports = kept(&self.view.control_ports, self.now.control_ports());
        }
        if !self.same_denials() {
            next.denied = kept(&self.view.denied, Arc::new(registry.denied_in(&site.cluster)));
        }
        self.rebuild(&mut next);
        if next == *self.view {
            return None;
        }
        next.generation += 1;
        Some(next)
    }

    fn same_nodes(&self) -> bool {
        self.before.registry.nodes().ptr_eq(self.now.registry.nodes())
    }

    fn same_denials(&self) -> bool {
        let (before, now) = (&self.before.registry, &self.now.registry);
        self.same_nodes() && before.denied().ptr_eq(now.denied()) && before.departed().ptr_eq(now.departed())
    }

    /// The clusters, those in their places that are as before.
    fn clusters(&self) -> OrdMap<ClusterName, Arc<RemoteCluster>> {
        let mut clusters = self.view.clusters.clone();
        if self.same_nodes() && Arc::ptr_eq(&self.before.peers, &self.now.peers) {
            return clusters;
        }
        let now = self.now.clusters();
        for gone in self.view.clusters.keys().filter(|name| !now.contains_key(*name)) {
            clusters.remove(gone);
        }
        for (name, cluster) in now {
            if self.view.clusters.get(&name).is_none_or(|known| **known != cluster) {
                clusters.insert(name, Arc::new(cluster));
            }
        }
        clusters
    }

    /// Makes those services anew that the change touches.
    fn rebuild(&self, next: &mut Snapshot) {
        let mut anew: Vec<(&ServiceName, Option<Service>)> = Vec::new();
        for name in self.touched(&next.clusters) {
            let service = self.now.service(name, &next.clusters, self.routes);
            if self.view.services.get(name).map(|known| &**known) != service.as_ref() {
                anew.push((name, service));
            }
        }
        // All old ones go first: an address may pass from one to the other.
        for (name, _) in &anew {
            next.forget_address(name);
        }
        for (name, service) in anew {
            match service {
                Some(service) => next.insert(Arc::new(service)),
                None => next.remove(name),
            }
        }
    }

    fn touched(&self, clusters: &OrdMap<ClusterName, Arc<RemoteCluster>>) -> Touched<'a> {
        let (before, now) = (self.before, self.now);
        let mut touched = Touched::new();
        touched.extend(before.registry.exports().changed(now.registry.exports()));
        touched.extend(before.registry.vips().changed(now.registry.vips()));
        if !Arc::ptr_eq(&before.catalog, &now.catalog) {
            touched.extend(before.catalog.services.diff(&now.catalog.services).map(key));
            touched.extend(before.catalog.traffic.diff(&now.catalog.traffic).map(key));
            let routes = changed(&before.catalog.routes, &now.catalog.routes);
            touched.extend(routes.flat_map(|(_, was, is)| was.into_iter().chain(is)).flat_map(HttpRoute::services));
        }
        if !Arc::ptr_eq(&before.failed, &now.failed) {
            let addresses = before.failed.symmetric_difference(&now.failed).map(std::net::SocketAddr::ip);
            let addresses: BTreeSet<IpAddr> = addresses.collect();
            touched.extend(addresses.into_iter().flat_map(|address| self.view.names_at(address)));
        }
        self.touched_by_peers(&mut touched);
        // A service holds the clusters that it refers to.
        for cluster in self.view.clusters.diff(clusters).map(key) {
            touched.extend(before.registry.exports().of(cluster).into_iter().flat_map(Offered::keys));
            touched.extend(now.registry.exports().of(cluster).into_iter().flat_map(Offered::keys));
        }
        touched
    }

    /// The services of which a peer tells something else.
    fn touched_by_peers(&self, touched: &mut Touched<'a>) {
        if Arc::ptr_eq(&self.before.peers, &self.now.peers) {
            return;
        }
        for item in self.before.peers.diff(&self.now.peers) {
            let (id, was, is) = match item {
                DiffItem::Add(id, is) => (id, None, Some(is)),
                DiffItem::Remove(id, was) => (id, Some(was), None),
                DiffItem::Update { old: (id, was), new: (_, is) } => (id, Some(was), Some(is)),
            };
            // Where the gateway itself comes or goes, its cluster changes.
            let node = self.now.registry.nodes().get(id);
            let Some(offered) = node.and_then(|node| self.now.registry.exports().of(&node.cluster)) else { continue };
            let told = |peer: Option<&'a PeerHealth>| peer.filter(|peer| peer.heard_at.is_some());
            match (told(was), told(is)) {
                (None, None) => {}
                (Some(was), Some(is)) => {
                    touched.extend(was.services.diff(&is.services).map(key).filter(|name| offered.contains_key(*name)));
                }
                (None, Some(_)) | (Some(_), None) => touched.extend(offered.keys()),
            }
        }
    }
}

/// `now`, in the place of `before` if it is the same.
fn kept<T: ?Sized + PartialEq>(before: &Arc<T>, now: Arc<T>) -> Arc<T> {
    if **before == *now { before.clone() } else { now }
}

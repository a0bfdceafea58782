//! The whole view, built from everything that a gateway knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::IpNet;

use super::{Coverage, Gateway, RemoteBackend, RemoteCluster, Service, Site, Snapshot};
use crate::catalog::{Endpoint, LocalCatalog, PORTS_PER_SERVICE_MAX, ServicePort};
use crate::health::{Agreement, Capacity, FailedEndpoints, PeerTable};
use crate::http_route::{ByService, Routes};
use crate::name::{ClusterName, ServiceName};
use crate::outside::Outside;
use crate::registry::Registry;
use crate::registry::exports::{Exported, Offers};
use crate::traffic::TrafficPolicy;

/// What a gateway builds its snapshot from. A copy costs nothing.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where the gateway stands.
    pub site: Arc<Site>,
    /// What is agreed.
    pub registry: Arc<Registry>,
    /// What the own cluster has.
    pub catalog: Arc<LocalCatalog>,
    /// What the peers tell.
    pub peers: Arc<PeerTable>,
    /// Own endpoints that do not answer probes.
    pub failed: Arc<FailedEndpoints>,
    /// The own cluster's range of virtual addresses.
    pub vip_range: Option<IpNet>,
    /// The name by which routes know the gateways that take requests from outside, if they do.
    pub ingress: Option<Arc<str>>,
    /// How old the agreed state is.
    pub agreement: Agreement,
}

impl Sources {
    /// Builds the whole view. A [`Builder`](super::Builder) makes the same one out of the view before.
    #[must_use]
    pub fn build(&self, generation: u64) -> Snapshot {
        self.build_with(generation, &ByService::of(&self.catalog.routes))
    }

    /// The same, with the catalog's routes by service.
    pub(super) fn build_with(&self, generation: u64, routes: &ByService) -> Snapshot {
        let registry = &self.registry;
        let clusters = self.clusters().into_iter().map(|(name, cluster)| (name, Arc::new(cluster))).collect();
        let mut view = Snapshot {
            generation,
            site: self.site.clone(),
            roots: registry.root_certificates().into(),
            denied: Arc::new(registry.denied_in(&self.site.cluster)),
            epoch: registry.epoch(),
            control_ports: self.control_ports(),
            clusters,
            services: OrdMap::new(),
            vips: OrdMap::new(),
            homes: OrdMap::new(),
            offered: OrdMap::new(),
            coverage: Coverage::Complete,
            agreement: self.agreement.clone(),
            routes: self.routes(),
            outside: Outside::of(&self.catalog.outside),
            authorizations: self.catalog.authorizations.clone(),
            draining: registry.draining_since(&self.site.cluster),
        };
        let exported = registry.exports().iter().map(|(name, _)| name);
        let names: BTreeSet<&ServiceName> = exported.chain(self.catalog.services.keys()).collect();
        for name in names {
            let service = self.service(name, &view.clusters, routes);
            service.into_iter().for_each(|service| view.insert(Arc::new(service)));
        }
        view
    }

    pub(super) fn routes(&self) -> Routes {
        let gateway = self.ingress.as_deref();
        gateway.map(|gateway| Routes::of(&self.catalog.routes, gateway)).unwrap_or_default()
    }

    pub(super) fn control_ports(&self) -> Arc<[SocketAddr]> {
        let own = self.registry.members().filter(|(_, node)| node.cluster == self.site.cluster);
        let ports: BTreeSet<SocketAddr> = own.filter_map(|(_, node)| node.control).collect();
        ports.into_iter().collect()
    }

    pub(super) fn clusters(&self) -> BTreeMap<ClusterName, RemoteCluster> {
        let mut clusters: BTreeMap<ClusterName, RemoteCluster> = BTreeMap::new();
        for (id, node) in self.registry.members() {
            if node.cluster == self.site.cluster {
                continue;
            }
            let cluster = clusters.entry(node.cluster.clone()).or_insert_with(|| RemoteCluster {
                name: node.cluster.clone(),
                locality: node.locality.clone(),
                proximity: self.site.locality.proximity(&node.locality),
                gateways: BTreeMap::new(),
            });
            let reach = self.peers.get(id).map(|peer| peer.reach).unwrap_or_default();
            cluster.gateways.insert(*id, Gateway { name: node.gateway.clone(), east_west: node.east_west, reach });
        }
        clusters
    }

    /// The service of a name, if there is one.
    pub(super) fn service(
        &self,
        name: &ServiceName,
        clusters: &OrdMap<ClusterName, Arc<RemoteCluster>>,
        routes: &ByService,
    ) -> Option<Service> {
        let offers = self.registry.exports().get(name);
        let local = self.catalog.services.get(name);
        if offers.is_none() && local.is_none() {
            return None;
        }
        let number = offers.and_then(|_| self.registry.vips().get(name));
        let vip = number.zip(self.vip_range.as_ref()).and_then(|(number, range)| number.address(range));
        let mut remotes: Vec<RemoteBackend> = offers
            .into_iter()
            .flat_map(Offers::iter)
            .filter_map(|(cluster, offer)| Some(self.remote(name, clusters.get(cluster)?, offer)))
            .collect();
        remotes.sort_by(|a, b| (a.cluster.proximity, &a.cluster.name).cmp(&(b.cluster.proximity, &b.cluster.name)));
        Some(Service {
            name: name.clone(),
            vip,
            ports: match offers {
                Some(offers) => merge_ports(offers, local.map_or(&[], |local| &local.ports)),
                None => local.map(|local| local.ports.clone()).unwrap_or_default(),
            },
            federated: offers.is_some(),
            exported_here: local.is_some_and(|local| local.exported),
            endpoints: local.map_or_else(|| Arc::from([]), |local| self.probed(&local.endpoints)),
            remotes,
            traffic: self.catalog.traffic.get(name).cloned().unwrap_or_else(TrafficPolicy::usual),
            routes: routes.table(name),
        })
    }

    fn remote(&self, name: &ServiceName, cluster: &Arc<RemoteCluster>, offer: &Exported) -> RemoteBackend {
        let heard = cluster.gateways.keys().filter_map(|id| self.peers.get(id)).filter(|p| p.heard_at.is_some());
        // Several gateways of one cluster tell of the same instances: the most hopeful one is right.
        let capacity = heard.map(|peer| peer.services.get(name).copied().unwrap_or_default()).max_by_key(|c| c.ready);
        RemoteBackend {
            cluster: cluster.clone(),
            ports: offer.export.ports.iter().map(|port| port.port).collect(),
            identities: offer.export.identities.clone(),
            terminated: offer.export.terminated,
            capacity: capacity.unwrap_or(Capacity { ready: 1, total: 1 }),
        }
    }

    /// Endpoints with those marked unready that do not answer probes.
    fn probed(&self, endpoints: &Arc<[Endpoint]>) -> Arc<[Endpoint]> {
        let failed = |endpoint: &Endpoint| {
            let mut ports = endpoint.ports.values().chain(&endpoint.sidecar_port);
            ports.any(|port| self.failed.contains(&SocketAddr::new(endpoint.address, *port)))
        };
        if self.failed.is_empty() || !endpoints.iter().any(failed) {
            return endpoints.clone();
        }
        endpoints.iter().map(|e| Endpoint { ready: e.ready && !failed(e), ..e.clone() }).collect()
    }
}

/// The union of all offers' ports by number; the oldest offer decides a port's name and protocol. But how the own
/// instances are protected depends on the protocol, and so no other cluster decides about it.
fn merge_ports(offers: &Offers, own: &[ServicePort]) -> Vec<ServicePort> {
    let mut oldest_first: Vec<_> = offers.iter().collect();
    oldest_first.sort_by_key(|(cluster, offer)| (offer.since, *cluster));
    let mut ports: BTreeMap<u16, &ServicePort> = BTreeMap::new();
    for port in oldest_first.iter().flat_map(|(_, offer)| &offer.export.ports) {
        ports.entry(port.port).or_insert(port);
    }
    let protocol = |port: &ServicePort| own.iter().find(|own| own.port == port.port).unwrap_or(port).protocol;
    let ports = ports.into_values().take(PORTS_PER_SERVICE_MAX);
    ports.map(|port| ServicePort { protocol: protocol(port), ..port.clone() }).collect()
}

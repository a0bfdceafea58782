//! The read view of a data plane: immutable, indexed, swapped whole.
//!
//! A gateway builds it from the registry, its own catalog and what it hears from its peers. A sidecar gets
//! the part that it asked for, in the same type; [`Coverage`] tells the two apart, so that a name that a
//! sidecar has not asked for is not taken for a name that does not exist.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::catalog::{Endpoint, LocalCatalog, PORTS_PER_SERVICE_MAX, ServicePort};
use crate::health::{Agreement, Capacity, FailedEndpoints, PeerTable, Reach};
use crate::locality::{Locality, Proximity};
use crate::name::{ClusterName, FederationDomain, Label, ServiceName, TrustDomain};
use crate::registry::node::NodeId;
use crate::registry::token::Digest;
use crate::registry::{Epoch, Exported, Registry};
use crate::spiffe::{SpiffeId, WorkloadName};
use crate::time::UnixMillis;

/// Where the reader of a snapshot stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The federation.
    pub federation: FederationDomain,
    /// The own cluster.
    pub cluster: ClusterName,
    /// Its locality.
    pub locality: Locality,
}

impl Site {
    /// The own cluster's trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.federation.trust_domain(&self.cluster)
    }
}

/// A gateway of another cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its name, as in its SPIFFE ID.
    pub name: Label,
    /// Its east-west address.
    pub east_west: SocketAddr,
    /// Whether it answers this cluster's gateway.
    pub reach: Reach,
}

/// Another member of the federation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCluster {
    /// Its name.
    pub name: ClusterName,
    /// Where it stands.
    pub locality: Locality,
    /// How near it is.
    pub proximity: Proximity,
    /// Its gateways, by id.
    pub gateways: BTreeMap<NodeId, Gateway>,
}

/// Another cluster's offer of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteBackend {
    /// Whose offer.
    pub cluster: Arc<RemoteCluster>,
    /// The ports on offer there.
    pub ports: Vec<u16>,
    /// Who may answer there.
    pub identities: BTreeSet<WorkloadName>,
    /// Whether the cluster's gateways may answer themselves.
    pub terminated: bool,
    /// How much it can take. Before its gateway was heard: one of one.
    pub capacity: Capacity,
}

impl RemoteBackend {
    /// Whether `id` may answer for the service in this backend (secure naming).
    #[must_use]
    pub fn may_answer(&self, id: &SpiffeId) -> bool {
        use crate::spiffe::Principal;
        id.trust_domain.cluster == self.cluster.name
            && match &id.principal {
                Principal::Workload(workload) => self.identities.contains(workload),
                Principal::Gateway(_) => self.terminated,
            }
    }
}

/// A service of the federation, or one that only the own cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Its virtual address in the own cluster.
    pub vip: Option<IpAddr>,
    /// Its ports, merged over all offers: where two clusters disagree on a port, the older offer wins. What the own
    /// cluster says about the protocol of its own port stands for the own cluster.
    pub ports: Vec<ServicePort>,
    /// Whether any cluster offers it to the federation: whether its global name exists.
    pub federated: bool,
    /// Whether the own cluster offers it: whether other clusters may call it here.
    pub exported_here: bool,
    /// Instances in the own cluster, ready or not.
    pub endpoints: Arc<[Endpoint]>,
    /// Other clusters' offers, nearest first.
    pub remotes: Vec<RemoteBackend>,
}

impl Service {
    /// The port that callers use under `number`.
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

/// What a snapshot knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Every service: what is not in it does not exist.
    Complete,
    /// The services that were asked for; those in the sets are known not to exist.
    Partial {
        /// Names without a service.
        absent: HashSet<ServiceName>,
        /// Addresses that are no service's virtual address.
        absent_addresses: HashSet<IpAddr>,
    },
}

/// The view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Grows with every published view of one process.
    pub generation: u64,
    /// Where the reader stands.
    pub site: Arc<Site>,
    /// The federated roots, DER.
    pub roots: Arc<[Vec<u8>]>,
    /// Keys (SPKI, SHA-256) that are not trusted any more, whatever the roots say.
    pub denied: Arc<BTreeSet<Digest>>,
    /// How late the state is that roots and denied keys are of.
    pub epoch: Epoch,
    /// Where the own cluster's sidecars reach the control ports of its gateways, sorted.
    pub control_ports: Arc<[SocketAddr]>,
    /// The other members.
    pub clusters: BTreeMap<ClusterName, Arc<RemoteCluster>>,
    /// Services by name.
    pub services: HashMap<ServiceName, Arc<Service>>,
    /// Services by virtual address.
    pub vips: HashMap<IpAddr, ServiceName>,
    /// What the view knows.
    pub coverage: Coverage,
    /// How old what it knows is.
    pub agreement: Agreement,
    /// Since when the own cluster's traffic is moved away. Only gateways know and need it.
    pub draining: Option<UnixMillis>,
}

impl Snapshot {
    /// The view of a reader that has heard nothing yet.
    #[must_use]
    pub fn empty(site: Site, coverage: Coverage) -> Self {
        Self {
            generation: 0,
            site: Arc::new(site),
            roots: Arc::from([]),
            denied: Arc::default(),
            epoch: Epoch::default(),
            control_ports: Arc::from([]),
            clusters: BTreeMap::new(),
            services: HashMap::new(),
            vips: HashMap::new(),
            coverage,
            agreement: Agreement::default(),
            draining: None,
        }
    }

    /// Whether a cluster is a member of the federation.
    #[must_use]
    pub fn is_member(&self, cluster: &ClusterName) -> bool {
        *cluster == self.site.cluster || self.clusters.contains_key(cluster)
    }
}

/// What a gateway builds its snapshot from.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Where the gateway stands.
    pub site: &'a Site,
    /// What is agreed.
    pub registry: &'a Registry,
    /// What the own cluster has.
    pub catalog: &'a LocalCatalog,
    /// What the peers tell.
    pub peers: &'a PeerTable,
    /// Own endpoints that do not answer probes.
    pub failed: &'a FailedEndpoints,
    /// The own cluster's range of virtual addresses.
    pub vip_range: Option<&'a IpNet>,
    /// How old the agreed state is.
    pub agreement: &'a Agreement,
}

impl Sources<'_> {
    /// Builds the whole view.
    #[must_use]
    pub fn build(&self, generation: u64) -> Snapshot {
        let clusters = self.clusters();
        let names: BTreeSet<&ServiceName> =
            self.registry.exports().keys().chain(self.catalog.services.keys()).collect();
        let mut services = HashMap::with_capacity(names.len());
        let mut vips = HashMap::with_capacity(self.registry.exports().len());
        for name in names {
            let service = self.service(name, &clusters);
            if let Some(vip) = service.vip {
                vips.insert(vip, name.clone());
            }
            services.insert(name.clone(), Arc::new(service));
        }
        let denied = self.registry.denied_in(&self.site.cluster);
        Snapshot {
            generation,
            site: Arc::new(self.site.clone()),
            roots: self.registry.root_certificates().into(),
            denied: Arc::new(denied),
            epoch: self.registry.epoch(),
            control_ports: self.control_ports(),
            clusters,
            services,
            vips,
            coverage: Coverage::Complete,
            agreement: self.agreement.clone(),
            draining: self.registry.draining_since(&self.site.cluster),
        }
    }

    fn control_ports(&self) -> Arc<[SocketAddr]> {
        let own = self.registry.members().filter(|(_, node)| node.cluster == self.site.cluster);
        let ports: BTreeSet<SocketAddr> = own.filter_map(|(_, node)| node.control).collect();
        ports.into_iter().collect()
    }

    fn clusters(&self) -> BTreeMap<ClusterName, Arc<RemoteCluster>> {
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
        clusters.into_iter().map(|(name, cluster)| (name, Arc::new(cluster))).collect()
    }

    fn service(&self, name: &ServiceName, clusters: &BTreeMap<ClusterName, Arc<RemoteCluster>>) -> Service {
        let offers = self.registry.exports().get(name);
        let local = self.catalog.services.get(name);
        let number = offers.and_then(|_| self.registry.vips().get(name));
        let vip = number.zip(self.vip_range).and_then(|(number, range)| number.address(range));
        let mut remotes: Vec<RemoteBackend> = offers
            .into_iter()
            .flatten()
            .filter_map(|(cluster, offer)| self.remote(name, clusters.get(cluster)?, offer))
            .collect();
        remotes.sort_by(|a, b| (a.cluster.proximity, &a.cluster.name).cmp(&(b.cluster.proximity, &b.cluster.name)));
        Service {
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
        }
    }

    fn remote(&self, name: &ServiceName, cluster: &Arc<RemoteCluster>, offer: &Exported) -> Option<RemoteBackend> {
        let heard = cluster.gateways.keys().filter_map(|id| self.peers.get(id)).filter(|p| p.heard_at.is_some());
        // Several gateways of one cluster tell of the same instances: the most hopeful one is right.
        let capacity = heard.map(|peer| peer.services.get(name).copied().unwrap_or_default()).max_by_key(|c| c.ready);
        Some(RemoteBackend {
            cluster: cluster.clone(),
            ports: offer.export.ports.iter().map(|port| port.port).collect(),
            identities: offer.export.identities.clone(),
            terminated: offer.export.terminated,
            capacity: capacity.unwrap_or(Capacity { ready: 1, total: 1 }),
        })
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
fn merge_ports(offers: &BTreeMap<ClusterName, Exported>, own: &[ServicePort]) -> Vec<ServicePort> {
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

#[cfg(test)]
mod tests;

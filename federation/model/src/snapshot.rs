//! The read view of a data plane: immutable, indexed, swapped whole.
//!
//! A gateway builds it from the registry, its own catalog and what it hears from its peers. A sidecar gets
//! the part that it asked for, in the same type; [`Coverage`] tells the two apart, so that a name that a
//! sidecar has not asked for is not taken for a name that does not exist.
//!
//! Its maps share what did not change with those of the view before: the next view costs what changed, and a reader that
//! remembers the last one finds the change without looking at the rest. They are ordered ones, because only those can
//! be compared like that; a look-up among ten thousand names takes them 0.2 µs.

mod build;
mod builder;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;

use crate::authorization::{Authorization, Ruleset, Selector};
use crate::catalog::{Endpoint, ServicePort};
use crate::health::{Agreement, Capacity, Reach};
use crate::http_route::{Routes, ServiceRoutes};
use crate::locality::{Locality, Proximity};
use crate::name::{ClusterName, FederationDomain, Label, NamespacedName, ServiceName, TrustDomain};
use crate::outside::Outside;
use crate::registry::Epoch;
use crate::registry::node::NodeId;
use crate::registry::token::Digest;
use crate::spiffe::{SpiffeId, WorkloadName};
use crate::time::UnixMillis;
use crate::traffic::TrafficPolicy;

pub use build::Sources;
pub use builder::Builder;

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
    /// How requests to it are treated that the own cluster's clients send.
    pub traffic: Arc<TrafficPolicy>,
    /// Where requests go that the own cluster's clients send to it; none: to the service itself.
    pub routes: ServiceRoutes,
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

/// The key of [`Snapshot::homes`]: with an address alone, a range begins.
pub type Home = (IpAddr, Option<ServiceName>);

/// The view. A copy costs nothing.
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
    pub clusters: OrdMap<ClusterName, Arc<RemoteCluster>>,
    /// Services by name.
    pub services: OrdMap<ServiceName, Arc<Service>>,
    /// Services by virtual address.
    pub vips: OrdMap<IpAddr, ServiceName>,
    /// Which services have an instance at an address. Only gateways know and need it.
    pub homes: OrdMap<Home, ()>,
    /// What the own cluster can take, of what it exports. Only gateways know and need it.
    pub offered: OrdMap<ServiceName, Capacity>,
    /// What the view knows.
    pub coverage: Coverage,
    /// How old what it knows is.
    pub agreement: Agreement,
    /// Where requests from outside go. Only gateways know and need it.
    pub routes: Routes,
    /// Which hosts outside may be called. Only gateways know and need it.
    pub outside: Outside,
    /// Who may call what in the own cluster. A sidecar knows what is about its workload.
    pub authorizations: OrdMap<NamespacedName, Authorization>,
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
            clusters: OrdMap::new(),
            services: OrdMap::new(),
            vips: OrdMap::new(),
            homes: OrdMap::new(),
            offered: OrdMap::new(),
            coverage,
            agreement: Agreement::default(),
            routes: Routes::default(),
            outside: Outside::default(),
            authorizations: OrdMap::new(),
            draining: None,
        }
    }

    /// This view, with more services.
    #[must_use]
    pub fn with(mut self, services: impl IntoIterator<Item = Service>) -> Self {
        services.into_iter().for_each(|service| self.insert(Arc::new(service)));
        self
    }

    /// Whether a cluster is a member of the federation.
    #[must_use]
    pub fn is_member(&self, cluster: &ClusterName) -> bool {
        *cluster == self.site.cluster || self.clusters.contains_key(cluster)
    }

    /// Whether nothing more should be sent to `cluster` through its gateway at `east_west`: that one is down, as it is for
    /// those whom it told that it stops, or has left. Of a cluster that is not known nothing is said.
    #[must_use]
    pub fn is_deserted(&self, cluster: &ClusterName, east_west: SocketAddr) -> bool {
        let serves = |gateway: &Gateway| gateway.east_west == east_west && gateway.reach != Reach::Down;
        self.clusters.get(cluster).is_some_and(|cluster| !cluster.gateways.values().any(serves))
    }

    /// The services that have an instance at `address`, by name.
    pub fn at(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.names_at(address).filter_map(|name| self.services.get(name))
    }

    fn names_at(&self, address: IpAddr) -> impl Iterator<Item = &ServiceName> {
        let there = self.homes.range((address, None)..).map(|((home, name), ())| (home, name));
        there.take_while(move |(home, _)| **home == address).filter_map(|(_, name)| name.as_ref())
    }

    /// What is said about who may call `workload`, which is at `address`.
    pub fn rules_about<'a>(
        &'a self,
        workload: Option<&'a WorkloadName>,
        address: IpAddr,
    ) -> impl Iterator<Item = (&'a NamespacedName, &'a Arc<Ruleset>)> {
        let is_selected = move |selector: &Selector| match selector {
            Selector::All => true,
            Selector::Namespace(namespace) => workload.is_some_and(|workload| workload.namespace == *namespace),
            Selector::Workload(name) => workload == Some(name),
            Selector::Service(service) => self.homes.contains_key(&(address, Some(service.clone()))),
        };
        let about = self.authorizations.iter().filter(move |(_, policy)| policy.selects.iter().any(is_selected));
        about.map(|(name, policy)| (name, &policy.says))
    }

    /// Takes a service in, in place of the one of its name, with all that leads to it.
    pub fn insert(&mut self, service: Arc<Service>) {
        let name = &service.name;
        self.forget_address(name);
        if let Some(vip) = service.vip {
            self.vips.insert(vip, name.clone());
        }
        let known = self.services.insert(name.clone(), service.clone());
        if !known.as_ref().is_some_and(|known| Arc::ptr_eq(&known.endpoints, &service.endpoints)) {
            known.into_iter().for_each(|known| self.forget_homes(&known));
            for endpoint in &*service.endpoints {
                self.homes.insert((endpoint.address, Some(name.clone())), ());
            }
        }
        self.offer(&service);
    }

    /// Takes a service out, with all that leads to it.
    fn remove(&mut self, name: &ServiceName) {
        self.forget_address(name);
        if let Some(known) = self.services.remove(name) {
            self.forget_homes(&known);
            self.offered.remove(name);
        }
    }

    /// Notes what the own cluster can take of a service.
    fn offer(&mut self, service: &Service) {
        if service.exported_here {
            let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let ready = count(service.endpoints.iter().filter(|endpoint| endpoint.ready).count());
            self.offered.insert(service.name.clone(), Capacity { ready, total: count(service.endpoints.len()) });
        } else {
            self.offered.remove(&service.name);
        }
    }

    fn forget_address(&mut self, name: &ServiceName) {
        let vip = self.services.get(name).and_then(|known| known.vip);
        if let Some(vip) = vip.filter(|vip| self.vips.get(vip) == Some(name)) {
            self.vips.remove(&vip);
        }
    }

    fn forget_homes(&mut self, service: &Service) {
        for endpoint in &*service.endpoints {
            self.homes.remove(&(endpoint.address, Some(service.name.clone())));
        }
    }
}

#[cfg(test)]
mod tests;

//! Services, and where requests for them go.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_model::catalog::Endpoint;
use isthmus_model::health::Reach;
use isthmus_model::locality::Proximity;
use isthmus_model::name::ServiceName;
use isthmus_model::route::{self, Destination, DestinationKey, Plan};
use isthmus_model::snapshot::{Gateway, RemoteBackend, Service};
use isthmus_model::spiffe::SpiffeId;

use super::{Reading, clusters};
use crate::admin::api;

/// What was asked for does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::admin) enum NotFound {
    /// No such service.
    #[error("{0} is unknown here: no cluster exports it, and this cluster does not have it; see `isthmus services`")]
    Service(ServiceName),
    /// The service has other ports.
    #[error("{service} has no port {port}; it has {ports}")]
    Port {
        /// The service.
        service: ServiceName,
        /// The port that was asked for.
        port: u16,
        /// Those that there are.
        ports: String,
    },
}

impl Reading {
    pub(in crate::admin) fn services(&self) -> api::Services {
        let mut services: Vec<&Arc<Service>> = self.snapshot.services.values().collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        api::Services { services: services.into_iter().map(|service| self.service(service)).collect() }
    }

    fn service(&self, service: &Service) -> api::Service {
        let own = (service.exported_here || !service.endpoints.is_empty()).then(|| api::Backend {
            cluster: self.config.cluster.clone(),
            proximity: Proximity::SameCluster,
            exported: service.exported_here,
            reach: Reach::Up,
            ready: count(service.endpoints.iter().filter(|endpoint| endpoint.ready)),
            total: count(service.endpoints.iter()),
        });
        let remotes = service.remotes.iter().map(|remote| api::Backend {
            cluster: remote.cluster.name.clone(),
            proximity: remote.cluster.proximity,
            exported: true,
            reach: clusters::reach(remote.cluster.gateways.values().map(|gateway| gateway.reach)),
            ready: remote.capacity.ready,
            total: remote.capacity.total,
        });
        api::Service {
            name: service.name.clone(),
            host: service.name.host(),
            federated: service.federated,
            vip: service.vip,
            ports: service.ports.clone(),
            backends: own.into_iter().chain(remotes).collect(),
        }
    }

    pub(in crate::admin) fn endpoints(
        &self,
        name: &ServiceName,
        port: Option<u16>,
    ) -> Result<api::Endpoints, NotFound> {
        let service = self.snapshot.services.get(name).ok_or_else(|| NotFound::Service(name.clone()))?;
        if let Some(port) = port.filter(|port| service.port(*port).is_none()) {
            let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
            return Err(NotFound::Port { service: name.clone(), port, ports: ports.join(", ") });
        }
        let port = port.or_else(|| service.ports.first().map(|port| port.port));
        Ok(api::Endpoints {
            service: name.clone(),
            host: name.host(),
            vip: service.vip,
            port,
            levels: port.map(|port| self.levels(service, port)).unwrap_or_default(),
        })
    }

    fn levels(&self, service: &Service, port: u16) -> Vec<api::Level> {
        let plan = route::plan(service, port, |_| true);
        let used = used(&plan, port);
        let local = service.endpoints.iter().filter(|endpoint| endpoint.ports.contains_key(&port));
        let local = local.map(|endpoint| (Proximity::SameCluster, self.instance(endpoint, port, &used)));
        let remote = service.remotes.iter().filter(|backend| backend.ports.contains(&port)).flat_map(|backend| {
            let gateways = backend.cluster.gateways.values();
            gateways.map(|gateway| (backend.cluster.proximity, self.remote(backend, gateway, &used)))
        });
        let all: Vec<(Proximity, api::Destination)> = local.chain(remote).collect();
        let level = |proximity: Proximity| {
            let destinations: Vec<_> =
                all.iter().filter(|(of, _)| *of == proximity).map(|(_, destination)| destination.clone()).collect();
            let share = plan.levels.iter().find(|level| level.proximity == proximity).map(|level| level.share);
            (!destinations.is_empty()).then_some(api::Level {
                proximity,
                share_permille: share.unwrap_or(0),
                destinations,
            })
        };
        Proximity::ALL.into_iter().filter_map(level).collect()
    }

    fn instance(&self, endpoint: &Endpoint, port: u16, used: &BTreeSet<DestinationKey>) -> api::Destination {
        let key = Destination::Local(endpoint.clone()).key(port);
        let address = match &key {
            DestinationKey::Local(address) | DestinationKey::Remote(_, address) => *address,
        };
        let site = &self.snapshot.site;
        api::Destination {
            cluster: site.cluster.clone(),
            gateway: None,
            address,
            used: used.contains(&key),
            reach: None,
            ready: u32::from(endpoint.ready),
            total: 1,
            sidecar: endpoint.sidecar_port.is_some(),
            identities: vec![SpiffeId::workload(site.trust_domain(), endpoint.workload.clone())],
        }
    }

    fn remote(&self, backend: &RemoteBackend, gateway: &Gateway, used: &BTreeSet<DestinationKey>) -> api::Destination {
        let cluster = &backend.cluster.name;
        let domain = self.snapshot.site.federation.trust_domain(cluster);
        let workloads = backend.identities.iter().map(|workload| SpiffeId::workload(domain.clone(), workload.clone()));
        let terminating = backend.terminated.then(|| SpiffeId::gateway(domain.clone(), gateway.name.clone()));
        api::Destination {
            cluster: cluster.clone(),
            gateway: Some(gateway.name.clone()),
            address: gateway.east_west,
            used: used.contains(&remote_key(backend, gateway.east_west)),
            reach: Some(gateway.reach),
            ready: backend.capacity.ready,
            total: backend.capacity.total,
            sidecar: !backend.identities.is_empty(),
            identities: workloads.chain(terminating).collect(),
        }
    }
}

fn used(plan: &Plan, port: u16) -> BTreeSet<DestinationKey> {
    plan.levels.iter().flat_map(|level| &level.destinations).map(|destination| destination.key(port)).collect()
}

fn remote_key(backend: &RemoteBackend, east_west: SocketAddr) -> DestinationKey {
    DestinationKey::Remote(backend.cluster.name.clone(), east_west)
}

fn count<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> u32 {
    u32::try_from(endpoints.count()).unwrap_or(u32::MAX)
}

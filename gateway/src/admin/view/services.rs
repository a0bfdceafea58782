//! Services, and where requests for them go.

use std::collections::BTreeMap;

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
        api::Services { services: self.snapshot.services.values().map(|service| self.service(service)).collect() }
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
        let shares = shares(&plan, port);
        let local = service.endpoints.iter().filter(|endpoint| endpoint.ports.contains_key(&port));
        let local = local.map(|endpoint| (Proximity::SameCluster, self.instance(endpoint, port, &shares)));
        let remote = service.remotes.iter().filter(|backend| backend.ports.contains(&port)).flat_map(|backend| {
            let gateways = backend.cluster.gateways.values();
            gateways.map(|gateway| (backend.cluster.proximity, self.remote(backend, gateway, &shares)))
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

    fn instance(&self, endpoint: &Endpoint, port: u16, shares: &Shares) -> api::Destination {
        let key = Destination::Local(endpoint.clone()).key(port);
        let address = match &key {
            DestinationKey::Local(address) | DestinationKey::Remote(_, address) => *address,
        };
        let site = &self.snapshot.site;
        api::Destination {
            cluster: site.cluster.clone(),
            gateway: None,
            address,
            used: shares.contains_key(&key),
            share_permille: shares.get(&key).copied().unwrap_or(0),
            reach: None,
            ready: u32::from(endpoint.ready),
            total: 1,
            sidecar: endpoint.sidecar_port.is_some(),
            identities: vec![SpiffeId::workload(site.trust_domain(), endpoint.workload.clone())],
        }
    }

    fn remote(&self, backend: &RemoteBackend, gateway: &Gateway, shares: &Shares) -> api::Destination {
        let cluster = &backend.cluster.name;
        let key = DestinationKey::Remote(cluster.clone(), gateway.east_west);
        let domain = self.snapshot.site.federation.trust_domain(cluster);
        let workloads = backend.identities.iter().map(|workload| SpiffeId::workload(domain.clone(), workload.clone()));
        let terminating = backend.terminated.then(|| SpiffeId::gateway(domain.clone(), gateway.name.clone()));
        api::Destination {
            cluster: cluster.clone(),
            gateway: Some(gateway.name.clone()),
            address: gateway.east_west,
            used: shares.contains_key(&key),
            share_permille: shares.get(&key).copied().unwrap_or(0),
            reach: Some(gateway.reach),
            ready: backend.capacity.ready,
            total: backend.capacity.total,
            sidecar: !backend.identities.is_empty(),
            identities: workloads.chain(terminating).collect(),
        }
    }
}

/// Where requests go, and how many of all, per mille.
type Shares = BTreeMap<DestinationKey, u32>;

/// Each level's share, divided among its destinations by weight.
fn shares(plan: &Plan, port: u16) -> Shares {
    let mut shares = Shares::new();
    for level in &plan.levels {
        let weight = |destination: &Destination| u64::from(destination.weight());
        let all: u64 = level.destinations.iter().map(weight).sum();
        for destination in &level.destinations {
            let share = u64::from(level.share) * weight(destination) / all.max(1);
            shares.insert(destination.key(port), u32::try_from(share).unwrap_or(route::WHOLE));
        }
    }
    shares
}

fn count<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> u32 {
    u32::try_from(endpoints.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_destinations_of_a_level_have_its_share_together() {
        let endpoint = |last| Endpoint {
            address: [127, 0, 11, last].into(),
            ports: BTreeMap::from([(80, 8080)]),
            sidecar_port: None,
            workload: "shop/reviews".parse().expect("valid"),
            ready: true,
        };
        let destinations = [1, 2, 3, 4].map(|last| Destination::Local(endpoint(last))).to_vec();
        let level = route::Level { proximity: Proximity::SameCluster, share: 800, able: 1_000, destinations };
        let shares = shares(&Plan { levels: vec![level] }, 80);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [200; 4]);
    }
}

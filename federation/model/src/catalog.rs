//! What one cluster has: its services, their endpoints, and which of them it exports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::authorization::Authorization;
use crate::command::Command;
use crate::http_route::HttpRoute;
use crate::name::{Label, NamespacedName, ServiceName};
use crate::outside::OutsideHosts;
use crate::registry::exports::{Exported, Offered};
use crate::shared::key;
use crate::spiffe::WorkloadName;
use crate::traffic::TrafficPolicy;

/// Ports per service. Kubernetes itself has no limit; nobody is known to use more than a few dozen.
pub const PORTS_PER_SERVICE_MAX: usize = 64;
/// Distinct workload identities behind one exported service.
pub const IDENTITIES_PER_EXPORT_MAX: usize = 64;
/// Endpoints of one service in one cluster (ten full EndpointSlices).
pub const ENDPOINTS_PER_SERVICE_MAX: usize = 10_000;

/// How bytes on a port are to be read (`appProtocol`, KEP-3726, or the port name's prefix).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppProtocol {
    /// HTTP/1.1 to the application.
    Http,
    /// HTTP/2 with prior knowledge (`kubernetes.io/h2c`, `grpc`).
    Http2,
    /// Opaque bytes.
    #[default]
    Tcp,
    /// Nobody said: each connection's first bytes tell.
    Detect,
}

impl AppProtocol {
    /// Whether all that comes on the port is requests, which are routed one by one.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2)
    }
}

/// A port that a service offers to its callers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name; SRV records need it.
    pub name: Option<Label>,
    /// The number that callers use.
    pub port: u16,
    /// How its bytes are read.
    pub protocol: AppProtocol,
}

/// One instance of a service in its own cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address of the workload.
    pub address: IpAddr,
    /// Service port → port on `address`.
    pub ports: BTreeMap<u16, u16>,
    /// The port of the sidecar's inbound listener on `address`; `None` when the workload has none.
    pub sidecar_port: Option<u16>,
    /// The identity that the workload runs as.
    pub workload: WorkloadName,
    /// `conditions.ready`: whether it takes new work.
    pub ready: bool,
}

/// A service as its own cluster knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalService {
    /// What it offers, sorted by port.
    pub ports: Vec<ServicePort>,
    /// Its instances, sorted by address.
    pub endpoints: Arc<[Endpoint]>,
    /// Whether a `ServiceExport` of the same name exists.
    pub exported: bool,
}

impl LocalService {
    /// Instances that take new work.
    pub fn ready(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.ready)
    }

    /// What the federation is told about this service.
    #[must_use]
    pub fn export(&self) -> Export {
        let identities = self.endpoints.iter().filter(|e| e.sidecar_port.is_some()).map(|e| e.workload.clone());
        Export {
            ports: self.ports.clone(),
            identities: identities.take(IDENTITIES_PER_EXPORT_MAX).collect(),
            terminated: self.endpoints.iter().any(|e| e.sidecar_port.is_none()),
        }
    }
}

/// Everything a cluster has, as its source (manifests or the API server) tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalCatalog {
    /// Services by name.
    pub services: OrdMap<ServiceName, LocalService>,
    /// Where requests from outside go.
    pub routes: OrdMap<NamespacedName, Arc<HttpRoute>>,
    /// Which hosts outside may be called.
    pub outside: OrdMap<NamespacedName, Arc<OutsideHosts>>,
    /// How requests to services are treated that clients of this cluster send, where not as usual. How a cluster calls is its
    /// own affair, and not in the registry.
    pub traffic: OrdMap<ServiceName, Arc<TrafficPolicy>>,
    /// Who may call what here. Rules of the cluster where calls land, and not in the registry either.
    pub authorizations: OrdMap<NamespacedName, Authorization>,
}

/// What a cluster offers to the federation under a service's name. Endpoints stay at home: callers reach
/// the cluster's gateway, which knows them. Liveness does not go through the registry either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// The ports on offer.
    pub ports: Vec<ServicePort>,
    /// The workloads that may answer for the service (secure naming).
    pub identities: BTreeSet<WorkloadName>,
    /// Whether the cluster's gateway may itself answer, for instances without a sidecar.
    pub terminated: bool,
}

impl LocalCatalog {
    /// The commands that turn `agreed`, the registry's record of this cluster's exports, into what the
    /// catalog says now. Empty when they agree. Order: withdrawals, then sets, each by name.
    #[must_use]
    pub fn diff(&self, agreed: &Offered) -> Vec<Command> {
        self.diff_of(self.services.keys().chain(agreed.keys()).collect(), agreed)
    }

    /// As [`diff`](Self::diff), where `catalog` and `record` agreed before: what both share with the ones of now is not
    /// looked at.
    #[must_use]
    pub fn diff_since(&self, catalog: &Self, record: &Offered, agreed: &Offered) -> Vec<Command> {
        let services = catalog.services.diff(&self.services).map(key);
        self.diff_of(services.chain(record.diff(agreed).map(key)).collect(), agreed)
    }

    fn diff_of(&self, names: BTreeSet<&ServiceName>, agreed: &Offered) -> Vec<Command> {
        let mut commands: Vec<Command> =
            names.into_iter().filter_map(|name| self.command(name, agreed.get(name))).collect();
        commands.sort_by_key(|command| matches!(command, Command::SetExport { .. }));
        commands
    }

    /// What brings the record of one service to what the catalog says.
    fn command(&self, name: &ServiceName, known: Option<&Arc<Exported>>) -> Option<Command> {
        let service = name.clone();
        let Some(local) = self.services.get(name).filter(|local| local.exported) else {
            return known.map(|_| Command::WithdrawExport { service });
        };
        let mut export = local.export();
        match known {
            // With no instance left, what is known about who may answer stays true.
            Some(known) if local.endpoints.is_empty() => {
                export.identities.clone_from(&known.export.identities);
                export.terminated = known.export.terminated;
            }
            _ => {}
        }
        let agreed = known.is_some_and(|known| known.export == export);
        (!agreed).then_some(Command::SetExport { service, export })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::time::UnixMillis;

    fn catalog(exported: bool) -> LocalCatalog {
        let endpoint = Endpoint {
            address: [127, 0, 0, 1].into(),
            ports: BTreeMap::from([(80, 8080)]),
            sidecar_port: Some(15006),
            workload: "shop/reviews".parse().expect("valid"),
            ready: true,
        };
        let service = LocalService {
            ports: vec![ServicePort { name: None, port: 80, protocol: AppProtocol::Http }],
            endpoints: Arc::from([endpoint]),
            exported,
        };
        let services = OrdMap::from(vec![("shop/reviews".parse().expect("valid"), service)]);
        LocalCatalog { services, ..LocalCatalog::default() }
    }

    fn agreed(commands: &[Command]) -> Offered {
        let exported = |export: &Export| Arc::new(Exported { export: export.clone(), since: UnixMillis(1) });
        let sets = commands.iter().filter_map(|command| match command {
            Command::SetExport { service, export } => Some((service.clone(), exported(export))),
            _ => None,
        });
        sets.collect()
    }

    #[test]
    fn a_diff_reaches_agreement_and_then_is_empty() {
        let commands = catalog(true).diff(&Offered::new());
        assert_eq!(commands.len(), 1);
        let agreed = agreed(&commands);
        assert!(catalog(true).diff(&agreed).is_empty());
        assert!(matches!(catalog(false).diff(&agreed)[..], [Command::WithdrawExport { .. }]));
    }

    #[test]
    fn losing_the_last_endpoint_keeps_the_known_identities() {
        let agreed = agreed(&catalog(true).diff(&Offered::new()));
        let mut empty = catalog(true);
        let name = "shop/reviews".parse().expect("valid");
        empty.services.get_mut::<ServiceName>(&name).expect("there").endpoints = Arc::from([]);
        assert!(empty.diff(&agreed).is_empty());
    }

    /// A service that is exported or not, with or without an instance, on one port or another.
    fn any_services() -> impl Strategy<Value = BTreeMap<u8, (bool, bool, u16)>> {
        prop::collection::btree_map(0..40_u8, (any::<bool>(), any::<bool>(), 80..82_u16), 0..40)
    }

    fn with(mut catalog: LocalCatalog, services: BTreeMap<u8, (bool, bool, u16)>) -> LocalCatalog {
        let some = self::catalog(true).services.values().next().expect("one").clone();
        for (number, (exported, runs, port)) in services {
            let endpoints = if runs { some.endpoints.clone() } else { Arc::from([]) };
            let ports = vec![ServicePort { port, ..some.ports[0].clone() }];
            let name = format!("shop/s{number}").parse().expect("valid");
            catalog.services.insert(name, LocalService { ports, endpoints, exported });
        }
        catalog
    }

    fn record(mut record: Offered, commands: &[Command]) -> Offered {
        record.extend(agreed(commands));
        for command in commands {
            if let Command::WithdrawExport { service } = command {
                record.remove(service);
            }
        }
        record
    }

    proptest! {
        #[test]
        fn from_where_both_agreed_the_difference_is_the_same(
            before in any_services(),
            now in any_services(),
            others in any_services(),
        ) {
            let before = with(LocalCatalog::default(), before);
            let known = record(Offered::new(), &before.diff(&Offered::new()));
            prop_assert!(before.diff(&known).is_empty());
            // The record may have been changed too, by another gateway that sees other manifests.
            let agreed = record(known.clone(), &with(before.clone(), others).diff(&known));
            let now = with(before.clone(), now);
            let commands = now.diff_since(&before, &known, &agreed);
            prop_assert_eq!(&commands, &now.diff(&agreed));
            prop_assert!(now.diff(&record(agreed, &commands)).is_empty());
        }
    }
}

//! Message to model. Every count is bounded and every text parsed; the first fault refuses the message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_model::catalog::{
    AppProtocol, ENDPOINTS_PER_SERVICE_MAX, Endpoint, IDENTITIES_PER_EXPORT_MAX, PORTS_PER_SERVICE_MAX, ServicePort,
};
use isthmus_model::health::{Agreement, Capacity, Reach};
use isthmus_model::locality::Locality;
use isthmus_model::name::{ClusterName, ServiceName};
use isthmus_model::registry::departure::DENIED_MAX;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::{Epoch, NODES_MAX};
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{Gateway, RemoteBackend, RemoteCluster, Service, Site};
use isthmus_model::time::UnixMillis;

use super::{ROOT_BYTES_MAX, ROOTS_MAX, routes, traffic};
use crate::control;
use crate::error::WireError;
use crate::field;

/// The members of a federation as a view holds them.
pub(super) type Clusters = OrdMap<ClusterName, Arc<RemoteCluster>>;

/// Roots and denied keys, and the state that they are of.
pub(super) type Trust = (Arc<[Vec<u8>]>, Arc<BTreeSet<Digest>>, Epoch);

pub(super) fn roots(roots: &control::Roots) -> Result<Trust, WireError> {
    field::count("roots.der", roots.der.len(), ROOTS_MAX)?;
    for root in &roots.der {
        if root.len() > ROOT_BYTES_MAX {
            return Err(WireError::TooLong { field: "roots.der", length: root.len(), limit: ROOT_BYTES_MAX });
        }
    }
    field::count("roots.denied", roots.denied.len(), DENIED_MAX)?;
    let key = |key: &Vec<u8>| <[u8; 32]>::try_from(key.as_slice()).map(Digest);
    let denied = roots.denied.iter().map(key).collect::<Result<BTreeSet<_>, _>>();
    let denied = denied.map_err(|_| WireError::Key { field: "roots.denied" })?;
    let epoch = Epoch { restored_at: UnixMillis(roots.restored_at), revision: roots.revision };
    Ok((roots.der.clone().into(), Arc::new(denied), epoch))
}

pub(super) fn control_ports(ports: &control::ControlPorts) -> Result<Arc<[SocketAddr]>, WireError> {
    field::count("control_ports.addresses", ports.addresses.len(), NODES_MAX)?;
    ports.addresses.iter().map(|address| field::socket_address("control_ports.addresses", address)).collect()
}

pub(super) fn agreement(agreement: &control::Agreement) -> Result<Agreement, WireError> {
    Ok(Agreement {
        leader: optional(&agreement.leader, |leader| field::name("agreement.leader", leader))?,
        stale_since: (agreement.stale_since != 0).then_some(UnixMillis(agreement.stale_since)),
    })
}

/// Reads the whole list of clusters. Those that are as in `known` keep their place in memory, so that what
/// is linked to them need not be linked again.
pub(super) fn clusters(message: &control::Clusters, site: &Site, known: &Clusters) -> Result<Clusters, WireError> {
    field::count("clusters", message.clusters.len(), NODES_MAX)?;
    let mut clusters = Clusters::new();
    for record in &message.clusters {
        let read = cluster(record, site)?;
        let shared = known.get(&read.name).filter(|known| ***known == read).cloned();
        let name = read.name.clone();
        if clusters.insert(name, shared.unwrap_or_else(|| Arc::new(read))).is_some() {
            return Err(duplicate("clusters.name", &record.name));
        }
    }
    Ok(clusters)
}

fn cluster(record: &control::Cluster, site: &Site) -> Result<RemoteCluster, WireError> {
    field::count("clusters.gateways", record.gateways.len(), NODES_MAX)?;
    let locality: Locality = field::name("clusters.locality", &record.locality)?;
    let mut gateways = BTreeMap::new();
    for record in &record.gateways {
        if gateways.insert(record.node, gateway(record)?).is_some() {
            return Err(duplicate("clusters.gateways.node", &record.node.to_string()));
        }
    }
    let name = field::name("clusters.name", &record.name)?;
    Ok(RemoteCluster { name, proximity: site.locality.proximity(&locality), locality, gateways })
}

fn gateway(record: &control::Gateway) -> Result<Gateway, WireError> {
    let reach = match control::Reach::try_from(record.reach) {
        Ok(control::Reach::Unknown) => Reach::Unknown,
        Ok(control::Reach::Up) => Reach::Up,
        Ok(control::Reach::Down) => Reach::Down,
        Err(_) => return Err(unknown("clusters.gateways.reach", record.reach, control::Reach::Down.into())),
    };
    Ok(Gateway {
        name: field::name("clusters.gateways.name", &record.name)?,
        east_west: field::socket_address("clusters.gateways.east_west", &record.east_west)?,
        reach,
    })
}

/// Reads a service and links its backends to `clusters`.
pub(super) fn service(record: &control::Service, clusters: &Clusters) -> Result<Service, WireError> {
    let name: ServiceName = field::name("services.name", &record.name)?;
    field::count("services.ports", record.ports.len(), PORTS_PER_SERVICE_MAX)?;
    field::count("services.endpoints", record.endpoints.len(), ENDPOINTS_PER_SERVICE_MAX)?;
    field::count("services.remotes", record.remotes.len(), clusters.len())?;
    let mut offering = BTreeSet::new();
    for remote in &record.remotes {
        if !offering.insert(&remote.cluster) {
            return Err(duplicate(
                "services.remotes.cluster",
                field::text("services.remotes.cluster", &remote.cluster)?,
            ));
        }
    }
    Ok(Service {
        vip: optional(&record.vip, |vip| field::address("services.vip", vip))?,
        ports: record.ports.iter().map(port).collect::<Result<_, _>>()?,
        federated: record.federated,
        exported_here: record.exported_here,
        endpoints: record.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?,
        remotes: record.remotes.iter().map(|record| remote(&name, record, clusters)).collect::<Result<_, _>>()?,
        traffic: traffic::decode(record.traffic.as_ref())?,
        routes: routes::decode(&record.routes)?,
        name,
    })
}

fn port(record: &control::Port) -> Result<ServicePort, WireError> {
    let protocol = match control::AppProtocol::try_from(record.protocol) {
        Ok(control::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(control::AppProtocol::Http) => AppProtocol::Http,
        Ok(control::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(control::AppProtocol::Detect) => AppProtocol::Detect,
        Err(_) => return Err(unknown("services.ports.protocol", record.protocol, control::AppProtocol::Detect.into())),
    };
    Ok(ServicePort {
        name: optional(&record.name, |name| field::name("services.ports.name", name))?,
        port: field::port("services.ports.port", record.port)?,
        protocol,
    })
}

fn endpoint(record: &control::Endpoint) -> Result<Endpoint, WireError> {
    const PORTS: &str = "services.endpoints.ports";
    field::count(PORTS, record.ports.len(), PORTS_PER_SERVICE_MAX)?;
    let ports =
        record.ports.iter().map(|(service, app)| Ok((field::port(PORTS, *service)?, field::port(PORTS, *app)?)));
    let sidecar_port = field::port("services.endpoints.sidecar_port", record.sidecar_port)?;
    Ok(Endpoint {
        address: field::address("services.endpoints.address", &record.address)?,
        ports: ports.collect::<Result<_, WireError>>()?,
        sidecar_port: (sidecar_port != 0).then_some(sidecar_port),
        workload: field::name("services.endpoints.workload", &record.workload)?,
        ready: record.ready,
    })
}

fn remote(service: &ServiceName, record: &control::Remote, clusters: &Clusters) -> Result<RemoteBackend, WireError> {
    field::count("services.remotes.ports", record.ports.len(), PORTS_PER_SERVICE_MAX)?;
    field::count("services.remotes.identities", record.identities.len(), IDENTITIES_PER_EXPORT_MAX)?;
    let name: ClusterName = field::name("services.remotes.cluster", &record.cluster)?;
    let Some(cluster) = clusters.get(&name) else {
        return Err(WireError::UnknownCluster { service: service.clone(), cluster: name });
    };
    let ports = record.ports.iter().map(|port| field::port("services.remotes.ports", *port));
    let identities = record.identities.iter().map(|identity| field::name("services.remotes.identities", identity));
    Ok(RemoteBackend {
        cluster: cluster.clone(),
        ports: ports.collect::<Result<_, _>>()?,
        identities: identities.collect::<Result<_, _>>()?,
        terminated: record.terminated,
        capacity: Capacity { ready: record.ready, total: record.total },
    })
}

/// Reads a text that means "none" when it is empty.
fn optional<T>(text: &str, read: impl FnOnce(&str) -> Result<T, WireError>) -> Result<Option<T>, WireError> {
    if text.is_empty() { Ok(None) } else { read(text).map(Some) }
}

fn duplicate(field: &'static str, value: &str) -> WireError {
    WireError::Duplicate { field, value: value.to_owned() }
}

fn unknown(field: &'static str, value: i32, limit: i32) -> WireError {
    WireError::OutOfRange { field, value: value.into(), limit: limit.into() }
}

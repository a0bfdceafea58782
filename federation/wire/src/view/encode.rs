//! Model to message. Infallible: the model is valid by construction.

use std::net::SocketAddr;

use isthmus_model::catalog::{AppProtocol, Endpoint, ServicePort};
use isthmus_model::health::{Agreement, Reach};
use isthmus_model::registry::node::NodeId;
use isthmus_model::snapshot::{Gateway, RemoteBackend, RemoteCluster, Service, Snapshot};

use super::decode::Clusters;
use super::{routes, traffic};
use crate::control;

pub(super) fn clusters(clusters: &Clusters) -> control::Clusters {
    control::Clusters { clusters: clusters.values().map(|record| cluster(record)).collect() }
}

fn cluster(cluster: &RemoteCluster) -> control::Cluster {
    control::Cluster {
        name: cluster.name.to_string(),
        locality: cluster.locality.to_string(),
        gateways: cluster.gateways.iter().map(gateway).collect(),
    }
}

fn gateway((node, gateway): (&NodeId, &Gateway)) -> control::Gateway {
    let reach = match gateway.reach {
        Reach::Unknown => control::Reach::Unknown,
        Reach::Up => control::Reach::Up,
        Reach::Down => control::Reach::Down,
    };
    control::Gateway {
        node: *node,
        name: gateway.name.to_string(),
        east_west: gateway.east_west.to_string(),
        reach: reach.into(),
    }
}

pub(super) fn roots(view: &Snapshot) -> control::Roots {
    control::Roots {
        der: view.roots.to_vec(),
        denied: view.denied.iter().map(|key| key.0.to_vec()).collect(),
        restored_at: view.epoch.restored_at.0,
        revision: view.epoch.revision,
    }
}

pub(super) fn control_ports(ports: &[SocketAddr]) -> control::ControlPorts {
    control::ControlPorts { addresses: ports.iter().map(ToString::to_string).collect() }
}

pub(super) fn agreement(agreement: &Agreement) -> control::Agreement {
    control::Agreement {
        leader: agreement.leader.as_ref().map(ToString::to_string).unwrap_or_default(),
        // Zero means "not stale", so the epoch itself is told as the millisecond after it.
        stale_since: agreement.stale_since.map_or(0, |at| at.0.max(1)),
    }
}

pub(super) fn service(service: &Service) -> control::Service {
    control::Service {
        name: service.name.to_string(),
        vip: service.vip.map(|vip| vip.to_string()).unwrap_or_default(),
        ports: service.ports.iter().map(port).collect(),
        federated: service.federated,
        exported_here: service.exported_here,
        endpoints: service.endpoints.iter().map(endpoint).collect(),
        remotes: service.remotes.iter().map(remote).collect(),
        traffic: traffic::encode(&service.traffic),
        routes: routes::encode(&service.routes),
    }
}

fn port(port: &ServicePort) -> control::Port {
    let protocol = match port.protocol {
        AppProtocol::Tcp => control::AppProtocol::Tcp,
        AppProtocol::Http => control::AppProtocol::Http,
        AppProtocol::Http2 => control::AppProtocol::Http2,
        AppProtocol::Detect => control::AppProtocol::Detect,
    };
    control::Port {
        name: port.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        port: port.port.into(),
        protocol: protocol.into(),
    }
}

fn endpoint(endpoint: &Endpoint) -> control::Endpoint {
    control::Endpoint {
        address: endpoint.address.to_string(),
        ports: endpoint.ports.iter().map(|(service, app)| (u32::from(*service), u32::from(*app))).collect(),
        sidecar_port: endpoint.sidecar_port.map_or(0, u32::from),
        workload: endpoint.workload.to_string(),
        ready: endpoint.ready,
    }
}

fn remote(remote: &RemoteBackend) -> control::Remote {
    control::Remote {
        cluster: remote.cluster.name.to_string(),
        ports: remote.ports.iter().map(|port| u32::from(*port)).collect(),
        identities: remote.identities.iter().map(ToString::to_string).collect(),
        terminated: remote.terminated,
        ready: remote.capacity.ready,
        total: remote.capacity.total,
    }
}

//! The way in: whether an authenticated peer may reach a service here, and where it lands.
//!
//! The default is to deny. A peer of the own cluster may call any service that this place backs; a peer
//! of another member cluster only what the own cluster exports.

use std::net::{IpAddr, SocketAddr};

use crate::catalog::AppProtocol;
use crate::name::{ClusterName, ServiceName};
use crate::snapshot::{Service, Snapshot};
use crate::spiffe::SpiffeId;

/// Why a peer is turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The peer's cluster left, or never was a member.
    #[error("cluster {0} is not a member of the federation")]
    NotMember(ClusterName),
    /// The service is unknown here, or not offered to the peer's cluster. One reason for both: what is not
    /// exported is not anyone else's to know.
    #[error("{0} is not exported by this cluster")]
    NotExported(ServiceName),
    /// The service has no such port here.
    #[error("{0} has no port {1} here")]
    NoSuchPort(ServiceName, u16),
    /// None of the service's instances is where the request arrived.
    #[error("{0} does not run here")]
    NotHere(ServiceName),
}

/// Decides about a request of `peer` for `port` of `service` that arrived at a workload on `own_address`.
/// The answer is where the application listens.
///
/// # Errors
/// The [`Denial`].
pub fn admit(
    snapshot: &Snapshot,
    peer: &SpiffeId,
    service: &ServiceName,
    port: u16,
    own_address: IpAddr,
) -> Result<SocketAddr, Denial> {
    let found = authorize(snapshot, peer, service)?;
    let mut here = found.endpoints.iter().filter(|endpoint| endpoint.address == own_address).peekable();
    if here.peek().is_none() {
        return Err(Denial::NotHere(service.clone()));
    }
    let app_port = here.find_map(|endpoint| endpoint.ports.get(&port));
    let app_port = app_port.ok_or_else(|| Denial::NoSuchPort(service.clone(), port))?;
    Ok(SocketAddr::new(own_address, *app_port))
}

/// Decides whether `peer` may call `service` in this cluster at all.
///
/// # Errors
/// The [`Denial`].
pub fn authorize<'a>(snapshot: &'a Snapshot, peer: &SpiffeId, service: &ServiceName) -> Result<&'a Service, Denial> {
    let peer_cluster = &peer.trust_domain.cluster;
    if peer.trust_domain.federation != snapshot.site.federation || !snapshot.is_member(peer_cluster) {
        return Err(Denial::NotMember(peer_cluster.clone()));
    }
    let foreign = *peer_cluster != snapshot.site.cluster;
    let found = snapshot.services.get(service).filter(|found| found.exported_here || !foreign);
    found.map(|found| &**found).ok_or_else(|| Denial::NotExported(service.clone()))
}

/// What listens on `port` of a workload at `address`, as far as the own cluster's services tell: the services, one at least, and what
/// it speaks. Where they do not agree on that, its connections have to tell.
#[must_use]
pub fn landing_at(snapshot: &Snapshot, address: IpAddr, port: u16) -> Option<(Vec<ServiceName>, AppProtocol)> {
    let there = snapshot.services.values().filter_map(|service| {
        let mut here = service.endpoints.iter().filter(|endpoint| endpoint.address == address);
        let (offered, _) = here.find_map(|endpoint| endpoint.ports.iter().find(|(_, target)| **target == port))?;
        Some((service.name.clone(), service.port(*offered)?.protocol))
    });
    let (names, protocols): (Vec<_>, Vec<_>) = there.unzip();
    let protocol = *protocols.first()?;
    let agreed = protocols.iter().all(|other| *other == protocol);
    Some((names, if agreed { protocol } else { AppProtocol::Detect }))
}

#[cfg(test)]
mod tests;

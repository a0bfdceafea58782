//! Whether a peer may, and where its request lands: the model's policy, as HTTP.

use std::net::{IpAddr, SocketAddr};

use http::StatusCode;
use http::uri::Authority;
use isthmus_model::name::ServiceName;
use isthmus_model::policy::{Denial, admit, authorize};
use isthmus_model::snapshot::Snapshot;
use isthmus_model::spiffe::SpiffeId;

use crate::message::fields::Outcome;
use crate::plaintext::deliver::Admitted;

/// Whom a sidecar lets in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inbound {
    /// Peers of the federation, over mutual TLS.
    #[default]
    Strict,
    /// Also what was on its way to the application in the clear and was redirected to the sidecar: while clients are being
    /// brought into the mesh.
    Permissive,
}

/// The workload that a sidecar stands beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The address by which the cluster's endpoints know it.
    pub address: IpAddr,
    /// Where the application is connected to: the same, or a loopback address if it listens there only, and sees its callers
    /// there.
    pub application: IpAddr,
    /// Whom it lets in.
    pub inbound: Inbound,
    /// The sidecar's own ports, which are not the application's: nobody comes to them by way of itself.
    pub own_ports: [u16; 3],
}

impl Workload {
    /// One that is known by `address`, listens there, and lets in only peers of the federation.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self { address, application: address, inbound: Inbound::Strict, own_ports: [0; 3] }
    }

    /// Whether a client in the clear may come to `port`. If the application is elsewhere than it was called at, ports of which
    /// nobody knows that they are its services' would be opened to the network by it.
    pub(super) fn takes_in_the_clear(&self, port: u16, known: bool) -> bool {
        !self.own_ports.contains(&port) && (known || self.application == self.address)
    }
}

/// Where the requests of a listener land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// At the workload that the sidecar stands beside.
    Workload(Workload),
    /// At any ready instance of the own cluster that has no sidecar.
    Gateway,
}

/// A request that may not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) outcome: Outcome,
    pub(super) reason: String,
}

impl Refused {
    pub(super) fn denied(status: StatusCode, reason: impl ToString) -> Self {
        Self { status, outcome: Outcome::Denied, reason: reason.to_string() }
    }

    /// The session's peer proved itself with what no longer counts; a newer certificate may.
    pub(super) fn session_over(reason: &str) -> Self {
        Self { status: StatusCode::MISDIRECTED_REQUEST, outcome: Outcome::SessionOver, reason: reason.to_owned() }
    }

    /// The caller's view is older or newer than this one: another place may do.
    pub(super) fn elsewhere(status: StatusCode, reason: impl ToString) -> Self {
        Self { status, outcome: Outcome::NotSent, reason: reason.to_string() }
    }
}

impl From<Denial> for Refused {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::NotMember(_) | Denial::NotExported(_) => Self::denied(StatusCode::FORBIDDEN, denial),
            Denial::NoSuchPort(..) | Denial::NotHere(_) => Self::elsewhere(StatusCode::MISDIRECTED_REQUEST, denial),
        }
    }
}

impl Landing {
    /// Decides about a request of `peer`. `random` spreads a gateway's requests over instances.
    pub(super) fn admit(
        self,
        snapshot: &Snapshot,
        peer: &SpiffeId,
        service: &ServiceName,
        port: u16,
        random: u64,
    ) -> Result<Admitted, Refused> {
        let targets = match self {
            Self::Workload(workload) => {
                let known = admit(snapshot, peer, service, port, workload.address)?;
                vec![SocketAddr::new(workload.application, known.port())]
            }
            Self::Gateway => instances(snapshot, peer, service, port, random)?,
        };
        let known = snapshot.services.get(service).and_then(|service| service.port(port));
        // Without its protocol nobody could tell whether bytes may pass that claim to be somebody's.
        let known = known.ok_or_else(|| Denial::NoSuchPort(service.clone(), port))?;
        let authority = Authority::try_from(format!("{}:{port}", service.host()));
        let authority = authority.map_err(|error| Refused::denied(StatusCode::BAD_REQUEST, error))?;
        Ok(Admitted { targets, protocol: known.protocol, authority })
    }
}

fn instances(
    snapshot: &Snapshot,
    peer: &SpiffeId,
    service: &ServiceName,
    port: u16,
    random: u64,
) -> Result<Vec<SocketAddr>, Refused> {
    let found = authorize(snapshot, peer, service)?;
    let bare = found.endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.sidecar_port.is_none());
    let target = |endpoint: &isthmus_model::catalog::Endpoint| {
        Some(SocketAddr::new(endpoint.address, *endpoint.ports.get(&port)?))
    };
    let mut targets: Vec<SocketAddr> = bare.filter_map(target).collect();
    let Ok(count) = u64::try_from(targets.len()) else { return Ok(targets) };
    if count == 0 {
        let reason = format!("{service} has no ready instance for port {port} here");
        return Err(Refused::elsewhere(StatusCode::SERVICE_UNAVAILABLE, reason));
    }
    targets.rotate_left(usize::try_from(random % count).unwrap_or(0));
    Ok(targets)
}

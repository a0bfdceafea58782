//! Whether a peer may, and where its request lands: the model's policy, as HTTP.

use std::net::{IpAddr, SocketAddr};

use http::uri::Authority;
use http::{Method, Request, StatusCode};
use isthmus_model::authorization::{self, Asking, Http, Permitted, judge};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::name::ServiceName;
use isthmus_model::policy::{Denial, admit, authorize};
use isthmus_model::snapshot::Snapshot;
use isthmus_model::spiffe::{SpiffeId, WorkloadName};

use crate::message::Received;
use crate::message::fields::Outcome;
use crate::message::upgrade::is_asked;
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

impl From<authorization::Denial> for Refused {
    fn from(denial: authorization::Denial) -> Self {
        if let authorization::Denial::Denied(policy) = &denial {
            tracing::debug!(%policy, "a policy denies what was asked for");
        }
        Self::denied(StatusCode::FORBIDDEN, denial)
    }
}

/// What a peer asks for by a session.
pub(super) struct Call<'a> {
    pub(super) peer: &'a SpiffeId,
    pub(super) service: &'a ServiceName,
    pub(super) port: u16,
    /// What a request says; `None` for bytes.
    pub(super) http: Option<Http<'a>>,
    /// Who the own workload is.
    pub(super) own: Option<&'a WorkloadName>,
    /// Spreads a gateway's requests over instances.
    pub(super) random: u64,
}

impl Call<'_> {
    /// Judges it by the rules about the workload at `address` whose application listens on `app_port`.
    fn judge(
        &self,
        snapshot: &Snapshot,
        workload: Option<&WorkloadName>,
        address: IpAddr,
        app_port: u16,
    ) -> Result<Permitted, authorization::Denial> {
        let services = std::slice::from_ref(self.service);
        let asking = Asking { peer: Some(self.peer), services, port: app_port, http: self.http };
        judge(snapshot.rules_about(workload, address), &asking)
    }
}

/// What `request` says, as rules look at it.
pub(super) fn seen(request: &Request<Received>) -> Http<'_> {
    // A protocol is asked for by a GET, whatever form that has in HTTP/2.
    let method = if is_asked(request) { Method::GET.as_str() } else { request.method().as_str() };
    Http { method, path: request.uri().path() }
}

impl Landing {
    /// Decides about a call: first whether the peer may call the service here at all, then by the rules about where it lands.
    pub(super) fn admit(self, snapshot: &Snapshot, call: &Call<'_>) -> Result<Admitted, Refused> {
        let Call { peer, service, port, .. } = *call;
        let known = snapshot.services.get(service).and_then(|service| service.port(port));
        // To what speaks no HTTP, a request is bytes: whatever it says as one lets nobody in.
        let is_tcp = known.is_some_and(|known| known.protocol == AppProtocol::Tcp);
        let call = &Call { http: call.http.filter(|_| !is_tcp), ..*call };
        let (targets, permitted) = match self {
            Self::Workload(workload) => {
                let found = admit(snapshot, peer, service, port, workload.address)?;
                let permitted = call.judge(snapshot, call.own, workload.address, found.port())?;
                (vec![SocketAddr::new(workload.application, found.port())], permitted)
            }
            Self::Gateway => instances(snapshot, call)?,
        };
        // Without its protocol nobody could tell whether bytes may pass that claim to be somebody's.
        let known = known.ok_or_else(|| Denial::NoSuchPort(service.clone(), port))?;
        let authority = Authority::try_from(format!("{}:{port}", service.host()));
        let authority = authority.map_err(|error| Refused::denied(StatusCode::BAD_REQUEST, error))?;
        Ok(Admitted { targets, protocol: known.protocol, authority, path: permitted.into_path() })
    }
}

/// The instances that may be called, and that they may. Rules may be about some of them only: what is judged by its path for one of
/// them has that form for all.
fn instances(snapshot: &Snapshot, call: &Call<'_>) -> Result<(Vec<SocketAddr>, Permitted), Refused> {
    let Call { peer, service, port, random, .. } = *call;
    let found = authorize(snapshot, peer, service)?;
    let bare = found.endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.sidecar_port.is_none());
    let (mut targets, mut permitted, mut denied) = (Vec::new(), None::<Permitted>, None);
    for endpoint in bare {
        let Some(app_port) = endpoint.ports.get(&port) else { continue };
        match call.judge(snapshot, Some(&endpoint.workload), endpoint.address, *app_port) {
            Ok(may) => {
                targets.push(SocketAddr::new(endpoint.address, *app_port));
                permitted = Some(match permitted {
                    Some(before) => before.or(may),
                    None => may,
                });
            }
            Err(denial) => denied = Some(denial),
        }
    }
    let (Some(permitted), count @ 1..) = (permitted, targets.len() as u64) else {
        if let Some(denial) = denied {
            return Err(denial.into());
        }
        let reason = format!("{service} has no ready instance for port {port} here");
        return Err(Refused::elsewhere(StatusCode::SERVICE_UNAVAILABLE, reason));
    };
    targets.rotate_left(usize::try_from(random % count).unwrap_or(0));
    Ok((targets, permitted))
}

//! From a name or an address to a service, or to what the client is told instead.

use std::sync::Arc;

use http::StatusCode;
use isthmus_model::catalog::ServicePort;
use isthmus_model::name::ServiceName;
use isthmus_model::route::Found;
use isthmus_model::snapshot::{Service, Snapshot};

use crate::message::authority::BadRequest;

/// A service and one of its ports.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) service: Arc<Service>,
    pub(crate) port: ServicePort,
}

impl Target {
    /// The same as the present view has it, if that is another one by now: reading a request may take a while. What is gone
    /// stays as it was.
    pub(super) fn refreshed(&self, snapshot: &Snapshot) -> Option<Self> {
        let present = snapshot.services.get(&self.service.name);
        let service = present.filter(|present| !Arc::ptr_eq(present, &self.service))?;
        Some(Self { service: service.clone(), port: service.port(self.port.port)?.clone() })
    }
}

/// Why there is no target. The text goes to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoTarget {
    #[error(transparent)]
    BadRequest(#[from] BadRequest),
    #[error("this connection is what a CONNECT opened: a CONNECT within it is not served")]
    Nested,
    #[error("too many connections are open here; close those that are not needed")]
    Full,
    #[error("this address is {0} port {1}: {2} is elsewhere")]
    Misdirected(ServiceName, u16, String),
    #[error(
        "{0:?} is neither a federation service, whose names end in .svc.clusterset.local, nor a host that may be called from here"
    )]
    NotOurs(String),
    #[error("{0:?} may be called from here, but not on port {1}; a ServiceEntry allows {2}")]
    OutsidePort(String, u16, String),
    #[error("port {1} of {0:?} takes no requests in the clear: use CONNECT")]
    OutsideBytes(String, u16),
    #[error("{0:?} has no address that may be called: {1}")]
    Unresolved(String, String),
    #[error("no cluster exports {0:?}; check `isthmus services`")]
    NotFound(String),
    #[error("{0} has no port {1}; it has {2}")]
    NoSuchPort(ServiceName, u16, String),
    #[error("this cluster's gateway does not answer, and {0:?} has not been used here before; check the gateway")]
    Unasked(String),
}

impl NoTarget {
    pub(super) fn outside_port(host: &str, port: u16, allowed: &[u16]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(u16::to_string).collect();
        Self::OutsidePort(host.to_owned(), port, allowed.join(", "))
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::Nested => StatusCode::BAD_REQUEST,
            Self::Misdirected(..) => StatusCode::MISDIRECTED_REQUEST,
            Self::NotOurs(_) | Self::OutsidePort(..) | Self::OutsideBytes(..) => StatusCode::FORBIDDEN,
            Self::Unresolved(..) => StatusCode::BAD_GATEWAY,
            Self::NotFound(_) | Self::NoSuchPort(..) => StatusCode::NOT_FOUND,
            Self::Unasked(_) | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Reads the model's answer about `host`:`port`.
pub(crate) fn target(found: Found, host: &str, port: u16) -> Result<Target, NoTarget> {
    match found {
        Found::Service(service, port) => Ok(Target { service, port }),
        Found::NoSuchPort(service) => {
            let ports: Vec<String> = service.ports.iter().map(|port| port.port.to_string()).collect();
            Err(NoTarget::NoSuchPort(service.name.clone(), port, ports.join(", ")))
        }
        Found::NotFound => Err(NoTarget::NotFound(host.to_owned())),
        Found::NotOurs => Err(NoTarget::NotOurs(host.to_owned())),
        Found::Unasked(_) => Err(NoTarget::Unasked(host.to_owned())),
    }
}

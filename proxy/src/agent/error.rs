//! Why a stream to a gateway ended or never began.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use isthmus_identity::{IdentityError, VerifyError};
use isthmus_model::name::NameError;
use isthmus_model::spiffe::SpiffeId;
use isthmus_wire::WireError;

/// Why a session with a gateway is over. None of them stops the sidecar: it goes on with what it knows and
/// tries the next gateway.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No TCP connection.
    #[error("cannot connect: {0}; check `gateways` and that the gateway's control port is up")]
    Connect(#[source] io::Error),
    /// No connection to the gateway's socket.
    #[error("cannot connect: {source}; check that the gateway runs on this machine, and its `control_socket.path`")]
    Socket {
        /// The configured path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// TLS did not come about for a reason of its own.
    #[error("TLS handshake failed: {0}; check that `gateways` names control ports of Isthmus gateways")]
    Tls(#[source] io::Error),
    /// The gateway is not one of the own cluster.
    #[error("the gateway's certificate is refused: {0}")]
    Certificate(#[source] VerifyError),
    /// Something took too long.
    #[error("no {what} within {} s; check the gateway's load and the network to it", .after.as_secs())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// HTTP/2 did not come about.
    #[error("the connection failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The gateway said no, or the connection broke.
    #[error("the gateway ended the stream: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
    /// The gateway closed the stream without a reason.
    #[error("the gateway closed the stream")]
    Closed,
    /// A message that may not come at this point.
    #[error("the gateway sent {0}; check that gateway and sidecar are of the same version")]
    Unexpected(&'static str),
    /// A message that makes no sense.
    #[error("the gateway sent an update that is refused: {0}")]
    Update(#[from] WireError),
    /// A greeting with a name that is none.
    #[error("the gateway's greeting is refused: {0}")]
    Greeting(#[from] NameError),
    /// The gateway serves somebody else.
    #[error(
        "the gateway would make this workload {told}, which is not in {expected}; check the token and `gateways`, or `federation` and `cluster`"
    )]
    OtherIdentity {
        /// What the gateway said.
        told: SpiffeId,
        /// The configured trust domain.
        expected: String,
    },
    /// The gateway would leave out who may call the workload.
    #[error(
        "the gateway is of an earlier version, which does not know the authorization policies that are about this workload: upgrade the gateway"
    )]
    EarlierGateway,
    /// Roots, a key or a certificate that cannot be used. The former ones stay in use.
    #[error("roots, key or certificate refused: {0}")]
    Identity(#[from] IdentityError),
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

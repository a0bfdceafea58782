//! TCP through the federation: one CONNECT stream to the first destination that takes it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use isthmus_model::name::ServiceName;
use isthmus_model::route::{Destination, DestinationKey};
use isthmus_model::snapshot::Site;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::attempts::{Attempts, Missed};
use super::exchange::{SESSIONS_PER_ATTEMPT, authority};
use super::target::Target;
use crate::balance::ejection::Failure;
use crate::balance::permits::{Kind, Overflow, Permit};
use crate::balance::{Load, Pick};
use crate::detect::Hearing;
use crate::limits::Entry;
use crate::message::Body;
use crate::message::fields::{Outcome, take_outcome};
use crate::metrics::ReasonLabels;
use crate::plaintext::CONNECT_WITHIN;
use crate::plane::DataPlane;
use crate::tcp::{IDLE_MAX, Prefixed, connect, copy_both};
use crate::tunnel::{DialError, Lease};

/// No destination took the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("no instance of {0} is known anywhere")]
    Nowhere(ServiceName),
    #[error("{0} cannot be reached: {1}")]
    Unreachable(ServiceName, String),
    #[error("{0} turns this caller away: {1}")]
    Denied(ServiceName, String),
    #[error("{0}: {1}")]
    Full(ServiceName, Overflow),
    #[error("{0}: this client has as many connections to it as one client may have, or there are too many; close some")]
    Crowded(ServiceName),
}

/// A way to an instance of the service.
pub(super) struct Opened {
    way: Way,
    _load: Load,
    _permit: Permit,
    _place: Option<Entry>,
}

enum Way {
    /// A stream of a session, which stays leased.
    Tunnel(TokioIo<Upgraded>, Lease),
    /// A connection to an instance without a sidecar.
    Direct(TcpStream),
}

impl Opened {
    /// Whether it leads to an instance that no data plane stands before.
    pub(super) fn is_direct(&self) -> bool {
        matches!(self.way, Way::Direct(_))
    }

    /// Listens to `client` and to the instance, until it is clear what they speak.
    pub(super) async fn hear<S: AsyncRead + Unpin>(&mut self, hearing: &mut Hearing, client: &mut S) -> io::Result<()> {
        match &mut self.way {
            Way::Tunnel(stream, _) => hearing.both(client, stream).await,
            Way::Direct(stream) => hearing.both(client, stream).await,
        }
    }

    /// Copies to and from `client` until both sides ended; first what the instance has `said` already.
    pub(super) async fn copy<S>(self, said: Bytes, client: S) -> io::Result<(u64, u64)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        match self.way {
            Way::Tunnel(stream, lease) => {
                let copied = copy_both(client, Prefixed::new(said, stream), IDLE_MAX).await;
                drop(lease);
                copied
            }
            Way::Direct(stream) => copy_both(client, Prefixed::new(said, stream), IDLE_MAX).await,
        }
    }
}

/// Why one destination did not take it.
enum Miss {
    Unreachable(String),
    /// Nobody is to blame.
    Busy(String),
    Denied(String),
}

/// Opens a way to `target`, for a `stranger` if the client is not the workload beside, trying destinations in the plan's order. No
/// byte of the client's was sent when one fails, so there is always another attempt.
pub(super) async fn open(plane: &DataPlane, target: &Target, stranger: Option<IpAddr>) -> Result<Opened, OpenError> {
    let name = &target.service.name;
    let site = plane.snapshot().site.clone();
    let (traffic, limits) = (plane.balancer().traffic(&target.service), &target.service.traffic.limits);
    let full = |overflow| OpenError::Full(name.clone(), overflow);
    let crowded = |reason| {
        plane.metrics().refused.get_or_create(&ReasonLabels { reason }).inc();
        OpenError::Crowded(name.clone())
    };
    let place = stranger.map(|source| traffic.permits().enter(source, limits)).transpose().map_err(crowded)?;
    let permit = traffic.permits().take(Kind::Connections, limits).map_err(full)?;
    let mut attempts = Attempts::new(plane.balancer(), &traffic, (&target.service, target.port.port), None);
    let mut last = None;
    while let Some(mut pick) = attempts.next().await {
        let pending = traffic.permits().take(Kind::Pending, limits).map_err(full)?;
        let opened = open_at(plane, target, &site, &mut pick).await;
        drop(pending);
        match opened {
            Ok(way) => {
                pick.succeeded(Instant::now());
                return Ok(Opened { way, _load: pick.into_load(), _permit: permit, _place: place });
            }
            Err(Miss::Denied(reason)) => {
                pick.succeeded(Instant::now());
                return Err(OpenError::Denied(name.clone(), reason));
            }
            Err(miss @ (Miss::Unreachable(_) | Miss::Busy(_))) => {
                let (missed, failure, reason) = match miss {
                    Miss::Unreachable(reason) => (Missed::Unreached, Some(Failure::Unreachable), reason),
                    Miss::Busy(reason) | Miss::Denied(reason) => (Missed::Busy, None, reason),
                };
                tracing::debug!(service = %name, destination = ?pick.key(), reason, "not reached");
                last = Some(reason);
                attempts.note(&pick, missed, failure);
            }
        }
    }
    Err(match last {
        Some(reason) => OpenError::Unreachable(name.clone(), reason),
        None => OpenError::Nowhere(name.clone()),
    })
}

async fn open_at(plane: &DataPlane, target: &Target, site: &Arc<Site>, pick: &mut Pick) -> Result<Way, Miss> {
    let unreachable = |error: &dyn std::fmt::Display| Miss::Unreachable(error.to_string());
    if let (Destination::Local(endpoint), DestinationKey::Local(address)) = (&pick.destination, pick.key())
        && endpoint.sidecar_port.is_none()
    {
        return connect(*address, CONNECT_WITHIN).await.map(Way::Direct).map_err(|error| unreachable(&error));
    }
    let mut over = String::new();
    for _ in 0..SESSIONS_PER_ATTEMPT {
        let lease = plane.tunnels().lease(&pick.destination, pick.key(), &target.service.name, site);
        let busy_or_gone =
            |error: DialError| if error.is_ours() { Miss::Busy(error.to_string()) } else { unreachable(&error) };
        let lease = lease.await.map_err(busy_or_gone)?;
        pick.ask(Instant::now());
        let mut request = Request::new(Body::empty());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = Uri::from(authority(target));
        // No byte of the client's is on its way before the answer: a CONNECT that is lost is asked again elsewhere.
        let mut response = lease.send(request).await.map_err(|error| unreachable(&error))?;
        match (response.status(), take_outcome(response.headers_mut())) {
            (StatusCode::OK, _) => {
                let stream = hyper::upgrade::on(response).await.map_err(|error| unreachable(&error))?;
                return Ok(Way::Tunnel(TokioIo::new(stream), lease));
            }
            (_, Some((Outcome::SessionOver, reason))) => {
                lease.retire();
                over = reason;
            }
            (_, Some((Outcome::Denied, reason))) => return Err(Miss::Denied(reason)),
            (_, Some((Outcome::Busy, reason))) => return Err(Miss::Busy(reason)),
            (_, Some((_, reason))) => return Err(Miss::Unreachable(reason)),
            (status, None) => return Err(Miss::Unreachable(format!("CONNECT was answered with {status}"))),
        }
    }
    Err(Miss::Unreachable(over))
}

//! What comes in the clear, where the workload's inbound mode allows it: from clients that are not of the mesh.
//!
//! Such a connection was on its way to the application and redirected here, which is how its port is known. Nobody vouches for
//! its client: requests lose every claim about their caller, and bytes pass as they are. It comes to the ports that it could come to
//! without the sidecar, and to none of the sidecar's own; where the application is on another address, to those of its services.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::uri::Authority;
use http::{Request, Response, StatusCode};
use isthmus_model::authorization::{Asking, Denial, Http, Permitted, judge};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::name::ServiceName;
use isthmus_model::policy::landing_at;
use isthmus_model::spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::admission::{Refused, Workload, seen};
use crate::accept::Accepted;
use crate::detect::{CLIENT_FIRST_WITHIN, DETECT_WITHIN, Guarded, Heard, Hearing, Opening};
use crate::limits::Pending;
use crate::message::authority::{self, requested_or};
use crate::message::fields::take_outcome;
use crate::message::server::{Answering, HEAD_WITHIN, serve_client};
use crate::message::upgrade::is_tunnel;
use crate::message::{Body, Received, reply};
use crate::metrics::{Direction, Reason, ReasonLabels};
use crate::plaintext::CONNECT_WITHIN;
use crate::plaintext::deliver::{Admitted, Arrival, Caller};
use crate::plane::DataPlane;
use crate::tcp::{IDLE_MAX, Prefixed, Stream, connect, copy_both};

/// A connection in the clear.
struct Clear {
    arrival: Arrival,
    /// The services that are known to be on the port.
    services: Vec<ServiceName>,
    /// The address by which the cluster knows the workload.
    address: IpAddr,
    application: SocketAddr,
    protocol: AppProtocol,
}

/// Serves a connection that was on its way to `original`.
pub(super) async fn serve(plane: DataPlane, workload: &Workload, original: SocketAddr, accepted: Accepted) {
    let Accepted { stream, peer, life, entry } = accepted;
    let (pending, entry) = (entry.pend(), Arc::new(entry));
    let known = landing_at(&plane.snapshot(), workload.address, original.port());
    if !workload.takes_in_the_clear(original.port(), known.is_some()) {
        return tracing::debug!(%peer, port = original.port(), "nothing for clients in the clear: closed");
    }
    let (services, protocol) = known.unwrap_or((Vec::new(), AppProtocol::Detect));
    let application = SocketAddr::new(workload.application, original.port());
    let caller = Caller::Stranger(peer.ip().to_canonical());
    let arrival = Arrival { plane, caller, life, entry: Some(entry) };
    let clear = Arc::new(Clear { arrival, services, address: workload.address, application, protocol });
    if let Err(error) = clear.serve(stream, pending).await {
        tracing::debug!(%error, %peer, %application, "a connection in the clear ended");
    }
}

impl Clear {
    async fn serve(self: Arc<Self>, mut stream: TcpStream, pending: Pending) -> io::Result<()> {
        let drain = &self.arrival.life.drain;
        let heard = pending.wait(self.listen(&mut stream), drain, self.arrival.plane.metrics()).await;
        let Some(heard) = heard else { return Ok(()) };
        let (Heard { opening, read, said }, application) = heard?;
        let stream = Prefixed::new(read, Box::new(stream) as Stream);
        let Some(application) = application.filter(|_| opening == Opening::Opaque) else {
            // One that waits would be all that an application looks at that takes one at a time, and is dropped.
            self.requests(opening, stream).await;
            return Ok(());
        };
        let answered = !said.is_empty();
        let application = Prefixed::new(said, application);
        if self.protocol == AppProtocol::Tcp {
            return copy_both(stream, application, IDLE_MAX).await.map(drop);
        }
        let mut guarded = Guarded::new(stream, answered);
        let copied = copy_both(&mut guarded, application, IDLE_MAX).await;
        match guarded.into_requests() {
            Some((opening, stream)) => self.requests(opening, stream).await,
            None => drop(copied?),
        }
        Ok(())
    }

    async fn requests(self: &Arc<Self>, opening: Opening, stream: Prefixed<Stream>) {
        let clear = self.clone();
        let answer = move |request| -> Answering { Box::pin(clear.clone().answer(request)) };
        serve_client(stream, opening, None, &self.arrival.life.drain, Arc::new(answer)).await;
    }

    /// Hears what the connection speaks, as far as that is not known, and connects to the application if it may be bytes.
    async fn listen(&self, stream: &mut TcpStream) -> io::Result<(Heard, Option<TcpStream>)> {
        let mut hearing = Hearing::new(Some(Instant::now() + DETECT_WITHIN));
        if self.protocol.is_http() {
            hearing.http(stream, HEAD_WITHIN).await?;
            return Ok((hearing.heard(), None));
        }
        if self.protocol == AppProtocol::Detect {
            hearing.client(stream, CLIENT_FIRST_WITHIN).await?;
            if hearing.is_http() {
                return Ok((hearing.heard(), None));
            }
        }
        if let Err(denial) = self.judge(None) {
            return self.listen_for_requests(stream, hearing, &denial).await;
        }
        let mut application = connect(self.application, CONNECT_WITHIN).await?;
        if self.protocol == AppProtocol::Detect {
            hearing.both(stream, &mut application).await?;
        }
        Ok((hearing.heard(), Some(application)))
    }

    /// Hears whether the connection is one of requests, which are judged one by one: bytes may not pass.
    async fn listen_for_requests(
        &self,
        stream: &mut TcpStream,
        mut hearing: Hearing,
        denial: &Denial,
    ) -> io::Result<(Heard, Option<TcpStream>)> {
        if self.protocol == AppProtocol::Detect {
            hearing.client(stream, DETECT_WITHIN).await?;
            if hearing.is_http() {
                return Ok((hearing.heard(), None));
            }
        }
        let metrics = self.arrival.plane.metrics();
        metrics.refused.get_or_create(&ReasonLabels { reason: Reason::Policy }).inc();
        Err(io::Error::new(io::ErrorKind::PermissionDenied, denial.to_string()))
    }

    /// Judges what nobody vouches for.
    fn judge(&self, http: Option<Http<'_>>) -> Result<Permitted, Denial> {
        let plane = &self.arrival.plane;
        let (view, own) = (plane.snapshot(), plane.identity().id());
        let asking = Asking { peer: None, services: &self.services, port: self.application.port(), http };
        judge(view.rules_about(own.as_ref().and_then(SpiffeId::as_workload), self.address), &asking)
    }

    async fn answer(self: Arc<Self>, request: Request<Received>) -> Response<Body> {
        let (started, version) = (std::time::Instant::now(), request.version());
        let mut response = match self.admit(&request) {
            Ok(admitted) => Box::pin(self.arrival.exchange(&admitted, request)).await,
            Err(Refused { status, reason, .. }) => reply::text(status, &reason),
        };
        if reply::gives_up(&response) {
            reply::close_after(&mut response, version);
        }
        take_outcome(response.headers_mut());
        let metrics = self.arrival.plane.metrics();
        let service = self.services.first().map(ToString::to_string).unwrap_or_default();
        metrics.request(Direction::Inbound, service, String::new(), response.status(), started.elapsed());
        response
    }

    fn admit(&self, request: &Request<Received>) -> Result<Admitted, Refused> {
        let bad = |error: &dyn std::fmt::Display| Refused::denied(StatusCode::BAD_REQUEST, error);
        let fallback = || {
            let address = self.application.to_string();
            authority::Authority::parse(&address, None).expect("an address and a port are an authority")
        };
        let authority = requested_or(request, fallback).map_err(|error| bad(&error))?;
        if is_tunnel(request) {
            return Err(bad(&"this is no proxy: it takes no CONNECT"));
        }
        let authority = Authority::try_from(authority.text());
        let authority = authority.map_err(|error| bad(&error))?;
        let path = self.judge(Some(seen(request)))?.into_path();
        Ok(Admitted { targets: vec![self.application], protocol: self.protocol, authority, path })
    }
}

//! One request of an authenticated peer: whether it may, and what becomes of it.

use std::sync::Arc;
use std::time::Instant;

use http::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use isthmus_model::authorization::Http;
use isthmus_model::catalog::AppProtocol;
use isthmus_model::name::ServiceName;
use isthmus_model::spiffe::SpiffeId;

use super::admission::{Call, Refused, seen};
use super::session::Session;
use super::within;
use crate::message::authority::{Authority, requested, requested_or};
use crate::message::fields::{Outcome, take_outcome, take_version};
use crate::message::upgrade::is_tunnel;
use crate::message::{Body, Received, reply};
use crate::metrics::Direction;
use crate::plaintext::CONNECT_WITHIN;
use crate::plaintext::deliver::{Admitted, ClientVersion};
use crate::tcp::{IDLE_MAX, connect, copy_both};

/// Answers one request of a session.
pub(super) async fn answer(session: Arc<Session>, mut request: Request<Received>) -> Response<Body> {
    let started = Instant::now();
    let response = match admit(&session, &request) {
        Ok((port, admitted)) if is_tunnel(&request) => tunnel(&session, port, &admitted, request).await,
        Ok((_, admitted)) => {
            tell_client_version(&mut request);
            Box::pin(session.arrival.exchange(&admitted, request)).await
        }
        Err(refused) => refuse(&session, &refused),
    };
    count(&session, &response, started);
    response
}

/// Answers one request of a connection that a tunnel to `port` turned out to be. It is the client's own: what data planes tell
/// each other is not for it.
pub(super) async fn answer_within(session: Arc<Session>, port: u16, request: Request<Received>) -> Response<Body> {
    let (started, version) = (Instant::now(), request.version());
    let mut response = match admit_within(&session, port, &request) {
        Ok(admitted) => Box::pin(session.arrival.exchange(&admitted, request)).await,
        Err(refused) => refuse(&session, &refused),
    };
    take_outcome(response.headers_mut());
    if reply::gives_up(&response) {
        reply::close_after(&mut response, version);
    }
    count(&session, &response, started);
    response
}

/// Notes which version the client spoke to the data plane at the other end, which tells; an earlier one does not.
fn tell_client_version(request: &mut Request<Received>) {
    let http2 = take_version(request.headers_mut()).unwrap_or(false);
    request.extensions_mut().insert(ClientVersion(if http2 { Version::HTTP_2 } else { Version::HTTP_11 }));
}

fn refuse(session: &Session, refused: &Refused) -> Response<Body> {
    tracing::debug!(peer = %session.peer, service = %session.service, reason = refused.reason, "refused");
    reply::outcome(refused.status, &refused.reason, refused.outcome)
}

fn count(session: &Session, response: &Response<Body>, started: Instant) {
    let (service, cluster) = (session.service.to_string(), session.peer.trust_domain.cluster.to_string());
    let metrics = session.arrival.plane.metrics();
    metrics.request(Direction::Inbound, service, cluster, response.status(), started.elapsed());
}

/// A request on the session has to be for what the session is for. Returns its port too.
fn admit(session: &Session, request: &Request<Received>) -> Result<(u16, Admitted), Refused> {
    let authority = requested(request).map_err(|error| Refused::denied(StatusCode::BAD_REQUEST, error))?;
    if ServiceName::from_host(&authority.host).is_none_or(|service| service != session.service) {
        return Err(misdirected(session, &authority));
    }
    // What a tunnel carries is judged as bytes, also where it may turn out to be requests: those are judged again.
    let http = (!is_tunnel(request)).then(|| seen(request));
    let admitted = land(session, authority.port, http)?;
    if is_tunnel(request) && admitted.protocol.is_http() {
        // The application believes what requests say about their caller, because it is written here.
        let (port, service) = (authority.port, &session.service);
        let reason = format!("port {port} of {service} speaks HTTP: it takes requests, and no CONNECT");
        return Err(Refused::denied(StatusCode::FORBIDDEN, reason));
    }
    Ok((authority.port, admitted))
}

/// A client calls what it connected to as it likes, but not by the name of something else.
fn admit_within(session: &Session, port: u16, request: &Request<Received>) -> Result<Admitted, Refused> {
    let fallback = || Authority { host: session.service.host(), port };
    let authority = requested_or(request, fallback);
    let authority = authority.map_err(|error| Refused::denied(StatusCode::BAD_REQUEST, error))?;
    if is_tunnel(request) {
        let reason = format!("port {port} of {} is no proxy: it takes no CONNECT", session.service);
        return Err(Refused::denied(StatusCode::BAD_REQUEST, reason));
    }
    if ServiceName::from_host(&authority.host).is_some_and(|service| service != session.service) {
        return Err(misdirected(session, &authority));
    }
    land(session, port, Some(seen(request)))
}

fn misdirected(session: &Session, authority: &Authority) -> Refused {
    let reason = format!("this session is for {}: {} is elsewhere", session.service, authority.host);
    Refused::denied(StatusCode::MISDIRECTED_REQUEST, reason)
}

/// Where what the session asks for lands, as trust and policy are now.
fn land(session: &Session, port: u16, http: Option<Http<'_>>) -> Result<Admitted, Refused> {
    if !session.is_trusted() {
        let reason = "the certificate that opened this session is no longer valid here: open a new one";
        return Err(Refused::session_over(reason));
    }
    let plane = &session.arrival.plane;
    let (view, random, own) = (plane.snapshot(), plane.balancer().random(), plane.identity().id());
    let own = own.as_ref().and_then(SpiffeId::as_workload);
    let call = Call { peer: &session.peer, service: &session.service, port, http, own, random };
    session.landing.admit(&view, &call)
}

/// Connects to the application, then lets bytes flow.
async fn tunnel(session: &Arc<Session>, port: u16, admitted: &Admitted, request: Request<Received>) -> Response<Body> {
    let mut failed = String::new();
    for target in &admitted.targets {
        let stream = match connect(*target, CONNECT_WITHIN).await {
            Ok(stream) => stream,
            Err(error) => {
                failed = format!("cannot connect to the application at {target}: {error}");
                continue;
            }
        };
        let (within, service, entry) = (session.clone(), session.service.clone(), session.arrival.entry.clone());
        let detect = admitted.protocol == AppProtocol::Detect;
        session.arrival.life.spawn(async move {
            let copied = match hyper::upgrade::on(request).await {
                Ok(peer) if detect => return within::serve(within, port, Box::new(TokioIo::new(peer)), stream).await,
                Ok(peer) => copy_both(TokioIo::new(peer), stream, IDLE_MAX).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            if let Err(error) = copied {
                tracing::debug!(%service, %error, "tunnel ended");
            }
            drop(entry);
        });
        return reply::empty(StatusCode::OK);
    }
    reply::outcome(StatusCode::SERVICE_UNAVAILABLE, &failed, Outcome::NotSent)
}

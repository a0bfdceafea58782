//! One request of an authenticated peer, to the application.

use std::sync::Arc;
use std::time::Instant;

use http::header::HOST;
use http::{Request, Response, StatusCode};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use isthmus_model::catalog::AppProtocol;
use isthmus_model::name::ServiceName;

use super::admission::{Admitted, Refused};
use super::session::Session;
use crate::message::authority::{passed_on, requested};
use crate::message::body::Replay;
use crate::message::fields::{Outcome, set_client_certificate, strip_claims, strip_hop_by_hop};
use crate::message::upgrade::{Asked, is_tunnel};
use crate::message::{Body, Received, reply};
use crate::metrics::Direction;
use crate::plaintext::{AppError, CONNECT_WITHIN};
use crate::tcp::{IDLE_MAX, connect, copy_both};

/// Answers one request.
pub(super) async fn answer(session: Arc<Session>, request: Request<Received>) -> Response<Body> {
    let started = Instant::now();
    let response = match admit(&session, &request) {
        Ok(admitted) if is_tunnel(&request) => tunnel(&session, &admitted, request).await,
        Ok(admitted) => Box::pin(exchange(&session, &admitted, request)).await,
        Err(refused) => {
            tracing::debug!(peer = %session.peer, service = %session.service, reason = refused.reason, "refused");
            reply::outcome(refused.status, &refused.reason, refused.outcome)
        }
    };
    let (service, cluster) = (session.service.to_string(), session.peer.trust_domain.cluster.to_string());
    let metrics = session.plane.metrics();
    metrics.request(Direction::Inbound, service, cluster, response.status(), started.elapsed());
    response
}

fn admit(session: &Session, request: &Request<Received>) -> Result<Admitted, Refused> {
    if !session.is_trusted() {
        let reason = "the certificate that opened this session is no longer valid here: open a new one";
        return Err(Refused::session_over(reason));
    }
    let authority = requested(request).map_err(|error| Refused::denied(StatusCode::BAD_REQUEST, error))?;
    let service = ServiceName::from_host(&authority.host).filter(|service| *service == session.service);
    let service = service.ok_or_else(|| {
        let reason = format!("this session is for {}: {} is elsewhere", session.service, authority.host);
        Refused::denied(StatusCode::MISDIRECTED_REQUEST, reason)
    })?;
    let random = session.plane.balancer().random();
    let admitted = session.landing.admit(&session.plane.snapshot(), &session.peer, &service, authority.port, random)?;
    if is_tunnel(request) && admitted.protocol.is_http() {
        // The application believes what requests say about their caller, because it is written here.
        let reason = format!("port {} of {service} speaks HTTP: it takes requests, and no CONNECT", authority.port);
        return Err(Refused::denied(StatusCode::FORBIDDEN, reason));
    }
    Ok(admitted)
}

/// Connects to the application, then lets bytes flow.
async fn tunnel(session: &Session, admitted: &Admitted, request: Request<Received>) -> Response<Body> {
    let mut failed = String::new();
    for target in &admitted.targets {
        let stream = match connect(*target, CONNECT_WITHIN).await {
            Ok(stream) => stream,
            Err(error) => {
                failed = format!("cannot connect to the application at {target}: {error}");
                continue;
            }
        };
        let (entry, service) = (session.entry.clone(), session.service.clone());
        session.life.spawn(async move {
            let copied = match hyper::upgrade::on(request).await {
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

/// Passes the request on, and joins the two streams if both sides want that.
async fn exchange(session: &Session, admitted: &Admitted, mut request: Request<Received>) -> Response<Body> {
    let asked = Asked::take(&mut request);
    let response = forward(session, admitted, request).await;
    match asked {
        Some(asked) => asked.answer(response, &session.life, session.entry.clone()),
        None => response,
    }
}

/// Passes the request to the first instance that takes it.
async fn forward(session: &Session, admitted: &Admitted, request: Request<Received>) -> Response<Body> {
    let (mut parts, body) = request.into_parts();
    let protocol = parts.extensions.remove::<Protocol>();
    strip_hop_by_hop(&mut parts.headers);
    strip_claims(&mut parts.headers);
    set_client_certificate(&mut parts.headers, session.plane.identity().id().as_ref(), &session.peer);
    // The authority says it.
    parts.headers.remove(HOST);
    let uri = match passed_on(admitted.authority.clone(), parts.uri) {
        Ok(uri) => uri,
        Err(error) => return reply::outcome(StatusCode::BAD_REQUEST, &error.to_string(), Outcome::Denied),
    };
    let http2 = admitted.protocol == AppProtocol::Http2;
    let broken_off = || reply::outcome(StatusCode::BAD_REQUEST, "the request broke off", Outcome::Denied);
    // Over HTTP/2 it may have to be sent again, when it was under way already.
    let body = if http2 { Replay::prepare(body).await } else { Ok(Replay::once(body)) };
    let Ok(body) = body else { return broken_off() };
    let attempt = || {
        let mut request = Request::new(body.lend());
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = parts.headers.clone();
        if let Some(protocol) = protocol.clone() {
            request.extensions_mut().insert(protocol);
        }
        request
    };
    let mut last = reply::outcome(StatusCode::SERVICE_UNAVAILABLE, "no instance", Outcome::NotSent);
    for target in &admitted.targets {
        match session.plane.apps().send(*target, http2, &body, attempt).await {
            Ok(mut response) => {
                strip_hop_by_hop(response.headers_mut());
                strip_claims(response.headers_mut());
                return response;
            }
            Err(_) if body.broke() => return broken_off(),
            Err(error) if error.never_sent() => {
                let outcome = if matches!(error, AppError::Crowded(_)) { Outcome::Busy } else { Outcome::NotSent };
                last = reply::outcome(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), outcome);
                if !body.is_intact() {
                    break;
                }
            }
            Err(error) => return reply::outcome(StatusCode::BAD_GATEWAY, &error.to_string(), Outcome::Broken),
        }
    }
    last
}

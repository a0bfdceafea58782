//! One request through the federation: attempts, and when another one is safe.
//!
//! | what happened | another attempt ([`Attempts`] says where) |
//! | --- | --- |
//! | never sent (no connection, refused stream, the far side says so) | always, if the body is still whole |
//! | sent, no response headers came (session broke, fell silent) | idempotent methods |
//! | a response came, whatever it says | never |

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::ext::Protocol;
use isthmus_model::catalog::AppProtocol;
use isthmus_model::name::ClusterName;
use isthmus_model::route::{Destination, DestinationKey};
use isthmus_model::snapshot::Site;
use tokio::time::{Instant as Deadline, timeout_at};

use super::attempts::{Attempts, Missed};
use super::request::Answer;
use super::target::Target;
use crate::balance::Pick;
use crate::balance::ejection::Failure;
use crate::balance::permits::{Kind, Overflow};
use crate::message::authority::passed_on;
use crate::message::body::BodyError;
use crate::message::fields::{Outcome, strip_claims, strip_hop_by_hop, take_outcome, take_version, tell_version};
use crate::message::replay::Replay;
use crate::message::{Body, Received, reply, upgrade};
use crate::metrics::ServiceLabels;
use crate::plaintext::AppError;
use crate::plane::DataPlane;
use crate::tunnel::{DialError, SESSIONS_USUAL, SendError};

/// Sessions that one attempt may find closing under its hands: all that there usually are, and a new one.
pub(super) const SESSIONS_PER_ATTEMPT: usize = SESSIONS_USUAL + 1;

/// The canonical authority of a target: what is sent through tunnels and to applications.
pub(super) fn authority(target: &Target) -> Authority {
    let text = format!("{}:{}", target.service.name.host(), target.port.port);
    Authority::try_from(text).expect("labels and a number are an authority")
}

/// A request as it is sent, again and again if need be.
struct Outgoing {
    /// Until when its response has to have begun.
    deadline: Option<Deadline>,
    /// Whether the application is to get it as HTTP/2.
    http2: bool,
    method: Method,
    /// The protocol that it asks for.
    protocol: Option<Protocol>,
    uri: Uri,
    headers: HeaderMap,
    body: Replay,
}

impl Outgoing {
    async fn prepare(target: &Target, request: Request<Received>, within: Option<Duration>) -> Result<Self, Unusable> {
        let deadline = within.map(|within| Deadline::now() + within);
        let (mut parts, body) = request.into_parts();
        let protocol = parts.extensions.remove::<Protocol>();
        let mut headers = parts.headers;
        strip_hop_by_hop(&mut headers);
        strip_claims(&mut headers);
        let http2 = match target.port.protocol {
            // Who calls knows what is spoken there; it is all that anybody knows.
            AppProtocol::Detect => parts.version == Version::HTTP_2,
            protocol => protocol == AppProtocol::Http2,
        };
        if target.port.protocol == AppProtocol::Detect {
            tell_version(&mut headers, http2);
        }
        // The authority says it, in canonical form.
        headers.remove(http::header::HOST);
        let (method, uri) = (parts.method, passed_on(authority(target), parts.uri)?);
        let body = Replay::prepare(body);
        let body = match deadline {
            // It is the client who is slow.
            Some(deadline) => timeout_at(deadline, body).await.unwrap_or(Err(BodyError::Quiet))?,
            None => body.await?,
        };
        Ok(Self { deadline, http2, method, protocol, uri, headers, body })
    }

    /// Whether it may be seen twice. A protocol is asked for by a GET, whatever form that has meanwhile.
    fn is_idempotent(&self) -> bool {
        self.method.is_idempotent() || self.protocol.is_some()
    }

    fn is_overdue(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Deadline::now())
    }

    /// Whether it waits until the far side has let us in: what cannot be sent a second time. Asking for a protocol does too: whether
    /// the far side knows of that, its settings say.
    fn needs_settings(&self) -> bool {
        self.protocol.is_some() || !matches!(self.body, Replay::Whole(..))
    }

    fn attempt(&self) -> Request<Body> {
        let mut request = Request::new(self.body.lend());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        if let Some(protocol) = self.protocol.clone() {
            request.extensions_mut().insert(protocol);
        }
        request
    }
}

/// Why a request cannot be sent to anybody.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Target(#[from] http::Error),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// How an attempt ended without an answer.
struct Failed {
    missed: Missed,
    /// What to hold against the destination, if it is its fault.
    failure: Option<Failure>,
    reason: String,
}

impl Failed {
    fn dial(error: &DialError) -> Self {
        let (missed, failure) =
            if error.is_ours() { (Missed::Busy, None) } else { (Missed::Unreached, Some(Failure::Unreachable)) };
        Self { missed, failure, reason: error.to_string() }
    }

    fn overflow(overflow: Overflow) -> Self {
        Self { missed: Missed::Busy, failure: None, reason: overflow.to_string() }
    }

    /// A response that has not begun in time. A client that has not sent everything may be why.
    fn overdue(body: &Replay) -> Self {
        let failure = matches!(body, Replay::Whole(..)).then_some(Failure::Broken);
        Self { missed: Missed::Sent, failure, reason: "it did not answer in time".to_owned() }
    }

    fn session(error: &SendError) -> Self {
        let (missed, failure) = match error {
            SendError::Broken(_) => (Missed::Sent, Failure::Broken),
            SendError::NotSent(_) | SendError::Refused => (Missed::Unreached, Failure::Unreachable),
        };
        Self { missed, failure: Some(failure), reason: error.to_string() }
    }

    fn application(error: &AppError, http2: bool) -> Self {
        let (missed, failure) = match error {
            AppError::Connect(..) => (Missed::Unreached, Some(Failure::Unreachable)),
            AppError::Crowded(_) => (Missed::Busy, None),
            AppError::Exchange(_, SendError::Broken(_)) => (Missed::Sent, Some(Failure::Broken)),
            // By HTTP/2, it was asked a few times already.
            AppError::Exchange(_, SendError::NotSent(_) | SendError::Refused) => {
                (if http2 { Missed::Busy } else { Missed::Unreached }, Some(Failure::Unreachable))
            }
        };
        Self { missed, failure, reason: error.to_string() }
    }
}

/// Sends `request` to the service; the answer is the service's, or says why there is none. It has to have begun `within` a time, if
/// there is one.
pub(crate) async fn send(
    plane: &DataPlane,
    target: &Target,
    request: Request<Received>,
    within: Option<Duration>,
) -> Answer {
    let version = request.version();
    let outgoing = match Outgoing::prepare(target, request, within).await {
        Ok(outgoing) => outgoing,
        Err(Unusable::Body(error @ BodyError::Quiet)) => {
            return broken_off(StatusCode::REQUEST_TIMEOUT, &error, version);
        }
        Err(error) => return broken_off(StatusCode::BAD_REQUEST, &error, version),
    };
    let snapshot = plane.snapshot();
    let refreshed = target.refreshed(&snapshot);
    let (target, site) = (refreshed.as_ref().unwrap_or(target), snapshot.site.clone());
    drop(snapshot);
    let name = &target.service.name;
    let (traffic, policy) = (plane.balancer().traffic(&target.service), &target.service.traffic);
    let permit = match traffic.permits().take(Kind::Requests, &policy.limits) {
        Ok(permit) => permit,
        Err(overflow) => return reply::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{name}: {overflow}")).into(),
    };
    let asked = (&target.service, target.port.port);
    let mut attempts = Attempts::new(plane.balancer(), &traffic, asked, outgoing.deadline);
    let mut last: Option<Failed> = None;
    while let Some(pick) = attempts.next().await {
        if last.is_some() {
            plane.metrics().retries.get_or_create(&ServiceLabels { service: name.to_string() }).inc();
        }
        let cluster = cluster_of(&pick.destination, &site);
        let failed = match Box::pin(attempt_at(plane, target, &site, &outgoing, pick, &mut attempts)).await {
            Ok(response) => {
                let response = response.map(|body| outgoing.body.keep(body, permit));
                return Answer { response, cluster: Some(cluster) };
            }
            Err(failed) => failed,
        };
        tracing::debug!(service = %name, %cluster, reason = failed.reason, missed = ?failed.missed, "attempt failed");
        if outgoing.body.broke() {
            return broken_off(StatusCode::BAD_REQUEST, &failed.reason, version);
        }
        if outgoing.is_overdue() {
            return reply::text(StatusCode::GATEWAY_TIMEOUT, &format!("{name} did not answer in time")).into();
        }
        let mut may = || failed.missed != Missed::Sent || (outgoing.is_idempotent() && attempts.take_retry());
        let again = outgoing.body.is_intact() && may();
        // What was sent once is told as that.
        last = last.filter(|last| last.missed == Missed::Sent).or(Some(failed));
        if !again {
            break;
        }
    }
    no_answer(target, last).into()
}

fn cluster_of(destination: &Destination, site: &Site) -> ClusterName {
    match destination {
        Destination::Local(_) => site.cluster.clone(),
        Destination::Remote { backend, .. } => backend.cluster.name.clone(),
    }
}

/// The client broke off, or sent what is no body. What follows on its connection is not to be trusted.
fn broken_off(status: StatusCode, reason: &dyn std::fmt::Display, version: Version) -> Answer {
    let mut response = reply::text(status, &format!("the request broke off: {reason}"));
    reply::close_after(&mut response, version);
    response.into()
}

fn no_answer(target: &Target, last: Option<Failed>) -> Response<Body> {
    let name = &target.service.name;
    match last {
        None => reply::text(StatusCode::SERVICE_UNAVAILABLE, &format!("no instance of {name} is known anywhere")),
        Some(Failed { missed: Missed::Sent, reason, .. }) => {
            reply::text(StatusCode::BAD_GATEWAY, &format!("{name} did not answer: {reason}"))
        }
        Some(Failed { reason, .. }) => {
            reply::text(StatusCode::SERVICE_UNAVAILABLE, &format!("{name} cannot be reached: {reason}"))
        }
    }
}

/// One attempt, with what it teaches about the destination.
async fn attempt_at(
    plane: &DataPlane,
    target: &Target,
    site: &Arc<Site>,
    outgoing: &Outgoing,
    mut pick: Pick,
    attempts: &mut Attempts<'_>,
) -> Result<Response<Body>, Failed> {
    let direct = match (&pick.destination, pick.key()) {
        (Destination::Local(endpoint), DestinationKey::Local(address)) if endpoint.sidecar_port.is_none() => {
            Some(*address)
        }
        _ => None,
    };
    let sending = async {
        match direct {
            Some(address) => {
                let attempt = || {
                    let mut request = outgoing.attempt();
                    take_version(request.headers_mut());
                    request
                };
                let sent = plane.apps().send(address, outgoing.http2, &outgoing.body, attempt).await;
                sent.map_err(|error| Failed::application(&error, outgoing.http2))
            }
            None => through_tunnel(plane, target, site, outgoing, &mut pick).await,
        }
    };
    let sent = match outgoing.deadline {
        Some(deadline) => timeout_at(deadline, sending).await.unwrap_or_else(|_| Err(Failed::overdue(&outgoing.body))),
        None => sending.await,
    };
    match sent {
        Ok(mut response) => {
            if is_unwell(response.status()) {
                pick.failed(Failure::Unwell, Instant::now())
            } else {
                pick.succeeded(Instant::now())
            }
            strip_hop_by_hop(response.headers_mut());
            strip_claims(response.headers_mut());
            Ok(response.map(|body| body.holding(pick.into_load())))
        }
        Err(failed) => {
            let failure = failed.failure.filter(|_| !outgoing.body.broke());
            attempts.note(&pick, failed.missed, failure);
            Err(failed)
        }
    }
}

/// Whether an answer is held against who gave it. That something is not implemented is the request's fault.
fn is_unwell(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}

/// Sends through a session. One that is just closing is no fault of the destination: the next is tried.
async fn through_tunnel(
    plane: &DataPlane,
    target: &Target,
    site: &Arc<Site>,
    outgoing: &Outgoing,
    pick: &mut Pick,
) -> Result<Response<Body>, Failed> {
    let mut closed = None;
    for _ in 0..SESSIONS_PER_ATTEMPT {
        let pending = pick.take(Kind::Pending).map_err(Failed::overflow)?;
        let lease = plane.tunnels().lease(&pick.destination, pick.key(), &target.service.name, site);
        let lease = lease.await.map_err(|error| Failed::dial(&error))?;
        if outgoing.needs_settings() {
            lease.heard().await.map_err(|error| Failed::session(&error))?;
        }
        drop(pending);
        pick.ask(Instant::now());
        let (failed, again) = match lease.send(outgoing.attempt()).await {
            Ok(mut response) => match take_outcome(response.headers_mut()) {
                Some((Outcome::SessionOver, reason)) => {
                    lease.retire();
                    (Failed { missed: Missed::Unreached, failure: Some(Failure::Unreachable), reason }, true)
                }
                told => {
                    if outgoing.protocol.is_some() {
                        upgrade::from_http2(&mut response);
                    }
                    return told_by_far_side(
                        told,
                        response.map(|body| outgoing.body.keep(Body::streamed(body), lease)),
                    );
                }
            },
            Err(error) => (Failed::session(&error), matches!(error, SendError::NotSent(_))),
        };
        closed = Some(failed);
        if !again || !outgoing.body.is_intact() {
            break;
        }
    }
    Err(closed.unwrap_or_else(|| Failed::dial(&DialError::Abandoned)))
}

/// What became of a request by what the data plane at the other end told about its response.
fn told_by_far_side(told: Option<(Outcome, String)>, mut response: Response<Body>) -> Result<Response<Body>, Failed> {
    match told {
        None => Ok(response),
        Some((Outcome::Denied | Outcome::InPlace, _)) => {
            response.extensions_mut().insert(reply::Own);
            Ok(response)
        }
        Some((Outcome::NotSent | Outcome::SessionOver, reason)) => {
            Err(Failed { missed: Missed::Unreached, failure: Some(Failure::Unreachable), reason })
        }
        Some((Outcome::Busy, reason)) => Err(Failed { missed: Missed::Busy, failure: None, reason }),
        Some((Outcome::Broken, reason)) => Err(Failed { missed: Missed::Sent, failure: Some(Failure::Broken), reason }),
    }
}

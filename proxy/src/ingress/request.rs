//! One request from outside: which rule holds for it, and what becomes of it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use isthmus_model::http_route::Scheme;

use super::listener::Security;
use crate::accept::Lifetime;
use crate::limits::{Entry, Gate};
use crate::message::authority::{Authority, requested};
use crate::message::fields::{enter_at_edge, say_called, strip_hop_by_hop};
use crate::message::quiet::Activity;
use crate::message::upgrade::{Asked, is_tunnel};
use crate::message::{Body, Received, reply};
use crate::metrics::Direction;
use crate::outbound::Answer;
use crate::plane::DataPlane;
use crate::routing::{Asking, Called, Held, Refusal, Seen, is_grpc};

/// A listener, as its visitors' requests see it.
pub(super) struct House {
    pub(super) plane: DataPlane,
    pub(super) security: Security,
    /// The requests that are under way.
    pub(super) requests: Gate,
    pub(super) scheme: Scheme,
    /// Where it listens.
    pub(super) port: u16,
    /// How long nothing may move on a request and its response.
    pub(super) quiet: Duration,
}

/// A client's connection, as its requests see it.
pub(super) struct Visitor {
    pub(super) house: Arc<House>,
    /// The server name that it asked for.
    pub(super) name: Option<String>,
    pub(super) from: IpAddr,
    pub(super) life: Lifetime,
    /// Held by websockets that outlive the HTTP connection.
    pub(super) entry: Arc<Entry>,
}

/// Answers one request.
pub(super) async fn answer(visitor: Arc<Visitor>, mut request: Request<Received>) -> Response<Body> {
    let (started, version) = (Instant::now(), request.version());
    // What follows a request that would have changed the connection is no request, once it is refused.
    let changes = is_tunnel(&request) || request.headers().contains_key(UPGRADE);
    let activity = Activity::current();
    if let Some(activity) = &activity {
        request.body_mut().watch(activity);
    }
    let part = activity.as_ref().map(Activity::part);
    let served = tokio::select! {
        biased;
        refusal = given_up(activity.as_ref()) => Err(refusal),
        served = Box::pin(visitor.serve(request)) => served,
    };
    let (service, answer) = match served {
        Ok((service, answer)) => (service, answer),
        Err(Refusal(status, text)) => {
            let mut response = reply::text(status, &text);
            let ends = activity.as_ref().is_some_and(Activity::is_over)
                || matches!(status, StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT);
            if ends || changes {
                reply::close_after(&mut response, version);
            }
            (String::new(), response.into())
        }
    };
    let Answer { response, cluster } = answer;
    let cluster = cluster.map(String::from).unwrap_or_default();
    let metrics = visitor.house.plane.metrics();
    metrics.request(Direction::Ingress, service, cluster, response.status(), started.elapsed());
    let response = match activity {
        Some(activity) => response.map(|body| body.watched(&activity)),
        None => response,
    };
    drop(part);
    response
}

/// Resolves when the stream is given up, before the answer to it began, with what the client is told.
async fn given_up(activity: Option<&Activity>) -> Refusal {
    let Some(activity) = activity else { return std::future::pending().await };
    activity.over().await;
    if activity.is_asked() {
        Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the service does not answer")
    } else {
        Refusal::new(StatusCode::REQUEST_TIMEOUT, "nothing more of the request came")
    }
}

impl Visitor {
    /// The service's name, for metrics, and the answer.
    async fn serve(&self, mut request: Request<Received>) -> Result<(String, Answer), Refusal> {
        let place = self.house.requests.enter(self.from);
        let busy = |_| Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests are under way");
        let place = Arc::new(place.map_err(busy)?);
        request.body_mut().hold(place.clone());
        let (host, port) = self.called(&mut request)?;
        let asking = Asking::of(&request)?;
        let routes = self.house.plane.snapshot().routes.clone();
        let found = routes.find(self.house.scheme, &host, &Seen { asking: &asking, request: &request });
        let (rule, matched) = found.ok_or_else(Refusal::no_match)?;
        let held = Held { rule, matched, asking: &asking };
        // Where the client thinks it called says nothing about where anybody listens.
        let listening = Called { scheme: self.house.scheme, host: &host, port: self.house.port };
        if let Some(redirection) = held.redirection(&listening) {
            return Ok((String::new(), redirection?.into()));
        }
        let target = held.target(&self.house.plane).await?;
        let service = target.service.name.to_string();
        let asked = Asked::take(&mut request);
        // First what the client nominates: it must not nominate what is said here.
        strip_hop_by_hop(request.headers_mut());
        enter_at_edge(request.headers_mut(), self.from, self.house.scheme);
        say_called(request.headers_mut(), &host, port);
        held.rewrite(&mut request)?;
        if !is_grpc(request.headers()) {
            // What the client speaks with this gateway says nothing about the application.
            *request.version_mut() = Version::HTTP_11;
        }
        // Who gives the service longer than a stream may be quiet means it.
        let excused = rule.timeout.and_then(|_| Activity::current()).map(|activity| activity.excuse());
        let answer = held.send(&self.house.plane, &target, request).await;
        drop(excused);
        if answer.is_own() {
            let status = answer.response.status();
            tracing::debug!(service, %status, "a request from outside was not answered");
            return Err(Refusal(status, status.canonical_reason().unwrap_or("not answered").to_lowercase().into()));
        }
        let Answer { mut response, cluster } = answer;
        if let Some(asked) = asked {
            response = asked.answer(response, &self.life, (self.entry.clone(), place.clone()));
        }
        let response = response.map(|body| body.holding(place));
        Ok((service, Answer { response, cluster }))
    }

    /// Reads which host and port the client called, and brings the request into the form that requests have here.
    fn called(&self, request: &mut Request<Received>) -> Result<(String, u16), Refusal> {
        if is_tunnel(request) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy: it takes no CONNECT"));
        }
        let (scheme, mut uri) = (self.house.scheme.text(), request.uri().clone().into_parts());
        if uri.scheme.as_ref().is_some_and(|given| given.as_str() == scheme) {
            uri.scheme = Some(http::uri::Scheme::HTTP);
            *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Refusal::bad(&error))?;
        }
        let Authority { host, .. } = requested(request).map_err(|error| Refusal::bad(&error))?;
        if let Security::Tls(certificates) = &self.house.security
            && !self.name.as_deref().is_some_and(|name| name == host || certificates.covers(name, &host))
        {
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "this connection is for another host"));
        }
        let port = called_port(request).unwrap_or(self.house.scheme.default_port());
        Ok((host, port))
    }
}

/// The port that the client wrote, in the target or in `Host`.
fn called_port(request: &Request<Received>) -> Option<u16> {
    if let Some(authority) = request.uri().authority() {
        return authority.port_u16();
    }
    let host = request.headers().get(HOST)?.to_str().ok()?;
    Authority::parse(host, None).ok().map(|authority| authority.port)
}

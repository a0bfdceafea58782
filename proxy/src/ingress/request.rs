//! One request from outside: which rule holds for it, and what becomes of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HOST, LOCATION, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::http_route::{self, HeaderChange, PathMatch, PathRewrite, Redirect, Rule, Scheme};
use isthmus_model::path::canonical;

use super::listener::Security;
use crate::accept::Lifetime;
use crate::limits::{Entry, Gate};
use crate::message::authority::{Authority, requested};
use crate::message::fields::{enter_at_edge, say_called, strip_hop_by_hop};
use crate::message::quiet::Activity;
use crate::message::upgrade::{Asked, is_asked, is_tunnel};
use crate::message::{Body, Received, reply};
use crate::metrics::Direction;
use crate::outbound::{Answer, NoTarget, Target, exchange, target};
use crate::plane::DataPlane;

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

/// A request that goes no further, and what the client is told of it.
struct Refusal(StatusCode, Cow<'static, str>);

impl Refusal {
    fn new(status: StatusCode, text: &'static str) -> Self {
        Self(status, text.into())
    }
}

/// What a request asks for, in canonical form.
struct Asking {
    host: String,
    /// The port that the client called.
    port: u16,
    path: String,
    query: Option<String>,
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
        let asking = self.asking(&mut request)?;
        let routes = self.house.plane.snapshot().routes.clone();
        let seen = Seen { asking: &asking, request: &request };
        let Some((rule, matched)) = routes.find(self.house.scheme, &asking.host, &seen) else {
            return Err(Refusal::new(StatusCode::NOT_FOUND, "no route matches"));
        };
        if let http_route::Action::Redirect(redirect) = &rule.action {
            return Ok((String::new(), self.redirect(redirect, &asking, matched)?.into()));
        }
        let target = self.target(rule).await?;
        let service = target.service.name.to_string();
        let asked = Asked::take(&mut request);
        // First what the client nominates: it must not nominate what is said here.
        strip_hop_by_hop(request.headers_mut());
        enter_at_edge(request.headers_mut(), self.from, self.house.scheme);
        say_called(request.headers_mut(), &asking.host, asking.port);
        change(request.headers_mut(), &rule.request_headers);
        let path = rule.rewrite.as_ref().map(|rewrite| rewrite.apply(matched, &asking.path));
        if !is_grpc(request.headers()) {
            // What the client speaks with this gateway says nothing about the application.
            *request.version_mut() = Version::HTTP_11;
        }
        *request.uri_mut() = passed_on(path.as_deref().unwrap_or(&asking.path), asking.query.as_deref())?;
        // Who gives the service longer than a stream may be quiet means it.
        let excused = rule.timeout.and_then(|_| Activity::current()).map(|activity| activity.excuse());
        let answer = exchange::send(&self.house.plane, &target, request, rule.timeout).await;
        drop(excused);
        let own = answer.response.extensions().get::<reply::Own>().is_some();
        let Some(cluster) = answer.cluster.filter(|_| !own) else {
            let status = answer.response.status();
            tracing::debug!(service, %status, "a request from outside was not answered");
            return Err(Refusal(status, status.canonical_reason().unwrap_or("not answered").to_lowercase().into()));
        };
        let mut response = answer.response;
        change(response.headers_mut(), &rule.response_headers);
        if let Some(asked) = asked {
            response = asked.answer(response, &self.life, (self.entry.clone(), place.clone()));
        }
        let response = response.map(|body| body.holding(place));
        Ok((service, Answer { response, cluster: Some(cluster) }))
    }

    /// Reads whom and what the request is for, and brings it into the form that requests have here.
    fn asking(&self, request: &mut Request<Received>) -> Result<Asking, Refusal> {
        let bad = |error: &dyn std::fmt::Display| Refusal(StatusCode::BAD_REQUEST, error.to_string().into());
        if is_tunnel(request) {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this is no proxy: it takes no CONNECT"));
        }
        let (scheme, mut uri) = (self.house.scheme.text(), request.uri().clone().into_parts());
        if uri.scheme.as_ref().is_some_and(|given| given.as_str() == scheme) {
            uri.scheme = Some(http::uri::Scheme::HTTP);
            *request.uri_mut() = Uri::from_parts(uri).map_err(|error| bad(&error))?;
        }
        let Authority { host, .. } = requested(request).map_err(|error| bad(&error))?;
        if let Security::Tls(certificates) = &self.house.security
            && !self.name.as_deref().is_some_and(|name| name == host || certificates.covers(name, &host))
        {
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "this connection is for another host"));
        }
        let path = canonical(request.uri().path()).map_err(|error| bad(&error))?.into_owned();
        let port = called_port(request).unwrap_or(self.house.scheme.default_port());
        Ok(Asking { host, port, path, query: request.uri().query().map(str::to_owned) })
    }

    /// The service that the rule sends this request to. One that is not there, or takes no requests, is the route's mistake, which
    /// the Gateway API wants told apart (`HTTPRouteRule.backendRefs`) from a service that nobody serves at the moment.
    async fn target(&self, rule: &Rule) -> Result<Target, Refusal> {
        let wrong = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the route leads to no service");
        let backend = rule.backend(self.house.plane.balancer().random()).ok_or_else(wrong)?;
        let found = self.house.plane.find_service(&backend.service, backend.port).await;
        let target = target(found, &backend.service.host(), backend.port).map_err(|error| {
            tracing::debug!(%error, "a route leads nowhere");
            match error {
                NoTarget::Unasked(_) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the service is not available"),
                _ => wrong(),
            }
        })?;
        if target.port.protocol == AppProtocol::Tcp {
            tracing::debug!(service = %backend.service, port = backend.port, "a route leads to a port that does not speak HTTP");
            return Err(wrong());
        }
        Ok(target)
    }

    fn redirect(&self, to: &Redirect, asking: &Asking, matched: &PathMatch) -> Result<Response<Body>, Refusal> {
        let scheme = to.scheme.unwrap_or(self.house.scheme);
        // Where the client thinks it called says nothing about where anybody listens.
        let port = to.port.unwrap_or(if to.scheme.is_some() { scheme.default_port() } else { self.house.port });
        let host = to.host.as_deref().unwrap_or(&asking.host);
        let path = to.path.as_ref().map(|rewrite: &PathRewrite| rewrite.apply(matched, &asking.path));
        let path = passed_on(path.as_deref().unwrap_or(&asking.path), asking.query.as_deref())?;
        let port = if port == scheme.default_port() { String::new() } else { format!(":{port}") };
        let location = HeaderValue::try_from(format!("{}://{host}{port}{path}", scheme.text()));
        let location = location.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the location cannot be written"))?;
        let mut response = reply::empty(StatusCode::from_u16(to.status).unwrap_or(StatusCode::FOUND));
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
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

/// gRPC is there over HTTP/2 only.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web")
}

/// A target in origin form.
fn passed_on(path: &str, query: Option<&str>) -> Result<Uri, Refusal> {
    let target = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let target = PathAndQuery::try_from(target);
    target.map(Uri::from).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the path cannot be written"))
}

/// Changes headers as a rule says. Its names and values were checked when it was read.
fn change(headers: &mut HeaderMap, change: &HeaderChange) {
    let read = |name: &str, value: &str| Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?));
    for (name, value) in change.set.iter().filter_map(|field| read(&field.name, &field.value)) {
        headers.insert(name, value);
    }
    for (name, value) in change.add.iter().filter_map(|field| read(&field.name, &field.value)) {
        headers.append(name, value);
    }
    for name in &change.remove {
        headers.remove(name.as_str());
    }
}

/// A request as rules look at it.
struct Seen<'a> {
    asking: &'a Asking,
    request: &'a Request<Received>,
}

impl http_route::Request for Seen<'_> {
    fn path(&self) -> &str {
        &self.asking.path
    }

    fn method(&self) -> &str {
        // A protocol is asked for by a GET, whatever form that has in HTTP/2.
        if is_asked(self.request) { Method::GET.as_str() } else { self.request.method().as_str() }
    }

    fn has_header(&self, name: &str, value: &str) -> bool {
        let mut fields = self.request.headers().get_all(name).iter();
        match (fields.next(), fields.next()) {
            (Some(only), None) => only.as_bytes() == value.as_bytes(),
            (Some(_), Some(_)) => {
                let all: Vec<&[u8]> = self.request.headers().get_all(name).iter().map(HeaderValue::as_bytes).collect();
                all.join(&b","[..]) == value.as_bytes()
            }
            (None, _) => false,
        }
    }

    fn has_parameter(&self, name: &str, value: &str) -> bool {
        let pairs = self.asking.query.as_deref().unwrap_or_default().split('&');
        let mut found =
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).filter(|(known, _)| *known == name);
        found.next().is_some_and(|(_, known)| known == value)
    }
}

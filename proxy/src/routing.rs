//! What a rule of an HTTPRoute makes of a request: the same for clients from outside ([`crate::ingress`]) and for those of
//! services ([`crate::outbound`]).
//!
//! Which rule holds is the model's to say ([`http_route`]); here a request is shown to it, and what the rule says is done.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::OnceLock;

use http::header::{CONTENT_TYPE, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use isthmus_model::catalog::AppProtocol;
use isthmus_model::http_route::{self, Action, HeaderChange, PathMatch, Redirect, Rule, Scheme};
use isthmus_model::path::canonical;

use crate::message::upgrade::is_asked;
use crate::message::{Body, Received, reply};
use crate::outbound::{Answer, NoTarget, Target, exchange, target};
use crate::plane::DataPlane;

/// A request that goes no further, and what the client is told of it.
pub(crate) struct Refusal(pub(crate) StatusCode, pub(crate) Cow<'static, str>);

impl Refusal {
    pub(crate) fn new(status: StatusCode, text: &'static str) -> Self {
        Self(status, text.into())
    }

    pub(crate) fn bad(error: &dyn std::fmt::Display) -> Self {
        Self(StatusCode::BAD_REQUEST, error.to_string().into())
    }

    /// No rule is for the request (GEP-1294).
    pub(crate) fn no_match() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no route matches")
    }
}

/// What a request asks for, in canonical form.
pub(crate) struct Asking {
    path: String,
    query: Option<String>,
    /// The query's parameters, of several of a name the first. They are taken apart when a rule asks for one, and once.
    parameters: OnceLock<HashMap<String, String>>,
    /// Whether it asks about the server as a whole (`OPTIONS *`), which the rules for every path are for.
    is_about_server: bool,
}

impl Asking {
    /// # Errors
    /// When its path has no canonical form.
    pub(crate) fn of(request: &Request<Received>) -> Result<Self, Refusal> {
        let is_about_server = request.uri().path() == "*";
        let path = if is_about_server { "/" } else { request.uri().path() };
        let path = canonical(path).map_err(|error| Refusal::bad(&error))?.into_owned();
        let query = request.uri().query().map(str::to_owned);
        Ok(Self { path, query, parameters: OnceLock::new(), is_about_server })
    }

    fn parameters(&self) -> &HashMap<String, String> {
        self.parameters.get_or_init(|| {
            let mut parameters = HashMap::new();
            for pair in self.query.as_deref().unwrap_or_default().split('&') {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                parameters.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
            parameters
        })
    }
}

/// What the client called: where it is sent again by a redirection that does not say otherwise.
pub(crate) struct Called<'a> {
    pub(crate) scheme: Scheme,
    pub(crate) host: &'a str,
    pub(crate) port: u16,
}

/// A rule that holds for a request.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) rule: &'a Rule,
    /// Which path it holds by.
    pub(crate) matched: &'a PathMatch,
    pub(crate) asking: &'a Asking,
}

impl Held<'_> {
    /// The answer, if the rule sends the client elsewhere.
    pub(crate) fn redirection(&self, called: &Called<'_>) -> Option<Result<Response<Body>, Refusal>> {
        match &self.rule.action {
            Action::Redirect(to) => Some(self.redirect(to, called)),
            Action::Forward(_) => None,
        }
    }

    fn redirect(&self, to: &Redirect, called: &Called<'_>) -> Result<Response<Body>, Refusal> {
        let scheme = to.scheme.unwrap_or(called.scheme);
        let port = to.port.unwrap_or(if to.scheme.is_some() { scheme.default_port() } else { called.port });
        let host = to.host.as_deref().unwrap_or(called.host);
        let path = to.path.as_ref().map(|rewrite| rewrite.apply(self.matched, &self.asking.path));
        let path = self.passed_on(path.as_deref())?;
        let port = if port == scheme.default_port() { String::new() } else { format!(":{port}") };
        let location = HeaderValue::try_from(format!("{}://{host}{port}{path}", scheme.text()));
        let location = location.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the location cannot be written"))?;
        let mut response = reply::empty(StatusCode::from_u16(to.status).unwrap_or(StatusCode::FOUND));
        response.headers_mut().insert(LOCATION, location);
        Ok(response)
    }

    /// The service that the rule sends this request to. One that is not there, or takes no requests, is the route's mistake, which
    /// the Gateway API wants told apart (`HTTPRouteRule.backendRefs`) from a service that nobody serves at the moment.
    pub(crate) async fn target(&self, plane: &DataPlane) -> Result<Target, Refusal> {
        let wrong = || Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the route leads to no service");
        let backend = self.rule.backend(plane.balancer().random()).ok_or_else(wrong)?;
        let found = plane.find_service(&backend.service, backend.port).await;
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

    /// Makes of a request what the rule says. What the client nominates as its connection's has been taken out before: it must
    /// not take out what the rule writes.
    pub(crate) fn rewrite(&self, request: &mut Request<Received>) -> Result<(), Refusal> {
        change(request.headers_mut(), &self.rule.request_headers);
        if !self.asking.is_about_server {
            let path = self.rule.rewrite.as_ref().map(|rewrite| rewrite.apply(self.matched, &self.asking.path));
            *request.uri_mut() = self.passed_on(path.as_deref())?;
        }
        Ok(())
    }

    /// Sends a request to a backend of the rule, and makes of an application's answer what the rule makes of it.
    pub(crate) async fn send(&self, plane: &DataPlane, target: &Target, request: Request<Received>) -> Answer {
        let mut answer = exchange::send(plane, target, request, self.rule.timeout).await;
        if !answer.is_own() {
            change(answer.response.headers_mut(), &self.rule.response_headers);
        }
        answer
    }

    /// A target in origin form: with another path, or the one that was matched.
    fn passed_on(&self, path: Option<&str>) -> Result<Uri, Refusal> {
        let path = path.unwrap_or(&self.asking.path);
        let target = match &self.asking.query {
            Some(query) => format!("{path}?{query}"),
            None => path.to_owned(),
        };
        let target = PathAndQuery::try_from(target);
        target.map(Uri::from).map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "the path cannot be written"))
    }
}

/// Changes headers as a rule says. Its names and values were checked when it was read.
fn change(headers: &mut HeaderMap, change: &HeaderChange) {
    let read = |field: &http_route::Condition| {
        let name: HeaderName = field.name.parse().ok()?;
        Some((name, HeaderValue::from_bytes(field.value.as_bytes()).ok()?))
    };
    for (name, value) in change.set.iter().filter_map(read) {
        headers.insert(name, value);
    }
    for (name, value) in change.add.iter().filter_map(read) {
        headers.append(name, value);
    }
    for name in &change.remove {
        headers.remove(name.as_str());
    }
}

/// A request as rules look at it.
pub(crate) struct Seen<'a> {
    pub(crate) asking: &'a Asking,
    pub(crate) request: &'a Request<Received>,
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
        // RFC 9110 §5.3, and RFC 9113 §8.2.3 for what HTTP/2 takes apart.
        let separator: &[u8] = if name == "cookie" { b"; " } else { b"," };
        let mut fields = self.request.headers().get_all(name).iter().map(HeaderValue::as_bytes);
        let first = fields.next().and_then(|first| value.as_bytes().strip_prefix(first));
        let rest = fields.try_fold(first, |rest, field| {
            let rest = rest?.strip_prefix(separator)?.strip_prefix(field)?;
            Some(Some(rest))
        });
        rest.flatten().is_some_and(<[u8]>::is_empty)
    }

    fn has_parameter(&self, name: &str, value: &str) -> bool {
        self.asking.parameters().get(name).is_some_and(|known| known == value)
    }
}

/// gRPC is there over HTTP/2 only.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.starts_with(b"application/grpc") && !kind.starts_with(b"application/grpc-web")
}

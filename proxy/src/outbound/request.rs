//! One request of a client: what it asks for, and what it gets.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use isthmus_model::catalog::AppProtocol;
use isthmus_model::http_route::{PortRoutes, Scheme};
use isthmus_model::name::{ClusterName, ServiceName};

use super::connect::{Opened, open};
use super::outside::Exit;
use super::target::{NoTarget, Target, target};
use super::{exchange, listener};
use crate::accept::Lifetime;
use crate::limits::Entry;
use crate::message::authority::{Authority, BadRequest, requested, requested_or};
use crate::message::fields::{enter_at_edge, strip_claims, strip_hop_by_hop};
use crate::message::upgrade::{Asked, is_tunnel};
use crate::message::{Body, Received, reply};
use crate::metrics::{Direction, ReasonLabels};
use crate::plane::DataPlane;
use crate::routing::{Asking, Called, Held, Refusal, Seen, is_grpc};

/// What requests to hosts outside are counted as.
const OUTSIDE: &str = "outside";

/// What a client's connection may ask for.
#[derive(Clone, Debug)]
pub(super) enum Scope {
    /// Any service of the federation.
    Federation,
    /// The service and port that the connection's address stands for.
    Service(ServiceName, u16),
}

/// A client's connection, as its requests see it.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) plane: DataPlane,
    pub(super) scope: Scope,
    /// Where it comes from, if it is not the workload's beside it.
    pub(super) stranger: Option<IpAddr>,
    /// The way to hosts outside, if it may go there.
    pub(super) exit: Option<Exit>,
    /// Whether the connection is itself what a CONNECT opened.
    pub(super) within_connect: bool,
    pub(super) life: Lifetime,
    /// Held by tunnels that outlive the HTTP connection.
    pub(super) entry: Arc<Entry>,
}

/// A response and where it came from.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
    pub(crate) cluster: Option<ClusterName>,
}

impl Answer {
    /// Whether a data plane says this, and no application.
    pub(crate) fn is_own(&self) -> bool {
        self.cluster.is_none() || self.response.extensions().get::<reply::Own>().is_some()
    }
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, cluster: None }
    }
}

impl Client {
    /// Answers one request.
    pub(super) async fn answer(mut self, request: Request<Received>) -> Response<Body> {
        let started = Instant::now();
        let (plane, version) = (self.plane.clone(), request.version());
        let connect = is_tunnel(&request);
        let target = match self.enter(&request) {
            Ok(()) => self.target(&request).await,
            Err(full) => Err(full),
        };
        let (service, mut answer, refused) = match target {
            Ok(target) => {
                let (service, answer) = self.serve(&target, request).await;
                (service, answer, false)
            }
            Err(NoTarget::NotOurs(host)) => match self.outside(&host, request).await {
                // Not by name: of names below one that is allowed there is no end.
                Ok(response) => (OUTSIDE.to_owned(), response.into(), false),
                Err(error) => refusal(&error),
            },
            Err(error) => refusal(&error),
        };
        let status = answer.response.status();
        if refused || (connect && !status.is_success()) {
            reply::close_after(&mut answer.response, version);
        }
        let cluster = answer.cluster.map(String::from).unwrap_or_default();
        plane.metrics().request(Direction::Outbound, service, cluster, status, started.elapsed());
        answer.response
    }

    /// Answers a request for a host that is none of the federation's.
    async fn outside(&self, host: &str, request: Request<Received>) -> Result<Response<Body>, NoTarget> {
        match &self.exit {
            Some(exit) => Box::pin(exit.answer(self, request)).await,
            None => Err(NoTarget::NotOurs(host.to_owned())),
        }
    }

    /// Counts what a CONNECT opens as a connection of its own, unless it is what becomes of the one that it came on: a connection of
    /// HTTP/2 has room for hundreds, each of which may hold as much as a client's.
    fn enter(&mut self, request: &Request<Received>) -> Result<(), NoTarget> {
        if is_tunnel(request) && request.version() >= Version::HTTP_2 {
            let entry = self.entry.another().map_err(|reason| {
                self.plane.metrics().refused.get_or_create(&ReasonLabels { reason }).inc();
                NoTarget::Full
            })?;
            self.entry = Arc::new(entry);
        }
        Ok(())
    }

    /// Whom a request names, or whom its connection is for.
    fn authority(&self, request: &Request<Received>) -> Result<Authority, BadRequest> {
        match &self.scope {
            Scope::Federation => requested(request),
            Scope::Service(name, port) => requested_or(request, || Authority { host: name.host(), port: *port }),
        }
    }

    async fn target(&self, request: &Request<Received>) -> Result<Target, NoTarget> {
        let authority = self.authority(request)?;
        if self.within_connect && is_tunnel(request) {
            // One level is what clients need; without a bound, a client could nest connections at will.
            return Err(NoTarget::Nested);
        }
        let found = match &self.scope {
            Scope::Federation => self.plane.find_host(&authority.host, authority.port).await,
            Scope::Service(name, port) => {
                check_scope(&authority, name, *port, is_tunnel(request))?;
                self.plane.find_service(name, *port).await
            }
        };
        target(found, &authority.host, authority.port)
    }

    /// The name of the service that was asked, for metrics, and the answer.
    async fn serve(&self, target: &Target, mut request: Request<Received>) -> (String, Answer) {
        let name = || target.service.name.to_string();
        if is_tunnel(&request) {
            if target.port.protocol.is_http() {
                return (name(), self.requests_within(target, request).into());
            }
            return (name(), self.tunnel(target, request).await.into());
        }
        let asked = Asked::take(&mut request);
        if let Some(from) = self.stranger {
            // First what the client nominates: it must not nominate what is said here.
            strip_hop_by_hop(request.headers_mut());
            enter_at_edge(request.headers_mut(), from.to_canonical(), Scheme::Http);
        }
        let (service, answer) = match target.service.routes.for_port(target.port.port) {
            Some(routes) => Box::pin(self.routed(target, routes, request)).await,
            None => (name(), exchange::send(&self.plane, target, request, None).await),
        };
        match asked {
            Some(asked) => {
                let response = asked.answer(answer.response, &self.life, self.entry.clone());
                (service, Answer { response, ..answer })
            }
            None => (service, answer),
        }
    }

    /// As [`serve`](Self::serve), where a port has routes.
    async fn routed(&self, target: &Target, routes: PortRoutes<'_>, request: Request<Received>) -> (String, Answer) {
        let version = request.version();
        match self.by_rule(target, routes, request).await {
            Ok(answered) => answered,
            Err(Refusal(status, text)) => {
                let mut response = reply::text(status, &text);
                if status == StatusCode::BAD_REQUEST {
                    reply::close_after(&mut response, version);
                }
                (target.service.name.to_string(), response.into())
            }
        }
    }

    /// Has a request go where the rule that holds for it says.
    async fn by_rule(
        &self,
        called: &Target,
        routes: PortRoutes<'_>,
        mut request: Request<Received>,
    ) -> Result<(String, Answer), Refusal> {
        let asking = Asking::of(&request)?;
        let found = routes.find(&Seen { asking: &asking, request: &request });
        let (rule, matched) = found.ok_or_else(Refusal::no_match)?;
        let held = Held { rule, matched, asking: &asking };
        let authority = self.authority(&request).map_err(|error| Refusal::bad(&error))?;
        let port = called.port.port;
        if let Some(redirection) = held.redirection(&Called { scheme: Scheme::Http, host: &authority.host, port }) {
            return Ok((called.service.name.to_string(), redirection?.into()));
        }
        let target = held.target(&self.plane).await?;
        strip_hop_by_hop(request.headers_mut());
        strip_claims(request.headers_mut());
        held.rewrite(&mut request)?;
        if called.port.protocol == AppProtocol::Http && !is_grpc(request.headers()) {
            // What the client speaks to a port that is known to speak HTTP/1 says nothing about another one.
            *request.version_mut() = Version::HTTP_11;
        }
        Ok((target.service.name.to_string(), held.send(&self.plane, &target, request).await))
    }

    /// What comes through a CONNECT to a port that speaks HTTP is served as requests, as on a connection that was
    /// redirected there. Passed on as bytes, it could claim to come from anybody: claims are taken out of requests.
    fn requests_within(&self, target: &Target, request: Request<Received>) -> Response<Body> {
        let within = self.within(target);
        self.life.spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(stream) => listener::http(within, Box::new(TokioIo::new(stream))).await,
                Err(error) => tracing::debug!(%error, "a CONNECT ended before it began"),
            }
        });
        reply::empty(StatusCode::OK)
    }

    /// The connection that a CONNECT for `target` makes of this one.
    fn within(&self, target: &Target) -> Self {
        let scope = Scope::Service(target.service.name.clone(), target.port.port);
        Self { scope, exit: None, within_connect: true, ..self.clone() }
    }

    /// What comes through a CONNECT to a port of which nobody knows what it speaks.
    fn detected_within(&self, target: &Target, opened: Opened, request: Request<Received>) -> Response<Body> {
        let (within, target) = (self.within(target), target.clone());
        self.life.spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(stream) => listener::detected(within, target, Some(opened), Box::new(TokioIo::new(stream))).await,
                Err(error) => tracing::debug!(%error, "a CONNECT ended before it began"),
            }
        });
        reply::empty(StatusCode::OK)
    }

    /// Opens the way first: the client is told 200 only when bytes can flow. What it sends before that
    /// is held and passed on.
    async fn tunnel(&self, target: &Target, request: Request<Received>) -> Response<Body> {
        let opened = match open(&self.plane, target, self.stranger).await {
            Ok(opened) => opened,
            Err(error) => return reply::text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        };
        if target.port.protocol == AppProtocol::Detect {
            return self.detected_within(target, opened, request);
        }
        let entry = self.entry.clone();
        let service = target.service.name.clone();
        self.life.spawn(async move {
            let copied = match hyper::upgrade::on(request).await {
                Ok(client) => opened.copy(Bytes::new(), TokioIo::new(client)).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            if let Err(error) = copied {
                tracing::debug!(%service, %error, "tunnel ended");
            }
            drop(entry);
        });
        reply::empty(StatusCode::OK)
    }
}

/// The answer to a request that leads nowhere: for no service, and whether what follows it is to be trusted.
fn refusal(error: &NoTarget) -> (String, Answer, bool) {
    let bad = matches!(error, NoTarget::BadRequest(_));
    (String::new(), reply::text(error.status(), &error.to_string()).into(), bad)
}

/// The address decided about the service. A host that means another service came to the wrong place; any
/// other host is how this client calls this one.
fn check_scope(authority: &Authority, name: &ServiceName, port: u16, connect: bool) -> Result<(), NoTarget> {
    let named = ServiceName::from_host(&authority.host);
    let other = named.is_some_and(|named| named != *name) || (connect && authority.port != port);
    if other { Err(NoTarget::Misdirected(name.clone(), port, authority.host.clone())) } else { Ok(()) }
}

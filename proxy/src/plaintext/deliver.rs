//! From what may go on to an application, in the clear, or to a host outside.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::ext::Protocol;
use isthmus_model::catalog::AppProtocol;
use isthmus_model::http_route::Scheme;
use isthmus_model::spiffe::SpiffeId;

use super::AppError;
use crate::accept::Lifetime;
use crate::limits::Entry;
use crate::message::Received;
use crate::message::authority::passed_on;
use crate::message::body::BodyError;
use crate::message::fields::{
    Outcome, enter_at_edge, set_client_certificate, set_outcome, strip_claims, strip_hop_by_hop,
};
use crate::message::replay::Replay;
use crate::message::upgrade::Asked;
use crate::message::{Body, reply};
use crate::plane::DataPlane;

/// The version of HTTP that the client spoke, where the request came by way of another data plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientVersion(pub(crate) Version);

/// Whose requests they are, as the application is told.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// A workload or gateway that proved itself.
    Peer(SpiffeId),
    /// Nobody knows; from where.
    Stranger(IpAddr),
    /// It is told nothing: it is none of ours.
    Untold,
}

/// A request that may go on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Where the application listens, best first. Never empty.
    pub(crate) targets: Vec<SocketAddr>,
    /// How it is spoken to.
    pub(crate) protocol: AppProtocol,
    /// How it is called, in canonical form, whatever the peer wrote.
    pub(crate) authority: Authority,
    /// The canonical form of its path, if that was judged. Else it is passed on as it was sent.
    pub(crate) path: Option<String>,
}

/// A connection or session, as what comes on it is passed on.
pub(crate) struct Arrival {
    pub(crate) plane: DataPlane,
    pub(crate) caller: Caller,
    pub(crate) life: Lifetime,
    /// Held by tunnels that outlive what they came on.
    pub(crate) entry: Option<Arc<Entry>>,
}

/// The target with another path, and the query that it has.
fn with_path(path: &str, target: &Uri) -> Result<Uri, http::Error> {
    let target = match target.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    Ok(Uri::from(target?))
}

impl Arrival {
    /// Passes the request on, and joins the two streams if both sides want that.
    pub(crate) async fn exchange(&self, admitted: &Admitted, mut request: Request<Received>) -> Response<Body> {
        let asked = Asked::take(&mut request);
        let response = self.forward(admitted, request).await;
        match asked {
            Some(asked) => asked.answer(response, &self.life, self.entry.clone()),
            None => response,
        }
    }

    /// Passes the request to the first instance that takes it.
    async fn forward(&self, admitted: &Admitted, request: Request<Received>) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        let protocol = parts.extensions.remove::<Protocol>();
        let http2 = match admitted.protocol {
            AppProtocol::Detect => {
                let told = parts.extensions.remove::<ClientVersion>();
                told.map_or(parts.version, |told| told.0) == Version::HTTP_2
            }
            protocol => protocol == AppProtocol::Http2,
        };
        strip_hop_by_hop(&mut parts.headers);
        strip_claims(&mut parts.headers);
        match &self.caller {
            Caller::Peer(peer) => {
                set_client_certificate(&mut parts.headers, self.plane.identity().id().as_ref(), peer);
            }
            Caller::Stranger(from) => enter_at_edge(&mut parts.headers, *from, Scheme::Http),
            Caller::Untold => {}
        }
        // The authority says it.
        parts.headers.remove(HOST);
        let target = match &admitted.path {
            Some(path) => with_path(path, &parts.uri),
            None => Ok(parts.uri),
        };
        let uri = match target.and_then(|target| passed_on(admitted.authority.clone(), target)) {
            Ok(uri) => uri,
            Err(error) => return reply::outcome(StatusCode::BAD_REQUEST, &error.to_string(), Outcome::Denied),
        };
        let broken_off = |status| reply::outcome(status, "the request broke off", Outcome::Denied);
        // Over HTTP/2 it may have to be sent again, when it was under way already.
        let body = if http2 { Replay::prepare(body).await } else { Ok(Replay::once(body)) };
        let body = match body {
            Ok(body) => body,
            Err(BodyError::Quiet) => return broken_off(StatusCode::REQUEST_TIMEOUT),
            Err(BodyError::Broken(_)) => return broken_off(StatusCode::BAD_REQUEST),
        };
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
            match self.plane.apps().send(*target, http2, &body, attempt).await {
                Ok(mut response) => {
                    strip_hop_by_hop(response.headers_mut());
                    strip_claims(response.headers_mut());
                    if response.extensions().get::<reply::Own>().is_some() {
                        set_outcome(response.headers_mut(), Outcome::InPlace, "the application");
                    }
                    return response;
                }
                Err(_) if body.broke() => return broken_off(StatusCode::BAD_REQUEST),
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
}

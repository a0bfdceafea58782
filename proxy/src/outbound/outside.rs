//! Hosts outside the federation, for clients that may call them: those that the cluster's operator listed.
//!
//! Requests in the clear go on without what the mesh says about callers; anything else is a CONNECT, whose bytes nobody looks at. A
//! name is looked up by the system's resolver, and an address that would lead into this machine or its link is left out, whoever
//! gave it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode, uri};
use hyper_util::rt::TokioIo;
use isthmus_model::outside::{OutsideHosts, OutsidePort, Permission, is_outside};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::request::Client;
use super::target::NoTarget;
use crate::message::authority::{Authority, requested};
use crate::message::fields::take_outcome;
use crate::message::upgrade::is_tunnel;
use crate::message::{Body, Received, reply};
use crate::plaintext::CONNECT_WITHIN;
use crate::plaintext::deliver::{Admitted, Arrival, Caller};
use crate::tcp::{IDLE_MAX, connect, copy_both};

/// How long the resolver may take: its own attempts, twice.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
/// Names that are being looked up at once. Each is a thread, of those that the registry's file is written by too.
const RESOLVING_MAX: usize = 64;
/// How long an answer is used. Short: the resolver does not tell how long it is good for.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// Names that are kept.
const KEPT_MAX: usize = 1_024;
/// Addresses of a name that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;

/// The way out of one listener. Clones share it.
#[derive(Clone)]
pub(super) struct Exit(Arc<State>);

struct State {
    allow_loopback: bool,
    resolving: Arc<Semaphore>,
    kept: Mutex<HashMap<String, Resolved>>,
}

/// Addresses, and until when they are used.
type Resolved = (Instant, Arc<[IpAddr]>);

impl Exit {
    /// One that leads to loopback addresses only where `allow_loopback`.
    pub(super) fn new(allow_loopback: bool) -> Self {
        let (resolving, kept) = (Arc::new(Semaphore::new(RESOLVING_MAX)), Mutex::default());
        Self(Arc::new(State { allow_loopback, resolving, kept }))
    }

    /// Answers a request for a host that is none of the federation's.
    pub(super) async fn answer(&self, client: &Client, request: Request<Received>) -> Result<Response<Body>, NoTarget> {
        let authority = requested(&request)?;
        let Authority { host, port } = &authority;
        let (known, hosts) = match client.plane.snapshot().outside.permits(host, *port) {
            Permission::Granted(known, hosts) => (known, hosts),
            Permission::OtherPorts(ports) => return Err(NoTarget::outside_port(host, *port, &ports)),
            Permission::Refused => return Err(NoTarget::NotOurs(host.clone())),
        };
        if !is_tunnel(&request) && !known.protocol.is_http() {
            return Err(NoTarget::OutsideBytes(host.clone(), *port));
        }
        let targets = self.addresses(host, &known, &hosts).await?;
        if is_tunnel(&request) {
            return Ok(tunnel(client, &authority, &targets, request).await);
        }
        let called = uri::Authority::try_from(authority.text()).map_err(|_| NoTarget::NotOurs(host.clone()))?;
        let (plane, life, entry) = (client.plane.clone(), client.life.clone(), Some(client.entry.clone()));
        let arrival = Arrival { plane, caller: Caller::Untold, life, entry };
        let admitted = Admitted { targets, protocol: known.protocol, authority: called, path: None };
        let mut response = Box::pin(arrival.exchange(&admitted, request)).await;
        take_outcome(response.headers_mut());
        Ok(response)
    }

    /// Where to connect to, best first. Not empty.
    async fn addresses(
        &self,
        host: &str,
        port: &OutsidePort,
        hosts: &OutsideHosts,
    ) -> Result<Vec<SocketAddr>, NoTarget> {
        let found: Arc<[IpAddr]> = match hosts.addresses.as_slice() {
            [] => self.resolve(host).await.map_err(|why| NoTarget::Unresolved(host.to_owned(), why))?,
            given => given.into(),
        };
        let outside = found.iter().filter(|address| is_outside(**address, self.0.allow_loopback));
        let targets = outside.take(ADDRESSES_TRIED_MAX).map(|address| SocketAddr::new(*address, port.target));
        let targets: Vec<SocketAddr> = targets.collect();
        if targets.is_empty() {
            let why = "every address that it has is of this machine, of its link, or of nobody".to_owned();
            return Err(NoTarget::Unresolved(host.to_owned(), why));
        }
        Ok(targets)
    }

    async fn resolve(&self, host: &str) -> Result<Arc<[IpAddr]>, String> {
        let kept = || self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((until, addresses)) = kept().get(host)
            && *until > Instant::now()
        {
            return Ok(addresses.clone());
        }
        let turn = self.0.resolving.clone().try_acquire_owned();
        let turn = turn.map_err(|_| "too many names are being looked up: try again".to_owned())?;
        // With the root's dot, so that the resolver does not look below its search domains first.
        let name = format!("{host}.");
        let looking = spawn_blocking(move || {
            let found = (name.as_str(), 0).to_socket_addrs();
            // The thread is the turn, however long it goes on after nobody waits for it.
            drop(turn);
            found
        });
        let found = timeout(RESOLVE_WITHIN, looking).await;
        let found = found.map_err(|_| format!("no answer within {} s", RESOLVE_WITHIN.as_secs()))?;
        let found = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let addresses: Arc<[IpAddr]> = found.map(|address| address.ip()).collect();
        let mut kept = kept();
        if kept.len() >= KEPT_MAX {
            kept.retain(|_, (until, _)| *until > Instant::now());
        }
        if kept.len() < KEPT_MAX {
            kept.insert(host.to_owned(), (Instant::now() + KEPT_FOR, addresses.clone()));
        }
        Ok(addresses)
    }
}

/// Connects first: the client is told 200 only when bytes can flow.
async fn tunnel(
    client: &Client,
    authority: &Authority,
    targets: &[SocketAddr],
    request: Request<Received>,
) -> Response<Body> {
    let mut failed = String::new();
    for target in targets {
        let stream = match connect(*target, CONNECT_WITHIN).await {
            Ok(stream) => stream,
            Err(error) => {
                failed = format!("{} cannot be reached at {target}: {error}", authority.host);
                continue;
            }
        };
        let (entry, host) = (client.entry.clone(), authority.host.clone());
        client.life.spawn(async move {
            let copied = match hyper::upgrade::on(request).await {
                Ok(client) => copy_both(TokioIo::new(client), stream, IDLE_MAX).await,
                Err(error) => Err(std::io::Error::other(error)),
            };
            if let Err(error) = copied {
                tracing::debug!(host, %error, "tunnel ended");
            }
            drop(entry);
        });
        return reply::empty(StatusCode::OK);
    }
    reply::text(StatusCode::BAD_GATEWAY, &failed)
}

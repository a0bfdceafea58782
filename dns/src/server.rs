//! Binding and serving.

use std::net::{SocketAddr, UdpSocket as StdUdpSocket};
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::snapshot::Snapshot;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::render::Zone;
use crate::responder::Responder;
use crate::tcp::{Connections, TcpService};
use crate::udp;

/// How long clients may keep an answer, or its absence. An address is stable, so this is only about
/// services that come and go: CoreDNS uses 5 seconds for Kubernetes services too.
pub const TTL_DEFAULT: Duration = Duration::from_secs(5);
/// Queries that wait for an upstream server. Each may hold a socket, and 1,024 file descriptors is the least that
/// a process is commonly given.
pub const FORWARDS_MAX: usize = 512;
/// Time for one try at one upstream server, TCP after UDP included. A recursive server that has to go out itself
/// takes up to a second.
pub const TRY_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Time for all tries. Stub resolvers give up, or turn elsewhere, after 5 seconds.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(4);
/// TCP connections in all: with 4 KiB per message well below 2 MiB.
pub const TCP_CONNECTIONS_MAX: usize = 256;
/// TCP connections from one address, so that no one client takes them all.
pub const TCP_CONNECTIONS_PER_SOURCE_MAX: usize = 64;
/// Time for a whole query to arrive, or a response to be taken. RFC 7766 §6.2.3 asks for a few seconds.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Upstream servers. A `resolv.conf` has at most three.
pub const UPSTREAMS_MAX: usize = 8;
/// How often to look for a port that is free for UDP and TCP alike, when any port will do.
const BIND_TRIES_MAX: usize = 16;

/// What the server may use. The defaults are this module's constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queries that wait for an upstream server; more get SERVFAIL.
    pub forwards: usize,
    /// Time for one try at one upstream server.
    pub try_timeout: Duration,
    /// Time for all tries.
    pub forward_timeout: Duration,
    /// TCP connections in all; more are closed at once.
    pub tcp_connections: usize,
    /// TCP connections from one address.
    pub tcp_connections_per_source: usize,
    /// Time for a whole query to arrive over TCP, or a response to be taken.
    pub tcp_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            forwards: FORWARDS_MAX,
            try_timeout: TRY_TIMEOUT,
            forward_timeout: FORWARD_TIMEOUT,
            tcp_connections: TCP_CONNECTIONS_MAX,
            tcp_connections_per_source: TCP_CONNECTIONS_PER_SOURCE_MAX,
            tcp_idle_timeout: TCP_IDLE_TIMEOUT,
        }
    }
}

/// How to serve DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses to listen on, UDP and TCP alike. Port 0 takes any port that is free for both. Where the machine has
    /// several addresses, name them: from a wildcard, a UDP response may leave by another address than the query
    /// came to, and the client ignores it.
    pub listen: Vec<SocketAddr>,
    /// Recursive servers for every name that is not ours, in order of preference. Without any, such names are
    /// refused.
    pub upstreams: Vec<SocketAddr>,
    /// How long clients may keep answers and their absence; whole seconds count.
    pub ttl: Duration,
    /// What the server may use.
    pub limits: Limits,
}

impl Default for DnsConfig {
    /// Listens nowhere.
    fn default() -> Self {
        Self { listen: Vec::new(), upstreams: Vec::new(), ttl: TTL_DEFAULT, limits: Limits::default() }
    }
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The configuration names no address.
    #[error("no DNS address to listen on: set at least one")]
    NowhereToListen,
    /// An address cannot be listened on.
    #[error(
        "cannot listen for DNS on {address} ({transport}): {source}; check that the address is this machine's, the port is free, and ports below 1024 are allowed"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// Too many upstream servers.
    #[error("{0} upstream DNS servers: set {UPSTREAMS_MAX} at most")]
    TooManyUpstreams(usize),
    /// An upstream server without an address or port.
    #[error("{0} is not an upstream DNS server's address: give an IP address and a port")]
    UpstreamInvalid(SocketAddr),
    /// An upstream server that is this server: questions would go in circles.
    #[error("upstream DNS server {upstream} is this server itself (it listens on {listen}): name another one")]
    UpstreamIsSelf {
        /// The upstream server.
        upstream: SocketAddr,
        /// The listening address that it is.
        listen: SocketAddr,
    },
}

/// The DNS server.
#[derive(Debug)]
pub struct DnsServer;

impl DnsServer {
    /// Binds every address. Queries queue in the kernel until [`Bound::serve`].
    ///
    /// # Errors
    /// [`DnsError`], for an address that cannot be had or an upstream server that cannot be meant.
    pub async fn bind(
        config: DnsConfig,
        view: watch::Receiver<Arc<Snapshot>>,
        metrics: Arc<Metrics>,
    ) -> Result<Bound, DnsError> {
        check_upstreams(&config.upstreams)?;
        if config.listen.is_empty() {
            return Err(DnsError::NowhereToListen);
        }
        let mut sockets = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            sockets.push(Sockets::bind(*address).await?);
        }
        for Sockets { address: listen, .. } in &sockets {
            if let Some(upstream) = config.upstreams.iter().find(|upstream| is_self(**upstream, *listen)) {
                return Err(DnsError::UpstreamIsSelf { upstream: *upstream, listen: *listen });
            }
        }
        let forwarder = Forwarder::new(config.upstreams, config.limits.clone(), metrics.clone());
        // RFC 2181 §8: a TTL has 31 bits.
        let ttl_secs = u32::try_from(config.ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX.unsigned_abs());
        let responder = Responder::new(view, Zone::new(ttl_secs), forwarder, metrics);
        Ok(Bound { sockets, responder: Arc::new(responder), limits: config.limits })
    }
}

/// A server that has its sockets.
pub struct Bound {
    sockets: Vec<Sockets>,
    responder: Arc<Responder>,
    limits: Limits,
}

impl Bound {
    /// The addresses that it listens on, in the order of the configuration, each for UDP and TCP.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(|sockets| sockets.address).collect()
    }

    /// Answers queries until `shutdown`, or until this future is dropped. Queries that still wait for an upstream
    /// server then are dropped too.
    pub async fn serve(self, shutdown: CancellationToken) {
        let shutdown = shutdown.child_token();
        let _stop_when_dropped = shutdown.clone().drop_guard();
        let tasks = TaskTracker::new();
        let tcp = TcpService {
            responder: self.responder.clone(),
            connections: Arc::new(Connections::default()),
            limits: self.limits,
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        };
        for Sockets { address, udp, tcp: listener } in self.sockets {
            info!(%address, "serving DNS");
            tasks.spawn(udp::serve(udp, self.responder.clone(), tasks.clone(), shutdown.clone()));
            tasks.spawn(tcp.clone().serve(listener));
        }
        shutdown.cancelled().await;
        tasks.close();
        tasks.wait().await;
    }
}

/// The sockets of one address.
struct Sockets {
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both transports to one port. With port 0 the system picks one for TCP that may be taken for UDP: then
    /// again.
    async fn bind(address: SocketAddr) -> Result<Self, DnsError> {
        let mut tries_left = if address.port() == 0 { BIND_TRIES_MAX } else { 1 };
        loop {
            tries_left -= 1;
            let failed = |transport| move |source| DnsError::Bind { address, transport, source };
            let tcp = TcpListener::bind(address).await.map_err(failed("TCP"))?;
            let bound = tcp.local_addr().map_err(failed("TCP"))?;
            match UdpSocket::bind(bound).await {
                Ok(udp) => return Ok(Self { address: bound, udp, tcp }),
                Err(_) if tries_left > 0 => {}
                Err(source) => return Err(failed("UDP")(source)),
            }
        }
    }
}

fn check_upstreams(upstreams: &[SocketAddr]) -> Result<(), DnsError> {
    if upstreams.len() > UPSTREAMS_MAX {
        return Err(DnsError::TooManyUpstreams(upstreams.len()));
    }
    let invalid = upstreams.iter().find(|upstream| upstream.ip().is_unspecified() || upstream.port() == 0);
    invalid.map_or(Ok(()), |upstream| Err(DnsError::UpstreamInvalid(*upstream)))
}

/// Whether a question to `upstream` would arrive at `listen`. A wildcard listens on every address of the
/// machine, and one can only be bound if it is of the machine.
fn is_self(upstream: SocketAddr, listen: SocketAddr) -> bool {
    let is_of_machine = || StdUdpSocket::bind((upstream.ip(), 0)).is_ok();
    upstream.port() == listen.port()
        && (upstream.ip() == listen.ip() || listen.ip().is_unspecified() && is_of_machine())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().expect("an address")
    }

    #[test]
    fn a_server_is_recognised_as_its_own_upstream() {
        assert!(is_self(at("127.0.0.1:53"), at("127.0.0.1:53")));
        assert!(is_self(at("127.0.0.1:53"), at("0.0.0.0:53")), "a wildcard listens there too");
        assert!(is_self(at("127.0.0.1:53"), at("[::]:53")), "also over the other family");
        assert!(!is_self(at("127.0.0.1:53"), at("127.0.0.1:15053")));
        assert!(!is_self(at("192.0.2.1:53"), at("0.0.0.0:53")), "a documentation address is not this machine's");
    }

    #[test]
    fn upstreams_are_addresses_and_few() {
        assert!(check_upstreams(&[at("192.0.2.1:53"), at("[2001:db8::1]:53")]).is_ok());
        for bad in ["0.0.0.0:53", "192.0.2.1:0"] {
            assert!(matches!(check_upstreams(&[at(bad)]), Err(DnsError::UpstreamInvalid(_))), "{bad}");
        }
        let many = vec![at("192.0.2.1:53"); UPSTREAMS_MAX + 1];
        assert!(matches!(check_upstreams(&many), Err(DnsError::TooManyUpstreams(_))));
    }
}

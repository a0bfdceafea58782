//! The gateway's configuration: one YAML file, read and validated once, then passed down as values.
//!
//! Every problem of a file is told at once, each with its line; a field that is not known is a problem, not a
//! comment. Nothing is read from the environment, and nothing is reloaded: what changes at run time is in the
//! manifests and in the registry. [`GatewayConfig`] prints itself as a file that means the same.

mod display;
pub mod duration;
mod read;
pub mod size;
mod tree;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use isthmus_federation::Voting;
use isthmus_federation::enroll::GatewayName;
use isthmus_federation::node::Timing;
use isthmus_federation::snapshot::RATE_DEFAULT;
use isthmus_model::locality::Locality;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::snapshot::Site;
use isthmus_model::voters::VOTERS_DEFAULT;
use isthmus_sources::{OwnListeners, Rules};
use serde::Serialize;

pub use tree::Problem;

use crate::control::ControlSocketConfig;

/// A validated configuration. Serializes to the shape of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayConfig {
    /// The federation's domain.
    pub federation: FederationDomain,
    /// The cluster that the gateway stands for.
    pub cluster: ClusterName,
    /// The gateway's name within the cluster.
    pub gateway: Label,
    /// Where the cluster stands.
    pub locality: Locality,
    /// Whether the gateway founds the federation when its data directory is empty and it has no token.
    pub found: bool,
    /// Keys, certificates, the registry's log and the admin socket.
    pub data_dir: PathBuf,
    /// The directory of manifests.
    pub manifests: PathBuf,
    /// What it listens on.
    pub listen: Listen,
    /// Who stands before a listener and says whose connections it passes on.
    pub proxy_protocol: ProxyProtocol,
    /// Where sidecars of this machine are served without a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_socket: Option<ControlSocketConfig>,
    /// Where others reach the east-west port, when that is not where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<SocketAddr>,
    /// The range of virtual addresses; without one, services have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_range: Option<IpNet>,
    /// Ports of the own services whose bytes are not looked at when their Service does not say what they are.
    pub opaque_ports: BTreeSet<u16>,
    /// Where requests from outside are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
    /// Names of others.
    pub dns: Dns,
    /// How long a workload's certificate is good for.
    #[serde(with = "duration::text")]
    pub workload_certificate_ttl: Duration,
    /// The registry's timing.
    pub raft: Raft,
    /// How long joining may take.
    pub join: Join,
    /// How long open requests may finish after a signal to stop.
    #[serde(with = "duration::text")]
    pub drain: Duration,
}

/// The listeners. Port 0 lets the kernel choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// Between clusters: gateways and sidecars of other clusters (15443).
    pub east_west: SocketAddr,
    /// DNS over UDP and TCP (15053).
    pub dns: SocketAddr,
    /// Identity and snapshots for sidecars (15012).
    pub control: SocketAddr,
    /// The forward proxy for clients without a sidecar (15001).
    pub egress: SocketAddr,
    /// The read-only admin API; loopback only (15000).
    pub admin: SocketAddr,
    /// Metrics (15020).
    pub metrics: SocketAddr,
    /// Readiness (15021).
    pub readiness: SocketAddr,
}

impl Listen {
    /// Every listener by its name in the file.
    #[must_use]
    pub fn all(&self) -> [(&'static str, SocketAddr); 7] {
        [
            ("east_west", self.east_west),
            ("dns", self.dns),
            ("control", self.control),
            ("egress", self.egress),
            ("admin", self.admin),
            ("metrics", self.metrics),
            ("readiness", self.readiness),
        ]
    }
}

/// Requests from outside: by HTTPRoutes to services of the federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ingress {
    /// The name by which HTTPRoutes ask for it (`parentRefs.name`).
    pub gateway: String,
    /// Over TLS: the listener `https`.
    pub https: SocketAddr,
    /// In the clear: the listener `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// The directory of certificates and keys: `NAME.crt` and `NAME.key`, PEM.
    pub certificates: PathBuf,
    /// How long nothing may move on a request and its response until they are given up.
    #[serde(with = "duration::text")]
    pub stream_idle_timeout: Duration,
}

/// Load balancers that send the PROXY protocol, by the listener that they stand before. They are trusted in what they say,
/// and nothing else is taken from their addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProxyProtocol {
    /// Before the east-west port.
    pub east_west: Vec<IpNet>,
    /// Before the listeners for clients from outside.
    pub ingress: Vec<IpNet>,
}

/// DNS for names that are not the federation's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Resolvers to ask. None: such names are refused.
    pub upstreams: Vec<SocketAddr>,
}

/// The registry's timing. The defaults fit a WAN whose round trips stay under 400 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Raft {
    /// How often the leader makes itself heard, and how long it waits for an answer: longer than the longest round trip,
    /// or nothing can be agreed.
    #[serde(with = "duration::text")]
    pub heartbeat: Duration,
    /// The shortest silence of the leader after which a follower stands for election.
    #[serde(with = "duration::text")]
    pub election_min: Duration,
    /// The longest such silence; each follower draws its own between the two.
    #[serde(with = "duration::text")]
    pub election_max: Duration,
    /// Gateways that vote at most: 1, 3, 5 or 7. The leader's configuration counts.
    pub voters: usize,
    /// How long a voter may be silent before another gateway takes its seat.
    #[serde(with = "duration::text")]
    pub voter_replace_after: Duration,
    /// Bytes a second at which this gateway sends snapshots of the registry, all together.
    #[serde(with = "size::text")]
    pub snapshot_rate: NonZeroU64,
}

impl Default for Raft {
    fn default() -> Self {
        let Timing { heartbeat, election_min, election_max } = Timing::default();
        Self {
            heartbeat,
            election_min,
            election_max,
            voters: VOTERS_DEFAULT,
            voter_replace_after: Voting::default().replace_after,
            snapshot_rate: RATE_DEFAULT,
        }
    }
}

/// How long joining may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Join {
    /// For one attempt at one contact.
    #[serde(with = "duration::text")]
    pub attempt: Duration,
    /// For all attempts, until the gateway gives up and exits.
    #[serde(with = "duration::text")]
    pub deadline: Duration,
}

impl Default for Join {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(5), deadline: Duration::from_secs(60) }
    }
}

/// What is wrong with a file. Prints one `file:line: message` a line.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Everything wrong with it, by line.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}:{}: {}", self.file.display(), problem.line, problem.message)?;
        }
        Ok(())
    }
}

impl GatewayConfig {
    /// Reads and validates a file. Relative paths in it are relative to the file.
    ///
    /// # Errors
    /// Every problem of the file; a file that cannot be read has its one problem at line 1.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let fail = |problems| ConfigError { file: file.to_owned(), problems };
        let text = tree::read_text(file).map_err(|problem| fail(vec![problem]))?;
        let base = file.parent().unwrap_or(Path::new(""));
        Self::parse(&text, base).map_err(fail)
    }

    /// Validates the text of a file in the directory `base`.
    ///
    /// # Errors
    /// Every problem of the text, by line.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<Problem>> {
        read::read(text, base)
    }

    /// Where the gateway stands.
    #[must_use]
    pub fn site(&self) -> Site {
        Site { federation: self.federation.clone(), cluster: self.cluster.clone(), locality: self.locality.clone() }
    }

    /// Who the gateway is, with the address at which others reach it.
    #[must_use]
    pub fn gateway_name(&self, east_west: SocketAddr) -> GatewayName {
        GatewayName {
            federation: self.federation.clone(),
            cluster: self.cluster.clone(),
            gateway: self.gateway.clone(),
            locality: self.locality.clone(),
            east_west,
            control: self.control_contact(),
        }
    }

    /// Where sidecars on other machines reach the control port. None when only the kernel knows the port, or when only
    /// this machine reaches it and others reach the gateway.
    #[must_use]
    pub fn control_contact(&self) -> Option<SocketAddr> {
        let (mut control, east_west) = (self.listen.control, self.advertised(self.listen.east_west));
        if control.ip().is_unspecified() {
            control.set_ip(east_west.ip());
        }
        let reachable = is_loopback(east_west.ip()) || !is_loopback(control.ip());
        (reachable && control.port() != 0).then_some(control)
    }

    /// The address to tell others for the east-west port, given the one that was bound.
    #[must_use]
    pub fn advertised(&self, bound: SocketAddr) -> SocketAddr {
        self.advertise.unwrap_or(bound)
    }

    /// What manifests may say of endpoints here. A listener on every address is on the advertised one, as far as this
    /// can know.
    #[must_use]
    pub fn manifest_rules(&self) -> Rules {
        let advertised = self.advertise.map(|advertised| advertised.ip());
        let listeners = self.listen.all().map(|(_, listener)| match advertised {
            Some(ip) if listener.ip().is_unspecified() => SocketAddr::new(ip, listener.port()),
            _ => listener,
        });
        let mut own = OwnListeners::default();
        for (slot, listener) in own.iter_mut().zip(listeners.into_iter().chain(self.advertise)) {
            *slot = Some(listener);
        }
        let allow_loopback = is_loopback(self.listen.east_west.ip());
        let ingress = self.ingress.as_ref().map(|ingress| ingress.gateway.clone());
        Rules { allow_loopback, own, ingress, opaque_ports: self.opaque_ports.clone() }
    }

    /// The socket of the admin API that takes changes.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.data_dir.join(ADMIN_SOCKET)
    }
}

/// The admin socket's name in the data directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// Whether only processes of this machine can reach an address: 127.0.0.0/8 or ::1.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests;

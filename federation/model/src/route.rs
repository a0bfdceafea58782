//! The way out: from what a client asked for to an ordered choice of destinations.
//!
//! [`Snapshot::find_host`] and [`Snapshot::find_address`] name the service; [`plan`] decides, by locality
//! and health, which share of requests goes to which level of destinations. A [`Plan`] is valid until the
//! snapshot or the set of unusable destinations changes, so a data plane keeps it between requests. Which
//! destination within a level is the balancer's choice, for it knows the load.

pub mod failback;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::catalog::{Endpoint, ServicePort};
use crate::health::Reach;
use crate::locality::Proximity;
use crate::name::{ClusterName, ServiceName};
use crate::registry::node::NodeId;
use crate::snapshot::{Coverage, RemoteBackend, Service, Snapshot};

/// How much more than its share a level is trusted to take before traffic spills (Envoy's
/// overprovisioning factor), in per mille: a level keeps all traffic until under 1/1.4 of it is healthy.
pub const OVERPROVISIONING_PERMILLE: u64 = 1_400;
/// A level of which less than this is free of suspicion is used whole, suspected or not, when there is not enough elsewhere
/// (Envoy's panic threshold of 50 %), in per mille.
pub const PANIC_PERMILLE: u64 = 500;
/// All of the traffic, in the unit of shares.
pub const WHOLE: u32 = 1_000;
/// Capacity of one instance in the unit that levels are weighed in, so that a cluster's capacity can be
/// divided among its gateways without losing small ones. Sums stay below 2^63: a thousand gateways that each
/// claim 2^32 instances, times this, times [`OVERPROVISIONING_PERMILLE`].
const INSTANCE: u64 = 1_000;

/// What a snapshot says about a name or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A service of the federation with this port.
    Service(Arc<Service>, ServicePort),
    /// The service exists, the port does not.
    NoSuchPort(Arc<Service>),
    /// A name of the federation that no cluster exports, or an address that is no service's.
    NotFound,
    /// The snapshot is partial and was not asked about it yet.
    Unasked(Question),
    /// Not a name of the federation at all.
    NotOurs,
}

/// What a partial snapshot has to be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// A service by name.
    Service(ServiceName),
    /// A service by virtual address.
    Address(IpAddr),
}

impl Snapshot {
    /// The service that `host`:`port` means. `host` is without port and brackets.
    #[must_use]
    pub fn find_host(&self, host: &str, port: u16) -> Found {
        match ServiceName::from_host(host) {
            Some(name) => self.find_service(&name, port),
            None => Found::NotOurs,
        }
    }

    /// The service by name.
    #[must_use]
    pub fn find_service(&self, name: &ServiceName, port: u16) -> Found {
        match self.services.get(name) {
            Some(service) if service.federated => match service.port(port) {
                Some(found) => Found::Service(service.clone(), found.clone()),
                None => Found::NoSuchPort(service.clone()),
            },
            Some(_) => Found::NotFound,
            None => match &self.coverage {
                Coverage::Partial { absent, .. } if !absent.contains(name) => {
                    Found::Unasked(Question::Service(name.clone()))
                }
                _ => Found::NotFound,
            },
        }
    }

    /// The service whose virtual address this is.
    #[must_use]
    pub fn find_address(&self, address: SocketAddr) -> Found {
        match self.vips.get(&address.ip()) {
            Some(name) => self.find_service(name, address.port()),
            None => match &self.coverage {
                Coverage::Partial { absent_addresses, .. } if !absent_addresses.contains(&address.ip()) => {
                    Found::Unasked(Question::Address(address.ip()))
                }
                _ => Found::NotFound,
            },
        }
    }
}

/// Somewhere that a request can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An instance in the own cluster.
    Local(Endpoint),
    /// Another cluster, through one of its gateways.
    Remote {
        /// The offer.
        backend: Arc<RemoteBackend>,
        /// Which gateway.
        node: NodeId,
        /// Its east-west address.
        east_west: SocketAddr,
    },
}

/// A destination's identity across snapshots; what load, ejections and pools are kept under.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DestinationKey {
    /// An instance in the own cluster, by the address that is connected to.
    Local(SocketAddr),
    /// A gateway of another cluster.
    Remote(ClusterName, SocketAddr),
}

impl Destination {
    /// Its identity. `port` is the service port.
    #[must_use]
    pub fn key(&self, port: u16) -> DestinationKey {
        match self {
            Self::Local(endpoint) => {
                let dialed = endpoint.sidecar_port.or_else(|| endpoint.ports.get(&port).copied());
                DestinationKey::Local(SocketAddr::new(endpoint.address, dialed.unwrap_or(port)))
            }
            Self::Remote { backend, east_west, .. } => DestinationKey::Remote(backend.cluster.name.clone(), *east_west),
        }
    }

    /// How much it should get, relative to others of its level.
    #[must_use]
    pub fn weight(&self) -> u32 {
        match self {
            Self::Local(_) => 1,
            Self::Remote { backend, .. } => {
                let gateways = u32::try_from(backend.cluster.gateways.len()).unwrap_or(u32::MAX);
                (backend.capacity.ready / gateways.max(1)).max(1)
            }
        }
    }
}

/// Destinations of one nearness and their share of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// How near.
    pub proximity: Proximity,
    /// Share of all requests, of [`WHOLE`].
    pub share: u32,
    /// The share that it could take.
    pub able: u32,
    /// Usable destinations. Never empty.
    pub destinations: Vec<Destination>,
}

/// Where requests for one service port go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Nearest first. Empty when nothing can serve.
    pub levels: Vec<Level>,
}

impl Plan {
    /// The order in which one request tries the levels: the level that `random` falls on by share, then
    /// the others, nearest first.
    pub fn order(&self, random: u32) -> impl Iterator<Item = &Level> {
        let mut point = random % WHOLE;
        let first = self.levels.iter().position(|level| {
            let hit = point < level.share;
            point = point.saturating_sub(level.share);
            hit
        });
        let first = first.unwrap_or(0);
        let rest = self.levels.iter().enumerate().filter(move |(index, _)| *index != first);
        self.levels.get(first).into_iter().chain(rest.map(|(_, level)| level))
    }
}

/// Plans requests for `port` of `service`. `usable` says whether a destination is free of suspicion (not
/// ejected). Suspicion is ignored where it would leave too little: of a level most of which is suspected, when the others
/// cannot take all of the rest ([`PANIC_PERMILLE`]); and everywhere when nothing else is left. A request that may fail beats one
/// that must.
pub fn plan(service: &Service, port: u16, usable: impl Fn(&DestinationKey) -> bool) -> Plan {
    let candidates = candidates(service, port);
    let usable: Vec<bool> = candidates.iter().map(|candidate| usable(&candidate.destination.key(port))).collect();
    let well = |index: usize| candidates[index].reachable && usable[index];
    let (plan, is_short) = spread(&candidates, well);
    if !is_short {
        return plan;
    }
    let panicking = panicking(&candidates, &usable);
    let bearable = |index: usize| {
        let candidate = &candidates[index];
        candidate.reachable && (usable[index] || panicking.contains(&candidate.proximity))
    };
    let (plan, _) = spread(&candidates, bearable);
    if plan.levels.is_empty() { spread(&candidates, |_| true).0 } else { plan }
}

/// The levels of which less than [`PANIC_PERMILLE`] is free of suspicion.
fn panicking(candidates: &[Candidate], usable: &[bool]) -> Vec<Proximity> {
    let reachable = || candidates.iter().zip(usable).filter(|(candidate, _)| candidate.reachable);
    let ready = |of: Proximity, only_usable: bool| -> u64 {
        let members = reachable().filter(|(candidate, usable)| candidate.proximity == of && (**usable || !only_usable));
        members.map(|(candidate, _)| candidate.ready).sum()
    };
    Proximity::ALL.into_iter().filter(|of| 1_000 * ready(*of, true) < PANIC_PERMILLE * ready(*of, false)).collect()
}

struct Candidate {
    proximity: Proximity,
    destination: Destination,
    /// Whether its gateway is not known to be down.
    reachable: bool,
    /// Instances behind it, all, in units of [`INSTANCE`]. Gateways of one cluster have equal parts of it.
    total: u64,
    /// Instances behind it that take work, likewise.
    ready: u64,
}

fn candidates(service: &Service, port: u16) -> Vec<Candidate> {
    // Only a cluster that exports a service contributes instances to it (KEP-1645), the own one included.
    let local = service.endpoints.iter().filter(|e| service.exported_here && e.ports.contains_key(&port));
    let local = local.map(|endpoint| Candidate {
        proximity: Proximity::SameCluster,
        destination: Destination::Local(endpoint.clone()),
        reachable: true,
        total: INSTANCE,
        ready: INSTANCE * u64::from(endpoint.ready),
    });
    let remote = service.remotes.iter().filter(|backend| backend.ports.contains(&port)).flat_map(|backend| {
        let shared = Arc::new(backend.clone());
        let gateways = backend.cluster.gateways.iter();
        let part = |instances: u32| (INSTANCE * u64::from(instances)).div_ceil(gateways.len().max(1) as u64);
        let (total, ready) = (part(backend.capacity.total), part(backend.capacity.ready));
        gateways.map(move |(node, gateway)| Candidate {
            proximity: shared.cluster.proximity,
            reachable: gateway.reach != Reach::Down,
            total,
            ready,
            destination: Destination::Remote { backend: shared.clone(), node: *node, east_west: gateway.east_west },
        })
    });
    local.chain(remote).collect()
}

/// Gives each level what it can take of what nearer levels could not, in proportion to its health. Whether all of them
/// together are short of what is needed.
fn spread(candidates: &[Candidate], healthy: impl Fn(usize) -> bool) -> (Plan, bool) {
    let mut levels = Vec::new();
    let mut unassigned = u64::from(WHOLE);
    for proximity in Proximity::ALL {
        let members = || candidates.iter().enumerate().filter(move |(_, candidate)| candidate.proximity == proximity);
        let total: u64 = members().map(|(_, candidate)| candidate.total).sum();
        let chosen = members().filter(|(index, candidate)| candidate.ready > 0 && healthy(*index));
        let chosen: Vec<&Candidate> = chosen.map(|(_, candidate)| candidate).collect();
        if chosen.is_empty() {
            continue;
        }
        let ready: u64 = chosen.iter().map(|candidate| candidate.ready).sum();
        // At least something, however little of the level is left: it may be all that is left anywhere.
        let able = (OVERPROVISIONING_PERMILLE * ready / total.max(1)).clamp(1, u64::from(WHOLE));
        let taken = able.min(unassigned);
        unassigned -= taken;
        let destinations = chosen.into_iter().map(|candidate| candidate.destination.clone()).collect();
        let share = |of: u64| u32::try_from(of).unwrap_or(WHOLE);
        levels.push(Level { proximity, share: share(taken), able: share(able), destinations });
    }
    share_out_rest(&mut levels, unassigned);
    (Plan { levels }, unassigned > 0)
}

/// When all levels together cannot take everything, each gets more in proportion to what it takes.
fn share_out_rest(levels: &mut [Level], unassigned: u64) {
    let assigned: u64 = levels.iter().map(|level| u64::from(level.share)).sum();
    if unassigned == 0 || assigned == 0 {
        return;
    }
    let mut left = u64::from(WHOLE);
    for level in levels.iter_mut() {
        let share = (u64::from(level.share) * u64::from(WHOLE) / assigned).min(left);
        left -= share;
        level.share = u32::try_from(share).unwrap_or(WHOLE);
    }
    if let Some(nearest) = levels.first_mut() {
        nearest.share += u32::try_from(left).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests;

//! A gateway's replica of the registry, running.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use isthmus_identity::{INTERMEDIATE_LIFETIME, LiveIdentity};
#[cfg(feature = "simulation")]
use isthmus_model::command::Refusal;
use isthmus_model::command::{Command, Outcome};
use isthmus_model::name::ClusterName;
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::election_server::ElectionServer;
use isthmus_wire::peer::join_server::JoinServer;
use isthmus_wire::peer::raft_server::RaftServer;
use isthmus_wire::peer::registry_server::RegistryServer;
use openraft::{Config, SnapshotPolicy};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use crate::clocks::Clocks;
use crate::custody::Keeper;
use crate::data_dir::{DataDir, DataDirError};
use crate::dial::{Connect, Dialer};
use crate::election::{Election, ElectionService, NotHandedOver};
use crate::enroll::Member;
use crate::join::JoinService;
use crate::lineage::LineageCheck;
use crate::membership::Voting;
use crate::network::{MESSAGE_LEN_MAX, Network};
use crate::own_store::own_store;
use crate::propose::{Local, ProposeError, Proposer, RegistryService};
use crate::protocol::Protocols;
use crate::quorum::QuorumWord;
use crate::raft_service::RaftService;
use crate::raft_types::{Peer, PeerAddress, Raft};
use crate::replicas::{Growth, Replicating};
use crate::snapshot::{RATE_DEFAULT, Receiver, Sending};
use crate::status::{self, RegistryStatus};
use crate::store::Disk;
use crate::writer::{Rest, Writer};
use crate::{clocks, lineage, membership, store};

/// Entries after which the log is compacted into a snapshot.
const ENTRIES_PER_SNAPSHOT: u64 = 5_000;
/// Entries kept behind a snapshot, so that a replica that was away briefly needs no snapshot, and one that gets it can go
/// on from it although others are built meanwhile.
const ENTRIES_KEPT: u64 = ENTRIES_PER_SNAPSHOT;
/// A JSON command of the widest export: 64 ports and 64 identities, and room.
const COMMAND_LEN_MAX: usize = 64 << 10;

/// How patient the replicas are with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a leader waits for an answer: longer than the longest round trip, or nothing can be agreed. Half as much
    /// again is between two signs that it is there.
    pub heartbeat: Duration,
    /// The shortest silence after which a voter stands for election.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
}

impl Default for Timing {
    /// Fits a WAN whose round trips stay under 400 ms: no two continents are further apart.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(500),
            election_min: Duration::from_millis(1_500),
            election_max: Duration::from_millis(3_000),
        }
    }
}

/// How a replica is run.
#[derive(Clone)]
pub struct Options {
    /// How patient it is.
    pub timing: Timing,
    /// Who votes, when it leads.
    pub voting: Voting,
    /// What time it is.
    pub clocks: Clocks,
    /// How it reaches others.
    pub connect: Connect,
    /// Where its file is.
    pub disk: Disk,
    /// Bytes a second of the snapshots that it sends, all together.
    pub snapshot_rate: NonZeroU64,
}

impl Default for Options {
    /// On a machine of its own.
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            voting: Voting::default(),
            clocks: Clocks::new(SystemTime::now),
            connect: Connect::tcp(),
            disk: Disk::default(),
            snapshot_rate: RATE_DEFAULT,
        }
    }
}

/// Why a replica did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its file did not open.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// A registry that was there is not.
    #[error(
        "the registry at {path}, which this gateway had, is gone. If a restore or a recovery was interrupted, run it again. \
         If the disk was lost and most voters are up, move the data directory away and join again with a new token. If most \
         voters are lost, recover on one that is left (isthmus registry recover) or restore a backup. If that was done on \
         another gateway: isthmus registry discard"
    )]
    RegistryGone {
        /// Where it was.
        path: String,
    },
    /// There is one that is not this gateway's.
    #[error(
        "the registry at {path} is not the one that this gateway had: put the data directory together again as it was"
    )]
    RegistrySwapped {
        /// Where it is.
        path: String,
    },
    /// What belongs together could not be looked up, or noted.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The timing makes no sense.
    #[error("raft timing: {0}: `heartbeat` must be below `election_min`, and that below `election_max`")]
    Timing(#[from] openraft::ConfigError),
    /// The Raft library stopped.
    #[error("the registry's replica stopped: {0}; check the disk under the data directory")]
    Raft(String),
}

/// A running replica. Its tasks end when the token that it was started with is cancelled.
pub struct Replica {
    handle: Handle,
    raft: Raft,
    quorum: QuorumWord,
    lineage: LineageCheck,
    disk: Disk,
    tasks: TaskTracker,
}

/// Reads and writes the registry. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    proposer: Proposer,
    registry: watch::Receiver<Arc<Registry>>,
    status: watch::Receiver<RegistryStatus>,
    replicating: Replicating,
    election: Election,
}

impl Handle {
    /// Writes.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, command: Command) -> Result<Outcome, ProposeError> {
        self.proposer.propose(command).await
    }

    /// Tries once to write. `None` when it is not known whether that happened, or will.
    #[cfg(feature = "simulation")]
    pub async fn try_to_propose(&self, command: &Command) -> Option<Result<Outcome, Refusal>> {
        self.proposer.try_once(command).await
    }

    /// The agreed state, as it changes. Reads are local and may trail the leader.
    #[must_use]
    pub fn registry(&self) -> watch::Receiver<Arc<Registry>> {
        self.registry.clone()
    }

    /// How the registry stands, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RegistryStatus> {
        self.status.clone()
    }

    /// Lets another voter lead, before this gateway stops. Takes about a second, in which nothing is agreed.
    ///
    /// # Errors
    /// [`NotHandedOver`], after which the others elect one when this gateway is gone.
    pub async fn hand_over(&self) -> Result<NodeId, NotHandedOver> {
        self.election.hand_over().await
    }

    /// Takes a look at the replicas.
    #[must_use]
    pub fn replicating(&self) -> &Replicating {
        &self.replicating
    }

    /// The cluster that this gateway writes for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.proposer.cluster
    }

    /// Channels to other gateways.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.proposer.dialer
    }
}

impl Replica {
    /// Starts the replica of `member`. Its services must be served before others can reach it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(
        member: &mut Member,
        identity: LiveIdentity,
        Options { timing, voting, clocks, connect, disk, snapshot_rate }: Options,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let (log, machine) = own_store(member, &disk).await?;
        let registry = machine.watch();
        let discarded = member.data.read_node()?.map(|file| file.discarded).unwrap_or_default();
        let lineage = LineageCheck::new(registry.clone(), discarded);
        let dialer = Dialer::new(member.name.federation.clone(), identity, connect);
        let quorum = QuorumWord::default();
        let config = Arc::new(without_elections(raft_config(member, timing).validate()?, timing));
        let (protocols, rest) = (Protocols::default(), Rest::default());
        let network = Network {
            dialer: dialer.clone(),
            quorum: quorum.clone(),
            lineage: lineage.clone(),
            clocks: clocks.clone(),
            protocols: protocols.clone(),
            sending: Sending::new(snapshot_rate),
            rest: rest.clone(),
        };
        let log_of = log.clone();
        let raft = Raft::new(member.node, config, network, log, machine).await.map_err(fatal)?;
        let (publish, status) = watch::channel(RegistryStatus::default());
        let (writer, writing) = Writer::new(raft.clone(), protocols.clone(), shutdown.clone());
        let election = Election::new(
            (raft.clone(), log_of, writer.clone()),
            dialer.clone(),
            lineage.clone(),
            clocks.clone(),
            quorum.clone(),
            rest,
            timing,
        );
        let local = Local { raft: raft.clone(), clocks: clocks.clone(), protocols, writer };
        let proposer = Proposer { cluster: member.name.cluster.clone(), local, dialer };
        let growth = Growth::default();
        let (file, raft_of) = (member.data.registry(), raft.clone());
        let replicating = Replicating {
            raft: raft_of,
            clocks: clocks.clone(),
            growth: growth.clone(),
            file,
            lately: timing.election_max,
        };
        let handle = Handle { proposer, registry: registry.clone(), status, replicating, election: election.clone() };
        let tasks = TaskTracker::new();
        let looking = status::Looking {
            raft: raft.clone(),
            quorum: quorum.clone(),
            growth,
            clocks: clocks.clone(),
            patience: timing.election_max,
        };
        tasks.spawn(status::keep(looking, publish, shutdown.clone()));
        // Nobody is to see the status of a replica that has not looked at itself yet.
        let mut first = handle.status();
        let _ = first.wait_for(|status| status.node == member.node).await;
        tasks.spawn(clocks::keep(raft.clone(), clocks.clone(), shutdown.clone()));
        tasks.spawn(writing);
        tasks.spawn(election.keep(shutdown.clone()));
        tasks.spawn(membership::keep(raft.clone(), clocks, (voting, timing.election_max), registry, shutdown.clone()));
        let replica = Self { handle, raft, quorum, lineage, disk, tasks };
        replica.keep_root(member, &shutdown);
        if let Some(founding) = member.founding.take() {
            replica.initialize(member).await?;
            replica.tasks.spawn(found(replica.handle.clone(), founding, member.data.clone(), shutdown.clone()));
        }
        let known = replica.handle.registry();
        replica.tasks.spawn(keep_lineage(member.data.clone(), known, shutdown.clone()));
        replica.tasks.spawn(announce(replica.handle.clone(), member.node, member.name.clone(), shutdown));
        Ok(replica)
    }

    /// Signs and seals with the root's key, whenever it is sealed to this gateway.
    fn keep_root(&self, member: &Member, shutdown: &CancellationToken) {
        let keeper = Keeper {
            node: member.node,
            federation: member.name.federation.clone(),
            opening_key: member.opening_key.clone(),
            lifetime: INTERMEDIATE_LIFETIME,
            proposer: self.handle.proposer.clone(),
        };
        let metrics = self.raft.metrics();
        let leadership = move || {
            let metrics = metrics.borrow();
            (metrics.state.is_leader(), metrics.membership_config.membership().voter_ids().collect())
        };
        self.tasks.spawn(keeper.keep(leadership, self.handle.registry(), shutdown.clone()));
    }

    /// Makes this replica the first of its registry, unless it is that already.
    async fn initialize(&self, member: &Member) -> Result<(), StartError> {
        if self.raft.is_initialized().await.map_err(fatal)? {
            return Ok(());
        }
        let name = &member.name;
        let address =
            PeerAddress { cluster: name.cluster.clone(), gateway: name.gateway.clone(), east_west: name.east_west };
        let first = BTreeMap::from([(member.node, Peer(Some(address)))]);
        self.raft.initialize(first).await.map_err(fatal)
    }

    /// Reads and writes.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The gRPC services for other gateways, to be served under the gateways' SNI.
    #[must_use]
    pub fn gateway_services(&self) -> Routes {
        let local = &self.handle.proposer.local;
        let raft = RaftService {
            raft: self.raft.clone(),
            quorum: self.quorum.clone(),
            lineage: self.lineage.clone(),
            clocks: local.clocks.clone(),
            protocols: local.protocols.clone(),
            election: self.handle.election.clone(),
            receiver: Receiver::new(self.raft.clone(), self.disk.clone()),
            told: AtomicBool::default(),
        };
        let raft =
            RaftServer::new(raft).max_decoding_message_size(MESSAGE_LEN_MAX).max_encoding_message_size(MESSAGE_LEN_MAX);
        let elections = ElectionService::new(self.handle.election.clone());
        let registry = RegistryServer::new(RegistryService(local.clone())).max_decoding_message_size(COMMAND_LEN_MAX);
        let elections = ElectionServer::new(elections).max_decoding_message_size(COMMAND_LEN_MAX);
        Routes::new(raft).add_service(registry).add_service(elections).add_service(self.join_server())
    }

    /// The gRPC service for newcomers, to be served under the federation's join SNI.
    #[must_use]
    pub fn join_services(&self) -> Routes {
        Routes::new(self.join_server())
    }

    fn join_server(&self) -> JoinServer<JoinService> {
        let proposer = self.handle.proposer.clone();
        let federation = proposer.dialer.federation().clone();
        let service = JoinService::new(federation, proposer, self.handle.registry.clone());
        JoinServer::new(service).max_decoding_message_size(COMMAND_LEN_MAX)
    }

    /// Stops replicating, once the token that it was started with is cancelled.
    pub async fn stop(self) {
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the registry's replica did not stop cleanly");
        }
    }
}

pub(crate) fn fatal(error: impl std::fmt::Display) -> StartError {
    StartError::Raft(error.to_string())
}

/// For how long a replica votes for nobody else after it heard a leader: longer than the pause between two heartbeats,
/// which the library sends every one and a half of `heartbeat`. That voters keep to a leader for longer is seen to in
/// [`crate::election`].
pub(crate) fn lease(timing: Timing) -> Duration {
    timing.heartbeat * 2
}

fn raft_config(member: &Member, timing: Timing) -> Config {
    Config {
        cluster_name: member.name.federation.to_string(),
        heartbeat_interval: millis(timing.heartbeat),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_PER_SNAPSHOT),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..Config::default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Leaves elections to [`crate::election`].
fn without_elections(config: Config, timing: Timing) -> Config {
    let lease = millis(lease(timing));
    Config { election_timeout_min: lease - 1, election_timeout_max: lease, enable_elect: false, ..config }
}

/// Notes the lineage of the registry as it comes to be known.
async fn keep_lineage(data: DataDir, mut registry: watch::Receiver<Arc<Registry>>, shutdown: CancellationToken) {
    loop {
        let noted = Arc::clone(&registry.borrow_and_update());
        if let Err(error) = data.update_node(|file| file.with_lineage(lineage::mark(&noted))) {
            tracing::error!(%error, "the lineage of the registry could not be written down");
        }
        let known = noted.lineage().copied();
        let other = |registry: &Arc<Registry>| registry.lineage().copied() != known;
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = registry.wait_for(other) => if changed.is_err() { return },
        }
    }
}

/// Sees to it that the federation is on record. After a restart it usually is as soon as the log is
/// replayed; repeating the founding changes nothing.
async fn found(handle: Handle, founding: Command, data: DataDir, shutdown: CancellationToken) {
    while handle.registry.borrow().federation().is_none() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = handle.propose(founding.clone()) => match result {
                Ok(_) => tracing::info!(cluster = %handle.proposer.cluster, "founded the federation"),
                Err(error) => tracing::warn!(%error, "the federation is not on record yet"),
            },
        }
    }
    // On record: from now on this gateway is a member like any other.
    if let Err(error) = data.forget_founding() {
        tracing::warn!(%error, "a file that is not needed any more stays");
    }
}

/// Tells the registry when the configured addresses or locality are not the recorded ones.
async fn announce(handle: Handle, node: NodeId, name: crate::enroll::GatewayName, shutdown: CancellationToken) {
    let mut registry = handle.registry();
    loop {
        let outdated = registry.borrow_and_update().nodes().get(&node).is_some_and(|known| {
            (known.east_west, known.control) != (name.east_west, name.control) || known.locality != name.locality
        });
        if outdated {
            let (east_west, control, locality) = (name.east_west, name.control, name.locality.clone());
            match handle.propose(Command::UpdateNode { node, east_west, control, locality }).await {
                Ok(_) => tracing::info!(%east_west, "told the federation this gateway's address"),
                Err(error) => tracing::warn!(%error, "this gateway's address is not agreed yet"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = registry.changed() => if changed.is_err() { return },
        }
    }
}

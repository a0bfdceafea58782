//! A gateway's replica on a simulated machine: it starts, crashes and starts again with what its disk kept.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use isthmus_federation::caller::PeerStream;
use isthmus_federation::clocks::Clocks;
use isthmus_federation::data_dir::DataDir;
use isthmus_federation::dial::{Connect, Wire};
use isthmus_federation::enroll::{self, EnrollError, GatewayName, Member, Patience};
use isthmus_federation::publish::{self, Inputs};
use isthmus_federation::simulation::SimulatedDisk;
use isthmus_federation::store::Disk;
use isthmus_federation::{Handle, Options, Replica, Timing, Voting, exports, serve};
use isthmus_identity::{BearerToken, ClientAuth, LiveIdentity, TrustBundle};
use isthmus_model::catalog::LocalCatalog;
use isthmus_model::health::{FailedEndpoints, PeerTable};
use isthmus_model::name::FederationDomain;
use isthmus_model::registry::node::NodeId;
use isthmus_model::snapshot::{Site, Snapshot};
use isthmus_model::time::UnixMillis;
use isthmus_tests::wan::{Accepted, MachineId, VirtualWan};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::setting::{Setting, Story};

/// As gateways are configured by default.
pub(crate) const PATIENCE: Patience = Patience { attempt: Duration::from_secs(10), deadline: Duration::from_secs(20) };
const PORT: u16 = 15_443;
/// A voter that is gone is soon replaced, so that runs see it.
const VOTING: Voting = Voting { seats: 5, replace_after: Duration::from_secs(30) };

/// The federation's name.
pub(crate) fn federation() -> FederationDomain {
    "acme.mesh".parse().expect("valid")
}

/// A machine with a gateway's directory.
pub(crate) struct Host {
    pub(crate) machine: MachineId,
    pub(crate) name: GatewayName,
    dir: TempDir,
    setting: Setting,
    /// How far its clock is from the others', in seconds.
    pub(crate) skew: Arc<AtomicI64>,
    /// Whether its disks say that they synced, and did not.
    pub(crate) lies: bool,
    /// Where clients come in.
    pub(crate) door: Door,
    /// The revisions of the registry that were seen here, in order, over all its lives.
    pub(crate) seen: Arc<Mutex<Vec<u64>>>,
    /// What its cluster has, where a run is about that: kept agreed, and published as a view.
    pub(crate) catalog: Option<watch::Sender<Arc<LocalCatalog>>>,
    /// What is told without a quorum, of which a run here is not: nothing.
    peers: watch::Sender<Arc<PeerTable>>,
    failed: watch::Sender<Arc<FailedEndpoints>>,
    life: Option<Life>,
}

/// Where clients come in, while the host runs. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Door(Arc<Mutex<Option<(Handle, CancellationToken)>>>);

impl Door {
    /// The way in, and what ends with it.
    pub(crate) fn open(&self) -> Option<(Handle, CancellationToken)> {
        self.0.lock().expect("no panic").clone()
    }

    fn set(&self, way: Option<(Handle, CancellationToken)>) {
        *self.0.lock().expect("no panic") = way;
    }
}

/// From a start to a crash.
struct Life {
    replica: Replica,
    view: Option<watch::Receiver<Arc<Snapshot>>>,
    disk: SimulatedDisk,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Where a machine's gateway is reached.
pub(crate) fn address(machine: MachineId) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(machine).expect("few machines").to_be_bytes();
    SocketAddr::from(([10, 7, high, low], PORT))
}

fn connect(wan: &VirtualWan, from: MachineId) -> Connect {
    let wan = wan.clone();
    Connect::by(move |to| {
        let wan = wan.clone();
        Box::pin(async move { Ok(Box::new(wan.connect(from, to).await?) as Box<dyn Wire>) })
    })
}

impl Host {
    /// A new machine with an empty disk.
    pub(crate) fn new(machine: MachineId, cluster: &str, gateway: &str, locality: &str, setting: &Setting) -> Self {
        let name = GatewayName {
            federation: federation(),
            cluster: cluster.parse().expect("valid"),
            gateway: gateway.parse().expect("valid"),
            locality: locality.parse().expect("valid"),
            east_west: address(machine),
            control: None,
        };
        let (dir, setting) = (tempfile::tempdir().expect("a directory"), setting.clone());
        Self {
            machine,
            name,
            dir,
            setting,
            skew: Arc::default(),
            lies: false,
            door: Door::default(),
            catalog: None,
            peers: watch::Sender::default(),
            failed: watch::Sender::default(),
            seen: Arc::default(),
            life: None,
        }
    }

    fn data(&self) -> DataDir {
        DataDir::open(self.dir.path()).expect("opens")
    }

    /// Founds the federation, and runs.
    pub(crate) async fn found(&mut self) {
        let member = enroll::found(&self.name, &self.data()).expect("founds");
        self.run(member).await;
    }

    /// Joins with a token. It does not run yet.
    pub(crate) async fn join(&self, token: &BearerToken, patience: Patience) -> Result<Member, EnrollError> {
        self.setting.wan.up(self.machine);
        enroll::join(&self.name, &self.data(), token, patience, &connect(&self.setting.wan, self.machine)).await
    }

    /// Starts what is on its disk.
    pub(crate) async fn start(&mut self) {
        let member = enroll::resume(&self.name, &self.data()).expect("reads").expect("a member");
        self.run(member).await;
    }

    fn clocks(&self) -> Clocks {
        let (noon, skew) = (self.setting.noon, self.skew.clone());
        Clocks::new(move || {
            let skew = skew.load(Ordering::Relaxed);
            let shift = Duration::from_secs(skew.unsigned_abs());
            let true_time = noon.time();
            if skew < 0 { true_time - shift } else { true_time + shift }
        })
    }

    /// What its clock shows.
    pub(crate) fn time(&self) -> UnixMillis {
        self.clocks().own()
    }

    async fn run(&mut self, mut member: Member) {
        let identity = LiveIdentity::new();
        let credentials = &member.credentials;
        identity.set_credentials(credentials.chain(), credentials.key().clone()).expect("fits");
        identity.set_trust(TrustBundle::new(member.name.federation.clone(), member.roots.clone()).expect("one root"));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let disk = if self.lies { SimulatedDisk::lying() } else { SimulatedDisk::default() };
        let options = Options {
            timing: Timing::default(),
            voting: VOTING,
            clocks: self.clocks(),
            connect: connect(&self.setting.wan, self.machine),
            disk: Disk::Simulated(disk.clone()),
            ..Options::default()
        };
        self.setting.wan.up(self.machine);
        let started = Replica::start(&mut member, identity.clone(), options, stop.clone()).await;
        let replica = started.unwrap_or_else(|error| panic!("{} does not start: {error}", self.name.cluster));
        let incoming = self.setting.wan.listen(self.machine, member.name.east_west);
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(
            incoming,
            identity,
            listeners(&replica, &tasks, &stop),
        )));
        let handle = replica.handle();
        let catalog = self.catalog.as_ref().map(watch::Sender::subscribe);
        let view = catalog.map(|catalog| self.publish(handle, member.node, catalog, &tasks, &stop));
        tasks.spawn(stop.clone().run_until_cancelled_owned(tell_status(
            self.machine,
            handle.clone(),
            self.setting.story.clone(),
        )));
        tasks.spawn(stop.clone().run_until_cancelled_owned(note_revisions(handle.clone(), self.seen.clone())));
        self.door.set(Some((handle.clone(), stop.clone())));
        self.life = Some(Life { replica, view, disk, tasks, stop });
    }

    /// Keeps what its cluster offers agreed, and its view of everything published.
    fn publish(
        &self,
        handle: &Handle,
        node: NodeId,
        catalog: watch::Receiver<Arc<LocalCatalog>>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> watch::Receiver<Arc<Snapshot>> {
        let (peers, failed) = (self.peers.subscribe(), self.failed.subscribe());
        tasks.spawn(exports::keep(handle.clone(), node, catalog.clone(), peers.clone(), stop.clone()));
        let site =
            Site { federation: federation(), cluster: self.name.cluster.clone(), locality: self.name.locality.clone() };
        let (registry, status) = (handle.registry(), handle.status());
        publish::start(
            Inputs { site: site.into(), vip_range: None, ingress: None, registry, catalog, peers, failed, status },
            stop.clone(),
        )
    }

    /// What its data planes see, where it publishes that.
    pub(crate) fn view(&self) -> Option<watch::Receiver<Arc<Snapshot>>> {
        self.life.as_ref().and_then(|life| life.view.clone())
    }

    /// Reads and writes through it, while it runs.
    pub(crate) fn handle(&self) -> Option<Handle> {
        self.life.as_ref().map(|life| life.replica.handle().clone())
    }

    /// Pulls its plug: `kept` of what was not synced is on its disk.
    pub(crate) async fn crash(&mut self, kept: usize) {
        let Some(life) = self.life.take() else { return };
        // First what others could notice: from here on it does nothing any more, whatever its tasks still try.
        self.setting.wan.down(self.machine);
        self.door.set(None);
        life.disk.crash(kept);
        life.stop.cancel();
        life.replica.stop().await;
        life.tasks.close();
        life.tasks.wait().await;
    }
}

/// Tells of a replica's part in the registry as it changes.
async fn tell_status(machine: MachineId, handle: Handle, story: Story) {
    let mut status = handle.status();
    let mut told = None;
    loop {
        let now = {
            let status = status.borrow_and_update();
            (status.role, status.term, status.leader)
        };
        if told != Some(now) {
            let (role, term, leader) = now;
            story.tell(format!("c{machine} is {role:?} in term {term}, led by {leader:?}"));
            told = Some(now);
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

async fn note_revisions(handle: Handle, seen: Arc<Mutex<Vec<u64>>>) {
    let mut registry = handle.registry();
    loop {
        let revision = registry.borrow_and_update().revision();
        seen.lock().expect("no panic").push(revision);
        if registry.changed().await.is_err() {
            return;
        }
    }
}

/// Where connections go by their SNI.
struct Listeners {
    gateways: mpsc::Sender<PeerStream<tokio::io::DuplexStream>>,
    joins: mpsc::Sender<PeerStream<tokio::io::DuplexStream>>,
}

fn listeners(replica: &Replica, tasks: &TaskTracker, stop: &CancellationToken) -> Listeners {
    Listeners {
        gateways: serve::start(replica.gateway_services(), tasks, stop.clone()),
        joins: serve::start(replica.join_services(), tasks, stop.clone()),
    }
}

async fn accept(mut incoming: mpsc::Receiver<Accepted>, identity: LiveIdentity, listeners: Listeners) {
    let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Optional, &[b"h2"]));
    let join_sni = federation().join_sni();
    while let Some(Accepted { stream, .. }) = incoming.recv().await {
        let (acceptor, identity, join_sni) = (acceptor.clone(), identity.clone(), join_sni.clone());
        let (gateways, joins) = (listeners.gateways.clone(), listeners.joins.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let joining = stream.get_ref().1.server_name() == Some(join_sni.as_str());
            let server = if joining { joins } else { gateways };
            // A server that has stopped takes none: the peer sees its connection close.
            let _ = server.send(PeerStream::new(stream, &identity, None)).await;
        });
    }
}

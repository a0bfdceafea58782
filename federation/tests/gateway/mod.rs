//! A gateway in this process with just enough around it to be reached; the benches use it too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use isthmus_federation::caller::PeerStream;
use isthmus_federation::clocks::Clocks;
use isthmus_federation::data_dir::DataDir;
use isthmus_federation::dial::Connect;
use isthmus_federation::enroll::{self, GatewayName, Member, Patience};
use isthmus_federation::{Handle, Options, RegistryStatus, Replica, Timing, Voting, serve};
use isthmus_identity::{BearerToken, ClientAuth, LiveIdentity, TrustBundle};
use isthmus_model::command::{Command, Outcome};
use isthmus_model::fixture;
use isthmus_model::registry::Registry;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(50),
    election_min: Duration::from_millis(300),
    election_max: Duration::from_millis(600),
};
/// A voter that is gone is soon replaced, where there is another.
pub(crate) const VOTING: Voting = Voting { seats: 5, replace_after: Duration::from_secs(3) };
pub(crate) const PATIENCE: Patience = Patience { attempt: Duration::from_secs(10), deadline: Duration::from_secs(2) };
/// Generous: what is waited for takes milliseconds unless the machine is very busy.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A gateway with just enough around it to be reached: its replica and a TLS listener.
pub(crate) struct Gateway {
    pub(crate) handle: Handle,
    pub(crate) replica: Replica,
    tasks: TaskTracker,
    stop: CancellationToken,
    pub(crate) address: SocketAddr,
    /// By how many seconds its clock is ahead.
    pub(crate) ahead: Arc<AtomicU64>,
    /// Whom it trusts.
    pub(crate) identity: LiveIdentity,
}

/// A place for a gateway: its directory and its listener outlive the gateway's restarts.
pub(crate) struct Place {
    pub(crate) dir: TempDir,
    pub(crate) name: GatewayName,
}

impl Place {
    /// For the gateway of a new cluster, in a region of its own.
    pub(crate) async fn new(cluster: &str) -> (Self, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let name = GatewayName {
            federation: "acme.mesh".parse().expect("valid"),
            cluster: cluster.parse().expect("valid"),
            gateway: "gw-1".parse().expect("valid"),
            locality: format!("{cluster}-region").parse().expect("valid"),
            east_west: listener.local_addr().expect("bound"),
            control: None,
        };
        (Self { dir: tempfile::tempdir().expect("a directory"), name }, listener)
    }

    pub(crate) fn data(&self) -> DataDir {
        DataDir::open(self.dir.path()).expect("opens")
    }
}

impl Gateway {
    pub(crate) async fn run(member: Member, listener: TcpListener) -> Self {
        Self::run_at(TIMING, member, listener).await
    }

    /// Runs with another timing than the tests'.
    pub(crate) async fn run_at(timing: Timing, mut member: Member, listener: TcpListener) -> Self {
        let identity = LiveIdentity::new();
        let credentials = &member.credentials;
        identity.set_credentials(credentials.chain(), credentials.key().clone()).expect("fits");
        identity.set_trust(TrustBundle::new(member.name.federation.clone(), member.roots.clone()).expect("one root"));
        let (stop, ahead) = (CancellationToken::new(), Arc::<AtomicU64>::default());
        let offset = ahead.clone();
        let clocks = Clocks::new(move || SystemTime::now() + Duration::from_secs(offset.load(Ordering::Relaxed)));
        let options = Options { timing, voting: VOTING, clocks, ..Options::default() };
        let replica =
            Replica::start(&mut member, identity.clone(), options, stop.clone()).await.expect("the replica starts");
        let tasks = TaskTracker::new();
        let gateways = serve::start(replica.gateway_services(), &tasks, stop.clone());
        let joins = serve::start(replica.join_services(), &tasks, stop.clone());
        let join_sni = member.name.federation.join_sni();
        let acceptor = TlsAcceptor::from(identity.server_config(ClientAuth::Optional, &[b"h2"]));
        let (stopped, trust) = (stop.clone(), identity.clone());
        let accepting = async move {
            loop {
                let Ok((stream, from)) = listener.accept().await else { return };
                let (acceptor, identity) = (acceptor.clone(), identity.clone());
                let (gateways, joins, join_sni) = (gateways.clone(), joins.clone(), join_sni.clone());
                // As a gateway's listener does: without it an answer may wait 40 ms for an acknowledgement.
                if stream.set_nodelay(true).is_err() {
                    continue;
                }
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let joining = stream.get_ref().1.server_name() == Some(join_sni.as_str());
                    let server = if joining { joins } else { gateways };
                    let _ = server.send(PeerStream::new(stream, &identity, Some(from.ip()))).await;
                });
            }
        };
        let address = member.name.east_west;
        tasks.spawn(async move { stopped.run_until_cancelled(accepting).await });
        Self { handle: replica.handle().clone(), replica, tasks, stop, address, ahead, identity: trust }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.replica.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) async fn sees(&self, what: &str, condition: impl FnMut(&Arc<Registry>) -> bool) {
        let mut registry = self.handle.registry();
        let seen = tokio::time::timeout(SOON, registry.wait_for(condition)).await;
        seen.unwrap_or_else(|_| panic!("{what}: not seen in time")).expect("the replica runs");
    }

    pub(crate) async fn stands(&self, what: &str, condition: impl FnMut(&RegistryStatus) -> bool) {
        let mut status = self.handle.status();
        let seen =
            tokio::time::timeout(SOON, status.wait_for(condition)).await.map(|seen| drop(seen.expect("it runs")));
        seen.unwrap_or_else(|_| panic!("{what}: not seen in time, but {:?}", *self.handle.status().borrow()));
    }

    /// Mints a join token, as the admin API does.
    pub(crate) async fn mint(&self, place: &Place, ttl: Duration) -> BearerToken {
        let root = self.handle.registry().borrow().trust().expect("founded").issuer().key;
        let token =
            BearerToken::mint(place.name.federation.clone(), place.name.cluster.clone(), vec![self.address], root);
        let now = isthmus_model::time::UnixMillis::from(std::time::SystemTime::now());
        let mint = Command::MintToken {
            id: token.id.clone(),
            secret_hash: token.secret.hash(),
            grant: fixture::join(place.name.cluster.as_str()),
            expires_at: now.saturating_add(ttl),
            gateway: place.name.gateway.clone(),
            root,
        };
        assert_eq!(self.handle.propose(mint).await.expect("takes it"), Outcome::Changed);
        token
    }
}

pub(crate) async fn founder() -> (Place, Gateway) {
    let (place, listener) = Place::new("us-east").await;
    let member = enroll::found(&place.name, &place.data()).expect("founds");
    let gateway = Gateway::run(member, listener).await;
    gateway.sees("the founding", |registry| registry.federation().is_some()).await;
    (place, gateway)
}

pub(crate) async fn joined(cluster: &str, contact: &Gateway) -> (Place, Gateway) {
    let (place, listener) = Place::new(cluster).await;
    let token = contact.mint(&place, Duration::from_secs(60)).await;
    let member = enroll::join(&place.name, &place.data(), &token, PATIENCE, &Connect::tcp()).await.expect("joins");
    (place, Gateway::run(member, listener).await)
}

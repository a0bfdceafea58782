//! The Workload API over its real socket: with the `spiffe` crate for the client, because that is not ours, and raw
//! calls for what no client sends. Behind it, an agent and a gateway without a federation.

mod bounds;
mod clients;
mod refusals;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_model::locality::{Locality, Proximity};
use isthmus_model::name::ClusterName;
use isthmus_model::snapshot::{RemoteCluster, Snapshot};
use spiffe::WorkloadApiClient;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::server::WorkloadApi;
use crate::agent::tests::gateway::{FakeGateway, Federation};
use crate::agent::{Agent, AgentConfig, AgentHandle, Introduction};
use crate::config::WorkloadApiConfig;
use crate::unix_socket::Callers;

/// More than any step takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn soon<T>(step: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, step).await.expect("in time")
}

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// What gateways know of a federation with one other member.
fn two_members(federation: &Federation) -> Snapshot {
    let mut snapshot = federation.snapshot();
    add_member(&mut snapshot, "us-west");
    snapshot
}

fn add_member(snapshot: &mut Snapshot, name: &str) {
    let (name, locality): (ClusterName, Locality) =
        (name.parse().expect("valid"), "us-west-2/b".parse().expect("valid"));
    let proximity = Proximity::OtherRegion;
    let cluster = RemoteCluster { name: name.clone(), locality, proximity, gateways: Default::default() };
    snapshot.clusters.insert(name, Arc::new(cluster));
}

/// An agent and the Workload API over it.
struct Served {
    agent: AgentHandle,
    socket: PathBuf,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    agent_shutdown: CancellationToken,
    _dir: TempDir,
}

impl Served {
    fn start(federation: &Federation, gateway: SocketAddr, callers: Callers) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (shutdown, agent_shutdown) = (CancellationToken::new(), CancellationToken::new());
        let workload_address = [127, 0, 0, 9].into();
        let introduction = Introduction::Token { token: federation.token(), gateways: vec![gateway] };
        let config = AgentConfig { introduction, trust_domain: federation.trust_domain(), workload_address };
        let agent = Agent::start(config, agent_shutdown.clone());
        let socket = dir.path().join("workload.sock");
        let config = WorkloadApiConfig { socket: socket.clone(), callers };
        let bound = WorkloadApi::bind(config, agent.clone()).expect("bound");
        let serving = tokio::spawn(bound.serve(shutdown.clone()));
        Self { agent, socket, shutdown, serving, agent_shutdown, _dir: dir }
    }

    /// With the socket for the own user and an agent that is attached to a gateway which knows `facts`.
    async fn ready(
        federation: &Federation,
        facts: watch::Receiver<Snapshot>,
        lifetime: Duration,
    ) -> (Self, FakeGateway) {
        let gateway = FakeGateway::start(federation, facts, lifetime).await;
        let served = Self::start(federation, gateway.address, Callers::Owner);
        soon(served.agent.ready()).await;
        (served, gateway)
    }

    /// As `SPIFFE_ENDPOINT_SOCKET` has it.
    fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    async fn client(&self) -> WorkloadApiClient {
        WorkloadApiClient::connect_to(self.endpoint()).await.expect("a socket")
    }

    /// A channel that adds nothing to what is sent.
    async fn channel(&self) -> Channel {
        let socket = self.socket.clone();
        let connect = tower::service_fn(move |_| {
            let socket = socket.clone();
            async { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://workload");
        endpoint.connect_with_connector(connect).await.expect("a connection")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.agent_shutdown.cancel();
    }
}

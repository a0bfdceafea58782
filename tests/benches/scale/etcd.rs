//! Three etcd servers on loopback, each with a client: what etcd's API calls them by, as much of it as is needed here.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use isthmus_tests::harness::{Process, Spawn, wait_for};
use tempfile::TempDir;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

/// `etcdserverpb.PutRequest`, api/etcdserverpb/rpc.proto.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.PutResponse`, without what it tells.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct PutResponse {}

/// Where a server answers.
#[derive(Clone)]
pub(crate) struct Client(Channel);

impl Client {
    pub(crate) async fn put(&self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Status> {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        let codec = ProstCodec::<PutRequest, PutResponse>::default();
        grpc.unary(Request::new(PutRequest { key, value }), path, codec).await?;
        Ok(())
    }
}

/// The servers; dropping them ends them.
pub(crate) struct Etcd {
    pub(crate) clients: Vec<Client>,
    _servers: Vec<Process>,
    _directory: TempDir,
}

/// What `etcd --version` says first; none when there is no etcd.
pub(crate) fn version() -> Option<String> {
    let told = Command::new("etcd").arg("--version").output().ok()?;
    String::from_utf8(told.stdout).ok()?.lines().next().map(str::to_owned)
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Etcd {
    /// Starts three, which trust each other by certificates of their own, as our replicas do.
    pub(crate) async fn start() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let ports: Vec<(u16, u16)> =
            (0..3).map(|_| Ok((free_port()?, free_port()?))).collect::<io::Result<Vec<_>>>()?;
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("n{n}=https://127.0.0.1:{peer}")).collect();
        let peers = peers.join(",");
        let mut servers = Vec::new();
        for (number, (client, peer)) in ports.iter().enumerate() {
            let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("https://127.0.0.1:{peer}"));
            let name = format!("n{number}");
            let args = ["--name", &name, "--data-dir", &format!("{name}.etcd"), "--log-level", "error"];
            let own = ["--peer-auto-tls", "--initial-cluster", &peers, "--initial-cluster-state", "new"];
            let listen = ["--listen-client-urls", &client, "--advertise-client-urls", &client];
            let listen_peer = ["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer];
            let spawn = Spawn::new(&name, Path::new("etcd")).args(args).args(own).args(listen).args(listen_peer);
            servers.push(spawn.start(directory.path())?);
        }
        let mut clients = Vec::new();
        for (client, _) in ports {
            let endpoint = Channel::from_shared(format!("http://127.0.0.1:{client}")).map_err(io::Error::other)?;
            let client = Client(endpoint.connect_lazy());
            wait_for(Duration::from_secs(30), "etcd to take a write", async || {
                client.put(b"ready".to_vec(), Vec::new()).await.ok()
            })
            .await;
            clients.push(client);
        }
        Ok(Self { clients, _servers: servers, _directory: directory })
    }
}

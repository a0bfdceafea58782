use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use clap::CommandFactory;
use isthmus_identity::BearerToken;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::admin::fixture::World;
use crate::admin::{AdminServer, BindError};
use crate::config::GatewayConfig;

/// A gateway's admin API on its real listeners.
struct Served {
    config: GatewayConfig,
    port: AdminAddress,
    stop: CancellationToken,
    task: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let world = World::new();
        let mut config = GatewayConfig::clone(&world.state.config);
        config.listen.admin.set_port(0);
        config.data_dir = directory.path().to_owned();
        // What a killed gateway leaves behind.
        drop(std::os::unix::net::UnixListener::bind(config.admin_socket()).expect("bound"));
        let server = AdminServer::bind(&config).await.expect("bound");
        let port = AdminAddress::Port(server.local_addr().to_string());
        let stop = CancellationToken::new();
        let mut state = world.state.clone();
        state.config = Arc::new(config.clone());
        let task = tokio::spawn(server.serve(state, stop.clone()));
        Self { config, port, stop, task, _directory: directory }
    }

    fn socket(&self) -> AdminClient {
        AdminClient::new(AdminAddress::Socket(self.config.admin_socket()))
    }

    async fn table<T: DeserializeOwned>(&self, path: &str, table: fn(&T) -> String) -> String {
        let answer = self.socket().get(path).await.expect("an answer");
        table(&serde_json::from_value(answer).expect("its documented type"))
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it stops by itself");
        assert!(!self.config.admin_socket().exists(), "it takes its socket away");
    }
}

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn the_socket_is_the_owners_alone_and_one_gateways_alone() {
    let served = Served::start().await;
    let mode = std::fs::metadata(served.config.admin_socket()).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(&served.config.data_dir).expect("there").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let second = AdminServer::bind(&served.config).await.expect_err("it is taken");
    assert!(matches!(second, BindError::SocketTaken(_)), "{second}");
    served.stop().await;
}

#[tokio::test]
async fn tables_read_well() {
    let served = Served::start().await;
    let status = served.table("/v1/status", status::table).await;
    let expected = format!(
        "federation  acme.mesh\n\
         cluster     us-east in us-east-1/a\n\
         gateway     gw-1, node 1, isthmus {}\n\
         registry    leader; led by us-east/gw-1, term 3; voters 1, learners 1; applied 9 of 9 entries\n\
         agreement   agreed state is 12 s old: no leader with a quorum since ",
        env!("CARGO_PKG_VERSION")
    );
    assert!(status.starts_with(&expected), "{status}");
    let ends = "clusters    2 up, 0 down\n\
                exports     1 of this cluster, 1 in the federation\n\
                addresses   0 virtual, 1 more cannot be listened on: 10.11.0.1:80: not available\n\
                problems    1 in the manifests: see `isthmus problems`\n";
    assert!(status.ends_with(ends), "{status}");

    let services = served.table("/v1/services", services::table).await;
    assert_eq!(
        services,
        "SERVICE       SCOPE       VIP        PORTS    CLUSTERS (READY/ALL)\n\
         shop/reviews  federation  10.11.0.1  80/http  us-east 1/2, us-west 3/4\n"
    );
    let endpoints = served.table("/v1/endpoints/shop/reviews", endpoints::table).await;
    let expected = "\
shop/reviews (reviews.shop.svc.clusterset.local), port 80, at 10.11.0.1

LEVEL         SHARE  CLUSTER       ADDRESS            READY  STATE      IDENTITY
same-cluster  70.0%  us-east       127.0.11.21:15006  1/1    up         spiffe://us-east.acme.mesh/ns/shop/sa/reviews
same-cluster  0.0%   us-east       127.0.11.22:15006  0/1    not ready  spiffe://us-east.acme.mesh/ns/shop/sa/reviews
other-region  30.0%  us-west/gw-1  127.0.0.1:25443    3/4    up         spiffe://us-west.acme.mesh/ns/shop/sa/reviews
";
    assert_eq!(endpoints, expected);
    let clusters = served.table("/v1/clusters", clusters::table).await;
    assert!(
        clusters.contains("us-east (administrator)  us-east-1  gw-1     1     127.0.0.1:15443  up     leader"),
        "{clusters}"
    );
    assert!(clusters.contains("us-west-1  gw-1     2     127.0.0.1:25443  up     learner"), "{clusters}");
    assert_eq!(served.table("/v1/problems", problems::table).await, "shop.yaml:3: error: broken\n");
    served.stop().await;
}

#[tokio::test]
async fn changes_go_over_the_socket_and_not_over_the_port() {
    let served = Served::start().await;
    let request = json!({ "grant": { "join": { "cluster": "eu-central" } }, "ttl_seconds": 600 });
    let created = served.socket().post("/v1/tokens", &request).await.expect("created");
    let token: BearerToken = created["token"].as_str().expect("text").parse().expect("a token");
    served.socket().delete(&format!("/v1/tokens/{}", token.id)).await.expect("revoked");

    let port = AdminClient::new(served.port.clone());
    assert_eq!(port.get("/v1/tokens").await.expect("listed")["tokens"].as_array().map(Vec::len), Some(2));
    let refused = port.post("/v1/tokens", &request).await.expect_err("read-only");
    assert_eq!(refused.exit_code(), 1);
    assert!(refused.to_string().contains("admin.sock"), "{refused}");
    served.stop().await;
}

#[test]
fn a_cause_is_told_once() {
    let cause = io::Error::other("the disk is full");
    let telling = CliError::System(io::Error::other("the disk is full")).to_string();
    let error = anyhow::Error::from(cause).context(telling.clone()).context("starting");
    assert_eq!(CliError::Run(error).to_string(), format!("starting: {telling}"));
}

#[tokio::test]
async fn a_socket_without_a_gateway_is_unreachable() {
    let client = AdminClient::new(AdminAddress::Socket(Path::new("/nowhere/admin.sock").to_owned()));
    assert_eq!(client.get("/v1/status").await.expect_err("nobody is there").exit_code(), 3);
}

//! Clusters made of real processes: files in a directory, a gateway on the fixed ports of a loopback address.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use isthmus_tests::harness::dns::{self, Answer, RecordType};
pub(crate) use isthmus_tests::harness::resident;
use isthmus_tests::harness::{Loopback, Process, Spawn, http, wait_for, wait_until};
use isthmus_tests::wan::RoutedWan;
use serde_json::Value;
use tempfile::TempDir;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_isthmus");
/// The federation's domain.
pub(crate) const DOMAIN: &str = "acme.mesh";
/// How long anything may take that is expected to happen. Only a failing test waits that long.
pub(crate) const SOON: Duration = Duration::from_secs(30);
/// Where a cluster's gateway is in its block.
const GATEWAY_HOST: u8 = 1;

/// The gateway's ports.
pub(crate) mod port {
    pub(crate) const ADMIN: u16 = 15_000;
    pub(crate) const EGRESS: u16 = 15_001;
    pub(crate) const CONTROL: u16 = 15_012;
    pub(crate) const METRICS: u16 = 15_020;
    pub(crate) const READINESS: u16 = 15_021;
    pub(crate) const DNS: u16 = 15_053;
    pub(crate) const EAST_WEST: u16 = 15_443;
}

/// A cluster. Dropping it kills its gateway and removes its files.
pub(crate) struct Cluster {
    pub(crate) name: &'static str,
    /// Its gateway's process while it runs.
    pub(crate) gateway: Option<Process>,
    block: Block,
    vips: Loopback,
    netns: Option<String>,
    directory: TempDir,
}

/// A cluster's addresses.
enum Block {
    /// This machine's own.
    Loopback(Loopback),
    /// A site's of a network of namespaces: a /24.
    Site(Ipv4Addr),
}

impl Block {
    fn ip(&self, host: u8) -> Ipv4Addr {
        match self {
            Self::Loopback(block) => block.ip(host),
            Self::Site(network) => {
                let [a, b, c, _] = network.octets();
                Ipv4Addr::new(a, b, c, host)
            }
        }
    }
}

impl Cluster {
    /// A cluster that does not run yet. `extra` goes into its gateway's configuration.
    pub(crate) fn new(name: &'static str, extra: &str) -> Self {
        Self::with_block(name, Block::Loopback(Loopback::block()), extra)
    }

    /// A cluster at a site of `wan`.
    pub(crate) fn at_site(name: &'static str, wan: &RoutedWan, site: u8, extra: &str) -> Self {
        let local_admin = format!("listen: {{admin: \"127.0.0.1:{}\"}}\n{extra}", port::ADMIN);
        Self::with_block(name, Block::Site(wan.network(site)), &local_admin).within(wan.namespace(site))
    }

    fn with_block(name: &'static str, block: Block, extra: &str) -> Self {
        let vips = Loopback::block();
        let directory = tempfile::tempdir().expect("a directory");
        let cluster = Self { name, gateway: None, block, vips, netns: None, directory };
        fs::create_dir(cluster.path("manifests")).expect("a directory");
        fs::write(cluster.path("gateway.yaml"), cluster.config(DOMAIN, name, extra)).expect("written");
        cluster
    }

    /// A further gateway of `first`'s cluster, on addresses of its own, which is given the same manifests.
    pub(crate) fn replica(first: &Self, gateway: &str) -> Self {
        let replica = Self::new(first.name, &format!("gateway: {gateway}"));
        fs::remove_dir(replica.path("manifests")).expect("empty");
        std::os::unix::fs::symlink(first.path("manifests"), replica.path("manifests")).expect("linked");
        replica
    }

    /// Everything of the cluster runs in that network namespace.
    pub(crate) fn within(mut self, netns: &str) -> Self {
        self.netns = Some(netns.to_owned());
        self
    }

    /// A configuration at this cluster's addresses. Elections are quick, because loopback is, unless `extra` says how quick.
    pub(crate) fn config(&self, federation: &str, name: &str, extra: &str) -> String {
        let quick = "raft: {heartbeat: 100ms, election_min: 500ms, election_max: 1s}\n";
        let raft = if extra.contains("raft:") { "" } else { quick };
        format!(
            "federation: {federation}\ncluster: {name}\nlocality: {name}-1/a\ndata_dir: data\nmanifests: manifests\n\
             address: {}\nvip_range: {}\n{raft}{extra}\n",
            self.block.ip(GATEWAY_HOST),
            self.vips.cidr(),
        )
    }

    /// A file or directory of the cluster.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The cluster's directory.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// One of the gateway's ports.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        (self.block.ip(GATEWAY_HOST), port).into()
    }

    /// An address for a workload.
    pub(crate) fn host(&self, host: u8) -> Ipv4Addr {
        self.block.ip(host)
    }

    /// The range of virtual addresses.
    pub(crate) fn vip_range(&self) -> String {
        self.vips.cidr()
    }

    /// Whether its addresses are out of the test's reach.
    pub(crate) fn is_apart(&self) -> bool {
        self.netns.is_some() && matches!(self.block, Block::Loopback(_))
    }

    /// Starts a process of the binary in this cluster, with as few file descriptors as a login shell or systemd
    /// gives: what needs more has to see to it.
    pub(crate) fn spawn<'a>(&self, name: &str, args: impl IntoIterator<Item = &'a str>) -> Process {
        let within = self.netns.iter().flat_map(|netns| ["ip", "netns", "exec", netns]);
        let script = ["-c", "ulimit -S -n 1024 && exec \"$@\"", "sh"];
        let spawn = Spawn::new(name, Path::new("/bin/sh")).args(script.into_iter().chain(within).chain([BINARY]));
        spawn.args(args).start(self.directory()).expect("the binary runs")
    }

    /// Starts the gateway, without waiting for it.
    pub(crate) fn start(&mut self, join: Option<&str>) {
        let join = join.into_iter().flat_map(|token| ["--join", token]);
        self.gateway = Some(self.spawn("gateway", ["gateway", "--config", "gateway.yaml"].into_iter().chain(join)));
    }

    /// The running gateway.
    pub(crate) fn process(&mut self) -> &mut Process {
        self.gateway.as_mut().expect("the gateway runs")
    }

    /// Kills the gateway as a crash would.
    pub(crate) async fn crash(&mut self) {
        self.process().kill9().await.expect("it ran");
        self.gateway = None;
    }

    /// Has the gateway, which does not run, put its registry aside.
    pub(crate) async fn discard_registry(&self) {
        let mut discard = self.spawn("discard", ["registry", "discard", "--config", "gateway.yaml"]);
        let status = discard.wait(SOON).await;
        assert!(status.success(), "{}", discard.stderr());
    }

    /// Waits until the gateway is ready.
    pub(crate) async fn ready(&self) {
        let what = format!("the gateway of {} to be ready", self.name);
        wait_until(SOON, &what, async || is_ok(self.at(port::READINESS)).await).await;
    }

    /// Runs `isthmus` against the gateway's admin socket.
    pub(crate) async fn cli<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Output {
        let admin = format!("unix:{}", self.path("data/admin.sock").display());
        let mut command = tokio::process::Command::new(BINARY);
        command.env("ISTHMUS_ADMIN", admin).args(["-o", "json"]).args(args);
        command.output().await.expect("the binary runs")
    }

    /// The JSON that a command prints.
    pub(crate) async fn ask<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Value {
        let output = self.cli(args).await;
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// `isthmus status`.
    pub(crate) async fn status(&self) -> Value {
        self.ask(["status"]).await
    }

    /// A route of the admin API; `None` while nobody answers.
    pub(crate) async fn admin(&self, route: &str) -> Option<Value> {
        http::get_unix(&self.path("data/admin.sock"), route).await.ok()?.json().ok()
    }

    /// How many entries changed the registry, as this gateway knows.
    pub(crate) async fn revision(&self) -> u64 {
        self.status().await["registry"]["revision"].as_u64().expect("a number")
    }

    /// A new token by the operator's command, whole.
    pub(crate) async fn token(&self, flag: &str, holder: &str, ttl: &str) -> Value {
        self.ask(["token", "create", flag, holder, "--ttl", ttl]).await
    }

    /// The text of a new join token.
    pub(crate) async fn join_token(&self, cluster: &str) -> String {
        text(&self.token("--cluster", cluster, "10m").await["token"])
    }

    /// Writes a manifest in one step.
    pub(crate) fn write(&self, file: &str, manifest: &str) {
        let draft = self.path("manifests").join(format!(".{file}.draft"));
        fs::write(&draft, manifest).expect("written");
        fs::rename(draft, self.path("manifests").join(file)).expect("renamed");
    }

    /// Removes a manifest.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path("manifests").join(file)).expect("it was there");
    }

    /// What the gateway's DNS says about a name.
    pub(crate) async fn dig(&self, name: &str, kind: RecordType) -> Answer {
        dns::query(self.at(port::DNS), name, kind).await.expect("an answer")
    }

    /// The virtual address of a service, once it has one.
    pub(crate) async fn vip(&self, service: &str) -> IpAddr {
        let what = format!("{service} to have an address in {}", self.name);
        let name = host(service);
        wait_for(SOON, &what, async || {
            let answer = dns::query(self.at(port::DNS), &name, RecordType::A).await.ok()?;
            answer.addresses().first().copied()
        })
        .await
    }

    /// Waits until the service has that many ready instances in `cluster`, as this gateway sees it.
    pub(crate) async fn sees(&self, service: &str, cluster: &str, ready: u64) {
        let what = format!("{} to see {ready} of {service} in {cluster}", self.name);
        wait_until(SOON, &what, async || self.instances(service, cluster).await == Some(ready)).await;
    }

    async fn instances(&self, service: &str, cluster: &str) -> Option<u64> {
        let services = self.admin("/v1/services").await?;
        let service = entry(&services["services"], "name", &format!("shop/{service}"))?;
        let backend = entry(&service["backends"], "cluster", cluster)?;
        if backend["reach"] == "down" { Some(0) } else { backend["ready"].as_u64() }
    }
}

fn entry<'a>(list: &'a Value, key: &str, value: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|entry| entry[key] == value)
}

/// A federation of clusters that all know each other. The first founds it.
pub(crate) async fn start<const N: usize>(names: [&'static str; N]) -> [Cluster; N] {
    start_with(names, "").await
}

/// The same, with more in every gateway's configuration.
pub(crate) async fn start_with<const N: usize>(names: [&'static str; N], extra: &str) -> [Cluster; N] {
    let config = |name| if name == names[0] { format!("found: true\n{extra}") } else { extra.to_owned() };
    let mut clusters = names.map(|name| Cluster::new(name, &config(name)));
    federate(&mut clusters).await;
    clusters
}

/// Makes clusters that do not run yet a federation. The first is configured to found it.
pub(crate) async fn federate(clusters: &mut [Cluster]) {
    let (founder, others) = clusters.split_first_mut().expect("a federation has a cluster");
    founder.start(None);
    founder.ready().await;
    for joiner in others {
        let token = founder.join_token(joiner.name).await;
        joiner.start(Some(&token));
    }
    for cluster in &*clusters {
        settled(cluster, clusters.len()).await;
    }
}

/// Waits until a gateway reaches that many clusters and as many of them vote as should.
pub(crate) async fn settled(cluster: &Cluster, clusters: usize) {
    // An even number of voters tolerates no more failures than one less.
    let voters = if clusters.is_multiple_of(2) { clusters - 1 } else { clusters };
    let what = format!("{} to see {clusters} clusters and {voters} voters", cluster.name);
    wait_until(SOON, &what, async || {
        let Some(status) = cluster.admin("/v1/status").await else { return false };
        status["clusters"]["up"] == clusters
            && status["registry"]["voters"].as_array().is_some_and(|list| list.len() == voters)
            && status["registry"]["stale_since"].is_null()
    })
    .await;
}

/// Whether a status port says that its process is ready.
pub(crate) async fn is_ok(address: SocketAddr) -> bool {
    http::get(address, "/readyz").await.is_ok_and(|response| response.status == 200)
}

/// The sum of a metric over all its labels that contain `label`; `None` while there is no answer.
pub(crate) async fn metric(address: SocketAddr, name: &str, label: &str) -> Option<f64> {
    let text = http::get(address, "/metrics").await.ok()?.body;
    let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    let values = samples.filter(|line| matches!(line.as_bytes().get(name.len()), Some(b' ' | b'{')));
    Some(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// The global name of a service of the shop.
pub(crate) fn host(service: &str) -> String {
    format!("{service}.shop.svc.clusterset.local")
}

/// A JSON string's text.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

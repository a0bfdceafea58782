//! `isthmus demo --check`: the scripted tour. Each step says what it saw and how long it took; the first that
//! fails ends the tour.
//!
//! Steps wait for conditions with a deadline, never for a time. The demo's own processes are killed with
//! SIGKILL, as crashes do, and started again with the same command lines and directories. Any other process
//! that ends in the meantime fails the tour too.

mod call;
mod catalog;
mod dns;
mod freeze;
mod gateway_loss;
mod load;
mod local_loss;
mod names;
mod quorum_loss;
mod region_loss;

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;

use super::admin::Admin;
use super::layout::{Cluster, Layout, Workload, authority, service, service_name};
use super::notice::print;
use super::patience::until;
use super::processes::{Fleet, Name, Role};
use super::programs::Programs;
use super::{http, start};

/// How long a change of the federation may take to show: an election and a few health intervals.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Requests of steady traffic that tell a state from a coincidence: half a second of it.
const REQUESTS_TELLING: usize = 25;

/// What a step can use.
#[derive(Clone, Copy)]
struct Tour<'a> {
    layout: &'a Layout,
    fleet: &'a Fleet,
    programs: &'a Programs,
}

/// Runs the tour.
///
/// # Errors
/// The step that failed, and why.
pub(super) async fn run(layout: &Layout, fleet: &Fleet, programs: &Programs, ready: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    let tour = Tour { layout, fleet, programs };
    print(format_args!("ready    {:>6} ms", ready.as_millis()))?;
    tour.step("join", tour.join()).await?;
    tour.step("resolve", names::resolve(tour)).await?;
    tour.step("call", tour.call()).await?;
    tour.step("tcp", tour.tcp()).await?;
    tour.step("export", catalog::export(tour)).await?;
    tour.step("broken manifest", catalog::broken(tour)).await?;
    tour.step("kill an application", local_loss::application(tour)).await?;
    tour.step("kill a sidecar", local_loss::sidecar(tour)).await?;
    tour.step("kill a gateway", gateway_loss::gateway(tour)).await?;
    tour.step("kill the leader", gateway_loss::leader(tour)).await?;
    tour.step("kill a region", region_loss::region(tour)).await?;
    tour.step("kill two gateways", quorum_loss::quorum(tour)).await?;
    tour.step("freeze a gateway", freeze::gateway(tour)).await?;
    print(format_args!("all steps passed in {:.1} s", begun.elapsed().as_secs_f64()))
}

/// Waits until a sidecar is attached to a gateway.
async fn sidecar_attached(workload: &Workload) -> anyhow::Result<()> {
    let address = workload.status();
    let what = format!("the sidecar of {} in {} to attach", workload.service.name, workload.cluster);
    until(SETTLED_WITHIN, &what, async || {
        let metrics = http::get(address, &address.to_string(), "/metrics").await?.text()?;
        ensure!(metrics.lines().any(|line| line == "isthmus_agent_attached 1"), "it is not attached");
        Ok(())
    })
    .await
}

impl Tour<'_> {
    async fn step(&self, what: &str, step: impl Future<Output = anyhow::Result<String>>) -> anyhow::Result<()> {
        let begun = Instant::now();
        let done = tokio::select! {
            done = Box::pin(step) => done,
            death = self.fleet.death() => {
                let death = death?;
                Err(anyhow::anyhow!("{death}\n{}", death.last_words()))
            }
        };
        let took = begun.elapsed().as_millis();
        match done {
            Ok(seen) => print(format_args!("ok       {took:>6} ms  {what}: {seen}")),
            Err(error) => {
                print(format_args!("FAILED   {took:>6} ms  {what}"))?;
                Err(error.context(format!("the step \"{what}\" failed")))
            }
        }
    }

    fn east(&self) -> &Cluster {
        self.layout.founder()
    }

    fn west(&self) -> &Cluster {
        self.layout.cluster("us-west")
    }

    fn eu(&self) -> &Cluster {
        self.layout.cluster("eu-central")
    }

    /// Every gateway lists the three clusters and three voters; a state that is kept may have guests besides.
    async fn join(&self) -> anyhow::Result<String> {
        start::is_complete(self.layout).await?;
        let status = Admin::of(self.east()).status().await?;
        let leader = status.registry.leader.and_then(|member| member.cluster).context("nobody leads the registry")?;
        let counts = status.clusters;
        let (clusters, voters) = (counts.up + counts.down + counts.unknown, status.registry.voters.len());
        Ok(format!("every gateway lists {clusters} clusters and {voters} voters, {leader} leads"))
    }

    /// HTTP by all three ways; the tree of calls is whole and every callee knows its caller.
    async fn call(&self) -> anyhow::Result<String> {
        let page = call::through(self.west().config.listen.egress, service("productpage")).await.context("egress")?;
        call::ensure_whole(&page)?;
        let gateway = call::text(&page, "/caller")?;
        ensure!(gateway.starts_with("spiffe://us-west.acme.mesh/"), "productpage was called by {gateway}");
        let outbound = self.east().workload("productpage").outbound();
        let reviews = call::through(outbound, service("reviews")).await.context("outbound")?;
        call::ensure_whole(&reviews)?;
        let caller = call::text(&reviews, "/caller")?;
        ensure!(caller == "spiffe://us-east.acme.mesh/ns/shop/sa/productpage", "reviews was called by {caller}");
        ensure!(call::text(&reviews, "/cluster")? == "us-east", "a local instance comes first");
        let details = service("details");
        let vip = dns::address(self.eu().config.listen.dns, &service_name(details.name).host()).await?;
        let answer = call::directly((vip, details.port).into(), details).await.context("virtual address")?;
        ensure!(call::text(&answer, "/cluster")? == "us-east", "details runs in us-east only: {answer}");
        Ok(format!("egress of us-west, sidecar in us-east as {caller}, {vip} in eu-central"))
    }

    /// Plain TCP by CONNECT and by virtual address.
    async fn tcp(&self) -> anyhow::Result<String> {
        let greeter = service("greeter");
        let outbound = self.east().workload("productpage").outbound();
        let connected = until(SETTLED_WITHIN, "a greeting by CONNECT", async || {
            call::greet(http::connect(outbound, &authority(greeter)).await?).await
        });
        let connected = connected.await?;
        let vip = dns::address(self.east().config.listen.dns, &service_name(greeter.name).host()).await?;
        let direct = until(SETTLED_WITHIN, "a greeting at the virtual address", async || {
            call::greet(tokio::net::TcpStream::connect((vip, greeter.port)).await?).await
        });
        let direct = direct.await?;
        for greeting in [&connected, &direct] {
            ensure!(greeting.starts_with("hello from ") && greeting.ends_with("/greeter"), "greeted with {greeting:?}");
        }
        Ok(format!("\"{connected}\" by CONNECT, \"{direct}\" at {vip}"))
    }

    /// Kills a cluster's gateway.
    async fn kill_gateway(&self, cluster: &Cluster) -> anyhow::Result<()> {
        self.fleet.kill(Name { cluster: cluster.name, role: Role::Gateway }).await
    }

    /// Starts a cluster's gateway again with its directory, and waits until it is ready.
    async fn restart_gateway(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let (name, program) = self.programs.gateway(cluster);
        self.fleet.start(name, &program)?;
        start::gateway_ready(cluster).await
    }

    async fn kill_app(&self, workload: &Workload) -> anyhow::Result<()> {
        self.fleet.kill(Name { cluster: workload.cluster, role: Role::App(workload.service.name) }).await
    }

    fn restart_app(&self, cluster: &Cluster, workload: &Workload) -> anyhow::Result<()> {
        let (name, program) = self.programs.app(cluster, workload);
        self.fleet.start(name, &program)
    }

    async fn kill_sidecar(&self, workload: &Workload) -> anyhow::Result<()> {
        self.fleet.kill(Name { cluster: workload.cluster, role: Role::Sidecar(workload.service.name) }).await
    }

    fn restart_sidecar(&self, cluster: &Cluster, workload: &Workload) -> anyhow::Result<()> {
        let (name, program) = self.programs.sidecar(cluster, workload);
        self.fleet.start(name, &program)
    }

    /// Waits until the whole federation is as it was at the start.
    async fn whole_again(&self) -> anyhow::Result<()> {
        until(SETTLED_WITHIN, "the clusters to know all of each other again", async || {
            start::is_complete(self.layout).await
        })
        .await?;
        // One that is between two attempts cannot ask for a service that it did not use before.
        try_join_all(self.layout.clusters.iter().flat_map(|cluster| &cluster.workloads).map(sidecar_attached)).await?;
        Ok(())
    }

    /// Waits until new traffic of `load` comes from `cluster` too.
    async fn traffic_from(&self, load: &load::Load, cluster: &str) -> anyhow::Result<()> {
        let since = tokio::time::Instant::now();
        until(SETTLED_WITHIN, &format!("traffic of {cluster}"), async || load.since(since).ensure_from(cluster, 1))
            .await
    }

    /// Waits until half a second of new traffic of `load` comes from others than `cluster`.
    async fn traffic_without(&self, load: &load::Load, cluster: &str) -> anyhow::Result<()> {
        until(SETTLED_WITHIN, &format!("traffic without {cluster}"), async || {
            load.latest(REQUESTS_TELLING).ensure_without(cluster, REQUESTS_TELLING)
        })
        .await
    }
}

/// That a step's traffic came through unharmed.
async fn unharmed(load: load::Load) -> anyhow::Result<load::Report> {
    let report = load.finish().await?;
    if report.answered() < REQUESTS_TELLING {
        bail!("too little traffic to tell: {report}");
    }
    Ok(report)
}

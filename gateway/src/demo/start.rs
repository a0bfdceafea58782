//! From files to a federation that is ready.
//!
//! Everything that does not need something else starts at once: applications and the founder first, then the
//! other gateways with a join token each, then the sidecars with a token of their own cluster's gateway.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures_util::future::{try_join, try_join_all};
use isthmus_identity::BearerToken;
use isthmus_model::health::Reach;
use isthmus_model::name::ClusterName;
use isthmus_model::time::UnixMillis;

use super::admin::{Admin, offering, workload_name};
use super::layout::{Cluster, Layout, SERVICES, Workload};
use super::patience::until;
use super::processes::Fleet;
use super::programs::Programs;
use super::{files, http};
use crate::admin::api::{Clusters, Grant, Seat, TokenState, Tokens};

/// How long one part may take to get ready, on a machine that is busy with other things. Usually the whole
/// demo is ready within five seconds.
pub(super) const READY_WITHIN: Duration = Duration::from_secs(60);
/// A token that ends sooner than this is replaced.
const TOKEN_LIFE_MIN: Duration = Duration::from_secs(24 * 3600);

/// Starts everything, and returns when it is ready.
///
/// # Errors
/// What did not get ready.
pub(super) async fn start(layout: &Layout, fleet: &Fleet, programs: &Programs) -> anyhow::Result<()> {
    for cluster in &layout.clusters {
        for workload in &cluster.workloads {
            let (name, program) = programs.app(cluster, workload);
            fleet.start(name, &program)?;
        }
    }
    let (members, newcomers) = split(layout)?;
    for cluster in &members {
        let (name, program) = programs.gateway(cluster);
        fleet.start(name, &program)?;
    }
    let settled = try_join_all(members.into_iter().map(|cluster| start_sidecars(cluster, fleet, programs)));
    let joined = try_join_all(newcomers.into_iter().map(async |cluster| {
        join(layout, cluster, fleet, programs).await?;
        start_sidecars(cluster, fleet, programs).await
    }));
    try_join(settled, joined).await?;
    until(READY_WITHIN, "the clusters to know all of each other", async || is_complete(layout).await).await
}

/// Gateways that start by themselves, and those that have to join first.
fn split(layout: &Layout) -> anyhow::Result<(Vec<&Cluster>, Vec<&Cluster>)> {
    let (members, newcomers): (Vec<_>, Vec<_>) =
        layout.clusters.iter().partition(|cluster| cluster.is_member() || cluster.config.found);
    let founder = layout.founder();
    if members.len() > 1 && !founder.is_member() {
        bail!(
            "{} is not that of a member while others are: the federation's founder was removed; remove {} to start afresh",
            founder.config.data_dir.display(),
            layout.dir.display(),
        );
    }
    Ok((members, newcomers))
}

async fn join(layout: &Layout, cluster: &Cluster, fleet: &Fleet, programs: &Programs) -> anyhow::Result<()> {
    let founder = layout.founder();
    gateway_ready(founder).await?;
    let token = Admin::of(founder).mint_join(cluster).await;
    let token = token.with_context(|| format!("no join token for {}", cluster.name))?;
    let token_file = cluster.dir.join("join.token");
    files::write_secret(&token_file, &token)?;
    let (name, program) = programs.joining_gateway(cluster, &token_file);
    fleet.start(name, &program)
}

/// Waits until a gateway says that it is ready.
pub(super) async fn gateway_ready(cluster: &Cluster) -> anyhow::Result<()> {
    let address = cluster.config.listen.readiness;
    let look = async || http::get(address, &address.to_string(), "/readyz").await?.success();
    until(READY_WITHIN, &format!("the gateway of {}", cluster.name), look).await
}

/// Gives each workload of a cluster its token and starts its sidecar.
async fn start_sidecars(cluster: &Cluster, fleet: &Fleet, programs: &Programs) -> anyhow::Result<()> {
    gateway_ready(cluster).await?;
    let admin = Admin::of(cluster);
    let known = admin.tokens().await?;
    try_join_all(cluster.workloads.iter().map(async |workload| {
        if !has_token(workload, &known) {
            let token = admin.mint_workload(workload).await;
            let token = token.with_context(|| format!("no token for {} in {}", workload.service.name, cluster.name))?;
            files::write_secret(&workload.token_file, &token)?;
        }
        let (name, program) = programs.sidecar(cluster, workload);
        fleet.start(name, &program)?;
        sidecar_ready(workload).await
    }))
    .await?;
    Ok(())
}

/// Waits until a sidecar has its identity and its first view.
pub(super) async fn sidecar_ready(workload: &Workload) -> anyhow::Result<()> {
    let address = workload.status();
    let look = async || http::get(address, &address.to_string(), "/readyz").await?.success();
    let what = format!("the sidecar of {} in {}", workload.service.name, workload.cluster);
    until(READY_WITHIN, &what, look).await
}

/// Whether a token from an earlier start still works, and will for a while.
fn has_token(workload: &Workload, known: &Tokens) -> bool {
    let text = std::fs::read_to_string(&workload.token_file).unwrap_or_default();
    let Ok(token) = text.parse::<BearerToken>() else { return false };
    let grant = Grant::Workload { workload: workload_name(workload) };
    let until = UnixMillis::from(std::time::SystemTime::now()).saturating_add(TOKEN_LIFE_MIN);
    let works = |record: &&crate::admin::api::Token| record.state == TokenState::Open && record.expires_at > until;
    known.tokens.iter().filter(works).any(|record| record.id == token.id && record.grant == grant)
}

/// Whether every gateway of the demo has its place in the registry, reaches every other, and knows every export
/// with its instances.
///
/// # Errors
/// The first thing that is still missing.
pub(super) async fn is_complete(layout: &Layout) -> anyhow::Result<()> {
    let names: Vec<&ClusterName> = layout.clusters.iter().map(|cluster| &cluster.config.cluster).collect();
    try_join_all(layout.clusters.iter().map(async |cluster| {
        let admin = Admin::of(cluster);
        let (status, clusters, services) = (admin.status().await?, admin.clusters().await?, admin.services().await?);
        let voters = status.registry.voters.len();
        ensure!(voters >= names.len(), "{} sees {voters} voters", cluster.name);
        ensure!(status.registry.stale_since.is_none(), "{} sees no quorum", cluster.name);
        knows_all(&names, &cluster.config.cluster, &clusters)?;
        for service in &SERVICES {
            let missing = missing(layout, &offering(&services, service.name), service.name);
            ensure!(missing.is_none(), "{} does not know {} of {missing:?} yet", cluster.name, service.name);
        }
        Ok(())
    }))
    .await?;
    Ok(())
}

/// Whether `viewer` lists each of `names` as a replica, and reaches it. Others may have joined since, and need not
/// run: they are no part of the demo.
fn knows_all(names: &[&ClusterName], viewer: &ClusterName, listed: &Clusters) -> anyhow::Result<()> {
    for name in names {
        let found = listed.clusters.iter().find(|cluster| cluster.name == **name);
        let found = found.with_context(|| format!("{viewer} does not know {name} yet"))?;
        let replicates = found.gateways.iter().any(|gateway| gateway.seat != Seat::Absent);
        ensure!(replicates, "{name} is no replica yet, as {viewer} sees it");
        ensure!(*name == viewer || found.reach == Reach::Up, "{viewer} does not reach {name} yet");
    }
    Ok(())
}

/// A cluster that has `service` and is not in `offering`.
fn missing<'a>(layout: &'a Layout, offering: &[ClusterName], service: &str) -> Option<&'a str> {
    layout
        .homes(service)
        .map(|home| &home.config.cluster)
        .find(|home| !offering.contains(home))
        .map(|home| home.as_str())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use isthmus_model::locality::Proximity;

    use super::*;
    use crate::admin::api;

    fn cluster(name: &str, reach: Reach, seat: Seat) -> api::Cluster {
        let gateway = api::Gateway {
            node: 1,
            name: "gw-1".parse().expect("valid"),
            east_west: (Ipv4Addr::LOCALHOST, 15_443).into(),
            reach,
            seat,
            heard_at: None,
            heard_ago_ms: None,
        };
        api::Cluster {
            name: name.parse().expect("valid"),
            locality: "us-east-1/a".parse().expect("valid"),
            proximity: Proximity::OtherRegion,
            reach,
            administrator: false,
            draining_since: None,
            exports: 0,
            gateways: vec![gateway],
        }
    }

    #[test]
    fn a_state_that_a_fourth_cluster_joined_starts_again_without_it() {
        let names: [ClusterName; 2] = ["us-east", "us-west"].map(|name| name.parse().expect("valid"));
        let whole =
            |clusters| knows_all(&names.each_ref(), &names[0], &Clusters { clusters, departed: Vec::new() }).is_ok();
        let east = || cluster("us-east", Reach::Up, Seat::Leader);
        let guest = || cluster("ap-south", Reach::Down, Seat::Learner);
        assert!(whole(vec![guest(), east(), cluster("us-west", Reach::Up, Seat::Voter)]));
        assert!(!whole(vec![guest(), east()]), "one of the demo's own is not known");
        assert!(!whole(vec![east(), cluster("us-west", Reach::Up, Seat::Absent)]));
        assert!(!whole(vec![east(), cluster("us-west", Reach::Down, Seat::Voter)]));
    }
}

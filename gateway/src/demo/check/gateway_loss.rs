//! A remote gateway dies: calls, names and writes to the registry go on, and it comes back by itself.

use std::time::Instant;

use anyhow::{Context, bail, ensure};

use super::load::Load;
use super::{SETTLED_WITHIN, Tour, dns, unharmed};
use crate::demo::admin::Admin;
use crate::demo::layout::{service, service_name};
use crate::demo::patience::until;

/// Kills and restarts the gateway of us-west.
pub(super) async fn gateway(tour: Tour<'_>) -> anyhow::Result<String> {
    let (east, west, eu) = (tour.east(), tour.west(), tour.eu());
    let load = Load::start(east.workload("productpage").outbound(), service("ratings"));
    tour.traffic_from(&load, west.name).await?;
    tour.kill_gateway(west).await?;
    tour.traffic_without(&load, west.name).await?;
    for cluster in [east, eu] {
        dns::address(cluster.config.listen.dns, &service_name("details").host()).await?;
    }
    let admin = Admin::of(eu);
    until(SETTLED_WITHIN, "a write to the registry", async || admin.mint_workload(eu.workload("ratings")).await)
        .await?;
    tour.restart_gateway(west).await?;
    tour.whole_again().await?;
    tour.traffic_from(&load, west.name).await?;
    Ok(format!("{}; the registry took a write meanwhile", unharmed(load).await?))
}

/// Kills and restarts whichever gateway leads the registry; the others elect another.
pub(super) async fn leader(tour: Tour<'_>) -> anyhow::Result<String> {
    let leader = Admin::of(tour.east()).status().await?.registry.leader.and_then(|member| member.cluster);
    let leader = leader.context("nobody leads the registry")?;
    let (old, rest): (Vec<_>, Vec<_>) = tour.layout.clusters.iter().partition(|c| c.config.cluster == leader);
    let (&[old], &[witness, _]) = (&old[..], &rest[..]) else { bail!("{leader} is not a cluster of the demo") };
    let killed = Instant::now();
    tour.kill_gateway(old).await?;
    let admin = Admin::of(witness);
    let reviews = witness.workload("reviews");
    until(SETTLED_WITHIN, "a write to the registry", async || admin.mint_workload(reviews).await).await?;
    let wrote = killed.elapsed().as_millis();
    // What a gateway shows follows what it took part in.
    let new = until(SETTLED_WITHIN, "the new leader's name", async || {
        let shown = admin.status().await?.registry.leader.and_then(|member| member.cluster);
        let shown = shown.context("no leader is known")?;
        ensure!(shown != leader, "{leader} is dead and still said to lead");
        Ok(shown)
    })
    .await?;
    tour.restart_gateway(old).await?;
    tour.whole_again().await?;
    Ok(format!("{leader} led, then {new}; the first write went through after {wrote} ms"))
}

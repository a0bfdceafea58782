//! Two of three gateways die: no quorum, and what is left goes on with what was agreed.

use anyhow::{Context, ensure};

use super::load::Load;
use super::{SETTLED_WITHIN, Tour, call, dns, unharmed};
use crate::demo::admin::Admin;
use crate::demo::layout::{service, service_name};
use crate::demo::patience::until;

/// Kills and restarts the gateways of us-west and eu-central.
pub(super) async fn quorum(tour: Tour<'_>) -> anyhow::Result<String> {
    let (east, west, eu) = (tour.east(), tour.west(), tour.eu());
    // Within each cluster traffic needs no gateway, with its own gateway alive or dead.
    let alive = Load::start(east.workload("productpage").outbound(), service("details"));
    let orphaned = Load::start(west.workload("productpage").outbound(), service("reviews"));
    tour.traffic_from(&orphaned, west.name).await?;
    tour.kill_gateway(west).await?;
    tour.kill_gateway(eu).await?;
    let admin = Admin::of(east);
    let stale = until(SETTLED_WITHIN, "us-east to tell that there is no quorum", async || {
        admin.status().await?.registry.stale_for_ms.context("us-east sees a quorum")
    })
    .await?;
    for name in ["reviews", "ratings", "greeter"] {
        dns::address(east.config.listen.dns, &service_name(name).host()).await?;
    }
    let reviews = call::through(east.config.listen.egress, service("reviews")).await?;
    ensure!(call::text(&reviews, "/cluster")? == east.name, "reviews of us-east is alive: {reviews}");
    tour.traffic_from(&alive, east.name).await?;
    tour.traffic_from(&orphaned, west.name).await?;
    tokio::try_join!(tour.restart_gateway(west), tour.restart_gateway(eu))?;
    tour.whole_again().await?;
    let (alive, orphaned) = (unharmed(alive).await?, unharmed(orphaned).await?);
    Ok(format!("state shown as {stale} ms old; in us-east {alive}; in us-west {orphaned}; then fresh again"))
}

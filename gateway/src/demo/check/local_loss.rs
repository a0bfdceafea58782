//! Part of a workload dies: its calls go to another cluster, and come back with it.

use super::load::Load;
use super::{Tour, unharmed};
use crate::demo::layout::service;

/// Kills and restarts the application of reviews in us-east.
pub(super) async fn application(tour: Tour<'_>) -> anyhow::Result<String> {
    let east = tour.east();
    let reviews = east.workload("reviews");
    let load = Load::start(east.workload("productpage").outbound(), service("reviews"));
    tour.traffic_from(&load, east.name).await?;
    tour.kill_app(reviews).await?;
    tour.traffic_without(&load, east.name).await?;
    tour.restart_app(east, reviews)?;
    tour.traffic_from(&load, east.name).await?;
    Ok(unharmed(load).await?.to_string())
}

/// Kills and restarts the sidecar of reviews in us-east.
pub(super) async fn sidecar(tour: Tour<'_>) -> anyhow::Result<String> {
    let east = tour.east();
    let reviews = east.workload("reviews");
    let load = Load::start(east.workload("productpage").outbound(), service("reviews"));
    tour.traffic_from(&load, east.name).await?;
    tour.kill_sidecar(reviews).await?;
    tour.traffic_without(&load, east.name).await?;
    tour.restart_sidecar(east, reviews)?;
    tour.traffic_from(&load, east.name).await?;
    Ok(unharmed(load).await?.to_string())
}

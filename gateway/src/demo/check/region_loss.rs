//! A whole region dies: every process in it at once.

use anyhow::Context;
use futures_util::future::try_join_all;

use super::load::Load;
use super::{Tour, unharmed};
use crate::demo::layout::service;
use crate::demo::processes::{Name, Role};
use crate::demo::start::sidecar_ready;

/// Kills and restarts everything in eu-central.
pub(super) async fn region(tour: Tour<'_>) -> anyhow::Result<String> {
    let (east, eu) = (tour.east(), tour.eu());
    let load = Load::start(east.workload("productpage").outbound(), service("ratings"));
    tour.traffic_from(&load, eu.name).await?;
    let roles = eu.workloads.iter().flat_map(|w| [Role::App(w.service.name), Role::Sidecar(w.service.name)]);
    let names = roles.chain([Role::Gateway]).map(|role| Name { cluster: eu.name, role });
    try_join_all(names.map(|name| tour.fleet.kill(name))).await?;
    tour.traffic_without(&load, eu.name).await?;
    let during = load.report();
    during.ensure_no_failure().context("while the region died")?;
    for workload in &eu.workloads {
        tour.restart_app(eu, workload)?;
        tour.restart_sidecar(eu, workload)?;
    }
    tour.restart_gateway(eu).await?;
    try_join_all(eu.workloads.iter().map(sidecar_ready)).await?;
    tour.whole_again().await?;
    tour.traffic_from(&load, eu.name).await?;
    Ok(format!("{}; slowest during the loss {} ms", unharmed(load).await?, during.slowest().as_millis()))
}

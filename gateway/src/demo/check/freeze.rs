//! A gateway freezes: its sockets stay open and nobody answers, which is worse than a crash.

use std::time::Duration;

use anyhow::ensure;
use isthmus_model::health::Reach;
use rustix::process::Signal;
use tokio::time::Instant;

use super::load::Load;
use super::{REQUESTS_TELLING, Tour, unharmed};
use crate::demo::admin::Admin;
use crate::demo::layout::service;
use crate::demo::patience::until;
use crate::demo::processes::{Name, Role};

/// A frozen gateway counts as dead within this.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);
/// What a request takes when it waits for nobody frozen, on a machine that is busy.
const PROMPT: Duration = Duration::from_millis(500);

/// Freezes and thaws the gateway of eu-central.
pub(super) async fn gateway(tour: Tour<'_>) -> anyhow::Result<String> {
    let (east, eu) = (tour.east(), tour.eu());
    let name = Name { cluster: eu.name, role: Role::Gateway };
    let load = Load::start(east.workload("productpage").outbound(), service("ratings"));
    tour.traffic_from(&load, eu.name).await?;
    let frozen = Instant::now();
    tour.fleet.signal(name, Signal::STOP);
    // Recovered from the first of those requests on; they themselves take half a second to come in.
    let recovered = until(NOTICED_WITHIN + PROMPT * 2, "prompt answers without eu-central", async || {
        let latest = load.latest(REQUESTS_TELLING);
        latest.ensure_without(eu.name, REQUESTS_TELLING)?;
        ensure!(latest.first_sent() > Some(frozen) && latest.slowest() < PROMPT, "not yet: {latest}");
        Ok(latest.first_sent().map_or(Duration::ZERO, |sent| sent - frozen))
    })
    .await?;
    let admin = Admin::of(east);
    until(NOTICED_WITHIN, "us-east to count eu-central as down", async || {
        let clusters = admin.clusters().await?.clusters;
        let down = clusters.iter().any(|cluster| cluster.name == eu.config.cluster && cluster.reach == Reach::Down);
        ensure!(down, "it does not yet");
        Ok(())
    })
    .await?;
    let noticed = frozen.elapsed();
    ensure!(noticed <= NOTICED_WITHIN, "us-east counted eu-central as down only after {noticed:?}");
    tour.fleet.signal(name, Signal::CONT);
    tour.whole_again().await?;
    tour.traffic_from(&load, eu.name).await?;
    let report = unharmed(load).await?;
    let (recovered, noticed) = (recovered.as_millis(), noticed.as_millis());
    Ok(format!("prompt answers {recovered} ms after it froze, counted as down after {noticed} ms; {report}"))
}

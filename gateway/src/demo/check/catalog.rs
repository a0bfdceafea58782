//! Manifests come, go and break while everything runs.

use std::time::Instant;

use anyhow::{Context, ensure};

use super::{SETTLED_WITHIN, Tour, call, dns};
use crate::demo::admin::Admin;
use crate::demo::files::{manifest_file, manifests, write_public};
use crate::demo::layout::{service, service_name};
use crate::demo::patience::until;

/// The service that the tour adds: the one of reviews under another name.
const ADDED: &str = "offers";

/// A file is dropped into one cluster's directory, and another cluster resolves its name; and the other way.
pub(super) async fn export(tour: Tour<'_>) -> anyhow::Result<String> {
    let (east, eu) = (tour.east(), tour.eu());
    let host = service_name("reviews").host().replacen("reviews", ADDED, 1);
    let server = eu.config.listen.dns;
    dns::absent(server, &host).await?;
    let reviews = manifests(east.workload("reviews"));
    // The workload behind it stays who it is.
    let added = reviews.replace("name: reviews", &format!("name: {ADDED}"));
    let file = manifest_file(east, ADDED);
    let dropped = Instant::now();
    write_public(&file, &added)?;
    until(SETTLED_WITHIN, "the new name in eu-central", async || dns::address(server, &host).await).await?;
    let seen = dropped.elapsed();
    let deleted = Instant::now();
    std::fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
    until(SETTLED_WITHIN, "the name to go from eu-central", async || dns::absent(server, &host).await).await?;
    let gone = deleted.elapsed();
    Ok(format!("in another cluster's DNS after {} ms, gone after {} ms", seen.as_millis(), gone.as_millis()))
}

/// A file breaks: it is reported with its line, and what it said before stays true.
pub(super) async fn broken(tour: Tour<'_>) -> anyhow::Result<String> {
    let east = tour.east();
    let (admin, file) = (Admin::of(east), manifest_file(east, "reviews"));
    let good = manifests(east.workload("reviews"));
    write_public(&file, &good.replacen("port: 9080", "port: [9080", 1))?;
    let reported = until(SETTLED_WITHIN, "the broken manifest to be reported", async || {
        let problems = admin.problems().await?.problems;
        let ours = problems.into_iter().find(|problem| problem.file.as_deref() == Some("reviews.yaml"));
        let ours = ours.context("no problem is reported of reviews.yaml")?;
        ours.line.map(|line| format!("reviews.yaml:{line}")).context("the problem has no line")
    })
    .await?;
    let reviews = service("reviews");
    for cluster in &tour.layout.clusters {
        dns::address(cluster.config.listen.dns, &service_name(reviews.name).host()).await?;
    }
    let cluster = call::cluster(east.workload("productpage").outbound(), reviews).await?;
    ensure!(cluster == "us-east", "the last good state is not in force: {cluster} answers");
    write_public(&file, &good)?;
    until(SETTLED_WITHIN, "the report to go", async || {
        let problems = admin.problems().await?.problems;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })
    .await?;
    Ok(format!("reported at {reported}, the last good state stayed"))
}

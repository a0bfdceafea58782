//! The drill of docs/backup.md for when most voters are lost and there is no backup: one that is left goes on alone.

use std::fs;

use isthmus_tests::harness::wait_until;
use serde_json::Value;

use crate::federation::{Cluster, SOON, settled, start, text};
use crate::workload::{Mesh, Offer, manifests};

/// Runs `isthmus registry recover`; its output is kept under `name`.
async fn recover(cluster: &Cluster, name: &str, flags: &[&str]) -> (Option<i32>, String, Value) {
    let args = ["-o", "json", "registry", "recover", "--config", "gateway.yaml"];
    let mut recover = cluster.spawn(name, args.into_iter().chain(flags.iter().copied()));
    let status = recover.wait(SOON).await;
    (status.code(), recover.stderr(), serde_json::from_str(&recover.stdout()).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_that_lost_most_voters_goes_on_from_the_one_that_is_left() {
    let [mut east, mut west, mut eu] = start(["us-east", "us-west", "eu-central"]).await;
    west.write("reviews.yaml", &manifests("reviews", &[west.host(20)], Mesh::None, Offer::Exported));
    eu.sees("reviews", "us-west", 0).await;
    let known = west.revision().await;

    // us-east's disk is gone, eu-central's registry too. What is left of a quorum is us-west.
    east.crash().await;
    eu.crash().await;
    fs::remove_dir_all(east.path("data")).expect("there");
    fs::remove_file(eu.path("data/registry.redb")).expect("there");
    let (code, why, _) = recover(&west, "early", &["--force"]).await;
    assert_eq!(code, Some(1));
    assert!(why.contains("another gateway uses this data directory. The gateway must not run"), "{why}");
    west.process().terminate().expect("it runs");
    assert!(west.process().wait(SOON).await.success());

    // It tells what it would do, and does it when told to.
    let (code, why, told) = recover(&west, "plan", &[]).await;
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("nothing was done"), "{why}");
    assert_eq!(told["voters"].as_array().map(Vec::len), Some(3), "{told}");
    assert!(told["revision"].as_u64() >= Some(known), "{told}");
    let (code, why, told) = recover(&west, "recover", &["--force"]).await;
    assert_eq!(code, Some(0), "{why}");
    let mut others: Vec<String> = told["others"].as_array().expect("a list").iter().map(text).collect();
    others.sort_unstable();
    assert_eq!(others, ["eu-central/gw-1", "us-east/gw-1"]);

    // It leads alone, and takes writes.
    west.start(None);
    west.ready().await;
    let token = west.join_token("us-east").await;
    assert!(west.revision().await > known);
    let ca = west.ask(["ca", "status"]).await;
    assert_eq!(ca["roots"][0]["keepers"].as_array().map(Vec::len), Some(1), "{ca}");

    // One that has its identity comes back with it; one that lost all joins anew.
    eu.discard_registry().await;
    eu.start(None);
    eu.ready().await;
    east.start(Some(&token));
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
    }
    east.vip("reviews").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_forgot_its_registry_takes_no_part_in_it_again() {
    let [east, west, mut eu] = start(["us-east", "us-west", "eu-central"]).await;
    eu.crash().await;
    // A copy of another gateway's disk is no registry of its own.
    let own = eu.path("data/registry.redb");
    fs::rename(&own, eu.path("own.redb")).expect("there");
    fs::copy(west.path("data/registry.redb"), &own).expect("copied");
    eu.start(None);
    assert!(!eu.process().wait(SOON).await.success());
    assert!(eu.process().stderr().contains("is not the one that this gateway had"), "{}", eu.process().stderr());
    fs::remove_file(&own).expect("there");

    // Nothing was restored: what it had acknowledged might be lost with its vote.
    eu.discard_registry().await;
    eu.start(None);
    wait_until(SOON, "it to be told", async || eu.process().stderr().contains("join again with a new token")).await;
    east.join_token("ap-south").await;
    let registry = east.ask(["registry", "status"]).await;
    let lags = |replica: &&Value| replica["member"]["cluster"] == "eu-central" && replica["lag_entries"] != 0;
    assert!(registry["replicas"].as_array().expect("a list").iter().any(|replica| lags(&replica)), "{registry}");

    // So it comes back as another replica.
    eu.crash().await;
    fs::remove_dir_all(eu.path("data")).expect("there");
    let token = east.join_token("eu-central").await;
    eu.start(Some(&token));
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
    }
}

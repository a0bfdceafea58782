//! What dies, while requests are sent: the caller notices nothing, and what comes back is used again.

use std::time::Duration;

use crate::federation::{settled, start};
use crate::load::{Load, Report};
use crate::workload::{Client, Workload, answers_from};

/// Requests per second; more than the hundred that is promised, so that the promise is kept when a
/// machine is slow.
const RATE: u32 = 130;
/// What a frozen gateway may cost the requests that are with it.
const FROZEN_COST_MAX: Duration = Duration::from_secs(3);
/// Requests in a row that show where traffic goes.
const SOME: usize = 60;

fn nothing_failed(report: &Report, what: &str) {
    println!("{what}: {:.0} requests/s, the slowest took {:?}", report.rate, report.slowest);
    assert!(report.failed.is_empty(), "{what}: {:#?}", report.failed);
    assert!(report.rate >= 100.0, "{what}: {report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_elsewhere_when_the_own_instance_dies_and_return_with_it() {
    let [east, west] = start(["us-east", "us-west"]).await;
    let mut reviews = Workload::exported(&east, "reviews", 20).await;
    let _far = Workload::exported(&west, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    east.sees("reviews", "us-west", 1).await;
    answers_from(client.outbound(), "reviews", "us-east").await;
    let load = Load::start(client.outbound(), "reviews", RATE);
    load.reaches("us-east").await;

    // The application dies; its sidecar is left and has to say so.
    reviews.app.kill9().await.expect("it ran");
    load.leaves("us-east", SOME).await;
    reviews.revive_app(&east).await;
    load.reaches("us-east").await;
    east.sees("reviews", "us-east", 1).await;

    // The sidecar dies; nothing is left to say anything.
    reviews.crash_sidecar().await;
    load.leaves("us-east", SOME).await;
    reviews.revive_sidecar(&east).await;
    load.reaches("us-east").await;
    nothing_failed(&load.stop().await, "own instance killed");
}

/// The service is in two other regions; the client's own cluster has none of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_remote_gateway_may_be_killed_or_frozen_and_a_whole_region_with_it() {
    let [east, mut west, mut eu] = start(["us-east", "us-west", "eu-central"]).await;
    let mut in_west = Workload::exported(&west, "details", 20).await;
    let _in_eu = Workload::exported(&eu, "details", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    east.sees("details", "us-west", 1).await;
    east.sees("details", "eu-central", 1).await;
    for cluster in ["us-west", "eu-central"] {
        answers_from(client.outbound(), "details", cluster).await;
    }

    // Killed: its sessions are reset.
    let load = Load::start(client.outbound(), "details", RATE);
    load.reaches("us-west").await;
    west.crash().await;
    load.leaves("us-west", SOME).await;
    west.start(None);
    load.reaches("us-west").await;
    nothing_failed(&load.stop().await, "remote gateway killed");

    // Frozen: its sockets stay open and nobody answers.
    let load = Load::start(client.outbound(), "details", RATE);
    load.reaches("eu-central").await;
    eu.process().pause().expect("it runs");
    load.leaves("eu-central", SOME).await;
    eu.process().resume().expect("it is stopped");
    load.reaches("eu-central").await;
    let report = load.stop().await;
    assert!(report.slowest < FROZEN_COST_MAX, "{report:?}");
    nothing_failed(&report, "remote gateway frozen");

    // A region: gateway, sidecar and application at once.
    settled(&east, 3).await;
    let load = Load::start(client.outbound(), "details", RATE);
    load.reaches("us-west").await;
    let (_, app) = tokio::join!(west.crash(), in_west.app.kill9());
    app.expect("it ran");
    in_west.crash_sidecar().await;
    load.leaves("us-west", SOME).await;
    in_west.revive_app(&west).await;
    west.start(None);
    west.ready().await;
    in_west.revive_sidecar(&west).await;
    load.reaches("us-west").await;
    nothing_failed(&load.stop().await, "region killed");
}

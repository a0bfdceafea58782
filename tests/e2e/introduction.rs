//! How sidecars make themselves known: by token, until it is revoked, and by the user that they run as.

use std::fs;

use isthmus_tests::harness::{http, wait_until};
use serde_json::Value;

use crate::federation::{Cluster, SOON, metric, start, text};
use crate::workload::{Client, Workload, answers_from, call};

fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

fn control_socket(cluster: &str, uid: u32) -> String {
    format!("control_socket:\n  path: {cluster}.sock\n  workloads:\n    {uid}: shop/productpage\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_is_the_workload_of_the_user_that_it_runs_as_and_no_token_is_needed() {
    let mut east = Cluster::new("us-east", &format!("found: true\n{}", control_socket("us-east", own_uid())));
    east.start(None);
    east.ready().await;
    let _reviews = Workload::exported(&east, "reviews", 20).await;
    let client = Client::of_own_user(&east, "us-east.sock", "productpage", 30);
    let what = "the sidecar to be ready";
    wait_until(SOON, what, async || client.is_ready().await).await;
    answers_from(client.outbound(), "reviews", "us-east").await;
    let story = call(client.outbound(), "reviews").await.expect("answered");
    assert_eq!(story["caller"], "spiffe://us-east.acme.mesh/ns/shop/sa/productpage");

    // It comes back to a gateway that was away, as nobody else.
    east.crash().await;
    east.start(None);
    east.ready().await;
    wait_until(SOON, "the sidecar to be attached again", async || {
        metric(client.status(), "isthmus_agent_attached", "").await == Some(1.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_not_listed_gets_nothing_over_the_socket() {
    let mut east = Cluster::new("us-east", &format!("found: true\n{}", control_socket("us-east", own_uid() + 1)));
    east.start(None);
    east.ready().await;
    let stranger = Client::of_own_user(&east, "us-east.sock", "productpage", 30);
    let refusal = format!("user {} is no workload: see `control_socket.workloads`", own_uid());
    wait_until(SOON, "the refusal", async || {
        http::get(stranger.status(), "/readyz").await.is_ok_and(|answer| answer.body.contains(&refusal))
    })
    .await;
    assert!(!stranger.is_ready().await);
    // Nor does a second gateway take the socket from the first.
    let mut second = Cluster::new("us-west", &format!("found: true\n{}", control_socket("us-west", own_uid())));
    fs::create_dir_all(second.path("data")).expect("a directory");
    std::os::unix::fs::symlink(east.path("us-east.sock"), second.path("us-west.sock")).expect("linked");
    second.start(None);
    let status = second.process().wait(SOON).await;
    assert!(!status.success());
    let told = second.process().stderr();
    assert!(told.contains("control_socket: another process answers on"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_ends_the_streams_and_renewals_of_those_who_came_by_it() {
    let [east] = start(["us-east"]).await;
    let _reviews = Workload::exported(&east, "reviews", 20).await;
    let mut by_token = Client::run(&east, "productpage", 30).await;
    answers_from(by_token.outbound(), "reviews", "us-east").await;
    let tokens = east.ask(["token", "list"]).await;
    let of_client = |token: &&Value| token["grant"]["workload"]["workload"] == "shop/productpage";
    let token = tokens["tokens"].as_array().expect("a list").iter().find(of_client).expect("its token");
    let id = text(&token["id"]);
    assert!(east.cli(["token", "revoke", &id]).await.status.success());
    let refusal = format!("the workload token {id} was revoked");
    wait_until(SOON, "the stream to end", async || by_token.log().contains(&refusal)).await;
    assert_eq!(metric(by_token.status(), "isthmus_agent_attached", "").await, Some(0.0));
    // What it has is good until it ends: the registry does not know its key.
    call(by_token.outbound(), "reviews").await.expect("answered");

    by_token.restart(&east).await;
    wait_until(SOON, "the token to be refused", async || by_token.log().contains("was revoked")).await;
    assert!(!by_token.is_ready().await);
}

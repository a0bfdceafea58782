//! The registry's promises: nothing committed is lost, a minority's absence changes nothing, and without a
//! quorum everything but agreement goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use isthmus_tests::harness::dns::RecordType;
use isthmus_tests::harness::{wait_for, wait_until};
use serde_json::Value;

use crate::federation::{Cluster, SOON, host, metric, port, settled, start, start_with, text};
use crate::load::Load;
use crate::workload::{Client, Mesh, Offer, Workload, answers_from, call, manifests};

/// Rounds of killing every gateway in turn.
const ROUNDS: usize = 2;
/// The shortest life of a workload's certificate that can be configured.
const CERTIFICATE_TTL: &str = "1m";
/// Renewal is at two thirds of the life; by then, and the machine's slowness, it must have happened.
const RENEWED_WITHIN: Duration = Duration::from_secs(55);

/// What a gateway has agreed on: its tokens and the services that are offered.
pub(crate) async fn agreed(cluster: &Cluster) -> (BTreeSet<String>, BTreeSet<String>) {
    let names =
        |list: &Value, key: &str| list.as_array().expect("a list").iter().map(|entry| text(&entry[key])).collect();
    let (tokens, services) = (cluster.ask(["token", "list"]).await, cluster.ask(["services"]).await);
    (names(&tokens["tokens"], "id"), names(&services["services"], "name"))
}

/// Has a cluster write a token. Returns its id if that was confirmed, which the cluster then shows at once.
pub(crate) async fn mint(cluster: &Cluster) -> Option<String> {
    let output = cluster.cli(["token", "create", "--workload", "shop/reviews", "--ttl", "1h"]).await;
    if !output.status.success() {
        return None;
    }
    let token: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let id = text(&token["id"]);
    assert!(agreed(cluster).await.0.contains(&id), "{} forgot what it confirmed", cluster.name);
    Some(id)
}

/// Tokens are the evidence: what an operator was told is agreed, and no file could bring it back.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_committed_is_lost_whichever_gateway_is_killed_at_whatever_moment() {
    let mut clusters = start(["us-east", "us-west", "eu-central"]).await;
    let (mut minted, mut offered) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        for victim in 0..clusters.len() {
            // Writes are under way everywhere: an export in the victim, an export in another, a token.
            let (writer, other) = ((victim + 1) % clusters.len(), (victim + 2) % clusters.len());
            for (kind, cluster) in [("victim", &clusters[victim]), ("other", &clusters[other])] {
                let service = format!("{kind}-{round}-{victim}");
                cluster.write(
                    &format!("{service}.yaml"),
                    &manifests(&service, &[cluster.host(9)], Mesh::None, Offer::Exported),
                );
                offered.insert(format!("shop/{service}"));
            }
            clusters[victim].crash().await;
            clusters[victim].start(None);
            // The writer finds the new leader if the old one was killed.
            let token = clusters[writer].token("--workload", "shop/reviews", "1h").await;
            minted.insert(text(&token["id"]));
            clusters[victim].ready().await;
        }
    }
    for cluster in &clusters {
        settled(cluster, 3).await;
        let what = format!("{} to have everything that was committed", cluster.name);
        wait_until(SOON, &what, async || {
            let (tokens, services) = agreed(cluster).await;
            tokens.is_superset(&minted) && services.is_superset(&offered)
        })
        .await;
        assert_eq!(cluster.dig(&host("victim-0-0"), RecordType::A).await.addresses().len(), 1);
    }
    let [east, west, eu] = &clusters;
    let same = async || {
        let (a, b, c) = (east.revision().await, west.revision().await, eu.revision().await);
        a == b && b == c
    };
    wait_until(SOON, "all replicas to be at the same revision", same).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_down_stops_nothing_and_two_down_stop_only_agreement() {
    let [east, mut west, mut eu] = start(["us-east", "us-west", "eu-central"]).await;
    let _here = Workload::exported(&east, "reviews", 20).await;
    let _there = Workload::exported(&west, "details", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    answers_from(client.outbound(), "details", "us-west").await;

    let margin = async || metric(east.at(port::METRICS), "isthmus_registry_quorum_margin", "").await;
    wait_until(SOON, "one voter to be spare", async || margin().await == Some(1.0)).await;

    // One down: reads and writes go on, also where the leader was.
    eu.crash().await;
    let token = text(&east.token("--workload", "shop/reviews", "1h").await["id"]);
    east.write("ratings.yaml", &manifests("ratings", &[east.host(25)], Mesh::None, Offer::Exported));
    wait_until(SOON, "the export to be agreed", async || {
        west.dig(&host("ratings"), RecordType::A).await.addresses().len() == 1
    })
    .await;
    assert!(agreed(&west).await.0.contains(&token));
    let status = wait_for(SOON, "the gateway to be seen as down", async || {
        let status = east.status().await;
        (status["clusters"]["down"] == 1).then_some(status)
    })
    .await;
    assert!(status["registry"]["stale_since"].is_null() && !status["registry"]["leader"].is_null(), "{status}");

    wait_until(SOON, "no voter to be spare", async || margin().await == Some(0.0)).await;
    let view = east.ask(["registry", "status"]).await;
    let gone = view["replicas"].as_array().expect("a list").iter().find(|one| one["member"]["cluster"] == "eu-central");
    assert!(gone.is_some_and(|gone| gone["lag_entries"].as_u64() > Some(0)), "{view}");

    // Two down: no agreement, and that is told with its age.
    west.crash().await;
    let stale = async || {
        let status = east.status().await;
        let age = status["registry"]["stale_for_ms"].as_u64()?;
        (status["registry"]["leader"].is_null() && age > 0).then_some(age)
    };
    let age = wait_for(SOON, "the state to be stale", stale).await;
    wait_until(SOON, "it to grow older", async || stale().await > Some(age)).await;
    wait_until(SOON, "the metric to tell", async || {
        metric(east.at(port::METRICS), "isthmus_registry_stale_seconds", "").await > Some(0.0)
    })
    .await;
    let refused = east.cli(["token", "create", "--cluster", "ap-south"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("no leader is known") && told.contains("a majority of gateways"), "{told}");

    // Traffic, names and the sidecars' certificates do not need it.
    for service in ["reviews", "details", "ratings"] {
        assert_eq!(east.dig(&host(service), RecordType::A).await.addresses().len(), 1, "{service}");
    }
    assert_eq!(call(client.outbound(), "reviews").await.expect("an answer")["cluster"], "us-east");
    let error = call(client.outbound(), "details").await.expect_err("its only cluster is down");
    assert!(error.starts_with("50"), "{error}");

    // A change made meanwhile is agreed when there is a quorum again.
    east.write("ledger.yaml", &manifests("ledger", &[east.host(26)], Mesh::None, Offer::Exported));
    west.start(None);
    eu.start(None);
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
        wait_until(SOON, "the late export to be agreed", async || {
            cluster.dig(&host("ledger"), RecordType::A).await.addresses().len() == 1
        })
        .await;
    }
    answers_from(client.outbound(), "details", "us-west").await;
}

/// It had been the leader: it takes the lead up again and goes on sending heartbeats, with nobody behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_comes_back_alone_shows_all_that_was_agreed_and_claims_no_quorum() {
    let mut clusters = start(["us-east", "us-west", "eu-central"]).await;
    let leader = text(&clusters[0].status().await["registry"]["leader"]["cluster"]);
    clusters.sort_by_key(|cluster| cluster.name != leader);
    let [leader, follower, other] = &mut clusters;
    // Told to the operator an instant before everything dies.
    let token = text(&leader.token("--workload", "shop/reviews", "1h").await["id"]);
    tokio::join!(leader.crash(), follower.crash(), other.crash());
    leader.start(None);
    leader.ready().await;
    assert!(agreed(leader).await.0.contains(&token), "what was agreed is forgotten");
    let stale = async |cluster: &Cluster| cluster.status().await["registry"]["stale_for_ms"].as_u64() > Some(2_000);
    wait_until(SOON, "it to say that no quorum stands behind it", async || stale(leader).await).await;
    follower.start(None);
    wait_until(SOON, "a quorum to stand behind it again", async || !stale(leader).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_restarts_or_is_gone_does_not_disturb_traffic_between_sidecars() {
    let [mut east] = start(["us-east"]).await;
    let _reviews = Workload::exported(&east, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-east").await;
    let load = Load::start(client.outbound(), "reviews", 60);
    let attached = async |wanted: f64| {
        wait_until(SOON, "the sidecar to notice its gateway", async || {
            metric(client.status(), "isthmus_agent_attached", "").await == Some(wanted)
        })
        .await;
    };
    attached(1.0).await;

    // Crashed and away for a while; frozen; told to end.
    east.crash().await;
    attached(0.0).await;
    load.goes_on(60).await;
    east.start(None);
    attached(1.0).await;
    east.process().pause().expect("it runs");
    load.goes_on(60).await;
    east.process().resume().expect("it is stopped");
    attached(1.0).await;
    east.process().terminate().expect("it runs");
    assert!(east.process().wait(SOON).await.success(), "it ends in order");
    attached(0.0).await;
    load.goes_on(60).await;
    east.start(None);
    attached(1.0).await;

    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
    assert!(report.rate > 40.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_under_traffic_before_they_expire() {
    let [east] = start_with(["us-east"], &format!("workload_certificate_ttl: {CERTIFICATE_TTL}")).await;
    let _reviews = Workload::exported(&east, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-east").await;
    let load = Load::start(client.outbound(), "reviews", 16);
    let certified_until = async || {
        let until = metric(client.status(), "isthmus_agent_certified_until_timestamp_seconds", "").await;
        until.expect("metrics")
    };
    let first = certified_until().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!(first > now && first <= now + 61.0, "a minute at most: {first} at {now}");
    wait_until(RENEWED_WITHIN, "the certificate to be renewed", async || certified_until().await > first).await;
    // The session was made with the first certificate; it has to be followed by another unnoticed.
    let past_first = async || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        now.as_secs_f64() > first + 2.0
    };
    wait_until(RENEWED_WITHIN, "the first certificate to expire", past_first).await;
    load.goes_on(20).await;
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
}

//! How a cluster goes: drained, in order, or cut off; and how it comes back.

use std::time::{Duration, Instant};

use isthmus_tests::harness::dns::RecordType;
use isthmus_tests::harness::{http, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::federation::{Cluster, SOON, host, port, settled, start, text};
use crate::load::Load;
use crate::workload::{Client, TCP, Workload, answers_from, call};

/// A fenced cluster's sessions are gone within this.
const CUT_WITHIN: Duration = Duration::from_secs(2);

/// A TCP connection through the federation, with the greeting and one echo behind it.
async fn connected(proxy: std::net::SocketAddr, service: &str) -> TcpStream {
    let mut stream = http::connect_via_proxy(proxy, &format!("{}:{TCP}", host(service))).await.expect("a tunnel");
    let mut greeting = [0; 256];
    assert!(stream.read(&mut greeting).await.expect("a greeting") > 0);
    stream.write_all(b"still there?\n").await.expect("open");
    assert!(stream.read(&mut greeting).await.expect("an echo") > 0);
    stream
}

/// Until when a connection on which nothing is said stays open.
async fn closed(mut stream: TcpStream) -> Instant {
    let mut byte = [0];
    let read = timeout(SOON, stream.read(&mut byte)).await.expect("it ends");
    assert!(matches!(read, Ok(0) | Err(_)), "something was said: {byte:?}");
    Instant::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_clusters_sessions_are_cut_and_it_comes_back_by_unfencing_or_with_new_keys() {
    let [east, mut west, eu] = start(["us-east", "us-west", "eu-central"]).await;
    let _here = Workload::exported(&east, "reviews", 20).await;
    let _there = Workload::exported(&west, "details", 20).await;
    let (of_east, of_west) = (Client::run(&east, "productpage", 30).await, Client::run(&west, "productpage", 30).await);
    answers_from(of_east.outbound(), "details", "us-west").await;
    answers_from(of_west.outbound(), "reviews", "us-east").await;

    // Open both ways, silent, and through sidecars and gateways alike.
    let open = [
        connected(of_east.outbound(), "details").await,
        connected(of_west.outbound(), "reviews").await,
        connected(east.at(port::EGRESS), "details").await,
        connected(west.at(port::EGRESS), "reviews").await,
    ];
    let cut = open.map(|stream| tokio::spawn(closed(stream)));
    let began = Instant::now();
    east.ask(["cluster", "fence", "us-west", "--why", "its machine was stolen"]).await;
    for stream in cut {
        let took = stream.await.expect("no panic").duration_since(began);
        assert!(took < CUT_WITHIN, "cut after {took:?}");
        println!("a session was cut {took:?} after the fence was asked for");
    }

    // It is nobody's member: no name, no calls either way, no say.
    for cluster in [&east, &eu] {
        wait_until(SOON, "the export to be gone", async || {
            cluster.dig(&host("details"), RecordType::A).await.code == 3
        })
        .await;
    }
    assert!(call(of_east.outbound(), "details").await.is_err());
    assert!(call(of_west.outbound(), "reviews").await.is_err());
    let clusters = east.ask(["clusters"]).await;
    assert_eq!(clusters["departed"][0]["fenced_because"], "its machine was stolen", "{clusters}");
    let refused = west.cli(["token", "create", "--cluster", "ap-south"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // Others are not disturbed.
    settled_without(&east, "us-west").await;

    // Taken back: as before, without a restart.
    east.ask(["cluster", "unfence", "us-west"]).await;
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
    }
    answers_from(of_east.outbound(), "details", "us-west").await;
    answers_from(of_west.outbound(), "reviews", "us-east").await;

    // Fenced for good: its old data does not open the door again, a new token with new keys does.
    east.ask(["cluster", "fence", "us-west", "--why", "again"]).await;
    west.crash().await;
    let token = east.join_token("us-west").await;
    west.start(None);
    wait_until(SOON, "the old data to be refused", async || call(of_west.outbound(), "reviews").await.is_err()).await;
    west.crash().await;
    std::fs::remove_dir_all(west.path("data")).expect("emptied");
    west.start(Some(&token));
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
    }
    let refused = east.cli(["cluster", "unfence", "us-west"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("is not fenced, or has joined anew since"), "{told}");
    let audit = east.ask(["audit"]).await;
    let events: Vec<String> =
        audit["records"].as_array().expect("a list").iter().map(|record| text(&record["event"])).collect();
    for event in ["founded", "token_minted", "token_redeemed", "certified", "fenced", "unfenced"] {
        assert!(events.iter().any(|known| known == event), "{event}: {events:?}");
    }
}

/// Waits until a gateway sees two clusters, both up, with a leader among them.
async fn settled_without(cluster: &Cluster, gone: &str) {
    wait_until(SOON, "the others to be well", async || {
        let status = cluster.status().await;
        let voters = status["registry"]["voters"].as_array().cloned().unwrap_or_default();
        status["clusters"]["up"] == 2
            && status["registry"]["stale_since"].is_null()
            && voters.iter().all(|voter| voter["cluster"] != gone)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_drained_without_a_lost_request_and_leaves() {
    let [east, west, eu] = start(["us-east", "us-west", "eu-central"]).await;
    let _there = Workload::exported(&west, "reviews", 20).await;
    let _elsewhere = Workload::exported(&eu, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    east.sees("reviews", "us-west", 1).await;
    east.sees("reviews", "eu-central", 1).await;
    let load = Load::start(client.outbound(), "reviews", 80);
    load.reaches("us-west").await;

    // Others' operators may not, the cluster's own and an administrator's may.
    let refused = eu.cli(["cluster", "drain", "us-west"]).await;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && told.contains("may do this only to itself"), "{told}");
    let leaving = west.cli(["cluster", "leave", "us-west"]);
    let (left, ()) = tokio::join!(leaving, load.leaves("us-west", 60));
    let told = String::from_utf8_lossy(&left.stderr).into_owned();
    assert!(left.status.success(), "{told}");
    assert!(told.contains("waiting for us-west to drain: 1 services on offer"), "progress is told: {told}");
    settled_without(&east, "us-west").await;
    load.goes_on(80).await;
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
    let clusters = east.ask(["clusters"]).await;
    assert!(clusters["departed"][0]["fenced_because"].is_null(), "{clusters}");
}

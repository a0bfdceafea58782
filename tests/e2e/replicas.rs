//! Gateways that stop in order, and several of one cluster.

use std::time::{Duration, Instant};

use isthmus_tests::harness::{http, wait_until};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::federation::{Cluster, SOON, host, metric, port, settled, start};
use crate::load::Load;
use crate::workload::{Client, Mesh, Offer, TCP, Workload, answers_from};

/// How long a gateway may take to stop that has nothing to wait for, the lead of the registry handed over.
const STOPS_WITHIN: Duration = Duration::from_secs(8);

/// A second gateway of a cluster.
async fn second(first: &Cluster, clusters: usize) -> Cluster {
    let mut second = Cluster::replica(first, "gw-2");
    let token = first.join_token(first.name).await;
    second.start(Some(&token));
    second.ready().await;
    settled(&second, clusters).await;
    second
}

/// Stops a gateway in order and starts it again.
async fn restart(gateway: &mut Cluster) {
    let began = Instant::now();
    gateway.process().terminate().expect("it runs");
    let status = gateway.process().wait(SOON).await;
    assert!(status.success(), "{}", gateway.process().stderr());
    let took = began.elapsed();
    println!("{} stopped within {took:?}", gateway.name);
    assert!(took < STOPS_WITHIN, "sessions without requests kept it from stopping: {took:?}");
    gateway.start(None);
    gateway.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_every_gateway_loses_no_request() {
    let [east, west] = start(["us-east", "us-west"]).await;
    let (second_east, second_west) = (second(&east, 2).await, second(&west, 2).await);
    let (mut east, mut west) = ([east, second_east], [west, second_west]);
    let _reviews = Workload::exported(&west[0], "reviews", 20).await;
    let _ratings = Workload::run(&west[0], "ratings", 21, Mesh::None, Offer::Exported).await;
    let client = Client::run(&east[0], "productpage", 30).await;
    for service in ["reviews", "ratings"] {
        answers_from(client.outbound(), service, "us-west").await;
    }
    let loads = ["reviews", "ratings"].map(|service| Load::start(client.outbound(), service, 64));
    for gateway in west.iter_mut().chain(&mut east) {
        restart(gateway).await;
        // Everyone sees that it is back before the next one goes.
        settled(gateway, 2).await;
        for load in &loads {
            load.goes_on(64).await;
        }
    }
    for load in loads {
        let report = load.stop().await;
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_waits_for_tunnels_through_it_and_for_nothing_else() {
    let [east, mut west] = start(["us-east", "us-west"]).await;
    let _reviews = Workload::exported(&west, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-west").await;
    let tunnel = http::connect_via_proxy(client.outbound(), &format!("{}:{TCP}", host("reviews"))).await;
    let mut lines = BufReader::new(tunnel.expect("a tunnel")).lines();
    lines.next_line().await.expect("it is open").expect("a greeting");

    // It takes nothing new, and the tunnel goes on for longer than anything else would keep the gateway.
    west.process().terminate().expect("it runs");
    let closed = async || TcpStream::connect(west.at(port::EAST_WEST)).await.is_err();
    wait_until(SOON, "the gateway to take nothing new", closed).await;
    let (mut turn, began) = (interval(Duration::from_millis(100)), Instant::now());
    while began.elapsed() < STOPS_WITHIN {
        turn.tick().await;
        lines.get_mut().write_all(b"again\n").await.expect("the tunnel is open");
        assert_eq!(lines.next_line().await.expect("the tunnel is open").as_deref(), Some("again"));
    }
    let ends = west.process().wait(SOON);
    let ends = timeout(Duration::from_millis(100), ends).await;
    assert!(ends.is_err(), "it waits");

    // It ends with the tunnel.
    drop(lines);
    let began = Instant::now();
    let status = west.process().wait(SOON).await;
    println!("stopped {:?} after its last tunnel", began.elapsed());
    assert!(status.success() && began.elapsed() < STOPS_WITHIN, "{}", west.process().stderr());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_gateway_speaks_for_its_cluster_and_another_when_it_is_gone() {
    let [mut first, west, _eu] = start(["us-east", "us-west", "eu-central"]).await;
    let second = second(&first, 3).await;
    let _reviews = Workload::exported(&first, "reviews", 20).await;
    west.sees("reviews", "us-east", 1).await;
    // It is configured with the first gateway alone, which tells it of the second.
    let client = Client::run(&first, "productpage", 30).await;
    let revision = west.revision().await;
    // The first is gone. What changes now is told by the second.
    first.crash().await;
    let _details = Workload::exported(&second, "details", 21).await;
    west.sees("details", "us-east", 1).await;
    west.sees("reviews", "us-east", 1).await;
    let attached = async || metric(client.status(), "isthmus_agent_attached", "").await == Some(1.0);
    wait_until(SOON, "the sidecar to be attached to the second", attached).await;
    assert!(client.log().contains(&format!("gateway={}", second.at(port::CONTROL))), "{}", client.log());
    // It is back, and has nothing to take back.
    let after = west.revision().await;
    first.start(None);
    first.ready().await;
    let what = "the first to know what the second has told";
    wait_until(SOON, what, async || first.revision().await >= after).await;
    settled(&first, 3).await;
    west.sees("details", "us-east", 1).await;
    assert!(after > revision && west.revision().await == after, "nobody took anything back");
}

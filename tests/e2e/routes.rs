//! Routes of a service, from a manifest to a workload's calls and back.

use std::collections::BTreeSet;

use isthmus_tests::harness::{http, wait_until};

use crate::federation::{SOON, host, port, start};
use crate::workload::{Client, HTTP, Workload, answers_from};

/// Requests in a row that show where they go: that none of them is the fifth is one case in a million.
const SOME: usize = 60;

/// The manifest as the operator reads it.
fn documented() -> &'static str {
    let text = include_str!("../../docs/routing.md");
    text.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("it has a manifest")
}

/// The service that answers a call of `reviews`, or the status.
async fn asked(proxy: std::net::SocketAddr, path: &str) -> String {
    let response = http::get_via_proxy(proxy, &format!("http://{}:{HTTP}{path}", host("reviews"))).await;
    let response = response.expect("an answer");
    let story = response.json().unwrap_or_default();
    story["service"].as_str().map_or_else(|| response.status.to_string(), str::to_owned)
}

/// All that answer some calls.
async fn several(proxy: std::net::SocketAddr) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..SOME {
        all.insert(asked(proxy, "/").await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_in_a_file_moves_calls_and_goes_with_it() {
    let [east, west] = start(["us-east", "us-west"]).await;
    let _now = Workload::exported(&east, "reviews", 20).await;
    // The next version is in another cluster.
    let _next = Workload::exported(&west, "reviews-next", 21).await;
    let client = Client::run(&east, "productpage", 30).await;
    east.sees("reviews-next", "us-west", 1).await;
    let ways = [client.outbound(), east.at(port::EGRESS)];
    for way in ways {
        answers_from(way, "reviews", "us-east").await;
        assert_eq!(several(way).await, BTreeSet::from(["reviews".to_owned()]));
    }
    east.write("route.yaml", documented());
    for way in ways {
        wait_until(SOON, "the route", async || asked(way, "/next/").await == "reviews-next").await;
        assert_eq!(several(way).await, BTreeSet::from(["reviews".to_owned(), "reviews-next".to_owned()]));
    }
    // Who calls from the other cluster is that one's affair.
    let far = several(west.at(port::EGRESS)).await;
    assert_eq!(far, BTreeSet::from(["reviews".to_owned()]));
    east.remove("route.yaml");
    for way in ways {
        wait_until(SOON, "the route to be gone", async || several(way).await.len() == 1).await;
    }
}

//! The network between two halves of a federation is gone, packet by packet.
//!
//! Needs root, `ip` and `iptables`: each cluster is a network namespace of its own, and what is between them a router.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use isthmus_tests::harness::dns::RecordType;
use isthmus_tests::harness::wait_until;
use isthmus_tests::wan::RoutedWan;
use tokio::runtime::Builder;

use crate::federation::{Cluster, SOON, federate, host, settled};
use crate::load::Load;
use crate::registry::{agreed, mint};
use crate::workload::{Client, Mesh, Offer, Workload, answers_from, manifests};

/// Until everything is as before, from when the network is.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Requests a second, of each half.
const RATE: u32 = 50;
/// Requests after which a change has had its effect.
const SOME: usize = 50;
/// The halves, each with who calls first and who is called last.
const HALVES: [[u8; 2]; 2] = [[0, 1], [2, 3]];

#[test]
fn each_half_serves_itself_one_of_them_agrees_and_together_they_agree_on_all_of_it() {
    let wan = match RoutedWan::enter(4) {
        Ok(wan) => wan,
        Err(reason) => return eprintln!("SKIPPED: a network of namespaces needs root, ip and iptables: {reason}"),
    };
    // In this thread, which is at the router.
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(halves(&wan));
}

/// One half: a caller, and a cluster that offers two services to all.
struct Half<'a> {
    caller: &'a Cluster,
    callee: &'a Cluster,
    client: Client,
    _reviews: Workload,
    ratings: Workload,
}

impl<'a> Half<'a> {
    async fn start(caller: &'a Cluster, callee: &'a Cluster) -> Self {
        let (reviews, ratings) =
            (Workload::exported(callee, "reviews", 20).await, Workload::exported(callee, "ratings", 21).await);
        let client = Client::run(caller, "productpage", 30).await;
        Self { caller, callee, client, _reviews: reviews, ratings }
    }
}

/// One half has most voters, and goes on agreeing once it has a leader among them. The other knows that it does not.
/// Returns what was agreed, and puts the one with the quorum first.
async fn one_agrees(halves: &mut [Half<'_>; 2]) -> BTreeSet<String> {
    let parted = Instant::now();
    let write = async |half: &Half<'_>| {
        let (one, other) = tokio::join!(mint(half.caller), mint(half.callee));
        [one, other]
    };
    let mut minted = BTreeSet::new();
    wait_until(SOON, "a half to agree on something", async || {
        let (one, other) = tokio::join!(write(&halves[0]), write(&halves[1]));
        minted.extend(one.into_iter().chain(other).flatten());
        !minted.is_empty()
    })
    .await;
    println!("the halves are apart; one of them agreed on {} writes within {:?}", minted.len(), parted.elapsed());
    let stale = async |half: &Half<'_>| half.caller.status().await["registry"]["stale_for_ms"].as_u64().is_some();
    wait_until(SOON, "a half to say that it is without a quorum", async || {
        stale(&halves[0]).await || stale(&halves[1]).await
    })
    .await;
    if stale(&halves[0]).await {
        halves.reverse();
    }
    assert!(!stale(&halves[0]).await, "one half has a quorum");
    let (majority, minority) = tokio::join!(write(&halves[0]), write(&halves[1]));
    assert_eq!(minority, [None, None], "there is no quorum here");
    minted.extend(majority.map(|id| id.expect("confirmed")));
    minted
}

async fn halves(wan: &RoutedWan) {
    let mut clusters = ["us-east", "us-west", "eu-west", "eu-central"]
        .into_iter()
        .zip(0..)
        .map(|(name, site)| Cluster::at_site(name, wan, site, if site == 0 { "found: true" } else { "" }))
        .collect::<Vec<_>>();
    federate(&mut clusters).await;
    let [a, b, c, d] = &clusters[..] else { unreachable!("four clusters") };
    let mut halves = [Half::start(a, b).await, Half::start(c, d).await];
    for half in &halves {
        for callee in [b.name, d.name] {
            answers_from(half.client.outbound(), "reviews", callee).await;
        }
    }
    let loads = halves.each_ref().map(|half| Load::start(half.client.outbound(), "reviews", RATE));

    // Both see it, and each goes on with what it reaches.
    let [one, other] = HALVES;
    wan.part(&one, &other);
    for cluster in &clusters {
        let what = format!("{} to see the other half gone", cluster.name);
        wait_until(SOON, &what, async || cluster.status().await["clusters"]["down"] == 2).await;
    }
    for (load, half) in loads.iter().zip(&halves) {
        load.goes_on(SOME).await;
        answers_from(half.client.outbound(), "ratings", half.callee.name).await;
    }

    let minted = one_agrees(&mut halves).await;
    let [_, minority] = &mut halves;

    // The health of what is exported needs no quorum, and exports wait for one.
    minority.ratings.app.kill9().await.expect("it ran");
    minority.caller.sees("ratings", minority.callee.name, 0).await;
    let ledger = manifests("ledger", &[minority.callee.host(26)], Mesh::None, Offer::Exported);
    minority.callee.write("ledger.yaml", &ledger);
    for load in &loads {
        load.goes_on(SOME).await;
    }
    let known = async |cluster: &Cluster| cluster.dig(&host("ledger"), RecordType::A).await.addresses().len() == 1;
    assert!(!known(minority.caller).await, "nothing is on offer before it is agreed");

    wan.heal();
    let healed = Instant::now();
    for cluster in &clusters {
        settled(cluster, clusters.len()).await;
        wait_until(SOON, "all to have what both halves wrote", async || {
            known(cluster).await && agreed(cluster).await.0.is_superset(&minted)
        })
        .await;
    }
    for half in &halves {
        for callee in [b.name, d.name] {
            answers_from(half.client.outbound(), "reviews", callee).await;
        }
    }
    let recovered = healed.elapsed();
    println!("the halves are together again; recovered after {recovered:?}");
    assert!(recovered < RECOVERY_MAX, "{recovered:?}");
    for load in loads {
        let report = load.stop().await;
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
    }
}

//! The network between clusters: gone, one way only, come and gone, slow.
//!
//! Every gateway is reached over a link of its own. What is wrong with that link is wrong with what the others send to
//! it and with its answers; what it sends itself goes over theirs.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use isthmus_tests::harness::dns::RecordType;
use isthmus_tests::harness::{Loopback, wait_until};
use isthmus_tests::wan::{Direction, Fault, Link, Shape};
use tokio::time::interval;

use crate::federation::{Cluster, SOON, federate, host, port, settled};
use crate::load::Load;
use crate::registry::{agreed, mint};
use crate::workload::{Client, Mesh, Offer, Workload, answers_from, call, manifests};

/// Until everything is as before, from when the network is.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Requests a second.
const RATE: u32 = 100;
/// Requests after which a change has had its effect.
const SOME: usize = 100;
/// How often a link comes and goes.
const FLAPS: usize = 3;
/// From one continent to another, one way.
const FAR: Shape = Shape { delay: Duration::from_millis(150), jitter: Duration::from_millis(10), bandwidth: None };
/// How long a lost packet holds back what comes after it: until it is sent again, a round trip later (RFC 5681 §3.2). With the link's own round
/// trip that is 600 ms of the 750 after which silence is taken for an end, on a machine that may be busy.
const STALL: Duration = Duration::from_millis(300);
/// How often one is lost, on one link or another: a hundredth of the requests meet it.
const STALL_EVERY: Duration = Duration::from_secs(1);
/// Writes of each cluster over a slow network.
const WRITES: usize = 5;

/// Three clusters, and the link to each one's gateway.
struct Network {
    clusters: [Cluster; 3],
    links: [Link; 3],
    _addresses: [Loopback; 3],
}

impl Network {
    /// `raft` is the registry's timing.
    async fn start(raft: &str) -> Self {
        let addresses = [(); 3].map(|()| Loopback::block());
        let [east, west, eu] = &addresses;
        let advertised = |at: &Loopback| format!("advertise: {}\n{raft}\n", at.address(1, port::EAST_WEST));
        let mut clusters = [
            Cluster::new("us-east", &format!("found: true\n{}", advertised(east))),
            Cluster::new("us-west", &advertised(west)),
            Cluster::new("eu-central", &advertised(eu)),
        ];
        let link = async |at: &Loopback, to: &Cluster| {
            let listen = at.address(1, port::EAST_WEST);
            Link::start(listen, to.at(port::EAST_WEST)).await.expect("a free address")
        };
        let links = [link(east, &clusters[0]).await, link(west, &clusters[1]).await, link(eu, &clusters[2]).await];
        federate(&mut clusters).await;
        Self { clusters, links, _addresses: addresses }
    }

    /// Heals every link. Returns when.
    async fn heal(&self) -> Instant {
        for link in &self.links {
            link.heal().await.expect("its address is free");
        }
        Instant::now()
    }

    /// Which cluster leads the registry, as `witness` knows.
    async fn leader(&self, witness: usize) -> Option<usize> {
        let status = self.clusters[witness].status().await;
        let leader = status["registry"]["leader"]["cluster"].as_str()?;
        self.clusters.iter().position(|cluster| cluster.name == leader)
    }

    /// Every cluster writes a token. Returns those that were confirmed, which their own cluster shows at once.
    async fn mint(&self) -> BTreeSet<String> {
        let [east, west, eu] = &self.clusters;
        let (east, west, eu) = tokio::join!(mint(east), mint(west), mint(eu));
        [east, west, eu].into_iter().flatten().collect()
    }

    /// Waits until all replicas agree, on all these tokens among others.
    async fn agree(&self, minted: &BTreeSet<String>) {
        for cluster in &self.clusters {
            settled(cluster, self.clusters.len()).await;
            let what = format!("{} to have everything that was confirmed", cluster.name);
            wait_until(SOON, &what, async || agreed(cluster).await.0.is_superset(minted)).await;
        }
        let [east, west, eu] = &self.clusters;
        wait_until(SOON, "all replicas to be at the same revision", async || {
            let (a, b, c) = (east.revision().await, west.revision().await, eu.revision().await);
            a == b && b == c
        })
        .await;
    }
}

/// Nobody is told: packets are swallowed.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_network_each_cluster_serves_itself_and_all_is_as_before_within_seconds_of_its_return() {
    let network = Network::start("").await;
    let [east, west, eu] = &network.clusters;
    let _reviews = Workload::exported(east, "reviews", 20).await;
    let _details = Workload::exported(west, "details", 20).await;
    let client = Client::run(east, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-east").await;
    answers_from(client.outbound(), "details", "us-west").await;
    let load = Load::start(client.outbound(), "reviews", RATE);

    for link in &network.links {
        link.blackhole();
    }
    for cluster in &network.clusters {
        let what = format!("{} to say that it is alone", cluster.name);
        wait_until(SOON, &what, async || {
            let status = cluster.status().await;
            status["clusters"]["down"] == 2 && status["registry"]["stale_for_ms"].as_u64().is_some()
        })
        .await;
    }
    wait_until(SOON, "a log to name who does not answer", async || {
        let told = |cluster: &Cluster| {
            cluster.gateway.as_ref().is_some_and(|gateway| gateway.stderr().contains("no answer within 100ms"))
        };
        network.clusters.iter().any(told)
    })
    .await;
    assert!(network.mint().await.is_empty(), "a write was confirmed without a quorum");
    west.write("ledger.yaml", &manifests("ledger", &[west.host(26)], Mesh::None, Offer::Exported));
    let error = call(client.outbound(), "details").await.expect_err("its only cluster is out of reach");
    assert!(error.starts_with("50"), "{error}");
    for service in ["reviews", "details"] {
        assert_eq!(eu.dig(&host(service), RecordType::A).await.addresses().len(), 1, "{service} keeps its name");
    }
    load.goes_on(SOME).await;

    let healed = network.heal().await;
    for cluster in &network.clusters {
        settled(cluster, network.clusters.len()).await;
        wait_until(SOON, "what was written meanwhile to be agreed", async || {
            cluster.dig(&host("ledger"), RecordType::A).await.addresses().len() == 1
        })
        .await;
    }
    answers_from(client.outbound(), "details", "us-west").await;
    let recovered = healed.elapsed();
    println!("all links swallowed everything; recovered {recovered:?} after they did no more");
    assert!(recovered < RECOVERY_MAX, "{recovered:?}");
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
}

/// The leader hears nobody, and is heard: in turn it is refused, out of earshot, and waits.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_confirmed_is_lost_while_the_leaders_link_comes_and_goes() {
    let network = Network::start("").await;
    let mut minted = BTreeSet::new();
    let mut unconfirmed = 0;
    for flap in 0..FLAPS {
        let leader = network.leader(flap % 3).await.unwrap_or_default();
        let link = &network.links[leader];
        match flap % 3 {
            0 => link.cut().await,
            1 => link.blackhole(),
            _ => link.stall(),
        }
        let confirmed = network.mint().await;
        unconfirmed += network.clusters.len() - confirmed.len();
        minted.extend(confirmed);
        network.heal().await;
        minted.extend(network.mint().await);
    }
    let healed = network.heal().await;
    network.agree(&minted).await;
    let recovered = healed.elapsed();
    println!(
        "the leader's link went {FLAPS} times; {} writes confirmed, {unconfirmed} not while it was away; agreed {recovered:?} after",
        minted.len()
    );
    assert!(minted.len() >= FLAPS, "hardly anything could be written");
}

/// Packets are lost now and then, for ever.
async fn lose_packets(links: &[Link]) -> Infallible {
    let mut turn = interval(STALL_EVERY);
    for (link, direction) in links.iter().cycle().zip([Direction::Forward, Direction::Backward].into_iter().cycle()) {
        turn.tick().await;
        link.fault(direction, Fault::Stall);
        tokio::time::sleep(STALL).await;
        link.fault(direction, Fault::None);
    }
    unreachable!("there are links")
}

/// With the timing that is the default.
#[tokio::test(flavor = "multi_thread")]
async fn continents_apart_the_leader_stays_and_every_write_and_call_succeeds_although_packets_are_lost() {
    let network = Network::start("raft: {voters: 3}").await;
    let [east, west, _] = &network.clusters;
    let _details = Workload::exported(west, "details", 20).await;
    let client = Client::run(east, "productpage", 30).await;
    answers_from(client.outbound(), "details", "us-west").await;
    for link in &network.links {
        link.shape(Direction::Forward, FAR);
        link.shape(Direction::Backward, FAR);
    }
    let load = Load::start(client.outbound(), "details", RATE);
    load.goes_on(SOME).await;
    let term = async || east.status().await["registry"]["term"].as_u64().expect("a number");
    let before = term().await;
    let began = Instant::now();
    let mut minted = BTreeSet::new();
    let write = async {
        for _ in 0..WRITES {
            minted.extend(network.mint().await);
        }
        load.goes_on(SOME).await;
    };
    tokio::select! {
        () = write => {}
        never = lose_packets(&network.links) => match never {},
    }
    println!(
        "{} writes and 100 requests a second over links of 150 ms one way that stall, in {:?}",
        minted.len(),
        began.elapsed()
    );
    assert_eq!(minted.len(), WRITES * network.clusters.len(), "every write is confirmed");
    network.agree(&minted).await;
    assert_eq!(term().await, before, "nobody was elected anew");
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
}

//! A change of root: under load, with its leader killed in every phase, and with a cluster that is not there.

use std::fs;

use isthmus_tests::harness::{Process, wait_for, wait_until};
use serde_json::Value;

use crate::federation::{Cluster, DOMAIN, SOON, settled, start, text};
use crate::load::Load;
use crate::vault::{Vault, ca, imported, told};
use crate::workload::{Client, Mesh, Offer, Workload, answers_from};

/// The keys of the roots, as a gateway knows them.
async fn roots(cluster: &Cluster) -> Vec<String> {
    let ca = cluster.ask(["ca", "status"]).await;
    ca["roots"].as_array().expect("a list").iter().map(|root| text(&root["key"])).collect()
}

/// Waits until the gateway trusts that one root and no other.
async fn has_only(cluster: &Cluster, root: &str) {
    let what = format!("{} to trust the new root alone", cluster.name);
    wait_until(SOON, &what, async || roots(cluster).await == [root]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_drops_not_one_request_and_new_tokens_work_after_it() {
    let [mut east, mut west] = start(["us-east", "us-west"]).await;
    let _reviews = Workload::exported(&west, "reviews", 20).await;
    let _ratings = Workload::run(&west, "ratings", 21, Mesh::None, Offer::Exported).await;
    let _details = Workload::exported(&east, "details", 22).await;
    let client = Client::run(&east, "productpage", 30).await;
    let services = [("reviews", "us-west"), ("ratings", "us-west"), ("details", "us-east")];
    for (service, cluster) in services {
        answers_from(client.outbound(), service, cluster).await;
    }
    let loads = services.map(|(service, _)| Load::start(client.outbound(), service, 32));
    let before = roots(&east).await;
    assert_eq!(before.len(), 1);

    let after = east.ask(["ca", "rotate"]).await;
    let [root] = after["roots"].as_array().expect("a list").as_slice() else { unreachable!("one root: {after}") };
    let root = text(&root["key"]);
    assert!(root != before[0] && after["rotation"].is_null(), "{after}");
    assert_eq!(after["outdated_tokens"], 3, "those of the sidecars: {after}");
    for cluster in [&east, &west] {
        has_only(cluster, &root).await;
    }
    for load in &loads {
        load.goes_on(64).await;
    }
    for load in loads {
        let report = load.stop().await;
        assert!(report.failed.is_empty(), "{:#?}", report.failed);
    }
    // The connections between them were cut when the old root went, and were made anew before anyone counted as lost.
    for (cluster, peer) in [(&mut east, "us-west"), (&mut west, "us-east")] {
        let log = cluster.process().stderr();
        let cut = format!("its peer is no longer trusted peer=spiffe://{peer}.{DOMAIN}/gateway/gw-1");
        assert!(log.contains(&cut), "{log}");
        assert!(!log.contains("a gateway is down"), "{log}");
    }

    // Who comes now knows nothing of the old root.
    let mut eu = Cluster::new("eu-central", "");
    let token = east.join_token(eu.name).await;
    eu.start(Some(&token));
    settled(&eu, 3).await;
    assert_eq!(roots(&eu).await, [root]);
    let newcomer = Client::run(&eu, "productpage", 30).await;
    answers_from(newcomer.outbound(), "reviews", "us-west").await;
}

/// `isthmus ca rotate` beside the test.
fn rotate(cluster: &Cluster) -> Process {
    cluster.spawn("rotate", ["--admin", "unix:data/admin.sock", "ca", "rotate"])
}

/// The rotation that is under way, as a gateway knows it, once it is in `phase`.
async fn in_phase(cluster: &Cluster, phase: &str) -> Value {
    let what = format!("the rotation to be in phase {phase}");
    wait_for(SOON, &what, async || {
        let ca = cluster.admin("/v1/ca").await?;
        (ca["rotation"]["phase"] == phase).then(|| ca["rotation"].clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_whose_leader_is_killed_in_any_phase_is_finished_by_running_the_command_again() {
    let mut clusters = start(["us-east", "us-west", "eu-central"]).await;
    for phase in ["distribute", "reissue"] {
        let leader = text(&clusters[0].status().await["registry"]["leader"]["cluster"]);
        let leader = clusters.iter().position(|cluster| cluster.name == leader).expect("one of them leads");
        let mut running = rotate(&clusters[0]);
        let rotation = in_phase(&clusters[0], phase).await;
        running.kill9().await.expect("it ran");
        clusters[leader].crash().await;
        let survivor = &clusters[(leader + 1) % clusters.len()];
        wait_until(SOON, "another one to lead", async || {
            let led = survivor.status().await["registry"]["leader"]["cluster"].clone();
            led.is_string() && led != clusters[leader].name
        })
        .await;
        let stands = in_phase(survivor, phase).await;
        assert_eq!(stands["root"], rotation["root"], "{phase}: what was agreed stands");

        clusters[leader].start(None);
        for cluster in &clusters {
            settled(cluster, 3).await;
        }
        clusters[0].ask(["ca", "rotate"]).await;
        for cluster in &clusters {
            has_only(cluster, &text(&rotation["root"])).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_blocks_a_rotation_by_name_until_it_is_fenced() {
    let [east, west, mut eu] = start(["us-east", "us-west", "eu-central"]).await;
    let _reviews = Workload::exported(&west, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-west").await;
    eu.crash().await;

    let blocked = east.cli(["ca", "rotate"]).await;
    let told = String::from_utf8_lossy(&blocked.stderr).into_owned();
    assert_eq!(blocked.status.code(), Some(1), "{told}");
    assert!(told.contains("waits for eu-central,") && told.contains("--fence eu-central"), "{told}");
    assert_eq!(roots(&west).await.len(), 2, "both are trusted meanwhile");

    let after = east.ask(["ca", "rotate", "--fence", "eu-central"]).await;
    assert!(after["rotation"].is_null(), "{after}");
    let members = east.ask(["clusters"]).await;
    let names = members["clusters"].as_array().expect("a list").iter().map(|cluster| text(&cluster["name"]));
    assert_eq!(names.collect::<Vec<_>>(), ["us-east", "us-west"]);
    has_only(&west, &text(&after["roots"][0]["key"])).await;
    answers_from(client.outbound(), "reviews", "us-west").await;
}

/// Waits until every cluster's requests are with the root, whose key is offline.
async fn unsigned(cluster: &Cluster) {
    wait_until(SOON, "every cluster to wait for the root", async || {
        let Some(ca) = cluster.admin("/v1/ca").await else { return false };
        let clusters = ca["rotation"]["clusters"].as_array().cloned().unwrap_or_default();
        !clusters.is_empty() && clusters.iter().all(|cluster| cluster["unsigned"] == true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_goes_offline_and_back_into_the_registry_under_load() {
    let [east, west] = start(["us-east", "us-west"]).await;
    let _reviews = Workload::exported(&west, "reviews", 20).await;
    let client = Client::run(&east, "productpage", 30).await;
    answers_from(client.outbound(), "reviews", "us-west").await;
    let load = Load::start(client.outbound(), "reviews", 32);
    let before = roots(&east).await;
    let vault = Vault::new(DOMAIN).await;
    fs::copy(vault.path().join("root/root.crt"), east.path("root.crt")).expect("carried");

    // Its key is not at hand: what was begun is told, blocks nothing, and can be given up.
    let offline = ["rotate", "--root", "offline", "--root-cert", "root.crt", "--wait", "14s"];
    let waited = ca(&east, &[&offline[..], &["--fence", "us-west"]].concat()).await;
    assert_eq!(waited.status.code(), Some(1));
    assert!(told(&waited).contains("waits until the root, whose key is offline, has signed"), "{}", told(&waited));
    let other = ca(&east, &["rotate", "--root", "sealed"]).await;
    assert!(told(&other).contains("a rotation to another root is under way"), "{}", told(&other));
    assert!(ca(&east, &["rotate", "--abort"]).await.status.success());
    has_only(&east, &before[0]).await;
    has_only(&west, &before[0]).await;

    // With the key it is one more step of the same command.
    let mut rotating = east.spawn(
        "rotate",
        ["--admin", "unix:data/admin.sock", "ca", "rotate", "--root", "offline", "--root-cert", "root.crt"],
    );
    unsigned(&east).await;
    assert!(ca(&east, &["pending", "--export", "requests.json"]).await.status.success());
    vault.sign(&east).await;
    assert_eq!(imported(&east).await, true);
    assert!(rotating.wait(SOON).await.success(), "{}", rotating.stderr());
    let status = east.ask(["ca", "status"]).await;
    assert_eq!(
        (&status["roots"][0]["custody"], status["roots"].as_array().map(Vec::len)),
        (&"offline".into(), Some(1))
    );
    has_only(&west, &text(&status["roots"][0]["key"])).await;

    // What is kept offline stays so unless the operator says where the next one is.
    let unsaid = ca(&east, &["rotate"]).await;
    assert!(told(&unsaid).contains("--root offline --root-cert FILE"), "{}", told(&unsaid));
    let own = Vault::new(DOMAIN).await;
    for file in ["root.crt", "root.key"] {
        fs::copy(own.path().join("root").join(file), east.path(file)).expect("carried");
    }
    let rotated = ca(&east, &["rotate", "--root-cert", "root.crt", "--root-key", "root.key"]).await;
    assert!(rotated.status.success(), "{}", told(&rotated));
    let status = east.ask(["ca", "status"]).await;
    assert_eq!(status["roots"][0]["custody"], "sealed", "{status}");
    assert_ne!(status["roots"][0]["keepers"].as_array().map(Vec::len), Some(0), "{status}");
    has_only(&west, &text(&status["roots"][0]["key"])).await;

    load.goes_on(64).await;
    let report = load.stop().await;
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
}

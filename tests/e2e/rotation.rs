//! A change of root: under load, with its leader killed in every phase, and with a cluster that is not there.

use isthmus_tests::harness::{Process, wait_for, wait_until};
use serde_json::Value;

use crate::federation::{Cluster, SOON, settled, start, text};
use crate::load::Load;
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
    let [east, west] = start(["us-east", "us-west"]).await;
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

//! The drill of docs/backup.md: a federation loses every registry, starts again from a backup on one gateway, and the
//! others come back to it with the identities that they had.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use isthmus_tests::harness::wait_until;
use serde_json::Value;

use crate::federation::{Cluster, DOMAIN, SOON, settled, start, text};
use crate::workload::{Mesh, Offer, manifests};

fn shown(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A recipient's key in the cluster's directory, and the recipient.
async fn keygen(cluster: &Cluster, name: &str) -> (PathBuf, String) {
    let key = cluster.path(name);
    let answer = cluster.ask(["backup", "keygen", "--out", shown(&key)]).await;
    (key, text(&answer["recipient"]))
}

/// A backup that the cluster's gateway makes, as soon as the root's key is sealed to it.
async fn backup(cluster: &Cluster, recipient: &str) -> PathBuf {
    let file = cluster.path("federation.backup");
    let what = format!("{} to make a backup", cluster.name);
    wait_until(SOON, &what, async || {
        cluster.cli(["backup", "create", shown(&file), "--recipient", recipient]).await.status.success()
    })
    .await;
    file
}

async fn restore(cluster: &Cluster, file: &Path, key: &Path) -> Output {
    let config = cluster.path("restore.yaml");
    let absolute = fs::read_to_string(cluster.path("gateway.yaml")).expect("read");
    let absolute = absolute.replace("data_dir: data", &format!("data_dir: {}", cluster.path("data").display()));
    let absolute =
        absolute.replace("manifests: manifests", &format!("manifests: {}", cluster.path("manifests").display()));
    fs::write(&config, absolute).expect("written");
    cluster.cli(["restore", shown(file), "--identity", shown(key), "--config", shown(&config)]).await
}

fn lose_registry(cluster: &Cluster) {
    fs::remove_file(cluster.path("data/registry.redb")).expect("it was there");
}

async fn token_state(cluster: &Cluster, id: &Value) -> String {
    let tokens = cluster.ask(["token", "list"]).await;
    let token = tokens["tokens"].as_array().expect("a list").iter().find(|token| token["id"] == *id).cloned();
    text(&token.expect("on record")["state"])
}

/// Whether the gateway knows that `owner` exports the service, up or not.
async fn knows_export(cluster: &Cluster, service: &str, owner: &str) -> bool {
    let services = cluster.ask(["services"]).await;
    let mut found = services["services"].as_array().expect("a list").iter();
    let backends = found.find(|entry| entry["name"] == service).map(|entry| entry["backends"].clone());
    let backends = backends.and_then(|backends| backends.as_array().cloned()).unwrap_or_default();
    backends.iter().any(|backend| backend["cluster"] == owner && backend["exported"] == true)
}

fn is_private_and_sealed(key: &Path, file: &Path) {
    for private in [key, file] {
        assert_eq!(fs::metadata(private).expect("there").permissions().mode() & 0o777, 0o600, "{private:?}");
    }
    let sealed = fs::read(file).expect("read");
    for name in ["us-east", "us-west", "ledger", "shop", DOMAIN, "registry"] {
        assert!(!sealed.windows(name.len()).any(|window| window == name.as_bytes()), "{name} can be read");
    }
}

/// Nothing is made of a backup that was altered or is for another key.
async fn refuses_what_is_not_as_it_was_written(cluster: &Cluster, file: &Path, key: &Path) {
    let (other, _) = keygen(cluster, "other.key").await;
    let refused = restore(cluster, file, &other).await;
    assert!(told(&refused).contains("sealed to another key"), "{}", told(&refused));
    let (sealed, spoilt) = (fs::read(file).expect("read"), cluster.path("spoilt.backup"));
    let middle = sealed.len() / 2;
    let flipped = [&sealed[..middle], &[sealed[middle] ^ 1], &sealed[middle + 1..]].concat();
    for content in [&flipped, &sealed[..sealed.len() - 1], &sealed[..middle]] {
        fs::write(&spoilt, content).expect("written");
        let refused = restore(cluster, &spoilt, key).await;
        assert!(told(&refused).contains("altered or cut short"), "{}", told(&refused));
    }
    assert!(!cluster.path("data/registry.redb").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_that_lost_every_registry_starts_again_from_a_backup() {
    // Three clusters, an export, a token of each kind.
    let [mut east, mut west, mut eu] = start(["us-east", "us-west", "eu-central"]).await;
    east.write("ledger.yaml", &manifests("ledger", &[east.host(9)], Mesh::None, Offer::Exported));
    wait_until(SOON, "west to hear of the export", async || knows_export(&west, "shop/ledger", "us-east").await).await;
    let workload = west.token("--workload", "shop/ledger", "1h").await["id"].clone();
    let open = east.token("--cluster", "ap-south", "1h").await["id"].clone();
    wait_until(SOON, "west to hear of both tokens", async || {
        let tokens = west.ask(["token", "list"]).await["tokens"].clone();
        let ids: Vec<Value> = tokens.as_array().expect("a list").iter().map(|token| token["id"].clone()).collect();
        ids.contains(&workload) && ids.contains(&open)
    })
    .await;

    // The backup: its owner's alone, and without a word that can be read.
    let (key, recipient) = keygen(&west, "backup.key").await;
    let file = backup(&west, &recipient).await;
    is_private_and_sealed(&key, &file);
    let contents = west.ask(["backup", "show", shown(&file), "--identity", shown(&key)]).await;
    assert_eq!((&contents["federation"], &contents["root_key"]), (&DOMAIN.into(), &"sealed".into()), "{contents}");
    assert_eq!(contents["members"].as_array().map(Vec::len), Some(3), "{contents}");
    assert_eq!(contents["services"], 1);
    // Neither is replaced by a second one.
    assert!(!west.cli(["backup", "keygen", "--out", shown(&key)]).await.status.success());
    assert!(!west.cli(["backup", "create", shown(&file), "--recipient", &recipient]).await.status.success());

    // Everything stops. A registry that is there is not replaced.
    for cluster in [&mut east, &mut west, &mut eu] {
        cluster.crash().await;
    }
    let refused = restore(&west, &file, &key).await;
    assert!(told(&refused).contains("registry.redb exists"), "{}", told(&refused));
    lose_registry(&west);
    refuses_what_is_not_as_it_was_written(&west, &file, &key).await;

    // West starts the federation again: same members, exports and tokens; a join token that may have been used since
    // the backup is worth nothing.
    let restored = restore(&west, &file, &key).await;
    assert!(restored.status.success(), "{}", told(&restored));
    let answer: Value = serde_json::from_slice(&restored.stdout).expect("JSON");
    assert_eq!(answer["kept_identity"], true);
    west.start(None);
    west.ready().await;
    settled_alone(&west).await;
    assert!(knows_export(&west, "shop/ledger", "us-east").await);
    assert_eq!(token_state(&west, &workload).await, "open");
    assert_eq!(token_state(&west, &open).await, "revoked");

    // A gateway that still has the lost registry is told what to do, and stays out.
    east.start(None);
    wait_until(SOON, "east to be told", async || east.process().stderr().contains("run isthmus registry discard"))
        .await;
    assert_eq!(west.status().await["registry"]["voters"].as_array().map(Vec::len), Some(1));
    east.crash().await;

    // Without it, both come back with the identities that they had.
    for cluster in [&mut east, &mut eu] {
        cluster.discard_registry().await;
        cluster.start(None);
    }
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
    }
    wait_until(SOON, "eu to hear of the export", async || knows_export(&eu, "shop/ledger", "us-east").await).await;

    // The root signs: a fourth joins.
    let token = west.join_token("ap-south").await;
    let mut south = Cluster::new("ap-south", "");
    south.start(Some(&token));
    for cluster in [&south, &east, &west, &eu] {
        settled(cluster, 4).await;
    }
}

/// Waits until the only voter that is left takes writes.
async fn settled_alone(cluster: &Cluster) {
    wait_until(SOON, "the only voter to lead", async || {
        let Some(status) = cluster.admin("/v1/status").await else { return false };
        status["registry"]["role"] == "leader" && status["registry"]["stale_since"].is_null()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_lost_everything_gets_new_keys_from_the_root_in_the_backup() {
    let [mut east, mut west] = start(["us-east", "us-west"]).await;
    let (key, recipient) = keygen(&east, "backup.key").await;
    // West does not vote, so it has no root to save.
    let refused = west.cli(["backup", "create", shown(&west.path("b")), "--recipient", &recipient]).await;
    assert!(told(&refused).contains("us-east/"), "{}", told(&refused));
    let file = backup(&east, &recipient).await;
    east.crash().await;
    west.crash().await;
    fs::remove_dir_all(east.path("data")).expect("removed");
    // A gateway that the backup does not know is told which ones it knows.
    let stranger = Cluster::new("ap-south", "");
    let refused = restore(&stranger, &file, &key).await;
    assert!(told(&refused).contains("us-east/") && told(&refused).contains("us-west/"), "{}", told(&refused));

    let restored = restore(&east, &file, &key).await;
    assert!(restored.status.success(), "{}", told(&restored));
    let answer: Value = serde_json::from_slice(&restored.stdout).expect("JSON");
    assert_eq!(answer["kept_identity"], false);
    east.start(None);
    east.ready().await;
    // One that had a registry does not begin with none, unless an operator says so.
    lose_registry(&west);
    west.start(None);
    assert!(!west.process().wait(SOON).await.success());
    assert!(west.process().stderr().contains("which this gateway had, is gone"), "{}", west.process().stderr());
    west.discard_registry().await;
    west.start(None);
    for cluster in [&east, &west] {
        settled(cluster, 2).await;
    }
    let token = east.join_token("eu-central").await;
    let mut eu = Cluster::new("eu-central", "");
    eu.start(Some(&token));
    for cluster in [&east, &west, &eu] {
        settled(cluster, 3).await;
    }
}

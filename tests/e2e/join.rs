//! Joining: tokens that work once, and every kind that does not; crashes and waits on the way.

use std::fs;
use std::time::Duration;

use isthmus_identity::BearerToken;
use isthmus_tests::harness::{Loopback, Process, wait_until};
use isthmus_tests::wan::{Direction, Link, Shape};
use serde_json::Value;

use crate::federation::{Cluster, DOMAIN, SOON, port, settled, start, text};

/// How long the answer to a join is on its way when a test wants to crash the joiner before it arrives.
const ANSWER_DELAY: Duration = Duration::from_millis(700);

fn parse(token: &str) -> BearerToken {
    token.parse().expect("a token")
}

/// Starts a gateway that is expected to give up, and returns its exit code and what it said.
async fn refused(config: &str, cluster: &Cluster, token: &str) -> (Option<i32>, String) {
    fs::write(cluster.path("gateway.yaml"), config).expect("written");
    let mut process = cluster.spawn("refused", ["gateway", "--config", "gateway.yaml", "--join", token]);
    let status = process.wait(SOON).await;
    let told = process.stderr();
    fs::remove_file(cluster.path("refused.stderr")).expect("written");
    (status.code(), told)
}

async fn state_of(cluster: &Cluster, id: &str) -> Option<String> {
    let tokens = cluster.admin("/v1/tokens").await?;
    let token = tokens["tokens"].as_array()?.iter().find(|token| token["id"] == id)?.clone();
    token["state"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_clusters_join_and_every_bad_token_is_refused_with_its_reason() {
    // Three clusters: the good case, and the ground for all the others.
    let [east, west, eu] = start(["us-east", "us-west", "eu-central"]).await;
    for cluster in [&east, &west, &eu] {
        let names = cluster.ask(["clusters"]).await["clusters"].clone();
        let names: Vec<String> = names.as_array().expect("a list").iter().map(|c| text(&c["name"])).collect();
        assert_eq!(names, ["eu-central", "us-east", "us-west"]);
    }

    // Every token there is, before the registry's revision is noted.
    let tokens = east.ask(["token", "list"]).await;
    let used = tokens["tokens"].as_array().expect("a list").iter().filter(|token| token["state"] == "used");
    assert_eq!(used.count(), 2, "{tokens}");
    let expired = east.token("--cluster", "ap-south", "1s").await;
    let revoked = east.token("--cluster", "ap-south", "10m").await;
    let answer = east.ask(["token", "revoke", &text(&revoked["id"])]).await;
    assert_eq!(answer["changed"], true);
    let good = east.join_token("ap-south").await;
    let spent = east.join_token("ap-north").await;
    let mut north = Cluster::new("ap-north", "");
    north.start(Some(&spent));
    settled(&north, 4).await;
    wait_until(SOON, "the token to expire", async || {
        state_of(&east, &text(&expired["id"])).await.as_deref() == Some("expired")
    })
    .await;
    let before = east.revision().await;

    // A gateway with a new data directory presents each of them.
    let south = Cluster::new("ap-south", "");
    let right = south.config(DOMAIN, "ap-south", "join: {attempt: 2s, deadline: 4s}");
    let cases = bad_tokens(&right, &good, &spent, &text(&expired["token"]), &text(&revoked["token"]));
    let mut reasons = Vec::new();
    for (case, config, token, reason) in cases {
        let (code, told) = refused(&config, &south, &token).await;
        assert_eq!(code, Some(1), "{case}: {told}");
        let last = told.lines().last().unwrap_or_default().to_owned();
        assert!(last.starts_with("isthmus: ") && last.contains(reason), "{case}: {told}");
        assert!(!told.contains(&token), "{case}: the token is not repeated: {told}");
        reasons.push(last);
    }
    reasons.sort();
    reasons.dedup();
    assert_eq!(reasons.len(), 9, "distinct: {reasons:#?}");

    // A slip of the hand is found before anything is dialed: wrong usage.
    let (code, told) = refused(&right, &south, &flip_last(&good)).await;
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("the token is damaged: copy it again"), "{told}");

    // None of it changed anything, and the token that all of them imitated still works.
    assert_eq!(east.revision().await, before);
    let mut south = south;
    fs::write(south.path("gateway.yaml"), &right).expect("written");
    south.start(Some(&good));
    settled(&south, 5).await;
}

/// What is wrong, the configuration and the token to start with, and the reason that must be told.
type Case = (&'static str, String, String, &'static str);

/// Every token that must not work, made from one that does.
fn bad_tokens(right: &str, good: &str, spent: &str, expired: &str, revoked: &str) -> [Case; 9] {
    let altered = |alter: fn(&mut BearerToken)| {
        let mut token = parse(good);
        alter(&mut token);
        token.to_string()
    };
    let unknown = {
        let BearerToken { federation, cluster, contacts, root, .. } = parse(good);
        BearerToken::mint(federation, cluster, contacts, root).to_string()
    };
    let right = right.to_owned();
    let north = right.replace("ap-south\n", "ap-north\n");
    [
        ("used", north.clone(), spent.to_owned(), "was used already"),
        ("expired", right.clone(), expired.to_owned(), "the token expired"),
        ("revoked", right.clone(), revoked.to_owned(), "was revoked"),
        ("unknown", right.clone(), unknown, "the token is unknown"),
        ("other secret", right.clone(), altered(|token| token.secret = other_secret()), "secret does not match"),
        ("other root", right.clone(), altered(|token| token.root.0[0] ^= 1), "a root that is not the token's"),
        (
            "for another cluster, told by the token",
            right.clone(),
            altered(|token| token.cluster = Some("eu-central".parse().expect("valid"))),
            "the token is for cluster eu-central, the configuration says ap-south",
        ),
        (
            "for another cluster, told by the registry",
            north,
            altered(|token| token.cluster = Some("ap-north".parse().expect("valid"))),
            "the token is for cluster ap-south, not for ap-north",
        ),
        (
            "for another federation",
            right.replace(DOMAIN, "other.mesh"),
            good.to_owned(),
            "the token is for federation acme.mesh, the configuration says other.mesh",
        ),
    ]
}

fn other_secret() -> isthmus_identity::TokenSecret {
    isthmus_identity::TokenSecret::from_slice(&[7; 32]).expect("32 bytes")
}

/// The token with one bit of its last character but one flipped.
fn flip_last(token: &str) -> String {
    let (head, tail) = token.split_at(token.len() - 2);
    let flipped = if tail.starts_with('A') { 'B' } else { 'A' };
    format!("{head}{flipped}{}", &tail[1..])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_starts_again_whatever_token_it_is_given() {
    let [east, mut west] = start(["us-east", "us-west"]).await;
    let before = east.revision().await;
    let node = west.status().await["registry"]["node"].clone();

    // An orchestrator repeats the command line: with a used token, or with another cluster's.
    let used = west_token(&east).await;
    for token in [None, Some(used.as_str())] {
        west.crash().await;
        west.start(token);
        settled(&west, 2).await;
        assert_eq!(west.status().await["registry"]["node"], node);
    }
    west.process().wait_for_output(SOON, "the token is not needed").await;
    assert_eq!(state_of(&east, &parse(&used).id.to_string()).await.as_deref(), Some("open"));
    assert_eq!(east.revision().await, before + 1, "only the token's own entry");
}

async fn west_token(east: &Cluster) -> String {
    east.join_token("us-west").await
}

/// The joiner dies after the federation has admitted it and before it knows: the same token must go on
/// working for the same key, and for no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_killed_half_way_is_finished_by_the_same_token() {
    let mut east = Cluster::new("us-east", "found: true");
    east.start(None);
    east.ready().await;
    let block = Loopback::block();
    let link = Link::start(block.address(1, port::EAST_WEST), east.at(port::EAST_WEST)).await.expect("a free port");
    link.shape(Direction::Backward, Shape { delay: ANSWER_DELAY, ..Shape::default() });
    let token = east.join_token("us-west").await;
    let id = parse(&token).id.to_string();
    let mut slow = parse(&token);
    slow.contacts = vec![link.address()];

    // The redemption is agreed, its answer is on the way: kill.
    let mut west = Cluster::new("us-west", "");
    west.start(Some(&slow.to_string()));
    wait_until(SOON, "the token to be used", async || state_of(&east, &id).await.as_deref() == Some("used")).await;
    west.crash().await;
    assert!(west.path("data/identity.next").exists() && !west.path("data/node.json").exists(), "killed half way");

    // Another machine that got hold of the token is too late.
    let thief = Cluster::new("us-west", "");
    let (code, told) = refused(&thief.config(DOMAIN, "us-west", ""), &thief, &token).await;
    assert!(code == Some(1) && told.contains("was used already"), "{told}");

    // The same gateway with the same token is the same join.
    west.start(Some(&token));
    settled(&west, 2).await;
    settled(&east, 2).await;
    assert!(west.path("data/node.json").exists() && !west.path("data/identity.next").exists());

    // Killed at other moments it finishes too: as soon as it has a key, and as soon as it is a member.
    for (name, file) in [("eu-central", "data/identity.next"), ("ap-south", "data/node.json")] {
        let token = east.join_token(name).await;
        let mut joiner = Cluster::new(name, "");
        joiner.start(Some(&token));
        // The key is there for a moment only; what comes after it will do as well.
        wait_until(SOON, file, async || joiner.path(file).exists() || joiner.path("data/node.json").exists()).await;
        joiner.crash().await;
        joiner.start(Some(&token));
        joiner.ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_waits_for_a_contact_that_is_not_up_yet() {
    let mut east = Cluster::new("us-east", "found: true");
    east.start(None);
    east.ready().await;
    let token = east.join_token("us-west").await;
    east.crash().await;

    // It says what it waits for, and does not give up.
    let mut west = Cluster::new("us-west", "");
    west.start(Some(&token));
    west.process().wait_for_output(SOON, "still waiting for a contact to answer the join").await;
    assert!(is_running(west.process()));
    east.start(None);
    settled(&west, 2).await;

    // With nobody to wait for, it ends after its deadline with what to check.
    let lonely = Cluster::new("us-west", "");
    let mut dead = parse(&token);
    dead.contacts = vec![lonely.at(port::EAST_WEST + 1)];
    let config = lonely.config(DOMAIN, "us-west", "join: {attempt: 500ms, deadline: 1s}");
    let (code, told) = refused(&config, &lonely, &dead.to_string()).await;
    assert_eq!(code, Some(1));
    assert!(told.contains("no contact of the token answered in time"), "{told}");
}

fn is_running(process: &Process) -> bool {
    process.pid().is_some_and(|pid| fs::exists(format!("/proc/{pid}/fd/1")).unwrap_or(false))
}

/// A workload's token is no join token: said at once, not after a minute of trying.
#[tokio::test(flavor = "multi_thread")]
async fn a_workload_token_admits_no_gateway() {
    let mut east = Cluster::new("us-east", "found: true");
    east.start(None);
    east.ready().await;
    let token: Value = east.token("--workload", "shop/reviews", "10m").await;
    let token = parse(&text(&token["token"]));
    let before = east.revision().await;
    let other = Cluster::new("us-east", "");
    let config = other.config(DOMAIN, "us-east", "gateway: gw-2");
    // As it was made, it leads to where sidecars call; and who alters it gets no further.
    for (contact, reason) in [
        (port::CONTROL, "takes no joins: is this a workload token?"),
        (port::EAST_WEST, "the token is of the wrong kind"),
    ] {
        let token = BearerToken { contacts: vec![east.at(contact)], ..token.clone() };
        let (code, told) = refused(&config, &other, &token.to_string()).await;
        assert_eq!(code, Some(1));
        assert!(told.contains(reason), "{told}");
        assert_eq!(east.revision().await, before);
    }
}

use isthmus_identity::{OpeningKey, RootAuthority};
use isthmus_model::blob::Blob;
use isthmus_model::command::Entry;
use isthmus_model::fixture;
use isthmus_model::registry::node::{Certificates, NodeId, SealingKey};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::Envelopes;

use super::*;
use crate::admin::fixture::World;

impl World {
    /// What a gateway tells of itself.
    fn tell(&self, origin: &str, command: Command) {
        let mut registry = self.registry.lock().expect("no panic holds it");
        let at = SystemTime::now().into();
        registry.apply(&Entry { origin: origin.parse().expect("valid"), at, command }).expect("accepted");
        self.publish.send_replace(std::sync::Arc::new(registry.clone()));
    }

    fn acknowledge(&self, origin: &str, node: NodeId, root: Digest, phase: Phase) {
        self.tell(origin, Command::Acknowledge { node, root, phase });
    }

    fn ca(&self) -> api::Ca {
        self.state.read(SystemTime::now().into()).ca()
    }
}

fn go_on(root: Digest, from: Phase, fence: &[&str]) -> api::Advance {
    api::Advance { root, from, fence: fence.iter().map(|name| name.parse().expect("valid")).collect() }
}

#[tokio::test]
async fn a_rotation_is_begun_once_and_goes_on_when_every_cluster_has_done_its_part() {
    let world = World::new();
    let first = world.ca().roots[0].key;
    let begun = start(&world.state, None).await.expect("begun");
    let root = begun.root;
    assert!(begun.changed && root != first);
    assert_eq!(start(&world.state, None).await, Ok(api::RotationStarted { root, changed: false }), "it goes on");

    let ca = world.ca();
    let signs: Vec<_> = ca.roots.iter().map(|root| (root.key, root.signs)).collect();
    assert_eq!(signs, [(first, true), (root, false)]);
    assert_eq!(ca.roots[1].subject, "O=acme.mesh, CN=acme.mesh root");
    let keepers: Vec<_> = ca.roots[1].keepers.iter().map(|keeper| keeper.node).collect();
    assert_eq!((ca.roots[1].custody, keepers), (api::Custody::Sealed, vec![1]), "sealed to those that vote");

    world.acknowledge("us-east", 1, root, Phase::Distribute);
    let refused = advance(&world.state, go_on(root, Phase::Distribute, &[])).await.expect_err("us-west is missing");
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.message.starts_with("us-west has not done its part"), "{}", refused.message);
    world.acknowledge("us-west", 2, root, Phase::Distribute);
    let gone_on = advance(&world.state, go_on(root, Phase::Distribute, &["us-west"])).await.expect("all have");
    assert_eq!(gone_on, api::RotationChanged { changed: true, fenced: Vec::new() }, "nobody is fenced needlessly");
    assert_eq!(world.ca().rotation.map(|rotation| rotation.phase), Some(Phase::Reissue));

    // The answer was lost, and the request is made again: the next phase is another matter.
    let again = advance(&world.state, go_on(root, Phase::Distribute, &["us-west"])).await.expect("done already");
    assert_eq!(again, api::RotationChanged { changed: false, fenced: Vec::new() });
    let requests = fixture::requests(11);
    let authority_key = requests.authority_key;
    world.tell("us-east", Command::RequestCertificates { node: 1, requests });
    let certificates = Certificates { root, ..fixture::certificates(0) };
    world.tell("us-east", Command::Issue { node: 1, authority_key, certificates });
    let late = abort(&world.state).await.expect_err("the new root has signed");
    assert!(late.message.contains("no way back"), "{}", late.message);
}

#[tokio::test]
async fn a_cluster_that_stays_away_is_fenced_if_the_operator_says_so() {
    let world = World::new();
    let root = start(&world.state, None).await.expect("begun").root;
    world.acknowledge("us-east", 1, root, Phase::Distribute);
    let gone_on = advance(&world.state, go_on(root, Phase::Distribute, &["us-west"])).await.expect("fenced");
    assert_eq!(gone_on.fenced, ["us-west".parse().expect("valid")]);
    let clusters = world.ca().rotation.expect("under way").clusters;
    let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    assert_eq!(names, ["us-east"]);
}

#[tokio::test]
async fn a_rotation_that_signed_nothing_is_given_up_without_a_trace() {
    let world = World::new();
    let before = world.ca();
    start(&world.state, None).await.expect("begun");
    assert_eq!(abort(&world.state).await, Ok(api::RotationChanged { changed: true, fenced: Vec::new() }));
    assert_eq!(world.ca(), before);
}

#[tokio::test]
async fn a_learner_makes_no_root() {
    let mut world = World::new();
    let mut status = world.state.status.borrow().clone();
    status.voters = vec![2];
    world.state.status = tokio::sync::watch::Sender::new(status).subscribe();
    let refused = start(&world.state, None).await.expect_err("it does not vote");
    assert!(refused.message.contains("does not vote"), "{}", refused.message);
    assert_eq!(world.ca().roots.len(), 1);
}

#[tokio::test]
async fn roots_that_come_from_the_operator_are_checked_before_they_are_trusted() {
    let world = World::new();
    let refused = async |next: api::NextRoot| start(&world.state, Some(next)).await.expect_err("refused").message;
    let made = |domain: &str| RootAuthority::create(&domain.parse().expect("valid"), SystemTime::now()).expect("made");
    let (root, other) = (made("acme.mesh"), made("other.mesh"));
    let certificate = |root: &RootAuthority| Blob(root.certificate().to_vec());
    let offline = |certificate| api::NextRoot::Offline { certificate };
    assert!(refused(offline(certificate(&other))).await.contains("made for the federation other.mesh"));
    assert!(refused(offline(Blob(vec![0x30, 0]))).await.contains("not X.509"));

    let keepers = world.state.read(SystemTime::now().into()).keepers().expect("founded").keepers;
    let sealed = |root: &RootAuthority, to: &SealingKey| {
        let envelopes = keepers.iter().map(|keeper| (keeper.node, root.seal(keeper.node, to).expect("sealed")));
        Envelopes(envelopes.collect())
    };
    let own = |root: &RootAuthority, envelopes| api::NextRoot::Own { certificate: certificate(root), envelopes };
    let (mine, stranger) = (world.state.opening_key.public(), OpeningKey::generate().expect("made").public());
    assert!(refused(own(&root, Envelopes::default())).await.contains("not sealed to those that vote"));
    assert!(refused(own(&root, sealed(&root, &stranger))).await.contains("cannot be opened by this gateway"));
    let anothers_key = own(&root, sealed(&made("acme.mesh"), &mine));
    assert!(refused(anothers_key).await.contains("cannot be opened by this gateway"));
    assert_eq!(world.ca().roots.len(), 1, "nothing was begun");

    let begun = start(&world.state, Some(own(&root, sealed(&root, &mine)))).await.expect("begun");
    assert_eq!(begun.root, root.digest());
    let again = start(&world.state, Some(own(&root, sealed(&root, &mine)))).await.expect("the same root");
    assert!(!again.changed);
    let elsewhere = refused(offline(certificate(&root))).await;
    assert!(elsewhere.contains("to another root is under way"), "its key is sealed by now: {elsewhere}");
    assert!(refused(offline(certificate(&made("acme.mesh")))).await.contains("to another root is under way"));
}

#[tokio::test]
async fn the_next_of_an_offline_root_has_to_be_named() {
    let world = World::new();
    let root = RootAuthority::create(&"acme.mesh".parse().expect("valid"), SystemTime::now()).expect("made");
    let next = api::NextRoot::Offline { certificate: root.certificate().to_vec().into() };
    let root = start(&world.state, Some(next)).await.expect("begun").root;
    for (cluster, node) in [("us-east", 1), ("us-west", 2)] {
        world.acknowledge(cluster, node, root, Phase::Distribute);
    }
    advance(&world.state, go_on(root, Phase::Distribute, &[])).await.expect("all have");
    let unsigned = |world: &World| {
        let clusters = world.ca().rotation.expect("under way").clusters;
        clusters.iter().map(|cluster| (cluster.name.to_string(), cluster.unsigned)).collect::<Vec<_>>()
    };
    assert_eq!(unsigned(&world), [("us-east".to_owned(), false), ("us-west".to_owned(), false)], "not asked yet");
    world.tell("us-west", Command::RequestCertificates { node: 2, requests: fixture::requests(12) });
    assert_eq!(unsigned(&world), [("us-east".to_owned(), false), ("us-west".to_owned(), true)]);
    let both = go_on(root, Phase::Reissue, &["us-east", "us-west"]);
    let waits = advance(&world.state, both).await.expect_err("the operator has to sign");
    assert!(waits.message.starts_with("us-west waits for the root, whose key is offline"), "{}", waits.message);

    for (cluster, node, key) in [("us-east", 1, 11), ("us-west", 2, 12)] {
        let requests = fixture::requests(key);
        let authority_key = requests.authority_key;
        world.tell(cluster, Command::RequestCertificates { node, requests });
        let certificates = Certificates { root, ..fixture::certificates(0) };
        world.tell("us-east", Command::Issue { node, authority_key, certificates });
        world.acknowledge(cluster, node, root, Phase::Reissue);
    }
    advance(&world.state, go_on(root, Phase::Reissue, &[])).await.expect("all have");
    let unsaid = start(&world.state, None).await.expect_err("where is the next one?");
    assert!(unsaid.message.contains("--root offline --root-cert FILE"), "{}", unsaid.message);
    start(&world.state, Some(api::NextRoot::Sealed)).await.expect("begun");
}

#[tokio::test]
async fn open_tokens_of_the_old_root_are_counted() {
    let world = World::new();
    let token = |number: u8| Command::MintToken {
        id: isthmus_model::registry::token::TokenId::from_random([number; 8]),
        secret_hash: Digest([number; 32]),
        grant: fixture::join("eu-central"),
        expires_at: isthmus_model::time::UnixMillis(u64::MAX),
        gateway: "gw-1".parse().expect("valid"),
        root: Digest([fixture::ROOT; 32]),
    };
    world.tell("us-east", token(1));
    let root = start(&world.state, None).await.expect("begun").root;
    assert_eq!(world.ca().outdated_tokens, 0, "the old root signs still");
    world.acknowledge("us-east", 1, root, Phase::Distribute);
    world.acknowledge("us-west", 2, root, Phase::Distribute);
    advance(&world.state, go_on(root, Phase::Distribute, &[])).await.expect("all have");
    assert_eq!(world.ca().outdated_tokens, 1);
}

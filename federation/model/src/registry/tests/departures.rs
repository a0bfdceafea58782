//! Draining, leaving, fencing, and coming back.

use super::super::departure::{DENIED_MARGIN, Manner, WHY_LEN_MAX};
use super::*;

fn fence(name: &str) -> Command {
    Command::Fence { cluster: cluster(name), why: "its key was stolen".to_owned() }
}

fn unfence(name: &str) -> Command {
    Command::Unfence { cluster: cluster(name) }
}

fn leave(name: &str) -> Command {
    Command::Leave { cluster: cluster(name) }
}

#[test]
fn a_fenced_cluster_loses_everything_and_its_keys_are_denied() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", set("shop/reviews", export([9080])));
    fed.changes("us-west", mint(2, join("us-west")));
    fed.changes("us-west", mint(9, workload("us-west")));
    fed.changes("us-east", mint(3, join("us-west")));
    fed.changes("us-east", fence("us-west"));
    fed.leaves_as_is("us-east", fence("us-west"));

    assert!(fed.registry.exports().is_empty() && fed.registry.clusters().len() == 1);
    let [key, authority] = [Digest([2; 32]), Digest([!2; 32])];
    assert!(fed.registry.denied().contains_key(&key) && fed.registry.denied().contains_key(&authority));
    // It proposes nothing more; neither its invitations work nor those that it held.
    fed.refuses("us-west", set("shop/reviews", export([9080])), Refusal::NotMember { origin: cluster("us-west") });
    fed.refuses("us-east", redeem(2, introduction("us-west", 3)), Refusal::TokenRevoked);
    assert_eq!(fed.registry.token(&token_id(9)).expect("on record").revoked_at, None, "its workloads are its own");
    fed.refuses("us-east", redeem(3, introduction("us-west", 3)), Refusal::TokenRevoked);
    let manner = &fed.registry.departed()[&cluster("us-west")].manner;
    assert_eq!(*manner, Manner::Fenced { why: "its key was stolen".to_owned() });
}

#[test]
fn a_fence_can_be_taken_back_until_the_cluster_joins_anew() {
    let mut fed = Federated::of_two();
    fed.changes("us-east", fence("us-west"));
    let nodes = fed.registry.departed()[&cluster("us-west")].nodes.clone();
    fed.changes("us-east", unfence("us-west"));
    assert_eq!(fed.registry.nodes()[&2], nodes[&2]);
    assert!(fed.registry.denied().is_empty());
    fed.changes("us-west", set("shop/reviews", export([9080])));

    fed.changes("us-east", fence("us-west"));
    // Its old keys do not open the door; new ones with a new token do.
    fed.changes("us-east", mint(4, join("us-west")));
    fed.refuses("us-east", redeem(4, introduction("us-west", 2)), Refusal::KeyDenied);
    assert_eq!(fed.apply("us-east", redeem(4, introduction("us-west", 5))), Ok(Outcome::Admitted { node: 3 }));
    fed.changes("us-east", issue(3, 5, ROOT));
    assert!(fed.registry.denied().contains_key(&Digest([2; 32])), "the old keys stay denied");
    fed.refuses("us-east", unfence("us-west"), Refusal::NotFenced { cluster: cluster("us-west") });
}

#[test]
fn only_administrators_act_on_others_and_one_always_remains() {
    let mut fed = Federated::of_two();
    fed.joins(2, "eu-central", 3);
    let refusal = || Refusal::NotAdministrator { origin: cluster("us-west") };
    fed.refuses("us-west", fence("eu-central"), refusal());
    fed.refuses("us-west", leave("eu-central"), refusal());
    fed.refuses("us-west", Command::Drain { cluster: cluster("eu-central"), draining: true }, refusal());
    let administrator = |name, administrator| Command::SetAdministrator { cluster: cluster(name), administrator };
    fed.refuses("us-west", administrator("us-west", true), refusal());
    fed.refuses("us-east", fence("us-east"), Refusal::FencesItself);
    let last = || Refusal::LastAdministrator { cluster: cluster("us-east") };
    fed.refuses("us-east", leave("us-east"), last());
    fed.refuses("us-east", administrator("us-east", false), last());
    let unknown = Refusal::ClusterUnknown { cluster: cluster("nowhere") };
    fed.refuses("us-east", administrator("nowhere", true), unknown.clone());
    fed.refuses("us-east", fence("nowhere"), unknown);
    let long = Command::Fence { cluster: cluster("us-west"), why: "x".repeat(WHY_LEN_MAX + 1) };
    fed.refuses("us-east", long, limit("bytes of a reason", WHY_LEN_MAX));

    fed.changes("us-east", administrator("us-west", true));
    fed.leaves_as_is("us-east", administrator("us-west", true));
    // Not the last one that can open the root's key, though.
    fed.refuses("us-west", fence("us-east"), Refusal::LastKeeper { cluster: cluster("us-east") });
    let envelopes = fixture::envelopes([1, 2]);
    fed.changes("us-east", Command::Reseal { root: Digest([ROOT; 32]), envelopes });
    fed.changes("us-west", fence("us-east"));
    assert_eq!(fed.registry.federation().expect("founded").administrators, BTreeSet::from([cluster("us-west")]));
}

#[test]
fn a_cluster_that_left_is_gone_with_its_keys_and_comes_back_only_with_new_ones() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", set("shop/reviews", export([9080])));
    fed.changes("us-west", leave("us-west"));
    assert!(fed.registry.exports().is_empty());
    fed.refuses("us-east", unfence("us-west"), Refusal::NotFenced { cluster: cluster("us-west") });
    fed.changes("us-east", mint(2, join("us-west")));
    fed.refuses("us-east", redeem(2, introduction("us-west", 2)), Refusal::KeyDenied);
    assert!(fed.apply("us-east", redeem(2, introduction("us-west", 3))).is_ok());
}

#[test]
fn draining_is_noted_with_its_beginning_and_ends_with_the_membership() {
    let mut fed = Federated::of_two();
    let drain = |draining| Command::Drain { cluster: cluster("us-west"), draining };
    fed.leaves_as_is("us-west", drain(false));
    fed.now = 7;
    fed.changes("us-west", drain(true));
    fed.now = 9;
    fed.leaves_as_is("us-east", drain(true));
    assert_eq!(fed.registry.draining_since(&cluster("us-west")), Some(UnixMillis(7)));
    fed.changes("us-east", drain(false));
    fed.changes("us-east", drain(true));
    fed.changes("us-west", leave("us-west"));
    assert_eq!(fed.registry.draining_since(&cluster("us-west")), None);
}

#[test]
fn denied_keys_are_forgotten_after_their_last_certificate() {
    let mut fed = Federated::of_two();
    fed.joins(2, "eu-central", 3);
    let ends = UnixMillis(1_000);
    if let Some(issued) = fed.registry.nodes.get_mut(&2).and_then(|node| node.issued.last_mut()) {
        issued.certificates.not_after = ends;
    }
    fed.changes("us-east", fence("us-west"));
    assert!(fed.registry.denied().contains_key(&Digest([2; 32])));
    fed.now = ends.saturating_add(DENIED_MARGIN).0;
    fed.changes("us-east", fence("eu-central"));
    assert!(!fed.registry.denied().contains_key(&Digest([2; 32])));
    assert!(fed.registry.denied().contains_key(&Digest([3; 32])));
}

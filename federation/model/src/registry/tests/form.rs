//! The form in which a registry lies on disk, in snapshots on the way and in backups: it outlives this code.

use super::*;
use crate::registry::restoration::{Restoration, Survivor};
use crate::registry::trust::Envelope;

/// As it was written on 2026-11-26, when the maps in it were the standard library's.
const WRITTEN: &str = include_str!("form.json");

/// Something of everything that a registry can hold.
fn rich() -> Registry {
    let mut fed = Federated::of_two();
    for (token, name, key) in [(2, "eu-central", 3), (3, "ap-south", 4)] {
        fed.joins(token, name, key);
    }
    fed.now = 10;
    fed.changes("us-east", mint(4, workload("us-east")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(4) });
    fed.changes("us-east", mint(5, invite("sa-east", |invitation| invitation.uses = 3)));
    let identity = "shop/reviews".parse().expect("a workload");
    let known = Export { identities: BTreeSet::from([identity]), terminated: true, ..export([80, 9080]) };
    for (origin, name) in [("us-west", "shop/reviews"), ("us-east", "shop/reviews"), ("us-east", "shop/gone")] {
        fed.now += 1;
        fed.changes(origin, set(name, known.clone()));
    }
    fed.changes("us-east", set("data/ledger", export([5432])));
    fed.changes("us-east", set("shop/over", export([80])));
    for name in ["shop/over", "shop/gone"] {
        fed.changes("us-east", Command::WithdrawExport { service: service(name) });
    }
    fed.changes("us-east", Command::Drain { cluster: cluster("us-west"), draining: true });
    fed.changes("us-east", Command::Leave { cluster: cluster("eu-central") });
    fed.changes("us-east", Command::Fence { cluster: cluster("ap-south"), why: "because".to_owned() });
    fed.changes("us-west", Command::RequestCertificates { node: 2, requests: requests(9) });
    fed.changes("us-east", Command::StartRotation { root: fixture::root(0xbb, [FOUNDER]) });
    let (root, phase) = (Digest([0xbb; 32]), Phase::Distribute);
    fed.changes("us-east", Command::Acknowledge { node: FOUNDER, root, phase });
    let restoration = Restoration {
        lineage: Digest([42; 32]),
        survivor: Survivor::Known(FOUNDER),
        taken_at: UnixMillis(20),
        at: UnixMillis(30),
    };
    let seal = |_: NodeId, _: &Root| Ok(Envelope { encapsulated: vec![1].into(), ciphertext: vec![2].into() });
    let restored: Result<_, Refusal> = fed.registry.restored(&restoration, seal);
    restored.expect("restored").0
}

#[test]
fn what_was_written_before_reads_back_and_is_written_alike() {
    let read: Registry = serde_json::from_str(WRITTEN).expect("the form of before");
    assert_eq!(serde_json::to_string_pretty(&read).expect("a registry is JSON"), WRITTEN.trim_end());
}

#[test]
fn the_same_entries_make_what_was_written_before() {
    assert_eq!(serde_json::to_string_pretty(&rich()).expect("a registry is JSON"), WRITTEN.trim_end());
}

#[test]
fn what_is_read_goes_on_like_what_was_applied() {
    let (mut applied, mut read) = (rich(), serde_json::from_str::<Registry>(WRITTEN).expect("the form of before"));
    for command in [
        // The first gets its number back, the second is the next one.
        set("shop/gone", export([81])),
        set("shop/new", export([80])),
        Command::WithdrawExport { service: service("data/ledger") },
        Command::Leave { cluster: cluster("us-west") },
    ] {
        let next = entry("us-east", 40, command);
        assert_eq!(read.apply(&next), applied.apply(&next));
        assert_eq!(read, applied);
    }
}

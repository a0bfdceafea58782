//! From one root to the next, and who may open the present one's key.

use super::*;

const NEW: u8 = 0xbb;

fn start() -> Command {
    Command::StartRotation { root: fixture::root(NEW, [FOUNDER]) }
}

fn done(node: NodeId, phase: Phase) -> Command {
    Command::Acknowledge { node, root: Digest([NEW; 32]), phase }
}

fn advance(from: Phase) -> Command {
    Command::AdvanceRotation { root: Digest([NEW; 32]), from }
}

fn issuer(fed: &Federated) -> Digest {
    fed.registry.trust().expect("founded").issuer().key
}

#[test]
fn a_rotation_goes_on_only_when_every_gateway_has_done_its_part() {
    let mut fed = Federated::of_two();
    fed.refuses("us-west", start(), Refusal::NotAdministrator { origin: cluster("us-west") });
    fed.changes("us-east", start());
    fed.leaves_as_is("us-east", start());
    assert_eq!((fed.registry.root_certificates().len(), issuer(&fed)), (2, Digest([ROOT; 32])));

    fed.changes("us-east", done(1, Phase::Distribute));
    fed.leaves_as_is("us-east", done(1, Phase::Reissue));
    fed.refuses("us-east", done(2, Phase::Distribute), Refusal::NotOwner { origin: cluster("us-east") });
    fed.refuses("us-east", advance(Phase::Distribute), Refusal::RotationWaits { nodes: vec![2] });
    assert_eq!(fed.registry.rotation_waits_for(), [2]);
    fed.changes("us-west", done(2, Phase::Distribute));
    fed.changes("us-east", advance(Phase::Distribute));
    fed.leaves_as_is("us-east", advance(Phase::Distribute));
    assert_eq!(issuer(&fed), Digest([NEW; 32]));
    assert_eq!(fed.registry.rotation_waits_for(), [1, 2]);

    // A gateway's word is not enough: its certificates must be the new root's.
    for (origin, node, key) in [("us-east", 1, 11), ("us-west", 2, 12)] {
        fed.changes(origin, done(node, Phase::Reissue));
        fed.changes(origin, Command::RequestCertificates { node, requests: requests(key) });
        assert!(matches!(fed.apply("us-east", advance(Phase::Reissue)), Err(Refusal::RotationWaits { .. })));
        fed.refuses("us-east", issue(node, key, ROOT), Refusal::WrongIssuer);
        fed.changes("us-east", issue(node, key, NEW));
    }
    fed.changes("us-east", advance(Phase::Reissue));
    fed.leaves_as_is("us-east", advance(Phase::Reissue));
    let trust = fed.registry.trust().expect("founded");
    assert_eq!((trust.roots().len(), trust.issuer().key, trust.rotation()), (1, Digest([NEW; 32]), None));
    assert!(fed.registry.rotation_waits_for().is_empty());
    fed.refuses("us-east", start(), Refusal::SameRoot);
}

#[test]
fn a_gateway_that_is_gone_is_not_waited_for() {
    let mut fed = Federated::of_two();
    fed.changes("us-east", start());
    fed.changes("us-east", done(1, Phase::Distribute));
    fed.changes("us-east", Command::Fence { cluster: cluster("us-west"), why: String::new() });
    fed.changes("us-east", advance(Phase::Distribute));
}

#[test]
fn a_fence_is_not_taken_back_once_another_root_signs() {
    let mut fed = Federated::of_two();
    let unfence = || Command::Unfence { cluster: cluster("us-west") };
    let fence = || Command::Fence { cluster: cluster("us-west"), why: String::new() };
    fed.changes("us-east", fence());
    fed.changes("us-east", start());
    // The present root signs still: it can be reached, and does its part.
    fed.changes("us-east", unfence());
    assert_eq!(fed.registry.rotation_waits_for(), [1, 2]);

    fed.changes("us-east", fence());
    fed.changes("us-east", done(1, Phase::Distribute));
    fed.changes("us-east", advance(Phase::Distribute));
    let missed = || Refusal::MissedRotation { cluster: cluster("us-west") };
    fed.refuses("us-east", unfence(), missed());
    fed.changes("us-east", done(1, Phase::Reissue));
    fed.changes("us-east", Command::RequestCertificates { node: 1, requests: requests(11) });
    fed.changes("us-east", issue(1, 11, NEW));
    fed.changes("us-east", advance(Phase::Reissue));
    fed.refuses("us-east", unfence(), missed());
}

#[test]
fn a_rotation_is_given_up_only_before_the_new_root_has_signed() {
    let mut fed = Federated::new();
    fed.leaves_as_is("us-east", Command::AbortRotation);
    fed.changes("us-east", start());
    fed.refuses("us-east", Command::StartRotation { root: fixture::root(9, [FOUNDER]) }, Refusal::RotationUnderWay);
    fed.changes("us-east", Command::AbortRotation);
    assert_eq!(fed.registry.root_certificates().len(), 1);
    fed.refuses("us-east", advance(Phase::Distribute), Refusal::RootUnknown);
    fed.changes("us-east", start());
    fed.refuses("us-east", advance(Phase::Reissue), Refusal::RotationUnderWay);
    fed.changes("us-east", done(1, Phase::Distribute));
    fed.changes("us-east", advance(Phase::Distribute));
    // It could sign, and has not: its key may be lost.
    fed.changes("us-east", Command::AbortRotation);
    assert_eq!(issuer(&fed), Digest([ROOT; 32]));
    fed.changes("us-east", start());
    fed.changes("us-east", done(1, Phase::Distribute));
    fed.changes("us-east", advance(Phase::Distribute));
    fed.changes("us-east", Command::RequestCertificates { node: 1, requests: requests(11) });
    fed.changes("us-east", issue(1, 11, NEW));
    fed.refuses("us-east", Command::AbortRotation, Refusal::RotationUnderWay);
}

#[test]
fn a_root_may_go_offline_and_come_back() {
    let mut fed = Federated::new();
    let offline = Root { custody: trust::Custody::Offline, ..fixture::root(NEW, []) };
    fed.changes("us-east", Command::StartRotation { root: offline });
    fed.changes("us-east", done(1, Phase::Distribute));
    fed.changes("us-east", advance(Phase::Distribute));
    fed.changes("us-east", Command::RequestCertificates { node: 1, requests: requests(11) });
    fed.refuses("us-east", issue(1, 11, ROOT), Refusal::WrongIssuer);
    fed.changes("us-east", issue(1, 11, NEW));
    fed.changes("us-east", done(1, Phase::Reissue));
    fed.changes("us-east", advance(Phase::Reissue));
    let trust = fed.registry.trust().expect("founded");
    assert_eq!((trust.roots().len(), &trust.issuer().custody), (1, &trust::Custody::Offline));
    let next = fixture::root(0xcc, [FOUNDER]);
    fed.changes("us-east", Command::StartRotation { root: next });
    let keeps = |key| fed.registry.trust().expect("founded").is_keeper(&Digest([key; 32]), FOUNDER);
    assert!(keeps(0xcc) && !keeps(NEW));
}

#[test]
fn a_root_that_was_replaced_does_not_come_back_while_something_that_it_signed_may_be_valid() {
    let mut fed = Federated::new();
    let rotate = |fed: &mut Federated, root: u8, key: u8| {
        let advance = |from| Command::AdvanceRotation { root: Digest([root; 32]), from };
        let done = |phase| Command::Acknowledge { node: 1, root: Digest([root; 32]), phase };
        fed.changes("us-east", Command::StartRotation { root: fixture::root(root, [FOUNDER]) });
        fed.changes("us-east", done(Phase::Distribute));
        fed.changes("us-east", advance(Phase::Distribute));
        fed.changes("us-east", Command::RequestCertificates { node: 1, requests: requests(key) });
        fed.changes("us-east", issue(1, key, root));
        fed.changes("us-east", done(Phase::Reissue));
        fed.changes("us-east", advance(Phase::Reissue));
    };
    rotate(&mut fed, NEW, 11);
    let back = || Command::StartRotation { root: fixture::root(ROOT, [FOUNDER]) };
    fed.refuses("us-east", back(), Refusal::RootRetired);
    fed.now = UnixMillis(fed.now).saturating_add(RETIRED_ROOT_KEPT).0;
    // It signed something once. That does not keep anyone from giving this rotation up.
    fed.changes("us-east", back());
    fed.changes("us-east", done_by(ROOT, Phase::Distribute));
    fed.changes("us-east", Command::AdvanceRotation { root: Digest([ROOT; 32]), from: Phase::Distribute });
    fed.changes("us-east", Command::AbortRotation);
    assert_eq!(issuer(&fed), Digest([NEW; 32]));
}

fn done_by(root: u8, phase: Phase) -> Command {
    Command::Acknowledge { node: 1, root: Digest([root; 32]), phase }
}

#[test]
fn a_roots_key_is_sealed_anew_only_by_who_can_open_it_and_only_to_members() {
    let mut fed = Federated::of_two();
    let reseal = |keepers: &[NodeId]| Command::Reseal {
        root: Digest([ROOT; 32]),
        envelopes: fixture::envelopes(keepers.iter().copied()),
    };
    fed.refuses("us-west", reseal(&[2]), Refusal::NotKeeper { origin: cluster("us-west") });
    fed.refuses("us-east", reseal(&[1, 9]), Refusal::NodeUnknown { node: 9 });
    fed.refuses("us-east", reseal(&[]), limit("gateways that keep the root's key", ENVELOPES_MAX));
    let unknown = Command::Reseal { root: Digest([9; 32]), envelopes: fixture::envelopes([1]) };
    fed.refuses("us-east", unknown, Refusal::NotKeeper { origin: cluster("us-east") });
    fed.changes("us-east", reseal(&[1, 2]));
    fed.leaves_as_is("us-west", reseal(&[1, 2]));
    let keeps = |fed: &Federated, node| fed.registry.trust().expect("founded").is_keeper(&Digest([ROOT; 32]), node);
    assert!(keeps(&fed, 2));
    fed.changes("us-east", Command::Fence { cluster: cluster("us-west"), why: String::new() });
    assert!(!keeps(&fed, 2), "nothing is sealed to one that is gone");
}

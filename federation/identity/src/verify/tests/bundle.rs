//! Genuine chains, and what a bundle takes for its roots.

use super::*;

#[test]
fn a_workload_of_the_federation_verifies_for_both_ends() {
    let federation = Federation::found();
    let chain = svid(&federation);
    let with_root = [chain.clone(), vec![federation.root.certificate().to_vec()]].concat();
    for chain in [ders(&chain), ders(&with_root)] {
        for usage in [PeerUsage::Client, PeerUsage::Server] {
            let verified = federation.bundle().verify(&chain, usage, federation.now).expect("genuine");
            assert_eq!(*verified.id(), id(REVIEWS));
            assert!(verified.not_after() <= federation.now + HOUR);
        }
    }
}

#[test]
fn a_strangers_root_in_the_chain_earns_no_trust() {
    let (ours, theirs) = (Federation::found(), Federation::found());
    let chain = [svid(&theirs), vec![theirs.root.certificate().to_vec()]].concat();
    let refused = ours.bundle().verify(&ders(&chain), PeerUsage::Client, ours.now);
    assert_eq!(refused, Err(VerifyError::UnknownRoot(federation_domain())));
}

#[test]
fn two_roots_are_trusted_while_one_replaces_the_other() {
    let (old, new) = (Federation::found(), Federation::found());
    let roots = vec![old.root.certificate().to_vec(), new.root.certificate().to_vec()];
    let both = TrustBundle::new(federation_domain(), roots).expect("a bundle");
    for federation in [&old, &new] {
        both.verify(&ders(&svid(federation)), PeerUsage::Server, federation.now).expect("trusted");
    }
}

#[test]
fn a_bundle_refuses_what_is_no_root() {
    let federation = Federation::found();
    let root = federation.root.certificate().to_vec();
    let bundle = |roots| TrustBundle::new(federation_domain(), roots);
    assert!(matches!(bundle(vec![]), Err(IdentityError::RootCount(0))));
    assert!(matches!(bundle(vec![root.clone(); ROOTS_MAX + 1]), Err(IdentityError::RootCount(_))));
    let cases = [vec![], b"nonsense".to_vec(), [&root[..], b"x"].concat(), svid(&federation).remove(0)];
    for der in cases {
        assert!(matches!(bundle(vec![der]), Err(IdentityError::Certificate { .. })));
    }
    let intermediate = federation.cluster("us-east").certificate().to_vec();
    let refused = bundle(vec![intermediate]).expect_err("no room below it").to_string();
    assert!(refused.contains("path length of 0"), "{refused}");
    let mut forged = root;
    *forged.last_mut().expect("not empty") ^= 1;
    assert!(bundle(vec![forged]).is_err());
}

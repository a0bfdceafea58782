//! Who issued whom.

use super::*;

#[test]
fn a_cluster_cannot_vouch_for_another() {
    let forger = Forger::new();
    let west = "spiffe://us-west.acme.mesh/ns/shop/sa/reviews";
    let refused = forger.verdict(&leaf(&[west], forger.now)).expect_err("foreign");
    let text = "the peer claims trust domain us-west.acme.mesh, but its certificate was issued by us-east.acme.mesh";
    assert_eq!(refused.to_string(), text);

    // Nor does it help to show the other cluster's genuine intermediate beside it.
    let west_ca = authority("west", Some("us-west.acme.mesh"), Some(0), forger.now);
    let west_ca = Issuing::signed_by(west_ca, key(), &forger.root).expect("signed");
    let leaf = forger.issue(&leaf(&[west], forger.now), &forger.east);
    let chain = [leaf, west_ca.der().clone(), forger.east.der().clone()];
    assert!(matches!(forger.verify(&chain), Err(VerifyError::ForeignIssuer { .. })));
}

#[test]
fn another_federation_is_refused_even_under_our_root() {
    let forger = Forger::new();
    let other = authority("other", Some("us-east.other.mesh"), Some(0), forger.now);
    let other = Issuing::signed_by(other, key(), &forger.root).expect("signed");
    let leaf = forger.issue(&leaf(&["spiffe://us-east.other.mesh/ns/shop/sa/reviews"], forger.now), &other);
    let verdict = forger.verify(&[leaf, other.der().clone()]);
    assert!(matches!(verdict, Err(VerifyError::OtherFederation { .. })), "{verdict:?}");
}

#[test]
fn an_authority_is_not_a_peer() {
    let forger = Forger::new();
    let chain = [forger.east.der().clone(), forger.root.der().clone()];
    assert_eq!(forger.verify(&chain), Err(VerifyError::LeafIsAuthority));
    // CA:FALSE, but with the usage of an authority.
    let mut signing = leaf(&[REVIEWS], forger.now);
    signing.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(forger.verdict(&signing), Err(VerifyError::LeafIsAuthority));
    let mut authority = leaf(&[REVIEWS], forger.now);
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    assert_eq!(forger.verdict(&authority), Err(VerifyError::LeafIsAuthority));
}

#[test]
fn a_leaf_serves_only_its_usages() {
    let forger = Forger::new();
    let mut client_only = leaf(&[REVIEWS], forger.now);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert_eq!(forger.verdict(&client_only), Err(VerifyError::Usage("server")));
    let mut unmarked = leaf(&[REVIEWS], forger.now);
    unmarked.extended_key_usages.clear();
    assert_eq!(forger.verdict(&unmarked), Err(VerifyError::Usage("server")));
    let mut unusable = leaf(&[REVIEWS], forger.now);
    unusable.key_usages.clear();
    assert!(matches!(forger.verdict(&unusable), Err(VerifyError::Malformed(_))));
}

#[test]
fn the_issuer_is_a_clusters_intermediate_directly_below_the_root() {
    let forger = Forger::new();
    let good = leaf(&[REVIEWS], forger.now);
    // By the root itself.
    assert_eq!(forger.verify(&[forger.issue(&good, &forger.root)]), Err(VerifyError::WrongIssuer));
    // By an authority below a cluster's, which its path length forbids.
    let below = authority("below", Some("us-east.acme.mesh"), Some(0), forger.now);
    let below = Issuing::signed_by(below, key(), &forger.east).expect("signed");
    let chain = [forger.issue(&good, &below), below.der().clone(), forger.east.der().clone()];
    assert_eq!(forger.verify(&chain), Err(VerifyError::Chain(webpki::Error::PathLenConstraintViolated)));
    // Below an intermediate without that limit.
    let wide = authority("wide", Some("us-east.acme.mesh"), None, forger.now);
    let wide = Issuing::signed_by(wide, key(), &forger.root).expect("signed");
    let narrow = authority("narrow", Some("us-east.acme.mesh"), Some(0), forger.now);
    let narrow = Issuing::signed_by(narrow, key(), &wide).expect("signed");
    let chain = [forger.issue(&good, &narrow), narrow.der().clone(), wide.der().clone()];
    assert_eq!(forger.verify(&chain), Err(VerifyError::WrongIssuer));
    // By intermediates that are bound to no trust domain, to two, or may not sign.
    let mut two = authority("two", Some("us-east.acme.mesh"), Some(0), forger.now);
    two.subject_alt_names.push(uri("spiffe://us-west.acme.mesh"));
    let mut mute = authority("mute", Some("us-east.acme.mesh"), Some(0), forger.now);
    mute.key_usages = vec![KeyUsagePurpose::CrlSign];
    let nameless = authority("nameless", None, Some(0), forger.now);
    let workload = authority("workload", Some("us-east.acme.mesh/ns/shop/sa/reviews"), Some(0), forger.now);
    for flawed in [two, mute, nameless, workload] {
        let issuer = Issuing::signed_by(flawed, key(), &forger.root).expect("signed");
        let verdict = forger.verify(&[forger.issue(&good, &issuer), issuer.der().clone()]);
        assert!(matches!(verdict, Err(VerifyError::Issuer(_))), "{verdict:?}");
    }
}

#[test]
fn a_gateway_is_the_roots_and_a_workload_its_clusters() {
    let forger = Forger::new();
    let gateway = leaf(&["spiffe://us-east.acme.mesh/gateway/gw-1"], forger.now);
    // What the root signs is a gateway; what the cluster's intermediate signs is not, not even one of its own.
    forger.verify(&[forger.issue(&gateway, &forger.root)]).expect("genuine");
    assert_eq!(forger.verdict(&gateway), Err(VerifyError::WrongIssuer));
    let foreign = leaf(&["spiffe://us-west.acme.mesh/gateway/gw-1"], forger.now);
    assert!(matches!(forger.verdict(&foreign), Err(VerifyError::ForeignIssuer { .. })));
    // The intermediate beside a gateway's certificate changes nothing.
    forger.verify(&[forger.issue(&gateway, &forger.root), forger.east.der().clone()]).expect("genuine");
    let workload = leaf(&[REVIEWS], forger.now);
    assert_eq!(
        forger.verify(&[forger.issue(&workload, &forger.root), forger.east.der().clone()]),
        Err(VerifyError::WrongIssuer)
    );
}

#[test]
fn an_intermediate_of_a_previous_root_is_good_as_long_as_that_root_is() {
    let (previous, current) = (Forger::new(), Forger::new());
    let chain = [previous.issue(&leaf(&[REVIEWS], previous.now), &previous.east), previous.east.der().clone()];
    let bundle = |roots: &[&Forger]| {
        let roots = roots.iter().map(|forger| forger.root.der().to_vec()).collect();
        TrustBundle::new(federation_domain(), roots).expect("a bundle")
    };
    let verify = |bundle: TrustBundle| bundle.verify(&chain, PeerUsage::Client, previous.now).map(|_| ());
    assert_eq!(verify(bundle(&[&previous, &current])), Ok(()));
    assert_eq!(verify(bundle(&[&current])), Err(VerifyError::UnknownRoot(federation_domain())));
}

#[test]
fn a_denied_key_ends_what_hangs_on_it_and_nothing_else() {
    let forger = Forger::new();
    let workload = [forger.issue(&leaf(&[REVIEWS], forger.now), &forger.east), forger.east.der().clone()];
    let gateway = [forger.issue(&leaf(&["spiffe://us-east.acme.mesh/gateway/gw-1"], forger.now), &forger.root)];
    let digest = |der: &[u8]| crate::certificate_key_digest(der).expect("a certificate");
    let denying = |key: Digest| {
        let bundle = TrustBundle::new(federation_domain(), vec![forger.root.der().to_vec()]).expect("a bundle");
        let bundle = bundle.with_denied(Arc::new(BTreeSet::from([key])));
        let verify = |chain: &[CertificateDer<'_>]| bundle.verify(chain, PeerUsage::Client, forger.now).map(|_| ());
        (verify(&workload), verify(&gateway))
    };
    let revoked = || Err(VerifyError::Revoked);
    assert_eq!(denying(digest(&workload[0])), (revoked(), Ok(())));
    assert_eq!(denying(digest(forger.east.der())), (revoked(), Ok(())));
    assert_eq!(denying(digest(&gateway[0])), (Ok(()), revoked()));
    assert_eq!(denying(Digest([7; 32])), (Ok(()), Ok(())));
}

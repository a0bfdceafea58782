//! Chains that our authorities make, and those that hostile ones would.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;
use crate::fixture::{Federation, HOUR, ders, federation_domain, id};
use crate::key::PrivateKey;

const REVIEWS: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/reviews";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
fn clocks_may_differ_by_the_skew_and_no_more() {
    let federation = Federation::found();
    let bundle = federation.bundle();
    let chain = ders(&svid(&federation));
    let verify = |now| bundle.verify(&chain, PeerUsage::Client, now);
    let end = verify(federation.now).expect("genuine").not_after();
    let begin = federation.now - CLOCK_SKEW;
    let second = Duration::from_secs(1);
    for now in [end, end + CLOCK_SKEW - second, begin, begin - CLOCK_SKEW + second] {
        assert!(verify(now).is_ok(), "{:?}", verify(now));
    }
    assert!(matches!(verify(end + CLOCK_SKEW + second), Err(VerifyError::Expired { .. })));
    assert!(matches!(verify(begin - CLOCK_SKEW - 2 * second), Err(VerifyError::NotYetValid { .. })));
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

// ---- Hostile chains, under a root that an attacker is not supposed to have, to single out each rule ----

type Issuing = CertifiedIssuer<'static, KeyPair>;

fn key() -> KeyPair {
    KeyPair::generate().expect("generated")
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

fn params(common_name: &str, now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = (now - HOUR).into();
    params.not_after = (now + DAY).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn authority(common_name: &str, domain: Option<&str>, path_len: Option<u8>, now: SystemTime) -> CertificateParams {
    let mut params = params(common_name, now);
    let constraint = path_len.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
    params.is_ca = IsCa::Ca(constraint);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = domain.map(|domain| uri(&format!("spiffe://{domain}"))).into_iter().collect();
    params
}

fn leaf(names: &[&str], now: SystemTime) -> CertificateParams {
    let mut params = params("leaf", now);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
    params
}

/// A root and a cluster's intermediate under the forger's control.
struct Forger {
    now: SystemTime,
    root: Issuing,
    east: Issuing,
}

impl Forger {
    fn new() -> Self {
        let now = SystemTime::now();
        let root = Issuing::self_signed(authority("root", None, None, now), key()).expect("signed");
        let east = authority("east", Some("us-east.acme.mesh"), Some(0), now);
        let east = Issuing::signed_by(east, key(), &root).expect("signed");
        Self { now, root, east }
    }

    fn issue(&self, params: &CertificateParams, issuer: &Issuing) -> CertificateDer<'static> {
        params.signed_by(&key(), issuer).expect("signed").der().clone()
    }

    fn verify(&self, chain: &[CertificateDer<'_>]) -> Result<Verified, VerifyError> {
        self.verify_at(chain, self.now)
    }

    fn verify_at(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Verified, VerifyError> {
        let roots = vec![self.root.der().to_vec()];
        let bundle = TrustBundle::new(federation_domain(), roots).expect("a bundle");
        bundle.verify(chain, PeerUsage::Server, now)
    }

    /// The verdict on a leaf that the cluster of us-east issues.
    fn verdict(&self, leaf: &CertificateParams) -> Result<Verified, VerifyError> {
        self.verify(&[self.issue(leaf, &self.east), self.east.der().clone()])
    }
}

#[test]
fn the_forger_makes_good_certificates_too() {
    let forger = Forger::new();
    assert_eq!(*forger.verdict(&leaf(&[REVIEWS], forger.now)).expect("genuine").id(), id(REVIEWS));
}

#[test]
fn a_leaf_has_exactly_one_strict_spiffe_id() {
    let forger = Forger::new();
    let verdict = |names: &[&str]| forger.verdict(&leaf(names, forger.now));
    assert_eq!(verdict(&[]), Err(VerifyError::UriCount(0)));
    assert_eq!(verdict(&[REVIEWS, REVIEWS]), Err(VerifyError::UriCount(2)));
    assert_eq!(verdict(&[REVIEWS, "https://example.com/"]), Err(VerifyError::UriCount(2)));
    for look_alike in [
        "spiffe://US-EAST.acme.mesh/ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/sh%6fp/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop/../shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/./shop/sa/reviews",
        "spiffe://us-east.acme.mesh./ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop/sa/rev\r\niews",
        "spiffe://us-east.acme.mesh/ns/shop/sa/\"reviews",
        "spiffe://us-east.acme.mesh",
        "https://us-east.acme.mesh/ns/shop/sa/reviews",
        "",
    ] {
        assert!(matches!(verdict(&[look_alike]), Err(VerifyError::Spiffe(_))), "{look_alike:?}");
    }
}

#[test]
fn a_second_list_of_names_is_refused() {
    let forger = Forger::new();
    let mut twice = leaf(&[REVIEWS], forger.now);
    // A SubjectAltName (2.5.29.17) of one DNS name, beside the regular one.
    let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], vec![0x30, 3, 0x82, 1, b'a']);
    twice.custom_extensions = vec![names];
    assert!(matches!(forger.verdict(&twice), Err(VerifyError::Malformed(_))), "{:?}", forger.verdict(&twice));
}

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
fn expired_issuers_end_trust() {
    let forger = Forger::new();
    let good = leaf(&[REVIEWS], forger.now);
    let mut expired = authority("east", Some("us-east.acme.mesh"), Some(0), forger.now);
    expired.not_before = (forger.now - 2 * DAY).into();
    expired.not_after = (forger.now - DAY).into();
    let expired = Issuing::signed_by(expired, key(), &forger.root).expect("signed");
    let verdict = forger.verify(&[forger.issue(&good, &expired), expired.der().clone()]);
    assert!(matches!(verdict, Err(VerifyError::Chain(webpki::Error::CertExpired { .. }))), "{verdict:?}");

    // webpki does not look at the root's own validity; we do.
    let mut long = authority("east", Some("us-east.acme.mesh"), Some(0), forger.now);
    long.not_after = (forger.now + 9 * DAY).into();
    let long = Issuing::signed_by(long, key(), &forger.root).expect("signed");
    let mut outliving = good;
    outliving.not_after = (forger.now + 9 * DAY).into();
    let chain = [forger.issue(&outliving, &long), long.der().clone()];
    forger.verify(&chain).expect("while the root is valid");
    assert_eq!(forger.verify_at(&chain, forger.now + 2 * DAY), Err(VerifyError::UnknownRoot(federation_domain())));
}

#[test]
fn names_of_hosts_stay_within_the_trust_domain() {
    let federation = Federation::found();
    let cluster_key = key();
    let csr = CertificateParams::default().serialize_request(&cluster_key).expect("requested");
    let domain = "us-east.acme.mesh".parse().expect("valid");
    let intermediate = federation.root.sign_cluster(csr.der(), &domain, DAY, federation.now).expect("signed");
    let intermediate = CertificateDer::from(intermediate);
    let issuer = rcgen::Issuer::from_ca_cert_der(&intermediate, cluster_key).expect("an issuer");
    let verdict = |host: &str| {
        let mut params = leaf(&[REVIEWS], federation.now);
        params.subject_alt_names.push(SanType::DnsName(host.try_into().expect("ASCII")));
        let leaf = params.signed_by(&key(), &issuer).expect("signed").der().clone();
        federation.bundle().verify(&[leaf, intermediate.clone()], PeerUsage::Server, federation.now)
    };
    verdict("reviews.shop.svc.us-east.acme.mesh").expect("permitted");
    for host in ["reviews.shop.svc.us-west.acme.mesh", "example.com", "xus-east.acme.mesh"] {
        assert_eq!(verdict(host), Err(VerifyError::Chain(webpki::Error::NameConstraintViolation)), "{host}");
    }
}

#[test]
fn chains_and_certificates_are_bounded() {
    let forger = Forger::new();
    assert_eq!(forger.verify(&[]), Err(VerifyError::NoCertificate));
    let good = forger.issue(&leaf(&[REVIEWS], forger.now), &forger.east);
    let long: Vec<_> =
        std::iter::once(good.clone()).chain(std::iter::repeat_n(forger.east.der().clone(), 99)).collect();
    assert_eq!(forger.verify(&long), Err(VerifyError::ChainTooLong(100)));
    let mut crowded = leaf(&[REVIEWS], forger.now);
    let host = |i: u32| SanType::DnsName(format!("h{i}.us-east.acme.mesh").try_into().expect("ASCII"));
    crowded.subject_alt_names.extend((0..1000).map(host));
    assert!(matches!(forger.verdict(&crowded), Err(VerifyError::TooLarge(_))));
    let garbage = CertificateDer::from(vec![0x30; 64]);
    assert!(matches!(forger.verify(std::slice::from_ref(&garbage)), Err(VerifyError::Malformed(_))));
    assert!(forger.verify(&[good.clone(), garbage]).is_err());
    let trailing = CertificateDer::from([good.as_ref(), b"x"].concat());
    assert!(matches!(forger.verify(&[trailing, forger.east.der().clone()]), Err(VerifyError::Malformed(_))));
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let forger = Forger::new();
    let good = forger.issue(&leaf(&[REVIEWS], forger.now), &forger.east);
    for at in 0..good.len() {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1;
        let chain = [CertificateDer::from(flipped), forger.east.der().clone()];
        assert!(forger.verify(&chain).is_err(), "byte {at}");
    }
}

fn svid(federation: &Federation) -> Vec<Vec<u8>> {
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    federation.cluster("us-east").sign(&csr, &id(REVIEWS), HOUR, federation.now).expect("signed")
}

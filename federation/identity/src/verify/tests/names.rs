//! Names that a leaf claims.

use super::*;

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
        "spiffe://us-east.acme.mesh/",
        "spiffe://*.acme.mesh/ns/shop/sa/reviews",
        "spiffe://*/ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns//sa/reviews",
        "spiffe://us-east.acme.mesh//ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop/sa/reviews/",
        "spiffe://us-east.acme.mesh/ns/shop/sa/",
        "spiffe://us-east.acme.mesh/ns/shop/sa/%72eviews",
        "spiffe://us-east%2eacme.mesh/ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop%2fsa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop/sa/..",
        "spiffe://us-east.acme.mesh/ns/shop/sa/reviews?x",
        "spiffe://us-east.acme.mesh/ns/shop/sa/reviews#x",
        "spiffe://us-east.acme.mesh:443/ns/shop/sa/reviews",
        "spiffe://root@us-east.acme.mesh/ns/shop/sa/reviews",
        "SPIFFE://us-east.acme.mesh/ns/shop/sa/reviews",
        "spiffe:///ns/shop/sa/reviews",
        " spiffe://us-east.acme.mesh/ns/shop/sa/reviews",
        "spiffe://us-east.acme.mesh/ns/shop/sa/reviews\0",
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

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, PKCS_ECDSA_P384_SHA384,
    PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::certificate;
use crate::error::RequestError;
use crate::file::{self, Secrecy};
use crate::fixture::{Federation, HOUR, ders, federation_domain, id, trust_domain};
use crate::keyring::{GatewayCredentials, GatewayKeys, recover};
use crate::request::{CSR_LEN_MAX, csr_key_digest};
use crate::sealing::OpeningKey;
use crate::verify::PeerUsage;
use isthmus_model::registry::token::TokenId;

const REVIEWS: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/reviews";

fn parse(der: &[u8]) -> X509Certificate<'_> {
    X509Certificate::from_der(der).expect("a certificate").1
}

#[test]
fn the_root_is_an_authority_over_authorities() {
    let federation = Federation::found();
    let root = parse(federation.root.certificate());
    assert_eq!(root.subject().to_string(), "O=acme.mesh, CN=acme.mesh root");
    let constraints = root.basic_constraints().expect("readable").expect("present").value;
    assert!(constraints.ca);
    assert_eq!(constraints.path_len_constraint, Some(1));
    assert!(root.key_usage().expect("readable").expect("present").value.key_cert_sign());
    assert_eq!(certificate::key_digest(&root), federation.root.digest());
    let window = certificate::Window::of(&root);
    assert!(window.contains(federation.now + ROOT_LIFETIME - HOUR));
    assert!(!window.contains(federation.now + ROOT_LIFETIME + HOUR));
}

#[test]
fn an_intermediate_is_bound_to_its_trust_domain() {
    let federation = Federation::found();
    let east = federation.cluster("us-east");
    assert_eq!(*east.trust_domain(), trust_domain("us-east"));
    let certificate = parse(east.certificate());
    assert_eq!(certificate.basic_constraints().expect("readable").expect("present").value.path_len_constraint, Some(0));
    assert_eq!(certificate::uris(&certificate), Ok(vec!["spiffe://us-east.acme.mesh"]));
    assert!(certificate.extended_key_usage().expect("readable").is_none());
    let constraints = certificate.name_constraints().expect("readable").expect("present").value;
    let permitted = constraints.permitted_subtrees.as_ref().expect("present");
    assert!(matches!(permitted.as_slice(), [only] if only.base == GeneralName::DNSName("us-east.acme.mesh")));
    assert!(constraints.excluded_subtrees.is_none());
    let (_, not_after) = east.lifetime();
    assert!(not_after <= federation.now + INTERMEDIATE_LIFETIME);
}

#[test]
fn a_leaf_tells_the_token_that_vouched_for_it_and_only_in_one_form() {
    let federation = Federation::found();
    let (east, token) = (federation.cluster("us-east"), TokenId::from_random([0xab; 8]));
    let key = PrivateKey::generate().expect("generated");
    let csr = key.csr().expect("requested");
    for voucher in [Some(&token), None] {
        let chain = east.sign(&csr, &id(REVIEWS), voucher, HOUR, federation.now).expect("signed");
        let verified = federation.bundle().verify(&ders(&chain), PeerUsage::Client, federation.now).expect("good");
        assert_eq!(verified.voucher(), voucher);
    }
    for names in [&[][..], &["abababababababab"], &["token ABABABABABABABAB"], &["token ab", "token ab"]] {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for name in names {
            params.distinguished_name.push(DnType::CommonName, *name);
        }
        let other = params.self_signed(&KeyPair::generate().expect("generated")).expect("signed");
        assert_eq!(certificate::voucher(&parse(other.der())), None, "{names:?}");
    }
}

#[test]
fn a_leaf_is_an_svid_and_nothing_else() {
    let federation = Federation::found();
    let east = federation.cluster("us-east");
    let key = PrivateKey::generate().expect("generated");
    let chain = east.sign(&key.csr().expect("requested"), &id(REVIEWS), None, HOUR, federation.now).expect("signed");
    assert_eq!(chain[1], east.certificate());
    let leaf = parse(&chain[0]);
    assert_eq!(certificate::uris(&leaf), Ok(vec![REVIEWS]));
    assert_eq!(leaf.subject_alternative_name().expect("readable").expect("present").value.general_names.len(), 1);
    assert!(!leaf.basic_constraints().expect("readable").expect("present").value.ca);
    let usage = leaf.key_usage().expect("readable").expect("present").value;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let extended = leaf.extended_key_usage().expect("readable").expect("present").value;
    assert!(extended.server_auth && extended.client_auth && !extended.any);
    assert_eq!(certificate::key_digest(&leaf), key.digest());
    let window = certificate::Window::of(&leaf);
    let begun = federation.now.duration_since(window.not_before).expect("in the past");
    assert!(begun >= CLOCK_SKEW && begun < CLOCK_SKEW + Duration::from_secs(2), "{begun:?}");
}

#[test]
fn serial_numbers_do_not_repeat() {
    let federation = Federation::found();
    let east = federation.cluster("us-east");
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    let serial = || {
        let chain = east.sign(&csr, &id(REVIEWS), None, HOUR, federation.now).expect("signed");
        parse(&chain[0]).raw_serial().to_vec()
    };
    let (first, second) = (serial(), serial());
    assert_ne!(first, second);
    assert_eq!(first.len(), SERIAL_LEN);
}

#[test]
fn no_certificate_outlives_its_issuer() {
    let federation = Federation::found();
    let east = federation.cluster("us-east");
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    let (_, end) = east.lifetime();
    for lifetime in [2 * INTERMEDIATE_LIFETIME, Duration::MAX] {
        let chain = east.sign(&csr, &id(REVIEWS), None, lifetime, federation.now).expect("signed");
        assert_eq!(certificate::Window::of(&parse(&chain[0])).not_after, end);
    }
    for now in [end, end + HOUR, federation.now - HOUR] {
        let refused = east.sign(&csr, &id(REVIEWS), None, HOUR, now);
        assert!(matches!(refused, Err(IdentityError::AuthorityNotValid)), "{refused:?}");
    }
    let late = federation.now + ROOT_LIFETIME;
    let refused = federation.root.sign_cluster(&csr, &trust_domain("us-east"), INTERMEDIATE_LIFETIME, late);
    assert!(matches!(refused, Err(IdentityError::AuthorityNotValid)), "{refused:?}");
}

#[test]
fn authorities_sign_only_for_their_own() {
    let federation = Federation::found();
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    let west = id("spiffe://us-west.acme.mesh/ns/shop/sa/reviews");
    let refused = federation.cluster("us-east").sign(&csr, &west, None, HOUR, federation.now);
    assert!(matches!(refused, Err(IdentityError::OutsideTrustDomain { .. })), "{refused:?}");
    let elsewhere = "us-east.other.mesh".parse().expect("valid");
    let refused = federation.root.sign_cluster(&csr, &elsewhere, INTERMEDIATE_LIFETIME, federation.now);
    assert!(matches!(refused, Err(IdentityError::OutsideFederation { .. })), "{refused:?}");
}

#[test]
fn the_root_signs_gateways_and_clusters_sign_workloads() {
    let federation = Federation::found();
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    let gateway = id("spiffe://us-east.acme.mesh/gateway/gw-1");
    let refused = federation.cluster("us-east").sign(&csr, &gateway, None, HOUR, federation.now);
    assert!(matches!(refused, Err(IdentityError::NotToSign { .. })), "{refused:?}");
    let refused = federation.root.sign_gateway(&csr, &id(REVIEWS), HOUR, federation.now);
    assert!(matches!(refused, Err(IdentityError::NotToSign { .. })), "{refused:?}");
}

fn certified(federation: &Federation) -> GatewayCredentials {
    let keys = GatewayKeys::generate().expect("made");
    let requests = keys.requests().expect("requested");
    let gateway = id("spiffe://us-east.acme.mesh/gateway/gw-1");
    let certificates = federation.root.certify(&requests, &gateway, HOUR, federation.now).expect("signed");
    keys.certified(&certificates).expect("they fit")
}

#[test]
fn a_root_survives_on_disk_and_keeps_its_key_private() {
    let federation = Federation::found();
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    federation.root.save(&data).expect("saved");
    // Saving again replaces, also over what a crash left behind.
    fs::write(data.join("root.key.new"), "half").expect("written");
    federation.root.save(&data).expect("saved again");
    let root = RootAuthority::load(&data, federation_domain()).expect("loaded");
    assert_eq!((root.certificate(), root.digest()), (federation.root.certificate(), federation.root.digest()));
    let mode = |path: &std::path::Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&data.join("root.key")), mode(&data)), (0o600, 0o700));
    assert_eq!(fs::read_dir(&data).expect("readable").count(), 2, "no temporary file remains");
}

#[test]
fn a_sealed_root_opens_only_for_the_gateway_that_it_was_sealed_to() {
    use isthmus_model::registry::trust::{Custody, Envelopes, Root};
    let federation = Federation::found();
    let (first, second) = (OpeningKey::generate().expect("made"), OpeningKey::generate().expect("made"));
    let envelope = federation.root.seal(1, &first.public()).expect("sealed");
    let root = |key, node, envelope| Root {
        certificate: federation.root.certificate().to_vec().into(),
        key,
        custody: Custody::Sealed { envelopes: Envelopes([(node, envelope)].into()) },
    };
    let digest = federation.root.digest();
    let sealed = root(digest, 1, envelope.clone());
    let opened = RootAuthority::unseal(&federation_domain(), &sealed, 1, &first).expect("opens");
    assert_eq!(opened.digest(), digest);
    let refused =
        |sealed: &Root, node, key: &OpeningKey| RootAuthority::unseal(&federation_domain(), sealed, node, key).is_err();
    assert!(refused(&sealed, 1, &second), "another key");
    assert!(refused(&sealed, 2, &first), "no envelope");
    assert!(refused(&root(digest, 2, envelope.clone()), 2, &first), "moved to another node's place");
    assert!(refused(&root(Federation::found().root.digest(), 1, envelope), 1, &first), "moved to another root");
    assert!(!format!("{sealed:?} {opened:?}").contains("pkcs8"), "no key in Debug");
}

#[test]
fn a_gateways_credentials_are_replaced_whole_and_a_crash_in_between_is_made_good() {
    let federation = Federation::found();
    let dir = tempfile::tempdir().expect("a directory");
    let (next, current) = (dir.path().join("identity.next"), dir.path().join("identity"));
    let (first, second) = (certified(&federation), certified(&federation));
    first.install(&next, &current).expect("installed");
    let load = || GatewayCredentials::load(&current).expect("loaded");
    assert_eq!(load().chain(), first.chain());
    for key in ["gateway.key", "cluster.key"] {
        assert_eq!(fs::metadata(current.join(key)).expect("there").permissions().mode() & 0o777, 0o600);
    }
    second.install(&next, &current).expect("installed");
    assert_eq!((load().chain(), fs::read_dir(dir.path()).expect("readable").count()), (second.chain(), 1));

    // A crash after the old ones were set aside, with the new ones complete.
    let old = current.with_extension("old");
    fs::rename(&current, &old).expect("moved");
    first.install(&dir.path().join("elsewhere"), &next).expect("complete");
    recover(&next, &current).expect("recovered");
    assert_eq!(load().chain(), first.chain());
    // The same, with the new ones incomplete.
    fs::rename(&current, &old).expect("moved");
    GatewayKeys::load_or_generate(&next).expect("only keys");
    recover(&next, &current).expect("recovered");
    assert_eq!(load().chain(), first.chain());
}

#[test]
fn asking_again_asks_for_the_same_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let requests = || GatewayKeys::load_or_generate(dir.path()).and_then(|keys| keys.requests()).expect("requested");
    assert!(requests().same_keys(&requests()));
}

#[test]
fn certificates_for_other_keys_or_of_another_kind_are_refused() {
    let federation = Federation::found();
    let keys = GatewayKeys::generate().expect("made");
    let mut requests = keys.requests().expect("requested");
    let gateway = id("spiffe://us-east.acme.mesh/gateway/gw-1");
    let certify = |requests: &_| federation.root.certify(requests, &gateway, HOUR, federation.now);
    let good = certify(&requests).expect("signed");
    let mut swapped = good.clone();
    std::mem::swap(&mut swapped.gateway, &mut swapped.intermediate);
    assert!(keys.clone().certified(&swapped).is_err());
    assert!(GatewayKeys::generate().expect("made").certified(&good).is_err());
    requests.gateway_key = requests.authority_key;
    assert!(matches!(certify(&requests), Err(IdentityError::KeyMismatch)));
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("root.key");
    PrivateKey::generate().expect("generated").save(&path).expect("saved");
    for mode in [0o640, 0o604, 0o620, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
        let refused = PrivateKey::load(&path).expect_err("must be refused");
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("changed");
    PrivateKey::load(&path).expect("private again");
}

#[test]
fn files_of_other_content_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("some.key");
    let huge = format!("-----BEGIN PRIVATE KEY-----\n{}", "A".repeat(1 << 20));
    for content in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &huge] {
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        assert!(matches!(PrivateKey::load(&path), Err(IdentityError::FileContent { .. })));
    }
    let other_curve = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("generated");
    file::write_pem(&path, "PRIVATE KEY", other_curve.serialized_der(), Secrecy::Owner).expect("written");
    assert!(matches!(PrivateKey::load(&path), Err(IdentityError::FileContent { .. })));
    let missing = PrivateKey::load(&dir.path().join("missing.key")).expect_err("there is none");
    assert!(missing.to_string().contains("missing.key"), "{missing}");
}

#[test]
fn keys_and_certificates_must_belong_together() {
    let federation = Federation::found();
    let east = federation.cluster("us-east");
    let other = || PrivateKey::generate().expect("generated");
    let refused = ClusterAuthority::new(other(), east.certificate().to_vec());
    assert!(matches!(refused, Err(IdentityError::KeyMismatch)), "{refused:?}");
    let refused = RootAuthority::new(federation_domain(), other(), federation.root.certificate().to_vec());
    assert!(matches!(refused, Err(IdentityError::KeyMismatch)), "{refused:?}");
    let refused = ClusterAuthority::new(other(), b"nonsense".to_vec());
    assert!(matches!(refused, Err(IdentityError::Certificate { .. })), "{refused:?}");
}

#[test]
fn debug_shows_no_private_key() {
    let key = PrivateKey::generate().expect("generated");
    assert_eq!(format!("{key:?}"), format!("PrivateKey {{ public: {}, .. }}", key.digest()));
}

// ---- Requests of strangers ----

fn request(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    change(&mut params);
    params.serialize_request(key).expect("serializable").der().to_vec()
}

fn refusal(csr: &[u8]) -> RequestError {
    let federation = Federation::found();
    let refused = federation.cluster("us-east").sign(csr, &id(REVIEWS), None, HOUR, federation.now);
    let by_root = federation.root.sign_cluster(csr, &trust_domain("us-east"), INTERMEDIATE_LIFETIME, federation.now);
    match (refused, by_root) {
        (Err(IdentityError::Request(leaf)), Err(IdentityError::Request(cluster))) => {
            assert_eq!(leaf, cluster);
            leaf
        }
        other => panic!("not refused by both: {other:?}"),
    }
}

#[test]
fn requests_that_ask_for_more_than_a_key_are_refused() {
    let key = KeyPair::generate().expect("generated");
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "two URIs",
            request(&key, |p| p.subject_alt_names = vec![uri(REVIEWS), uri("spiffe://b.acme.mesh/gateway/x")]),
        ),
        ("its own URI", request(&key, |p| p.subject_alt_names = vec![uri(REVIEWS)])),
        ("another trust domain", request(&key, |p| p.subject_alt_names = vec![uri("spiffe://b.acme.mesh/gateway/x")])),
        (
            "a DNS name",
            request(&key, |p| p.subject_alt_names = vec![SanType::DnsName("a.b".try_into().expect("ASCII"))]),
        ),
        ("CA:TRUE", request(&key, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        ("CA:FALSE", request(&key, |p| p.is_ca = IsCa::ExplicitNoCa)),
        (
            "an odd extension",
            request(&key, |p| p.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 9, 9], vec![5, 0])]),
        ),
    ];
    for (what, csr) in cases {
        assert_eq!(refusal(&csr), RequestError::Attributes, "{what}");
    }
}

#[test]
fn requests_that_are_broken_are_refused() {
    let good = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    assert_eq!(refusal(&[]), RequestError::Malformed);
    assert_eq!(refusal(&good[..good.len() - 1]), RequestError::Malformed);
    assert_eq!(refusal(&[&good[..], b"x"].concat()), RequestError::Malformed);
    assert_eq!(refusal(&vec![0x30; CSR_LEN_MAX + 1]), RequestError::TooLarge(CSR_LEN_MAX + 1));
    let mut forged = good;
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(refusal(&forged), RequestError::Signature);
}

#[test]
fn only_modern_elliptic_curves_are_signed() {
    for refused in [&PKCS_RSA_SHA256, &PKCS_ECDSA_P521_SHA512] {
        let key = KeyPair::generate_for(refused).expect("generated");
        assert_eq!(refusal(&request(&key, |_| {})), RequestError::KeyType);
    }
    let federation = Federation::found();
    let east = federation.cluster("us-east");
    for accepted in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let key = KeyPair::generate_for(accepted).expect("generated");
        let chain = east.sign(&request(&key, |_| {}), &id(REVIEWS), None, HOUR, federation.now).expect("signed");
        assert_eq!(parse(&chain[0]).public_key().subject_public_key.data, key.public_key_raw());
    }
}

#[test]
fn a_subject_in_a_request_is_not_copied() {
    let federation = Federation::found();
    let key = KeyPair::generate().expect("generated");
    let csr = request(&key, |params| params.distinguished_name.push(DnType::CommonName, "root"));
    let chain = federation.cluster("us-east").sign(&csr, &id(REVIEWS), None, HOUR, federation.now).expect("signed");
    assert_eq!(parse(&chain[0]).subject().iter().count(), 0);
}

#[test]
fn a_request_names_its_key_by_digest() {
    let key = PrivateKey::generate().expect("generated");
    assert_eq!(csr_key_digest(&key.csr().expect("requested")).expect("well-formed"), key.digest());
    assert!(csr_key_digest(b"nonsense").is_err());
}

//! Chains that our authorities make, and those that hostile ones would.

mod bounds;
mod bundle;
mod corpus;
mod fixtures;
mod forge;
mod issuers;
mod names;
mod validity;

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

fn svid(federation: &Federation) -> Vec<Vec<u8>> {
    let csr = PrivateKey::generate().and_then(|key| key.csr()).expect("requested");
    federation.cluster("us-east").sign(&csr, &id(REVIEWS), None, HOUR, federation.now).expect("signed")
}

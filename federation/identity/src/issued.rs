//! Certificates that come back from where the root's key is: judged before anyone relies on them.
//!
//! Between the root's key and the gateway that asked are files on a stick, an operator, and an admin API. None of
//! them is believed: what is not signed by the root, for the keys and the identity that were asked for, is refused.

use std::time::SystemTime;

use isthmus_model::name::FederationDomain;
use isthmus_model::registry::node::{Certificates, Requests};
use isthmus_model::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;

use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::verify::{PeerUsage, TrustBundle};

/// The AlgorithmIdentifier of ecdsa-with-SHA256, DER (RFC 5758 §3.2): what a key on P-256 signs with here.
const ECDSA_WITH_SHA256: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// Checks that `certificates` are what the root (DER) of `federation` answers to the requests of the gateway `id`.
/// Returns them with the end of their validity as it is written in them.
///
/// # Errors
/// [`IdentityError::Certificate`] with the first thing that is wrong.
pub fn check_issued(
    root: &[u8],
    federation: &FederationDomain,
    requests: &Requests,
    id: &SpiffeId,
    certificates: &Certificates,
    now: SystemTime,
) -> Result<Certificates, IdentityError> {
    let flawed = |role: &'static str| move |reason: String| IdentityError::Certificate { role, reason };
    let (gateway, cluster) = (flawed("gateway"), flawed("cluster"));
    let trust = TrustBundle::new(federation.clone(), vec![root.to_vec()])?;
    let chain = [CertificateDer::from(certificates.gateway.0.as_slice())];
    let verified = trust.verify(&chain, PeerUsage::Server, now).map_err(|error| gateway(error.to_string()))?;
    trust.verify(&chain, PeerUsage::Client, now).map_err(|error| gateway(error.to_string()))?;
    if verified.id() != id {
        return Err(gateway(format!("it is for {}, not for {id}", verified.id())));
    }
    if !verified.key().same_as(&requests.gateway_key) {
        return Err(gateway("it is for another key than was asked for".to_owned()));
    }
    let told = |reason: &str| cluster(reason.to_owned());
    let signer = certificate::parse(root).map_err(told)?;
    let intermediate = certificate::parse(&certificates.intermediate.0).map_err(told)?;
    if !certificate::key_digest(&intermediate).same_as(&requests.authority_key) {
        return Err(told("it is for another key than was asked for"));
    }
    let domain = certificate::signing_domain(&intermediate).map_err(told)?;
    if domain != id.trust_domain {
        return Err(cluster(format!("it is for {domain}, not for {}", id.trust_domain)));
    }
    let plain = ends_with_signature(&certificates.intermediate.0, &intermediate.signature_value.data);
    let signed = plain && intermediate.verify_signature(Some(signer.public_key())).is_ok();
    if !signed || intermediate.issuer().as_raw() != signer.subject().as_raw() {
        return Err(told("it is not signed by the federation's root"));
    }
    let window = Window::of(&intermediate);
    if !window.contains(now) {
        return Err(told("it is not valid now: check the clocks here and where it was signed"));
    }
    let root = certificate::key_digest(&signer);
    if certificates.root != root {
        return Err(told("it names another root as its signer"));
    }
    Ok(Certificates { root, not_after: verified.not_after().min(window.not_after).into(), ..certificates.clone() })
}

/// Whether what the signature does not cover is as the root's signer writes it. Other readers are stricter about it
/// than the parser here, and every one of the cluster's workloads would be refused.
fn ends_with_signature(der: &[u8], signature: &[u8]) -> bool {
    // A BIT STRING of at most 127 bytes has one length byte; then none of its bits are unused (X.690 §8.6).
    let Ok(length @ ..=0x7f) = u8::try_from(signature.len() + 1) else { return false };
    let end = [ECDSA_WITH_SHA256, &[0x03, length, 0], signature].concat();
    der.ends_with(&end)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fixture::{Federation, HOUR, federation_domain, id};
    use crate::keyring::GatewayKeys;

    const EAST: &str = "spiffe://us-east.acme.mesh/gateway/gw-1";

    struct Case {
        federation: Federation,
        requests: Requests,
        good: Certificates,
    }

    fn requests() -> Requests {
        GatewayKeys::generate().and_then(|keys| keys.requests()).expect("made")
    }

    impl Case {
        fn new() -> Self {
            let (federation, requests) = (Federation::found(), requests());
            let good = federation.root.certify(&requests, &id(EAST), HOUR, federation.now).expect("signed");
            Self { federation, requests, good }
        }

        fn judge(&self, certificates: &Certificates, at: SystemTime) -> Result<Certificates, String> {
            let root = self.federation.root.certificate();
            let judged = check_issued(root, &federation_domain(), &self.requests, &id(EAST), certificates, at);
            judged.map_err(|error| error.to_string())
        }

        #[track_caller]
        fn refuses(&self, certificates: &Certificates, reason: &str) {
            let why = self.judge(certificates, self.federation.now).expect_err("it is refused");
            assert!(why.contains(reason), "{why}");
        }
    }

    #[test]
    fn the_roots_answer_is_taken_and_its_end_is_read_from_it() {
        let case = Case::new();
        let told = Certificates { not_after: isthmus_model::time::UnixMillis(u64::MAX), ..case.good.clone() };
        assert_eq!(case.judge(&told, case.federation.now), Ok(case.good.clone()), "the file's word is not taken");
        let late = case.judge(&case.good, case.federation.now + HOUR + Duration::from_secs(2));
        assert!(late.is_err_and(|why| why.contains("not valid now")));
    }

    #[test]
    fn another_roots_gateways_or_keys_certificates_are_refused() {
        let case = Case::new();
        let Case { federation, requests: own, good } = &case;
        let sign = |federation: &Federation, requests: &Requests, identity: &str| {
            federation.root.certify(requests, &id(identity), HOUR, federation.now).expect("signed")
        };
        case.refuses(&sign(&Federation::found(), own, EAST), "the gateway certificate cannot be used");
        case.refuses(&sign(federation, own, "spiffe://us-east.acme.mesh/gateway/gw-2"), "not for spiffe://us-east");
        case.refuses(&sign(federation, &requests(), EAST), "another key than was asked for");

        // The gateway's certificate is right, the intermediate is not.
        let with = |other: Certificates| Certificates { intermediate: other.intermediate, ..good.clone() };
        case.refuses(
            &with(sign(federation, &requests(), EAST)),
            "cluster certificate cannot be used: it is for another",
        );
        case.refuses(&with(sign(federation, own, "spiffe://us-west.acme.mesh/gateway/gw-1")), "it is for us-west");
        case.refuses(&with(sign(&Federation::found(), own, EAST)), "not signed by the federation's root");
        let swapped = Certificates { gateway: good.intermediate.clone(), ..good.clone() };
        case.refuses(&swapped, "the gateway certificate cannot be used");
        let leaf = Certificates { intermediate: good.gateway.clone(), ..good.clone() };
        case.refuses(&leaf, "the cluster certificate cannot be used");
        let renamed = Certificates { root: own.gateway_key, ..good.clone() };
        case.refuses(&renamed, "names another root");
    }

    #[test]
    fn no_bit_can_be_flipped() {
        let case = Case::new();
        for index in 0..case.good.gateway.0.len() {
            let mut spoilt = case.good.clone();
            spoilt.gateway.0[index] ^= 1;
            assert!(case.judge(&spoilt, case.federation.now).is_err(), "gateway, byte {index}");
        }
        for index in 0..case.good.intermediate.0.len() {
            let mut spoilt = case.good.clone();
            spoilt.intermediate.0[index] ^= 1;
            assert!(case.judge(&spoilt, case.federation.now).is_err(), "intermediate, byte {index}");
        }
    }
}

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
    let signed = intermediate.verify_signature(Some(signer.public_key())).is_ok();
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

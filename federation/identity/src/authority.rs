//! The two certificate authorities: [`RootAuthority`] of the federation and [`ClusterAuthority`] of a
//! cluster. Both work on data handed to them; neither reads a clock.

mod anchor;
mod cluster;
mod root;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use isthmus_model::spiffe::SpiffeId;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::pki_types::CertificateDer;

pub use anchor::{ROOT_VALIDITY_LEFT_MIN, RootCertificate};
pub use cluster::{ClusterAuthority, LiveAuthority};
pub use root::RootAuthority;

use crate::certificate::Window;
use crate::error::IdentityError;
use crate::key::{KeyMaterial, PrivateKey};
use crate::request::requested_key;

/// How far apart the clocks of two machines may be. Certificates begin this much in the past, and a
/// verifier gives this much on either side of a leaf's validity. Five minutes is what Kerberos made
/// operators used to.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);
/// How long a federated root lives: 10 years of 365 days.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// How long a cluster's intermediate lives: 90 days, so that losing touch with the root for a whole
/// quarter is survivable and a stolen cluster key is not forever.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Random bits of a serial number. RFC 5280 §4.1.2.2 allows 20 octets, CA/B asks for at least 64 bits.
const SERIAL_LEN: usize = 16;

/// Parameters that all certificates share: a fresh serial, the issuer's key identifier, and validity
/// from [`CLOCK_SKEW`] before `now` to `lifetime` after it, within the issuer's own.
fn dated(now: SystemTime, lifetime: Duration, issuer: Option<Window>) -> Result<CertificateParams, IdentityError> {
    let overflow = || IdentityError::AuthorityNotValid;
    let mut not_before = now.checked_sub(CLOCK_SKEW).ok_or_else(overflow)?;
    let mut not_after = match now.checked_add(lifetime) {
        Some(end) => end,
        None => issuer.map(|window| window.not_after).ok_or_else(overflow)?,
    };
    if let Some(window) = issuer {
        not_before = not_before.max(window.not_before);
        not_after = not_after.min(window.not_after);
        if not_after <= now || not_before > now {
            return Err(IdentityError::AuthorityNotValid);
        }
    }
    let mut serial = [0; SERIAL_LEN];
    rand::fill(&mut serial).map_err(|_| IdentityError::Crypto("drawing a serial number"))?;
    // Positive, and of constant length.
    serial[0] = serial[0] & 0x3f | 0x40;
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.distinguished_name = DistinguishedName::new();
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn named(organization: &str, common_name: String) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    name.push(DnType::CommonName, common_name);
    name
}

/// rcgen's view of an authority. Parsed for every signature, which costs less than the signature.
fn issuer<'a>(
    certificate: &'a CertificateDer<'_>,
    key: &'a PrivateKey,
) -> Result<Issuer<'static, &'a KeyMaterial>, IdentityError> {
    Issuer::from_ca_cert_der(certificate, key.material()).map_err(|_| IdentityError::Crypto("reading the authority"))
}

/// An X.509-SVID for the key in `csr` and nothing else of it.
fn sign_leaf(
    csr: &[u8],
    id: &SpiffeId,
    mut params: CertificateParams,
    issuer: &Issuer<'static, &KeyMaterial>,
) -> Result<Vec<u8>, IdentityError> {
    let key = requested_key(csr)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let uri = id.to_string().try_into().map_err(|_| IdentityError::Crypto("encoding a name"))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    let leaf = params.signed_by(&key, issuer).map_err(|_| IdentityError::Crypto("signing"))?;
    Ok(leaf.der().to_vec())
}

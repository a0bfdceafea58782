//! Reading certificates strictly. Nothing here trusts anything: it only says what is written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use isthmus_model::name::TrustDomain;
use isthmus_model::registry::token::{Digest, TokenId};
use isthmus_model::spiffe::{SpiffeId, parse_trust_domain_uri};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ED25519, OID_X509_EXT_BASIC_CONSTRAINTS,
    OID_X509_EXT_KEY_USAGE,
};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Version;

use crate::error::{IdentityError, VerifyError};
use crate::key::sha256;

/// The largest certificate that is looked at, in bytes of DER. Those of a federation stay below 1 KiB;
/// the rest is room for other people's subject names.
pub const CERTIFICATE_LEN_MAX: usize = 4096;

/// What is wrong with a certificate, as the end of a sentence.
pub(crate) type Flaw = &'static str;

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo, DER).
///
/// # Errors
/// [`IdentityError::Certificate`] when it is not one.
pub fn certificate_key_digest(der: &[u8]) -> Result<Digest, IdentityError> {
    let certificate =
        parse(der).map_err(|flaw| IdentityError::Certificate { role: "given", reason: flaw.to_owned() })?;
    Ok(key_digest(&certificate))
}

/// A certificate's subject, and when it ends.
///
/// # Errors
/// [`IdentityError::Certificate`] when it is not one.
pub fn certificate_summary(der: &[u8]) -> Result<(String, SystemTime), IdentityError> {
    let certificate =
        parse(der).map_err(|flaw| IdentityError::Certificate { role: "given", reason: flaw.to_owned() })?;
    Ok((certificate.subject().to_string(), Window::of(&certificate).not_after))
}

/// Parses exactly one X.509 v3 certificate of bounded size.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Flaw> {
    if der.len() > CERTIFICATE_LEN_MAX {
        return Err("it is larger than any certificate of a federation");
    }
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| "it is not X.509 in DER")?;
    if !rest.is_empty() {
        return Err("bytes follow after its end");
    }
    if certificate.version() != X509Version::V3 {
        return Err("it is not of version 3");
    }
    Ok(certificate)
}

pub(crate) fn key_digest(certificate: &X509Certificate<'_>) -> Digest {
    sha256(certificate.public_key().raw)
}

/// Its URI subject alternative names, in order.
pub(crate) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, Flaw> {
    let names = certificate.subject_alternative_name().map_err(|_| "its subject alternative names are unreadable")?;
    let Some(names) = names else { return Ok(Vec::new()) };
    if names.value.general_names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err("one of its subject alternative names is unreadable");
    }
    Ok(names
        .value
        .general_names
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect())
}

/// The trust domain that a cluster's signing certificate is bound to.
pub(crate) fn signing_domain(certificate: &X509Certificate<'_>) -> Result<TrustDomain, Flaw> {
    check_authority(certificate)?;
    let constraints = certificate.basic_constraints().map_err(|_| "its basic constraints are unreadable")?;
    if constraints.is_none_or(|constraints| constraints.value.path_len_constraint != Some(0)) {
        return Err("its path length is not 0");
    }
    match uris(certificate)?.as_slice() {
        [uri] => parse_trust_domain_uri(uri).map_err(|_| "its URI name is not spiffe://<cluster>.<federation>"),
        _ => Err("it does not have exactly one URI name, its trust domain"),
    }
}

/// Its SPIFFE ID: the one URI that it has.
pub(crate) fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, VerifyError> {
    match uris(certificate).map_err(VerifyError::Malformed)?.as_slice() {
        [uri] => Ok(uri.parse()?),
        uris => Err(VerifyError::UriCount(uris.len())),
    }
}

/// What the common name of a workload's certificate begins with, before the id of the token that vouched for it.
const VOUCHER: &str = "token ";

/// The common name that tells of `token`.
pub(crate) fn voucher_name(token: &TokenId) -> String {
    format!("{VOUCHER}{token}")
}

/// The token that its subject tells of. Only the workload's own cluster makes anything of it.
pub(crate) fn voucher(certificate: &X509Certificate<'_>) -> Option<TokenId> {
    let mut names = certificate.subject().iter_common_name();
    let (Some(name), None) = (names.next(), names.next()) else { return None };
    name.as_str().ok()?.strip_prefix(VOUCHER)?.parse().ok()
}

/// Whether its key is on P-256: the only kind of private key that there is here.
pub(crate) fn has_p256_key(certificate: &X509Certificate<'_>) -> bool {
    let algorithm = &certificate.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve.is_some_and(|curve| curve == OID_EC_P256)
}

/// Whether its key is of a kind that a federation signs. The TLS library would take others, such as RSA.
pub(crate) fn has_modern_key(certificate: &X509Certificate<'_>) -> bool {
    let algorithm = &certificate.public_key().algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384)
    } else {
        algorithm.algorithm == OID_SIG_ED25519
    }
}

/// Whether it may stand at the top: an authority, valid for authorities below it, that signs with a key of ours.
pub(crate) fn check_root(certificate: &X509Certificate<'_>) -> Result<(), Flaw> {
    check_authority(certificate)?;
    let constraints = certificate.basic_constraints().map_err(|_| "its basic constraints are unreadable")?;
    if constraints.is_some_and(|constraints| constraints.value.path_len_constraint == Some(0)) {
        return Err("its path length of 0 leaves no room for the clusters' intermediates");
    }
    if certificate.name_constraints().map_err(|_| "its name constraints are unreadable")?.is_some() {
        return Err("it has name constraints, under which no certificate with a SPIFFE ID is accepted");
    }
    let understood = [OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_KEY_USAGE];
    if certificate.extensions().iter().any(|extension| extension.critical && !understood.contains(&extension.oid)) {
        return Err("it has a critical extension that is not understood here");
    }
    if !has_modern_key(certificate) || certificate.public_key().algorithm.algorithm == OID_SIG_ED25519 {
        return Err("its key is not ECDSA on P-256 or P-384");
    }
    Ok(())
}

/// RFC 5280 §4.2: never more than one extension of a kind, known or not.
pub(crate) fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), Flaw> {
    certificate.extensions_map().map(|_| ()).map_err(|_| "it has an extension twice")
}

/// Whether it may sign certificates at all (RFC 5280 §4.2.1.3 and §4.2.1.9).
pub(crate) fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), Flaw> {
    check_extensions(certificate)?;
    let constraints = certificate.basic_constraints().map_err(|_| "its basic constraints are unreadable")?;
    if !constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err("it is not a certificate authority's");
    }
    let usage = certificate.key_usage().map_err(|_| "its key usage is unreadable")?;
    if !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
        return Err("its key usage does not include signing certificates");
    }
    Ok(())
}

/// From when to when a certificate is valid, both inclusive, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Window {
    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let validity = certificate.validity();
        Self { not_before: system_time(validity.not_before), not_after: system_time(validity.not_after) }
    }

    pub(crate) fn contains(&self, at: SystemTime) -> bool {
        self.not_before <= at && at <= self.not_after
    }
}

/// Times before the epoch become the epoch: no certificate of a federation is that old.
fn system_time(time: ASN1Time) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

//! Certificate signing requests of others. Only the public key is ever taken from one, and only when
//! the request is signed with it; a request that asks for more is refused rather than trimmed, because
//! whoever sent it would not get what it thinks it got.

use isthmus_model::registry::token::Digest;
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::error::{IdentityError, RequestError};
use crate::key::sha256;

/// The largest request that is looked at, in bytes of DER. One of P-256 takes about 200.
pub const CSR_LEN_MAX: usize = 2048;

/// SHA-256 of the public key (SubjectPublicKeyInfo, DER) that a request is for, after the same checks
/// that signing makes.
///
/// # Errors
/// [`IdentityError::Request`] with the reason.
pub fn csr_key_digest(csr: &[u8]) -> Result<Digest, IdentityError> {
    Ok(sha256(&requested_key(csr)?.subject_public_key_info()))
}

/// The public key of a well-formed, self-signed, modest request.
pub(crate) fn requested_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, RequestError> {
    if csr.len() > CSR_LEN_MAX {
        return Err(RequestError::TooLarge(csr.len()));
    }
    let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|_| RequestError::Malformed)?;
    if !rest.is_empty() {
        return Err(RequestError::Malformed);
    }
    let info = &request.certification_request_info;
    let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| RequestError::KeyType)?;
    let accepted = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
    if !accepted.contains(&key.algorithm()) {
        return Err(RequestError::KeyType);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    if !info.attributes().is_empty() {
        return Err(RequestError::Attributes);
    }
    Ok(key)
}

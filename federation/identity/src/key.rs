//! The one kind of private key: ECDSA on P-256, kept in PKCS#8 and wiped when the last owner lets go.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use isthmus_model::registry::token::Digest;
use rcgen::{CertificateParams, DistinguishedName, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::file::{self, Secrecy};

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, bytes).as_ref());
    Digest(sum)
}

/// 32 bytes that nobody can guess.
///
/// # Errors
/// [`IdentityError::Crypto`] when the system has no randomness.
pub fn random_digest() -> Result<Digest, IdentityError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| IdentityError::Crypto("randomness"))?;
    Ok(Digest(bytes))
}

/// A P-256 key pair. Clones share the key; `Debug` shows only the public half's digest.
#[derive(Clone)]
pub struct PrivateKey(Arc<KeyMaterial>);

/// The key in the two forms that are needed: to sign with, and to write down or hand to rustls.
pub(crate) struct KeyMaterial {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the system has no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let failed = |_| IdentityError::Crypto("key generation");
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let document = pair.to_pkcs8v1().map_err(failed)?;
        Self::from_pkcs8(document.as_ref())
    }

    pub(crate) fn from_pkcs8(der: &[u8]) -> Result<Self, IdentityError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| IdentityError::Key)?;
        Ok(Self(Arc::new(KeyMaterial { pair, pkcs8: Zeroizing::new(der.to_vec()) })))
    }

    /// Reads a PKCS#8 PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, is accessible to group or others, or holds no P-256 key.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let pem = file::read_pem(path, Secrecy::Owner)?;
        let content = || IdentityError::FileContent { path: path.to_owned(), expected: "a PKCS#8 ECDSA P-256 key" };
        let der = Zeroizing::new(PrivatePkcs8KeyDer::from_pem_slice(&pem).map_err(|_| content())?);
        Self::from_pkcs8(der.secret_pkcs8_der()).map_err(|_| content())
    }

    /// Writes the key as PKCS#8 PEM with mode 0600, atomically and durably.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        file::write_pem(path, "PRIVATE KEY", &self.0.pkcs8, Secrecy::Owner)
    }

    /// SHA-256 of the public key (SubjectPublicKeyInfo, DER): how registry and tokens name a key.
    #[must_use]
    pub fn digest(&self) -> Digest {
        sha256(&self.0.subject_public_key_info())
    }

    /// A PKCS#10 request (RFC 2986) in DER for this key: empty subject, no attributes, because the
    /// signer decides on everything else.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when signing fails.
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(self.material()).map_err(|_| IdentityError::Crypto("signing"))?;
        Ok(request.der().to_vec())
    }

    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.0.pkcs8
    }

    pub(crate) fn material(&self) -> &KeyMaterial {
        &self.0
    }

    /// A copy in the form that rustls takes, for its own signing key.
    pub(crate) fn to_rustls(&self) -> Zeroizing<PrivateKeyDer<'static>> {
        Zeroizing::new(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.pkcs8.to_vec())))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.digest()).finish_non_exhaustive()
    }
}

impl PublicKeyData for KeyMaterial {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for KeyMaterial {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}

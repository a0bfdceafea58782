//! The federated root. It signs one intermediate per cluster and nothing else.

use std::path::Path;
use std::time::SystemTime;

use isthmus_model::name::{FederationDomain, TrustDomain};
use isthmus_model::registry::token::Digest;
use rcgen::{BasicConstraints, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType};
use rustls::pki_types::CertificateDer;

use super::{INTERMEDIATE_LIFETIME, ROOT_LIFETIME, dated, issuer, load_certificate, named, save_certificate};
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::file;
use crate::key::PrivateKey;
use crate::request::requested_key;

const KEY_FILE: &str = "root.key";
const CERTIFICATE_FILE: &str = "root.crt";
/// Ends the root's common name; what stands before it is the federation domain.
const COMMON_NAME_SUFFIX: &str = " root";

/// A federation's root key and self-signed certificate.
#[derive(Debug)]
pub struct RootAuthority {
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    federation: FederationDomain,
    window: Window,
}

impl RootAuthority {
    /// Founds a federation: a new key and a certificate of [`ROOT_LIFETIME`], path length 1.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the cryptographic library fails.
    pub fn create(federation: &FederationDomain, now: SystemTime) -> Result<Self, IdentityError> {
        let key = PrivateKey::generate()?;
        let mut params = dated(now, ROOT_LIFETIME, None)?;
        params.distinguished_name = named(federation.as_str(), format!("{federation}{COMMON_NAME_SUFFIX}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(key.material()).map_err(|_| IdentityError::Crypto("signing"))?;
        Self::new(key, certificate.der().to_vec())
    }

    /// Takes over an existing root, e.g. one that was kept offline.
    ///
    /// # Errors
    /// When the certificate is not a federation's root, or not of this key.
    pub fn new(key: PrivateKey, certificate: Vec<u8>) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "root", reason: reason.to_owned() };
        let certificate = CertificateDer::from(certificate);
        let (federation, window) = {
            let parsed = certificate::parse(&certificate).map_err(flawed)?;
            certificate::check_authority(&parsed).map_err(flawed)?;
            if !certificate::key_digest(&parsed).same_as(&key.digest()) {
                return Err(IdentityError::KeyMismatch);
            }
            let common_name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
            let federation = common_name
                .and_then(|name| name.strip_suffix(COMMON_NAME_SUFFIX)?.parse().ok())
                .ok_or_else(|| flawed("its common name is not \"<federation domain> root\""))?;
            (federation, Window::of(&parsed))
        };
        Ok(Self { key, certificate, federation, window })
    }

    /// Reads `root.key` and `root.crt`.
    ///
    /// # Errors
    /// As [`PrivateKey::load`] and [`Self::new`].
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key = PrivateKey::load(&dir.join(KEY_FILE))?;
        Self::new(key, load_certificate(&dir.join(CERTIFICATE_FILE))?.to_vec())
    }

    /// Writes `root.key` (mode 0600) and `root.crt` into a directory, which is created if need be.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        file::create_dir(dir)?;
        self.key.save(&dir.join(KEY_FILE))?;
        save_certificate(&dir.join(CERTIFICATE_FILE), &self.certificate)
    }

    /// The federation that it is the root of.
    #[must_use]
    pub fn federation(&self) -> &FederationDomain {
        &self.federation
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of its public key (SPKI): what a join token pins.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.key.digest()
    }

    /// Signs a cluster's intermediate over the key in `csr`: [`INTERMEDIATE_LIFETIME`] at most, path length 0,
    /// the trust domain as its only URI name and as the one permitted DNS subtree. There is no URI name
    /// constraint, because rustls-webpki rejects every chain that has one (RUSTSEC-2026-0098).
    ///
    /// # Errors
    /// When the request is refused, the domain is of another federation, or the root is not valid at `now`.
    pub fn sign_cluster(&self, csr: &[u8], domain: &TrustDomain, now: SystemTime) -> Result<Vec<u8>, IdentityError> {
        if domain.federation != self.federation {
            let (trust_domain, federation) = (domain.clone(), self.federation.clone());
            return Err(IdentityError::OutsideFederation { trust_domain, federation });
        }
        let key = requested_key(csr)?;
        let mut params = dated(now, INTERMEDIATE_LIFETIME, Some(self.window))?;
        params.distinguished_name = named(self.federation.as_str(), format!("{domain} intermediate"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let uri = format!("spiffe://{domain}").try_into().map_err(|_| IdentityError::Crypto("encoding a name"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_string())],
            excluded_subtrees: Vec::new(),
        });
        let certificate = params
            .signed_by(&key, &issuer(&self.certificate, &self.key)?)
            .map_err(|_| IdentityError::Crypto("signing"))?;
        Ok(certificate.der().to_vec())
    }
}

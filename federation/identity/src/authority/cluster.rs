//! A cluster's own authority: the intermediate that signs its workloads and gateways, also while the
//! rest of the federation is out of reach.

use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_model::name::TrustDomain;
use isthmus_model::registry::token::Digest;
use isthmus_model::spiffe::SpiffeId;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;

use super::{dated, issuer, load_certificate, save_certificate};
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::file;
use crate::key::PrivateKey;
use crate::request::requested_key;

const KEY_FILE: &str = "cluster.key";
const CERTIFICATE_FILE: &str = "cluster.crt";

/// A cluster's intermediate key and the certificate that the root signed for it.
#[derive(Debug)]
pub struct ClusterAuthority {
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    trust_domain: TrustDomain,
    window: Window,
}

impl ClusterAuthority {
    /// Puts a key and its certificate (DER) together. The trust domain is read from the certificate.
    ///
    /// # Errors
    /// When the certificate is not a cluster's signing certificate, or not of this key.
    pub fn new(key: PrivateKey, certificate: Vec<u8>) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "cluster", reason: reason.to_owned() };
        let certificate = CertificateDer::from(certificate);
        let (trust_domain, window) = {
            let parsed = certificate::parse(&certificate).map_err(flawed)?;
            if !certificate::key_digest(&parsed).same_as(&key.digest()) {
                return Err(IdentityError::KeyMismatch);
            }
            (certificate::signing_domain(&parsed).map_err(flawed)?, Window::of(&parsed))
        };
        Ok(Self { key, certificate, trust_domain, window })
    }

    /// Reads `cluster.key` and `cluster.crt`.
    ///
    /// # Errors
    /// As [`PrivateKey::load`] and [`Self::new`].
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let key = PrivateKey::load(&dir.join(KEY_FILE))?;
        Self::new(key, load_certificate(&dir.join(CERTIFICATE_FILE))?.to_vec())
    }

    /// Writes `cluster.key` (mode 0600) and `cluster.crt` into a directory, which is created if need be.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        file::create_dir(dir)?;
        self.key.save(&dir.join(KEY_FILE))?;
        save_certificate(&dir.join(CERTIFICATE_FILE), &self.certificate)
    }

    /// The trust domain that it may sign for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// From when to when its certificate is valid.
    #[must_use]
    pub fn lifetime(&self) -> (SystemTime, SystemTime) {
        (self.window.not_before, self.window.not_after)
    }

    /// SHA-256 of its public key (SPKI): how the registry knows it.
    #[must_use]
    pub fn key_digest(&self) -> Digest {
        self.key.digest()
    }

    /// Issues an X.509-SVID over the key in `csr`, valid from [`CLOCK_SKEW`](super::CLOCK_SKEW) before
    /// `now` until `lifetime` after it, or until this authority's own certificate ends, whichever comes
    /// first. Returns the leaf and the intermediate, DER.
    ///
    /// # Errors
    /// When the ID is outside the trust domain, the request is refused, or this authority is not valid at `now`.
    pub fn sign(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        if id.trust_domain != self.trust_domain {
            let (id, trust_domain) = (id.clone(), self.trust_domain.clone());
            return Err(IdentityError::OutsideTrustDomain { id, trust_domain });
        }
        let key = requested_key(csr)?;
        let mut params = dated(now, lifetime, Some(self.window))?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uri = id.to_string().try_into().map_err(|_| IdentityError::Crypto("encoding a name"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let leaf = params
            .signed_by(&key, &issuer(&self.certificate, &self.key)?)
            .map_err(|_| IdentityError::Crypto("signing"))?;
        Ok(vec![leaf.der().to_vec(), self.certificate.to_vec()])
    }
}

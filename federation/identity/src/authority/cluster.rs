//! A cluster's own authority: the intermediate that signs its workloads and gateways, also while the
//! rest of the federation is out of reach.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use isthmus_model::name::TrustDomain;
use isthmus_model::registry::token::{Digest, TokenId};
use isthmus_model::spiffe::{Principal, SpiffeId};
use rcgen::DnType;
use rustls::pki_types::CertificateDer;

use super::{dated, issuer, sign_leaf};
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::key::PrivateKey;

/// A cluster's intermediate key and the certificate that the root signed for it.
#[derive(Clone, Debug)]
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

    pub(crate) fn key(&self) -> &PrivateKey {
        &self.key
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

    /// Issues a workload's X.509-SVID over the key in `csr`, valid from [`CLOCK_SKEW`](super::CLOCK_SKEW) before
    /// `now` until `lifetime` after it, or until this authority's own certificate ends, whichever comes
    /// first. It tells the token that vouched for the workload, if one did. Returns the leaf and the intermediate, DER.
    ///
    /// # Errors
    /// When the ID is outside the trust domain or a gateway's, the request is refused, or this authority is not valid at `now`.
    pub fn sign(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        voucher: Option<&TokenId>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<Vec<u8>>, IdentityError> {
        if id.trust_domain != self.trust_domain {
            let (id, trust_domain) = (id.clone(), self.trust_domain.clone());
            return Err(IdentityError::OutsideTrustDomain { id, trust_domain });
        }
        if !matches!(id.principal, Principal::Workload(_)) {
            return Err(IdentityError::NotToSign { id: id.clone() });
        }
        let mut params = dated(now, lifetime, Some(self.window))?;
        if let Some(token) = voucher {
            params.distinguished_name.push(DnType::CommonName, certificate::voucher_name(token));
        }
        let leaf = sign_leaf(csr, id, params, &issuer(&self.certificate, &self.key)?)?;
        Ok(vec![leaf, self.certificate.to_vec()])
    }
}

/// The cluster's authority of this process, replaceable at any time. Clones share it.
#[derive(Clone, Debug)]
pub struct LiveAuthority(Arc<RwLock<Arc<ClusterAuthority>>>);

impl LiveAuthority {
    /// Starts with `authority`.
    #[must_use]
    pub fn new(authority: ClusterAuthority) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(authority))))
    }

    /// The authority that signs at present.
    #[must_use]
    pub fn current(&self) -> Arc<ClusterAuthority> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets another one sign from now on.
    pub fn replace(&self, authority: ClusterAuthority) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(authority);
    }
}

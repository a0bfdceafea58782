//! The one verifier. webpki judges the chain (signatures, path length, name constraints, validity);
//! what makes it an identity of the federation is judged here: exactly one strict SPIFFE ID; a workload's issued
//! by an intermediate that the root signed for that very trust domain, a gateway's by the root itself. So a stolen
//! cluster key can impersonate the workloads of its own cluster, and nobody else. A key on the registry's denylist
//! ends all that hangs on it.
//!
//! Clocks: a certificate chain is judged at one moment, `now` moved by at most
//! [`CLOCK_SKEW`] into the leaf's own validity. That moment is right for the whole chain, because our
//! authorities never let a certificate begin before or end after its issuer's.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use isthmus_model::name::{FederationDomain, TrustDomain};
use isthmus_model::registry::token::{Digest, TokenId};
use isthmus_model::spiffe::{Principal, SpiffeId};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs::{ECDSA_P256_SHA256, ECDSA_P384_SHA384};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::certificate::X509Certificate;

use crate::authority::CLOCK_SKEW;
use crate::certificate::{self, CERTIFICATE_LEN_MAX, Window};
use crate::error::{IdentityError, VerifyError};

/// The most certificates that a peer may present: leaf, intermediate, root.
pub const CHAIN_LEN_MAX: usize = 3;
/// The most roots that are trusted at once: a rotation needs two, and an interrupted one more.
pub const ROOTS_MAX: usize = 8;
/// What authorities of a federation sign with.
const SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[ECDSA_P256_SHA256, ECDSA_P384_SHA384];

/// Which end of the connection the peer is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerUsage {
    /// The peer connected to us.
    Client,
    /// We connected to the peer.
    Server,
}

/// An identity whose certificates were verified: the only way to get one is [`TrustBundle::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    id: SpiffeId,
    key: Digest,
    not_after: SystemTime,
    voucher: Option<TokenId>,
}

impl Verified {
    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// SHA-256 of the key (SPKI) that it proved to hold.
    #[must_use]
    pub fn key(&self) -> &Digest {
        &self.key
    }

    /// When its certificate ends; a session with it should not outlive this.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The token that vouched for the workload when it first got a certificate, by its certificate.
    #[must_use]
    pub fn voucher(&self) -> Option<&TokenId> {
        self.voucher.as_ref()
    }
}

/// The roots that a federation trusts at present.
#[derive(Clone)]
pub struct TrustBundle {
    federation: FederationDomain,
    roots: Vec<Root>,
    denied: Arc<BTreeSet<Digest>>,
}

/// A cluster's intermediate in a verified path.
struct Issuer {
    /// The trust domain that it was signed for.
    domain: TrustDomain,
    key: Digest,
}

#[derive(Clone)]
struct Root {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    window: Window,
}

impl TrustBundle {
    /// Takes 1 to [`ROOTS_MAX`] root certificates, DER. Expired ones are held but match nothing.
    ///
    /// # Errors
    /// [`IdentityError::RootCount`], or [`IdentityError::Certificate`] for anything but an authority over authorities.
    pub fn new(federation: FederationDomain, roots: Vec<Vec<u8>>) -> Result<Self, IdentityError> {
        if roots.is_empty() || roots.len() > ROOTS_MAX {
            return Err(IdentityError::RootCount(roots.len()));
        }
        let roots = roots.into_iter().map(Root::read).collect::<Result<_, _>>()?;
        Ok(Self { federation, roots, denied: Arc::default() })
    }

    /// The same, without trust in these keys: of gateways, or of intermediates with all that they signed.
    #[must_use]
    pub fn with_denied(self, denied: Arc<BTreeSet<Digest>>) -> Self {
        Self { denied, ..self }
    }

    /// The federation whose roots these are.
    #[must_use]
    pub fn federation(&self) -> &FederationDomain {
        &self.federation
    }

    /// The root certificates, DER.
    pub fn roots(&self) -> impl Iterator<Item = &[u8]> {
        self.roots.iter().map(|root| root.der.as_ref())
    }

    /// Judges what a peer presented, leaf first. Accepts the root at the end of the chain, but trusts
    /// only its own copy of it.
    ///
    /// # Errors
    /// The first rule that the chain breaks.
    pub fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        usage: PeerUsage,
        now: SystemTime,
    ) -> Result<Verified, VerifyError> {
        let (leaf_der, issuers) = bounded(chain)?;
        let leaf = certificate::parse(leaf_der).map_err(VerifyError::Malformed)?;
        check_leaf(&leaf, usage)?;
        let id = certificate::spiffe_id(&leaf)?;
        let window = Window::of(&leaf);
        let at = judged_at(window, now)?;
        let key = certificate::key_digest(&leaf);
        let issuer = self.issuer(leaf_der, issuers, usage, at)?;
        let claimed = &id.trust_domain;
        if claimed.federation != self.federation {
            let federation = self.federation.clone();
            return Err(VerifyError::OtherFederation { claimed: claimed.clone(), federation });
        }
        let signed_by = match (&id.principal, issuer) {
            (Principal::Gateway(_), None) => None,
            (Principal::Workload(_), Some(issuer)) if issuer.domain == *claimed => Some(issuer.key),
            (_, Some(issuer)) if issuer.domain != *claimed => {
                return Err(VerifyError::ForeignIssuer { claimed: claimed.clone(), issuer: issuer.domain });
            }
            _ => return Err(VerifyError::WrongIssuer),
        };
        if self.denied.contains(&key) || signed_by.is_some_and(|key| self.denied.contains(&key)) {
            return Err(VerifyError::Revoked);
        }
        Ok(Verified { id, key, not_after: window.not_after, voucher: certificate::voucher(&leaf) })
    }

    /// Builds the path to a root that is valid at `at`, and tells whose intermediate it goes through, if any.
    fn issuer(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        usage: PeerUsage,
        at: SystemTime,
    ) -> Result<Option<Issuer>, VerifyError> {
        let anchors: Vec<TrustAnchor<'_>> =
            self.roots.iter().filter(|root| root.window.contains(at)).map(|root| root.anchor.clone()).collect();
        let usage = match usage {
            PeerUsage::Client => KeyUsage::client_auth(),
            PeerUsage::Server => KeyUsage::server_auth(),
        };
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
        let leaf = EndEntityCert::try_from(leaf).map_err(VerifyError::Chain)?;
        let path = leaf
            .verify_for_usage(SIGNATURES, &anchors, issuers, at, usage, None, None)
            .map_err(|error| self.no_path(error))?;
        let mut intermediates = path.intermediate_certificates();
        let Some(intermediate) = intermediates.next() else { return Ok(None) };
        if intermediates.next().is_some() {
            return Err(VerifyError::WrongIssuer);
        }
        let der = intermediate.der();
        let issuer = certificate::parse(&der).map_err(VerifyError::Issuer)?;
        let domain = certificate::signing_domain(&issuer).map_err(VerifyError::Issuer)?;
        Ok(Some(Issuer { domain, key: certificate::key_digest(&issuer) }))
    }

    /// A signature that does not verify means another root of the same name as often as a forgery, and
    /// the operator checks the same things for both.
    fn no_path(&self, error: webpki::Error) -> VerifyError {
        match error {
            webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
                VerifyError::UnknownRoot(self.federation.clone())
            }
            error => VerifyError::Chain(error),
        }
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle").field("federation", &self.federation).field("roots", &self.roots.len()).finish()
    }
}

impl Root {
    fn read(der: Vec<u8>) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "root", reason: reason.to_owned() };
        let der = CertificateDer::from(der);
        let window = {
            let parsed = certificate::parse(&der).map_err(flawed)?;
            certificate::check_root(&parsed).map_err(flawed)?;
            let own = parsed.subject() == parsed.issuer();
            if own && parsed.verify_signature(None).is_err() {
                return Err(flawed("it is not signed by its own key"));
            }
            Window::of(&parsed)
        };
        let anchor = webpki::anchor_from_trusted_cert(&der).map_err(|error| flawed(&error.to_string()))?.to_owned();
        Ok(Self { der, anchor, window })
    }
}

/// Splits off the leaf, if count and sizes are those of a chain of ours.
fn bounded<'a, 'b>(
    chain: &'a [CertificateDer<'b>],
) -> Result<(&'a CertificateDer<'b>, &'a [CertificateDer<'b>]), VerifyError> {
    if chain.len() > CHAIN_LEN_MAX {
        return Err(VerifyError::ChainTooLong(chain.len()));
    }
    if let Some(large) = chain.iter().find(|certificate| certificate.len() > CERTIFICATE_LEN_MAX) {
        return Err(VerifyError::TooLarge(large.len()));
    }
    chain.split_first().ok_or(VerifyError::NoCertificate)
}

/// What X509-SVID §4 and §5.2 ask of a leaf and webpki does not look at.
fn check_leaf(leaf: &X509Certificate<'_>, usage: PeerUsage) -> Result<(), VerifyError> {
    let unreadable = |_| VerifyError::Malformed("its key usage is unreadable");
    certificate::check_extensions(leaf).map_err(VerifyError::Malformed)?;
    let constraints =
        leaf.basic_constraints().map_err(|_| VerifyError::Malformed("its basic constraints are unreadable"))?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(VerifyError::LeafIsAuthority);
    }
    let key_usage = leaf.key_usage().map_err(unreadable)?.map(|usage| usage.value);
    if key_usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign()) {
        return Err(VerifyError::LeafIsAuthority);
    }
    if !key_usage.is_some_and(|usage| usage.digital_signature()) {
        return Err(VerifyError::Malformed("its key usage does not include digital signatures"));
    }
    let extended = leaf.extended_key_usage().map_err(unreadable)?.map(|usage| usage.value);
    if !certificate::has_modern_key(leaf) {
        return Err(VerifyError::KeyType);
    }
    match usage {
        PeerUsage::Client if !extended.is_some_and(|extended| extended.client_auth) => {
            Err(VerifyError::Usage("client"))
        }
        PeerUsage::Server if !extended.is_some_and(|extended| extended.server_auth) => {
            Err(VerifyError::Usage("server"))
        }
        _ => Ok(()),
    }
}

/// The moment within the leaf's validity that is nearest to `now`, if that is within [`CLOCK_SKEW`].
fn judged_at(window: Window, now: SystemTime) -> Result<SystemTime, VerifyError> {
    if let Ok(in_future) = window.not_before.duration_since(now)
        && in_future > CLOCK_SKEW
    {
        return Err(VerifyError::NotYetValid { in_future });
    }
    if let Ok(ago) = now.duration_since(window.not_after)
        && ago > CLOCK_SKEW
    {
        return Err(VerifyError::Expired { ago });
    }
    Ok(now.max(window.not_before).min(window.not_after))
}

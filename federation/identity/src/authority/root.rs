//! The federated root. It signs one intermediate per gateway, the gateways' own certificates, and nothing else.

use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_model::name::{FederationDomain, TrustDomain};
use isthmus_model::registry::node::{Certificates, NodeId, Requests, SealingKey};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Custody, Envelope, Root};
use isthmus_model::spiffe::{Principal, SpiffeId};
use rcgen::{BasicConstraints, GeneralSubtree, IsCa, KeyUsagePurpose, NameConstraints, SanType};
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use super::{ROOT_LIFETIME, RootCertificate, dated, issuer, named};
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::file;
use crate::key::PrivateKey;
use crate::request::requested_key;
use crate::sealing::{OpeningKey, seal};

const KEY_FILE: &str = "root.key";
const CERTIFICATE_FILE: &str = "root.crt";

/// A federation's root key and its certificate.
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
        params.distinguished_name = named(federation.as_str(), common_name_of(federation));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(key.material()).map_err(|_| IdentityError::Crypto("signing"))?;
        Self::new(federation.clone(), key, certificate.der().to_vec())
    }

    /// Takes over an existing root of `federation`: one that was kept offline or sealed, or an operator's own.
    /// It need not be self-signed: a certificate authority below another one is trusted as it is.
    ///
    /// # Errors
    /// When the certificate is not one of an authority over authorities, or not of this key.
    pub fn new(federation: FederationDomain, key: PrivateKey, certificate: Vec<u8>) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "root", reason: reason.to_owned() };
        let certificate = CertificateDer::from(certificate);
        let window = {
            let parsed = certificate::parse(&certificate).map_err(flawed)?;
            certificate::check_root(&parsed).map_err(flawed)?;
            if !certificate::key_digest(&parsed).same_as(&key.digest()) {
                return Err(IdentityError::KeyMismatch);
            }
            Window::of(&parsed)
        };
        Ok(Self { key, certificate, federation, window })
    }

    /// Reads `root.key` and `root.crt`.
    ///
    /// # Errors
    /// As [`PrivateKey::load`] and [`Self::new`].
    pub fn load(dir: &Path, federation: FederationDomain) -> Result<Self, IdentityError> {
        let key = PrivateKey::load(&dir.join(KEY_FILE))?;
        Self::new(federation, key, file::read_certificate(&dir.join(CERTIFICATE_FILE))?.to_vec())
    }

    /// Takes over an operator's own root, or an authority below it, for a federation that is about to be founded.
    ///
    /// # Errors
    /// As [`RootCertificate::load`], [`PrivateKey::load`] and [`Self::new`].
    pub fn adopt(
        federation: FederationDomain,
        certificate: &Path,
        key: &Path,
        now: SystemTime,
    ) -> Result<Self, IdentityError> {
        let certificate = RootCertificate::load(certificate, &federation, now)?;
        Self::new(federation, PrivateKey::load(key)?, certificate.der().to_vec())
    }

    /// Whether a directory has a root already, or a part of one.
    #[must_use]
    pub fn is_in(dir: &Path) -> bool {
        dir.join(KEY_FILE).exists() || dir.join(CERTIFICATE_FILE).exists()
    }

    /// Seals the key to gateway `node`, which alone can [`unseal`](Self::unseal) it.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn seal(&self, node: NodeId, to: &SealingKey) -> Result<Envelope, IdentityError> {
        seal(to, self.key.pkcs8(), context(&self.federation, &self.digest(), node).as_bytes())
    }

    /// Opens the key that was sealed to gateway `node`, and checks that it is the root's.
    ///
    /// # Errors
    /// When there is no such envelope, it does not open, or holds something else.
    pub fn unseal(
        federation: &FederationDomain,
        root: &Root,
        node: NodeId,
        with: &OpeningKey,
    ) -> Result<Self, IdentityError> {
        let Custody::Sealed { envelopes } = &root.custody else { return Err(IdentityError::Envelope) };
        let envelope = envelopes.0.get(&node).ok_or(IdentityError::Envelope)?;
        let pkcs8 = with.open(envelope, context(federation, &root.key, node).as_bytes())?;
        Self::new(federation.clone(), PrivateKey::from_pkcs8(&pkcs8)?, root.certificate.0.clone())
    }

    /// Writes `root.key` (mode 0600) and `root.crt` into a directory, which is created if need be.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        file::create_dir(dir)?;
        self.key.save(&dir.join(KEY_FILE))?;
        file::write_certificate(&dir.join(CERTIFICATE_FILE), &self.certificate)
    }

    /// The federation that it is the root of.
    #[must_use]
    pub fn federation(&self) -> &FederationDomain {
        &self.federation
    }

    /// Whether its certificate says that it was made for another federation. That of an operator's own says nothing.
    #[must_use]
    pub fn is_made_for_another(&self) -> bool {
        let parsed = certificate::parse(&self.certificate);
        let made_for = parsed.ok().and_then(|parsed| made_for(&parsed));
        made_for.is_some_and(|made_for| made_for != self.federation)
    }

    /// When its certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.window.not_after
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

    /// Answers a gateway's requests: its own certificate and its cluster's intermediate, both valid for `lifetime` at
    /// most.
    ///
    /// # Errors
    /// When a request is refused or not of the key that it names, the domain is of another federation, or the root
    /// is not valid at `now`.
    pub fn certify(
        &self,
        requests: &Requests,
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Certificates, IdentityError> {
        for (csr, named) in [(&requests.gateway, requests.gateway_key), (&requests.authority, requests.authority_key)] {
            if crate::csr_key_digest(&csr.0)? != named {
                return Err(IdentityError::KeyMismatch);
            }
        }
        let gateway = self.sign_gateway(&requests.gateway.0, id, lifetime, now)?;
        let intermediate = self.sign_cluster(&requests.authority.0, &id.trust_domain, lifetime, now)?;
        let end = |der: &[u8]| certificate::parse(der).map(|parsed| Window::of(&parsed).not_after);
        let unreadable = |_| IdentityError::Crypto("reading a certificate");
        let not_after = end(&gateway).and_then(|one| Ok(one.min(end(&intermediate)?))).map_err(unreadable)?;
        let (gateway, intermediate) = (gateway.into(), intermediate.into());
        Ok(Certificates { gateway, intermediate, root: self.digest(), not_after: not_after.into() })
    }

    /// Signs a gateway's own certificate over the key in `csr`.
    ///
    /// # Errors
    /// As [`certify`](Self::certify); also for an identity that is no gateway's.
    pub fn sign_gateway(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        if !matches!(id.principal, Principal::Gateway(_)) {
            return Err(IdentityError::NotToSign { id: id.clone() });
        }
        self.check_domain(&id.trust_domain)?;
        super::sign_leaf(csr, id, dated(now, lifetime, Some(self.window))?, &issuer(&self.certificate, &self.key)?)
    }

    /// Signs a cluster's intermediate over the key in `csr`: path length 0, the trust domain as its only URI name and
    /// as the one permitted DNS subtree. There is no URI name constraint, because rustls-webpki rejects every chain
    /// that has one (RUSTSEC-2026-0098).
    ///
    /// # Errors
    /// As [`certify`](Self::certify).
    pub fn sign_cluster(
        &self,
        csr: &[u8],
        domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        self.check_domain(domain)?;
        let key = requested_key(csr)?;
        let mut params = dated(now, lifetime, Some(self.window))?;
        params.distinguished_name = named(self.federation.as_str(), format!("{domain} intermediate"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
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

    fn check_domain(&self, domain: &TrustDomain) -> Result<(), IdentityError> {
        if domain.federation == self.federation {
            return Ok(());
        }
        let (trust_domain, federation) = (domain.clone(), self.federation.clone());
        Err(IdentityError::OutsideFederation { trust_domain, federation })
    }
}

/// The federation that [`RootAuthority::create`] made a certificate for.
pub(super) fn made_for(certificate: &X509Certificate<'_>) -> Option<FederationDomain> {
    let subject = certificate.subject();
    let organization = subject.iter_organization().next()?.as_str().ok()?;
    let common_name = subject.iter_common_name().next()?.as_str().ok()?;
    let federation = organization.parse::<FederationDomain>().ok()?;
    (common_name == common_name_of(&federation)).then_some(federation)
}

fn common_name_of(federation: &FederationDomain) -> String {
    format!("{federation} root")
}

/// What an envelope is for. The same key sealed to the same gateway for another root or federation does not open.
fn context(federation: &FederationDomain, root: &Digest, node: NodeId) -> String {
    format!("root of {federation}, key {root}, for gateway {node}")
}

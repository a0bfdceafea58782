//! The two keys that a gateway signs with, before and after they are certified, and their place on disk.
//!
//! | file | what |
//! | --- | --- |
//! | `gateway.key`, `gateway.crt` | whom the gateway shows itself as; signed by the root |
//! | `cluster.key`, `cluster.crt` | the cluster's intermediate, which signs workloads |
//!
//! They live in one directory that is replaced whole: a renewal is prepared beside it, and becomes it with a
//! rename. The gateway's own certificate comes from the root, not from the intermediate, so that whoever steals
//! the intermediate's key can make workloads of that cluster, but no gateway.

use std::fs;
use std::path::{Path, PathBuf};

use isthmus_model::registry::node::{Certificates, Requests};
use isthmus_model::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;

use crate::authority::ClusterAuthority;
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::file;
use crate::key::PrivateKey;

const GATEWAY_KEY: &str = "gateway.key";
const GATEWAY_CERTIFICATE: &str = "gateway.crt";
const CLUSTER_KEY: &str = "cluster.key";
const CLUSTER_CERTIFICATE: &str = "cluster.crt";

/// Keys that are not certified yet.
#[derive(Clone, Debug)]
pub struct GatewayKeys {
    gateway: PrivateKey,
    authority: PrivateKey,
}

impl GatewayKeys {
    /// Makes both keys.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the system has no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        Ok(Self { gateway: PrivateKey::generate()?, authority: PrivateKey::generate()? })
    }

    /// The keys of a directory; made and kept there if it has none, so that asking again is the same request.
    ///
    /// # Errors
    /// When the file system refuses, or what is there is unusable.
    pub fn load_or_generate(dir: &Path) -> Result<Self, IdentityError> {
        file::create_dir(dir)?;
        let (gateway, cluster) = (dir.join(GATEWAY_KEY), dir.join(CLUSTER_KEY));
        let load = |path: &Path| {
            if path.exists() {
                return PrivateKey::load(path);
            }
            let key = PrivateKey::generate()?;
            key.save(path)?;
            Ok(key)
        };
        Ok(Self { gateway: load(&gateway)?, authority: load(&cluster)? })
    }

    /// What to have certified.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when signing fails.
    pub fn requests(&self) -> Result<Requests, IdentityError> {
        Ok(Requests {
            gateway_key: self.gateway.digest(),
            authority_key: self.authority.digest(),
            gateway: self.gateway.csr()?.into(),
            authority: self.authority.csr()?.into(),
        })
    }

    /// Puts the keys together with what was signed for them.
    ///
    /// # Errors
    /// When a certificate is not of its key, or not of its kind.
    pub fn certified(self, certificates: &Certificates) -> Result<GatewayCredentials, IdentityError> {
        GatewayCredentials::new(self, certificates.gateway.0.clone(), certificates.intermediate.0.clone())
    }
}

/// A gateway's keys with their certificates.
#[derive(Debug)]
pub struct GatewayCredentials {
    key: PrivateKey,
    certificate: CertificateDer<'static>,
    id: SpiffeId,
    authority: ClusterAuthority,
}

impl GatewayCredentials {
    fn new(keys: GatewayKeys, gateway: Vec<u8>, intermediate: Vec<u8>) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "gateway", reason: reason.to_owned() };
        let authority = ClusterAuthority::new(keys.authority, intermediate)?;
        let certificate = CertificateDer::from(gateway);
        let id = {
            let parsed = certificate::parse(&certificate).map_err(flawed)?;
            if !certificate::key_digest(&parsed).same_as(&keys.gateway.digest()) {
                return Err(IdentityError::KeyMismatch);
            }
            certificate::spiffe_id(&parsed).map_err(|error| flawed(&error.to_string()))?
        };
        if !id.is_gateway() || id.trust_domain != *authority.trust_domain() {
            return Err(flawed("it does not name a gateway of the intermediate's trust domain"));
        }
        Ok(Self { key: keys.gateway, certificate, id, authority })
    }

    /// Reads a directory.
    ///
    /// # Errors
    /// When a file is missing, unreadable, or does not belong to the others.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let read = |name: &str| file::read_certificate(&dir.join(name)).map(|der| der.to_vec());
        let (gateway, intermediate) = (read(GATEWAY_CERTIFICATE)?, read(CLUSTER_CERTIFICATE)?);
        let (gateway_key, authority) =
            (PrivateKey::load(&dir.join(GATEWAY_KEY))?, PrivateKey::load(&dir.join(CLUSTER_KEY))?);
        Self::new(GatewayKeys { gateway: gateway_key, authority }, gateway, intermediate)
    }

    /// Writes everything into `next`, then makes that `current`. A crash in between is made good by [`recover`].
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn install(&self, next: &Path, current: &Path) -> Result<(), IdentityError> {
        file::create_dir(next)?;
        self.key.save(&next.join(GATEWAY_KEY))?;
        self.authority.key().save(&next.join(CLUSTER_KEY))?;
        file::write_certificate(&next.join(CLUSTER_CERTIFICATE), self.authority.certificate())?;
        file::write_certificate(&next.join(GATEWAY_CERTIFICATE), &self.certificate)?;
        swap(next, current)
    }

    /// The gateway's own key.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The gateway's own certificate chain, DER: one certificate, which the root signed.
    #[must_use]
    pub fn chain(&self) -> Vec<Vec<u8>> {
        vec![self.certificate.to_vec()]
    }

    /// Who the gateway is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// From when to when both certificates are valid.
    #[must_use]
    pub fn lifetime(&self) -> (std::time::SystemTime, std::time::SystemTime) {
        let (not_before, not_after) = self.authority.lifetime();
        let own = certificate::parse(&self.certificate).map(|parsed| Window::of(&parsed));
        own.map_or((not_before, not_after), |own| (own.not_before.max(not_before), own.not_after.min(not_after)))
    }

    /// The cluster's intermediate.
    #[must_use]
    pub fn authority(&self) -> &ClusterAuthority {
        &self.authority
    }
}

fn outdated(current: &Path) -> PathBuf {
    current.with_extension("old")
}

fn swap(next: &Path, current: &Path) -> Result<(), IdentityError> {
    let old = outdated(current);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| IdentityError::File { action, path, source }
    };
    if old.exists() {
        fs::remove_dir_all(&old).map_err(failed("remove", &old))?;
    }
    if current.exists() {
        fs::rename(current, &old).map_err(failed("set aside", current))?;
    }
    fs::rename(next, current).map_err(failed("put in place", next))?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(failed("remove", &old))?;
    }
    file::sync_dir(current.parent().unwrap_or(current))
}

/// Makes installed credentials the ones to be installed again, unless others are about to be.
///
/// # Errors
/// When the file system refuses.
pub fn set_back(current: &Path, next: &Path) -> Result<(), IdentityError> {
    if next.exists() || !current.exists() {
        return Ok(());
    }
    fs::rename(current, next).map_err(|source| IdentityError::File {
        action: "set back",
        path: current.to_owned(),
        source,
    })
}

/// Finishes an [`install`](GatewayCredentials::install) that a crash interrupted: when there is no `current`, a
/// complete `next` becomes it, or else what was set aside comes back.
///
/// # Errors
/// When the file system refuses.
pub fn recover(next: &Path, current: &Path) -> Result<(), IdentityError> {
    if current.exists() {
        // The last step was missing: to remove the keys that were replaced.
        let old = outdated(current);
        return match fs::remove_dir_all(&old) {
            Err(source) if old.exists() => Err(IdentityError::File { action: "remove", path: old, source }),
            _ => Ok(()),
        };
    }
    if next.exists() && GatewayCredentials::load(next).is_ok() {
        return swap(next, current);
    }
    let old = outdated(current);
    if old.exists() {
        fs::rename(&old, current).map_err(|source| IdentityError::File { action: "bring back", path: old, source })?;
    }
    Ok(())
}

//! What this process shows of itself in a handshake.

use std::sync::Arc;

use isthmus_model::spiffe::SpiffeId;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::LiveIdentity;
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::key::PrivateKey;
use crate::verify::TrustBundle;

#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) id: SpiffeId,
    pub(super) window: Window,
    /// Leaf and intermediate, if there is one, with the key: as a client shows them.
    pub(super) certified: Arc<CertifiedKey>,
    /// The key again, for [`ExportedSvid`](super::ExportedSvid): what signs for rustls cannot be read back.
    pub(super) key: PrivateKey,
}

impl Credentials {
    pub(super) fn read(chain: Vec<Vec<u8>>, key: &PrivateKey) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "workload", reason: reason.to_owned() };
        let (leaf, intermediate) = match chain.as_slice() {
            [leaf] => (leaf, None),
            [leaf, intermediate] => (leaf, Some(intermediate)),
            _ => return Err(flawed("expected a leaf, with its intermediate if it is a workload's")),
        };
        if let Some(issuer) = intermediate {
            certificate::parse(issuer).and_then(|issuer| certificate::signing_domain(&issuer)).map_err(flawed)?;
        }
        let leaf = certificate::parse(leaf).map_err(flawed)?;
        if !certificate::key_digest(&leaf).same_as(&key.digest()) {
            return Err(IdentityError::KeyMismatch);
        }
        let id = certificate::spiffe_id(&leaf).map_err(|error| flawed(&error.to_string()))?;
        if id.is_gateway() == intermediate.is_some() {
            return Err(flawed("a workload's comes with its intermediate, a gateway's without one"));
        }
        let window = Window::of(&leaf);
        let signer = sign::any_ecdsa_type(&key.to_rustls()).map_err(|_| IdentityError::Key)?;
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Ok(Self { id, window, certified: Arc::new(CertifiedKey::new(chain, signer)), key: key.clone() })
    }

    /// Adds the root that issued the last of them, when it is known.
    pub(super) fn with_root(&self, trust: Option<&TrustBundle>) -> Arc<CertifiedKey> {
        let issued = |root: &&[u8]| {
            let Some(last) = self.certified.cert.last() else { return false };
            let (Ok(root), Ok(last)) = (certificate::parse(root), certificate::parse(last)) else { return false };
            last.verify_signature(Some(root.public_key())).is_ok()
        };
        let mut with_root = CertifiedKey::clone(&self.certified);
        if let Some(root) = trust.and_then(|trust| trust.roots().find(issued)) {
            with_root.cert.push(CertificateDer::from(root.to_vec()));
        }
        Arc::new(with_root)
    }
}

/// Shows whatever credentials the cell holds at the time.
#[derive(Debug)]
pub(super) struct LiveCredentials(pub(super) LiveIdentity);

impl ResolvesServerCert for LiveCredentials {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.state().server.clone()
    }
}

impl ResolvesClientCert for LiveCredentials {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.state().credentials.as_ref().map(|credentials| credentials.certified.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

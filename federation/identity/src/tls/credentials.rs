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
    /// Leaf and intermediate with the key, as a client shows them.
    pub(super) certified: Arc<CertifiedKey>,
    /// The key again, for [`ExportedSvid`](super::ExportedSvid): what signs for rustls cannot be read back.
    pub(super) key: PrivateKey,
}

impl Credentials {
    pub(super) fn read(chain: Vec<Vec<u8>>, key: &PrivateKey) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "workload", reason: reason.to_owned() };
        let [leaf, intermediate] = chain.as_slice() else {
            return Err(flawed("expected exactly two certificates, leaf and intermediate"));
        };
        certificate::parse(intermediate).and_then(|issuer| certificate::signing_domain(&issuer)).map_err(flawed)?;
        let leaf = certificate::parse(leaf).map_err(flawed)?;
        if !certificate::key_digest(&leaf).same_as(&key.digest()) {
            return Err(IdentityError::KeyMismatch);
        }
        let id = match certificate::uris(&leaf).map_err(flawed)?.as_slice() {
            [uri] => uri.parse::<SpiffeId>().map_err(|error| flawed(&error.to_string()))?,
            _ => return Err(flawed("it does not have exactly one URI name")),
        };
        let window = Window::of(&leaf);
        let signer = sign::any_ecdsa_type(&key.to_rustls()).map_err(|_| IdentityError::Key)?;
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Ok(Self { id, window, certified: Arc::new(CertifiedKey::new(chain, signer)), key: key.clone() })
    }

    /// Adds the root that issued the intermediate, when it is known.
    pub(super) fn with_root(&self, trust: Option<&TrustBundle>) -> Arc<CertifiedKey> {
        let issued = |root: &&[u8]| {
            let Some(intermediate) = self.certified.cert.last() else { return false };
            let (Ok(root), Ok(intermediate)) = (certificate::parse(root), certificate::parse(intermediate)) else {
                return false;
            };
            intermediate.verify_signature(Some(root.public_key())).is_ok()
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

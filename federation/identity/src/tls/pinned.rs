//! First contact: a joining gateway or sidecar knows nothing of the federation but the digest of its
//! root key, from a token. The server shows its root along with its chain; if the digest fits, that
//! root is trusted for this connection, and the chain is verified in the ordinary way.

use std::sync::Arc;

use isthmus_model::name::FederationDomain;
use isthmus_model::registry::token::Digest;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::verifier::{JudgesServer, meant, presented, system_time};
use super::{Expected, LiveIdentity, client_config};
use crate::certificate;
use crate::error::VerifyError;
use crate::verify::{CHAIN_LEN_MAX, PeerUsage, TrustBundle};

/// A client configuration for first contact. The connection fails before anything is sent unless the
/// server's chain ends in the root of that digest, belongs to `federation`, and names an identity for
/// which `expected` holds; [`VerifyError::find_in`] tells which. Credentials of `client`, if there are
/// any, are shown when the server asks.
#[must_use]
pub fn pinned_client_config(
    root: Digest,
    federation: FederationDomain,
    expected: Expected,
    client: Option<&LiveIdentity>,
    alpn: &[&[u8]],
) -> Arc<ClientConfig> {
    client_config(Arc::new(PinnedServer { root, federation, expected }), client, alpn)
}

struct PinnedServer {
    root: Digest,
    federation: FederationDomain,
    expected: Expected,
}

impl JudgesServer for PinnedServer {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let chain = presented(leaf, issuers);
        if chain.len() > CHAIN_LEN_MAX {
            return Err(VerifyError::ChainTooLong(chain.len()));
        }
        let pinned = chain.iter().find(|presented| {
            certificate::parse(presented).is_ok_and(|parsed| certificate::key_digest(&parsed).same_as(&self.root))
        });
        let root = pinned.ok_or(VerifyError::RootMismatch)?;
        // Refuses anything but an authority over authorities, such as an intermediate of the same key.
        let trust =
            TrustBundle::new(self.federation.clone(), vec![root.to_vec()]).map_err(|_| VerifyError::RootMismatch)?;
        meant(&trust.verify(&chain, PeerUsage::Server, system_time(now))?, &self.expected)
    }
}

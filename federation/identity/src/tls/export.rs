//! Handing the own certificate and its private key to the workload that they were issued for.
//!
//! Besides [`PrivateKey::save`](crate::PrivateKey::save), which writes to a file of the own user's, this is the
//! only way in which a private key leaves the process. Whoever calls it decides who may have the key.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use isthmus_model::spiffe::SpiffeId;
use zeroize::Zeroizing;

use super::LiveIdentity;
use super::credentials::Credentials;

/// The certificate and private key that an identity had at one moment: they belong together, whatever is
/// renewed meanwhile. `Debug` does not show the key.
#[derive(Clone)]
pub struct ExportedSvid(Credentials);

impl LiveIdentity {
    /// The current certificate with its private key, if there is one. Clones share the key; a copy of it is made
    /// by [`ExportedSvid::private_key`] only.
    #[must_use]
    pub fn export_svid(&self) -> Option<ExportedSvid> {
        self.state().credentials.clone().map(ExportedSvid)
    }
}

impl ExportedSvid {
    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.id
    }

    /// Leaf and intermediate, DER.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.0.certified.cert.iter().map(AsRef::as_ref)
    }

    /// A copy of the private key, PKCS#8 in DER, unencrypted. Wiped when dropped; copies of it are the caller's.
    #[must_use]
    pub fn private_key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.0.key.pkcs8().to_vec())
    }

    /// When the certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.window.not_after
    }

    /// Whether both are of one issuance.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.certified, &other.0.certified)
    }
}

impl fmt::Debug for ExportedSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportedSvid").field("id", &String::from(self.0.id.clone())).finish_non_exhaustive()
    }
}

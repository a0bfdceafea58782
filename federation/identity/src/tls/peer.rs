//! Who is at the other end of an established connection, for as long as it lasts.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use isthmus_model::spiffe::SpiffeId;
use rustls::CommonState;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::LiveIdentity;
use crate::authority::CLOCK_SKEW;
use crate::error::VerifyError;
use crate::verify::{PeerUsage, TrustBundle, Verified};

/// The peer of a connection, judged again whenever the roots or the denylist change.
pub struct Peer {
    chain: Vec<CertificateDer<'static>>,
    trust: watch::Receiver<Option<Arc<TrustBundle>>>,
    first: Verified,
    judged: Mutex<Judged>,
}

/// The last verdict, and by which bundle.
struct Judged {
    by: Arc<TrustBundle>,
    verdict: Result<Verified, VerifyError>,
}

impl LiveIdentity {
    /// The peer of an established connection. `None` when it showed no certificate, or would now be refused.
    #[must_use]
    pub fn peer(&self, tls: &CommonState) -> Option<Peer> {
        let trust = self.trust_changes();
        let by = self.trust()?;
        let chain: Vec<_> = tls.peer_certificates()?.iter().map(|one| one.clone().into_owned()).collect();
        let first = judge(&by, &chain).ok()?;
        let judged = Mutex::new(Judged { by, verdict: Ok(first.clone()) });
        Some(Peer { chain, trust, first, judged })
    }
}

/// The handshake has bound the certificate to its end of the connection, which rustls does not tell here; either
/// usage will do for the rest.
fn judge(trust: &TrustBundle, chain: &[CertificateDer<'_>]) -> Result<Verified, VerifyError> {
    let now = SystemTime::now();
    let verify = |usage| trust.verify(chain, usage, now);
    verify(PeerUsage::Client).or_else(|_| verify(PeerUsage::Server))
}

impl Peer {
    /// Who it is, whether or not it is trusted still.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        self.first.id()
    }

    /// When its certificate ends.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.first.not_after()
    }

    /// The peer, if it is trusted now. Costs a comparison unless the roots or the denylist changed.
    #[must_use]
    pub fn verified(&self) -> Option<Verified> {
        self.verdict().ok().filter(|verdict| SystemTime::now() < verdict.not_after() + CLOCK_SKEW)
    }

    fn verdict(&self) -> Result<Verified, VerifyError> {
        let current = self.trust.borrow().clone().ok_or(VerifyError::NoTrust)?;
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&judged.by, &current) {
            *judged = Judged { verdict: judge(&current, &self.chain), by: current };
        }
        judged.verdict.clone()
    }

    /// Returns when the roots or the denylist changed so that the peer is not trusted any more. The end of its
    /// certificate is not waited for.
    pub async fn distrusted(&self) {
        self.comes_to(|verdict| verdict.is_err()).await;
    }

    /// Returns when the peer's key was denied: what goes on with it must end now. Other reasons to distrust it,
    /// such as a retired root, leave time to finish.
    pub async fn revoked(&self) {
        self.comes_to(|verdict| matches!(verdict, Err(VerifyError::Revoked))).await;
    }

    async fn comes_to(&self, end: impl Fn(&Result<Verified, VerifyError>) -> bool) {
        let mut trust = self.trust.clone();
        loop {
            trust.mark_unchanged();
            if end(&self.verdict()) {
                return;
            }
            if trust.changed().await.is_err() {
                // The identity is gone, and with it everyone who could change it.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("id", &self.id().to_string()).finish_non_exhaustive()
    }
}

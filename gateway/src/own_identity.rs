//! The gateway's own certificate, which its cluster's intermediate signs, and the roots it trusts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_federation::enroll::Member;
use isthmus_identity::{ClusterAuthority, IdentityError, LiveIdentity, PrivateKey, TrustBundle};
use isthmus_model::name::FederationDomain;
use isthmus_model::registry::Registry;
use isthmus_model::spiffe::SpiffeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long the gateway's own certificate is good for. It signs itself, so this costs nothing.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How often the need for a new one is looked at. Looking, not sleeping until then, survives clock jumps.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The gateway's identity and how it is kept fresh.
pub struct OwnIdentity {
    id: SpiffeId,
    authority: Arc<ClusterAuthority>,
    live: LiveIdentity,
    federation: FederationDomain,
}

impl OwnIdentity {
    /// Gives `live` a certificate for the gateway and the roots that `member` joined with.
    ///
    /// # Errors
    /// [`IdentityError`] when the intermediate cannot sign, for example because it expired.
    pub fn start(member: &Member, authority: Arc<ClusterAuthority>, live: LiveIdentity) -> Result<Self, IdentityError> {
        let federation = member.name.federation.clone();
        let id = SpiffeId::gateway(federation.trust_domain(&member.name.cluster), member.name.gateway.clone());
        live.set_trust(TrustBundle::new(federation.clone(), member.roots.clone())?);
        let own = Self { id, authority, live, federation };
        own.renew()?;
        Ok(own)
    }

    fn renew(&self) -> Result<(), IdentityError> {
        let key = PrivateKey::generate()?;
        let chain = self.authority.sign(&key.csr()?, &self.id, LIFETIME, SystemTime::now())?;
        self.live.set_credentials(chain, key)
    }

    /// Whether two thirds of the certificate's life are over.
    fn due(&self) -> bool {
        let Some((not_before, not_after)) = self.live.lifetime() else { return true };
        let life = not_after.duration_since(not_before).unwrap_or_default();
        SystemTime::now() >= not_before + life * 2 / 3
    }

    /// Renews the certificate and follows the registry's roots until told to stop.
    pub async fn keep(self, mut registry: watch::Receiver<Arc<Registry>>, shutdown: CancellationToken) {
        let mut trusted = Vec::new();
        loop {
            let roots = registry.borrow_and_update().federation().map(|federation| federation.roots.clone());
            if let Some(roots) = roots.filter(|roots| *roots != trusted) {
                match TrustBundle::new(self.federation.clone(), roots.clone()) {
                    Ok(bundle) => {
                        self.live.set_trust(bundle);
                        trusted = roots;
                    }
                    Err(error) => tracing::error!(%error, "the registry's roots are unusable; the old ones stay"),
                }
            }
            if self.due()
                && let Err(error) = self.renew()
            {
                tracing::error!(%error, "the gateway's certificate could not be renewed");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                changed = registry.changed() => if changed.is_err() { return },
            }
        }
    }
}

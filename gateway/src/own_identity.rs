//! The gateway's own keys and certificates, and whom it trusts: kept as the registry says.
//!
//! A renewal is asked for in the registry and answered there by whoever keeps the root. Until then, and as long as
//! nobody does, the present certificates stay in use. New keys are on disk before anyone hears of them, so a
//! renewal that a restart interrupts is the same one afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_federation::Handle;
use isthmus_federation::data_dir::DataDir;
use isthmus_federation::enroll::Member;
use isthmus_identity::{GatewayKeys, IdentityError, LiveAuthority, LiveIdentity, TrustBundle};
use isthmus_model::command::Command;
use isthmus_model::name::{ClusterName, FederationDomain};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::{Node, NodeId, Requests};
use isthmus_model::registry::token::Digest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the need for new certificates is looked at. Looking, not sleeping until then, survives clock jumps.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before a renewal that the registry did not take is asked for again.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// The gateway's identity and how it is kept.
pub struct OwnIdentity {
    node: NodeId,
    data: DataDir,
    federation: FederationDomain,
    cluster: ClusterName,
    live: LiveIdentity,
    authority: LiveAuthority,
    lifetime: (SystemTime, SystemTime),
    /// Keys that wait for their certificates.
    next: Option<(GatewayKeys, Requests)>,
}

impl OwnIdentity {
    /// Gives `live` the certificate and the roots that `member` has.
    ///
    /// # Errors
    /// [`IdentityError`] when they are unusable.
    pub fn start(member: &Member, live: LiveIdentity) -> Result<(Self, LiveAuthority), IdentityError> {
        let federation = member.name.federation.clone();
        live.set_trust(TrustBundle::new(federation.clone(), member.roots.clone())?);
        let credentials = &member.credentials;
        live.set_credentials(credentials.chain(), credentials.key().clone())?;
        let (node, data, lifetime) = (member.node, member.data.clone(), credentials.lifetime());
        let authority = LiveAuthority::new(credentials.authority().clone());
        let cluster = member.name.cluster.clone();
        let own = Self { node, data, federation, cluster, live, authority: authority.clone(), lifetime, next: None };
        Ok((own, authority))
    }

    /// Whether new certificates are needed: two thirds of the present ones' life are over, or another root signs by
    /// now.
    fn is_due(&self, node: &Node, issuer: &Digest, now: SystemTime) -> bool {
        let (not_before, not_after) = self.lifetime;
        let life = not_after.duration_since(not_before).unwrap_or_default();
        let outdated = node.latest().is_some_and(|issued| issued.certificates.root != *issuer);
        outdated || now >= not_before + life * 2 / 3
    }

    /// Follows what the registry says of the roots and of denied keys.
    fn follow(&self, registry: &Registry, trusted: &mut (Vec<Vec<u8>>, BTreeSet<Digest>)) {
        let roots = registry.root_certificates();
        let told = (roots, registry.denied_in(&self.cluster));
        if told.0.is_empty() || told == *trusted {
            return;
        }
        match TrustBundle::new(self.federation.clone(), told.0.clone()) {
            Ok(bundle) => {
                self.live.set_trust(bundle.with_denied(Arc::new(told.1.clone())));
                self.keep_roots(&told.0);
                *trusted = told;
            }
            Err(error) => {
                tracing::error!(%error, "the registry's roots are unusable; the old ones stay");
                // What is denied is denied under the old ones too.
                if let Some(known) = self.live.trust() {
                    self.live.set_trust(TrustBundle::clone(&known).with_denied(Arc::new(told.1.clone())));
                }
                *trusted = told;
            }
        }
    }

    /// Writes the roots down, so that a restart without a quorum knows them.
    fn keep_roots(&self, roots: &[Vec<u8>]) {
        if let Err(error) = self.data.update_node(|file| file.with_roots(roots)) {
            tracing::error!(%error, "the roots could not be written down");
        }
    }

    /// The request that is to be made, if one is: for keys that are kept until they are certified.
    fn request(&mut self, registry: &Registry) -> Result<Option<Command>, IdentityError> {
        let (Some(node), Some(trust)) = (registry.nodes().get(&self.node), registry.trust()) else { return Ok(None) };
        if self.next.is_none() && !self.is_due(node, &trust.issuer().key, SystemTime::now()) {
            return Ok(None);
        }
        if self.next.is_none() {
            let keys = GatewayKeys::load_or_generate(&self.data.next_identity())?;
            let requests = keys.requests()?;
            self.next = Some((keys, requests));
        }
        let Some((_, requests)) = &self.next else { return Ok(None) };
        let waits = node.pending.as_ref().is_some_and(|pending| pending.requests.same_keys(requests));
        let asked = Command::RequestCertificates { node: self.node, requests: requests.clone() };
        Ok((!waits && node.issued_for(requests).is_none()).then_some(asked))
    }

    /// Takes up what was certified, if it was.
    fn install(&mut self, registry: &Registry) -> Result<(), IdentityError> {
        let Some((keys, requests)) = &self.next else { return Ok(()) };
        let issued = registry.nodes().get(&self.node).and_then(|node| node.issued_for(requests));
        let Some(issued) = issued else { return Ok(()) };
        let credentials = keys.clone().certified(&issued.certificates)?;
        credentials.install(&self.data.next_identity(), &self.data.identity())?;
        self.live.set_credentials(credentials.chain(), credentials.key().clone())?;
        self.lifetime = credentials.lifetime();
        self.authority.replace(credentials.authority().clone());
        self.next = None;
        tracing::info!(root = %issued.certificates.root, "this gateway has new certificates");
        Ok(())
    }

    /// Renews the certificates and follows the registry's trust until told to stop.
    pub async fn keep(mut self, handle: Handle, shutdown: CancellationToken) {
        let mut registry: watch::Receiver<Arc<Registry>> = handle.registry();
        let mut trusted = (Vec::new(), BTreeSet::new());
        loop {
            let current = registry.borrow_and_update().clone();
            self.follow(&current, &mut trusted);
            let mut pause = LOOK_INTERVAL;
            let mut request = self.request(&current);
            if let Err(error) = self.install(&current) {
                tracing::error!(%error, "what was certified for this gateway is unusable; it asks again with new keys");
                self.start_over();
                pause = RETRY_PAUSE;
                request = Ok(None);
            }
            match request {
                Ok(None) => {}
                Ok(Some(request)) => {
                    if let Err(error) = handle.propose(request).await {
                        tracing::warn!(%error, "this gateway's renewal is not agreed yet");
                        pause = RETRY_PAUSE;
                    }
                }
                Err(error) => tracing::error!(%error, "this gateway's certificates could not be renewed"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
                changed = registry.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Forgets keys whose certificates cannot be used.
    fn start_over(&mut self) {
        self.next = None;
        if let Err(error) = std::fs::remove_dir_all(self.data.next_identity()) {
            tracing::error!(%error, "keys that cannot be used stay on disk");
        }
    }
}

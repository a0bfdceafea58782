//! Which certificates vouch for which trust domain: pure.

use std::collections::{BTreeMap, HashMap};

use isthmus_identity::TrustBundle;
use isthmus_model::name::TrustDomain;
use isthmus_model::snapshot::Snapshot;

/// The bundles of all members of the federation at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bundles {
    own: TrustDomain,
    /// Certificates of authorities, DER, one after the other. Bounded by the view's bound on clusters and the trust
    /// bundle's on roots.
    by_domain: BTreeMap<TrustDomain, Vec<u8>>,
}

impl Bundles {
    /// The bundles of the own trust domain and those of all other members in `view`.
    pub(super) fn new(view: &Snapshot, trust: &TrustBundle) -> Self {
        let own = view.site.trust_domain();
        let others = view.clusters.keys().map(|cluster| view.site.federation.trust_domain(cluster));
        let bundle = |domain: TrustDomain| Some((domain.clone(), authorities(&domain, trust)?));
        let by_domain = others.chain([own.clone()]).filter_map(bundle).collect();
        Self { own, by_domain }
    }

    /// The own trust domain's bundle.
    pub(super) fn own(&self) -> Option<&[u8]> {
        self.by_domain.get(&self.own).map(Vec::as_slice)
    }

    /// The bundles of all other trust domains, by `spiffe://<trust domain>`.
    pub(super) fn federated(&self) -> HashMap<String, Vec<u8>> {
        let others = self.by_domain.iter().filter(|(domain, _)| **domain != self.own);
        others.map(|(domain, bundle)| (uri(domain), bundle.clone())).collect()
    }

    /// All bundles, by `spiffe://<trust domain>`.
    pub(super) fn all(&self) -> HashMap<String, Vec<u8>> {
        self.by_domain.iter().map(|(domain, bundle)| (uri(domain), bundle.clone())).collect()
    }
}

fn uri(domain: &TrustDomain) -> String {
    format!("spiffe://{domain}")
}

/// The certificates that a SPIFFE client is to accept identities of `domain` from; `None` when nothing vouches for it.
///
/// Those are the roots of the federation, for each of its trust domains alike. It is less than what our own
/// verifier asks: that the intermediate was signed for the very trust domain. SPIFFE clients do not know of
/// that rule, so that for them the clusters of one federation vouch for each other.
fn authorities(domain: &TrustDomain, trust: &TrustBundle) -> Option<Vec<u8>> {
    (domain.federation == *trust.federation()).then(|| trust.roots().flatten().copied().collect())
}

//! A small federation for tests: one root, clusters under it, workloads under those.

use std::time::{Duration, SystemTime};

use isthmus_model::name::{FederationDomain, TrustDomain};
use isthmus_model::spiffe::SpiffeId;
use rustls::pki_types::CertificateDer;

use crate::authority::{ClusterAuthority, INTERMEDIATE_LIFETIME, RootAuthority};
use crate::key::PrivateKey;
use crate::tls::LiveIdentity;
use crate::verify::TrustBundle;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) struct Federation {
    pub(crate) root: RootAuthority,
    pub(crate) now: SystemTime,
}

pub(crate) fn federation_domain() -> FederationDomain {
    "acme.mesh".parse().expect("valid")
}

pub(crate) fn trust_domain(cluster: &str) -> TrustDomain {
    federation_domain().trust_domain(&cluster.parse().expect("valid"))
}

pub(crate) fn id(text: &str) -> SpiffeId {
    text.parse().expect("valid")
}

pub(crate) fn ders(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

impl Federation {
    pub(crate) fn found() -> Self {
        let now = SystemTime::now();
        Self { root: RootAuthority::create(&federation_domain(), now).expect("created"), now }
    }

    pub(crate) fn cluster(&self, name: &str) -> ClusterAuthority {
        let key = PrivateKey::generate().expect("generated");
        let csr = key.csr().expect("requested");
        let lifetime = INTERMEDIATE_LIFETIME;
        let certificate = self.root.sign_cluster(&csr, &trust_domain(name), lifetime, self.now).expect("signed");
        ClusterAuthority::new(key, certificate).expect("a cluster's")
    }

    pub(crate) fn bundle(&self) -> TrustBundle {
        TrustBundle::new(federation_domain(), vec![self.root.certificate().to_vec()]).expect("a bundle")
    }

    /// Credentials and trust of the identity, in the cluster that its trust domain names.
    pub(crate) fn live(&self, identity: &str) -> LiveIdentity {
        let identity = id(identity);
        let live = LiveIdentity::new();
        let (key, chain) = self.credentials(&identity);
        live.set_credentials(chain, key).expect("credentials");
        live.set_trust(self.bundle());
        live
    }

    /// A key and its chain, signed by whoever signs that kind of identity.
    pub(crate) fn credentials(&self, identity: &SpiffeId) -> (PrivateKey, Vec<Vec<u8>>) {
        let key = PrivateKey::generate().expect("generated");
        let csr = key.csr().expect("requested");
        let chain = if identity.is_gateway() {
            vec![self.root.sign_gateway(&csr, identity, HOUR, self.now).expect("signed")]
        } else {
            let cluster = self.cluster(identity.trust_domain.cluster.as_str());
            cluster.sign(&csr, identity, None, HOUR, self.now).expect("signed")
        };
        (key, chain)
    }
}

//! A gateway of `us-east` with nothing behind it, and clients of its ports. For tests only.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_identity::{LiveIdentity, PrivateKey, RootAuthority, TrustBundle};
use isthmus_model::name::FederationDomain;
use isthmus_model::snapshot::{Coverage, Site, Snapshot};
use isthmus_model::spiffe::SpiffeId;
use isthmus_proxy::{DataPlane, Metrics};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

/// The gateway's data plane, and a client that trusts it and has no certificate.
pub(crate) fn gateway_and_client() -> (DataPlane, TlsConnector) {
    let (domain, now) = ("acme.mesh".parse::<FederationDomain>().expect("valid"), SystemTime::now());
    let cluster = "us-east".parse().expect("valid");
    let root = RootAuthority::create(&domain, now).expect("a root");
    let own_key = PrivateKey::generate().expect("a key");
    let csr = own_key.csr().expect("a request");
    let id = SpiffeId::gateway(domain.trust_domain(&cluster), "gw-1".parse().expect("valid"));
    let leaf = root.sign_gateway(&csr, &id, Duration::from_secs(3600), now).expect("signed");
    let trusting = || {
        let identity = LiveIdentity::new();
        identity.set_trust(TrustBundle::new(domain.clone(), vec![root.certificate().to_vec()]).expect("a bundle"));
        identity
    };
    let gateway = trusting();
    gateway.set_credentials(vec![leaf], own_key).expect("credentials");
    let client = TlsConnector::from(trusting().client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"]));

    let site = Site { federation: domain, cluster, locality: "r1".parse().expect("valid") };
    let (_, view) = watch::channel(Arc::new(Snapshot::empty(site, Coverage::Complete)));
    let metrics = Arc::new(Metrics::register(&mut prometheus_client::registry::Registry::default()));
    (DataPlane::new(view, None, gateway, metrics), client)
}

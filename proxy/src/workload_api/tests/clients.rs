//! What an unmodified SPIFFE client sees.

use std::time::SystemTime;

use isthmus_identity::{PeerUsage, TrustBundle};
use spiffe::{BundleSource, TrustDomain, X509Bundle, X509BundleSet, X509Source, X509Svid};
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_stream::StreamExt;

use super::*;
use crate::agent::tests::gateway::LIFETIME;

/// So short that the agent renews within a test; not so short that it ends before.
const RENEWED_SOON: Duration = Duration::from_secs(3);

fn domain(name: &str) -> TrustDomain {
    name.parse().expect("a trust domain")
}

fn bundle<'a>(bundles: &'a X509BundleSet, name: &str) -> Vec<&'a [u8]> {
    let bundle: &X509Bundle = bundles.get_ref(&domain(name)).expect("a member");
    bundle.authorities().iter().map(AsRef::as_ref).collect()
}

/// Checks an SVID as a TLS peer of this federation would, and that the key is the certificate's.
fn assert_genuine(svid: &X509Svid, federation: &Federation) {
    let chain: Vec<_> = svid.cert_chain().iter().map(|der| CertificateDer::from(der.as_bytes().to_vec())).collect();
    assert_eq!(chain.len(), 2, "leaf and intermediate");
    let trust = TrustBundle::new(federation.site().federation, vec![federation.root()]).expect("a root");
    let verified = trust.verify(&chain, PeerUsage::Client, SystemTime::now()).expect("genuine");
    assert_eq!(verified.id(), &federation.workload());
    assert_eq!(svid.spiffe_id().to_string(), federation.workload().to_string());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec()));
    let signer = any_ecdsa_type(&key).expect("a P-256 key");
    CertifiedKey::new(chain, signer).keys_match().expect("the leaf's key");
}

#[tokio::test]
async fn a_spiffe_client_gets_certificate_key_and_the_bundles_of_all_members() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let client = served.client().await;

    let context = soon(client.fetch_x509_context()).await.expect("served");
    assert_eq!(context.svids().len(), 1);
    assert_genuine(&context.svids()[0], &federation);
    let root = federation.root();
    let bundles = soon(client.fetch_x509_bundles()).await.expect("served");
    for bundles in [context.bundle_set(), &bundles] {
        assert_eq!(bundles.len(), 2);
        assert_eq!(bundle(bundles, "us-east.acme.mesh"), [&root[..]]);
        assert_eq!(bundle(bundles, "us-west.acme.mesh"), [&root[..]]);
    }
}

#[tokio::test]
async fn an_open_stream_gets_each_renewed_certificate() {
    let federation = Federation::new("us-east");
    let (facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, RENEWED_SOON).await;
    let client = served.client().await;
    let mut svids = soon(client.stream_x509_svids()).await.expect("served");
    let mut bundles = soon(client.stream_x509_bundles()).await.expect("served");
    assert_eq!(soon(bundles.next()).await.expect("open").expect("served").len(), 2);

    let first = soon(svids.next()).await.expect("open").expect("served");
    let second = soon(svids.next()).await.expect("open").expect("served");
    assert_genuine(&second, &federation);
    assert_ne!(second.leaf().as_bytes(), first.leaf().as_bytes());
    assert_ne!(second.private_key().as_bytes(), first.private_key().as_bytes(), "each certificate has its own key");

    // The renewal was no news to who only wants bundles: their next message is that of the next member.
    facts.send_modify(|facts| add_member(facts, "eu-north"));
    assert_eq!(soon(bundles.next()).await.expect("open").expect("served").len(), 3);
}

#[tokio::test]
async fn an_open_stream_gets_new_members_and_roots_in_full_and_loses_old_ones() {
    let federation = Federation::new("us-east");
    let (facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, LIFETIME).await;
    let client = served.client().await;
    let mut contexts = soon(client.stream_x509_contexts()).await.expect("served");
    let first = soon(contexts.next()).await.expect("open").expect("served");
    assert_eq!(first.bundle_set().len(), 2);

    // A member joins.
    facts.send_modify(|facts| add_member(facts, "eu-north"));
    let joined = soon(contexts.next()).await.expect("open").expect("served");
    assert_eq!(joined.bundle_set().len(), 3);
    assert_eq!(joined.svids(), first.svids(), "the rest is told again");

    // A rotation begins: every bundle has both roots.
    let next_root = Federation::new("us-east").root();
    facts.send_modify(|facts| facts.roots = Arc::from([federation.root(), next_root.clone()]));
    let both = [&federation.root()[..], &next_root];
    let rotated = soon(contexts.next()).await.expect("open").expect("served");
    for member in ["us-east.acme.mesh", "us-west.acme.mesh", "eu-north.acme.mesh"] {
        assert_eq!(bundle(rotated.bundle_set(), member), both, "{member}");
    }

    // A member leaves.
    facts.send_modify(|facts| drop(facts.clusters.remove("us-west")));
    let left = soon(contexts.next()).await.expect("open").expect("served");
    assert_eq!(left.bundle_set().len(), 2);
    assert!(left.bundle_set().get_ref(&domain("us-west.acme.mesh")).is_none());
}

#[tokio::test]
async fn a_source_that_looks_after_itself_follows_renewals() {
    let federation = Federation::new("us-east");
    let (_facts, known) = watch::channel(two_members(&federation));
    let (served, _gateway) = Served::ready(&federation, known, RENEWED_SOON).await;
    let building = X509Source::builder().endpoint(served.endpoint()).build();
    let source = soon(building).await.expect("synchronized");
    let first = source.svid().expect("an SVID");
    let mut updates = source.updated();
    soon(updates.changed()).await.expect("renewed");
    assert_ne!(source.svid().expect("an SVID").leaf(), first.leaf());
    let bundle = source.bundle_for_trust_domain(&domain("us-west.acme.mesh")).expect("healthy");
    assert!(bundle.is_some_and(|bundle| bundle.authorities().len() == 1));
    source.shutdown().await;
}

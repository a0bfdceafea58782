//! Old algorithms, in certificates that OpenSSL made: see `data/README.md`.

use super::*;

/// In the middle of the fixtures' validity: 2036.
const THEN: Duration = Duration::from_secs(66 * 365 * 24 * 60 * 60);

macro_rules! der {
    ($name:literal) => {
        include_bytes!(concat!("data/", $name, ".der")).as_slice()
    };
}

fn verdict(chain: &[&[u8]]) -> Result<(), VerifyError> {
    let bundle = TrustBundle::new(federation_domain(), vec![der!("root").to_vec()]).expect("a bundle");
    let chain: Vec<_> = chain.iter().map(|der| CertificateDer::from(*der)).collect();
    bundle.verify(&chain, PeerUsage::Client, UNIX_EPOCH + THEN).map(|_| ())
}

/// The signature algorithm of none of the fixtures but the good one is one that the verifier has.
fn is_unsupported(verdict: &Result<(), VerifyError>) -> bool {
    use webpki::Error::{UnsupportedSignatureAlgorithmContext, UnsupportedSignatureAlgorithmForPublicKeyContext};
    let Err(VerifyError::Chain(error)) = verdict else { return false };
    matches!(error, UnsupportedSignatureAlgorithmContext(_) | UnsupportedSignatureAlgorithmForPublicKeyContext(_))
}

#[test]
fn the_good_fixture_verifies() {
    assert_eq!(verdict(&[der!("leaf"), der!("east")]), Ok(()));
}

#[test]
fn signatures_with_old_hashes_are_refused_at_every_level() {
    for chain in
        [[der!("leaf-sha1"), der!("east")], [der!("leaf-md5"), der!("east-rsa2048")], [der!("leaf"), der!("east-sha1")]]
    {
        assert!(is_unsupported(&verdict(&chain)), "{:?}", verdict(&chain));
    }
}

#[test]
fn rsa_keys_sign_nothing_however_long_they_are() {
    for chain in [[der!("leaf-by-rsa1024"), der!("east-rsa1024")], [der!("leaf-by-rsa2048"), der!("east-rsa2048")]] {
        assert!(is_unsupported(&verdict(&chain)), "{:?}", verdict(&chain));
    }
}

#[test]
fn keys_of_other_kinds_are_no_peers() {
    for leaf in [der!("leaf-rsa1024"), der!("leaf-rsa2048"), der!("leaf-p521")] {
        assert_eq!(verdict(&[leaf, der!("east")]), Err(VerifyError::KeyType));
    }
}

#[test]
fn no_root_is_of_an_old_kind() {
    for root in [der!("root-sha1"), der!("root-rsa1024"), der!("root-rsa2048")] {
        let refused = TrustBundle::new(federation_domain(), vec![root.to_vec()]);
        assert!(matches!(refused, Err(IdentityError::Certificate { role: "root", .. })), "{refused:?}");
    }
}

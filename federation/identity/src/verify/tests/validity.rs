//! When a chain is valid.

use super::*;

#[test]
fn clocks_may_differ_by_the_skew_and_no_more() {
    let federation = Federation::found();
    let bundle = federation.bundle();
    let chain = ders(&svid(&federation));
    let verify = |now| bundle.verify(&chain, PeerUsage::Client, now);
    let end = verify(federation.now).expect("genuine").not_after();
    let begin = federation.now - CLOCK_SKEW;
    let second = Duration::from_secs(1);
    for now in [end, end + CLOCK_SKEW - second, begin, begin - CLOCK_SKEW + second] {
        assert!(verify(now).is_ok(), "{:?}", verify(now));
    }
    assert!(matches!(verify(end + CLOCK_SKEW + second), Err(VerifyError::Expired { .. })));
    assert!(matches!(verify(begin - CLOCK_SKEW - 2 * second), Err(VerifyError::NotYetValid { .. })));
}

#[test]
fn expired_issuers_end_trust() {
    let forger = Forger::new();
    let good = leaf(&[REVIEWS], forger.now);
    let mut expired = authority("east", Some("us-east.acme.mesh"), Some(0), forger.now);
    expired.not_before = (forger.now - 2 * DAY).into();
    expired.not_after = (forger.now - DAY).into();
    let expired = Issuing::signed_by(expired, key(), &forger.root).expect("signed");
    let verdict = forger.verify(&[forger.issue(&good, &expired), expired.der().clone()]);
    assert!(matches!(verdict, Err(VerifyError::Chain(webpki::Error::CertExpired { .. }))), "{verdict:?}");

    // webpki does not look at the root's own validity; we do.
    let mut long = authority("east", Some("us-east.acme.mesh"), Some(0), forger.now);
    long.not_after = (forger.now + 9 * DAY).into();
    let long = Issuing::signed_by(long, key(), &forger.root).expect("signed");
    let mut outliving = good;
    outliving.not_after = (forger.now + 9 * DAY).into();
    let chain = [forger.issue(&outliving, &long), long.der().clone()];
    forger.verify(&chain).expect("while the root is valid");
    assert_eq!(forger.verify_at(&chain, forger.now + 2 * DAY), Err(VerifyError::UnknownRoot(federation_domain())));
}

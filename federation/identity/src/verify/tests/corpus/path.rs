//! Cases in how certificates hang together, and when they are valid.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::forge::*;
use super::{Case, Chain, Verdict, malformed, refused, run, unknown_root};
use crate::authority::CLOCK_SKEW;
use crate::error::VerifyError;

fn at(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(NOW.saturating_add_signed(seconds)))
}

const DAY: i64 = 24 * 60 * 60;
const SKEW: i64 = CLOCK_SKEW.as_secs().cast_signed();

#[test]
fn every_bound_of_validity_is_inclusive() {
    let skew_after = Duration::from_secs(CLOCK_SKEW.as_secs() + 1);
    let cases: Vec<Case> = vec![
        // The leaf's own, with the skew that clocks are allowed.
        ("leaf, first second", |c| c.late = -DAY, Ok(())),
        ("leaf, the skew before", |c| c.late = -DAY - SKEW, Ok(())),
        (
            "leaf, more than the skew before",
            |c| c.late = -DAY - SKEW - 1,
            Err(VerifyError::NotYetValid { in_future: skew_after }),
        ),
        ("leaf, last second", |c| c.late = DAY, Ok(())),
        ("leaf, the skew after", |c| c.late = DAY + SKEW, Ok(())),
        ("leaf, more than the skew after", |c| c.late = DAY + SKEW + 1, Err(VerifyError::Expired { ago: skew_after })),
        // The intermediate's and the root's, exactly: the leaf's moment is moved, not theirs.
        ("intermediate, last second", |c| c.east.validity = validity("290101000000Z", "300101000000Z"), Ok(())),
        (
            "intermediate, a second late",
            |c| c.east.validity = validity("290101000000Z", "291231235959Z"),
            refused(webpki::Error::CertExpired { time: at(0), not_after: at(-1) }),
        ),
        ("intermediate, first second", |c| c.east.validity = validity("300101000000Z", "310101000000Z"), Ok(())),
        (
            "intermediate, a second early",
            |c| c.east.validity = validity("300101000001Z", "310101000000Z"),
            refused(webpki::Error::CertNotValidYet { time: at(0), not_before: at(1) }),
        ),
        ("root, last second", |c| c.root.validity = validity("250101000000Z", "300101000000Z"), Ok(())),
        ("root, a second late", |c| c.root.validity = validity("250101000000Z", "291231235959Z"), unknown_root()),
        ("root, first second", |c| c.root.validity = validity("300101000000Z", "400101000000Z"), Ok(())),
        ("root, a second early", |c| c.root.validity = validity("300101000001Z", "400101000000Z"), unknown_root()),
    ];
    run(cases);
}

#[test]
fn ways_to_write_a_time() {
    fn generalized(from: &str, until: &str) -> Vec<u8> {
        sequence(&[tlv(0x18, from.as_bytes()), tlv(0x18, until.as_bytes())])
    }
    let cases: Vec<Case> = vec![
        // RFC 5280 §4.1.2.5 wants the short form until 2049; both say the same.
        ("the long form", |c| c.leaf.validity = generalized("20291231000000Z", "20300102000000Z"), Ok(())),
        (
            "fractions of a second",
            |c| c.leaf.validity = generalized("20291231000000.5Z", "20300102000000.5Z"),
            refused(webpki::Error::BadDerTime),
        ),
        (
            "no seconds",
            |c| c.leaf.validity = validity("2912310000Z", "3001020000Z"),
            refused(webpki::Error::BadDerTime),
        ),
        (
            "another zone",
            |c| c.leaf.validity = validity("291231000000+0100", "300102000000+0100"),
            refused(webpki::Error::BadDerTime),
        ),
        (
            "a 13th month",
            |c| c.leaf.validity = validity("291331000000Z", "300102000000Z"),
            malformed("it is not X.509 in DER"),
        ),
        (
            "an end before its beginning",
            |c| c.leaf.validity = validity("300101000100Z", "291231235900Z"),
            refused(webpki::Error::InvalidCertValidity),
        ),
        (
            "a beginning before 1970",
            |c| c.leaf.validity = validity("500101000000Z", "300102000000Z"),
            refused(webpki::Error::BadDerTime),
        ),
    ];
    run(cases);
}

fn judge(chain: &Chain, shown: &[&CertificateDer<'static>]) -> Verdict {
    let shown: Vec<_> = shown.iter().map(|one| (*one).clone()).collect();
    chain.judge(&shown)
}

#[test]
fn the_order_of_the_issuers_does_not_matter_but_the_leaf_comes_first() {
    let chain = Chain::good();
    let (leaf, east) = (chain.leaf.sign(&EAST_KEY), chain.east.sign(&ROOT_KEY));
    let root = chain.root.sign(&ROOT_KEY);
    // RFC 8446 §4.4.2 asks receivers to bear with any order.
    assert_eq!(judge(&chain, &[&leaf, &east, &root]), Ok(()));
    assert_eq!(judge(&chain, &[&leaf, &root, &east]), Ok(()));
    assert_eq!(judge(&chain, &[&leaf, &east, &east]), Ok(()));
    assert_eq!(judge(&chain, &[&east, &leaf, &root]), Err(VerifyError::LeafIsAuthority));
    assert_eq!(judge(&chain, &[&leaf]), unknown_root());
    assert_eq!(judge(&chain, &[&leaf, &root]), unknown_root());
}

#[test]
fn the_same_name_with_another_key_is_another_issuer() {
    let chain = Chain::good();
    let (leaf, east) = (chain.leaf.sign(&EAST_KEY), chain.east.sign(&ROOT_KEY));
    let mut namesake = super::forge::east();
    namesake.key = super::forge::leaf().key;
    let genuine_namesake = namesake.sign(&ROOT_KEY);
    assert_eq!(judge(&chain, &[&leaf, &genuine_namesake]), unknown_root());
    assert_eq!(judge(&chain, &[&leaf, &genuine_namesake, &east]), Ok(()));
    assert_eq!(judge(&chain, &[&leaf, &east, &genuine_namesake]), Ok(()));
    // One that only says to be of the root.
    let forged = chain.east.sign(&LEAF_KEY);
    assert_eq!(judge(&chain, &[&leaf, &forged]), unknown_root());
    assert_eq!(judge(&chain, &[&leaf, &forged, &east]), Ok(()));
}

#[test]
fn issuers_that_issue_each_other_lead_nowhere() {
    let chain = Chain::good();
    let (mut one, mut other) = (east(), east());
    one.issuer = name("other", 12);
    other.subject = name("other", 12);
    other.issuer = name("east", 12);
    other.key = super::forge::leaf().key;
    for draft in [&mut one, &mut other] {
        draft.set(BASIC_CONSTRAINTS, CA);
    }
    let (leaf, one, other) = (chain.leaf.sign(&EAST_KEY), one.sign(&LEAF_KEY), other.sign(&EAST_KEY));
    assert_eq!(judge(&chain, &[&leaf, &one, &other]), unknown_root());
}

#[test]
fn who_issues_itself_is_nobodys() {
    let mut chain = Chain::good();
    chain.leaf.issuer = name("leaf", 12);
    assert_eq!(judge(&chain, &[&chain.leaf.sign(&LEAF_KEY)]), unknown_root());
    chain.east.issuer = name("east", 12);
    let leaf = leaf().sign(&EAST_KEY);
    assert_eq!(judge(&chain, &[&leaf, &chain.east.sign(&EAST_KEY)]), unknown_root());
}

#[test]
fn what_follows_after_a_certificate_is_not_ignored() {
    let chain = Chain::good();
    let (leaf, east) = (chain.leaf.sign(&EAST_KEY), chain.east.sign(&ROOT_KEY));
    let longer = CertificateDer::from([leaf.as_ref(), &[0]].concat());
    assert_eq!(judge(&chain, &[&longer, &east]), malformed("bytes follow after its end"));
    // The same length in a longer form: BER, not DER.
    let mut ber = leaf.to_vec();
    let length = [ber[2], ber[3]];
    ber.splice(1..4, [0x83, 0, length[0], length[1]]);
    assert!(judge(&chain, &[&CertificateDer::from(ber), &east]).is_err());
    let mut indefinite = leaf.to_vec();
    indefinite.splice(1..4, [0x80]);
    indefinite.extend([0, 0]);
    assert!(judge(&chain, &[&CertificateDer::from(indefinite), &east]).is_err());
}

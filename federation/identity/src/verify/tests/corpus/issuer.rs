//! Cases in the intermediate and the root.

use super::forge::*;
use super::{Case, Chain, refused, run, unknown_root};
use crate::error::VerifyError;
use crate::verify::tests::REVIEWS;

const fn issuer(why: &'static str) -> super::Verdict {
    Err(VerifyError::Issuer(why))
}

#[test]
fn basic_constraints_of_the_intermediate() {
    let cases: Vec<Case> = vec![
        // Issuers must mark it (RFC 5280 §4.2.1.9); what it says counts either way.
        ("not critical", |c| c.east.mark(BASIC_CONSTRAINTS, false), Ok(())),
        ("none", |c| c.east.remove(BASIC_CONSTRAINTS), refused(webpki::Error::EndEntityUsedAsCa)),
        ("no authority", |c| c.east.set(BASIC_CONSTRAINTS, NO_CA), refused(webpki::Error::EndEntityUsedAsCa)),
        ("without path length", |c| c.east.set(BASIC_CONSTRAINTS, CA), issuer("its path length is not 0")),
        (
            "path length 1",
            |c| c.east.set(BASIC_CONSTRAINTS, &[0x30, 6, 1, 1, 0xff, 2, 1, 1]),
            issuer("its path length is not 0"),
        ),
        (
            "path length −1",
            |c| c.east.set(BASIC_CONSTRAINTS, &[0x30, 6, 1, 1, 0xff, 2, 1, 0xff]),
            refused(webpki::Error::BadDer),
        ),
        (
            "an authority by another truth than DER's",
            |c| c.east.set(BASIC_CONSTRAINTS, &[0x30, 6, 1, 1, 1, 2, 1, 0]),
            refused(webpki::Error::BadDer),
        ),
        (
            "twice",
            |c| c.east.add(BASIC_CONSTRAINTS, true, CA_OVER_LEAVES),
            refused(webpki::Error::ExtensionValueInvalid),
        ),
    ];
    run(cases);
}

#[test]
fn usages_of_the_intermediate() {
    let no_signing = || issuer("its key usage does not include signing certificates");
    let cases: Vec<Case> = vec![
        ("signs lists too", |c| c.east.set(KEY_USAGE, &[3, 2, 1, 6]), Ok(())),
        ("none", |c| c.east.remove(KEY_USAGE), no_signing()),
        ("signs data only", |c| c.east.set(KEY_USAGE, SIGNS_DATA), no_signing()),
        ("signs lists only", |c| c.east.set(KEY_USAGE, &[3, 2, 1, 2]), no_signing()),
        ("twice", |c| c.east.add(KEY_USAGE, true, SIGNS_CERTIFICATES), refused(webpki::Error::ExtensionValueInvalid)),
        // An intermediate that has purposes passes on no others.
        ("purposes that include the leaf's", |c| c.east.add(EXTENDED_USAGE, false, &purposes(&[1, 2])), Ok(())),
        (
            "an empty list of purposes",
            |c| c.east.add(EXTENDED_USAGE, false, &[0x30, 0]),
            refused(webpki::Error::EmptyEkuExtension),
        ),
    ];
    run(cases);
    let mut chain = Chain::good();
    chain.east.add(EXTENDED_USAGE, false, &purposes(&[1]));
    let verdict = chain.judge(&chain.shown());
    let missing = matches!(verdict, Err(VerifyError::Chain(webpki::Error::RequiredEkuNotFoundContext(_))));
    assert!(missing, "purposes that do not include the leaf's: {verdict:?}");
}

#[test]
fn name_constraints_of_the_intermediate() {
    fn constrain(chain: &mut Chain, constraint: Vec<u8>) {
        chain.east.add(NAME_CONSTRAINTS, true, &constraint);
    }
    fn call(chain: &mut Chain, host: &str) {
        chain.leaf.set(ALT_NAMES, &names(&[uri(REVIEWS), dns(host)]));
    }
    let violated = || refused(webpki::Error::NameConstraintViolation);
    let cases: Vec<Case> = vec![
        ("on hosts, and there is none", |c| constrain(c, subtree(0xa0, dns("a.example"))), Ok(())),
        (
            "permits the host",
            |c| {
                constrain(c, subtree(0xa0, dns("a.example")));
                call(c, "x.a.example");
            },
            Ok(()),
        ),
        (
            "permits another host",
            |c| {
                constrain(c, subtree(0xa0, dns("a.example")));
                call(c, "xa.example");
            },
            violated(),
        ),
        (
            "excludes the host",
            |c| {
                constrain(c, subtree(0xa1, dns("a.example")));
                call(c, "a.example");
            },
            violated(),
        ),
        (
            "excludes another host",
            |c| {
                constrain(c, subtree(0xa1, dns("b.example")));
                call(c, "a.example");
            },
            Ok(()),
        ),
        // RUSTSEC-2026-0098: whatever it permits.
        ("permits a host of URIs", |c| constrain(c, subtree(0xa0, uri("us-east.acme.mesh"))), violated()),
        ("excludes a host of URIs", |c| constrain(c, subtree(0xa1, uri("example.com"))), violated()),
        (
            "permits addresses, and there are none",
            |c| constrain(c, subtree(0xa0, tlv(0x87, &[10, 0, 0, 0, 255, 0, 0, 0]))),
            Ok(()),
        ),
        (
            "permits other addresses",
            |c| {
                constrain(c, subtree(0xa0, tlv(0x87, &[10, 0, 0, 0, 255, 0, 0, 0])));
                c.leaf.set(ALT_NAMES, &names(&[uri(REVIEWS), tlv(0x87, &[192, 0, 2, 1])]));
            },
            violated(),
        ),
        ("permits another subject", |c| constrain(c, subtree(0xa0, tlv(0xa4, &name("other", 12)))), violated()),
        ("unreadable", |c| constrain(c, vec![5, 0]), refused(webpki::Error::BadDer)),
    ];
    run(cases);
}

#[test]
fn names_and_other_extensions_of_the_intermediate() {
    let cases: Vec<Case> = vec![
        ("an unknown extension", |c| c.east.add(UNKNOWN, false, &[5, 0]), Ok(())),
        (
            "an unknown critical extension",
            |c| c.east.add(UNKNOWN, true, &[5, 0]),
            refused(webpki::Error::UnsupportedCriticalExtension),
        ),
        (
            "an unknown extension twice",
            |c| {
                c.east.add(UNKNOWN, false, &[5, 0]);
                c.east.add(UNKNOWN, false, &[5, 0]);
            },
            issuer("it has an extension twice"),
        ),
        ("key identifiers of nobody", |c| c.east.add(AUTHORITY_KEY_ID, false, &[0x30, 3, 0x80, 1, 9]), Ok(())),
        ("no name", |c| c.east.remove(ALT_NAMES), issuer("it does not have exactly one URI name, its trust domain")),
        (
            "a workload's name",
            |c| c.east.set(ALT_NAMES, &names(&[uri(REVIEWS)])),
            issuer("its URI name is not spiffe://<cluster>.<federation>"),
        ),
        (
            "a name of upper case",
            |c| c.east.set(ALT_NAMES, &names(&[uri("spiffe://US-EAST.acme.mesh")])),
            issuer("its URI name is not spiffe://<cluster>.<federation>"),
        ),
        (
            "a wildcard",
            |c| c.east.set(ALT_NAMES, &names(&[uri("spiffe://*.acme.mesh")])),
            issuer("its URI name is not spiffe://<cluster>.<federation>"),
        ),
        (
            "the whole federation",
            |c| c.east.set(ALT_NAMES, &names(&[uri("spiffe://acme.mesh")])),
            issuer("its URI name is not spiffe://<cluster>.<federation>"),
        ),
        ("version 1", |c| c.east.version = Vec::new(), refused(webpki::Error::UnsupportedCertVersion)),
        ("names written otherwise", |c| c.leaf.issuer = name("east", 19), unknown_root()),
        ("another issuer's name", |c| c.leaf.issuer = name("west", 12), unknown_root()),
        ("another root's name", |c| c.east.issuer = name("other", 12), unknown_root()),
    ];
    run(cases);
}

#[test]
fn roots() {
    type Case = (&'static str, fn(&mut Draft), bool);
    let cases: Vec<Case> = vec![
        ("unchanged", |_| {}, true),
        ("path length 1", |r| r.set(BASIC_CONSTRAINTS, &[0x30, 6, 1, 1, 0xff, 2, 1, 1]), true),
        ("path length 0", |r| r.set(BASIC_CONSTRAINTS, CA_OVER_LEAVES), false),
        ("no authority", |r| r.set(BASIC_CONSTRAINTS, NO_CA), false),
        ("no basic constraints", |r| r.remove(BASIC_CONSTRAINTS), false),
        ("no key usage", |r| r.remove(KEY_USAGE), false),
        ("signs data only", |r| r.set(KEY_USAGE, SIGNS_DATA), false),
        ("a name constraint", |r| r.add(NAME_CONSTRAINTS, true, &subtree(0xa0, dns("a.example"))), false),
        ("an unknown critical extension", |r| r.add(UNKNOWN, true, &[5, 0]), false),
        ("an extension twice", |r| r.add(KEY_USAGE, true, SIGNS_CERTIFICATES), false),
        ("version 1", |r| r.version = Vec::new(), false),
        ("a fourth field", |r| r.appendix = vec![5, 0], false),
        ("signed by another", |r| r.key = leaf().key, false),
    ];
    for (what, change, expected) in cases {
        let mut chain = Chain::good();
        change(&mut chain.root);
        assert_eq!(chain.bundle().is_ok(), expected, "{what}: {:?}", chain.bundle());
    }
}

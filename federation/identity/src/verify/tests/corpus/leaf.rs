//! Cases in the leaf.

use super::forge::*;
use super::{Case, Chain, malformed, refused, run};
use crate::error::VerifyError;
use crate::verify::PeerUsage;
use crate::verify::tests::REVIEWS;

const TWICE: &str = "it has an extension twice";

#[test]
fn key_usages() {
    let cases: Vec<Case> = vec![
        ("not critical", |c| c.leaf.mark(KEY_USAGE, false), Ok(())),
        ("with key agreement", |c| c.leaf.set(KEY_USAGE, &[3, 2, 3, 0x88]), Ok(())),
        ("none", |c| c.leaf.remove(KEY_USAGE), malformed("its key usage does not include digital signatures")),
        (
            "no bit",
            |c| c.leaf.set(KEY_USAGE, &[3, 1, 0]),
            malformed("its key usage does not include digital signatures"),
        ),
        (
            "key agreement only",
            |c| c.leaf.set(KEY_USAGE, &[3, 2, 3, 8]),
            malformed("its key usage does not include digital signatures"),
        ),
        ("signs certificates too", |c| c.leaf.set(KEY_USAGE, &[3, 2, 2, 0x84]), Err(VerifyError::LeafIsAuthority)),
        ("signs lists too", |c| c.leaf.set(KEY_USAGE, &[3, 2, 1, 0x82]), Err(VerifyError::LeafIsAuthority)),
        ("no bit string", |c| c.leaf.set(KEY_USAGE, &[5, 0]), malformed("its key usage is unreadable")),
        ("twice", |c| c.leaf.add(KEY_USAGE, true, SIGNS_DATA), malformed(TWICE)),
    ];
    run(cases);
}

#[test]
fn extended_key_usages() {
    fn serve(chain: &mut Chain) {
        chain.usage = PeerUsage::Server;
    }
    let cases: Vec<Case> = vec![
        ("both, at a client", |_| {}, Ok(())),
        ("both, at a server", serve, Ok(())),
        ("critical", |c| c.leaf.mark(EXTENDED_USAGE, true), Ok(())),
        ("with a third", |c| c.leaf.set(EXTENDED_USAGE, &purposes(&[3, 1, 2])), Ok(())),
        ("client only, at a client", |c| c.leaf.set(EXTENDED_USAGE, &purposes(&[2])), Ok(())),
        (
            "client only, at a server",
            |c| {
                serve(c);
                c.leaf.set(EXTENDED_USAGE, &purposes(&[2]));
            },
            Err(VerifyError::Usage("server")),
        ),
        (
            "server only, at a client",
            |c| c.leaf.set(EXTENDED_USAGE, &purposes(&[1])),
            Err(VerifyError::Usage("client")),
        ),
        ("code signing", |c| c.leaf.set(EXTENDED_USAGE, &purposes(&[3])), Err(VerifyError::Usage("client"))),
        ("none", |c| c.leaf.remove(EXTENDED_USAGE), Err(VerifyError::Usage("client"))),
        ("an empty list", |c| c.leaf.set(EXTENDED_USAGE, &[0x30, 0]), Err(VerifyError::Usage("client"))),
        // anyExtendedKeyUsage is no permission to be a peer: nobody issues it here.
        (
            "any",
            |c| c.leaf.set(EXTENDED_USAGE, &sequence(&[tlv(6, &[0x55, 0x1d, 0x25, 0])])),
            Err(VerifyError::Usage("client")),
        ),
        ("no list", |c| c.leaf.set(EXTENDED_USAGE, &[5, 0]), malformed("its key usage is unreadable")),
        ("twice", |c| c.leaf.add(EXTENDED_USAGE, false, &purposes(&[1])), malformed(TWICE)),
    ];
    run(cases);
}

#[test]
fn basic_constraints() {
    let cases: Vec<Case> = vec![
        ("no authority, said", |c| c.leaf.add(BASIC_CONSTRAINTS, true, NO_CA), Ok(())),
        ("authority", |c| c.leaf.add(BASIC_CONSTRAINTS, true, CA), Err(VerifyError::LeafIsAuthority)),
        (
            "authority of path length 0",
            |c| c.leaf.add(BASIC_CONSTRAINTS, true, CA_OVER_LEAVES),
            Err(VerifyError::LeafIsAuthority),
        ),
        ("authority, not critical", |c| c.leaf.add(BASIC_CONSTRAINTS, false, CA), Err(VerifyError::LeafIsAuthority)),
        // Says nothing where nothing is signed.
        ("a path length without authority", |c| c.leaf.add(BASIC_CONSTRAINTS, true, &[0x30, 3, 2, 1, 0]), Ok(())),
        ("unreadable", |c| c.leaf.add(BASIC_CONSTRAINTS, true, &[5, 0]), refused(webpki::Error::BadDer)),
        (
            "twice",
            |c| {
                c.leaf.add(BASIC_CONSTRAINTS, true, NO_CA);
                c.leaf.add(BASIC_CONSTRAINTS, true, NO_CA);
            },
            malformed(TWICE),
        ),
    ];
    run(cases);
}

#[test]
fn subject_alternative_names() {
    let unreadable = || malformed("one of its subject alternative names is unreadable");
    let cases: Vec<Case> = vec![
        ("not critical", |c| c.leaf.mark(ALT_NAMES, false), Ok(())),
        ("and no subject", |c| c.leaf.subject = sequence(&[]), Ok(())),
        ("and an address", |c| c.leaf.set(ALT_NAMES, &names(&[uri(REVIEWS), tlv(0x87, &[10, 0, 0, 1])])), Ok(())),
        ("and a host", |c| c.leaf.set(ALT_NAMES, &names(&[dns("a.us-east.acme.mesh"), uri(REVIEWS)])), Ok(())),
        ("none", |c| c.leaf.remove(ALT_NAMES), Err(VerifyError::UriCount(0))),
        (
            "only a host",
            |c| c.leaf.set(ALT_NAMES, &names(&[dns("a.us-east.acme.mesh")])),
            Err(VerifyError::UriCount(0)),
        ),
        (
            "two of the same",
            |c| c.leaf.set(ALT_NAMES, &names(&[uri(REVIEWS), uri(REVIEWS)])),
            Err(VerifyError::UriCount(2)),
        ),
        ("not UTF-8", |c| c.leaf.set(ALT_NAMES, &names(&[tlv(0x86, &[0xff, 0xfe])])), unreadable()),
        // Other names than the SPIFFE ID are not read.
        ("beyond ASCII", |c| c.leaf.set(ALT_NAMES, &names(&[uri(REVIEWS), tlv(0x82, "ä".as_bytes())])), Ok(())),
        ("no list", |c| c.leaf.set(ALT_NAMES, &[5, 0]), malformed("its subject alternative names are unreadable")),
        ("twice", |c| c.leaf.add(ALT_NAMES, true, &names(&[dns("a")])), malformed(TWICE)),
    ];
    run(cases);
}

#[test]
fn other_extensions() {
    let cases: Vec<Case> = vec![
        ("an unknown one", |c| c.leaf.add(UNKNOWN, false, &[5, 0]), Ok(())),
        (
            "an unknown critical one",
            |c| c.leaf.add(UNKNOWN, true, &[5, 0]),
            refused(webpki::Error::UnsupportedCriticalExtension),
        ),
        (
            "critical policy constraints",
            |c| c.leaf.add(POLICY_CONSTRAINTS, true, &[0x30, 3, 0x80, 1, 0]),
            refused(webpki::Error::UnsupportedCriticalExtension),
        ),
        (
            "an unknown one twice",
            |c| {
                c.leaf.add(UNKNOWN, false, &[5, 0]);
                c.leaf.add(UNKNOWN, false, &[5, 0]);
            },
            malformed(TWICE),
        ),
        // Key identifiers are hints for building paths; ours are short enough to be tried.
        ("a subject key identifier", |c| c.leaf.add(SUBJECT_KEY_ID, false, &[4, 1, 1]), Ok(())),
        (
            "an authority key identifier of nobody",
            |c| c.leaf.add(AUTHORITY_KEY_ID, false, &[0x30, 3, 0x80, 1, 9]),
            Ok(()),
        ),
        (
            "a critical authority key identifier",
            |c| c.leaf.add(AUTHORITY_KEY_ID, true, &[0x30, 3, 0x80, 1, 9]),
            refused(webpki::Error::UnsupportedCriticalExtension),
        ),
        // Constrains nobody: there is nothing below a leaf.
        ("a name constraint", |c| c.leaf.add(NAME_CONSTRAINTS, true, &subtree(0xa0, dns("b.example"))), Ok(())),
        ("none at all", |c| c.leaf.extensions.clear(), malformed("its key usage does not include digital signatures")),
    ];
    run(cases);
}

#[test]
fn versions_serials_and_other_fields() {
    let not_x509 = || malformed("it is not X.509 in DER");
    let cases: Vec<Case> = vec![
        ("version 1, in full", |c| c.leaf.version = tlv(0xa0, &tlv(2, &[0])), malformed("it is not of version 3")),
        (
            "version 1, by default",
            |c| {
                c.leaf.version = Vec::new();
                c.leaf.extensions.clear();
            },
            malformed("it is not of version 3"),
        ),
        ("version 2", |c| c.leaf.version = tlv(0xa0, &tlv(2, &[1])), malformed("it is not of version 3")),
        ("version 4", |c| c.leaf.version = tlv(0xa0, &tlv(2, &[3])), malformed("it is not of version 3")),
        // RFC 5280 §4.1.2.2 asks verifiers to bear with these; nothing here goes by serial numbers.
        ("serial 0", |c| c.leaf.serial = tlv(2, &[0]), Ok(())),
        ("a negative serial", |c| c.leaf.serial = tlv(2, &[0x80]), Ok(())),
        ("a serial of 20 octets", |c| c.leaf.serial = tlv(2, &[0x7f; 20]), Ok(())),
        ("a serial of 21 octets", |c| c.leaf.serial = tlv(2, &[0x7f; 21]), Ok(())),
        ("no serial", |c| c.leaf.serial = Vec::new(), not_x509()),
        (
            "another algorithm outside than inside",
            |c| c.leaf.outer_algorithm = sequence(&[tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3])]),
            refused(webpki::Error::SignatureAlgorithmMismatch),
        ),
        (
            "a unique identifier",
            |c| c.leaf.unique_ids = vec![0x81, 2, 0, 1],
            refused(webpki::Error::TrailingData(webpki::DerTypeId::CertificateExtensions)),
        ),
        (
            "a fourth field",
            |c| c.leaf.appendix = vec![5, 0],
            refused(webpki::Error::TrailingData(webpki::DerTypeId::SignedData)),
        ),
        ("a key that is no point", |c| *c.leaf.key.last_mut().expect("long") ^= 1, Ok(())),
    ];
    run(cases);
}

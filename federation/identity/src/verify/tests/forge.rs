//! Certificates written byte by byte (X.690, RFC 5280 §4.1), for what no library would write.

use std::sync::LazyLock;

use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::pki_types::CertificateDer;

/// When they are judged: 2030-01-01T00:00:00Z.
pub(super) const NOW: u64 = 1_893_456_000;

// Object identifiers, without tag and length.
pub(super) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
pub(super) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
pub(super) const ALT_NAMES: &[u8] = &[0x55, 0x1d, 17];
pub(super) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
pub(super) const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 30];
pub(super) const POLICY_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 36];
pub(super) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
pub(super) const EXTENDED_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// An extension that nobody knows.
pub(super) const UNKNOWN: &[u8] = &[0x2b, 6, 1, 4, 1, 0x86, 0x8d, 0x1f, 1];

// Extension values.
pub(super) const SIGNS_DATA: &[u8] = &[3, 2, 7, 0x80];
pub(super) const SIGNS_CERTIFICATES: &[u8] = &[3, 2, 2, 4];
pub(super) const CA: &[u8] = &[0x30, 3, 1, 1, 0xff];
pub(super) const CA_OVER_LEAVES: &[u8] = &[0x30, 6, 1, 1, 0xff, 2, 1, 0];
pub(super) const NO_CA: &[u8] = &[0x30, 0];

pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = match u8::try_from(length) {
        Ok(short @ 0..=0x7f) => vec![short],
        Ok(long) => vec![0x81, long],
        Err(_) => [&[0x83][..], &u32::try_from(length).expect("small").to_be_bytes()[1..]].concat(),
    };
    // The shortest form, as DER wants it.
    let length = if length.starts_with(&[0x83, 0]) { [&[0x82], &length[2..]].concat() } else { length };
    [&[tag][..], &length, content].concat()
}

pub(super) fn sequence(elements: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &elements.concat())
}

/// A distinguished name of one common name, in a UTF8String or another kind of string.
pub(super) fn name(text: &str, string: u8) -> Vec<u8> {
    let attribute = sequence(&[tlv(6, &[0x55, 4, 3]), tlv(string, text.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

/// From and until, as `YYMMDDhhmmssZ`.
pub(super) fn validity(from: &str, until: &str) -> Vec<u8> {
    sequence(&[tlv(0x17, from.as_bytes()), tlv(0x17, until.as_bytes())])
}

/// A subjectAltName of those general names.
pub(super) fn names(names: &[Vec<u8>]) -> Vec<u8> {
    sequence(names)
}

pub(super) fn uri(text: &str) -> Vec<u8> {
    tlv(0x86, text.as_bytes())
}

pub(super) fn dns(text: &str) -> Vec<u8> {
    tlv(0x82, text.as_bytes())
}

/// An extendedKeyUsage of purposes below 1.3.6.1.5.5.7.3: 1 is a TLS server, 2 a client.
pub(super) fn purposes(last: &[u8]) -> Vec<u8> {
    let purposes: Vec<_> = last.iter().map(|last| tlv(6, &[0x2b, 6, 1, 5, 5, 7, 3, *last])).collect();
    sequence(&purposes)
}

/// A nameConstraints that permits, or with tag 0xa1 excludes, one general name.
pub(super) fn subtree(tag: u8, name: Vec<u8>) -> Vec<u8> {
    sequence(&[tlv(tag, &sequence(&[name]))])
}

/// One extension.
#[derive(Clone)]
pub(super) struct Extension {
    pub(super) id: &'static [u8],
    pub(super) critical: bool,
    pub(super) value: Vec<u8>,
}

/// A certificate to be signed; every field is a whole element.
#[derive(Clone)]
pub(super) struct Draft {
    pub(super) version: Vec<u8>,
    pub(super) serial: Vec<u8>,
    pub(super) algorithm: Vec<u8>,
    pub(super) issuer: Vec<u8>,
    pub(super) validity: Vec<u8>,
    pub(super) subject: Vec<u8>,
    pub(super) key: Vec<u8>,
    /// issuerUniqueID and subjectUniqueID.
    pub(super) unique_ids: Vec<u8>,
    pub(super) extensions: Vec<Extension>,
    /// The algorithm outside of what is signed.
    pub(super) outer_algorithm: Vec<u8>,
    /// What follows after the signed part and its signature, inside the certificate.
    pub(super) appendix: Vec<u8>,
}

impl Draft {
    fn new(issuer: &str, subject: &str, validity: Vec<u8>, key: &KeyPair) -> Self {
        // ecdsa-with-SHA256.
        let algorithm = sequence(&[tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2])]);
        Self {
            version: tlv(0xa0, &tlv(2, &[2])),
            serial: tlv(2, &[0x17]),
            algorithm: algorithm.clone(),
            issuer: name(issuer, 12),
            validity,
            subject: name(subject, 12),
            key: key.subject_public_key_info(),
            unique_ids: Vec::new(),
            extensions: Vec::new(),
            outer_algorithm: algorithm,
            appendix: Vec::new(),
        }
    }

    fn with(mut self, id: &'static [u8], critical: bool, value: Vec<u8>) -> Self {
        self.extensions.push(Extension { id, critical, value });
        self
    }

    /// Adds an extension, also one that is there already.
    pub(super) fn add(&mut self, id: &'static [u8], critical: bool, value: &[u8]) {
        self.extensions.push(Extension { id, critical, value: value.to_vec() });
    }

    /// Removes an extension.
    pub(super) fn remove(&mut self, id: &[u8]) {
        let before = self.extensions.len();
        self.extensions.retain(|extension| extension.id != id);
        assert!(self.extensions.len() < before, "it was there");
    }

    fn extension(&mut self, id: &[u8]) -> &mut Extension {
        self.extensions.iter_mut().find(|extension| extension.id == id).expect("it is there")
    }

    /// Gives an extension that is there another value.
    pub(super) fn set(&mut self, id: &[u8], value: &[u8]) {
        self.extension(id).value = value.to_vec();
    }

    /// Makes an extension that is there critical, or not.
    pub(super) fn mark(&mut self, id: &[u8], critical: bool) {
        self.extension(id).critical = critical;
    }

    pub(super) fn sign(&self, key: &KeyPair) -> CertificateDer<'static> {
        let extension = |Extension { id, critical, value }: &Extension| {
            // DER leaves a default out.
            let critical = if *critical { tlv(1, &[0xff]) } else { Vec::new() };
            sequence(&[tlv(6, id), critical, tlv(4, value)])
        };
        let extensions: Vec<_> = self.extensions.iter().map(extension).collect();
        let extensions = if extensions.is_empty() { Vec::new() } else { tlv(0xa3, &sequence(&extensions)) };
        let signed = sequence(&[
            self.version.clone(),
            self.serial.clone(),
            self.algorithm.clone(),
            self.issuer.clone(),
            self.validity.clone(),
            self.subject.clone(),
            self.key.clone(),
            self.unique_ids.clone(),
            extensions,
        ]);
        let signature = key.sign(&signed).expect("signed");
        let signature = tlv(3, &[&[0][..], &signature].concat());
        sequence(&[signed, self.outer_algorithm.clone(), signature, self.appendix.clone()]).into()
    }
}

pub(super) static ROOT_KEY: LazyLock<KeyPair> = LazyLock::new(super::key);
pub(super) static EAST_KEY: LazyLock<KeyPair> = LazyLock::new(super::key);
pub(super) static LEAF_KEY: LazyLock<KeyPair> = LazyLock::new(super::key);

pub(super) fn root() -> Draft {
    Draft::new("root", "root", validity("250101000000Z", "400101000000Z"), &ROOT_KEY)
        .with(BASIC_CONSTRAINTS, true, CA.to_vec())
        .with(KEY_USAGE, true, SIGNS_CERTIFICATES.to_vec())
}

pub(super) fn east() -> Draft {
    Draft::new("root", "east", validity("290101000000Z", "310101000000Z"), &EAST_KEY)
        .with(BASIC_CONSTRAINTS, true, CA_OVER_LEAVES.to_vec())
        .with(KEY_USAGE, true, SIGNS_CERTIFICATES.to_vec())
        .with(ALT_NAMES, false, names(&[uri("spiffe://us-east.acme.mesh")]))
}

pub(super) fn leaf() -> Draft {
    Draft::new("east", "leaf", validity("291231000000Z", "300102000000Z"), &LEAF_KEY)
        .with(KEY_USAGE, true, SIGNS_DATA.to_vec())
        .with(EXTENDED_USAGE, false, purposes(&[1, 2]))
        .with(ALT_NAMES, true, names(&[uri(super::REVIEWS)]))
}

//! What goes to the machine with the root's key, and what comes back: two files of JSON.
//!
//! Neither is secret, and neither is believed: the requests are shown to the operator and checked before they are
//! signed, the certificates are verified before they are taken up. Each carries what it is, a format number, the
//! federation, and the root that it is for. Nothing here touches a disk.

use std::collections::BTreeSet;

use isthmus_identity::csr_key_digest;
use isthmus_model::name::{ClusterName, FederationDomain, Label};
use isthmus_model::registry::NODES_MAX;
use isthmus_model::registry::node::{Certificates, Requests};
use isthmus_model::registry::token::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The layout that this release writes and reads.
pub const FORMAT: u32 = 1;
/// The largest file that is read: every gateway of the largest federation, with four kilobytes for each.
pub const FILE_BYTES_MAX: usize = 4096 * NODES_MAX;
/// Entries of a file: every gateway of the largest federation.
pub const ENTRIES_MAX: usize = NODES_MAX;

/// One gateway's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asking {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub gateway: Label,
    /// What it asks for.
    pub requests: Requests,
}

/// What the root signed for one gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name.
    pub gateway: Label,
    /// The authority key that was asked for, by which the requests are found again.
    pub authority_key: Digest,
    /// The answer.
    pub certificates: Certificates,
}

/// A kind of entry.
pub trait Entry: Serialize + DeserializeOwned {
    /// What a file of these says that it is.
    const KIND: &'static str;
}

impl Entry for Asking {
    const KIND: &'static str = "isthmus certificate requests";
}

impl Entry for Signed {
    const KIND: &'static str = "isthmus signed certificates";
}

impl Asking {
    /// What is wrong with the requests in themselves, as the end of a sentence.
    fn flaw(&self) -> Option<String> {
        let Requests { gateway_key, authority_key, gateway, authority } = &self.requests;
        for (csr, named) in [(gateway, gateway_key), (authority, authority_key)] {
            match csr_key_digest(&csr.0) {
                Err(error) => return Some(error.to_string()),
                Ok(key) if !key.same_as(named) => {
                    return Some("a request is not for the key that it is listed under".to_owned());
                }
                Ok(_) => {}
            }
        }
        None
    }
}

/// A file of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaFile<T> {
    kind: String,
    format: u32,
    /// The federation.
    pub federation: FederationDomain,
    /// SHA-256 of the key (SPKI) of the root that is asked, or that signed.
    pub root: Digest,
    /// One for each gateway.
    pub entries: Vec<T>,
}

/// What is asked of the root.
pub type RequestsFile = CaFile<Asking>;
/// What the root answered.
pub type SignedFile = CaFile<Signed>;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FileError {
    /// Not JSON of this shape.
    #[error("it is not a file of {kind}: {reason}")]
    Shape {
        /// What was expected.
        kind: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// JSON of another kind.
    #[error("it is a file of {found:?}, not of {kind}")]
    Kind {
        /// What was expected.
        kind: &'static str,
        /// What it says that it is.
        found: String,
    },
    /// From another release.
    #[error("it has format {found}, this release knows {FORMAT}: use the same release on both machines")]
    Format {
        /// What it has.
        found: u32,
    },
    /// Beyond a bound.
    #[error("it has more than {limit} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: usize,
    },
    /// One entry is bad; then none of the file is used.
    #[error("entry {index}, gateway {gateway}: {reason}")]
    Entry {
        /// From 1.
        index: usize,
        /// Whose.
        gateway: String,
        /// What is wrong.
        reason: String,
    },
}

/// The part that every format has.
#[derive(Deserialize)]
struct Header {
    kind: String,
    format: u32,
}

impl<T: Entry> CaFile<T> {
    /// A file of this release's format.
    #[must_use]
    pub fn new(federation: FederationDomain, root: Digest, entries: Vec<T>) -> Self {
        Self { kind: T::KIND.to_owned(), format: FORMAT, federation, root, entries }
    }

    /// The file's text.
    ///
    /// # Errors
    /// When an entry cannot be written as JSON.
    pub fn to_text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads a file's text within the bounds.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn parse(text: &[u8]) -> Result<Self, FileError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(FileError::TooMuch { what: "bytes", limit: FILE_BYTES_MAX });
        }
        let shape = |error: serde_json::Error| FileError::Shape { kind: T::KIND, reason: error.to_string() };
        // First what it is: a later format may look different in everything else.
        let header: Header = serde_json::from_slice(text).map_err(shape)?;
        if header.kind != T::KIND {
            return Err(FileError::Kind { kind: T::KIND, found: header.kind });
        }
        if header.format != FORMAT {
            return Err(FileError::Format { found: header.format });
        }
        let file: Self = serde_json::from_slice(text).map_err(shape)?;
        if file.entries.len() > ENTRIES_MAX {
            return Err(FileError::TooMuch { what: "entries", limit: ENTRIES_MAX });
        }
        Ok(file)
    }
}

impl RequestsFile {
    /// Checks every request, and that no key is asked for twice: a key names one gateway, in one role.
    ///
    /// # Errors
    /// [`FileError::Entry`] for the first bad one.
    pub fn check(&self) -> Result<(), FileError> {
        let mut keys = BTreeSet::new();
        for (index, asking) in self.entries.iter().enumerate() {
            let Requests { gateway_key, authority_key, .. } = &asking.requests;
            let fresh = keys.insert(*gateway_key) && keys.insert(*authority_key);
            let repeated = || (!fresh).then(|| "it asks for a key that is asked for already".to_owned());
            if let Some(reason) = asking.flaw().or_else(repeated) {
                let gateway = format!("{}/{}", asking.cluster, asking.gateway);
                return Err(FileError::Entry { index: index + 1, gateway, reason });
            }
        }
        Ok(())
    }
}

impl SignedFile {
    /// The answer to these requests, if it is in the file.
    #[must_use]
    pub fn answer_to(&self, requests: &Requests) -> Option<&Certificates> {
        let found = self.entries.iter().find(|signed| signed.authority_key.same_as(&requests.authority_key));
        found.map(|signed| &signed.certificates)
    }
}

#[cfg(test)]
mod tests {
    use isthmus_identity::GatewayKeys;

    use super::*;

    fn asking(cluster: &str) -> Asking {
        let requests = GatewayKeys::generate().and_then(|keys| keys.requests()).expect("made");
        Asking { cluster: cluster.parse().expect("valid"), gateway: "gw-1".parse().expect("valid"), requests }
    }

    fn file(entries: Vec<Asking>) -> RequestsFile {
        RequestsFile::new("acme.mesh".parse().expect("valid"), Digest([7; 32]), entries)
    }

    #[test]
    fn a_file_round_trips_and_stays_within_its_bound_per_gateway() {
        let file = file(vec![asking("us-east"), asking("us-west")]);
        let text = file.to_text().expect("text");
        assert_eq!(RequestsFile::parse(text.as_bytes()), Ok(file.clone()));
        assert_eq!(file.check(), Ok(()));
        assert!(text.len() / 2 < FILE_BYTES_MAX / ENTRIES_MAX, "{}", text.len());
    }

    #[test]
    fn what_is_not_such_a_file_is_refused_with_what_it_is() {
        let text = file(vec![asking("us-east")]).to_text().expect("text");
        let shape = |text: &str| matches!(RequestsFile::parse(text.as_bytes()), Err(FileError::Shape { .. }));
        for bad in ["", "{}", "[]", &text[..text.len() / 2], &text.replace("us-east", "US"), &format!("{text}x")] {
            assert!(shape(bad), "{bad}");
        }
        assert!(shape(&text.replacen("\"entries\"", "\"more\": 1, \"entries\"", 1)), "unknown fields are no comments");
        let found = SignedFile::parse(text.as_bytes());
        assert_eq!(found, Err(FileError::Kind { kind: Signed::KIND, found: Asking::KIND.to_owned() }));
        let later = text.replacen("\"format\": 1", "\"format\": 2", 1).replacen("entries", "gateways", 1);
        assert_eq!(RequestsFile::parse(later.as_bytes()), Err(FileError::Format { found: 2 }));
        let limit = FILE_BYTES_MAX;
        let long = vec![b' '; limit + 1];
        assert_eq!(RequestsFile::parse(&long), Err(FileError::TooMuch { what: "bytes", limit }));
        let many = format!(
            "{{\"kind\":{:?},\"format\":1,\"federation\":\"acme.mesh\",\"root\":\"{}\",\"entries\":[{}]}}",
            Signed::KIND,
            "00".repeat(32),
            vec![signed(); ENTRIES_MAX + 1].join(",")
        );
        let limit = ENTRIES_MAX;
        assert_eq!(SignedFile::parse(many.as_bytes()), Err(FileError::TooMuch { what: "entries", limit }));
    }

    fn signed() -> String {
        let (zeros, none) = ("00".repeat(32), "\"\"");
        format!(
            "{{\"cluster\":\"a\",\"gateway\":\"b\",\"authority_key\":\"{zeros}\",\"certificates\":\
             {{\"gateway\":{none},\"intermediate\":{none},\"root\":\"{zeros}\",\"not_after\":0}}}}"
        )
    }

    #[test]
    fn bad_requests_are_told_by_entry_and_gateway() {
        let refused = |file: &RequestsFile| match file.check() {
            Err(FileError::Entry { index, gateway, reason }) => (index, gateway, reason),
            other => panic!("{other:?}"),
        };
        let mut swapped = asking("us-west");
        std::mem::swap(&mut swapped.requests.gateway_key, &mut swapped.requests.authority_key);
        let (index, gateway, reason) = refused(&file(vec![asking("us-east"), swapped]));
        assert_eq!((index, gateway.as_str()), (2, "us-west/gw-1"));
        assert!(reason.contains("not for the key"), "{reason}");

        let mut forged = asking("us-west");
        let last = forged.requests.gateway.0.len() - 1;
        forged.requests.gateway.0[last] ^= 1;
        assert_eq!(refused(&file(vec![forged])).0, 1);

        let east = asking("us-east");
        let again = Asking { cluster: "us-west".parse().expect("valid"), ..east.clone() };
        assert!(refused(&file(vec![east, again])).2.contains("already"));
    }
}

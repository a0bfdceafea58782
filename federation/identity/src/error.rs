//! What can go wrong with keys, certificates and peers. Every text says what to check.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::name::{FederationDomain, NameError, TrustDomain};
use isthmus_model::spiffe::SpiffeId;

use crate::certificate::CERTIFICATE_LEN_MAX;
use crate::request::CSR_LEN_MAX;
use crate::verify::{CHAIN_LEN_MAX, ROOTS_MAX};

/// Why a key, a certificate or a signing request of our own side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A private key that others on the machine can read is no longer private.
    #[error("{path} has mode {mode:04o}, readable beyond its owner: run chmod 600 on it", path = path.display())]
    KeyPermissions {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold what its name promises.
    #[error("{path} does not hold {expected}: restore it from a backup", path = path.display())]
    FileContent {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// Not a PKCS#8 private key on P-256.
    #[error("the private key is not a PKCS#8 ECDSA key on P-256")]
    Key,
    /// A certificate cannot serve its purpose.
    #[error("the {role} certificate cannot be used: {reason}")]
    Certificate {
        /// Its part in the chain: root, cluster, workload.
        role: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate was issued for another key.
    #[error("the certificate does not belong to the private key: restore both from the same backup")]
    KeyMismatch,
    /// A certificate signing request was refused.
    #[error("the certificate request was refused: {0}")]
    Request(#[from] RequestError),
    /// A cluster's authority speaks only for its own trust domain.
    #[error("{id} is outside the trust domain {trust_domain} of this cluster")]
    OutsideTrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// What the authority may sign.
        trust_domain: TrustDomain,
    },
    /// The other kind of identity than this authority signs: the root signs gateways, clusters sign workloads.
    #[error("{id} is not for this authority to sign: the root signs gateways, a cluster's intermediate workloads")]
    NotToSign {
        /// What was asked for.
        id: SpiffeId,
    },
    /// Not an X25519 private key.
    #[error("the sealing key is not an X25519 key")]
    SealingKey,
    /// Sealed to another gateway, for another purpose, or altered.
    #[error("the sealed key cannot be opened here: it is sealed to other gateways, or was altered")]
    Envelope,
    /// An archive could not be begun.
    #[error("cannot write the archive: {0}")]
    Archive(io::Error),
    /// A root signs only clusters of its own federation.
    #[error("{trust_domain} is not a cluster of the federation {federation}")]
    OutsideFederation {
        /// What was asked for.
        trust_domain: TrustDomain,
        /// The root's federation.
        federation: FederationDomain,
    },
    /// The authority's own certificate is not valid at the time, or no lifetime is left to give.
    #[error("the authority's certificate is not valid now: check the clock, then renew it")]
    AuthorityNotValid,
    /// No root, or more than a rotation needs.
    #[error("a trust bundle holds 1 to {ROOTS_MAX} roots, not {0}")]
    RootCount(usize),
    /// The cryptographic library failed, which it does only without randomness or memory.
    #[error("{0} failed in the cryptographic library")]
    Crypto(&'static str),
}

/// Why a certificate signing request was refused. Nothing but its key would have been used anyway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Larger than any request of ours.
    #[error("it is {0} bytes long, more than {CSR_LEN_MAX}")]
    TooLarge(usize),
    /// Not PKCS#10 (RFC 2986) in DER.
    #[error("it is not a PKCS#10 request in DER")]
    Malformed,
    /// The requester does not hold the key.
    #[error("its signature was not made by its own key")]
    Signature,
    /// A key that this federation does not use.
    #[error("its key is not ECDSA on P-256 or P-384, nor Ed25519")]
    KeyType,
    /// It asks for names, authority or other extensions.
    #[error("it carries attributes or requested extensions: send only the public key, names are given by the signer")]
    Attributes,
}

/// Why a peer's certificates are not an identity of this federation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// This side has no roots yet.
    #[error("no trust bundle yet: this side has not joined or attached")]
    NoTrust,
    /// The peer showed nothing.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// More certificates than a chain of this federation has.
    #[error("the peer presented {0} certificates, more than {CHAIN_LEN_MAX}")]
    ChainTooLong(usize),
    /// A certificate larger than any of this federation.
    #[error("a presented certificate is {0} bytes long, more than {CERTIFICATE_LEN_MAX}")]
    TooLarge(usize),
    /// Not a certificate that may stand at the end of a chain.
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(&'static str),
    /// A SPIFFE certificate has exactly one URI (X509-SVID §2).
    #[error("the peer's certificate has {0} URI names instead of exactly one SPIFFE ID")]
    UriCount(usize),
    /// The URI is not a SPIFFE ID of the kinds that a federation issues.
    #[error(transparent)]
    Spiffe(#[from] NameError),
    /// A signing certificate shown as one's own (X509-SVID §5.2).
    #[error("the peer presented an authority's certificate as its own")]
    LeafIsAuthority,
    /// Not meant for this end of a connection.
    #[error("the peer's certificate is not meant for {0} authentication")]
    Usage(&'static str),
    /// Before its time.
    #[error("the peer's certificate becomes valid in {in_future:?}: compare the clocks of both machines")]
    NotYetValid {
        /// How far off its beginning is.
        in_future: Duration,
    },
    /// After its time.
    #[error(
        "the peer's certificate expired {ago:?} ago: it does not reach its gateway for renewal, or a clock is wrong"
    )]
    Expired {
        /// How far past its end is.
        ago: Duration,
    },
    /// No path to a root of the bundle.
    #[error("the peer's certificate was not issued under a current root of {0}: compare the roots of both sides")]
    UnknownRoot(FederationDomain),
    /// There is a path, but it breaks a rule (RFC 5280 §6).
    #[error("the peer's certificate chain is not valid: {0}")]
    Chain(webpki::Error),
    /// Issued by somebody else than its kind is issued by.
    #[error(
        "the peer's certificate was not issued as it should be: a workload's by its cluster's intermediate directly below the root, a gateway's by the root"
    )]
    WrongIssuer,
    /// The key was withdrawn: its cluster was fenced or left, or its gateway was replaced.
    #[error(
        "the peer's key is no longer trusted: its cluster was fenced or left the federation, or its gateway was replaced"
    )]
    Revoked,
    /// A kind of key that no authority of a federation signs.
    #[error("the peer's key is not ECDSA on P-256 or P-384, nor Ed25519")]
    KeyType,
    /// The intermediate is not bound to one trust domain, or may not sign.
    #[error("the peer's issuing certificate is not a cluster's: {0}")]
    Issuer(&'static str),
    /// A cluster vouching for another cluster's workloads.
    #[error("the peer claims trust domain {claimed}, but its certificate was issued by {issuer}")]
    ForeignIssuer {
        /// What the leaf says.
        claimed: TrustDomain,
        /// What the issuing intermediate was signed for.
        issuer: TrustDomain,
    },
    /// A trust domain that is not below the federation domain.
    #[error("the peer's trust domain {claimed} is not in the federation {federation}")]
    OtherFederation {
        /// What the leaf says.
        claimed: TrustDomain,
        /// Which federation this side is in.
        federation: FederationDomain,
    },
    /// Somebody real, but not who was called.
    #[error("the peer is {0}, which is not who was called")]
    Unexpected(SpiffeId),
    /// First contact: what answers is not the federation that the token was made by.
    #[error("the server's root does not match the token: it is another federation, or something is intercepting")]
    RootMismatch,
}

impl VerifyError {
    /// Finds the verdict inside an error of a TLS connection, however deep I/O, HTTP and RPC layers
    /// have wrapped it.
    #[must_use]
    pub fn find_in<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) =
                error.downcast_ref::<rustls::Error>()
            {
                return other.0.downcast_ref::<Self>();
            }
            // `io::Error::source` skips the error that it wraps and goes on to that one's source.
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        let other = rustls::OtherError(Arc::new(error));
        Self::InvalidCertificate(rustls::CertificateError::Other(other))
    }
}

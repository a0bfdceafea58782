//! Who is who in a federation: keys, the two kinds of certificate authority, tokens, the one verifier
//! and the TLS configurations built on it.
//!
//! Trust has three storeys. The federated root signs the gateways, and an intermediate for each of them; the
//! intermediate is bound to the cluster's trust domain by a URI name of its own; it signs the short-lived
//! certificates (X.509-SVIDs) of the cluster's workloads, and no gateway's. [`TrustBundle::verify`] is the only place where a
//! peer's certificates become an identity, and [`Verified`] the only proof that it happened.
//!
//! All of it is ECDSA over P-256 with SHA-256, TLS 1.3 only, cryptography by aws-lc-rs only.
//!
//! Deliberately absent: revocation lists (lifetimes are short, and the registry withdraws a cluster),
//! session resumption (see [`tls`]), host name verification (identities are SPIFFE IDs, never DNS
//! names), and any reading of clocks other than the one that rustls hands to its verifiers and the one
//! in [`Peer::verified`].

pub mod archive;
pub mod authority;
mod certificate;
pub mod error;
mod file;
#[cfg(test)]
mod fixture;
pub mod issued;
pub mod key;
pub mod keyring;
mod request;
pub mod sealing;
pub mod tls;
pub mod token;
pub mod verify;

pub use archive::{ArchiveError, ArchiveReader, ArchiveWriter, Recipient};
pub use authority::{
    CLOCK_SKEW, ClusterAuthority, INTERMEDIATE_LIFETIME, LiveAuthority, ROOT_LIFETIME, ROOT_VALIDITY_LEFT_MIN,
    RootAuthority, RootCertificate,
};
pub use certificate::{CERTIFICATE_LEN_MAX, certificate_key_digest, certificate_summary};
pub use error::{IdentityError, VerifyError};
pub use issued::check_issued;
pub use key::{PrivateKey, random_digest, sha256};
pub use keyring::{GatewayCredentials, GatewayKeys};
pub use request::{CSR_LEN_MAX, csr_key_digest};
pub use sealing::{OpeningKey, seal};
pub use tls::{
    ClientAuth, Expected, ExportedSvid, LiveIdentity, Peer, PublicCertificates, Reading, pinned_client_config,
};
pub use token::{BearerToken, CONTACTS_MAX, TokenParseError, TokenSecret};
pub use verify::{CHAIN_LEN_MAX, PeerUsage, ROOTS_MAX, TrustBundle, Verified};

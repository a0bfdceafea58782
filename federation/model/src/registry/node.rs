//! Members: the gateways of the federation, their keys, and what was certified for them.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::blob::Blob;
use crate::command::Introduction;
use crate::locality::Locality;
use crate::name::{ClusterName, Label};
use crate::registry::token::Digest;
use crate::time::UnixMillis;

/// A gateway's number among the registry's replicas. Never reused.
pub type NodeId = u64;

/// Certificates kept of one gateway: renewals of a quarter of a year each, and those of a rotation or two.
pub const ISSUED_MAX: usize = 8;

/// An X25519 public key (RFC 7748), to which a secret can be sealed for one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SealingKey(pub Digest);

/// What a gateway asks to have certified: PKCS#10 requests (RFC 2986), DER, and their keys' digests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// SHA-256 of the key (SPKI) that the gateway shows to other gateways.
    pub gateway_key: Digest,
    /// SHA-256 of the key (SPKI) that signs its cluster's workloads.
    pub authority_key: Digest,
    /// The request for the first.
    pub gateway: Blob,
    /// The request for the second.
    pub authority: Blob,
}

impl Requests {
    /// Whether both are for the same keys.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        self.gateway_key == other.gateway_key && self.authority_key == other.authority_key
    }
}

/// Requests that wait for the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is asked for.
    pub requests: Requests,
    /// Since when.
    pub since: UnixMillis,
}

/// What the root signed for a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// The gateway's own certificate, DER.
    pub gateway: Blob,
    /// Its cluster's intermediate, DER.
    pub intermediate: Blob,
    /// SHA-256 of the signing root's key (SPKI).
    pub root: Digest,
    /// When the first of both ends.
    pub not_after: UnixMillis,
}

/// Certificates with the keys that they are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// As in [`Requests::gateway_key`].
    pub gateway_key: Digest,
    /// As in [`Requests::authority_key`].
    pub authority_key: Digest,
    /// The certificates.
    pub certificates: Certificates,
    /// When they were agreed.
    pub at: UnixMillis,
}

/// A key of a gateway that was replaced, which signed workloads that are trusted still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inherited {
    /// As in [`Requests::authority_key`].
    pub authority_key: Digest,
    /// When its certificate ends.
    pub not_after: UnixMillis,
}

/// A gateway that belongs to the federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its name within the cluster, as in its SPIFFE ID.
    pub gateway: Label,
    /// Where the cluster stands.
    pub locality: Locality,
    /// Where others reach its east-west port.
    pub east_west: SocketAddr,
    /// Where its cluster's sidecars reach its control port, once it has told.
    #[serde(default)]
    pub control: Option<SocketAddr>,
    /// Where secrets for it are sealed to.
    pub sealing_key: SealingKey,
    /// When it was admitted.
    pub joined_at: UnixMillis,
    /// What it waits for.
    pub pending: Option<Pending>,
    /// What it was given, the latest last.
    pub issued: Vec<Issued>,
    /// What its predecessors of the same name had signed with.
    pub inherited: Vec<Inherited>,
}

impl Node {
    pub(crate) fn admitted(newcomer: &Introduction, at: UnixMillis) -> Self {
        Self {
            cluster: newcomer.cluster.clone(),
            gateway: newcomer.gateway.clone(),
            locality: newcomer.locality.clone(),
            east_west: newcomer.east_west,
            control: None,
            sealing_key: newcomer.sealing_key,
            joined_at: at,
            pending: Some(Pending { requests: newcomer.requests.clone(), since: at }),
            issued: Vec::new(),
            inherited: Vec::new(),
        }
    }

    /// Whether this is the record of the gateway that introduces itself, perhaps under an older key.
    #[must_use]
    pub fn is_gateway(&self, newcomer: &Introduction) -> bool {
        self.cluster == newcomer.cluster && self.gateway == newcomer.gateway
    }

    /// Whether it was ever certified: before that it can do nothing, and nobody counts on it.
    #[must_use]
    pub fn is_certified(&self) -> bool {
        !self.issued.is_empty()
    }

    /// The latest certificates.
    #[must_use]
    pub fn latest(&self) -> Option<&Issued> {
        self.issued.last()
    }

    /// The certificates for the keys of `requests`.
    #[must_use]
    pub fn issued_for(&self, requests: &Requests) -> Option<&Issued> {
        let same = |issued: &&Issued| {
            issued.gateway_key == requests.gateway_key && issued.authority_key == requests.authority_key
        };
        self.issued.iter().rev().find(same)
    }

    /// The digests of all its keys: waiting, in use, and replaced ones.
    pub fn keys(&self) -> impl Iterator<Item = Digest> + '_ {
        let inherited = self.inherited.iter().map(|inherited| inherited.authority_key);
        let waiting =
            self.pending.iter().flat_map(|waiting| [waiting.requests.gateway_key, waiting.requests.authority_key]);
        let issued = self.issued.iter().flat_map(|issued| [issued.gateway_key, issued.authority_key]);
        waiting.chain(issued).chain(inherited)
    }

    /// What this gateway leaves to the one that replaces it: a lost disk does not end trust in its workloads.
    pub(super) fn legacy(&self, at: UnixMillis) -> Vec<Inherited> {
        let own = self
            .issued
            .iter()
            .rev()
            .map(|issued| Inherited { authority_key: issued.authority_key, not_after: issued.certificates.not_after });
        let mut legacy: Vec<Inherited> = own.chain(self.inherited.iter().cloned()).collect();
        legacy.retain(|inherited| inherited.not_after > at);
        legacy.truncate(ISSUED_MAX);
        legacy
    }

    /// Takes the answer to the pending requests.
    pub(crate) fn certify(&mut self, pending: Pending, certificates: Certificates, at: UnixMillis) {
        self.issued.retain(|issued| issued.certificates.not_after > at);
        if self.issued.len() >= ISSUED_MAX {
            self.issued.remove(0);
        }
        let Requests { gateway_key, authority_key, .. } = pending.requests;
        self.issued.push(Issued { gateway_key, authority_key, certificates, at });
    }
}

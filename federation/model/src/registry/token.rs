//! Tokens as the registry sees them: a public id, the hash of a secret, and what they are good for.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::blob::{hex, unhex};
use crate::command::{Introduction, Refusal};
use crate::name::{ClusterName, Label};
use crate::registry::node::NodeId;
use crate::spiffe::WorkloadName;
use crate::time::UnixMillis;

/// A SHA-256 digest. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Whether both are the same, in time that does not depend on where they differ.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let differing = self.0.iter().zip(&other.0).fold(0_u8, |acc, (a, b)| acc | (a ^ b));
        std::hint::black_box(differing) == 0
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = unhex(&text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("expected 64 hexadecimal digits")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As text, so that `{:.16}` tells just its beginning.
        f.pad(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The public part of a token: 16 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId([u8; 8]);

impl TokenId {
    /// A token id of eight random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl std::str::FromStr for TokenId {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "a token id is 16 hexadecimal digits, as `isthmus token list` shows it";
        if text.len() != 16 || !text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(EXPECTED);
        }
        u64::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| EXPECTED)
    }
}

impl TryFrom<String> for TokenId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> String {
        id.to_string()
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Gateways that one token may admit at most: a cluster's replicas, or a fleet that is rolled out.
pub const TOKEN_USES_MAX: u32 = 1_000;

/// Whom a join token admits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// Only this cluster, if named.
    pub cluster: Option<ClusterName>,
    /// Only clusters in this region, if named.
    pub region: Option<Label>,
    /// Only from these addresses, if named.
    pub from: Option<IpNet>,
    /// How many gateways.
    pub uses: u32,
}

impl Invitation {
    fn check(&self, newcomer: &Introduction, from: Option<IpAddr>) -> Result<(), Refusal> {
        let presented = &newcomer.cluster;
        if let Some(granted) = self.cluster.as_ref().filter(|granted| *granted != presented) {
            return Err(Refusal::TokenWrongCluster { granted: granted.clone(), presented: presented.clone() });
        }
        let presented = &newcomer.locality.region;
        if let Some(granted) = self.region.as_ref().filter(|granted| *granted != presented) {
            return Err(Refusal::TokenWrongRegion { granted: granted.clone(), presented: presented.clone() });
        }
        let inside = |net: &IpNet| from.is_some_and(|from| net.contains(&from.to_canonical()));
        if self.from.as_ref().is_some_and(|net| !inside(net)) { Err(Refusal::TokenWrongSource) } else { Ok(()) }
    }
}

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Grant {
    /// Admits gateways.
    Join(Invitation),
    /// Lets sidecars of a workload get its identity, any number of times until it expires.
    Workload {
        /// The cluster that the workload runs in.
        cluster: ClusterName,
        /// The workload.
        workload: WorkloadName,
    },
}

/// One use of a join token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// The key that the gateway came with, as in [`Requests::gateway_key`](super::node::Requests::gateway_key).
    pub key: Digest,
    /// The node id that it got.
    pub node: NodeId,
    /// From where it came.
    pub from: Option<IpAddr>,
    /// When.
    pub at: UnixMillis,
}

/// A token's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the secret.
    pub secret_hash: Digest,
    /// What it is good for.
    pub grant: Grant,
    /// The cluster that minted it.
    pub minted_by: ClusterName,
    /// The gateway there at which an operator asked for it.
    pub minted_at_gateway: Label,
    /// The root that it pins, by its key: whoever comes with it trusts no gateway that shows another.
    pub root: Digest,
    /// When it was minted.
    pub minted_at: UnixMillis,
    /// When it stops working.
    pub expires_at: UnixMillis,
    /// When an operator revoked it.
    pub revoked_at: Option<UnixMillis>,
    /// Who joined with it.
    pub redemptions: Vec<Redemption>,
}

/// What a good token does for a gateway that presents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It may come in.
    New,
    /// It is in already, by this use of the token: the answer was lost.
    Again(Redemption),
}

impl Token {
    /// Whether `newcomer` may join with this token at `now`. The same key may come again, even after expiry: its
    /// redemption is already agreed, only the answer was lost.
    ///
    /// # Errors
    /// The reason why not; the secret is checked before anything else is told.
    pub fn admits(
        &self,
        secret_hash: &Digest,
        newcomer: &Introduction,
        from: Option<IpAddr>,
        now: UnixMillis,
    ) -> Result<Admitted, Refusal> {
        self.check_secret(secret_hash)?;
        let Grant::Join(invitation) = &self.grant else { return Err(Refusal::TokenWrongKind) };
        invitation.check(newcomer, from)?;
        if let Some(earlier) = self.redemptions.iter().find(|earlier| earlier.key == newcomer.requests.gateway_key) {
            return Ok(Admitted::Again(earlier.clone()));
        }
        if self.is_used_up() {
            return Err(Refusal::TokenUsed);
        }
        self.check_open(now)?;
        Ok(Admitted::New)
    }

    /// The workload that this token vouches for in `cluster` at `now`.
    ///
    /// # Errors
    /// The reason why it vouches for none; the secret is checked before anything else is told.
    pub fn vouches(
        &self,
        secret_hash: &Digest,
        cluster: &ClusterName,
        now: UnixMillis,
    ) -> Result<&WorkloadName, Refusal> {
        self.check_secret(secret_hash)?;
        let Grant::Workload { cluster: granted, workload } = &self.grant else { return Err(Refusal::TokenWrongKind) };
        if granted != cluster {
            return Err(Refusal::TokenWrongCluster { granted: granted.clone(), presented: cluster.clone() });
        }
        self.check_open(now)?;
        Ok(workload)
    }

    /// Whether it admitted as many gateways as it may.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        #[cfg(feature = "fixture")]
        if crate::fixture::tokens_never_wear_out() {
            return false;
        }
        match &self.grant {
            Grant::Join(invitation) => self.redemptions.len() >= invitation.uses as usize,
            Grant::Workload { .. } => false,
        }
    }

    /// Whether a cluster made it, or could come in with it by name.
    #[must_use]
    pub fn is_of(&self, cluster: &ClusterName) -> bool {
        let invited = matches!(&self.grant, Grant::Join(invitation) if invitation.cluster.as_ref() == Some(cluster));
        self.minted_by == *cluster || invited
    }

    /// Whether both were minted alike, whatever became of them and whoever minted first.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        let content = |token: &Self| (token.secret_hash, token.root, token.expires_at);
        content(self) == content(other) && self.grant == other.grant
    }

    fn check_secret(&self, secret_hash: &Digest) -> Result<(), Refusal> {
        if self.secret_hash.same_as(secret_hash) { Ok(()) } else { Err(Refusal::TokenSecretMismatch) }
    }

    fn check_open(&self, now: UnixMillis) -> Result<(), Refusal> {
        match self.revoked_at {
            Some(_) => Err(Refusal::TokenRevoked),
            None if now >= self.expires_at => Err(Refusal::TokenExpired),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_ids_round_trip_in_one_form_only() {
        let id = TokenId::from_random([0, 1, 2, 3, 4, 5, 6, 255]);
        assert_eq!(id.to_string(), "00010203040506ff");
        assert_eq!(id.to_string().parse::<TokenId>(), Ok(id));
        for bad in ["", "00010203040506FF", "+0010203040506ff", "00010203040506f"] {
            assert!(bad.parse::<TokenId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn digests_round_trip() {
        let digest = Digest([0xab; 32]);
        assert_eq!(Digest::try_from(digest.to_string()), Ok(digest));
        assert!(Digest::try_from("ab".to_owned()).is_err());
        assert!(Digest::try_from("é".repeat(32)).is_err());
        assert!(digest.same_as(&Digest([0xab; 32])));
        assert!(!digest.same_as(&Digest([0; 32])));
    }
}

//! Tokens as the registry sees them: a public id, the hash of a secret, and what they are good for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::command::Refusal;
use crate::name::ClusterName;
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
        const EXPECTED: &str = "expected 64 hexadecimal digits";
        let bytes = text.as_bytes();
        let mut digest = [0; 32];
        if bytes.len() != 2 * digest.len() {
            return Err(EXPECTED);
        }
        for (byte, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| EXPECTED)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| EXPECTED)?;
        }
        Ok(Self(digest))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
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

/// What a token is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Grant {
    /// Admits one gateway of this cluster, once.
    Join {
        /// The cluster that may join.
        cluster: ClusterName,
    },
    /// Lets sidecars of a workload get its identity, any number of times until it expires.
    Workload {
        /// The cluster that the workload runs in.
        cluster: ClusterName,
        /// The workload.
        workload: WorkloadName,
    },
}

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TokenState {
    /// Not used yet (join tokens) or in use (workload tokens).
    Open,
    /// Redeemed by the gateway with this key.
    Redeemed {
        /// The gateway's key.
        key: Digest,
        /// The node id that it got.
        node: NodeId,
        /// When.
        at: UnixMillis,
    },
    /// Revoked by an operator.
    Revoked {
        /// When.
        at: UnixMillis,
    },
}

/// A token's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// SHA-256 of the secret.
    pub secret_hash: Digest,
    /// What it is good for.
    pub grant: Grant,
    /// Who minted it.
    pub minted_by: ClusterName,
    /// When it was minted.
    pub minted_at: UnixMillis,
    /// When it stops working.
    pub expires_at: UnixMillis,
    /// What became of it.
    pub state: TokenState,
}

impl Token {
    /// Whether `cluster` may join with this token at `now` under the key `key`. The same key may come
    /// again, even after expiry: its redemption is already agreed, only the answer was lost.
    ///
    /// # Errors
    /// The reason why not; the secret is checked before anything else is told.
    pub fn admits(
        &self,
        secret_hash: &Digest,
        cluster: &ClusterName,
        key: &Digest,
        now: UnixMillis,
    ) -> Result<(), Refusal> {
        self.check_secret(secret_hash)?;
        let Grant::Join { cluster: granted } = &self.grant else { return Err(Refusal::TokenWrongKind) };
        if granted != cluster {
            return Err(Refusal::TokenWrongCluster { granted: granted.clone(), presented: cluster.clone() });
        }
        match &self.state {
            TokenState::Redeemed { key: redeemer, .. } if redeemer == key => Ok(()),
            TokenState::Redeemed { .. } => Err(Refusal::TokenUsed),
            TokenState::Revoked { .. } => Err(Refusal::TokenRevoked),
            TokenState::Open if now >= self.expires_at => Err(Refusal::TokenExpired),
            TokenState::Open => Ok(()),
        }
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
        match &self.state {
            TokenState::Revoked { .. } => Err(Refusal::TokenRevoked),
            _ if now >= self.expires_at => Err(Refusal::TokenExpired),
            _ => Ok(workload),
        }
    }

    /// Whether both were minted alike, whatever became of them and whoever minted first.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.secret_hash == other.secret_hash && self.grant == other.grant && self.expires_at == other.expires_at
    }

    fn check_secret(&self, secret_hash: &Digest) -> Result<(), Refusal> {
        if self.secret_hash.same_as(secret_hash) { Ok(()) } else { Err(Refusal::TokenSecretMismatch) }
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

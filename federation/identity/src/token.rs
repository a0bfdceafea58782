//! Tokens in the form that an operator copies: where to call, which root to expect there, and the
//! secret to show once it is seen. Join tokens and workload tokens look alike; what one is good for
//! stands in the registry under its id.
//!
//! The text is `isthmus1.` and base64url (RFC 4648 §5, no padding) of: a version byte, the first four
//! bytes of SHA-256 over the rest, then the fields. The checksum is against slips of the hand, not
//! against forgery: what cannot be forged is the secret.

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use aws_lc_rs::rand;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use isthmus_model::name::{ClusterName, FederationDomain};
use isthmus_model::registry::token::{Digest, TokenId};
use zeroize::{Zeroize, Zeroizing};

use crate::key::sha256;

/// What every token begins with, so that secret scanners and people recognise one.
const PREFIX: &str = "isthmus1.";
/// The layout of the fields.
const VERSION: u8 = 1;
/// Bytes of the checksum.
const CHECKSUM_LEN: usize = 4;
/// The most addresses in a token: one per gateway of a few clusters is plenty to find one alive.
pub const CONTACTS_MAX: usize = 16;
/// The longest token in characters. The longest possible with [`CONTACTS_MAX`] contacts has 679.
const TOKEN_LEN_MAX: usize = 1024;

/// Why a text is not a usable token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenParseError {
    /// Something else entirely.
    #[error("this is not a token: tokens begin with {PREFIX}")]
    NotAToken,
    /// Made by a newer release.
    #[error(
        "the token is of version {0}, which this release does not know: upgrade it, or mint the token with this one"
    )]
    Version(u8),
    /// Altered or cut while copying.
    #[error("the token is damaged: copy it again, as a whole and on one line")]
    Damaged,
    /// Undamaged, yet it does not hold what a token holds.
    #[error("the token is malformed: create a new one")]
    Malformed,
}

/// The secret part of a token. Wiped on drop, compared in constant time, never shown by `Debug`.
#[derive(Clone)]
pub struct TokenSecret([u8; 32]);

impl TokenSecret {
    /// Takes over the 32 bytes that came over the wire; `None` for any other length.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes, to be shown to the gateway whose root was verified.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256: all that the registry ever sees of it.
    #[must_use]
    pub fn hash(&self) -> Digest {
        sha256(&self.0)
    }
}

impl Drop for TokenSecret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for TokenSecret {}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// A whole token. `Display` writes the text, secret included; `Debug` leaves the secret out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerToken {
    /// The federation that it belongs to.
    pub federation: FederationDomain,
    /// The cluster that may join, or that the workload runs in; none when any may that the registry lets in.
    pub cluster: Option<ClusterName>,
    /// Where to call, in order; [`CONTACTS_MAX`] at most are written, without IPv6 scopes.
    pub contacts: Vec<SocketAddr>,
    /// SHA-256 of the federated root's public key (SPKI).
    pub root: Digest,
    /// Its id in the registry.
    pub id: TokenId,
    /// Its secret.
    pub secret: TokenSecret,
}

impl BearerToken {
    /// Makes a token with a new id and secret. Contacts beyond [`CONTACTS_MAX`] are left out.
    ///
    /// # Panics
    /// When the system has no randomness, without which nothing here is safe.
    #[must_use]
    pub fn mint(
        federation: FederationDomain,
        cluster: impl Into<Option<ClusterName>>,
        mut contacts: Vec<SocketAddr>,
        root: Digest,
    ) -> Self {
        contacts.truncate(CONTACTS_MAX);
        let mut id = [0; 8];
        let mut secret = TokenSecret([0; 32]);
        rand::fill(&mut id).expect("the system has randomness");
        rand::fill(&mut secret.0).expect("the system has randomness");
        Self { federation, cluster: cluster.into(), contacts, root, id: TokenId::from_random(id), secret }
    }

    fn encode_fields(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(TOKEN_LEN_MAX));
        for name in [self.federation.as_str(), self.cluster.as_ref().map_or("", ClusterName::as_str)] {
            out.push(u8::try_from(name.len()).expect("names are shorter than 64 bytes"));
            out.extend_from_slice(name.as_bytes());
        }
        out.extend_from_slice(&self.root.0);
        out.extend_from_slice(&HEXLOWER.decode(self.id.to_string().as_bytes()).expect("an id is 16 hex digits"));
        out.extend_from_slice(&self.secret.0);
        for contact in self.contacts.iter().take(CONTACTS_MAX) {
            match contact.ip() {
                IpAddr::V4(ip) => {
                    out.push(4);
                    out.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(6);
                    out.extend_from_slice(&ip.octets());
                }
            }
            out.extend_from_slice(&contact.port().to_be_bytes());
        }
        out
    }

    fn decode_fields(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let federation = take_name(input)?.parse().ok()?;
        let cluster = match take_name(input)? {
            "" => None,
            name => Some(name.parse().ok()?),
        };
        let root = Digest(take_array(input)?);
        let id = TokenId::from_random(take_array(input)?);
        let secret = TokenSecret(take_array(input)?);
        let mut contacts = Vec::new();
        while !input.is_empty() {
            if contacts.len() == CONTACTS_MAX {
                return None;
            }
            let ip = match take_array::<1>(input)? {
                [4] => IpAddr::from(take_array::<4>(input)?),
                [6] => IpAddr::from(take_array::<16>(input)?),
                _ => return None,
            };
            contacts.push(SocketAddr::new(ip, u16::from_be_bytes(take_array(input)?)));
        }
        Some(Self { federation, cluster, contacts, root, id, secret })
    }
}

impl fmt::Display for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.encode_fields();
        let mut payload = Zeroizing::new(Vec::with_capacity(1 + CHECKSUM_LEN + fields.len()));
        payload.push(VERSION);
        payload.extend_from_slice(&sha256(&fields).0[..CHECKSUM_LEN]);
        payload.extend_from_slice(&fields);
        f.write_str(PREFIX)?;
        f.write_str(&Zeroizing::new(BASE64URL_NOPAD.encode(&payload)))
    }
}

impl FromStr for BearerToken {
    type Err = TokenParseError;

    /// Reads a token; white space around it is ignored.
    fn from_str(text: &str) -> Result<Self, TokenParseError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenParseError::NotAToken)?;
        if text.len() > TOKEN_LEN_MAX {
            return Err(TokenParseError::Damaged);
        }
        let payload = BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| TokenParseError::Damaged)?;
        let payload = Zeroizing::new(payload);
        let (version, rest) = payload.split_first().ok_or(TokenParseError::Damaged)?;
        if *version != VERSION {
            return Err(TokenParseError::Version(*version));
        }
        let (checksum, fields) = rest.split_at_checked(CHECKSUM_LEN).ok_or(TokenParseError::Damaged)?;
        if sha256(fields).0[..CHECKSUM_LEN] != *checksum {
            return Err(TokenParseError::Damaged);
        }
        Self::decode_fields(fields).ok_or(TokenParseError::Malformed)
    }
}

fn take_array<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

fn take_name<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    let [len] = take_array::<1>(input)?;
    let (head, tail) = input.split_at_checked(usize::from(len))?;
    *input = tail;
    std::str::from_utf8(head).ok()
}

//! Secrets sealed to one gateway: HPKE (RFC 9180) in base mode, X25519, HKDF-SHA256, AES-256-GCM.
//!
//! Each gateway has a key of its own for this, apart from those that it signs with: whoever steals a cluster's
//! signing key must not read what was sealed to its gateways. Base mode proves nothing about the sender; what is
//! opened is believed only because it fits a certificate that is known by other means.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::agreement::{self, X25519};
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use isthmus_model::registry::node::SealingKey;
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::Envelope;
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::file::{self, Secrecy};

/// What these envelopes are for; another use of the same keys has another text.
const INFO: &[u8] = b"isthmus sealed key v1";
/// The label of the file (RFC 7468).
const PEM_LABEL: &str = "ISTHMUS SEALING KEY";
/// Bytes of an X25519 private key (RFC 7748 §5).
const SEED_LEN: usize = 32;

/// The private half of a sealing key. Clones share it; `Debug` shows the public half.
#[derive(Clone)]
pub struct OpeningKey(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; SEED_LEN]>,
    public: SealingKey,
}

impl OpeningKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the system has no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let failed = |_| IdentityError::Crypto("key generation");
        let key = agreement::PrivateKey::generate(&X25519).map_err(failed)?;
        let seed: Curve25519SeedBin<'_> = key.as_be_bytes().map_err(failed)?;
        Self::from_seed(seed.as_ref())
    }

    fn from_seed(bytes: &[u8]) -> Result<Self, IdentityError> {
        let mut seed = Zeroizing::new([0; SEED_LEN]);
        if bytes.len() != SEED_LEN {
            return Err(IdentityError::SealingKey);
        }
        seed.copy_from_slice(bytes);
        let key = agreement::PrivateKey::from_private_key(&X25519, &*seed).map_err(|_| IdentityError::SealingKey)?;
        let computed = key.compute_public_key().map_err(|_| IdentityError::SealingKey)?;
        let public = computed.as_ref().try_into().map_err(|_| IdentityError::SealingKey)?;
        Ok(Self(Arc::new(Inner { seed, public: SealingKey(Digest(public)) })))
    }

    /// Reads the key's file.
    ///
    /// # Errors
    /// When it cannot be read, is accessible to group or others, or holds something else.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let content = || IdentityError::FileContent { path: path.to_owned(), expected: "a sealing key" };
        let der = file::read_labelled(path, PEM_LABEL, Secrecy::Owner)?;
        Self::from_seed(&der).map_err(|_| content())
    }

    /// Writes the key with mode 0600, atomically and durably.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        file::write_pem(path, PEM_LABEL, &*self.0.seed, Secrecy::Owner)
    }

    /// What others seal to.
    #[must_use]
    pub fn public(&self) -> SealingKey {
        self.0.public
    }

    /// Opens what was sealed to this key under the same `context`.
    ///
    /// # Errors
    /// [`IdentityError::Envelope`] when it was sealed to another key, for something else, or altered.
    pub fn open(&self, envelope: &Envelope, context: &[u8]) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
        let encapsulated = EncapsulatedSecret(envelope.encapsulated.0.clone());
        let secret = HpkePrivateKey::from(self.0.seed.to_vec());
        let opened = SUITE.open(&encapsulated, INFO, context, &envelope.ciphertext.0, &secret);
        opened.map(Zeroizing::new).map_err(|_| IdentityError::Envelope)
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

/// Seals `secret` to `key`. `context` says what it is and for whom; it is not in the envelope.
///
/// # Errors
/// [`IdentityError::Crypto`] when the key is no X25519 key, or the system has no randomness.
pub fn seal(key: &SealingKey, secret: &[u8], context: &[u8]) -> Result<Envelope, IdentityError> {
    let sealed = SUITE.seal(INFO, context, secret, &HpkePublicKey(key.0.0.to_vec()));
    let (encapsulated, ciphertext) = sealed.map_err(|_| IdentityError::Crypto("sealing a key"))?;
    Ok(Envelope { encapsulated: encapsulated.0.into(), ciphertext: ciphertext.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addressee_opens_an_envelope_and_only_for_what_it_is() {
        let (ours, theirs) = (OpeningKey::generate().expect("made"), OpeningKey::generate().expect("made"));
        let envelope = seal(&ours.public(), b"secret", b"for node 1").expect("sealed");
        assert_eq!(ours.open(&envelope, b"for node 1").expect("opens").as_slice(), b"secret");
        assert!(matches!(ours.open(&envelope, b"for node 2"), Err(IdentityError::Envelope)));
        assert!(matches!(theirs.open(&envelope, b"for node 1"), Err(IdentityError::Envelope)));
        for spoil in [
            |e: &mut Envelope| e.ciphertext.0[0] ^= 1,
            |e: &mut Envelope| e.encapsulated.0[0] ^= 1,
            |e: &mut Envelope| e.encapsulated.0.clear(),
            |e: &mut Envelope| e.ciphertext.0.truncate(3),
        ] {
            let mut spoilt = envelope.clone();
            spoil(&mut spoilt);
            assert!(matches!(ours.open(&spoilt, b"for node 1"), Err(IdentityError::Envelope)));
        }
        let again = seal(&ours.public(), b"secret", b"for node 1").expect("sealed");
        assert_ne!(again, envelope, "every envelope is fresh");
    }

    #[test]
    fn the_key_survives_on_disk_and_stays_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sealing.key");
        let key = OpeningKey::generate().expect("made");
        key.save(&path).expect("saved");
        assert_eq!(OpeningKey::load(&path).expect("loaded").public(), key.public());
        assert!(!format!("{key:?}").contains(&format!("{:?}", key.0.seed.as_slice())));
        crate::key::PrivateKey::generate().expect("made").save(&path).expect("saved");
        assert!(matches!(OpeningKey::load(&path), Err(IdentityError::FileContent { .. })));
    }
}

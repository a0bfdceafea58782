//! The certificate of a root whose key is elsewhere, or comes from an operator: checked before a federation begins
//! under it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_model::registry::token::Digest;

use super::INTERMEDIATE_LIFETIME;
use crate::certificate::{self, Window};
use crate::error::IdentityError;
use crate::file;

/// How long a root has to be valid yet when a federation is founded under it: the life of two intermediates. With
/// less, the first renewals would be cut short while the operator is still to learn how roots are changed.
pub const ROOT_VALIDITY_LEFT_MIN: Duration = INTERMEDIATE_LIFETIME.saturating_mul(2);

/// A root's certificate that a federation may begin under.
#[derive(Clone, Debug)]
pub struct RootCertificate {
    der: Vec<u8>,
    key: Digest,
}

impl RootCertificate {
    /// Checks a certificate, DER: an authority over authorities, without name constraints, with a key on P-256, valid
    /// now and for [`ROOT_VALIDITY_LEFT_MIN`].
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] with the first thing that is wrong.
    pub fn new(der: Vec<u8>, now: SystemTime) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "root", reason: reason.to_owned() };
        let key = {
            let parsed = certificate::parse(&der).map_err(flawed)?;
            certificate::check_root(&parsed).map_err(flawed)?;
            if !certificate::has_p256_key(&parsed) {
                return Err(flawed("its key is not ECDSA on P-256"));
            }
            check_validity(Window::of(&parsed), now).map_err(|reason| flawed(&reason))?;
            certificate::key_digest(&parsed)
        };
        Ok(Self { der, key })
    }

    /// Reads the first certificate of a PEM file, and checks it.
    ///
    /// # Errors
    /// When it cannot be read, or as [`Self::new`].
    pub fn load(path: &Path, now: SystemTime) -> Result<Self, IdentityError> {
        Self::new(file::read_certificate(path)?.to_vec(), now)
    }

    /// The certificate, DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// SHA-256 of its key (SPKI).
    #[must_use]
    pub fn key(&self) -> Digest {
        self.key
    }
}

fn check_validity(window: Window, now: SystemTime) -> Result<(), String> {
    if window.not_after < now {
        return Err("it has expired".to_owned());
    }
    if !window.contains(now) {
        return Err("it is not valid yet: check the clock".to_owned());
    }
    if window.not_after < now + ROOT_VALIDITY_LEFT_MIN {
        let days = ROOT_VALIDITY_LEFT_MIN.as_secs() / (24 * 60 * 60);
        return Err(format!("it ends in less than {days} days: take one that is valid for longer"));
    }
    Ok(())
}

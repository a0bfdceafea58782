//! The certificate of a root whose key is elsewhere, or comes from an operator: checked before a federation begins
//! under it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use isthmus_model::name::FederationDomain;
use isthmus_model::registry::token::Digest;

use super::INTERMEDIATE_LIFETIME;
use super::root::made_for;
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
    /// now and for [`ROOT_VALIDITY_LEFT_MIN`], and not made for another federation.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] with the first thing that is wrong.
    pub fn new(der: Vec<u8>, federation: &FederationDomain, now: SystemTime) -> Result<Self, IdentityError> {
        let flawed = |reason: &str| IdentityError::Certificate { role: "root", reason: reason.to_owned() };
        let key = {
            let parsed = certificate::parse(&der).map_err(flawed)?;
            certificate::check_root(&parsed).map_err(flawed)?;
            if !certificate::has_p256_key(&parsed) {
                return Err(flawed("its key is not ECDSA on P-256"));
            }
            if let Some(other) = made_for(&parsed).filter(|made_for| made_for != federation) {
                return Err(flawed(&format!("it was made for the federation {other}")));
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
    pub fn load(path: &Path, federation: &FederationDomain, now: SystemTime) -> Result<Self, IdentityError> {
        Self::new(file::read_certificate(path)?.to_vec(), federation, now)
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

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384};

    use super::*;
    use crate::authority::RootAuthority;
    use crate::fixture::federation_domain;
    use crate::key::PrivateKey;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A self-signed authority without a path length, valid from `from` until `to`.
    fn authority(key: &KeyPair, from: SystemTime, to: SystemTime, change: fn(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (params.not_before, params.not_after) = (from.into(), to.into());
        change(&mut params);
        params.self_signed(key).expect("signed").der().to_vec()
    }

    #[track_caller]
    fn refused(der: Vec<u8>, now: SystemTime, reason: &str) {
        let why = RootCertificate::new(der, &federation_domain(), now).expect_err("it is refused").to_string();
        assert!(why.contains(reason), "{why}");
    }

    #[test]
    fn an_authority_over_authorities_that_lasts_is_accepted_and_nothing_else() {
        let (now, key) = (SystemTime::now(), KeyPair::generate().expect("made"));
        let until = now + 2 * ROOT_VALIDITY_LEFT_MIN;
        let good = RootCertificate::new(authority(&key, now - DAY, until, |_| {}), &federation_domain(), now);
        let good = good.expect("accepted");
        assert_eq!(good.key(), crate::certificate_key_digest(good.der()).expect("a certificate"));

        refused(authority(&key, now - 2 * DAY, now - DAY, |_| {}), now, "it has expired");
        refused(authority(&key, now + DAY, until, |_| {}), now, "it is not valid yet");
        refused(authority(&key, now - DAY, now + ROOT_VALIDITY_LEFT_MIN - DAY, |_| {}), now, "less than 180 days");
        let leaf = authority(&key, now - DAY, until, |params| params.is_ca = IsCa::ExplicitNoCa);
        refused(leaf, now, "not a certificate authority's");
        let short = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        refused(authority(&key, now - DAY, until, short), now, "path length of 0");
        let mute = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::CrlSign];
        refused(authority(&key, now - DAY, until, mute), now, "does not include signing certificates");
        let longer = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("made");
        refused(authority(&longer, now - DAY, until, |_| {}), now, "not ECDSA on P-256");
        refused(vec![0x30, 0], now, "not X.509");
        let other = RootAuthority::create(&"other.mesh".parse().expect("valid"), now).expect("made");
        refused(other.certificate().to_vec(), now, "made for the federation other.mesh");
    }

    #[test]
    fn only_a_root_of_isthmus_says_whose_it_is() {
        let (now, other) = (SystemTime::now(), "other.mesh".parse().expect("valid"));
        let made = RootAuthority::create(&federation_domain(), now).expect("made");
        assert!(!made.is_made_for_another());
        let dir = tempfile::tempdir().expect("a directory");
        made.save(dir.path()).expect("saved");
        let taken = RootAuthority::load(dir.path(), other).expect("loaded");
        assert!(taken.is_made_for_another());

        let key = PrivateKey::generate().expect("made");
        let own = authority_of(&key, now);
        let adopted = RootAuthority::new(federation_domain(), key, own).expect("an authority");
        assert!(!adopted.is_made_for_another());
    }

    fn authority_of(key: &PrivateKey, now: SystemTime) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = ((now - DAY).into(), (now + DAY).into());
        params.self_signed(key.material()).expect("signed").der().to_vec()
    }
}

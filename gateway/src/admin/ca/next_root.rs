//! Where the next root comes from.
//!
//! A new one is made by the gateway that is asked, which seals its key to those that vote and forgets it. That gateway
//! has to vote itself, so that no learner ever has a root's key in its memory. An operator's own comes sealed
//! already, and an offline one without its key.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use axum::http::StatusCode;
use isthmus_identity::{IdentityError, OpeningKey, RootAuthority, RootCertificate};
use isthmus_model::registry::Federation;
use isthmus_model::registry::node::{Node, NodeId};
use isthmus_model::registry::token::Digest;
use isthmus_model::registry::trust::{Custody, Envelopes, Root};

use super::api::{Keeper, Keepers, NextRoot};
use crate::admin::failure::Failure;
use crate::admin::view::Reading;

fn conflict(why: impl fmt::Display) -> Failure {
    Failure::new(StatusCode::CONFLICT, why.to_string())
}

impl Reading {
    fn federation(&self) -> Result<&Federation, Failure> {
        let message = "this gateway has not heard of its federation yet: see `isthmus status` for the registry";
        self.registry.federation().ok_or_else(|| Failure::new(StatusCode::SERVICE_UNAVAILABLE, message))
    }

    /// The members that vote.
    fn voters(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.registry.members().filter(|(id, _)| self.status.voters.contains(id))
    }

    pub(super) fn keepers(&self) -> Result<Keepers, Failure> {
        let federation = self.federation()?.domain.clone();
        let keeper = |(node, record): (&NodeId, &Node)| Keeper { node: *node, sealing_key: record.sealing_key };
        Ok(Keepers { federation, keepers: self.voters().map(keeper).collect() })
    }
}

/// Whether `root` is the one that is asked for.
pub(super) fn is_such(root: &Root, next: &NextRoot) -> bool {
    match next {
        NextRoot::Sealed => root.custody != Custody::Offline,
        NextRoot::Offline { certificate } => root.custody == Custody::Offline && root.certificate == *certificate,
        NextRoot::Own { certificate, .. } => root.custody != Custody::Offline && root.certificate == *certificate,
    }
}

/// Makes the root that is asked for, or one that is kept as the present one is.
pub(super) fn make(reading: &Reading, opening_key: &OpeningKey, next: Option<NextRoot>) -> Result<Root, Failure> {
    let present = reading.federation()?.trust.issuer();
    match next {
        None if present.custody == Custody::Offline => Err(conflict(
            "the root's key is with the operator, and so is the next one's: say where that is, with \
             --root offline --root-cert FILE, or --root sealed for one that the federation keeps itself",
        )),
        None | Some(NextRoot::Sealed) => new(reading),
        Some(NextRoot::Offline { certificate }) => {
            let key = check(reading, &certificate.0)?;
            Ok(Root { certificate, key, custody: Custody::Offline })
        }
        Some(NextRoot::Own { certificate, envelopes }) => {
            let key = check(reading, &certificate.0)?;
            own(reading, opening_key, Root { certificate, key, custody: Custody::Sealed { envelopes } })
        }
    }
}

fn check(reading: &Reading, certificate: &[u8]) -> Result<Digest, Failure> {
    let domain = &reading.federation()?.domain;
    let checked = RootCertificate::new(certificate.to_vec(), domain, SystemTime::now());
    checked.map(|root| root.key()).map_err(conflict)
}

fn check_votes(reading: &Reading) -> Result<(), Failure> {
    if reading.status.voters.contains(&reading.status.node) {
        return Ok(());
    }
    Err(conflict(
        "this gateway does not vote, and a root's key is made only where it may be kept: ask a gateway that \
         `isthmus status` lists among the voters",
    ))
}

/// A new root, sealed to those that vote.
fn new(reading: &Reading) -> Result<Root, Failure> {
    check_votes(reading)?;
    let failed = |error: IdentityError| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let authority = RootAuthority::create(&reading.federation()?.domain, SystemTime::now()).map_err(failed)?;
    let seal = |(id, node): (&NodeId, &Node)| Ok((*id, authority.seal(*id, &node.sealing_key).map_err(failed)?));
    let envelopes = Envelopes(reading.voters().map(seal).collect::<Result<BTreeMap<_, _>, Failure>>()?);
    let custody = Custody::Sealed { envelopes };
    Ok(Root { certificate: authority.certificate().to_vec().into(), key: authority.digest(), custody })
}

/// An operator's own root, if this gateway can open it and all others that vote have an envelope: the next root must
/// not turn out to be nobody's.
fn own(reading: &Reading, opening_key: &OpeningKey, root: Root) -> Result<Root, Failure> {
    check_votes(reading)?;
    let Custody::Sealed { envelopes } = &root.custody else { return Ok(root) };
    let voters: BTreeSet<NodeId> = reading.voters().map(|(id, _)| *id).collect();
    if !envelopes.0.keys().eq(&voters) {
        return Err(conflict("the key is not sealed to those that vote by now: run this again"));
    }
    let domain = &reading.federation()?.domain;
    let opened = RootAuthority::unseal(domain, &root, reading.status.node, opening_key);
    opened.map_err(|error| conflict(format_args!("the key cannot be opened by this gateway: {error}")))?;
    Ok(root)
}

//! Starting a federation: its root, and the first gateway under it.
//!
//! The root's key is sealed to the first gateway at once and never written down, or it is offline. Then the gateway
//! asks with a file, and the founding goes on when the answer is brought back.

use std::time::SystemTime;

use isthmus_identity::{INTERMEDIATE_LIFETIME, IdentityError, RootAuthority, RootCertificate, check_issued};
use isthmus_model::blob::Blob;
use isthmus_model::command::Command;
use isthmus_model::registry::node::{Certificates, NodeId, Requests};
use isthmus_model::registry::trust::{Custody, Envelopes, Root};
use isthmus_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use super::{EnrollError, GatewayName, Member, Newborn};
use crate::data_dir::DataDir;

/// The node id that the first gateway gets.
pub const FOUNDER: NodeId = 1;

/// What the first gateway asks an offline root for: `founding.request.json`. The keys are in the directory already.
#[derive(Serialize, Deserialize)]
struct Asked {
    /// The root's certificate, DER. What is brought back has to be signed by it.
    root: Blob,
}

/// Founds a federation under a new root, whose key is sealed to this gateway.
///
/// # Errors
/// [`EnrollError`] when it cannot be made or kept.
pub fn found(name: &GatewayName, data: &DataDir) -> Result<Member, EnrollError> {
    found_under(name, data, || RootAuthority::create(&name.federation, SystemTime::now()))
}

/// Founds a federation under `root`, whose key is sealed to this gateway. A founding that was begun is finished
/// instead, under its own root.
///
/// # Errors
/// [`EnrollError`] when it cannot be made or kept, or waits for an offline root.
pub fn found_under(
    name: &GatewayName,
    data: &DataDir,
    root: impl FnOnce() -> Result<RootAuthority, IdentityError>,
) -> Result<Member, EnrollError> {
    if data.founding_request().exists() {
        return Err(EnrollError::WaitsForRoot { path: data.founding_request().display().to_string() });
    }
    let newborn = Newborn::prepare(name, data)?;
    let command = match data.read_json(&data.founding())? {
        // An earlier attempt got this far: it is the same founding.
        Some(command) => command,
        None => sealed(name, &newborn, &root()?)?,
    };
    settle(newborn, name, data, command)
}

/// Prepares a founding under an offline root: makes the gateway's keys, and returns what the root is to certify.
///
/// # Errors
/// [`EnrollError`] when they cannot be made or kept, or another founding was begun.
pub fn ask_root(name: &GatewayName, data: &DataDir, root: &RootCertificate) -> Result<Requests, EnrollError> {
    if data.founding().exists() {
        return Err(EnrollError::Begun);
    }
    let newborn = Newborn::prepare(name, data)?;
    data.write_json(&data.founding_request(), &Asked { root: root.der().to_vec().into() })?;
    Ok(newborn.introduction.requests)
}

/// Founds the federation with what the offline root signed: `answer` finds it by what was asked for.
///
/// # Errors
/// [`EnrollError`] when nothing was asked, or the answer is not the root's for this gateway.
pub fn found_signed(
    name: &GatewayName,
    data: &DataDir,
    answer: impl FnOnce(&Requests) -> Option<Certificates>,
) -> Result<Member, EnrollError> {
    let asked: Asked = data.read_json(&data.founding_request())?.ok_or(EnrollError::NothingAsked)?;
    let now = SystemTime::now();
    let root = RootCertificate::new(asked.root.0, &name.federation, now)?;
    let newborn = Newborn::prepare(name, data)?;
    let founder = newborn.introduction.clone();
    let certificates = answer(&founder.requests).ok_or(EnrollError::NotForThisGateway)?;
    let certificates = check(name, &newborn, root.der(), &certificates, now)?;
    let root = Root { certificate: root.der().to_vec().into(), key: root.key(), custody: Custody::Offline };
    let command = Command::Found { federation: name.federation.clone(), root, founder, certificates };
    let member = settle(newborn, name, data, command)?;
    data.remove(&data.founding_request())?;
    Ok(member)
}

fn identity(name: &GatewayName) -> SpiffeId {
    SpiffeId::gateway(name.federation.trust_domain(&name.cluster), name.gateway.clone())
}

/// Whether other gateways will accept what the root signed: shown before anything depends on it.
fn check(
    name: &GatewayName,
    newborn: &Newborn,
    root: &[u8],
    certificates: &Certificates,
    now: SystemTime,
) -> Result<Certificates, IdentityError> {
    check_issued(root, &name.federation, &newborn.introduction.requests, &identity(name), certificates, now)
}

fn sealed(name: &GatewayName, newborn: &Newborn, authority: &RootAuthority) -> Result<Command, EnrollError> {
    let now = SystemTime::now();
    let founder = newborn.introduction.clone();
    let certificates = authority.certify(&founder.requests, &identity(name), INTERMEDIATE_LIFETIME, now)?;
    let certificates = check(name, newborn, authority.certificate(), &certificates, now)?;
    let envelope = authority.seal(FOUNDER, &founder.sealing_key)?;
    let root = Root {
        certificate: authority.certificate().to_vec().into(),
        key: authority.digest(),
        custody: Custody::Sealed { envelopes: Envelopes([(FOUNDER, envelope)].into()) },
    };
    Ok(Command::Found { federation: name.federation.clone(), root, founder, certificates })
}

/// Writes the founding down, and becomes the first member with it.
fn settle(newborn: Newborn, name: &GatewayName, data: &DataDir, command: Command) -> Result<Member, EnrollError> {
    data.write_json(&data.founding(), &command)?;
    let Command::Found { root, certificates, .. } = &command else { return Err(EnrollError::NotAFounding) };
    let roots = vec![root.certificate.0.clone()];
    let mut member = newborn.settle(name, data, FOUNDER, certificates, roots)?;
    member.founding = Some(command);
    Ok(member)
}

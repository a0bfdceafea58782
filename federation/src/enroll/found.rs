//! Starting a federation: its root, and the first gateway under it.

use std::time::SystemTime;

use isthmus_identity::{INTERMEDIATE_LIFETIME, RootAuthority};
use isthmus_model::command::Command;
use isthmus_model::registry::node::NodeId;
use isthmus_model::registry::trust::{Custody, Envelopes, Root};
use isthmus_model::spiffe::SpiffeId;

use super::{EnrollError, GatewayName, Member, Newborn};
use crate::data_dir::DataDir;

/// The node id that the first gateway gets.
pub const FOUNDER: NodeId = 1;

/// Makes the federation's root, whose key is sealed to this gateway at once and is never written down, and certifies
/// the gateway under it.
///
/// # Errors
/// [`EnrollError`] when they cannot be made or kept.
pub fn found(name: &GatewayName, data: &DataDir) -> Result<Member, EnrollError> {
    let newborn = Newborn::prepare(name, data)?;
    let command = match data.read_json(&data.founding())? {
        // An earlier attempt got this far: it is the same founding.
        Some(command) => command,
        None => {
            let command = founding(name, &newborn)?;
            data.write_json(&data.founding(), &command)?;
            command
        }
    };
    let Command::Found { root, certificates, .. } = &command else { return Err(EnrollError::NotAFounding) };
    let (roots, certificates) = (vec![root.certificate.0.clone()], certificates.clone());
    let mut member = newborn.settle(name, data, FOUNDER, &certificates, roots)?;
    member.founding = Some(command);
    Ok(member)
}

fn founding(name: &GatewayName, newborn: &Newborn) -> Result<Command, EnrollError> {
    let now = SystemTime::now();
    let authority = RootAuthority::create(&name.federation, now)?;
    let id = SpiffeId::gateway(name.federation.trust_domain(&name.cluster), name.gateway.clone());
    let founder = newborn.introduction.clone();
    let certificates = authority.certify(&founder.requests, &id, INTERMEDIATE_LIFETIME, now)?;
    let envelope = authority.seal(FOUNDER, &founder.sealing_key)?;
    let root = Root {
        certificate: authority.certificate().to_vec().into(),
        key: authority.digest(),
        custody: Custody::Sealed { envelopes: Envelopes([(FOUNDER, envelope)].into()) },
    };
    Ok(Command::Found { federation: name.federation.clone(), root, founder, certificates })
}

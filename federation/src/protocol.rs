//! Which versions of the protocol between gateways go together.
//!
//! Each gateway speaks a range of protocols, tells it with every message, and is answered in the latest that both speak;
//! until it was heard, it is spoken to in the earliest. One step from version to version is kept compatible, so that gateways
//! can be upgraded one after the other ([`EARLIEST`] is the last version's latest). What is optional within a protocol is a
//! capability, by name.
//!
//! | protocol | since |
//! | --- | --- |
//! | 2 | Raft's messages as JSON of openraft 0.9; snapshots as one of them |
//! | 3 | snapshots in pieces; several writes in one entry of the log; the range itself is told; ports whose protocol is detected |
//!
//! What is agreed has to mean the same everywhere: a kind of command that came with a protocol ([`since`]) is written only
//! when every replica speaks that, and a replica takes no entry that it does not understand whole
//! ([`crate::understood`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use isthmus_model::catalog::AppProtocol;
use isthmus_model::command::Command;
use isthmus_model::registry::NODES_MAX;
use isthmus_model::registry::node::NodeId;
use isthmus_wire::peer::{self, Capability};
use openraft::Membership;
use tonic::Status;

use crate::raft_types::Peer;

/// The earliest protocol that this version speaks.
pub const EARLIEST: u32 = 2;
/// The latest.
pub const LATEST: u32 = 3;
/// The protocol that knows several writes in one entry.
const BATCHES_SINCE: u32 = 3;
/// The protocol that knows ports whose bytes are told apart by each connection.
const DETECTION_SINCE: u32 = 3;
/// Characters of another gateway's version that are shown.
const SOFTWARE_LEN_MAX: usize = 32;

/// What a gateway can speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    earliest: u32,
    latest: u32,
    capabilities: u64,
    software: String,
}

impl Spoken {
    /// This version.
    #[must_use]
    pub fn own() -> Self {
        let capabilities = bit(Capability::SnapshotStream);
        Self { earliest: EARLIEST, latest: LATEST, capabilities, software: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// As a message tells it that is in protocol `format`, which is all that it tells before protocol 3.
    pub(crate) fn told(spoken: Option<peer::Spoken>, format: u32) -> Self {
        let Some(peer::Spoken { earliest, latest, capabilities, software }) = spoken else {
            return Self { earliest: format, latest: format, capabilities: 0, software: String::new() };
        };
        let software = software.chars().filter(char::is_ascii_graphic).take(SOFTWARE_LEN_MAX).collect();
        Self { earliest, latest, capabilities, software }
    }

    pub(crate) fn tell(&self) -> peer::Spoken {
        let Self { earliest, latest, capabilities, software } = self.clone();
        peer::Spoken { earliest, latest, capabilities, software }
    }

    /// The latest protocol that both speak.
    pub(crate) fn common(&self, other: &Self) -> Option<u32> {
        let common = self.latest.min(other.latest);
        (common >= self.earliest.max(other.earliest)).then_some(common)
    }

    pub(crate) fn can(&self, capability: Capability) -> bool {
        self.capabilities & bit(capability) != 0
    }
}

fn bit(capability: Capability) -> u64 {
    u64::from(capability as u32)
}

impl fmt::Display for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.software.is_empty() {
            write!(f, "(isthmus {}) ", self.software)?;
        }
        match (self.earliest, self.latest) {
            (earliest, latest) if earliest == latest => write!(f, "speaks protocol {latest}"),
            (earliest, latest) => write!(f, "speaks protocols {earliest} to {latest}"),
        }
    }
}

/// Two gateways that have no protocol in common, and which one to upgrade.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Apart(String);

/// The protocol for messages between `own` and the gateway called `peer`.
pub(crate) fn agree(own: &Spoken, own_name: &str, theirs: &Spoken, peer: &str) -> Result<u32, Apart> {
    own.common(theirs).ok_or_else(|| {
        let outdated = if own.latest < theirs.latest { own_name } else { peer };
        Apart(format!("{own_name} {own}, {peer} {theirs}: upgrade {outdated}"))
    })
}

impl From<Apart> for Status {
    fn from(apart: Apart) -> Self {
        Self::failed_precondition(apart.to_string())
    }
}

/// The protocol with which a kind of command came. A new kind, or a field that changes what a known kind does, gets the
/// next protocol.
fn since(command: &Command) -> u32 {
    match command {
        Command::SetExport { export, .. } if export.ports.iter().any(|port| port.protocol == AppProtocol::Detect) => {
            DETECTION_SINCE
        }
        Command::Found { .. }
        | Command::MintToken { .. }
        | Command::RevokeToken { .. }
        | Command::RedeemToken { .. }
        | Command::RequestCertificates { .. }
        | Command::Issue { .. }
        | Command::Reseal { .. }
        | Command::StartRotation { .. }
        | Command::Acknowledge { .. }
        | Command::AdvanceRotation { .. }
        | Command::AbortRotation
        | Command::UpdateNode { .. }
        | Command::Drain { .. }
        | Command::Leave { .. }
        | Command::Fence { .. }
        | Command::Unfence { .. }
        | Command::SetAdministrator { .. }
        | Command::SetExport { .. }
        | Command::WithdrawExport { .. } => 2,
    }
}

/// What other replicas speak, as they last told. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Protocols(Arc<Mutex<BTreeMap<NodeId, Spoken>>>);

impl Protocols {
    /// Notes what a replica of the membership speaks.
    pub(crate) fn note(&self, replica: NodeId, spoken: Spoken) {
        let mut known = self.known();
        if known.get(&replica) == Some(&spoken) {
            return;
        }
        // Members come and go; there are never more at once.
        if known.len() >= NODES_MAX && !known.contains_key(&replica) {
            known.clear();
        }
        tracing::info!(replica, "the gateway {spoken}");
        known.insert(replica, spoken);
    }

    /// Forgets what a replica spoke, which refuses what it was told in it: it may have another version than before. It is
    /// spoken to in the earliest protocol then, and tells anew.
    pub(crate) fn forget(&self, replica: NodeId) {
        self.known().remove(&replica);
    }

    /// What a replica speaks, if it told since this one started.
    pub(crate) fn of(&self, replica: NodeId) -> Option<Spoken> {
        self.known().get(&replica).cloned()
    }

    /// In which protocol to speak to a replica.
    pub(crate) fn with(&self, replica: NodeId) -> u32 {
        self.known().get(&replica).and_then(|spoken| Spoken::own().common(spoken)).unwrap_or(EARLIEST)
    }

    /// Whether every replica can take `command`.
    ///
    /// # Errors
    /// Which one cannot, or was not heard.
    pub(crate) fn check_command(
        &self,
        command: &Command,
        own: NodeId,
        replicas: &Membership<NodeId, Peer>,
    ) -> Result<(), String> {
        self.check(since(command), own, replicas)
    }

    /// Whether every replica can take several writes in one entry.
    ///
    /// # Errors
    /// Which one cannot, or was not heard.
    pub(crate) fn check_batches(&self, own: NodeId, replicas: &Membership<NodeId, Peer>) -> Result<(), String> {
        self.check(BATCHES_SINCE, own, replicas)
    }

    fn check(&self, needed: u32, own: NodeId, replicas: &Membership<NodeId, Peer>) -> Result<(), String> {
        if needed <= EARLIEST {
            return Ok(());
        }
        let known = self.known();
        let others = replicas.nodes().filter(|(id, _)| **id != own);
        for (id, peer) in others {
            let why = match known.get(id) {
                Some(spoken) if spoken.latest >= needed => continue,
                Some(spoken) => format!("{spoken}: upgrade it"),
                None => "was not heard: start it, or fence its cluster".to_owned(),
            };
            return Err(format!("this needs protocol {needed} on every gateway, and {} {why}", name(*id, Some(peer))));
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Spoken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replica as people know it.
pub(crate) fn name(id: NodeId, peer: Option<&Peer>) -> String {
    match peer {
        Some(Peer(Some(address))) => format!("{}/{}", address.cluster, address.gateway),
        _ => format!("gateway {id}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use isthmus_model::catalog::{Export, ServicePort};
    use isthmus_model::fixture;

    use super::*;

    fn spoken(earliest: u32, latest: u32) -> Spoken {
        Spoken { earliest, latest, capabilities: 0, software: "9.9.9".to_owned() }
    }

    #[test]
    fn the_latest_common_protocol_is_spoken_and_who_has_none_hears_what_to_upgrade() {
        let own = spoken(3, 4);
        for (theirs, common) in
            [((2, 3), Some(3)), ((3, 3), Some(3)), ((3, 4), Some(4)), ((4, 5), Some(4)), ((1, 9), Some(4))]
        {
            assert_eq!(own.common(&spoken(theirs.0, theirs.1)), common, "{theirs:?}");
        }
        let old = agree(&own, "us-east/gw-1", &Spoken::told(None, 2), "us-west/gw-1").expect_err("too old");
        let expected = "us-east/gw-1 (isthmus 9.9.9) speaks protocols 3 to 4, us-west/gw-1 speaks protocol 2: upgrade us-west/gw-1";
        assert_eq!(old.to_string(), expected);
        let new = agree(&own, "us-east/gw-1", &spoken(5, 6), "us-west/gw-1").expect_err("too new");
        assert!(new.to_string().ends_with("speaks protocols 5 to 6: upgrade us-east/gw-1"), "{new}");
        assert_eq!(own.common(&spoken(4, 3)), None, "a range that is none");
    }

    #[test]
    fn what_was_not_told_is_not_used() {
        assert!(Spoken::own().can(Capability::SnapshotStream));
        assert!(!Spoken::told(None, 2).can(Capability::SnapshotStream));
        let told = Spoken::told(Some(peer::Spoken { capabilities: u64::MAX, ..Spoken::own().tell() }), 3);
        assert!(told.can(Capability::SnapshotStream), "unknown bits mean nothing");
        let long = peer::Spoken { software: "1.0\n".repeat(1_000), ..Spoken::own().tell() };
        assert_eq!(Spoken::told(Some(long), 3).software.len(), SOFTWARE_LEN_MAX);
    }

    /// Protocol 2 knows three, and would stop at the fourth.
    #[test]
    fn a_port_whose_protocol_is_detected_is_written_where_all_know_that() {
        for (protocol, text, needed) in
            [(AppProtocol::Http, "\"http\"", EARLIEST), (AppProtocol::Detect, "\"detect\"", DETECTION_SINCE)]
        {
            assert_eq!(serde_json::to_string(&protocol).expect("text"), text, "as it is in the log");
            let ports = vec![ServicePort { name: None, port: 80, protocol }];
            let export = Export { ports, identities: BTreeSet::new(), terminated: false };
            let service = "shop/reviews".parse().expect("valid");
            assert_eq!(since(&Command::SetExport { service, export }), needed);
        }
    }

    #[test]
    fn a_command_that_a_replica_does_not_know_is_not_written() {
        let nodes: BTreeMap<NodeId, Peer> =
            (1..=3).map(|id| (id, Peer::from(&fixture::member(&format!("c{id}"), "r1", 1)))).collect();
        let membership = Membership::new(vec![BTreeSet::from([1, 2])], nodes);
        let protocols = Protocols::default();
        let refused = |needed| protocols.check(needed, 1, &membership).err();
        assert_eq!(refused(EARLIEST), None, "everyone who can be a replica knows it");
        assert!(refused(3).is_some_and(|why| why.contains("c2/gw-1 was not heard")));
        protocols.note(2, Spoken::own());
        assert!(refused(3).is_some_and(|why| why.contains("c3/gw-1")), "learners count: they have the registry too");
        protocols.note(3, Spoken::told(None, 2));
        assert!(refused(3).is_some_and(|why| why.contains("c3/gw-1 speaks protocol 2: upgrade it")));
        protocols.note(3, Spoken::own());
        assert_eq!((refused(3), refused(4).is_some()), (None, true));
        assert_eq!((protocols.with(3), protocols.with(7)), (LATEST, EARLIEST));
        protocols.forget(3);
        assert_eq!(protocols.with(3), EARLIEST, "it may have gone back a version");
    }
}

//! The registry's replicas, with the names of their gateways.

use std::borrow::Cow;
use std::time::SystemTime;

use isthmus_federation::replicas::ReplicaView;

use crate::admin::{AdminState, api};

impl AdminState {
    pub(crate) fn replicas(&self) -> api::RegistryView {
        let (reading, view) = (self.read(SystemTime::now().into()), (self.replicas)());
        let leader = reading.status.leader;
        let replica = |replica: ReplicaView| api::Replica {
            member: reading.member(replica.node),
            role: Cow::Borrowed(match replica.votes {
                true if leader == Some(replica.node) => "leader",
                true => "voter",
                false => "learner",
            }),
            lag_entries: replica.lag_entries,
            lag_ms: replica.lag_ms,
            heard_ms_ago: replica.heard_ms_ago,
        };
        api::RegistryView {
            term: reading.status.term,
            leader: leader.map(|leader| reading.member(leader)),
            last_log: reading.status.last_log,
            applied: reading.status.applied,
            snapshot: view.snapshot,
            purged: view.purged,
            file_bytes: view.file_bytes,
            disk_free_bytes: view.disk_free_bytes,
            quorum_margin: view.quorum_margin,
            replicas: view.replicas.into_iter().map(replica).collect(),
        }
    }
}

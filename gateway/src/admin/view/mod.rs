//! What the admin API shows, computed from one reading of the watched state. Pure: the time comes with it.

mod clusters;
mod replicas;
mod services;

use std::sync::Arc;

use isthmus_federation::RegistryStatus;
use isthmus_model::health::{PeerTable, Reach};
use isthmus_model::registry::Registry;
use isthmus_model::registry::node::NodeId;
use isthmus_model::snapshot::Snapshot;
use isthmus_model::time::UnixMillis;
use isthmus_sources::{Severity, SourceState};

use super::{AdminState, api};
use crate::config::GatewayConfig;
use crate::vips::Served;

pub(super) use clusters::reach;

/// The watched state at one moment.
pub(crate) struct Reading {
    pub(super) config: Arc<GatewayConfig>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) registry: Arc<Registry>,
    pub(super) status: RegistryStatus,
    pub(super) source: Arc<SourceState>,
    pub(super) peers: Arc<PeerTable>,
    pub(super) vips: Arc<Served>,
    pub(super) now: UnixMillis,
}

impl AdminState {
    /// Takes a reading.
    pub(crate) fn read(&self, now: UnixMillis) -> Reading {
        Reading {
            config: self.config.clone(),
            snapshot: self.snapshots.borrow().clone(),
            registry: self.registry.borrow().clone(),
            status: self.status.borrow().clone(),
            source: self.source.borrow().clone(),
            peers: self.peers.borrow().clone(),
            vips: self.vips.borrow().clone(),
            now,
        }
    }
}

impl Reading {
    pub(super) fn status(&self) -> api::Status {
        let mut clusters = api::ClusterCounts::default();
        for cluster in self.clusters().clusters {
            match cluster.reach {
                Reach::Up => clusters.up += 1,
                Reach::Down => clusters.down += 1,
                Reach::Unknown => clusters.unknown += 1,
            }
        }
        api::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            federation: self.config.federation.clone(),
            cluster: self.config.cluster.clone(),
            gateway: self.config.gateway.clone(),
            locality: self.config.locality.clone(),
            registry: self.registry_state(),
            clusters,
            exports: self.exports_of(&self.config.cluster),
            services: self.registry.exports().len(),
            problems: self.source.problems.len() + self.source.problems_suppressed,
            vips: self.vips(),
            issuance: self.issuance(),
        }
    }

    fn vips(&self) -> api::Vips {
        let Served { bound, unbound } = &*self.vips;
        let first = unbound.first_key_value();
        api::Vips {
            bound: *bound,
            unbound: unbound.len(),
            first_unbound: first.map(|(address, reason)| api::UnboundVip { address: *address, reason: reason.clone() }),
        }
    }

    fn registry_state(&self) -> api::RegistryState {
        let status = &self.status;
        let members = |nodes: &[NodeId]| nodes.iter().map(|node| self.member(*node)).collect();
        api::RegistryState {
            node: status.node,
            role: status.role,
            term: status.term,
            leader: status.leader.map(|node| self.member(node)),
            voters: members(&status.voters),
            learners: members(&status.learners),
            last_log: status.last_log,
            applied: status.applied,
            revision: self.registry.revision(),
            stale_since: status.stale_since,
            stale_for_ms: self.ago(status.stale_since),
        }
    }

    pub(super) fn member(&self, node: NodeId) -> api::Member {
        let known = self.registry.nodes().get(&node);
        api::Member {
            node,
            cluster: known.map(|known| known.cluster.clone()),
            gateway: known.map(|known| known.gateway.clone()),
        }
    }

    pub(super) fn snapshot_age(&self) -> api::SnapshotAge {
        let agreement = &self.snapshot.agreement;
        api::SnapshotAge {
            generation: self.snapshot.generation,
            services: self.snapshot.services.len(),
            clusters: self.snapshot.clusters.len(),
            leader: agreement.leader.clone(),
            stale_since: agreement.stale_since,
            stale_for_ms: self.ago(agreement.stale_since),
        }
    }

    pub(super) fn problems(&self) -> api::Problems {
        let problems = self.source.problems.iter().map(|problem| api::Problem {
            file: problem.file.clone(),
            line: problem.line,
            object: problem.object.as_ref().map(ToString::to_string),
            severity: match problem.severity {
                Severity::Error => "error".to_owned(),
                Severity::Warning => "warning".to_owned(),
            },
            reason: problem.reason.clone(),
        });
        api::Problems { problems: problems.collect(), suppressed: self.source.problems_suppressed }
    }

    fn ago(&self, moment: Option<UnixMillis>) -> Option<u64> {
        moment.map(|moment| self.now.0.saturating_sub(moment.0))
    }
}

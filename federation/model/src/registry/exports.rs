//! What clusters offer: each changes only its own.

use crate::catalog::{Export, IDENTITIES_PER_EXPORT_MAX, PORTS_PER_SERVICE_MAX};
use crate::command::{Outcome, Refusal};
use crate::name::{ClusterName, ServiceName};
use crate::time::UnixMillis;

use super::{EXPORTS_PER_CLUSTER_MAX, Exported, Registry, limit};

impl Registry {
    pub(super) fn set_export(
        &mut self,
        origin: &ClusterName,
        service: &ServiceName,
        export: &Export,
        at: UnixMillis,
    ) -> Result<Outcome, Refusal> {
        if export.ports.len() > PORTS_PER_SERVICE_MAX {
            return Err(limit("ports of one service", PORTS_PER_SERVICE_MAX));
        }
        if export.identities.len() > IDENTITIES_PER_EXPORT_MAX {
            return Err(limit("identities of one export", IDENTITIES_PER_EXPORT_MAX));
        }
        let known = self.exports.get(service).and_then(|offers| offers.get(origin));
        let since = match known {
            Some(known) if known.export == *export => return Ok(Outcome::Unchanged),
            Some(known) => known.since,
            None => {
                let offered = self.exports.values().filter(|offers| offers.contains_key(origin)).count();
                if offered >= EXPORTS_PER_CLUSTER_MAX {
                    return Err(limit("exports of one cluster", EXPORTS_PER_CLUSTER_MAX));
                }
                at
            }
        };
        let offers = self.exports.entry(service.clone()).or_default();
        offers.insert(origin.clone(), Exported { export: export.clone(), since });
        self.vips.assign(service);
        Ok(Outcome::Changed)
    }

    pub(super) fn withdraw(&mut self, origin: &ClusterName, service: &ServiceName) -> Outcome {
        let Some(offers) = self.exports.get_mut(service) else { return Outcome::Unchanged };
        if offers.remove(origin).is_none() {
            return Outcome::Unchanged;
        }
        if offers.is_empty() {
            self.exports.remove(service);
            self.vips.retire(service);
        }
        Outcome::Changed
    }

    /// Takes back everything that a cluster offers.
    pub(super) fn withdraw_all(&mut self, cluster: &ClusterName) {
        let offered: Vec<ServiceName> = self.exports_of(cluster).into_keys().collect();
        for service in offered {
            self.withdraw(cluster, &service);
        }
    }
}

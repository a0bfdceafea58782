//! What clusters offer: each changes only its own.
//!
//! Every offer is kept twice, by service and by cluster, so that neither the merge of a service nor what one cluster
//! has on record costs more than it is about. Both are maps that share what did not change: a copy of the registry
//! costs nothing, and two states of it are compared by what lies between them.

use std::collections::BTreeMap;
use std::ops::Index;
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::catalog::{Export, IDENTITIES_PER_EXPORT_MAX, PORTS_PER_SERVICE_MAX};
use crate::command::{Outcome, Refusal};
use crate::name::{ClusterName, ServiceName};
use crate::shared::key;
use crate::time::UnixMillis;

use super::{EXPORTS_PER_CLUSTER_MAX, Registry, limit};

/// An export with the time it began; the oldest export of a service decides conflicts (KEP-1645).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The offer.
    pub export: Export,
    /// When the cluster first offered it.
    pub since: UnixMillis,
}

/// What one cluster has on record as exporting.
pub type Offered = OrdMap<ServiceName, Arc<Exported>>;

/// Every cluster's offer of one service, by cluster. Never empty in a registry.
///
/// A sorted list, not a map: most services have one offer or a few, and each would cost the room of a whole node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers(Arc<[(ClusterName, Arc<Exported>)]>);

impl Offers {
    /// The offer of `cluster`.
    #[must_use]
    pub fn get(&self, cluster: &ClusterName) -> Option<&Arc<Exported>> {
        let at = self.0.binary_search_by(|(known, _)| known.cmp(cluster)).ok()?;
        self.0.get(at).map(|(_, offer)| offer)
    }

    /// Every offer, by cluster.
    pub fn iter(&self) -> impl Iterator<Item = (&ClusterName, &Arc<Exported>)> {
        self.0.iter().map(|(cluster, offer)| (cluster, offer))
    }

    /// Every offer.
    pub fn values(&self) -> impl Iterator<Item = &Arc<Exported>> {
        self.0.iter().map(|(_, offer)| offer)
    }

    /// How many clusters offer it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn with(&self, cluster: &ClusterName, offer: Arc<Exported>) -> Self {
        let before = self.0.iter().take_while(|(known, _)| known < cluster).cloned();
        let after = self.0.iter().skip_while(|(known, _)| known <= cluster).cloned();
        Self(before.chain([(cluster.clone(), offer)]).chain(after).collect())
    }

    fn without(&self, cluster: &ClusterName) -> Self {
        Self(self.0.iter().filter(|(known, _)| known != cluster).cloned().collect())
    }
}

impl Serialize for Offers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Every export. Written as service → cluster → offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exports {
    by_service: OrdMap<ServiceName, Offers>,
    by_cluster: OrdMap<ClusterName, Offered>,
}

impl Exports {
    /// The offers of a service; none if nobody offers it.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<&Offers> {
        self.by_service.get(service)
    }

    /// Whether any cluster offers a service.
    #[must_use]
    pub fn contains_key(&self, service: &ServiceName) -> bool {
        self.by_service.contains_key(service)
    }

    /// Every service with its offers, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&ServiceName, &Offers)> {
        self.by_service.iter()
    }

    /// How many services are on offer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_service.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_service.is_empty()
    }

    /// What `cluster` offers.
    #[must_use]
    pub fn of(&self, cluster: &ClusterName) -> Option<&Offered> {
        self.by_cluster.get(cluster)
    }

    /// The services whose offers are not the same in `later`. What both share is not looked at.
    pub fn changed<'a>(&'a self, later: &'a Self) -> impl Iterator<Item = &'a ServiceName> {
        self.by_service.diff(&later.by_service).map(key)
    }

    fn insert(&mut self, cluster: &ClusterName, service: &ServiceName, offer: Exported) {
        let offer = Arc::new(offer);
        // One name for all of its entries, however often it was parsed.
        let cluster = self.by_cluster.get_key_value(cluster).map_or(cluster, |(known, _)| known).clone();
        let service = self.by_service.get_key_value(service).map_or(service, |(known, _)| known).clone();
        let offers = self.by_service.get(&service).cloned().unwrap_or_default().with(&cluster, offer.clone());
        self.by_service.insert(service.clone(), offers);
        self.by_cluster.entry(cluster).or_default().insert(service, offer);
    }

    /// Takes an offer out. `None` if there was none, else how many others are left.
    fn remove(&mut self, cluster: &ClusterName, service: &ServiceName) -> Option<usize> {
        let offers = self.by_service.get(service).filter(|offers| offers.get(cluster).is_some())?.without(cluster);
        let left = offers.len();
        if left == 0 {
            self.by_service.remove(service);
        } else {
            self.by_service.insert(service.clone(), offers);
        }
        if let Some(offered) = self.by_cluster.get_mut(cluster) {
            offered.remove(service);
            if offered.is_empty() {
                self.by_cluster.remove(cluster);
            }
        }
        Some(left)
    }
}

impl Index<&ServiceName> for Exports {
    type Output = Offers;
    fn index(&self, service: &ServiceName) -> &Offers {
        &self.by_service[service]
    }
}

impl Serialize for Exports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.by_service.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Exports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written: BTreeMap<ServiceName, BTreeMap<ClusterName, Exported>> = Deserialize::deserialize(deserializer)?;
        let mut exports = Self::default();
        for (service, offers) in written {
            for (cluster, offer) in offers {
                exports.insert(&cluster, &service, offer);
            }
        }
        Ok(exports)
    }
}

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
        let offered = self.exports.of(origin);
        let since = match offered.and_then(|offered| offered.get(service)) {
            Some(known) if known.export == *export => return Ok(Outcome::Unchanged),
            Some(known) => known.since,
            None if offered.is_some_and(|offered| offered.len() >= EXPORTS_PER_CLUSTER_MAX) => {
                return Err(limit("exports of one cluster", EXPORTS_PER_CLUSTER_MAX));
            }
            None => at,
        };
        self.exports.insert(origin, service, Exported { export: export.clone(), since });
        self.vips.assign(service);
        Ok(Outcome::Changed)
    }

    pub(super) fn withdraw(&mut self, origin: &ClusterName, service: &ServiceName) -> Outcome {
        match self.exports.remove(origin, service) {
            None => return Outcome::Unchanged,
            Some(0) => self.vips.retire(service),
            Some(_) => {}
        }
        Outcome::Changed
    }

    /// Takes back everything that a cluster offers.
    pub(super) fn withdraw_all(&mut self, cluster: &ClusterName) {
        for service in self.exports_of(cluster).keys() {
            self.withdraw(cluster, service);
        }
    }
}

//! Gauges of the registry's replicas. Those that only the leader can tell are there on the leader alone.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::admin::api::{RegistryView, Replica};

/// Whose replica it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReplicaLabels {
    cluster: String,
    gateway: String,
}

type NoLabels = [(&'static str, &'static str); 0];

pub(super) struct ReplicaGauges {
    lag: Family<ReplicaLabels, Gauge>,
    behind: Family<ReplicaLabels, Gauge>,
    margin: Family<NoLabels, Gauge>,
    file: Gauge,
    free: Gauge,
}

impl ReplicaGauges {
    pub(super) fn register(group: &mut Registry) -> Self {
        let own = Self {
            lag: Family::default(),
            behind: Family::default(),
            margin: Family::default(),
            file: Gauge::default(),
            free: Gauge::default(),
        };
        let help = "Entries that a replica has not confirmed, as the leader knows";
        group.register("registry_replica_lag_entries", help, own.lag.clone());
        let help = "Seconds for which a replica has been behind, as the leader knows";
        group.register("registry_replica_lag_seconds", help, own.behind.clone());
        let help = "Voters that may fail yet before nothing can be agreed, as the leader knows";
        group.register("registry_quorum_margin", help, own.margin.clone());
        group.register("registry_file_bytes", "Bytes of the registry's file", own.file.clone());
        group.register("registry_disk_free_bytes", "Bytes that are free beside it", own.free.clone());
        own
    }

    pub(super) fn read(&self, view: &RegistryView) {
        let long = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.lag.clear();
        self.behind.clear();
        self.margin.clear();
        for Replica { member, lag_entries, lag_ms, .. } in &view.replicas {
            let name = |name: Option<String>| name.unwrap_or_default();
            let labels = ReplicaLabels {
                cluster: name(member.cluster.as_ref().map(ToString::to_string)),
                gateway: name(member.gateway.as_ref().map(ToString::to_string)),
            };
            lag_entries.map(|lag| self.lag.get_or_create(&labels).set(long(lag)));
            lag_ms.map(|lag| self.behind.get_or_create(&labels).set(long(lag / 1000)));
        }
        view.quorum_margin.map(|margin| self.margin.get_or_create(&[]).set(margin));
        self.file.set(long(view.file_bytes));
        self.free.set(long(view.disk_free_bytes));
    }
}

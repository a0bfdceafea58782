//! The demo asks its gateways as an operator does: over the admin socket in the data directory.

use std::time::Duration;

use isthmus_model::name::{ClusterName, ServiceName};
use isthmus_model::spiffe::WorkloadName;
use serde::de::DeserializeOwned;

use super::layout::{Cluster, NAMESPACE, Workload, service_name};
use crate::admin::api::{Clusters, Grant, Invitation, Problems, Services, Status, TokenCreated, TokenRequest, Tokens};
use crate::cli::client::{AdminAddress, AdminClient};

/// A join token is used at once.
const JOIN_TTL: Duration = Duration::from_secs(600);
/// A workload's token has to last as long as somebody plays with the demo, and then some.
const WORKLOAD_TTL: Duration = Duration::from_secs(30 * 24 * 3600);

/// One gateway's admin API.
#[derive(Debug)]
pub(super) struct Admin(AdminClient);

impl Admin {
    /// That of `cluster`.
    pub(super) fn of(cluster: &Cluster) -> Self {
        Self(AdminClient::new(AdminAddress::Socket(cluster.config.admin_socket())))
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        Ok(serde_json::from_value(self.0.get(path).await?)?)
    }

    /// How the gateway and its federation stand.
    pub(super) async fn status(&self) -> anyhow::Result<Status> {
        self.read("/v1/status").await
    }

    /// The member clusters.
    pub(super) async fn clusters(&self) -> anyhow::Result<Clusters> {
        self.read("/v1/clusters").await
    }

    /// Every service that the gateway knows.
    pub(super) async fn services(&self) -> anyhow::Result<Services> {
        self.read("/v1/services").await
    }

    /// What is wrong with the cluster's manifests.
    pub(super) async fn problems(&self) -> anyhow::Result<Problems> {
        self.read("/v1/problems").await
    }

    /// The tokens on record.
    pub(super) async fn tokens(&self) -> anyhow::Result<Tokens> {
        self.read("/v1/tokens").await
    }

    /// A token with which `cluster` may join.
    pub(super) async fn mint_join(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let cluster = Some(cluster.config.cluster.clone());
        self.mint(Grant::Join(Invitation { cluster, region: None, from: None, uses: 1 }), JOIN_TTL).await
    }

    /// A token with which sidecars of `workload` get its identity.
    pub(super) async fn mint_workload(&self, workload: &Workload) -> anyhow::Result<String> {
        self.mint(Grant::Workload { workload: workload_name(workload) }, WORKLOAD_TTL).await
    }

    async fn mint(&self, grant: Grant, ttl: Duration) -> anyhow::Result<String> {
        let request = TokenRequest { grant, ttl_seconds: ttl.as_secs() };
        let created: TokenCreated = serde_json::from_value(self.0.post("/v1/tokens", &request).await?)?;
        Ok(created.token)
    }
}

/// Who a workload runs as.
pub(super) fn workload_name(workload: &Workload) -> WorkloadName {
    let ServiceName { name, .. } = service_name(workload.service.name);
    let namespace = NAMESPACE.parse().expect("the bookshop's namespace has a valid name");
    WorkloadName { namespace, service_account: name }
}

/// The names of the clusters that offer a service, as the gateway that was asked sees it, and that answer.
pub(super) fn offering(services: &Services, service: &str) -> Vec<ClusterName> {
    let name = service_name(service);
    let found = services.services.iter().find(|known| known.name == name).filter(|known| known.federated);
    let backends = found.into_iter().flat_map(|known| &known.backends);
    backends.filter(|backend| backend.exported && backend.ready > 0).map(|backend| backend.cluster.clone()).collect()
}

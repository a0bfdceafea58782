//! `demo.json`: what runs where, for programs. Field names are stable.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::files::write_public;
use super::layout::{Cluster, FEDERATION, Layout, NAMESPACE, Workload};
use super::processes::{Fleet, Name, Role};

#[derive(Serialize)]
struct Document<'a> {
    federation: &'static str,
    ready_ms: u64,
    clusters: Vec<ClusterPart<'a>>,
}

#[derive(Serialize)]
struct ClusterPart<'a> {
    name: &'static str,
    region: &'static str,
    dns: SocketAddr,
    egress: SocketAddr,
    east_west: SocketAddr,
    admin: String,
    admin_socket: PathBuf,
    gateway_pid: Option<u32>,
    manifests: &'a Path,
    data: &'a Path,
    config: PathBuf,
    workloads: Vec<WorkloadPart>,
}

#[derive(Serialize)]
struct WorkloadPart {
    service: &'static str,
    namespace: &'static str,
    version: &'static str,
    app: SocketAddr,
    app_pid: Option<u32>,
    sidecar_pid: Option<u32>,
    outbound: SocketAddr,
    inbound: SocketAddr,
}

/// Removes what an earlier demo wrote.
///
/// # Errors
/// What the file system said.
pub(super) fn remove(layout: &Layout) -> anyhow::Result<()> {
    let path = layout.document();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes `demo.json` in one step: who finds it finds a demo that is ready.
///
/// # Errors
/// What the file system said.
pub(super) fn write(layout: &Layout, fleet: &Fleet, ready: Duration) -> anyhow::Result<()> {
    let document = Document {
        federation: FEDERATION,
        ready_ms: ready.as_millis().try_into().unwrap_or(u64::MAX),
        clusters: layout.clusters.iter().map(|cluster| ClusterPart::new(cluster, fleet)).collect(),
    };
    let text = serde_json::to_string_pretty(&document).context("demo.json")?;
    write_public(&layout.document(), &(text + "\n"))
}

impl<'a> ClusterPart<'a> {
    fn new(cluster: &'a Cluster, fleet: &Fleet) -> Self {
        let Cluster { name, region, config, workloads, .. } = cluster;
        Self {
            name,
            region,
            dns: config.listen.dns,
            egress: config.listen.egress,
            east_west: config.listen.east_west,
            admin: format!("http://{}", config.listen.admin),
            admin_socket: config.admin_socket(),
            gateway_pid: fleet.pid(Name { cluster: name, role: Role::Gateway }),
            manifests: &config.manifests,
            data: &config.data_dir,
            config: cluster.config_file(),
            workloads: workloads.iter().map(|workload| WorkloadPart::new(workload, fleet)).collect(),
        }
    }
}

impl WorkloadPart {
    fn new(workload: &Workload, fleet: &Fleet) -> Self {
        let service = workload.service.name;
        let pid = |role| fleet.pid(Name { cluster: workload.cluster, role });
        Self {
            service,
            namespace: NAMESPACE,
            version: workload.version,
            app: workload.app(),
            app_pid: pid(Role::App(service)),
            sidecar_pid: pid(Role::Sidecar(service)),
            outbound: workload.outbound(),
            inbound: workload.inbound(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_document_has_the_documented_shape() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), 11);
        write(&layout, &Fleet::default(), Duration::from_millis(1234)).expect("written");
        let text = std::fs::read_to_string(layout.document()).expect("there");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["federation"], "acme.mesh");
        assert_eq!(read["ready_ms"], 1234);
        let path = |tail: &str| dir.path().join("us-east").join(tail);
        let mut east = read["clusters"][0].clone();
        let workloads = east["workloads"].take();
        assert_eq!(
            east,
            json!({
                "name": "us-east", "region": "us-east-1", "dns": "127.0.11.1:15053",
                "egress": "127.0.11.1:15001", "east_west": "127.0.11.1:15443", "admin": "http://127.0.11.1:15000",
                "admin_socket": path("data/admin.sock"), "gateway_pid": null, "manifests": path("manifests"),
                "data": path("data"), "config": path("gateway.yaml"), "workloads": null,
            })
        );
        assert_eq!(
            workloads[1],
            json!({
                "service": "reviews", "namespace": "shop", "version": "v1", "app": "127.0.11.21:9080",
                "app_pid": null, "sidecar_pid": null,
                "outbound": "127.0.11.21:15001", "inbound": "127.0.11.21:15006",
            })
        );
        let counts: Vec<usize> = read["clusters"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|cluster| cluster["workloads"].as_array().map_or(0, Vec::len))
            .collect();
        assert_eq!(counts, [3, 4, 3]);
    }
}

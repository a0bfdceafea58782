//! The clusters, the instances of the services, and the client.

use std::io;
use std::net::Ipv4Addr;

use isthmus_tests::harness::{Process, Spawn};

use crate::app;
use crate::federation::{Cluster, port, start};
use crate::workload::{Client, INBOUND, TCP, service_export, sidecar};

/// Where applications serve HTTP/1.1.
pub(crate) const HTTP: u16 = 9080;
/// Where they serve HTTP/2.
pub(crate) const HTTP2: u16 = 9081;
/// Runs only in other clusters than the client's.
pub(crate) const FAR: &str = "reviews";
/// Runs only in the client's.
pub(crate) const NEAR: &str = "ratings";
/// Service, cluster and host of every instance.
const INSTANCES: [(&str, usize, u8); 5] = [(FAR, 1, 20), (FAR, 1, 21), (FAR, 2, 20), (NEAR, 0, 20), (NEAR, 0, 21)];
/// The one whose sidecar is killed, too. The memory of the others' is watched.
pub(crate) const RESTARTED: usize = 1;

/// One instance of a service: an application and its sidecar.
pub(crate) struct Instance {
    pub(crate) service: &'static str,
    /// Its cluster's place in [`Stage::clusters`].
    pub(crate) cluster: usize,
    number: u8,
    pub(crate) app: Process,
    pub(crate) sidecar: Process,
}

/// Everything that runs.
pub(crate) struct Stage {
    pub(crate) clusters: [Cluster; 3],
    pub(crate) client: Client,
    pub(crate) instances: Vec<Instance>,
}

impl Stage {
    pub(crate) async fn start() -> io::Result<Self> {
        let clusters = start(["us-east", "us-west", "eu-central"]).await;
        for (service, at) in [(FAR, 1), (FAR, 2), (NEAR, 0)] {
            clusters[at].write(&format!("{service}.yaml"), &exported(service));
        }
        let mut instances = Vec::new();
        for (service, at, number) in INSTANCES {
            let (cluster, name) = (&clusters[at], name(service, number));
            let ip = cluster.host(number);
            let sidecar = sidecar(cluster, &name, ip, "").await;
            instances.push(Instance { service, cluster: at, number, app: application(cluster, &name, ip)?, sidecar });
        }
        let client = Client::run(&clusters[0], "productpage", 30).await;
        let stage = Self { clusters, client, instances };
        for number in 0..stage.instances.len() {
            stage.offer(number);
        }
        for number in 0..stage.instances.len() {
            stage.is_complete(number).await;
        }
        Ok(stage)
    }

    /// Tells the cluster of an instance.
    pub(crate) fn offer(&self, number: usize) {
        let instance = &self.instances[number];
        let cluster = &self.clusters[instance.cluster];
        cluster.write(&instance.file(), &instance.slice(cluster.host(instance.number)));
    }

    /// Takes that back. The instance itself goes on.
    pub(crate) fn withdraw(&self, number: usize) {
        let instance = &self.instances[number];
        self.clusters[instance.cluster].remove(&instance.file());
    }

    /// Waits until the client's gateway knows all instances of that service in that cluster as ready.
    pub(crate) async fn is_complete(&self, number: usize) {
        let Instance { service, cluster, .. } = self.instances[number];
        let of_both = self.instances.iter().filter(|other| other.service == service && other.cluster == cluster);
        self.clusters[0].sees(service, self.clusters[cluster].name, of_both.count() as u64).await;
    }

    /// Starts an application that was killed.
    pub(crate) fn revive_app(&mut self, number: usize) -> io::Result<()> {
        let instance = &mut self.instances[number];
        let cluster = &self.clusters[instance.cluster];
        instance.app = application(cluster, &instance.name(), cluster.host(instance.number))?;
        Ok(())
    }

    /// Starts a sidecar that was killed, and waits until it is ready.
    pub(crate) async fn revive_sidecar(&mut self, number: usize) {
        let instance = &mut self.instances[number];
        let cluster = &self.clusters[instance.cluster];
        instance.sidecar = sidecar(cluster, &instance.name(), cluster.host(instance.number), "").await;
    }

    /// The processes that run all the time, by name: all gateways, and all sidecars but one.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let gateways = self.clusters.iter().filter_map(|cluster| {
            let pid = cluster.gateway.as_ref().and_then(Process::pid)?;
            Some((format!("gateway of {}", cluster.name), pid))
        });
        let stable = self.instances.iter().enumerate().filter(|(number, _)| *number != RESTARTED);
        let sidecars = stable.filter_map(|(_, instance)| {
            let cluster = self.clusters[instance.cluster].name;
            Some((format!("sidecar of {} in {cluster}", instance.name()), instance.sidecar.pid()?))
        });
        let client = ("sidecar of the client".to_owned(), self.client.pid());
        gateways.chain([client]).chain(sidecars).collect()
    }

    /// Where the client's sidecar and the gateways tell their metrics.
    pub(crate) fn metrics(&self) -> Vec<(String, std::net::SocketAddr)> {
        let gateways =
            self.clusters.iter().map(|cluster| (format!("gateway of {}", cluster.name), cluster.at(port::METRICS)));
        gateways.chain([("sidecar of the client".to_owned(), self.client.status())]).collect()
    }
}

impl Instance {
    /// Also its service account: two sidecars of one cluster must not share their files.
    pub(crate) fn name(&self) -> String {
        name(self.service, self.number)
    }

    fn file(&self) -> String {
        format!("{}.yaml", self.name())
    }

    fn slice(&self, ip: Ipv4Addr) -> String {
        let (name, service) = (self.name(), self.service);
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  namespace: shop\n  \
             labels: {{kubernetes.io/service-name: {service}}}\n  annotations:\n    \
             isthmus.dev/sidecar-port: \"{INBOUND}\"\n    isthmus.dev/service-account: {name}\naddressType: IPv4\n\
             endpoints:\n- addresses: [\"{ip}\"]\nports:\n{}",
            ports("")
        )
    }
}

/// A service with all ports, on offer to the federation.
pub(crate) fn exported(service: &str) -> String {
    let export = service_export(service);
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\nspec:\n  ports:\n{}---\n{export}",
        ports("  ")
    )
}

fn ports(indent: &str) -> String {
    let ports = [("http", HTTP), ("http2-streams", HTTP2), ("tcp", TCP)];
    ports.iter().map(|(name, port)| format!("{indent}- {{name: {name}, port: {port}}}\n")).collect()
}

fn name(service: &str, number: u8) -> String {
    format!("{service}-{number}")
}

fn application(cluster: &Cluster, name: &str, ip: Ipv4Addr) -> io::Result<Process> {
    let ip = ip.to_string();
    Spawn::new(&format!("{name}.app"), &std::env::current_exe()?)
        .args([app::WORD, &ip, name])
        .start(cluster.directory())
}

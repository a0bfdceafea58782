//! Where everything of the demo is: which cluster has which workload, and every address and path. Pure.
//!
//! Each cluster has a /24 of loopback addresses and a /16 for virtual ones, so that all ports can be the fixed
//! ones and an address tells what it belongs to. A service has the same last octet in each cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use isthmus_model::name::ServiceName;
use isthmus_proxy::config::{INBOUND_PORT, OUTBOUND_PORT};

use crate::config::GatewayConfig;

/// The federation's domain.
pub(super) const FEDERATION: &str = "acme.mesh";
/// The namespace of the bookshop.
pub(super) const NAMESPACE: &str = "shop";
/// Where the services of the bookshop serve HTTP.
pub(super) const HTTP_PORT: u16 = 9080;
/// Where `greeter` serves lines over plain TCP.
pub(super) const GREETER_PORT: u16 = 7000;
/// Where a sidecar tells whether it is ready.
const SIDECAR_STATUS_PORT: u16 = 15_020;
/// The last octet of a cluster's gateway.
const GATEWAY_HOST: u8 = 1;

/// A service of the bookshop.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Its name, and that of its service account.
    pub(super) name: &'static str,
    /// The last octet of its workloads' addresses.
    host: u8,
    /// The port that callers use, which is also the workloads' own.
    pub(super) port: u16,
    /// Which services it calls.
    pub(super) calls: &'static [&'static str],
    /// Its manifests, a template.
    pub(super) manifests: &'static str,
}

/// The bookshop.
pub(super) static SERVICES: [Service; 5] = [
    Service {
        name: "productpage",
        host: 20,
        port: HTTP_PORT,
        calls: &["reviews", "details"],
        manifests: include_str!("../../../deploy/sample/productpage.yaml"),
    },
    Service {
        name: "reviews",
        host: 21,
        port: HTTP_PORT,
        calls: &["ratings"],
        manifests: include_str!("../../../deploy/sample/reviews.yaml"),
    },
    Service {
        name: "details",
        host: 22,
        port: HTTP_PORT,
        calls: &[],
        manifests: include_str!("../../../deploy/sample/details.yaml"),
    },
    Service {
        name: "ratings",
        host: 23,
        port: HTTP_PORT,
        calls: &[],
        manifests: include_str!("../../../deploy/sample/ratings.yaml"),
    },
    Service {
        name: "greeter",
        host: 24,
        port: GREETER_PORT,
        calls: &[],
        manifests: include_str!("../../../deploy/sample/greeter.yaml"),
    },
];

/// A cluster's place, and its workloads as service and version.
struct Site {
    name: &'static str,
    region: &'static str,
    workloads: &'static [(&'static str, &'static str)],
}

/// The founder comes first.
static SITES: [Site; 3] = [
    Site {
        name: "us-east",
        region: "us-east-1",
        workloads: &[("productpage", "v1"), ("reviews", "v1"), ("details", "v1")],
    },
    Site {
        name: "us-west",
        region: "us-west-2",
        workloads: &[("productpage", "v1"), ("reviews", "v2"), ("ratings", "v1"), ("greeter", "v1")],
    },
    Site {
        name: "eu-central",
        region: "eu-central-1",
        workloads: &[("reviews", "v3"), ("ratings", "v1"), ("greeter", "v1")],
    },
];

/// How many clusters there are.
pub(super) const CLUSTERS: u8 = 3;

/// The whole demo.
#[derive(Debug)]
pub(super) struct Layout {
    /// The state directory, absolute.
    pub(super) dir: PathBuf,
    /// The founder comes first.
    pub(super) clusters: Vec<Cluster>,
}

/// A cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Its name.
    pub(super) name: &'static str,
    /// Its region.
    pub(super) region: &'static str,
    /// Its part of the state directory.
    pub(super) dir: PathBuf,
    /// Its gateway's configuration.
    pub(super) config: GatewayConfig,
    /// Its workloads.
    pub(super) workloads: Vec<Workload>,
}

/// An application process with its sidecar.
#[derive(Debug)]
pub(super) struct Workload {
    /// The cluster that it is in.
    pub(super) cluster: &'static str,
    /// What it is an instance of.
    pub(super) service: &'static Service,
    /// Its version.
    pub(super) version: &'static str,
    /// Its own address.
    pub(super) ip: Ipv4Addr,
    /// The sidecar's configuration file.
    pub(super) config_file: PathBuf,
    /// The sidecar's token file.
    pub(super) token_file: PathBuf,
}

impl Layout {
    /// The demo in `dir`, with its clusters at 127.0.`block`.0/24 and the two following.
    pub(super) fn new(dir: &Path, block: u8) -> Self {
        let blocks = (0..CLUSTERS).map(|index| block.saturating_add(index));
        let clusters = SITES.iter().zip(blocks).enumerate();
        Self {
            dir: dir.to_owned(),
            clusters: clusters.map(|(index, (site, block))| Cluster::new(site, dir, block, index == 0)).collect(),
        }
    }

    /// The cluster that founds the federation.
    pub(super) fn founder(&self) -> &Cluster {
        &self.clusters[0]
    }

    /// The cluster of that name.
    pub(super) fn cluster(&self, name: &str) -> &Cluster {
        self.clusters.iter().find(|cluster| cluster.name == name).expect("only clusters of the layout are asked for")
    }

    /// Every workload.
    pub(super) fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.clusters.iter().flat_map(|cluster| &cluster.workloads)
    }

    /// The clusters that have `service`.
    pub(super) fn homes(&self, service: &str) -> impl Iterator<Item = &Cluster> {
        self.clusters.iter().filter(move |cluster| cluster.workloads.iter().any(|w| w.service.name == service))
    }

    /// The file that tells programs about the demo.
    pub(super) fn document(&self) -> PathBuf {
        self.dir.join("demo.json")
    }
}

impl Cluster {
    fn new(site: &'static Site, base: &Path, block: u8, found: bool) -> Self {
        let dir = base.join(site.name);
        let Site { name, region, .. } = site;
        let address = Ipv4Addr::new(127, 0, block, GATEWAY_HOST);
        let text = format!(
            "federation: {FEDERATION}\ncluster: {name}\nlocality: {region}/a\nfound: {found}\ndata_dir: data\n\
             manifests: manifests\naddress: {address}\nvip_range: 127.{block}.0.0/16\ndrain: 2s\n"
        );
        let config = GatewayConfig::parse(&text, &dir).expect("the demo's own configuration is valid");
        let workloads = site.workloads.iter().map(|(service, version)| {
            let service = SERVICES.iter().find(|known| known.name == *service).expect("sites name known services");
            Workload {
                cluster: name,
                service,
                version,
                ip: Ipv4Addr::new(127, 0, block, service.host),
                config_file: dir.join(format!("sidecars/{}.yaml", service.name)),
                token_file: dir.join(format!("sidecars/{}.token", service.name)),
            }
        });
        Self { name, region, workloads: workloads.collect(), config, dir }
    }

    /// Its gateway's configuration file.
    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("gateway.yaml")
    }

    /// Whether its gateway is a member already.
    pub(super) fn is_member(&self) -> bool {
        self.config.data_dir.join("node.json").exists()
    }

    /// Its workload of `service`.
    pub(super) fn workload(&self, service: &str) -> &Workload {
        let found = self.workloads.iter().find(|workload| workload.service.name == service);
        found.expect("only workloads of the layout are asked for")
    }
}

impl Workload {
    fn at(&self, port: u16) -> SocketAddr {
        (self.ip, port).into()
    }

    /// Where the application serves what callers want.
    pub(super) fn app(&self) -> SocketAddr {
        self.at(self.service.port)
    }

    /// Where the application serves HTTP, which each does.
    pub(super) fn http(&self) -> SocketAddr {
        self.at(HTTP_PORT)
    }

    /// The sidecar's forward proxy.
    pub(super) fn outbound(&self) -> SocketAddr {
        self.at(OUTBOUND_PORT)
    }

    /// Where the sidecar takes sessions.
    pub(super) fn inbound(&self) -> SocketAddr {
        self.at(INBOUND_PORT)
    }

    /// Where the sidecar tells whether it is ready.
    pub(super) fn status(&self) -> SocketAddr {
        self.at(SIDECAR_STATUS_PORT)
    }
}

/// The name of a service of the bookshop.
pub(super) fn service_name(service: &str) -> ServiceName {
    format!("{NAMESPACE}/{service}").parse().expect("the bookshop's services have valid names")
}

/// `host:port` of a service of the bookshop, anywhere in the federation.
pub(super) fn authority(service: &Service) -> String {
    format!("{}:{}", service_name(service.name).host(), service.port)
}

/// A service of the bookshop by its name.
pub(super) fn service(name: &str) -> &'static Service {
    SERVICES.iter().find(|service| service.name == name).expect("only services of the bookshop are asked for")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn addresses(layout: &Layout) -> Vec<SocketAddr> {
        let gateways = layout.clusters.iter().flat_map(|cluster| cluster.config.listen.all().map(|(_, at)| at));
        let workloads = layout.workloads().flat_map(|w| [w.app(), w.outbound(), w.inbound(), w.status()]);
        gateways.chain(workloads).collect()
    }

    #[test]
    fn addresses_are_where_the_documentation_says() {
        let layout = Layout::new(Path::new("/demo"), 11);
        let east = layout.founder();
        assert_eq!((east.name, east.config.found), ("us-east", true));
        assert_eq!(east.config.listen.egress, ([127, 0, 11, 1], 15001).into());
        assert_eq!(east.config.listen.admin, ([127, 0, 11, 1], 15000).into());
        assert_eq!(east.workload("reviews").app(), ([127, 0, 11, 21], 9080).into());
        assert_eq!(east.config.admin_socket(), Path::new("/demo/us-east/data/admin.sock"));
        let eu = layout.cluster("eu-central");
        assert_eq!((eu.config.listen.dns, eu.config.found), (([127, 0, 13, 1], 15053).into(), false));
        assert_eq!(eu.config.vip_range.map(|range| range.to_string()).as_deref(), Some("127.13.0.0/16"));
        assert_eq!(authority(service("greeter")), "greeter.shop.svc.clusterset.local:7000");
    }

    #[test]
    fn nothing_collides_within_a_demo_or_with_the_next_block() {
        let first = addresses(&Layout::new(Path::new("/demo"), 11));
        let all: BTreeSet<SocketAddr> =
            first.iter().copied().chain(addresses(&Layout::new(Path::new("/demo"), 11 + CLUSTERS))).collect();
        assert_eq!(all.len(), first.len() * 2);
    }

    #[test]
    fn details_runs_in_one_cluster_and_what_fails_over_in_several() {
        let layout = Layout::new(Path::new("/demo"), 250);
        for (service, homes) in [("details", 1), ("reviews", 3), ("ratings", 2), ("greeter", 2), ("productpage", 2)] {
            assert_eq!(layout.homes(service).count(), homes, "{service}");
        }
    }
}

//! Snapshots built from a registry of three clusters, seen from `us-east`.

mod incremental;

use ipnet::IpNet;

use super::*;
use crate::catalog::{AppProtocol, Export, LocalCatalog, LocalService, PORTS_PER_SERVICE_MAX};
use crate::command::{Command, Entry, Introduction, Outcome};
use crate::fixture::{self, ROOT, introduction};
use crate::health::{FailedEndpoints, PeerHealth, PeerTable};
use crate::registry::Registry;
use crate::registry::token::{Digest, TokenId};
use crate::time::UnixMillis;

const NEVER: UnixMillis = UnixMillis(u64::MAX);

/// Everything that a snapshot is built from, owned.
struct World {
    site: Arc<Site>,
    registry: Registry,
    catalog: LocalCatalog,
    peers: PeerTable,
    failed: FailedEndpoints,
    vip_range: Option<IpNet>,
    agreement: Agreement,
    clock: u64,
}

fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a cluster name")
}

fn service(name: &str) -> ServiceName {
    name.parse().expect("a service name")
}

fn port(number: u16, protocol: AppProtocol, name: &str) -> ServicePort {
    ServicePort { name: Some(name.parse().expect("a label")), port: number, protocol }
}

fn export(ports: &[ServicePort]) -> Export {
    Export {
        ports: ports.to_vec(),
        identities: BTreeSet::from(["shop/reviews".parse().expect("a workload")]),
        terminated: false,
    }
}

fn http() -> Export {
    export(&[port(9080, AppProtocol::Http, "http")])
}

fn endpoint(host: u8) -> Endpoint {
    Endpoint {
        address: [127, 0, 11, host].into(),
        ports: BTreeMap::from([(9080, 8080)]),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("a workload"),
        ready: true,
    }
}

impl World {
    fn new() -> Self {
        let founder = introduction("us-east", "gw-1", "us-east-1/a", 1);
        let site = Site {
            federation: "acme.mesh".parse().expect("a domain"),
            cluster: founder.cluster.clone(),
            locality: founder.locality.clone(),
        };
        let mut world = Self {
            site: Arc::new(site),
            registry: Registry::default(),
            catalog: LocalCatalog::default(),
            peers: PeerTable::new(),
            failed: FailedEndpoints::new(),
            vip_range: Some("127.11.0.0/16".parse().expect("a range")),
            agreement: Agreement::default(),
            clock: 0,
        };
        let federation = world.site.federation.clone();
        world.apply("us-east", fixture::found(federation, founder));
        world
    }

    fn apply(&mut self, origin: &str, command: Command) -> Outcome {
        self.clock += 1;
        let entry = Entry { origin: cluster(origin), at: UnixMillis(self.clock), command };
        self.registry.apply(&entry).expect("a legal command")
    }

    fn join(&mut self, newcomer: Introduction) -> NodeId {
        let key = newcomer.requests.gateway_key.0[0];
        let id = TokenId::from_random([key; 8]);
        let secret_hash = Digest([0; 32]);
        let (grant, gateway) = (fixture::join(newcomer.cluster.as_str()), newcomer.gateway.clone());
        self.apply(
            "us-east",
            Command::MintToken {
                id: id.clone(),
                secret_hash,
                grant,
                expires_at: NEVER,
                gateway,
                root: Digest([ROOT; 32]),
            },
        );
        match self.apply("us-east", Command::RedeemToken { id, secret_hash, newcomer, from: None }) {
            Outcome::Admitted { node } => {
                self.apply("us-east", fixture::issue(node, key, ROOT));
                node
            }
            other => unreachable!("a redemption admits: {other:?}"),
        }
    }

    fn export(&mut self, origin: &str, name: &str, export: Export) {
        self.apply(origin, Command::SetExport { service: service(name), export });
    }

    fn runs(&mut self, name: &str, exported: bool, endpoints: &[Endpoint]) {
        let ports = vec![port(9080, AppProtocol::Http, "http")];
        let local = LocalService { ports, endpoints: endpoints.into(), exported };
        self.catalog.services.insert(service(name), local);
    }

    fn hears(&mut self, node: NodeId, reach: Reach, name: &str, ready: u32, total: u32) {
        let peer = self.peers.entry(node).or_default();
        *peer = PeerHealth { reach, heard_at: Some(UnixMillis(1)), services: peer.services.clone(), stale: false };
        peer.services.insert(service(name), Capacity { ready, total });
    }

    fn sources(&self) -> Sources {
        Sources {
            site: self.site.clone(),
            registry: Arc::new(self.registry.clone()),
            catalog: Arc::new(self.catalog.clone()),
            peers: Arc::new(self.peers.clone()),
            failed: Arc::new(self.failed.clone()),
            vip_range: self.vip_range,
            ingress: Some("public".into()),
            agreement: self.agreement.clone(),
        }
    }

    fn build(&self) -> Snapshot {
        self.sources().build(7)
    }
}

fn service_of(snapshot: &Snapshot, name: &str) -> Arc<Service> {
    snapshot.services.get(&service(name)).expect("in the snapshot").clone()
}

#[test]
fn remotes_come_nearest_first_and_by_name_where_equally_near() {
    let mut world = World::new();
    for (name, locality, key) in [
        ("a-far", "eu-1/a", 2),
        ("b-region", "us-east-1/b", 3),
        ("d-zone", "us-east-1/a", 4),
        ("c-zone", "us-east-1/a", 5),
    ] {
        world.join(introduction(name, "gw-1", locality, key));
        world.export(name, "shop/reviews", http());
    }
    let reviews = service_of(&world.build(), "shop/reviews");
    let order: Vec<&str> = reviews.remotes.iter().map(|remote| remote.cluster.name.as_str()).collect();
    assert_eq!(order, ["c-zone", "d-zone", "b-region", "a-far"]);
    assert_eq!(reviews.remotes[0].cluster.proximity, Proximity::SameZone);
    assert_eq!(reviews.remotes[3].cluster.proximity, Proximity::OtherRegion);
}

#[test]
fn the_oldest_offer_decides_what_a_port_is_and_all_offers_ports_are_there() {
    let mut world = World::new();
    world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    // The younger offer comes from the cluster whose name sorts first.
    world.export("us-west", "shop/reviews", export(&[port(80, AppProtocol::Http, "web")]));
    let younger = [port(80, AppProtocol::Tcp, "raw"), port(70, AppProtocol::Tcp, "old")];
    world.export("us-east", "shop/reviews", export(&younger));
    let reviews = service_of(&world.build(), "shop/reviews");
    assert_eq!(reviews.ports, [port(70, AppProtocol::Tcp, "old"), port(80, AppProtocol::Http, "web")]);
    assert_eq!(reviews.remotes[0].ports, [80], "a backend has the ports that it offers itself");
}

/// A port that takes bytes is not asked who sends them: another cluster must not make one of a port for requests.
#[test]
fn an_older_offer_does_not_turn_the_own_clusters_http_into_bytes() {
    let mut world = World::new();
    world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    world.export("us-west", "shop/reviews", export(&[port(9080, AppProtocol::Tcp, "raw")]));
    world.export("us-east", "shop/reviews", http());
    world.runs("shop/reviews", true, &[endpoint(10)]);
    let reviews = service_of(&world.build(), "shop/reviews");
    assert_eq!(reviews.ports, [port(9080, AppProtocol::Http, "raw")]);
}

#[test]
fn merged_ports_are_bounded() {
    let mut world = World::new();
    world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    let many = |base: u16| -> Vec<ServicePort> {
        (0..PORTS_PER_SERVICE_MAX as u16).map(|n| port(base + n, AppProtocol::Tcp, "p")).collect()
    };
    world.export("us-east", "shop/reviews", export(&many(1_000)));
    world.export("us-west", "shop/reviews", export(&many(2_000)));
    assert_eq!(service_of(&world.build(), "shop/reviews").ports.len(), PORTS_PER_SERVICE_MAX);
}

#[test]
fn addresses_come_from_the_own_range_and_lead_back_to_the_service() {
    let mut world = World::new();
    world.export("us-east", "shop/reviews", http());
    world.runs("shop/internal", false, &[endpoint(21)]);
    let snapshot = world.build();
    let vip = service_of(&snapshot, "shop/reviews").vip.expect("an exported service has one");
    assert_eq!(vip, IpAddr::from([127, 11, 0, 1]));
    assert_eq!(snapshot.vips.get(&vip), Some(&service("shop/reviews")));
    assert_eq!(service_of(&snapshot, "shop/internal").vip, None);
    assert_eq!(snapshot.vips.len(), 1);

    world.vip_range = None;
    assert!(world.build().vips.is_empty(), "without a range there are no addresses");
}

#[test]
fn a_withdrawn_service_is_gone_with_its_address() {
    let mut world = World::new();
    world.export("us-east", "shop/reviews", http());
    world.apply("us-east", Command::WithdrawExport { service: service("shop/reviews") });
    let snapshot = world.build();
    assert!(snapshot.services.is_empty() && snapshot.vips.is_empty());

    // It may go on running here, known to nobody else.
    world.runs("shop/reviews", false, &[endpoint(21)]);
    let reviews = service_of(&world.build(), "shop/reviews");
    assert!(!reviews.federated && reviews.vip.is_none());
}

#[test]
fn federated_says_that_the_name_exists_and_exported_here_that_others_may_call_here() {
    let mut world = World::new();
    world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    world.export("us-west", "shop/theirs", http());
    world.export("us-east", "shop/ours", http());
    world.runs("shop/ours", true, &[endpoint(21)]);
    world.runs("shop/internal", false, &[endpoint(22)]);
    world.runs("shop/unagreed", true, &[endpoint(23)]);
    let snapshot = world.build();
    let flags = |name| {
        let service = service_of(&snapshot, name);
        (service.federated, service.exported_here)
    };
    assert_eq!(flags("shop/theirs"), (true, false));
    assert_eq!(flags("shop/ours"), (true, true));
    assert_eq!(flags("shop/internal"), (false, false));
    assert_eq!(flags("shop/unagreed"), (false, true), "the name exists once the registry agreed");
    assert_eq!(service_of(&snapshot, "shop/internal").ports.len(), 1, "the own ports, where nobody offers any");
    assert!(service_of(&snapshot, "shop/ours").remotes.is_empty(), "the own cluster is no remote");
}

#[test]
fn capacity_is_what_the_peers_tell_and_one_before_they_do() {
    let mut world = World::new();
    let first = world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    let second = world.join(introduction("us-west", "gw-2", "us-west-2", 3));
    world.export("us-west", "shop/reviews", http());
    let capacity = |world: &World| service_of(&world.build(), "shop/reviews").remotes[0].capacity;
    assert_eq!(capacity(&world), Capacity { ready: 1, total: 1 });
    world.hears(first, Reach::Up, "shop/reviews", 1, 4);
    assert_eq!(capacity(&world), Capacity { ready: 1, total: 4 });
    world.hears(second, Reach::Up, "shop/reviews", 3, 4);
    assert_eq!(capacity(&world), Capacity { ready: 3, total: 4 }, "of two views of one cluster, the better");
    world.hears(second, Reach::Down, "shop/reviews", 3, 4);
    assert_eq!(capacity(&world), Capacity { ready: 3, total: 4 }, "nothing known is forgotten");
}

#[test]
fn a_heard_gateway_that_does_not_tell_of_a_service_has_none_of_it() {
    let mut world = World::new();
    let west = world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    world.export("us-west", "shop/reviews", http());
    world.hears(west, Reach::Up, "shop/other", 3, 3);
    assert_eq!(service_of(&world.build(), "shop/reviews").remotes[0].capacity, Capacity::default());
}

#[test]
fn gateways_carry_their_reach_and_members_are_known() {
    let mut world = World::new();
    let first = world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    let second = world.join(introduction("us-west", "gw-2", "us-west-2", 3));
    world.hears(first, Reach::Down, "shop/reviews", 1, 1);
    let snapshot = world.build();
    let west = &snapshot.clusters[&cluster("us-west")];
    assert_eq!(west.gateways[&first].reach, Reach::Down);
    assert_eq!(west.gateways[&second].reach, Reach::Unknown);
    let is_deserted = |of: &str, gateway| snapshot.is_deserted(&cluster(of), west.gateways[gateway].east_west);
    assert!(is_deserted("us-west", &first) && !is_deserted("us-west", &second), "down, and not heard of yet");
    assert!(!is_deserted("nowhere", &first) && snapshot.is_deserted(&cluster("us-west"), ([192, 0, 2, 1], 1).into()));
    assert!(snapshot.is_member(&cluster("us-east")) && snapshot.is_member(&cluster("us-west")));
    assert!(!snapshot.is_member(&cluster("nowhere")));
    assert_eq!(&*snapshot.roots, [vec![0xde, 0xad, ROOT]]);
    assert_eq!((snapshot.generation, snapshot.coverage), (7, Coverage::Complete));
}

#[test]
fn an_endpoint_that_fails_its_probe_is_unready_and_stays_listed() {
    let mut world = World::new();
    world.runs("shop/reviews", true, &[endpoint(21), endpoint(22), endpoint(23)]);
    let unchanged = service_of(&world.build(), "shop/reviews");
    assert!(Arc::ptr_eq(&unchanged.endpoints, &world.catalog.services[&service("shop/reviews")].endpoints));

    world.failed.insert(([127, 0, 11, 21], 15006).into());
    world.failed.insert(([127, 0, 11, 22], 8080).into());
    world.failed.insert(([127, 0, 11, 23], 9080).into());
    let reviews = service_of(&world.build(), "shop/reviews");
    let ready: Vec<bool> = reviews.endpoints.iter().map(|endpoint| endpoint.ready).collect();
    assert_eq!(ready, [false, false, true], "9080 is the service's port, nobody listens there");
}

#[test]
fn only_named_identities_of_that_cluster_may_answer() {
    let mut world = World::new();
    world.join(introduction("us-west", "gw-1", "us-west-2", 2));
    world.export("us-west", "shop/reviews", http());
    let may = |world: &World, id: &str| {
        service_of(&world.build(), "shop/reviews").remotes[0].may_answer(&id.parse().expect("an identity"))
    };
    assert!(may(&world, "spiffe://us-west.acme.mesh/ns/shop/sa/reviews"));
    assert!(!may(&world, "spiffe://us-west.acme.mesh/ns/shop/sa/ratings"));
    assert!(!may(&world, "spiffe://us-east.acme.mesh/ns/shop/sa/reviews"));
    assert!(!may(&world, "spiffe://us-west.acme.mesh/gateway/gw-1"));
    world.export("us-west", "shop/reviews", Export { terminated: true, ..http() });
    assert!(may(&world, "spiffe://us-west.acme.mesh/gateway/gw-1"));
    assert!(!may(&world, "spiffe://us-east.acme.mesh/gateway/gw-1"));
}

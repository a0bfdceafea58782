//! Each way in, and each denial.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::catalog::Endpoint;
use crate::locality::Proximity;
use crate::snapshot::{Coverage, RemoteCluster, Site};
use crate::traffic::TrafficPolicy;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 11, 21));
const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 11, 99));
const OWN: &str = "spiffe://us-east.acme.mesh/ns/shop/sa/productpage";
const MEMBER: &str = "spiffe://us-west.acme.mesh/ns/shop/sa/productpage";

fn id(text: &str) -> SpiffeId {
    text.parse().expect("an identity")
}

fn name(text: &str) -> ServiceName {
    text.parse().expect("a service name")
}

/// `us-east`, which runs `shop/reviews` (exported) and `shop/internal` (not); `us-west` is a member.
fn snapshot() -> Snapshot {
    let site = Site {
        federation: "acme.mesh".parse().expect("a domain"),
        cluster: "us-east".parse().expect("a cluster name"),
        locality: "us-east-1".parse().expect("a locality"),
    };
    let west = RemoteCluster {
        name: "us-west".parse().expect("a cluster name"),
        locality: "us-west-2".parse().expect("a locality"),
        proximity: Proximity::OtherRegion,
        gateways: BTreeMap::new(),
    };
    let endpoint = Endpoint {
        address: HERE,
        ports: BTreeMap::from([(9080, 8080)]),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("a workload"),
        ready: false,
    };
    let service = |text: &str, exported: bool| Service {
        name: name(text),
        vip: None,
        ports: Vec::new(),
        federated: exported,
        exported_here: exported,
        endpoints: Arc::from([endpoint.clone()]),
        remotes: Vec::new(),
        traffic: TrafficPolicy::usual(),
        routes: crate::http_route::ServiceRoutes::default(),
    };
    let mut snapshot = Snapshot::empty(site, Coverage::Complete);
    snapshot.clusters.insert(west.name.clone(), Arc::new(west));
    for (text, exported) in [("shop/reviews", true), ("shop/internal", false)] {
        snapshot.services.insert(name(text), Arc::new(service(text, exported)));
    }
    snapshot
}

fn ask(peer: &str, service: &str, port: u16, own_address: IpAddr) -> Result<SocketAddr, Denial> {
    admit(&snapshot(), &id(peer), &name(service), port, own_address)
}

#[test]
fn members_reach_what_is_exported_and_land_on_the_applications_port() {
    let app = Ok(SocketAddr::new(HERE, 8080));
    assert_eq!(ask(OWN, "shop/reviews", 9080, HERE), app);
    assert_eq!(ask(MEMBER, "shop/reviews", 9080, HERE), app);
    assert_eq!(ask("spiffe://us-west.acme.mesh/gateway/gw-1", "shop/reviews", 9080, HERE), app);
}

#[test]
fn what_is_not_exported_is_for_the_own_cluster_only() {
    assert_eq!(ask(OWN, "shop/internal", 9080, HERE), Ok(SocketAddr::new(HERE, 8080)));
    let denied = ask(MEMBER, "shop/internal", 9080, HERE).expect_err("not exported");
    assert_eq!(denied, Denial::NotExported(name("shop/internal")));
    // A stranger to the name hears the very same about one that does not exist.
    assert_eq!(ask(MEMBER, "shop/absent", 9080, HERE), Err(Denial::NotExported(name("shop/absent"))));
    assert_eq!(ask(OWN, "shop/absent", 9080, HERE), Err(Denial::NotExported(name("shop/absent"))));
}

#[test]
fn who_is_no_member_reaches_nothing() {
    let denied = |cluster: &str| Err(Denial::NotMember(cluster.parse().expect("a cluster name")));
    let left = "spiffe://eu-central.acme.mesh/ns/shop/sa/productpage";
    assert_eq!(ask(left, "shop/reviews", 9080, HERE), denied("eu-central"));
    let namesake = "spiffe://us-west.evil.mesh/ns/shop/sa/productpage";
    assert_eq!(ask(namesake, "shop/reviews", 9080, HERE), denied("us-west"));
    let own_namesake = "spiffe://us-east.evil.mesh/ns/shop/sa/productpage";
    assert_eq!(ask(own_namesake, "shop/internal", 9080, HERE), denied("us-east"));
}

#[test]
fn only_the_services_own_ports_and_places_are_reached() {
    assert_eq!(ask(MEMBER, "shop/reviews", 22, HERE), Err(Denial::NoSuchPort(name("shop/reviews"), 22)));
    // The port of the application is not a port of the service.
    assert_eq!(ask(MEMBER, "shop/reviews", 8080, HERE), Err(Denial::NoSuchPort(name("shop/reviews"), 8080)));
    assert_eq!(ask(MEMBER, "shop/reviews", 9080, ELSEWHERE), Err(Denial::NotHere(name("shop/reviews"))));
}

#[test]
fn authorization_is_decided_before_place_and_port() {
    let denied = ask(MEMBER, "shop/internal", 22, ELSEWHERE);
    assert_eq!(denied, Err(Denial::NotExported(name("shop/internal"))));
    let snapshot = snapshot();
    assert!(authorize(&snapshot, &id(MEMBER), &name("shop/reviews")).is_ok());
    assert!(authorize(&snapshot, &id(MEMBER), &name("shop/internal")).is_err());
}

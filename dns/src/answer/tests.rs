use std::collections::HashSet;
use std::sync::Arc;

use isthmus_model::catalog::{AppProtocol, ServicePort};
use isthmus_model::snapshot::Site;

use super::*;

fn service(name: &str, vip: Option<&str>, ports: &[(Option<&str>, u16)]) -> Service {
    let port = |(name, port): &(Option<&str>, u16)| ServicePort {
        name: name.map(|name| name.parse().expect("a label")),
        port: *port,
        protocol: AppProtocol::Tcp,
    };
    Service {
        name: name.parse().expect("a service name"),
        vip: vip.map(|vip| vip.parse().expect("an address")),
        ports: ports.iter().map(port).collect(),
        federated: true,
        exported_here: false,
        endpoints: Arc::from([]),
        remotes: Vec::new(),
        traffic: isthmus_model::traffic::TrafficPolicy::usual(),
        routes: isthmus_model::http_route::ServiceRoutes::default(),
    }
}

/// A federation with a service of each kind.
fn snapshot(coverage: Coverage) -> Snapshot {
    let services = [
        service("shop/reviews", Some("10.96.0.1"), &[(Some("http"), 9080), (Some("grpc"), 9090), (None, 9999)]),
        service("shop/six", Some("fd00::1"), &[(None, 80)]),
        service("full/exhausted", None, &[(Some("http"), 80)]),
        Service { federated: false, ..service("home/private", Some("10.96.0.9"), &[(Some("http"), 80)]) },
    ];
    let site = Site {
        federation: "acme.mesh".parse().expect("a domain"),
        cluster: "us-east".parse().expect("a label"),
        locality: "us-east-1/a".parse().expect("a locality"),
    };
    Snapshot::empty(site, coverage).with(services)
}

fn ask_in(snapshot: &Snapshot, name: &str, kind: RecordType) -> Answer {
    let name = LowerName::from(hickory_proto::rr::Name::from_ascii(name).expect("a domain name"));
    let has_namespace = |namespace: &str| {
        snapshot.services.values().any(|service| service.federated && service.name.namespace.as_str() == namespace)
    };
    answer(snapshot, has_namespace, &name, kind)
}

fn ask(name: &str, kind: RecordType) -> Answer {
    ask_in(&snapshot(Coverage::Complete), name, kind)
}

fn ports(ports: &[u16]) -> Answer {
    Answer::Records(Content::Ports {
        service: "shop/reviews".parse().expect("a service name"),
        vip: [10, 96, 0, 1].into(),
        ports: ports.to_vec(),
    })
}

const REVIEWS: &str = "reviews.shop.svc.clusterset.local.";

#[test]
fn a_service_has_its_address_in_one_family() {
    let four = Answer::Records(Content::Address([10, 96, 0, 1].into()));
    assert_eq!(ask(REVIEWS, RecordType::A), four);
    assert_eq!(ask("ReViews.SHOP.svc.ClusterSet.LOCAL.", RecordType::A), four);
    assert_eq!(ask(REVIEWS, RecordType::AAAA), Answer::NoData);
    let six = Answer::Records(Content::Address("fd00::1".parse().expect("an address")));
    assert_eq!(ask("six.shop.svc.clusterset.local.", RecordType::AAAA), six);
    assert_eq!(ask("six.shop.svc.clusterset.local.", RecordType::A), Answer::NoData);
    assert_eq!(ask(REVIEWS, RecordType::MX), Answer::NoData);
}

#[test]
fn named_ports_have_srv_records() {
    assert_eq!(ask("_http._tcp.reviews.shop.svc.clusterset.local.", RecordType::SRV), ports(&[9080]));
    assert_eq!(ask("_GRPC._TCP.reviews.shop.svc.clusterset.local.", RecordType::SRV), ports(&[9090]));
    assert_eq!(ask(REVIEWS, RecordType::SRV), ports(&[9080, 9090]), "all named ports at the service's own name");
    assert_eq!(ask("_http._tcp.reviews.shop.svc.clusterset.local.", RecordType::A), Answer::NoData);
    assert_eq!(ask("six.shop.svc.clusterset.local.", RecordType::SRV), Answer::NoData, "unnamed ports have none");
    for absent in ["_https._tcp", "http._tcp", "_http._udp", "_._tcp", "_udp", "_9999._tcp", "_x._http._tcp"] {
        assert_eq!(ask(&format!("{absent}.{REVIEWS}"), RecordType::SRV), Answer::NxDomain, "{absent}");
    }
}

#[test]
fn names_above_other_names_exist() {
    for name in ["clusterset", "svc.clusterset", "shop.svc.clusterset", "_tcp.reviews.shop.svc.clusterset"] {
        assert_eq!(ask(&format!("{name}.local."), RecordType::A), Answer::NoData, "{name}");
    }
    for name in ["_tcp.six.shop.svc", "home.svc", "nowhere.svc", "other", "a.dns-version"] {
        assert_eq!(ask(&format!("{name}.clusterset.local."), RecordType::A), Answer::NxDomain, "{name}");
    }
}

#[test]
fn what_is_not_federated_does_not_exist() {
    for name in ["private.home", "unknown.shop", "us-east.reviews.shop", "pod.us-east.reviews.shop", "a\\.b.shop"] {
        for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT] {
            let name = format!("{name}.svc.clusterset.local.");
            assert_eq!(ask(&name, kind), Answer::NxDomain, "{name}");
        }
    }
}

#[test]
fn the_zone_describes_itself() {
    assert_eq!(ask("clusterset.local.", RecordType::SOA), Answer::Records(Content::Soa));
    assert_eq!(ask("clusterset.local.", RecordType::NS), Answer::Records(Content::Ns));
    assert_eq!(ask("dns-version.clusterset.local.", RecordType::TXT), Answer::Records(Content::SchemaVersion));
    assert_eq!(ask("dns-version.clusterset.local.", RecordType::A), Answer::NoData);
    assert_eq!(ask(REVIEWS, RecordType::SOA), Answer::NoData);
}

#[test]
fn an_exported_service_without_an_address_is_our_fault() {
    let name = "exhausted.full.svc.clusterset.local.";
    for kind in [RecordType::A, RecordType::AAAA, RecordType::SRV] {
        assert_eq!(ask(name, kind), Answer::Unavailable, "{kind}");
    }
    assert_eq!(ask(name, RecordType::TXT), Answer::NoData);
}

#[test]
fn virtual_addresses_have_reverse_names() {
    let reviews = Answer::Records(Content::Host("shop/reviews".parse().expect("a service name")));
    assert_eq!(ask("1.0.96.10.in-addr.arpa.", RecordType::PTR), reviews);
    let six = format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(ask(&six, RecordType::PTR), Answer::Records(Content::Host("shop/six".parse().expect("valid"))));
    for name in ["9.0.96.10.in-addr.arpa.", "2.0.96.10.in-addr.arpa.", "96.10.in-addr.arpa.", "x.arpa.", "arpa."] {
        assert_eq!(ask(name, RecordType::PTR), Answer::NotOurs, "{name}");
    }
    assert_eq!(ask("1.0.96.10.in-addr.arpa.", RecordType::TXT), Answer::NotOurs);
}

#[test]
fn other_names_are_not_ours_and_query_only_types_are_nobodys() {
    for name in [".", "local.", "example.com.", "xclusterset.local.", "clusterset.local.example.", "clusterset."] {
        assert_eq!(ask(name, RecordType::A), Answer::NotOurs, "{name}");
        for kind in [RecordType::ANY, RecordType::AXFR, RecordType::IXFR, RecordType::TSIG, RecordType::OPT] {
            assert_eq!(ask(name, kind), Answer::Refused, "{name} {kind}");
            assert_eq!(ask(REVIEWS, kind), Answer::Refused, "{kind}");
        }
    }
}

#[test]
fn a_partial_view_does_not_deny_what_it_never_asked_for() {
    let absent = HashSet::from(["shop/gone".parse().expect("a service name")]);
    let partial = snapshot(Coverage::Partial { absent, absent_addresses: HashSet::new() });
    let name = |service: &str| format!("{service}.svc.clusterset.local.");
    assert_eq!(ask_in(&partial, &name("gone.shop"), RecordType::A), Answer::NxDomain);
    assert_eq!(ask_in(&partial, &name("other.shop"), RecordType::A), Answer::Unavailable);
    assert_eq!(ask_in(&partial, &name("elsewhere"), RecordType::A), Answer::Unavailable);
    assert_eq!(ask_in(&partial, &name("shop"), RecordType::A), Answer::NoData);
}

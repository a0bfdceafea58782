//! The protocol as one property over random federations, then its bounds and its economy by example.

mod policies;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use isthmus_model::authorization::FORM;
use isthmus_model::catalog::{AppProtocol, Endpoint, ServicePort};
use isthmus_model::health::{Agreement, Capacity, Reach};
use isthmus_model::http_route::ServiceRoutes;
use isthmus_model::name::ClusterName;
use isthmus_model::registry::Epoch;
use isthmus_model::registry::token::Digest;
use isthmus_model::shared::OrdMap;
use isthmus_model::snapshot::{Coverage, Gateway, RemoteBackend, RemoteCluster, Service, Site, Snapshot};
use isthmus_model::time::UnixMillis;
use isthmus_model::traffic::TrafficPolicy;
use proptest::collection::{btree_map, hash_set, vec};
use proptest::prelude::*;
use prost::Message;

use super::*;
use policies::authorizations;

type Clusters = isthmus_model::shared::OrdMap<ClusterName, Arc<RemoteCluster>>;

const OWN_ADDRESS: [u8; 4] = [127, 1, 0, 1];

fn site() -> Site {
    let valid = "valid";
    Site {
        federation: "acme.mesh".parse().expect(valid),
        cluster: "own".parse().expect(valid),
        locality: "r0/a".parse().expect(valid),
    }
}

fn start() -> Snapshot {
    let coverage = Coverage::Partial { absent: HashSet::new(), absent_addresses: HashSet::new() };
    Snapshot::empty(site(), coverage)
}

fn service_name(number: u8) -> ServiceName {
    format!("shop/s{number}").parse().expect("valid")
}

/// Virtual addresses move between services as `shift` changes, so that one may be taken over by another.
fn vip(number: u8, shift: u8) -> IpAddr {
    [10, 0, 0, (number + shift) % 8].into()
}

fn clusters() -> impl Strategy<Value = Clusters> {
    let reach = prop_oneof![Just(Reach::Unknown), Just(Reach::Up), Just(Reach::Down)];
    let gateway = (1..3_u16, reach).prop_map(|(port, reach)| Gateway {
        name: "gw".parse().expect("valid"),
        east_west: SocketAddr::from(([127, 0, 0, 1], port)),
        reach,
    });
    let locality = prop::sample::select(vec!["r0/a", "r0/b", "r0", "r1/a"]);
    btree_map(0..4_u8, (locality, btree_map(1..4_u64, gateway, 0..3)), 0..4).prop_map(|clusters| {
        let cluster = |(number, (locality, gateways)): (u8, (&str, BTreeMap<u64, Gateway>))| {
            let name: ClusterName = format!("c{number}").parse().expect("valid");
            let locality = locality.parse().expect("valid");
            let proximity = site().locality.proximity(&locality);
            (name.clone(), Arc::new(RemoteCluster { name, locality, proximity, gateways }))
        };
        clusters.into_iter().map(cluster).collect()
    })
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let ports = btree_map(80..82_u16, 8080..8083_u16, 0..3);
    (1..5_u8, ports, prop::option::of(Just(15006)), any::<bool>()).prop_map(|(host, ports, sidecar_port, ready)| {
        let address = [127, 1, 0, host].into();
        Endpoint { address, ports, sidecar_port, workload: "shop/default".parse().expect("valid"), ready }
    })
}

/// As usual, or not in one part.
fn traffic() -> impl Strategy<Value = Arc<TrafficPolicy>> {
    (0..6_u8, 1..3_usize).prop_map(|(part, value)| {
        let mut policy = TrafficPolicy::default();
        match part {
            0 => policy.ejection.unwell = u32::try_from(value).expect("small"),
            1 => policy.limits.requests = value,
            2 => policy.retries.saved_max = 0,
            3 => policy.arrival.slow_start = Duration::from_millis(value as u64),
            _ => {}
        }
        Arc::new(policy)
    })
}

/// A service without name, address and links.
fn offer() -> impl Strategy<Value = (Service, BTreeMap<u8, (bool, u32)>)> {
    let protocol = prop_oneof![
        Just(AppProtocol::Tcp),
        Just(AppProtocol::Http),
        Just(AppProtocol::Http2),
        Just(AppProtocol::Detect)
    ];
    let port = (prop::option::of(Just("web")), 80..82_u16, protocol).prop_map(|(name, port, protocol)| ServicePort {
        name: name.map(|name| name.parse().expect("valid")),
        port,
        protocol,
    });
    let remotes = btree_map(0..4_u8, (any::<bool>(), 0..3_u32), 0..4);
    let treated = (traffic(), routes::routes());
    (vec(port, 0..3), any::<(bool, bool)>(), vec(endpoint(), 0..3), remotes, treated).prop_map(
        |(ports, (federated, exported_here), endpoints, remotes, (traffic, routes))| {
            let (name, vip) = (service_name(0), federated.then(|| [0, 0, 0, 0].into()));
            let (endpoints, none) = (endpoints.into(), Vec::new());
            let service =
                Service { name, vip, ports, federated, exported_here, endpoints, remotes: none, traffic, routes };
            (service, remotes)
        },
    )
}

fn link(
    mut service: Service,
    number: u8,
    shift: u8,
    remotes: &BTreeMap<u8, (bool, u32)>,
    clusters: &Clusters,
) -> Service {
    let remote = |(number, (terminated, ready)): (&u8, &(bool, u32))| {
        let cluster = clusters.get(format!("c{number}").as_str())?.clone();
        let identities = BTreeSet::from(["shop/default".parse().expect("valid")]);
        let capacity = Capacity { ready: *ready, total: 2 };
        Some(RemoteBackend { cluster, ports: std::vec![80], identities, terminated: *terminated, capacity })
    };
    service.remotes = remotes.iter().filter_map(remote).collect();
    service.remotes.sort_by(|a, b| (a.cluster.proximity, &a.cluster.name).cmp(&(b.cluster.proximity, &b.cluster.name)));
    service.name = service_name(number);
    service.vip = service.vip.map(|_| vip(number, shift));
    service
}

/// A gateway's view, with every index and link as [`isthmus_model::snapshot::Sources::build`] makes them.
fn full() -> impl Strategy<Value = Snapshot> {
    let agreement = prop_oneof![
        Just(Agreement::default()),
        (1..3_u64).prop_map(|at| Agreement { leader: Some(site().cluster), stale_since: Some(UnixMillis(at)) })
    ];
    let services = btree_map(0..8_u8, offer(), 0..8);
    let trust = (vec(vec(any::<u8>(), 0..3), 0..2), vec(0..3_u8, 0..3));
    let ports = vec((1..4_u16).prop_map(|port| SocketAddr::from(([127, 0, 0, 1], port))), 0..3);
    let epoch = (0..2_u64, 0..3_u64);
    let told = (ports, epoch, authorizations());
    (clusters(), services, trust, agreement, 0..2_u8, any::<u64>(), told).prop_map(
        |(clusters, offers, (roots, denied), agreement, shift, generation, told)| {
            let (ports, (restored_at, revision), authorizations) = told;
            let services: Vec<Service> = offers
                .into_iter()
                .map(|(number, (service, remotes))| link(service, number, shift, &remotes, &clusters))
                .collect();
            let empty = Snapshot::empty(site(), Coverage::Complete);
            let (roots, denied) = (roots.into(), Arc::new(denied.into_iter().map(|key| Digest([key; 32])).collect()));
            let (control_ports, epoch) = (ports.into(), Epoch { restored_at: UnixMillis(restored_at), revision });
            let known = Snapshot { generation, clusters, roots, denied, agreement, ..empty };
            Snapshot { control_ports, epoch, authorizations, ..known }.with(services)
        },
    )
}

fn asked() -> impl Strategy<Value = Asked> {
    let services = hash_set((0..10_u8).prop_map(service_name), 0..5);
    let addresses = hash_set((0..8_u8).prop_map(|number| vip(number, 0)), 0..4);
    (services, addresses, prop::option::of(Just(OWN_ADDRESS.into()))).prop_map(|(services, addresses, own_address)| {
        Asked {
            services,
            addresses,
            own_address,
            workload: Some("shop/default".parse().expect("valid")),
            rules_form: FORM,
        }
    })
}

/// Every question is answered with what the full view says, and nothing that is told differs from it.
fn check_answers(view: &Snapshot, full: &Snapshot, asked: &Asked) -> Result<(), TestCaseError> {
    let Coverage::Partial { absent, absent_addresses } = &view.coverage else {
        return Err(TestCaseError::fail("the view of a sidecar is partial"));
    };
    for name in &asked.services {
        prop_assert_eq!(view.services.get(name), full.services.get(name));
        prop_assert_eq!(absent.contains(name), !full.services.contains_key(name));
    }
    for address in &asked.addresses {
        prop_assert_eq!(view.vips.get(address), full.vips.get(address));
        prop_assert_eq!(absent_addresses.contains(address), !full.vips.contains_key(address));
    }
    for (name, service) in &full.services {
        let own = service.endpoints.iter().any(|endpoint| Some(endpoint.address) == asked.own_address);
        prop_assert!(!own || view.services.contains_key(name));
    }
    let about = asked.own_address.into_iter().flat_map(|own| full.rules_about(asked.workload.as_ref(), own));
    let told = view.rules_about(None, OWN_ADDRESS.into());
    prop_assert_eq!(told.collect::<Vec<_>>(), about.collect::<Vec<_>>());
    for (name, service) in &view.services {
        prop_assert_eq!(full.services.get(name), Some(service));
        for remote in &service.remotes {
            prop_assert!(Arc::ptr_eq(&remote.cluster, &view.clusters[&remote.cluster.name]));
        }
    }
    prop_assert_eq!(
        (&view.clusters, &view.roots, &view.denied, &view.agreement, &view.control_ports),
        (&full.clusters, &full.roots, &full.denied, &full.agreement, &full.control_ports)
    );
    Ok(())
}

proptest! {
    #[test]
    fn a_stream_of_differences_rebuilds_each_view(steps in vec((full(), asked()), 1..6)) {
        let (mut gateway_has, mut sidecar_has) = (start(), start());
        let mut known = Asked::default();
        for (full, asked) in steps {
            known.services.extend(asked.services);
            known.addresses.extend(asked.addresses);
            known.own_address = known.own_address.or(asked.own_address);
            (known.workload, known.rules_form) = (asked.workload, asked.rules_form);
            let (to, update) = difference(&gateway_has, &full, &known);
            if let Some(update) = update {
                let received = control::Update::decode(&*update.encode_to_vec()).expect("own message");
                sidecar_has = apply(&sidecar_has, received).expect("own message");
            }
            prop_assert_eq!(&sidecar_has, &to);
            check_answers(&sidecar_has, &full, &known)?;
            let (again, nothing) = difference(&to, &full, &known);
            prop_assert_eq!((&again, nothing), (&to, None));
            gateway_has = to;
        }
    }

    #[test]
    fn no_bytes_make_apply_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(update) = control::Update::decode(&*bytes) {
            drop(apply(&start(), update));
        }
    }
}

fn one_cluster(reach: Reach) -> Clusters {
    let gateway = Gateway { name: "gw".parse().expect("valid"), east_west: ([127, 0, 0, 1], 15443).into(), reach };
    let name: ClusterName = "c0".parse().expect("valid");
    let locality = "r1/a".parse().expect("valid");
    let proximity = site().locality.proximity(&locality);
    let cluster = RemoteCluster { name: name.clone(), locality, proximity, gateways: BTreeMap::from([(1, gateway)]) };
    Clusters::unit(name, Arc::new(cluster))
}

/// Two services, of which both have a backend in the one other cluster.
fn two_services(reach: Reach) -> Snapshot {
    let clusters = one_cluster(reach);
    let service = |number| {
        let (name, vip, endpoints) = (service_name(number), Some(vip(number, 0)), Arc::from([]));
        let ports = std::vec![ServicePort { name: None, port: 80, protocol: AppProtocol::Http }];
        let (federated, exported_here, remotes) = (true, false, Vec::new());
        let (traffic, routes) = (TrafficPolicy::usual(), ServiceRoutes::default());
        let service = Service { name, vip, ports, federated, exported_here, endpoints, remotes, traffic, routes };
        link(service, number, 0, &BTreeMap::from([(0, (false, 1))]), &clusters)
    };
    let services = [service(1), service(2)];
    Snapshot { generation: 7, clusters, ..start() }.with(services)
}

fn asking(numbers: &[u8]) -> Asked {
    Asked { services: numbers.iter().copied().map(service_name).collect(), ..Asked::default() }
}

#[test]
fn a_gateway_that_goes_down_costs_no_service_on_the_wire() {
    let (from, _) = difference(&start(), &two_services(Reach::Up), &asking(&[1, 2]));
    let (to, update) = difference(&from, &two_services(Reach::Down), &asking(&[1, 2]));
    let update = update.expect("the reach changed");
    assert!(update.services.is_empty() && update.clusters.is_some());
    let applied = apply(&from, update).expect("own message");
    assert_eq!(applied, to);
    let remote = &applied.services[&service_name(1)].remotes[0];
    assert_eq!(remote.cluster.gateways[&1].reach, Reach::Down);
}

/// The service, treated by another policy.
fn with_traffic(mut full: Snapshot, number: u8, change: impl FnOnce(&mut TrafficPolicy)) -> Snapshot {
    let mut service = Service::clone(&full.services[&service_name(number)]);
    change(Arc::make_mut(&mut service.traffic));
    full.insert(Arc::new(service));
    full
}

#[test]
fn how_a_service_is_treated_is_told_when_it_is_not_as_usual() {
    let full = two_services(Reach::Up);
    let (from, update) = difference(&start(), &full, &asking(&[1, 2]));
    assert!(update.expect("news").services.iter().all(|service| service.traffic.is_none()));
    let full = with_traffic(full, 1, |traffic| traffic.limits.requests = 1);
    let (to, update) = difference(&from, &full, &asking(&[1, 2]));
    let update = update.expect("news");
    let told: Vec<_> = update.services.iter().map(|service| (&*service.name, service.traffic.as_ref())).collect();
    let limits = control::Limits { requests: 1, connections: 4_096, pending: 4_096, retries: 512 };
    let traffic = control::Traffic { limits: Some(limits), ..control::Traffic::default() };
    assert_eq!(told, [("shop/s1", Some(&traffic))]);
    let applied = apply(&from, update).expect("own message");
    assert_eq!(applied, to);
    assert_eq!(applied.services[&service_name(1)].traffic.limits.requests, 1);
    // Back to what is usual takes a message too, which says nothing of it.
    let full = with_traffic(full, 1, |traffic| *traffic = TrafficPolicy::default());
    let (to, update) = difference(&to, &full, &asking(&[1, 2]));
    let update = update.expect("news");
    assert_eq!((update.services.len(), &update.services[0].traffic), (1, &None));
    assert_eq!(apply(&applied, update), Ok(to));
}

#[test]
fn a_new_generation_with_nothing_new_in_it_is_not_told() {
    let full = two_services(Reach::Up);
    let (from, _) = difference(&start(), &full, &asking(&[1]));
    let (to, update) = difference(&from, &Snapshot { generation: 8, ..full }, &asking(&[1]));
    assert_eq!((to.generation, update), (7, None));
}

#[test]
fn a_name_can_come_and_go() {
    let asked = Asked { addresses: HashSet::from([vip(1, 0)]), ..asking(&[1]) };
    let mut without = two_services(Reach::Up);
    without.services.remove(&service_name(1));
    without.vips.remove(&vip(1, 0));
    let (absent, update) = difference(&start(), &without, &asked);
    let update = update.expect("an answer");
    assert_eq!(
        (update.absent, update.absent_addresses),
        (std::vec!["shop/s1".to_owned()], std::vec!["10.0.0.1".to_owned()])
    );
    let (there, _) = difference(&absent, &two_services(Reach::Up), &asked);
    let nothing_absent = Coverage::Partial { absent: HashSet::new(), absent_addresses: HashSet::new() };
    assert_eq!((there.services.len(), &there.coverage), (1, &nothing_absent));
    let (gone, _) = difference(&there, &without, &asked);
    assert_eq!((&gone.services, &gone.coverage), (&absent.services, &absent.coverage));
}

#[test]
fn questions_are_bounded_per_stream() {
    let ask = |range: std::ops::Range<usize>| control::Ask {
        services: range.map(|number| format!("shop/s{number}")).collect(),
        addresses: Vec::new(),
    };
    let mut asked = Asked::default();
    assert_eq!(asked.add(&ask(0..QUESTIONS_PER_STREAM_MAX)), Ok(true));
    assert_eq!(asked.add(&ask(0..1)), Ok(false));
    assert!(matches!(asked.add(&ask(0..QUESTIONS_PER_STREAM_MAX + 1)), Err(WireError::TooMany { .. })));
    let one_more = control::Ask { services: Vec::new(), addresses: std::vec!["10.0.0.1".to_owned()] };
    assert!(matches!(asked.add(&one_more), Err(WireError::TooMany { .. })));
    assert_eq!(asked.services.len(), QUESTIONS_PER_STREAM_MAX);
}

/// The update that leads to two services, with one thing changed for the worse.
fn spoilt(spoil: impl FnOnce(&mut control::Update)) -> Option<WireError> {
    let (_, update) = difference(&start(), &two_services(Reach::Up), &asking(&[1, 2]));
    let mut update = update.expect("news");
    spoil(&mut update);
    apply(&start(), update).err()
}

#[test]
fn a_bad_update_is_refused_with_the_field_that_is_bad() {
    type Spoil = fn(&mut control::Update);
    let cases: [(&str, Spoil); 18] = [
        ("services.traffic.limits.requests", |u| {
            let traffic = u.services[0].traffic.get_or_insert_default();
            traffic.limits = Some(control::Limits::default());
        }),
        ("services.traffic.ejection.longest", |u| {
            let traffic = u.services[0].traffic.get_or_insert_default();
            let usual = control::Ejection { unreachable: 1, broken: 1, unwell: 1, first: 1, ..Default::default() };
            traffic.ejection = Some(control::Ejection { longest: u64::MAX, ..usual });
        }),
        ("services.traffic.retries.saved_max", |u| {
            let traffic = u.services[0].traffic.get_or_insert_default();
            traffic.retries = Some(control::Retries { saved_max: u64::MAX, ..Default::default() });
        }),
        ("services.name", |u| u.services[0].name = "Shop/s1".to_owned()),
        ("services.vip", |u| u.services[0].vip = "10.0.0".to_owned()),
        ("services.vip", |u| u.services[0].vip = u.services[1].vip.clone()),
        ("services.ports.port", |u| u.services[0].ports[0].port = 70_000),
        ("services.ports.protocol", |u| u.services[0].ports[0].protocol = 9),
        ("services.ports", |u| u.services[0].ports = std::vec![control::Port::default(); 65]),
        ("services.endpoints", |u| u.services[0].endpoints = std::vec![control::Endpoint::default(); 10_001]),
        ("services.remotes", |u| u.services[0].remotes = std::vec![control::Remote::default(); 2]),
        ("cluster", |u| u.services[0].remotes[0].cluster = "c9".to_owned()),
        ("clusters.name", |u| {
            let clusters = u.clusters.get_or_insert_default();
            clusters.clusters.push(clusters.clusters[0].clone());
        }),
        ("clusters.gateways.reach", |u| {
            let clusters = u.clusters.get_or_insert_default();
            clusters.clusters[0].gateways[0].reach = -1;
        }),
        ("roots.der", |u| {
            u.roots = Some(control::Roots { der: std::vec![Vec::new(); ROOTS_MAX + 1], ..control::Roots::default() })
        }),
        ("roots.denied", |u| {
            u.roots = Some(control::Roots { denied: std::vec![std::vec![0; 31]], ..control::Roots::default() })
        }),
        ("roots.der", |u| {
            u.roots =
                Some(control::Roots { der: std::vec![std::vec![0; ROOT_BYTES_MAX + 1]], ..control::Roots::default() })
        }),
        ("absent", |u| u.absent = std::vec!["a/b".repeat(1000)]),
    ];
    assert_eq!(spoilt(|_| ()), None);
    for (number, (field, spoil)) in cases.into_iter().enumerate() {
        let error = spoilt(spoil).map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(field), "case {number}: {error}");
    }
}

#[test]
fn a_cluster_that_leaves_while_a_service_still_needs_it_is_refused() {
    let (from, _) = difference(&start(), &two_services(Reach::Up), &asking(&[1]));
    let update = control::Update { clusters: Some(control::Clusters::default()), ..control::Update::default() };
    assert!(matches!(apply(&from, update), Err(WireError::UnknownCluster { .. })));
}

#[test]
fn many_updates_cannot_grow_a_view_past_its_bound() {
    let names = |from: usize, count: usize| (from..from + count).map(|number| format!("shop/s{number}")).collect();
    let update = |absent| control::Update { absent, ..control::Update::default() };
    let view = apply(&start(), update(names(0, SERVICES_PER_VIEW_MAX))).expect("at the bound");
    assert!(apply(&view, update(names(0, 1))).is_ok(), "one that is known already");
    let refused = apply(&view, update(names(SERVICES_PER_VIEW_MAX, 1)));
    assert!(matches!(refused, Err(WireError::TooMany { field: "absent", .. })));
}

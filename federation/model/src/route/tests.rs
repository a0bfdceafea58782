//! Plans over one service with local endpoints and remote clusters at every distance.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;
use crate::catalog::AppProtocol;
use crate::health::Capacity;
use crate::locality::Locality;
use crate::snapshot::{Gateway, RemoteCluster, Site};

const PORT: u16 = 9080;

fn name() -> ServiceName {
    "shop/reviews".parse().expect("a service name")
}

fn locality() -> Locality {
    "us-east-1".parse().expect("a locality")
}

fn endpoint(host: u8, ready: bool) -> Endpoint {
    Endpoint {
        address: [127, 0, 11, host].into(),
        ports: BTreeMap::from([(PORT, 8080)]),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("a workload"),
        ready,
    }
}

/// A remote cluster with a gateway per element of `reaches`, all on its own `number`.
fn remote(number: u8, proximity: Proximity, reaches: &[Reach], ready: u32, total: u32) -> RemoteBackend {
    let gateway = |(index, reach): (usize, &Reach)| {
        let index = u8::try_from(index).expect("few gateways");
        let east_west = SocketAddr::from(([127, 1, number, index], 15443));
        let name = format!("gw-{index}").parse().expect("a label");
        (NodeId::from(number) * 100 + NodeId::from(index), Gateway { name, east_west, reach: *reach })
    };
    let cluster = RemoteCluster {
        name: format!("c{number}").parse().expect("a cluster name"),
        locality: locality(),
        proximity,
        gateways: reaches.iter().enumerate().map(gateway).collect(),
    };
    RemoteBackend {
        cluster: Arc::new(cluster),
        ports: vec![PORT],
        identities: BTreeSet::new(),
        terminated: false,
        capacity: Capacity { ready, total },
    }
}

/// `ready` of `total` local endpoints, then the remotes.
fn service(ready: u8, total: u8, remotes: Vec<RemoteBackend>) -> Service {
    Service {
        name: name(),
        vip: Some([127, 11, 0, 1].into()),
        ports: vec![ServicePort { name: None, port: PORT, protocol: AppProtocol::Http }],
        federated: true,
        exported_here: true,
        endpoints: (0..total).map(|host| endpoint(host, host < ready)).collect(),
        remotes,
        traffic: crate::traffic::TrafficPolicy::usual(),
        routes: crate::http_route::ServiceRoutes::default(),
    }
}

fn shares(plan: &Plan) -> Vec<(Proximity, u32)> {
    plan.levels.iter().map(|level| (level.proximity, level.share)).collect()
}

fn all_usable(_: &DestinationKey) -> bool {
    true
}

use Proximity::{OtherRegion, SameCluster, SameRegion, SameZone};
use Reach::{Down, Unknown, Up};

#[test]
fn a_healthy_cluster_keeps_all_of_its_traffic() {
    let service = service(3, 3, vec![remote(1, OtherRegion, &[Up], 10, 10)]);
    let plan = plan(&service, PORT, all_usable);
    assert_eq!(shares(&plan), [(SameCluster, 1_000), (OtherRegion, 0)]);
    assert_eq!(plan.levels[0].destinations.len(), 3);
}

#[test]
fn up_to_two_sevenths_lost_nothing_spills_and_then_in_proportion() {
    let at = |ready| shares(&plan(&service(ready, 10, vec![remote(1, OtherRegion, &[Up], 5, 5)]), PORT, all_usable));
    assert_eq!(at(8), [(SameCluster, 1_000), (OtherRegion, 0)]);
    assert_eq!(at(7), [(SameCluster, 980), (OtherRegion, 20)]);
    assert_eq!(at(5), [(SameCluster, 700), (OtherRegion, 300)]);
    assert_eq!(at(1), [(SameCluster, 140), (OtherRegion, 860)]);
    assert_eq!(at(0), [(OtherRegion, 1_000)]);
}

#[test]
fn what_spills_goes_to_the_nearest_level_that_can_take_it() {
    let remotes = vec![
        remote(1, SameZone, &[Up], 1, 10),
        remote(2, SameRegion, &[Up], 5, 10),
        remote(3, OtherRegion, &[Up], 10, 10),
    ];
    let plan = plan(&service(1, 10, remotes), PORT, all_usable);
    assert_eq!(shares(&plan), [(SameCluster, 140), (SameZone, 140), (SameRegion, 700), (OtherRegion, 20)]);
}

#[test]
fn when_all_levels_together_are_short_each_takes_more_in_proportion() {
    let plan = plan(&service(1, 10, vec![remote(1, OtherRegion, &[Up], 2, 10)]), PORT, all_usable);
    assert_eq!(shares(&plan), [(SameCluster, 334), (OtherRegion, 666)]);
}

#[test]
fn a_sliver_of_the_only_level_takes_everything() {
    let plan = plan(&service(0, 0, vec![remote(1, OtherRegion, &[Up], 1, 10_000)]), PORT, all_usable);
    assert_eq!(shares(&plan), [(OtherRegion, 1_000)]);
}

#[test]
fn a_cluster_counts_by_its_instances_however_many_gateways_it_has() {
    let remotes = |gateways: &[Reach]| {
        vec![
            remote(1, SameRegion, &[Up], 10, 10),
            remote(2, SameRegion, gateways, 0, 10),
            remote(3, OtherRegion, &[Up], 1, 1),
        ]
    };
    let expected = [(SameRegion, 700), (OtherRegion, 300)];
    assert_eq!(shares(&plan(&service(0, 0, remotes(&[Up])), PORT, all_usable)), expected);
    assert_eq!(shares(&plan(&service(0, 0, remotes(&[Up; 5])), PORT, all_usable)), expected);
}

#[test]
fn gateways_known_to_be_down_are_skipped_and_unheard_ones_are_not() {
    let remotes = vec![remote(1, SameRegion, &[Down, Up], 4, 4), remote(2, SameRegion, &[Unknown], 1, 1)];
    let plan = plan(&service(0, 0, remotes), PORT, all_usable);
    let nodes: Vec<NodeId> = plan.levels[0]
        .destinations
        .iter()
        .filter_map(|destination| match destination {
            Destination::Remote { node, .. } => Some(*node),
            Destination::Local(_) => None,
        })
        .collect();
    assert_eq!(nodes, [101, 200]);
}

#[test]
fn ejected_destinations_lose_their_share_to_the_next_level() {
    let service = service(2, 2, vec![remote(1, OtherRegion, &[Up], 1, 1)]);
    let ejected = service.endpoints[0].clone();
    let ejected = Destination::Local(ejected).key(PORT);
    let plan = plan(&service, PORT, |key| *key != ejected);
    assert_eq!(shares(&plan), [(SameCluster, 700), (OtherRegion, 300)]);
    assert!(plan.levels[0].destinations.iter().all(|destination| destination.key(PORT) != ejected));
}

#[test]
fn a_level_that_is_mostly_suspected_is_used_whole_when_there_is_not_enough_elsewhere() {
    let suspected = |last: u8| move |key: &DestinationKey| !matches!(key, DestinationKey::Local(at) if at.ip() <= IpAddr::from([127, 0, 11, last]));
    let destinations = |service: &Service, last: u8| plan(service, PORT, suspected(last)).levels[0].destinations.len();
    let alone = service(10, 10, vec![]);
    assert_eq!(destinations(&alone, 3), 6, "four of ten are suspected, six take it");
    assert_eq!(destinations(&alone, 6), 10, "seven of ten");
    let helped = service(10, 10, vec![remote(1, Proximity::OtherRegion, &[Reach::Up], 10, 10)]);
    assert_eq!(destinations(&helped, 6), 3, "the others can take the rest");
}

#[test]
fn when_nothing_is_usable_suspicion_is_ignored() {
    let service = service(1, 1, vec![remote(1, OtherRegion, &[Down], 1, 1)]);
    assert_eq!(shares(&plan(&service, PORT, |_| false)), [(SameCluster, 1_000)]);
    let down = self::service(0, 0, vec![remote(1, OtherRegion, &[Down], 1, 1)]);
    assert_eq!(shares(&plan(&down, PORT, |_| false)), [(OtherRegion, 1_000)], "that it is down is suspicion too");
}

#[test]
fn nothing_ready_anywhere_is_an_empty_plan() {
    let service = service(0, 3, vec![remote(1, OtherRegion, &[Up], 0, 5), remote(2, SameZone, &[], 5, 5)]);
    let plan = plan(&service, PORT, all_usable);
    assert!(plan.levels.is_empty());
    assert_eq!(plan.order(0).count(), 0);
}

#[test]
fn only_who_offers_the_port_is_asked_for_it() {
    let mut service = service(1, 1, vec![remote(1, OtherRegion, &[Up], 1, 1)]);
    service.remotes[0].ports = vec![PORT, 9090];
    assert_eq!(shares(&plan(&service, 9090, all_usable)), [(OtherRegion, 1_000)]);
    assert!(plan(&service, 1, all_usable).levels.is_empty());
}

#[test]
fn the_first_choice_falls_exactly_by_share_and_the_rest_nearest_first() {
    let remotes = vec![remote(1, SameZone, &[Up], 5, 10), remote(2, OtherRegion, &[Up], 9, 10)];
    let plan = plan(&service(1, 10, remotes), PORT, all_usable);
    let mut counted: BTreeMap<Proximity, u32> = BTreeMap::new();
    for random in 0..WHOLE {
        let order: Vec<Proximity> = plan.order(random).map(|level| level.proximity).collect();
        *counted.entry(order[0]).or_default() += 1;
        assert_eq!(order.len(), 3, "every level is tried");
        assert!(order[1] < order[2], "the others nearest first");
    }
    assert_eq!(counted.into_iter().collect::<Vec<_>>(), shares(&plan));
    assert_eq!(plan.order(WHOLE).next(), plan.order(0).next(), "any random number will do");
}

#[test]
fn weights_divide_a_cluster_among_its_gateways_and_are_never_zero() {
    let weights = |gateways: &[Reach], ready| -> Vec<u32> {
        let plan = plan(&service(0, 0, vec![remote(1, OtherRegion, gateways, ready, ready)]), PORT, all_usable);
        plan.levels.iter().flat_map(|level| &level.destinations).map(Destination::weight).collect()
    };
    assert_eq!(weights(&[Up, Up], 10), [5, 5]);
    assert_eq!(weights(&[Up, Up, Up], 1), [1, 1, 1]);
    assert_eq!(weights(&[Up], u32::MAX), [u32::MAX]);
}

#[test]
fn keys_are_the_addresses_that_are_dialed() {
    let meshed = endpoint(21, true);
    let plain = Endpoint { sidecar_port: None, ..meshed.clone() };
    assert_eq!(Destination::Local(meshed).key(PORT), DestinationKey::Local(([127, 0, 11, 21], 15006).into()));
    assert_eq!(Destination::Local(plain).key(PORT), DestinationKey::Local(([127, 0, 11, 21], 8080).into()));
}

fn snapshot(coverage: Coverage) -> Snapshot {
    let site = Site {
        federation: "acme.mesh".parse().expect("a domain"),
        cluster: "us-east".parse().expect("a cluster name"),
        locality: locality(),
    };
    let mut snapshot = Snapshot::empty(site, coverage);
    let reviews = Arc::new(service(1, 1, Vec::new()));
    let internal: ServiceName = "shop/internal".parse().expect("a service name");
    let unfederated = Service { name: internal, vip: None, federated: false, ..service(1, 1, Vec::new()) };
    snapshot.insert(reviews);
    snapshot.insert(Arc::new(unfederated));
    snapshot
}

#[test]
fn a_complete_view_knows_what_does_not_exist() {
    let view = snapshot(Coverage::Complete);
    let reviews = view.services[&name()].clone();
    let found = Found::Service(reviews.clone(), reviews.ports[0].clone());
    assert_eq!(view.find_host("Reviews.shop.svc.clusterset.local.", PORT), found);
    assert_eq!(view.find_address(([127, 11, 0, 1], PORT).into()), found);
    assert_eq!(view.find_host("reviews.shop.svc.clusterset.local", 1), Found::NoSuchPort(reviews));
    assert_eq!(view.find_host("absent.shop.svc.clusterset.local", PORT), Found::NotFound);
    assert_eq!(view.find_host("internal.shop.svc.clusterset.local", PORT), Found::NotFound);
    assert_eq!(view.find_address(([127, 11, 0, 2], PORT).into()), Found::NotFound);
    assert_eq!(view.find_host("example.com", PORT), Found::NotOurs);
}

#[test]
fn a_partial_view_asks_for_what_it_does_not_know() {
    let absent: ServiceName = "shop/absent".parse().expect("a service name");
    let unknown: ServiceName = "shop/unknown".parse().expect("a service name");
    let (no_vip, unknown_vip) = (IpAddr::from([127, 11, 0, 2]), IpAddr::from([127, 11, 0, 3]));
    let view =
        snapshot(Coverage::Partial { absent: HashSet::from([absent]), absent_addresses: HashSet::from([no_vip]) });
    assert_eq!(view.find_host("absent.shop.svc.clusterset.local", PORT), Found::NotFound);
    let asks = Found::Unasked(Question::Service(unknown));
    assert_eq!(view.find_host("unknown.shop.svc.clusterset.local", PORT), asks);
    assert_eq!(view.find_address((no_vip, PORT).into()), Found::NotFound);
    assert_eq!(view.find_address((unknown_vip, PORT).into()), Found::Unasked(Question::Address(unknown_vip)));
    // It is in the view, so there is nothing to ask: the federation does not know the name.
    assert_eq!(view.find_host("internal.shop.svc.clusterset.local", PORT), Found::NotFound);
}

fn any_remote(number: u8) -> impl Strategy<Value = RemoteBackend> {
    let proximity = prop::sample::select(vec![SameZone, SameRegion, OtherRegion]);
    let reaches = prop::collection::vec(prop::sample::select(vec![Unknown, Up, Down]), 0..4);
    let instances = || prop_oneof![0..20_u32, Just(u32::MAX)];
    (proximity, reaches, instances(), instances())
        .prop_map(move |(proximity, reaches, ready, total)| remote(number, proximity, &reaches, ready, total))
}

fn any_service() -> impl Strategy<Value = Service> {
    let remotes = (0..5_u8).map(|number| prop::option::of(any_remote(number))).collect::<Vec<_>>();
    (0..12_u8, 0..12_u8, remotes).prop_map(|(ready, total, remotes)| {
        let mut remotes: Vec<RemoteBackend> = remotes.into_iter().flatten().collect();
        remotes.sort_by_key(|remote| remote.cluster.proximity);
        service(ready.min(total), total, remotes)
    })
}

proptest! {
    #[test]
    fn shares_are_the_whole_and_levels_are_in_order_and_never_empty(service in any_service(), ejected in 0..12_u8) {
        let usable = |key: &DestinationKey| match key {
            DestinationKey::Local(address) => address.ip() != IpAddr::from([127, 0, 11, ejected]),
            DestinationKey::Remote(..) => true,
        };
        let plan = plan(&service, PORT, usable);
        if !plan.levels.is_empty() {
            prop_assert_eq!(plan.levels.iter().map(|level| level.share).sum::<u32>(), WHOLE);
        }
        prop_assert!(plan.levels.is_sorted_by(|a, b| a.proximity < b.proximity));
        prop_assert!(plan.levels.iter().all(|level| !level.destinations.is_empty()));
        // Something takes work somewhere: then there is a plan.
        let ready = service.endpoints.iter().any(|endpoint| endpoint.ready)
            || service.remotes.iter().any(|r| r.capacity.ready > 0 && !r.cluster.gateways.is_empty());
        prop_assert_eq!(plan.levels.is_empty(), !ready);
    }

    #[test]
    fn more_health_nearby_never_sends_more_away(ready in 0..11_u8, remote_ready in 1..10_u32) {
        let local_share = |ready| {
            let plan = plan(&service(ready, 12, vec![remote(1, OtherRegion, &[Up], remote_ready, 10)]), PORT, all_usable);
            plan.levels.iter().find(|level| level.proximity == SameCluster).map_or(0, |level| level.share)
        };
        prop_assert!(local_share(ready) <= local_share(ready + 1));
    }
}

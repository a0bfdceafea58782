use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use isthmus_model::catalog::{AppProtocol, Endpoint, ServicePort};
use isthmus_model::health::{Capacity, Reach};
use isthmus_model::locality::Proximity;
use isthmus_model::route::DestinationKey;
use isthmus_model::snapshot::{Gateway, RemoteBackend, RemoteCluster, Service};
use prometheus_client::registry::Registry;

use super::ejection::{EJECTED_FIRST, Failure};
use super::*;

const PORT: u16 = 80;

fn service(endpoints: u8) -> Arc<Service> {
    let endpoint = |last: u8| Endpoint {
        address: [10, 0, 0, last].into(),
        ports: BTreeMap::from([(PORT, 8080)]),
        sidecar_port: Some(15006),
        workload: "shop/reviews".parse().expect("valid"),
        ready: true,
    };
    Arc::new(Service {
        name: "shop/reviews".parse().expect("valid"),
        vip: None,
        ports: vec![ServicePort { name: None, port: PORT, protocol: AppProtocol::Http }],
        federated: true,
        exported_here: true,
        endpoints: (1..=endpoints).map(endpoint).collect(),
        remotes: vec![],
    })
}

fn balancer() -> Balancer {
    Balancer::new(Arc::new(Metrics::register(&mut Registry::default())))
}

struct Fixture {
    balancer: Balancer,
    traffic: Arc<Traffic>,
    service: Arc<Service>,
}

impl Fixture {
    fn of(endpoints: u8) -> Self {
        let (balancer, service) = (balancer(), service(endpoints));
        Self { traffic: balancer.traffic(&service.name), balancer, service }
    }

    fn pick(&self, tried: &Tried, now: Instant) -> Option<Pick> {
        self.traffic.pick(&self.service, PORT, tried, self.balancer.random(), now)
    }
}

#[test]
fn load_stays_even_among_equals() {
    let fixture = Fixture::of(5);
    let now = Instant::now();
    let held: Vec<Pick> = (0..500).filter_map(|_| fixture.pick(&Tried::default(), now)).collect();
    let mut counts: HashMap<&DestinationKey, usize> = HashMap::new();
    for pick in &held {
        *counts.entry(pick.key()).or_default() += 1;
    }
    assert_eq!(counts.len(), 5);
    assert!(counts.values().all(|count| (85..=115).contains(count)), "{counts:?}");
}

#[test]
fn a_slow_destination_gets_less() {
    let fixture = Fixture::of(2);
    let now = Instant::now();
    let slow: Vec<Pick> = (0..20).filter_map(|_| fixture.pick(&Tried::default(), now)).collect();
    let key = slow[0].key().clone();
    let (stuck, done): (Vec<Pick>, Vec<Pick>) = slow.into_iter().partition(|pick| *pick.key() == key);
    drop(done);
    for _ in 0..stuck.len() - 1 {
        let pick = fixture.pick(&Tried::default(), now).expect("a destination");
        assert_ne!(*pick.key(), key, "the idle one is lighter");
    }
}

#[test]
fn weights_are_honoured() {
    assert!(load::lighter(1, 2, 1, 1), "the same load on twice the weight is lighter");
    assert!(!load::lighter(3, 2, 1, 1));
    assert!(load::lighter(0, 0, 1, 1), "no weight counts as one");
}

#[test]
fn tried_destinations_are_not_tried_again() {
    let fixture = Fixture::of(3);
    let now = Instant::now();
    let mut tried = Tried::default();
    for _ in 0..3 {
        let pick = fixture.pick(&tried, now).expect("another destination");
        assert!(!tried.contains(pick.key()));
        tried.note(&pick);
    }
    assert!(fixture.pick(&tried, now).is_none());
}

#[test]
fn an_ejected_destination_gets_nothing_then_one_trial_then_its_share() {
    let fixture = Fixture::of(2);
    let start = Instant::now();
    let pick = fixture.pick(&Tried::default(), start).expect("a destination");
    let bad = pick.key().clone();
    pick.failed(Failure::Unreachable, start);
    drop(pick);
    let picks =
        |now| (0..50).filter(|_| fixture.pick(&Tried::default(), now).is_some_and(|pick| *pick.key() == bad)).count();
    assert_eq!(picks(start), 0);
    let expired = start + EJECTED_FIRST;
    let mut trial = None;
    for _ in 0..50 {
        let pick = fixture.pick(&Tried::default(), expired).expect("a destination");
        if *pick.key() == bad {
            assert!(trial.replace(pick).is_none(), "one trial at a time");
        }
    }
    trial.expect("a trial").succeeded();
    assert!(picks(expired) > 0);
}

#[test]
fn when_all_are_ejected_all_are_tried() {
    let fixture = Fixture::of(2);
    let now = Instant::now();
    for _ in 0..10 {
        if let Some(pick) = fixture.pick(&Tried::default(), now) {
            pick.failed(Failure::Unreachable, now);
        }
    }
    let mut tried = Tried::default();
    for _ in 0..2 {
        tried.note(&fixture.pick(&tried, now + Duration::from_millis(1)).expect("another destination"));
    }
    assert!(fixture.pick(&tried, now).is_none());
}

#[test]
fn a_new_view_is_taken_over_and_keeps_what_was_learnt() {
    let mut fixture = Fixture::of(2);
    let now = Instant::now();
    let pick = fixture.pick(&Tried::default(), now).expect("a destination");
    let bad = pick.key().clone();
    pick.failed(Failure::Unreachable, now);
    fixture.service = service(3);
    let mut seen: Vec<DestinationKey> =
        (0..100).filter_map(|_| fixture.pick(&Tried::default(), now)).map(|p| p.key().clone()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 2);
    assert!(!seen.contains(&bad));
}

#[test]
fn a_request_looks_further_away_before_it_has_tried_every_near_instance() {
    let mut near = Service::clone(&service(10));
    let gateway =
        Gateway { name: "gw-1".parse().expect("valid"), east_west: ([10, 1, 0, 1], 15443).into(), reach: Reach::Up };
    let cluster = RemoteCluster {
        name: "us-west".parse().expect("valid"),
        locality: "r2".parse().expect("valid"),
        proximity: Proximity::OtherRegion,
        gateways: BTreeMap::from([(1, gateway)]),
    };
    near.remotes.push(RemoteBackend {
        cluster: Arc::new(cluster),
        ports: vec![PORT],
        identities: BTreeSet::new(),
        terminated: false,
        capacity: Capacity { ready: 1, total: 1 },
    });
    let mut fixture = Fixture::of(1);
    fixture.service = Arc::new(near);
    let now = Instant::now();
    let mut tried = Tried::default();
    let mut remote = Vec::new();
    for _ in 0..4 {
        let pick = fixture.pick(&tried, now).expect("a destination");
        pick.failed(Failure::Unreachable, now);
        tried.note(&pick);
        remote.push(matches!(pick.key(), DestinationKey::Remote(..)));
    }
    assert_eq!(remote, [false, false, true, false]);
}

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use isthmus_model::catalog::{AppProtocol, Endpoint, ServicePort};
use isthmus_model::health::{Capacity, Reach};
use isthmus_model::locality::Proximity;
use isthmus_model::route::DestinationKey;
use isthmus_model::snapshot::{Gateway, RemoteBackend, RemoteCluster, Service};
use isthmus_model::traffic::TrafficPolicy;
use prometheus_client::registry::Registry;

use super::ejection::Failure;
use super::*;

pub(crate) const PORT: u16 = 80;
const EJECTED_FIRST: Duration = Duration::from_secs(1);

pub(crate) fn service(endpoints: u8) -> Arc<Service> {
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
        traffic: TrafficPolicy::usual(),
        routes: isthmus_model::http_route::ServiceRoutes::default(),
    })
}

/// Another cluster with so many instances behind its only gateway.
fn remote(number: u8, instances: u32) -> RemoteBackend {
    let east_west = ([10, 1, 0, number], 15443).into();
    let gateway = Gateway { name: "gw-1".parse().expect("valid"), east_west, reach: Reach::Up };
    let cluster = RemoteCluster {
        name: format!("cluster-{number}").parse().expect("valid"),
        locality: "r2".parse().expect("valid"),
        proximity: Proximity::OtherRegion,
        gateways: BTreeMap::from([(1, gateway)]),
    };
    RemoteBackend {
        cluster: Arc::new(cluster),
        ports: vec![PORT],
        identities: BTreeSet::new(),
        terminated: false,
        capacity: Capacity { ready: instances, total: instances },
    }
}

pub(crate) fn balancer() -> Balancer {
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
        Self { traffic: balancer.traffic(&service), balancer, service }
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

/// Where a request went that is over.
fn key_of(over: Pick) -> DestinationKey {
    over.key().clone()
}

/// How often each of two clusters is chosen when nothing else is under way.
#[test]
fn idle_destinations_get_what_their_weights_say() {
    let mut fixture = Fixture::of(0);
    fixture.service = Arc::new(Service { remotes: vec![remote(1, 3), remote(2, 1)], ..Service::clone(&service(0)) });
    let now = Instant::now();
    let first = DestinationKey::Remote("cluster-1".parse().expect("valid"), ([10, 1, 0, 1], 15443).into());
    let picked = (0..4_000).filter(|_| fixture.pick(&Tried::default(), now).is_some_and(|pick| *pick.key() == first));
    let picked = picked.count();
    assert!((2_850..3_150).contains(&picked), "three quarters: {picked}");
}

#[test]
fn who_answers_late_gets_little_until_that_is_forgotten() {
    let fixture = Fixture::of(2);
    let start = Instant::now();
    let slow = fixture.pick(&Tried::default(), start).expect("a destination");
    slow.succeeded(start + Duration::from_millis(500));
    let slow = key_of(slow);
    let mut tried = Tried::default();
    let quick =
        (0..100).filter_map(|_| fixture.pick(&tried, start)).find(|pick| *pick.key() != slow).expect("the other");
    quick.succeeded(start + Duration::from_millis(5));
    drop(quick);
    let now = start + Duration::from_millis(600);
    let picks =
        |now| (0..100).filter(|_| fixture.pick(&Tried::default(), now).is_some_and(|pick| *pick.key() == slow)).count();
    assert_eq!(picks(now), 0);
    assert!(picks(start + Duration::from_secs(11)) > 20, "it may be better by now");
    tried.note(&fixture.pick(&Tried::default(), now).expect("the quick one"), false);
    assert_eq!(*fixture.pick(&tried, now).expect("the slow one").key(), slow, "better than nothing");
}

#[test]
fn what_it_takes_to_open_a_session_is_held_against_nobody() {
    let fixture = Fixture::of(2);
    let start = Instant::now();
    let mut new = fixture.pick(&Tried::default(), start).expect("a destination");
    let (asked, answered) = (start + Duration::from_millis(500), start + Duration::from_millis(505));
    new.ask(asked);
    new.succeeded(answered);
    let new = key_of(new);
    let known = (0..100)
        .filter_map(|_| fixture.pick(&Tried::default(), asked))
        .find(|pick| *pick.key() != new)
        .expect("the other");
    known.succeeded(answered);
    drop(known);
    let picks = (0..100).filter_map(|_| fixture.pick(&Tried::default(), answered)).filter(|pick| *pick.key() == new);
    assert!((30..70).contains(&picks.count()), "both answer within 5 ms");
}

#[test]
fn a_newcomer_gets_little_at_first() {
    let mut fixture = Fixture::of(1);
    let start = Instant::now();
    drop(fixture.pick(&Tried::default(), start));
    fixture.service = service(2);
    let newcomer = DestinationKey::Local(([10, 0, 0, 2], 15006).into());
    let picks = |now| {
        (0..1_000).filter(|_| fixture.pick(&Tried::default(), now).is_some_and(|pick| *pick.key() == newcomer)).count()
    };
    let (at_first, later) = (picks(start), picks(start + Duration::from_secs(20)));
    assert!((20..100).contains(&at_first), "a tenth of a half: {at_first}");
    assert!((400..600).contains(&later), "{later}");
}

#[test]
fn at_most_half_are_left_out_for_their_answers() {
    let fixture = Fixture::of(4);
    let now = Instant::now();
    for _ in 0..200 {
        if let Some(pick) = fixture.pick(&Tried::default(), now) {
            pick.failed(Failure::Unwell, now);
        }
    }
    let mut left: Vec<DestinationKey> =
        (0..200).filter_map(|_| fixture.pick(&Tried::default(), now)).map(|pick| pick.key().clone()).collect();
    left.sort();
    left.dedup();
    assert_eq!(left.len(), 2);
}

#[test]
fn requests_come_back_to_a_nearer_level_little_by_little() {
    let mut fixture = Fixture::of(1);
    fixture.service = Arc::new(Service { remotes: vec![remote(1, 10)], ..Service::clone(&service(1)) });
    let start = Instant::now();
    let near = DestinationKey::Local(([10, 0, 0, 1], 15006).into());
    let picks = |now| {
        (0..1_000).filter(|_| fixture.pick(&Tried::default(), now).is_some_and(|pick| *pick.key() == near)).count()
    };
    assert_eq!(picks(start), 1_000);
    fixture.pick(&Tried::default(), start).expect("the near one").failed(Failure::Unreachable, start);
    assert_eq!(picks(start), 0);
    let after = |millis| start + EJECTED_FIRST + Duration::from_millis(millis);
    assert_eq!(picks(after(1)), 0, "it is not asked yet");
    // Time passes as it does with traffic.
    let mut shares = Vec::new();
    for quarter in 1..=52 {
        // Enough of it that chance does not leave the near one unasked.
        for _ in 0..50 {
            if let Some(pick) = fixture.pick(&Tried::default(), after(quarter * 250)) {
                pick.succeeded(after(quarter * 250));
            }
        }
        if quarter % 26 == 0 {
            shares.push(picks(after(quarter * 250)));
        }
    }
    assert!((250..650).contains(&shares[0]) && shares[1] == 1_000, "{shares:?}");
}

#[test]
fn tried_destinations_are_not_tried_again() {
    let fixture = Fixture::of(3);
    let now = Instant::now();
    let mut tried = Tried::default();
    for _ in 0..3 {
        let pick = fixture.pick(&tried, now).expect("another destination");
        assert!(!tried.contains(pick.key()));
        tried.note(&pick, false);
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
    trial.expect("a trial").succeeded(expired);
    assert!(picks(expired + Duration::from_secs(20)) > 0);
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
        tried.note(&fixture.pick(&tried, now + Duration::from_millis(1)).expect("another destination"), false);
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
    near.remotes.push(remote(1, 1));
    let mut fixture = Fixture::of(1);
    fixture.service = Arc::new(near);
    let now = Instant::now();
    let mut tried = Tried::default();
    let mut remote = Vec::new();
    for _ in 0..4 {
        let pick = fixture.pick(&tried, now).expect("a destination");
        pick.failed(Failure::Unreachable, now);
        tried.note(&pick, false);
        remote.push(matches!(pick.key(), DestinationKey::Remote(..)));
    }
    assert_eq!(remote, [false, false, true, false]);
}

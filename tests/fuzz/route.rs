//! Where requests go: of whatever clusters, instances and suspicions there are, the plan uses what is well, nothing that it
//! must not, and the nearest first.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bolero::check;
use bolero::generator::*;
use isthmus_model::catalog::{AppProtocol, Endpoint, ServicePort};
use isthmus_model::health::{Capacity, Reach};
use isthmus_model::locality::Proximity;
use isthmus_model::route::{Destination, DestinationKey, Plan, WHOLE, plan};
use isthmus_model::snapshot::{Gateway, RemoteBackend, RemoteCluster, Service};

/// The port that is asked for, and one that is not.
const PORTS: [u16; 2] = [9080, 9081];
/// Shares are whole numbers: what rounding may shift.
const ROUNDED: u32 = 4;

/// An instance in the own cluster.
#[derive(Clone, Debug, TypeGenerator)]
struct Instance {
    ready: bool,
    has_port: bool,
    ejected: bool,
}

/// A gateway of another cluster.
#[derive(Clone, Debug, TypeGenerator)]
struct Way {
    #[generator(0..3_u8)]
    reach: u8,
    ejected: bool,
}

/// Another cluster's offer.
#[derive(Clone, Debug, TypeGenerator)]
struct Offer {
    #[generator(1..4_usize)]
    proximity: usize,
    has_port: bool,
    #[generator(0..5_u32)]
    ready: u32,
    #[generator(0..5_u32)]
    unready: u32,
    #[generator(produce::<Vec<Way>>().with().len(0..4_usize))]
    ways: Vec<Way>,
}

#[derive(Clone, Debug, TypeGenerator)]
struct World {
    exported_here: bool,
    #[generator(produce::<Vec<Instance>>().with().len(0..7_usize))]
    instances: Vec<Instance>,
    #[generator(produce::<Vec<Offer>>().with().len(0..5_usize))]
    offers: Vec<Offer>,
}

/// What is to be known of a destination that is offered and takes work.
#[derive(Debug)]
struct Fact {
    proximity: Proximity,
    /// The instances that it stands for.
    instances: f64,
    is_reachable: bool,
    is_suspected: bool,
}

fn host(index: usize) -> u8 {
    u8::try_from(index).expect("few")
}

fn instance_address(index: usize) -> SocketAddr {
    ([127, 0, 11, host(index)], 15006).into()
}

fn gateway_address(offer: usize, way: usize) -> SocketAddr {
    ([127, 1, host(offer), host(way)], 15443).into()
}

impl World {
    fn port(has_port: bool) -> u16 {
        PORTS[usize::from(!has_port)]
    }

    fn service(&self) -> Service {
        let endpoint = |(index, instance): (usize, &Instance)| Endpoint {
            address: instance_address(index).ip(),
            ports: BTreeMap::from([(Self::port(instance.has_port), 8080)]),
            sidecar_port: Some(instance_address(index).port()),
            workload: "shop/reviews".parse().expect("valid"),
            ready: instance.ready,
        };
        Service {
            name: "shop/reviews".parse().expect("valid"),
            vip: None,
            ports: vec![ServicePort { name: None, port: PORTS[0], protocol: AppProtocol::Http }],
            federated: true,
            exported_here: self.exported_here,
            endpoints: self.instances.iter().enumerate().map(endpoint).collect(),
            remotes: self.offers.iter().enumerate().map(|(index, offer)| offer.backend(index)).collect(),
            traffic: isthmus_model::traffic::TrafficPolicy::usual(),
            routes: isthmus_model::http_route::ServiceRoutes::default(),
        }
    }

    fn is_ejected(&self, key: &DestinationKey) -> bool {
        let instances = self.instances.iter().enumerate();
        let local = instances.map(|(index, instance)| (instance_address(index), instance.ejected));
        let remote = self.offers.iter().enumerate().flat_map(|(offer, offered)| {
            let ways = offered.ways.iter().enumerate();
            ways.map(move |(way, found)| (gateway_address(offer, way), found.ejected))
        });
        let (DestinationKey::Local(at) | DestinationKey::Remote(_, at)) = key;
        local.chain(remote).any(|(address, ejected)| address == *at && ejected)
    }

    /// Every destination that could serve at all.
    fn facts(&self) -> HashMap<SocketAddr, Fact> {
        let mut facts = HashMap::new();
        for (index, instance) in self.instances.iter().enumerate() {
            if self.exported_here && instance.has_port && instance.ready {
                let (proximity, is_suspected) = (Proximity::SameCluster, instance.ejected);
                let fact = Fact { proximity, instances: 1.0, is_reachable: true, is_suspected };
                facts.insert(instance_address(index), fact);
            }
        }
        for (index, offer) in self.offers.iter().enumerate() {
            for (way, found) in offer.ways.iter().enumerate() {
                if offer.has_port && offer.ready > 0 {
                    let fact = Fact {
                        proximity: Proximity::ALL[offer.proximity],
                        instances: f64::from(offer.ready) / f64::from(host(offer.ways.len())),
                        is_reachable: found.reach != 2,
                        is_suspected: found.ejected,
                    };
                    facts.insert(gateway_address(index, way), fact);
                }
            }
        }
        facts
    }

    fn plan(&self) -> Plan {
        plan(&self.service(), PORTS[0], |key| !self.is_ejected(key))
    }
}

impl Offer {
    fn backend(&self, index: usize) -> RemoteBackend {
        let gateway = |(way, found): (usize, &Way)| {
            let reach = [Reach::Up, Reach::Unknown, Reach::Down][usize::from(found.reach)];
            let name = format!("gw-{way}").parse().expect("valid");
            (way as u64, Gateway { name, east_west: gateway_address(index, way), reach })
        };
        let cluster = RemoteCluster {
            name: format!("c{index}").parse().expect("valid"),
            locality: "us-east-1".parse().expect("valid"),
            proximity: Proximity::ALL[self.proximity],
            gateways: self.ways.iter().enumerate().map(gateway).collect(),
        };
        RemoteBackend {
            cluster: Arc::new(cluster),
            ports: vec![World::port(self.has_port)],
            identities: BTreeSet::new(),
            terminated: false,
            capacity: Capacity { ready: self.ready, total: self.ready + self.unready },
        }
    }
}

fn address(destination: &Destination) -> SocketAddr {
    let (DestinationKey::Local(at) | DestinationKey::Remote(_, at)) = destination.key(PORTS[0]);
    at
}

/// Shares are everything, and go on to a farther level only when the nearer ones have what they can take.
fn shares_are_right(plan: &Plan) {
    let levels = &plan.levels;
    assert!(levels.iter().all(|level| level.share <= WHOLE && (1..=WHOLE).contains(&level.able)));
    assert!(levels.is_empty() || levels.iter().map(|level| level.share).sum::<u32>() == WHOLE);
    assert!(levels.is_sorted_by(|nearer, farther| nearer.proximity < farther.proximity));
    for (index, level) in levels.iter().enumerate().filter(|(_, level)| level.share > 0) {
        assert!(levels[..index].iter().all(|nearer| nearer.share >= nearer.able), "{level:?} before its turn");
    }
}

/// What is in a plan could serve, and what is well is in it.
fn members_are_right(plan: &Plan, facts: &HashMap<SocketAddr, Fact>) {
    let members: Vec<_> =
        plan.levels.iter().flat_map(|level| level.destinations.iter().map(move |d| (level, d))).collect();
    let chosen: HashSet<SocketAddr> = members.iter().map(|(_, destination)| address(destination)).collect();
    assert_eq!(chosen.len(), members.len(), "each once");
    assert_eq!(chosen.is_empty(), facts.is_empty(), "there is a plan if anything could serve");
    for (level, destination) in members {
        let fact = facts.get(&address(destination)).expect("it is offered on this port, and takes work");
        assert_eq!(fact.proximity, level.proximity);
        if !fact.is_reachable {
            assert!(facts.values().all(|other| !other.is_reachable), "something else is left");
        } else if fact.is_suspected {
            let level = || facts.values().filter(|other| other.proximity == fact.proximity && other.is_reachable);
            let free: f64 = level().filter(|other| !other.is_suspected).map(|other| other.instances).sum();
            let all: f64 = level().map(|other| other.instances).sum();
            assert!(free < 0.501 * all, "{free} of {all} are free of suspicion");
        }
    }
    let well = facts.iter().filter(|(_, fact)| fact.is_reachable && !fact.is_suspected);
    well.for_each(|(at, _)| assert!(chosen.contains(at), "{at} is well"));
}

/// Each request tries every level once, beginning with each as often as its share says.
fn orders_are_right(plan: &Plan) {
    let mut first = vec![0; plan.levels.len()];
    for random in 0..WHOLE {
        let order: Vec<_> = plan.order(random).map(|level| level.proximity).collect();
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), plan.levels.len());
        assert!(order.get(1..).is_none_or(<[_]>::is_sorted), "the others nearest first");
        if let Some(begun) = order.first() {
            first[plan.levels.iter().position(|level| level.proximity == *begun).expect("of the plan")] += 1;
        }
    }
    assert_eq!(first, plan.levels.iter().map(|level| level.share).collect::<Vec<_>>());
}

#[test]
fn plans() {
    check!().with_iterations(10_000).with_type::<World>().for_each(|world| {
        let plan = world.plan();
        shares_are_right(&plan);
        members_are_right(&plan, &world.facts());
        if world.instances.len() == 1 {
            orders_are_right(&plan);
        }
    });
}

#[test]
fn one_more_instance_that_is_well_sends_no_more_away() {
    check!().with_iterations(5_000).with_type::<World>().for_each(|world| {
        let mut world = world.clone();
        world.instances.iter_mut().for_each(|instance| instance.ejected = false);
        world.offers.iter_mut().flat_map(|offer| &mut offer.ways).for_each(|way| way.ejected = false);
        let share = |world: &World| {
            let plan = world.plan();
            let own = plan.levels.iter().find(|level| level.proximity == Proximity::SameCluster);
            own.map_or(0, |level| level.share)
        };
        let before = share(&world);
        let Some(instance) = world.instances.iter_mut().find(|instance| !instance.ready) else { return };
        instance.ready = true;
        assert!(share(&world) + ROUNDED >= before, "{before} before, {} after", share(&world));
    });
}

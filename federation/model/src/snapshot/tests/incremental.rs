//! The view that is made out of the one before is the one that is made from nothing.

use proptest::prelude::*;

use super::*;
use crate::authorization::{Action, Authorization, Ruleset, Selector};
use crate::http_route::{Action as HttpAction, HeaderChange, HttpRoute, Match, Parent, PathMatch, Rule};
use crate::name::NamespacedName;
use crate::traffic::{Limits, TrafficPolicy};

const CLUSTERS: [&str; 4] = ["us-east", "us-west", "eu-central", "ap-south"];
/// Enough for maps of several nodes.
const SERVICES: u8 = 60;

/// Something that happens to a gateway of `us-east`.
#[derive(Clone, Debug)]
enum Step {
    Agreed(&'static str, Box<Command>),
    Joins(&'static str, u8),
    Runs(u8, bool, Vec<u8>),
    Stops(u8),
    /// A policy says who may call what, or no longer.
    Guards(u8, bool),
    /// Requests to it are treated otherwise, or as usual again.
    Treats(u8, Option<usize>),
    /// A route, by its number, is for these services and asks for a path of this length, or is gone.
    Routes(u8, Option<(Vec<u8>, usize)>),
    Hears(NodeId, PeerHealth),
    Forgets(NodeId),
    Fails(u8),
    Answers(u8),
    Leads(Option<&'static str>),
    /// The registry comes anew, as a snapshot from another replica: it shares nothing with the one before.
    Installed,
    Nothing,
}

fn name(number: u8) -> ServiceName {
    service(&format!("shop/s{number}"))
}

fn any_cluster() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&CLUSTERS[..])
}

fn any_agreed() -> impl Strategy<Value = Command> {
    let set = (0..SERVICES, 1..4_u16, any::<bool>()).prop_map(|(number, ports, raw)| {
        let protocol = if raw { AppProtocol::Tcp } else { AppProtocol::Http };
        let ports: Vec<ServicePort> = (0..ports).map(|n| port(80 + n, protocol, "p")).collect();
        Command::SetExport { service: name(number), export: export(&ports) }
    });
    let moved =
        (1..6_u64, 1..3_u8, prop::option::of(1..3_u16), any::<bool>()).prop_map(|(node, host, control, near)| {
            let control = control.map(|port| ([127, 0, 0, 1], port).into());
            let locality = if near { "us-east-1/b" } else { "eu-1/a" }.parse().expect("a locality");
            Command::UpdateNode { node, east_west: ([127, 0, 9, host], 15443).into(), control, locality }
        });
    let membership = (any_cluster(), 0..4_u8, any::<bool>()).prop_map(|(whose, kind, flag)| {
        let cluster = cluster(whose);
        match kind {
            0 => Command::Drain { cluster, draining: flag },
            1 => Command::Leave { cluster },
            2 => Command::Fence { cluster, why: "because".to_owned() },
            _ => Command::Unfence { cluster },
        }
    });
    prop_oneof![
        6 => set,
        3 => (0..SERVICES).prop_map(|number| Command::WithdrawExport { service: name(number) }),
        1 => moved,
        1 => membership,
        1 => Just(Command::StartRotation { root: fixture::root(0xbb, [fixture::FOUNDER]) }),
        1 => Just(Command::AbortRotation),
    ]
}

fn any_health() -> impl Strategy<Value = PeerHealth> {
    let reach = prop_oneof![Just(Reach::Unknown), Just(Reach::Up), Just(Reach::Down)];
    let services = prop::collection::btree_map(0..SERVICES, 0..3_u32, 0..4);
    (reach, prop::option::weighted(0.8, 1..3_u64), services).prop_map(|(reach, heard_at, services)| {
        let capacity = |(number, ready)| (name(number), Capacity { ready, total: 3 });
        let services = services.into_iter().map(capacity).collect();
        PeerHealth { reach, heard_at: heard_at.map(UnixMillis), stale: false, services }
    })
}

/// Of a few services, so that several routes are for one, and for such as are not there.
fn any_route() -> impl Strategy<Value = (u8, Option<(Vec<u8>, usize)>)> {
    let services = prop::collection::vec((SERVICES - 24)..(SERVICES - 16), 0..3);
    (0..4_u8, prop::option::weighted(0.7, (services, 1..3_usize)))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any_cluster(), any_agreed()).prop_map(|(origin, command)| Step::Agreed(origin, Box::new(command))),
        2 => (any_cluster(), 2..6_u8).prop_map(|(name, key)| Step::Joins(name, key)),
        3 => (0..SERVICES, any::<bool>(), prop::collection::vec(20..24_u8, 0..3))
            .prop_map(|(number, exported, hosts)| Step::Runs(number, exported, hosts)),
        1 => (0..SERVICES).prop_map(Step::Stops),
        1 => (0..3_u8, any::<bool>()).prop_map(|(number, guards)| Step::Guards(number, guards)),
        1 => (0..SERVICES, prop::option::of(1..3_usize)).prop_map(|(number, limit)| Step::Treats(number, limit)),
        3 => any_route().prop_map(|(number, route)| Step::Routes(number, route)),
        4 => (1..6_u64, any_health()).prop_map(|(node, health)| Step::Hears(node, health)),
        1 => (1..6_u64).prop_map(Step::Forgets),
        1 => (20..24_u8).prop_map(Step::Fails),
        1 => (20..24_u8).prop_map(Step::Answers),
        1 => prop::option::of(any_cluster()).prop_map(Step::Leads),
        1 => Just(Step::Installed),
        1 => Just(Step::Nothing),
    ]
}

/// A route for requests to some services, at a gateway too.
fn route_for(services: &[u8], length: usize) -> HttpRoute {
    let parent =
        |number: &u8| Parent::Service { service: name(*number), port: number.is_multiple_of(2).then_some(9080) };
    let gateway = Parent::Gateway { gateway: "public".to_owned(), section: None };
    let path = PathMatch::Prefix(format!("/{}", "a".repeat(length)));
    let rule = Rule {
        matches: vec![Match { path, ..Match::default() }],
        request_headers: HeaderChange::default(),
        response_headers: HeaderChange::default(),
        rewrite: None,
        action: HttpAction::Forward(Vec::new()),
        timeout: None,
    };
    let parents = services.iter().map(parent).chain([gateway]).collect();
    HttpRoute { parents, hostnames: Vec::new(), rules: Arc::from([rule]) }
}

impl World {
    /// Three clusters, and services that one or another of them offers.
    fn of_three() -> Self {
        let mut world = Self::new();
        for (name, locality, key) in [("us-west", "us-west-2/a", 2), ("eu-central", "eu-1/a", 3)] {
            world.join(introduction(name, "gw-1", locality, key));
        }
        for number in 0..SERVICES - 20 {
            world.export(CLUSTERS[usize::from(number % 3)], &format!("shop/s{number}"), http());
        }
        world
    }

    /// Does what a step says; what the registry refuses does not happen.
    fn go(&mut self, step: Step) {
        match step {
            Step::Agreed(origin, command) => {
                self.clock += 1;
                let entry = Entry { origin: cluster(origin), at: UnixMillis(self.clock), command: *command };
                // A refusal changes nothing, and this is not about refusals.
                let _ = self.registry.apply(&entry);
            }
            Step::Joins(name, key) => {
                let known = self.registry.nodes().values().any(|node| node.keys().any(|it| it.0[0] == key));
                let denied = self.registry.denied().contains_key(&Digest([key; 32]));
                if !known && !denied && !self.registry.tokens().contains_key(&TokenId::from_random([key; 8])) {
                    self.join(introduction(name, &format!("gw-{key}"), "us-east-1/b", key));
                }
            }
            Step::Runs(number, exported, hosts) => {
                let hosts: BTreeSet<u8> = hosts.into_iter().collect();
                let endpoints: Vec<Endpoint> = hosts.into_iter().map(endpoint).collect();
                self.runs(&format!("shop/s{number}"), exported, &endpoints);
            }
            Step::Stops(number) => drop(self.catalog.services.remove(&name(number))),
            Step::Guards(number, guards) => {
                let name = NamespacedName { namespace: name(number).namespace, name: format!("p{number}") };
                let says = Arc::new(Ruleset { action: Action::Allow, rules: Vec::new() });
                match guards {
                    true => drop(self.catalog.authorizations.insert(name, Authorization { selects: Vec::new(), says })),
                    false => drop(self.catalog.authorizations.remove(&name)),
                }
            }
            Step::Treats(number, None) => drop(self.catalog.traffic.remove(&name(number))),
            Step::Treats(number, Some(requests)) => {
                let limits = Limits { requests, ..Limits::default() };
                let policy = TrafficPolicy { limits, ..TrafficPolicy::default() };
                self.catalog.traffic.insert(name(number), Arc::new(policy));
            }
            Step::Routes(number, route) => {
                let key = NamespacedName { namespace: name(number).namespace, name: format!("r{number}") };
                match route {
                    Some((services, length)) => {
                        drop(self.catalog.routes.insert(key, Arc::new(route_for(&services, length))))
                    }
                    None => drop(self.catalog.routes.remove(&key)),
                }
            }
            Step::Hears(node, health) => drop(self.peers.insert(node, health)),
            Step::Forgets(node) => drop(self.peers.remove(&node)),
            Step::Fails(host) => {
                self.failed.insert(([127, 0, 11, host], 8080).into());
            }
            Step::Answers(host) => {
                self.failed.remove(&([127, 0, 11, host], 8080).into());
            }
            Step::Leads(leader) => self.agreement.leader = leader.map(cluster),
            Step::Installed => {
                let text = serde_json::to_string(&self.registry).expect("a registry is JSON");
                self.registry = serde_json::from_str(&text).expect("and reads back");
            }
            Step::Nothing => {}
        }
    }
}

proptest! {
    #[test]
    fn it_is_the_one_that_is_made_from_nothing(steps in prop::collection::vec(any_step(), 0..40)) {
        let mut world = World::of_three();
        let mut builder = Builder::new(world.sources());
        let mut last = builder.view().clone();
        for step in steps {
            let told = format!("{step:?}");
            world.go(step);
            let whole = world.sources().build(last.generation);
            let Some(next) = builder.next(world.sources()) else {
                prop_assert_eq!(&whole, &*last, "after {}", told);
                continue;
            };
            prop_assert_ne!(&whole, &*last, "after {}", told);
            prop_assert_eq!(&Snapshot { generation: last.generation + 1, ..whole }, &*next, "after {}", told);
            for (name, service) in &last.services {
                let moved = next.services.get(name).is_some_and(|it| it == service && !Arc::ptr_eq(it, service));
                prop_assert!(!moved, "{} is as before {}, but elsewhere", name, told);
            }
            last = next;
        }
    }
}

fn at(view: &Snapshot, host: u8) -> Vec<String> {
    view.at([127, 0, 11, host].into()).map(|service| service.name.to_string()).collect()
}

#[test]
fn the_services_at_an_address_are_found_and_those_that_moved_are_not() {
    let mut world = World::new();
    world.runs("shop/reviews", true, &[endpoint(21), endpoint(22)]);
    world.runs("shop/internal", false, &[endpoint(21)]);
    let mut builder = Builder::new(world.sources());
    let view = builder.view().clone();
    assert_eq!(at(&view, 21), ["shop/internal", "shop/reviews"]);
    assert_eq!(at(&view, 22), ["shop/reviews"]);
    assert!(at(&view, 20).is_empty() && at(&view, 23).is_empty());

    world.runs("shop/reviews", true, &[endpoint(23)]);
    let view = builder.next(world.sources()).expect("news");
    assert_eq!(at(&view, 21), ["shop/internal"]);
    assert!(at(&view, 22).is_empty());
    assert_eq!(at(&view, 23), ["shop/reviews"]);
}

#[test]
fn a_service_is_treated_as_its_own_cluster_says() {
    let mut world = World::of_three();
    let limits = Limits { requests: 1, ..Limits::default() };
    world.catalog.traffic.insert(name(1), Arc::new(TrafficPolicy { limits, ..TrafficPolicy::default() }));
    let mut builder = Builder::new(world.sources());
    let requests = |view: &Snapshot, number| view.services[&name(number)].traffic.limits.requests;
    let view = builder.view().clone();
    assert_eq!((requests(&view, 1), requests(&view, 2)), (1, Limits::default().requests));
    world.catalog.traffic.remove(&name(1));
    let view = builder.next(world.sources()).expect("news");
    assert_eq!(requests(&view, 1), Limits::default().requests);
}

#[test]
fn a_service_has_its_routes_and_keeps_its_place_if_they_stay() {
    let mut world = World::of_three();
    let named = |text: &str| NamespacedName { namespace: name(0).namespace, name: text.to_owned() };
    world.catalog.routes.insert(named("b"), Arc::new(route_for(&[1, 2], 1)));
    let mut builder = Builder::new(world.sources());
    let routes = |view: &Snapshot, number| view.services[&name(number)].routes.routes().len();
    let view = builder.view().clone();
    assert_eq!((routes(&view, 1), routes(&view, 2), routes(&view, 3)), (1, 1, 0));
    world.catalog.routes.insert(named("a"), Arc::new(route_for(&[2, 3], 2)));
    let next = builder.next(world.sources()).expect("news");
    assert_eq!((routes(&next, 1), routes(&next, 2), routes(&next, 3)), (1, 2, 1));
    assert!(Arc::ptr_eq(&view.services[&name(1)], &next.services[&name(1)]));
    // What it says about a gateway is nothing to its services.
    let mut other = route_for(&[2, 3], 2);
    other.hostnames = vec!["a.example".parse().expect("valid")];
    world.catalog.routes.insert(named("a"), Arc::new(other));
    let same = builder.next(world.sources()).expect("news for the gateway");
    assert!((0..4).all(|number| Arc::ptr_eq(&next.services[&name(number)], &same.services[&name(number)])));
    world.catalog.routes.remove(&named("b"));
    let next = builder.next(world.sources()).expect("news");
    assert_eq!((routes(&next, 1), routes(&next, 2), routes(&next, 3)), (0, 1, 1));
}

#[test]
fn a_policy_is_about_whom_it_selects() {
    let mut world = World::new();
    world.runs("shop/reviews", true, &[endpoint(21)]);
    let builder = Builder::new(world.sources());
    let mut view = Snapshot::clone(builder.view());
    let workload = |text: &str| text.parse().expect("a workload");
    for (number, selector) in [
        Selector::All,
        Selector::Namespace("shop".parse().expect("a label")),
        Selector::Workload(workload("shop/reviews")),
        Selector::Service(service("shop/reviews")),
    ]
    .into_iter()
    .enumerate()
    {
        let name = NamespacedName { namespace: "shop".parse().expect("a label"), name: format!("p{number}") };
        let says = Arc::new(Ruleset { action: Action::Deny, rules: Vec::new() });
        view.authorizations.insert(name, Authorization { selects: vec![selector], says });
    }
    let about = |text, host| {
        let name = workload(text);
        let rules = view.rules_about(Some(&name), [127, 0, 11, host].into());
        rules.map(|(name, _)| name.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(about("shop/reviews", 21), ["p0", "p1", "p2", "p3"]);
    assert_eq!(about("shop/ratings", 22), ["p0", "p1"]);
    assert_eq!(about("bank/reviews", 21), ["p0", "p3"]);
    assert_eq!(about("bank/vault", 22), ["p0"]);
}

#[test]
fn what_is_offered_follows_what_is_exported_and_answers() {
    let mut world = World::new();
    world.runs("shop/reviews", true, &[endpoint(21), endpoint(22)]);
    world.runs("shop/internal", false, &[endpoint(21)]);
    world.failed.insert(([127, 0, 11, 21], 8080).into());
    let mut builder = Builder::new(world.sources());
    let view = builder.view().clone();
    let offered: Vec<_> = view.offered.iter().map(|(name, capacity)| (name.to_string(), *capacity)).collect();
    assert_eq!(offered, [("shop/reviews".to_owned(), Capacity { ready: 1, total: 2 })]);
    world.runs("shop/reviews", false, &[endpoint(21), endpoint(22)]);
    assert!(builder.next(world.sources()).expect("news").offered.is_empty());
}

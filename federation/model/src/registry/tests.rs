//! The registry by example: every refusal, and that it changes nothing; redemption; ownership; limits.
//! What holds for *any* sequence of entries is in [`properties`].

mod departures;
mod flood;
mod form;
mod properties;
mod rotation;
mod tokens;

use super::exports::Exported;
use super::node::ISSUED_MAX;
use super::token::{Grant, TOKEN_USES_MAX};
use super::*;
use crate::catalog::{AppProtocol, Export, IDENTITIES_PER_EXPORT_MAX, PORTS_PER_SERVICE_MAX, ServicePort};
use crate::fixture::{self, FOUNDER, ROOT, issue, join, requests};
use crate::name::{Label, ServiceName};

const MINUTE: u64 = 60_000;
const SECRET: Digest = Digest([7; 32]);

fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a cluster name")
}

fn service(name: &str) -> ServiceName {
    name.parse().expect("a service name")
}

fn introduction(name: &str, key: u8) -> Introduction {
    fixture::introduction(name, "gw-1", "us-east-1/a", key)
}

fn gateway(name: &str) -> Label {
    name.parse().expect("a label")
}

fn found_by(founder: Introduction) -> Command {
    fixture::found("acme.mesh".parse().expect("a domain"), founder)
}

fn token_id(number: u8) -> TokenId {
    TokenId::from_random([number; 8])
}

fn mint(number: u8, grant: Grant) -> Command {
    let (secret_hash, expires_at) = (SECRET, UnixMillis(10 * MINUTE));
    Command::MintToken {
        id: token_id(number),
        secret_hash,
        grant,
        expires_at,
        gateway: gateway("gw-1"),
        root: Digest([ROOT; 32]),
    }
}

/// A join token's grant, changed.
fn invite(name: &str, change: impl FnOnce(&mut token::Invitation)) -> Grant {
    match join(name) {
        Grant::Join(mut invitation) => {
            change(&mut invitation);
            Grant::Join(invitation)
        }
        other @ Grant::Workload { .. } => other,
    }
}

fn workload(name: &str) -> Grant {
    Grant::Workload { cluster: cluster(name), workload: "shop/reviews".parse().expect("a workload") }
}

fn redeem(number: u8, newcomer: Introduction) -> Command {
    redeem_from(number, newcomer, None)
}

fn redeem_from(number: u8, newcomer: Introduction, from: Option<std::net::IpAddr>) -> Command {
    Command::RedeemToken { id: token_id(number), secret_hash: SECRET, newcomer, from }
}

fn export(ports: impl IntoIterator<Item = u16>) -> Export {
    let port = |port| ServicePort { name: None, port, protocol: AppProtocol::Http };
    Export { ports: ports.into_iter().map(port).collect(), identities: BTreeSet::new(), terminated: false }
}

fn set(name: &str, export: Export) -> Command {
    Command::SetExport { service: service(name), export }
}

/// What `us-east` offers.
fn offer(fed: &Federated, name: &str) -> Arc<Exported> {
    fed.registry.exports()[&service(name)].get(&cluster("us-east")).expect("on offer").clone()
}

fn entry(origin: &str, at: u64, command: Command) -> Entry {
    Entry { origin: cluster(origin), at: UnixMillis(at), command }
}

/// A registry and the clock of its leader.
struct Federated {
    registry: Registry,
    now: u64,
}

impl Federated {
    /// `us-east` founded it (node 1).
    fn new() -> Self {
        let mut new = Self { registry: Registry::default(), now: 1 };
        assert_eq!(new.apply("us-east", found_by(introduction("us-east", 1))), Ok(Outcome::Admitted { node: 1 }));
        new
    }

    /// `us-east` founded it (node 1) and `us-west` joined (node 2).
    fn of_two() -> Self {
        let mut two = Self::new();
        assert_eq!(two.joins(1, "us-west", 2), 2);
        two
    }

    /// A cluster joins with a token of the founder's.
    #[track_caller]
    fn joins(&mut self, token: u8, name: &str, key: u8) -> NodeId {
        self.changes("us-east", mint(token, join(name)));
        let admitted = self.apply("us-east", redeem(token, introduction(name, key)));
        let Ok(Outcome::Admitted { node }) = admitted else { panic!("not admitted: {admitted:?}") };
        self.changes("us-east", issue(node, key, ROOT));
        node
    }

    fn apply(&mut self, origin: &str, command: Command) -> Result<Outcome, Refusal> {
        self.registry.apply(&entry(origin, self.now, command))
    }

    #[track_caller]
    fn changes(&mut self, origin: &str, command: Command) {
        let revision = self.registry.revision();
        assert_eq!(self.apply(origin, command), Ok(Outcome::Changed));
        assert_eq!(self.registry.revision(), revision + 1);
    }

    #[track_caller]
    fn leaves_as_is(&mut self, origin: &str, command: Command) {
        let revision = self.registry.revision();
        assert_eq!(self.apply(origin, command), Ok(Outcome::Unchanged));
        assert_eq!(self.registry.revision(), revision);
    }

    #[track_caller]
    fn refuses(&mut self, origin: &str, command: Command, refusal: Refusal) {
        let before = self.registry.clone();
        assert_eq!(self.apply(origin, command), Err(refusal));
        assert_eq!(self.registry, before, "a refused entry changed something");
    }
}

#[test]
fn nothing_goes_before_the_founding() {
    let mut registry = Registry::default();
    let early = [
        mint(1, join("us-west")),
        Command::RevokeToken { id: token_id(1) },
        redeem(1, introduction("us-west", 2)),
        set("shop/reviews", export([9080])),
        Command::WithdrawExport { service: service("shop/reviews") },
    ];
    for command in early {
        assert_eq!(registry.apply(&entry("us-east", 5, command)), Err(Refusal::NotFounded));
    }
    assert_eq!(registry, Registry::default());
}

#[test]
fn a_federation_is_founded_once_and_the_founder_administers_it() {
    let mut fed = Federated::new();
    let federation = fed.registry.federation().expect("founded").clone();
    assert_eq!(federation.administrators, BTreeSet::from([cluster("us-east")]));
    assert!(federation.trust.is_keeper(&Digest([ROOT; 32]), FOUNDER) && federation.founded_at == UnixMillis(1));
    fed.now = 2;
    fed.leaves_as_is("us-east", found_by(introduction("us-east", 1)));
    let other = fixture::found("evil.mesh".parse().expect("a domain"), introduction("us-east", 1));
    fed.refuses("us-east", other, Refusal::AlreadyFounded { federation: federation.domain.clone() });
    let other_root = Command::Found {
        federation: federation.domain.clone(),
        root: fixture::root(9, [FOUNDER]),
        founder: introduction("us-east", 1),
        certificates: fixture::certificates(9),
    };
    fed.refuses("us-east", other_root, Refusal::AlreadyFounded { federation: federation.domain });
}

#[test]
fn who_is_no_member_proposes_nothing() {
    let mut fed = Federated::new();
    let refusal = || Refusal::NotMember { origin: cluster("nowhere") };
    fed.refuses("nowhere", mint(1, join("nowhere")), refusal());
    fed.refuses("nowhere", set("shop/reviews", export([9080])), refusal());
    fed.refuses("nowhere", Command::WithdrawExport { service: service("shop/reviews") }, refusal());
    fed.refuses("nowhere", Command::RevokeToken { id: token_id(1) }, refusal());
}

#[test]
fn a_key_names_one_gateway_and_a_repeated_redemption_tells_that_ones_id() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, join("us-west")));
    fed.changes("us-east", mint(3, join("eu-central")));
    let second = |key| Introduction { gateway: gateway("gw-2"), ..introduction("us-west", key) };
    let in_use = || Refusal::KeyInUse { cluster: cluster("us-west"), gateway: gateway("gw-1") };
    fed.refuses("us-west", redeem(2, second(2)), in_use());
    fed.refuses("us-east", redeem(3, introduction("eu-central", 2)), in_use());
    for _ in 0..2 {
        assert_eq!(fed.apply("us-west", redeem(2, second(3))), Ok(Outcome::Admitted { node: 3 }));
    }
    // A gateway that comes back without its registry but with its key stays the one that it is.
    fed.changes("us-west", mint(4, join("us-west")));
    for _ in 0..2 {
        assert_eq!(fed.apply("us-west", redeem(4, second(3))), Ok(Outcome::Admitted { node: 4 }));
    }
    fed.refuses("us-west", redeem(2, second(3)), Refusal::TokenUsed);
}

#[test]
fn other_clusters_are_invited_by_administrators_alone() {
    let mut fed = Federated::of_two();
    let refusal = || Refusal::NotAdministrator { origin: cluster("us-west") };
    for invited in ["eu-central", "us-east"] {
        fed.refuses("us-west", mint(4, join(invited)), refusal());
    }
    fed.refuses("us-west", mint(4, invite("us-west", |to| to.cluster = None)), refusal());
    // Its own further gateways are a cluster's own business.
    fed.changes("us-west", mint(4, join("us-west")));
    let second = Introduction { gateway: gateway("gw-2"), ..introduction("us-west", 5) };
    assert_eq!(fed.apply("us-west", redeem(4, second)), Ok(Outcome::Admitted { node: 3 }));
    // Minted while it was an administrator, presented when it is none any more.
    let administrator = |administrator| Command::SetAdministrator { cluster: cluster("us-west"), administrator };
    fed.changes("us-east", administrator(true));
    fed.changes("us-west", mint(5, join("eu-central")));
    fed.changes("us-east", administrator(false));
    fed.refuses("us-west", redeem(5, introduction("eu-central", 6)), refusal());
}

#[test]
fn a_gateway_is_where_other_machines_reach_it() {
    let mut fed = Federated::of_two();
    let moved = |address: &str| Command::UpdateNode {
        node: 2,
        east_west: address.parse().expect("an address"),
        control: None,
        locality: "us-west-2".parse().expect("a locality"),
    };
    for bad in [
        "0.0.0.0:1",
        "10.0.0.1:0",
        "169.254.169.254:80",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "[fe80::1]:1",
        "[::]:1",
        "[ff02::1]:1",
    ] {
        let address = bad.parse().expect("an address");
        fed.refuses("us-west", moved(bad), Refusal::BadAddress { address });
        let Command::UpdateNode { node, locality, .. } = moved(bad) else { unreachable!("it moves") };
        let east_west = "127.0.99.1:1".parse().expect("an address");
        let control = Command::UpdateNode { node, east_west, control: Some(address), locality };
        fed.refuses("us-west", control, Refusal::BadAddress { address });
    }
    // All on one machine, so far.
    fed.changes("us-west", moved("127.0.99.1:1"));
    for id in [1, 2] {
        let node = fed.registry.nodes.get_mut(&id).expect("a member");
        node.east_west = "10.0.0.1:15443".parse().expect("an address");
    }
    let address = "127.0.0.1:15443".parse().expect("an address");
    fed.refuses("us-west", moved("127.0.0.1:15443"), Refusal::BadAddress { address });
}

#[test]
fn a_cluster_changes_only_its_own_exports() {
    let mut fed = Federated::of_two();
    fed.changes("us-east", set("shop/reviews", export([9080])));
    let east = fed.registry.exports_of(&cluster("us-east"));
    // The origin decides whose record it is: us-west withdraws and sets its own, which leaves us-east's.
    fed.leaves_as_is("us-west", Command::WithdrawExport { service: service("shop/reviews") });
    fed.changes("us-west", set("shop/reviews", export([1])));
    fed.changes("us-west", Command::WithdrawExport { service: service("shop/reviews") });
    assert_eq!(fed.registry.exports_of(&cluster("us-east")), east);
    assert!(fed.registry.exports_of(&cluster("us-west")).is_empty());
}

#[test]
fn a_cluster_moves_only_its_own_gateways() {
    let mut fed = Federated::of_two();
    let moved = |node| Command::UpdateNode {
        node,
        east_west: ([127, 0, 99, 1], 15443).into(),
        control: None,
        locality: "mars-1".parse().expect("a locality"),
    };
    fed.refuses("us-west", moved(1), Refusal::NotOwner { origin: cluster("us-west") });
    fed.refuses("us-west", moved(99), Refusal::NodeUnknown { node: 99 });
    fed.changes("us-west", moved(2));
    fed.leaves_as_is("us-west", moved(2));
    assert_eq!(fed.registry.nodes()[&2].east_west.to_string(), "127.0.99.1:15443");
}

#[test]
fn an_export_keeps_its_age_until_it_is_withdrawn() {
    let mut fed = Federated::new();
    let since = |fed: &Federated| offer(fed, "shop/reviews").since;
    fed.now = 100;
    fed.changes("us-east", set("shop/reviews", export([9080])));
    fed.now = 200;
    fed.leaves_as_is("us-east", set("shop/reviews", export([9080])));
    fed.changes("us-east", set("shop/reviews", export([9080, 9081])));
    assert_eq!(since(&fed), UnixMillis(100));
    let vip = fed.registry.vips().get(&service("shop/reviews"));
    fed.changes("us-east", Command::WithdrawExport { service: service("shop/reviews") });
    assert!(fed.registry.exports().is_empty());
    fed.leaves_as_is("us-east", Command::WithdrawExport { service: service("shop/reviews") });
    fed.now = 300;
    fed.changes("us-east", set("shop/reviews", export([9080])));
    assert_eq!(since(&fed), UnixMillis(300));
    assert_eq!(fed.registry.vips().get(&service("shop/reviews")), vip, "the address survives a withdrawal");
}

#[test]
fn time_does_not_run_backwards_when_the_leader_changes() {
    let mut fed = Federated::new();
    fed.now = 1_000;
    fed.changes("us-east", set("shop/old", export([1])));
    fed.now = 10;
    fed.changes("us-east", set("shop/new", export([1])));
    assert_eq!(offer(&fed, "shop/new").since, UnixMillis(1_000));
}

#[test]
fn what_an_export_may_hold_is_limited() {
    let mut fed = Federated::new();
    let ports = |count: usize| (0..count).map(|port| u16::try_from(port).expect("few"));
    fed.changes("us-east", set("shop/reviews", export(ports(PORTS_PER_SERVICE_MAX))));
    let too_many = limit("ports of one service", PORTS_PER_SERVICE_MAX);
    fed.refuses("us-east", set("shop/reviews", export(ports(PORTS_PER_SERVICE_MAX + 1))), too_many);
    let mut crowd = export([80]);
    crowd.identities =
        (0..=IDENTITIES_PER_EXPORT_MAX).map(|n| format!("shop/sa-{n}").parse().expect("valid")).collect();
    let too_many = limit("identities of one export", IDENTITIES_PER_EXPORT_MAX);
    fed.refuses("us-east", set("shop/reviews", crowd), too_many);
}

#[test]
fn a_cluster_at_its_limit_of_exports_still_changes_and_withdraws_them() {
    let mut fed = Federated::of_two();
    let name = |number: usize| service(&format!("shop/s{number}"));
    for number in 0..EXPORTS_PER_CLUSTER_MAX {
        fed.changes("us-east", set(&name(number).to_string(), export([80])));
    }
    let too_many = limit("exports of one cluster", EXPORTS_PER_CLUSTER_MAX);
    fed.refuses("us-east", set("shop/more", export([80])), too_many);
    fed.changes("us-west", set("shop/more", export([80])));
    fed.changes("us-east", set("shop/s0", export([81])));
    fed.changes("us-east", Command::WithdrawExport { service: name(1) });
    fed.changes("us-east", set("shop/more", export([80])));
}

/// An offline root answers when its operator does.
#[test]
fn a_full_federation_still_takes_a_gateway_back() {
    let mut fed = Federated::new();
    for id in 2..=NODES_MAX as NodeId {
        let node = Node { gateway: gateway(&format!("gw-{id}")), issued: Vec::new(), ..fed.registry.nodes[&1].clone() };
        fed.registry.nodes.insert(id, node);
    }
    fed.registry.next_node = NODES_MAX as NodeId;
    fed.changes("us-east", mint(1, join("us-west")));
    fed.changes("us-east", mint(2, join("us-east")));
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), limit("gateways", NODES_MAX));
    let node = NODES_MAX as NodeId + 1;
    assert_eq!(fed.apply("us-east", redeem(2, introduction("us-east", 3))), Ok(Outcome::Admitted { node }));
}

#[test]
fn a_gateway_is_a_member_once_it_is_certified() {
    let mut fed = Federated::new();
    fed.changes("us-east", mint(1, join("us-west")));
    assert_eq!(fed.apply("us-east", redeem(1, introduction("us-west", 2))), Ok(Outcome::Admitted { node: 2 }));
    assert_eq!(fed.registry.clusters(), BTreeSet::from([&cluster("us-east")]));
    // Certificates of a root that does not sign, for a key that was not asked for, by one that keeps no root.
    fed.refuses("us-east", issue(2, 2, 9), Refusal::WrongIssuer);
    fed.leaves_as_is("us-east", issue(2, 3, ROOT));
    fed.changes("us-east", issue(2, 2, ROOT));
    assert_eq!(fed.registry.clusters().len(), 2);
    fed.leaves_as_is("us-east", issue(2, 2, ROOT));
    fed.refuses("us-east", issue(9, 2, ROOT), Refusal::NodeUnknown { node: 9 });
    fed.refuses("us-west", issue(1, 1, ROOT), Refusal::NotKeeper { origin: cluster("us-west") });
}

#[test]
fn a_renewal_asks_for_new_keys_and_the_old_ones_stay_known() {
    let mut fed = Federated::of_two();
    let renew = |node, key| Command::RequestCertificates { node, requests: requests(key) };
    fed.refuses("us-east", renew(2, 9), Refusal::NotOwner { origin: cluster("us-east") });
    let in_use = Refusal::KeyInUse { cluster: cluster("us-east"), gateway: gateway("gw-1") };
    fed.refuses("us-west", renew(2, 1), in_use);
    fed.changes("us-west", renew(2, 9));
    fed.leaves_as_is("us-west", renew(2, 9));
    assert!(fed.registry.nodes()[&2].is_certified(), "the old certificates are good meanwhile");
    fed.changes("us-east", issue(2, 9, ROOT));
    let node = &fed.registry.nodes()[&2];
    assert!(node.issued_for(&requests(2)).is_some() && node.issued_for(&requests(9)).is_some());
    assert_eq!(node.latest().map(|issued| issued.gateway_key), Some(Digest([9; 32])));
    // Keys that were asked for before these may be signed already: they are denied.
    fed.changes("us-west", renew(2, 10));
    fed.changes("us-west", renew(2, 11));
    assert!(fed.registry.denied().contains_key(&Digest([10; 32])));
    fed.changes("us-east", issue(2, 11, ROOT));
    // None that is valid is forgotten: then a fence could not deny it.
    for key in 12..9 + u8::try_from(ISSUED_MAX).expect("few") {
        fed.changes("us-west", renew(2, key));
        fed.changes("us-east", issue(2, key, ROOT));
    }
    fed.refuses("us-west", renew(2, 99), limit("valid certificates of one gateway", ISSUED_MAX));
}

#[test]
fn a_replaced_gateways_keys_are_denied_unless_it_came_back_with_them() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, join("us-west")));
    assert_eq!(fed.apply("us-west", redeem(2, introduction("us-west", 2))), Ok(Outcome::Admitted { node: 3 }));
    assert!(fed.registry.denied().is_empty());
    fed.changes("us-east", issue(3, 2, ROOT));
    fed.changes("us-west", mint(3, join("us-west")));
    assert_eq!(fed.apply("us-west", redeem(3, introduction("us-west", 4))), Ok(Outcome::Admitted { node: 4 }));
    assert!(fed.registry.denied().contains_key(&Digest([2; 32])));
    fed.changes("us-east", mint(4, join("us-west")));
    fed.refuses("us-east", redeem(4, introduction("us-west", 2)), Refusal::KeyDenied);
    // What it signed for workloads is trusted still, until the whole cluster is fenced.
    let authority = requests(2).authority_key;
    assert!(!fed.registry.denied().contains_key(&authority));
    fed.changes("us-east", issue(4, 4, ROOT));
    fed.changes("us-east", Command::Fence { cluster: cluster("us-west"), why: String::new() });
    assert!(fed.registry.denied().contains_key(&authority));
}

#[test]
fn the_audit_trail_tells_who_did_what_and_is_bounded() {
    let mut fed = Federated::of_two();
    let told: Vec<_> =
        fed.registry.audit().iter().map(|record| (record.origin.as_str(), record.event.clone())).collect();
    let (token, cluster, gateway) = (token_id(1), cluster("us-west"), gateway("gw-1"));
    assert_eq!(told[1], ("us-east", Event::TokenMinted { token: token.clone(), gateway: gateway.clone() }));
    assert_eq!(told[2].1, Event::TokenRedeemed { token, cluster, gateway, node: 2, from: None });
    assert!(matches!(told[3].1, Event::Certified { node: 2, .. }));
    for number in 0..audit::RECORDS_MAX {
        fed.changes(
            "us-east",
            Command::Drain { cluster: "us-west".parse().expect("valid"), draining: number % 2 == 0 },
        );
    }
    assert_eq!(fed.registry.audit().len(), audit::RECORDS_MAX);
}

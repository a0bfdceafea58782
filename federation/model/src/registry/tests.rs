//! The registry by example: every refusal, and that it changes nothing; redemption; ownership; limits.
//! What holds for *any* sequence of entries is in [`properties`].

mod properties;

use super::*;
use crate::catalog::{AppProtocol, IDENTITIES_PER_EXPORT_MAX, ServicePort};

const MINUTE: u64 = 60_000;
const SECRET: Digest = Digest([7; 32]);

fn cluster(name: &str) -> ClusterName {
    name.parse().expect("a cluster name")
}

fn service(name: &str) -> ServiceName {
    name.parse().expect("a service name")
}

fn introduction(name: &str, key: u8) -> Introduction {
    Introduction {
        cluster: cluster(name),
        gateway: "gw-1".parse().expect("a label"),
        locality: "us-east-1/a".parse().expect("a locality"),
        east_west: ([127, 0, 11, key], 15443).into(),
        key: Digest([key; 32]),
    }
}

fn found_by(founder: Introduction) -> Command {
    Command::Found { federation: "acme.mesh".parse().expect("a domain"), root: vec![1, 2, 3], founder }
}

fn token_id(number: u8) -> TokenId {
    TokenId::from_random([number; 8])
}

fn mint(number: u8, grant: Grant) -> Command {
    Command::MintToken { id: token_id(number), secret_hash: SECRET, grant, expires_at: UnixMillis(10 * MINUTE) }
}

fn join(name: &str) -> Grant {
    Grant::Join { cluster: cluster(name) }
}

fn workload(name: &str) -> Grant {
    Grant::Workload { cluster: cluster(name), workload: "shop/reviews".parse().expect("a workload") }
}

fn redeem(number: u8, newcomer: Introduction) -> Command {
    Command::RedeemToken { id: token_id(number), secret_hash: SECRET, newcomer }
}

fn export(ports: impl IntoIterator<Item = u16>) -> Export {
    let port = |port| ServicePort { name: None, port, protocol: AppProtocol::Http };
    Export { ports: ports.into_iter().map(port).collect(), identities: BTreeSet::new(), terminated: false }
}

fn set(name: &str, export: Export) -> Command {
    Command::SetExport { service: service(name), export }
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
        two.changes("us-east", mint(1, join("us-west")));
        assert_eq!(two.apply("us-east", redeem(1, introduction("us-west", 2))), Ok(Outcome::Admitted { node: 2 }));
        two
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
fn a_federation_is_founded_once_and_the_founder_is_custodian() {
    let mut fed = Federated::new();
    let federation = fed.registry.federation().expect("founded").clone();
    assert_eq!((federation.custodian, federation.founded_at), (1, UnixMillis(1)));
    fed.now = 2;
    fed.leaves_as_is("us-east", found_by(introduction("us-east", 1)));
    let other = Command::Found {
        federation: "evil.mesh".parse().expect("a domain"),
        root: vec![1, 2, 3],
        founder: introduction("us-east", 1),
    };
    fed.refuses("us-east", other, Refusal::AlreadyFounded { federation: federation.domain.clone() });
    let other_root =
        Command::Found { federation: federation.domain.clone(), root: vec![9], founder: introduction("us-east", 1) };
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
fn a_join_token_admits_once_and_the_same_key_again() {
    let mut fed = Federated::of_two();
    assert_eq!(fed.registry.clusters().len(), 2);
    // The answer was lost: the newcomer asks again and hears the same, without a second node.
    let revision = fed.registry.revision();
    let again = redeem(1, introduction("us-west", 2));
    assert_eq!(fed.apply("us-west", again.clone()), Ok(Outcome::Admitted { node: 2 }));
    assert_eq!(fed.registry.nodes().len(), 2);
    assert_eq!(fed.registry.revision(), revision, "a repeated redemption changes nothing");
    // Somebody else with the same token.
    fed.refuses("us-east", redeem(1, introduction("us-west", 3)), Refusal::TokenUsed);
    // Later than the token's end, the same key still resumes, and others still hear that it was used.
    fed.now = 11 * MINUTE;
    assert_eq!(fed.apply("us-east", again), Ok(Outcome::Admitted { node: 2 }));
    fed.refuses("us-east", redeem(1, introduction("us-west", 3)), Refusal::TokenUsed);
}

#[test]
fn a_used_token_does_not_bring_back_a_gateway_that_was_replaced() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, join("us-west")));
    assert_eq!(fed.apply("us-east", redeem(2, introduction("us-west", 3))), Ok(Outcome::Admitted { node: 3 }));
    assert_eq!(fed.registry.nodes().keys().copied().collect::<Vec<_>>(), [1, 3], "node 2 was replaced");
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), Refusal::TokenUsed);
}

#[test]
fn a_key_names_one_gateway_and_a_repeated_redemption_tells_that_ones_id() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, join("us-west")));
    fed.changes("us-east", mint(3, join("eu-central")));
    let second = |key| Introduction { gateway: "gw-2".parse().expect("a label"), ..introduction("us-west", key) };
    let in_use = || Refusal::KeyInUse { cluster: cluster("us-west"), gateway: "gw-1".parse().expect("a label") };
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
fn every_bad_token_has_its_own_refusal() {
    let mut fed = Federated::new();
    fed.changes("us-east", mint(1, join("us-west")));
    fed.changes("us-east", mint(2, workload("us-east")));
    fed.changes("us-east", mint(3, join("us-west")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(3) });
    let west = || introduction("us-west", 2);

    fed.refuses("us-east", redeem(9, west()), Refusal::TokenUnknown);
    let tampered = Command::RedeemToken { id: token_id(1), secret_hash: Digest([8; 32]), newcomer: west() };
    fed.refuses("us-east", tampered, Refusal::TokenSecretMismatch);
    let wrong = Refusal::TokenWrongCluster { granted: cluster("us-west"), presented: cluster("eu-central") };
    fed.refuses("us-east", redeem(1, introduction("eu-central", 2)), wrong);
    fed.refuses("us-east", redeem(2, introduction("us-east", 2)), Refusal::TokenWrongKind);
    fed.refuses("us-east", redeem(3, west()), Refusal::TokenRevoked);
    fed.now = 10 * MINUTE - 1;
    let mut in_time = fed.registry.clone();
    assert!(in_time.apply(&entry("us-east", fed.now, redeem(1, west()))).is_ok(), "the last valid moment");
    fed.now += 1;
    fed.refuses("us-east", redeem(1, west()), Refusal::TokenExpired);
}

#[test]
fn nothing_about_a_token_is_told_without_its_secret() {
    let mut fed = Federated::of_two();
    fed.changes("us-east", mint(2, workload("us-east")));
    fed.changes("us-east", mint(3, join("eu-central")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(3) });
    for number in 1..=3 {
        let guess = Command::RedeemToken {
            id: token_id(number),
            secret_hash: Digest([0; 32]),
            newcomer: introduction("nowhere", 9),
        };
        fed.refuses("us-east", guess, Refusal::TokenSecretMismatch);
        let token = fed.registry.token(&token_id(number)).expect("on record");
        let vouched = token.vouches(&Digest([0; 32]), &cluster("us-east"), UnixMillis(1));
        assert_eq!(vouched, Err(Refusal::TokenSecretMismatch));
    }
}

#[test]
fn revoking_works_until_a_token_is_used() {
    let mut fed = Federated::of_two();
    fed.refuses("us-east", Command::RevokeToken { id: token_id(9) }, Refusal::TokenUnknown);
    fed.refuses("us-east", Command::RevokeToken { id: token_id(1) }, Refusal::TokenUsed);
    fed.changes("us-east", mint(2, join("eu-central")));
    fed.changes("us-east", Command::RevokeToken { id: token_id(2) });
    fed.leaves_as_is("us-west", Command::RevokeToken { id: token_id(2) });
}

#[test]
fn a_workload_token_vouches_many_times_until_it_ends() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, workload("us-west")));
    fed.changes("us-west", mint(3, workload("us-west")));
    fed.changes("us-west", Command::RevokeToken { id: token_id(3) });
    let (west, soon) = (cluster("us-west"), UnixMillis(MINUTE));
    let vouched = |number, cluster, at| {
        let token = fed.registry.token(&token_id(number)).expect("on record");
        token.vouches(&SECRET, cluster, at).map(ToString::to_string)
    };
    assert_eq!(vouched(2, &west, soon).as_deref(), Ok("shop/reviews"));
    assert_eq!(vouched(2, &west, soon).as_deref(), Ok("shop/reviews"), "a second sidecar of the workload");
    assert_eq!(vouched(2, &west, UnixMillis(10 * MINUTE)), Err(Refusal::TokenExpired));
    assert_eq!(vouched(3, &west, soon), Err(Refusal::TokenRevoked));
    assert_eq!(vouched(1, &west, soon), Err(Refusal::TokenWrongKind));
    let wrong = Refusal::TokenWrongCluster { granted: west.clone(), presented: cluster("us-east") };
    assert_eq!(vouched(2, &cluster("us-east"), soon), Err(wrong));
}

#[test]
fn a_cluster_mints_workload_tokens_only_for_itself() {
    let mut fed = Federated::of_two();
    let refusal = || Refusal::NotOwner { origin: cluster("us-west") };
    fed.refuses("us-west", mint(2, workload("us-east")), refusal());
    fed.refuses("us-west", mint(2, workload("nowhere")), refusal());
    // Not even the custodian's cluster: sidecars get their identity from their own gateway alone.
    fed.refuses("us-east", mint(2, workload("us-west")), Refusal::NotOwner { origin: cluster("us-east") });
}

#[test]
fn a_member_cannot_invite_itself_into_another_members_cluster() {
    let mut fed = Federated::of_two();
    fed.changes("us-west", mint(2, join("eu-central")));
    fed.changes("us-west", mint(3, join("eu-central")));
    assert_eq!(fed.apply("us-west", redeem(2, introduction("eu-central", 3))), Ok(Outcome::Admitted { node: 3 }));

    let refusal = |of: &str| Refusal::TokenNotYours { origin: cluster("us-west"), cluster: cluster(of) };
    fed.refuses("us-west", mint(4, join("us-east")), refusal("us-east"));
    // Minted before eu-central was a member, presented after: it would be a second way into eu-central.
    fed.refuses("us-west", redeem(3, introduction("eu-central", 4)), refusal("eu-central"));
    // The cluster itself and the custodian's cluster may.
    fed.changes("eu-central", mint(4, join("eu-central")));
    fed.changes("us-east", mint(5, join("eu-central")));
    assert_eq!(fed.apply("us-west", redeem(4, introduction("eu-central", 5))), Ok(Outcome::Admitted { node: 4 }));
}

#[test]
fn minting_again_is_idempotent_and_another_token_of_the_same_id_conflicts() {
    let mut fed = Federated::new();
    fed.changes("us-east", mint(1, join("us-west")));
    fed.now = 2;
    fed.leaves_as_is("us-east", mint(1, join("us-west")));
    fed.refuses("us-east", mint(1, join("eu-central")), Refusal::TokenConflict);
    let mut later = mint(1, join("us-west"));
    if let Command::MintToken { expires_at, .. } = &mut later {
        *expires_at = UnixMillis(20 * MINUTE);
    }
    fed.refuses("us-east", later, Refusal::TokenConflict);
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
        locality: "mars-1".parse().expect("a locality"),
    };
    fed.refuses("us-west", moved(1), Refusal::NotOwner { origin: cluster("us-west") });
    fed.refuses("us-west", moved(99), Refusal::NotOwner { origin: cluster("us-west") });
    fed.changes("us-west", moved(2));
    fed.leaves_as_is("us-west", moved(2));
    assert_eq!(fed.registry.nodes()[&2].east_west.to_string(), "127.0.99.1:15443");
}

#[test]
fn an_export_keeps_its_age_until_it_is_withdrawn() {
    let mut fed = Federated::new();
    let since = |fed: &Federated| fed.registry.exports()[&service("shop/reviews")][&cluster("us-east")].since;
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
    assert_eq!(fed.registry.exports()[&service("shop/new")][&cluster("us-east")].since, UnixMillis(1_000));
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
    let offer = BTreeMap::from([(cluster("us-east"), Exported { export: export([80]), since: UnixMillis(1) })]);
    let name = |number: usize| service(&format!("shop/s{number}"));
    fed.registry.exports = (0..EXPORTS_PER_CLUSTER_MAX).map(|number| (name(number), offer.clone())).collect();
    let too_many = limit("exports of one cluster", EXPORTS_PER_CLUSTER_MAX);
    fed.refuses("us-east", set("shop/more", export([80])), too_many);
    fed.changes("us-west", set("shop/more", export([80])));
    fed.changes("us-east", set("shop/s0", export([81])));
    fed.changes("us-east", Command::WithdrawExport { service: name(1) });
    fed.changes("us-east", set("shop/more", export([80])));
}

#[test]
fn tokens_are_limited_and_the_long_expired_make_room() {
    let mut fed = Federated::new();
    let token = Token {
        secret_hash: SECRET,
        grant: join("us-west"),
        minted_by: cluster("us-east"),
        minted_at: UnixMillis(1),
        expires_at: UnixMillis(10 * MINUTE),
        state: TokenState::Open,
    };
    let id = |number: usize| TokenId::from_random((number as u64 + 1).to_be_bytes());
    fed.registry.tokens = (0..TOKENS_MAX).map(|number| (id(number), token.clone())).collect();
    fed.refuses("us-east", mint(255, join("eu-central")), limit("tokens", TOKENS_MAX));
    // A day after their end their records go; a refused mint does not sweep either.
    fed.now = UnixMillis(10 * MINUTE).saturating_add(TOKEN_RECORD_KEPT).0;
    fed.refuses("us-east", mint(255, workload("us-west")), Refusal::NotOwner { origin: cluster("us-east") });
    let fresh = Command::MintToken {
        id: token_id(255),
        secret_hash: SECRET,
        grant: join("eu-central"),
        expires_at: UnixMillis(u64::MAX),
    };
    fed.changes("us-east", fresh);
    assert_eq!(fed.registry.tokens().len(), 1);
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), Refusal::TokenUnknown);
}

#[test]
fn a_full_federation_still_takes_a_gateway_back() {
    let mut fed = Federated::new();
    for id in 2..=NODES_MAX as NodeId {
        let node = Node { gateway: format!("gw-{id}").parse().expect("a label"), ..fed.registry.nodes[&1].clone() };
        fed.registry.nodes.insert(id, node);
    }
    fed.registry.next_node = NODES_MAX as NodeId;
    fed.changes("us-east", mint(1, join("us-west")));
    fed.changes("us-east", mint(2, join("us-east")));
    fed.refuses("us-east", redeem(1, introduction("us-west", 2)), limit("gateways", NODES_MAX));
    let node = NODES_MAX as NodeId + 1;
    assert_eq!(fed.apply("us-east", redeem(2, introduction("us-east", 3))), Ok(Outcome::Admitted { node }));
    assert_eq!(fed.registry.federation().expect("founded").custodian, node, "the custodian's seat goes along");
}

//! A federation of three gateways in one process, over real sockets on ports that the kernel chose.

#![allow(clippy::panic)]

mod gateway;
#[path = "federation/snapshots.rs"]
mod snapshots;
#[path = "federation/versions.rs"]
mod versions;

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use gateway::{Gateway, PATIENCE, Place, SOON, founder, joined};
use isthmus_federation::ProposeError;
use isthmus_federation::dial::Connect;
use isthmus_federation::enroll::{self, EnrollError, Patience};
use isthmus_federation::status::Role;
use isthmus_identity::{BearerToken, GatewayKeys, OpeningKey, TokenSecret, sha256};
use isthmus_model::catalog::{AppProtocol, Export, ServicePort};
use isthmus_model::command::{Command, Introduction, Outcome, Refusal};
use isthmus_model::name::ServiceName;
use tokio::net::TcpListener;

fn export(port: u16) -> Export {
    let port = ServicePort { name: None, port, protocol: AppProtocol::Http };
    Export { ports: vec![port], identities: Default::default(), terminated: false }
}

fn reviews() -> ServiceName {
    "shop/reviews".parse().expect("valid")
}

fn set_export(port: u16) -> Command {
    Command::SetExport { service: reviews(), export: export(port) }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_gateways_join_vote_and_agree() {
    // A founder, and two that join through it.
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    let (_eu_place, eu) = joined("eu-central", &east).await;
    // With three clusters, all three vote.
    for gateway in [&east, &west, &eu] {
        gateway.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    }
    // A follower's write goes through the leader and is read everywhere, under the writer's name.
    west.handle.propose(set_export(9080)).await.expect("agreed");
    for gateway in [&east, &west, &eu] {
        gateway
            .sees("the export", |registry| {
                registry.exports_of(&"us-west".parse().expect("valid")).contains_key(&reviews())
            })
            .await;
    }
    for gateway in [eu, west, east] {
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_without_one_and_staleness_shows_without_two() {
    let (east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    let (_eu_place, eu) = joined("eu-central", &east).await;
    for gateway in [&east, &west, &eu] {
        gateway.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    }
    // The leader goes; the two others elect one of them and take writes.
    let east_address = east.address;
    east.stop().await;
    west.handle.propose(set_export(9080)).await.expect("two of three agree");
    // The other may lead: a follower hears of the commit with the next message.
    west.sees("the export", |registry| registry.exports().contains_key(&reviews())).await;
    // A second one goes; what is agreed stays readable, and its age shows.
    eu.stop().await;
    west.stands("staleness", |status| status.stale_since.is_some()).await;
    assert!(west.handle.registry().borrow().exports().contains_key(&reviews()));
    let refused = tokio::time::timeout(SOON, west.handle.propose(set_export(9081))).await.expect("gives up");
    assert!(matches!(refused, Err(ProposeError::NoQuorum { .. })), "{refused:?}");
    // The first comes back with its data: there is a quorum again, and nothing agreed is lost.
    let listener = TcpListener::bind(east_address).await.expect("binds again");
    let member = enroll::resume(&east_place.name, &east_place.data()).expect("reads").expect("a member");
    let east = Gateway::run(member, listener).await;
    west.stands("a quorum", |status| status.stale_since.is_none()).await;
    east.sees("the export made without it", |registry| registry.exports().contains_key(&reviews())).await;
    west.handle.propose(set_export(9082)).await.expect("agreed");
    east.stop().await;
    west.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_is_gone_is_replaced_so_that_another_may_go_too() {
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    let (_eu_place, eu) = joined("eu-central", &east).await;
    east.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    let (_ap_place, ap) = joined("ap-south", &east).await;
    for gateway in [&east, &west, &eu, &ap] {
        gateway.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    }
    eu.stop().await;
    east.stands("another one votes", |status| status.voters == [1, 2, 4]).await;
    ap.stands("it knows", |status| status.role == Role::Follower).await;
    // The root's key went to the newcomer among the voters, so that the next loss leaves somebody who can sign.
    east.sees("the root sealed to it", |registry| {
        registry.trust().is_some_and(|trust| trust.is_keeper(&trust.issuer().key, 4))
    })
    .await;
    east.stop().await;
    west.handle.propose(set_export(9080)).await.expect("two of three agree");
    for gateway in [ap, west] {
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_clock_jumps_ahead_stamps_nothing_and_leads_no_more() {
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    let (_eu_place, eu) = joined("eu-central", &east).await;
    for gateway in [&east, &west, &eu] {
        gateway.stands("three voters", |status| status.voters == [1, 2, 3]).await;
    }
    east.stands("it leads", |status| status.role == Role::Leader).await;
    let year = 365 * 24 * 3600;
    east.ahead.store(year, Ordering::Relaxed);

    // Its own writes and others' are agreed all the same, by a leader whose clock is right.
    east.handle.propose(set_export(9080)).await.expect("agreed");
    west.handle.propose(set_export(9081)).await.expect("agreed");
    west.stands("another leader", |status| status.leader.is_some_and(|leader| leader != 1)).await;
    for gateway in [&east, &west] {
        gateway
            .sees("both exports", |registry| registry.exports().get(&reviews()).is_some_and(|by| by.len() == 2))
            .await;
        let registry = gateway.handle.registry().borrow().clone();
        let latest = registry.exports()[&reviews()].values().map(|exported| exported.since).max();
        assert!(latest < Some((SystemTime::now() + Duration::from_secs(60)).into()), "{latest:?}");
    }

    // It follows meanwhile, and is a replica like any once its clock is right.
    east.ahead.store(0, Ordering::Relaxed);
    eu.stop().await;
    east.handle.propose(set_export(9082)).await.expect("its vote is needed, and counts");
    for gateway in [west, east] {
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_moved_tells_its_address() {
    let (_east_place, east) = founder().await;
    let (mut place, listener) = Place::new("us-west").await;
    let token = east.mint(&place, Duration::from_secs(60)).await;
    let member = enroll::join(&place.name, &place.data(), &token, PATIENCE, &Connect::tcp()).await.expect("joins");
    let west = Gateway::run(member, listener).await;
    west.stands("replication", |status| status.applied > 0 && status.role == Role::Learner).await;
    west.stop().await;
    // It restarts elsewhere.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let moved = listener.local_addr().expect("bound");
    place.name.east_west = moved;
    let member = enroll::resume(&place.name, &place.data()).expect("reads").expect("a member");
    let west = Gateway::run(member, listener).await;
    east.sees("the new address", |registry| registry.nodes().values().any(|node| node.east_west == moved)).await;
    // Replication follows it there.
    east.handle.propose(set_export(9080)).await.expect("agreed");
    west.sees("the export", |registry| registry.exports().contains_key(&reviews())).await;
    west.stop().await;
    east.stop().await;
}

async fn refusal(place: &Place, token: &BearerToken) -> EnrollError {
    match enroll::join(&place.name, &place.data(), token, PATIENCE, &Connect::tcp()).await {
        Ok(_) => panic!("the token was accepted"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_has_its_own_answer_and_changes_nothing() {
    let (_east_place, east) = founder().await;
    let (place, _listener) = Place::new("us-west").await;
    let good = east.mint(&place, Duration::from_secs(60)).await;
    let expired = east.mint(&place, Duration::ZERO).await;
    let revoked = east.mint(&place, Duration::from_secs(60)).await;
    east.handle.propose(Command::RevokeToken { id: revoked.id.clone() }).await.expect("revokes");
    let before = east.handle.registry().borrow().revision();

    // Wrong for this configuration: told without asking anyone.
    let mut elsewhere = Place::new("eu-central").await.0;
    assert!(matches!(refusal(&elsewhere, &good).await, EnrollError::WrongCluster { .. }));
    elsewhere.name.federation = "other.mesh".parse().expect("valid");
    assert!(matches!(refusal(&elsewhere, &good).await, EnrollError::WrongFederation { .. }));
    // A root that is not the federation's: told before the secret leaves.
    let foreign = BearerToken { root: sha256(b"another root"), ..good.clone() };
    assert!(matches!(refusal(&place, &foreign).await, EnrollError::WrongRoot { .. }));
    // Told by the registry.
    let tampered = BearerToken { secret: TokenSecret::from_slice(&[7; 32]).expect("32 bytes"), ..good.clone() };
    assert!(matches!(refusal(&place, &tampered).await, EnrollError::Refused(Refusal::TokenSecretMismatch)));
    let unknown = BearerToken { id: "00000000000000ff".parse().expect("valid"), ..good.clone() };
    assert!(matches!(refusal(&place, &unknown).await, EnrollError::Refused(Refusal::TokenUnknown)));
    assert!(matches!(refusal(&place, &expired).await, EnrollError::Refused(Refusal::TokenExpired)));
    assert!(matches!(refusal(&place, &revoked).await, EnrollError::Refused(Refusal::TokenRevoked)));
    // Nobody there.
    let nowhere = BearerToken { contacts: vec![([127, 0, 0, 1], 1).into()], ..good.clone() };
    assert!(matches!(refusal(&place, &nowhere).await, EnrollError::Unreachable { .. }));
    assert_eq!(east.handle.registry().borrow().revision(), before, "nothing was written");

    // The good one works, and again for the same key; for another key it is used.
    let joined = enroll::join(&place.name, &place.data(), &good, PATIENCE, &Connect::tcp()).await.expect("joins");
    assert_eq!(joined.node, 2);
    let (other, _listener) = Place::new("us-west").await;
    assert!(matches!(refusal(&other, &good).await, EnrollError::Refused(Refusal::TokenUsed)));
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_concurrent_redemptions_one_wins() {
    let (_east_place, east) = founder().await;
    let (place, _listener) = Place::new("us-west").await;
    let token = east.mint(&place, Duration::from_secs(60)).await;
    let attempts = (0..100).map(|_| {
        let token = token.clone();
        tokio::spawn(async move {
            let (place, _listener) = Place::new("us-west").await;
            enroll::join(&place.name, &place.data(), &token, PATIENCE, &Connect::tcp()).await.map(|member| member.node)
        })
    });
    let mut admitted = Vec::new();
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.expect("no panic") {
            Ok(node) => admitted.push(node),
            // Those that came while the bound on joins at once was reached gave up after their deadline.
            Err(EnrollError::Refused(Refusal::TokenUsed) | EnrollError::Unreachable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(admitted, [2], "exactly one certificate");
    let registry = east.handle.registry().borrow().clone();
    assert_eq!(registry.nodes().len(), 2);
    assert_eq!(registry.token(&token.id).expect("known").redemptions.len(), 1);
    east.stop().await;
}

/// What a newcomer says of itself, with its keys on disk.
fn introduction(place: &Place) -> Introduction {
    let keys = GatewayKeys::load_or_generate(&place.data().next_identity()).expect("saves");
    let opening_key = OpeningKey::generate().expect("generates");
    opening_key.save(&place.data().sealing_key()).expect("saves");
    Introduction {
        cluster: place.name.cluster.clone(),
        gateway: place.name.gateway.clone(),
        locality: place.name.locality.clone(),
        east_west: place.name.east_west,
        sealing_key: opening_key.public(),
        requests: keys.requests().expect("requests"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_whose_answer_was_lost_is_the_same_join_again() {
    let (_east_place, east) = founder().await;
    let (place, _listener) = Place::new("us-west").await;
    let token = east.mint(&place, Duration::from_secs(60)).await;
    // The newcomer's keys are on disk before it asks. Its redemption is agreed, but it dies before it hears.
    let newcomer = introduction(&place);
    let redeem = Command::RedeemToken { id: token.id.clone(), secret_hash: token.secret.hash(), newcomer, from: None };
    let first = east.handle.propose(redeem).await.expect("redeems");
    assert_eq!(first, Outcome::Admitted { node: 2 });
    // It starts again with the same token.
    let member = enroll::join(&place.name, &place.data(), &token, PATIENCE, &Connect::tcp()).await.expect("joins");
    assert_eq!(member.node, 2);
    assert_eq!(east.handle.registry().borrow().nodes().len(), 2);
    east.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_outlives_the_leader_that_took_it() {
    // Three voters, each of which can open the root's key.
    let (_east_place, east) = founder().await;
    let (_west_place, west) = joined("us-west", &east).await;
    let (_eu_place, eu) = joined("eu-central", &east).await;
    for gateway in [&west, &eu] {
        gateway
            .sees("the root's key sealed to all three", |registry| {
                let keeps = |node| registry.trust().is_some_and(|trust| trust.is_keeper(&trust.issuer().key, node));
                [1, 2, 3].into_iter().all(keeps)
            })
            .await;
    }
    // The redemption is agreed, and the leader is gone.
    let (place, _listener) = Place::new("ap-south").await;
    let mut token = east.mint(&place, Duration::from_secs(60)).await;
    let newcomer = introduction(&place);
    let redeem = Command::RedeemToken { id: token.id.clone(), secret_hash: token.secret.hash(), newcomer, from: None };
    assert_eq!(east.handle.propose(redeem).await.expect("redeems"), Outcome::Admitted { node: 4 });
    eu.sees("the redemption", |registry| registry.nodes().contains_key(&4)).await;
    east.stop().await;
    // Another gateway finishes the same join, with certificates that another keeper signed if that one had not.
    token.contacts = vec![eu.address];
    let patience = Patience { attempt: Duration::from_secs(10), deadline: SOON };
    let member = enroll::join(&place.name, &place.data(), &token, patience, &Connect::tcp()).await.expect("joins");
    assert_eq!(member.node, 4);
    let registry = eu.handle.registry().borrow().clone();
    assert_eq!(registry.token(&token.id).expect("known").redemptions.len(), 1);
    assert!(registry.nodes()[&4].pending.is_none() && registry.nodes().len() == 4);
    west.stop().await;
    eu.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_guesses_is_held_off_and_costs_no_write() {
    let (_east_place, east) = founder().await;
    let (place, _listener) = Place::new("us-west").await;
    let good = east.mint(&place, Duration::from_secs(60)).await;
    let before = east.handle.registry().borrow().revision();
    let guess = BearerToken { secret: TokenSecret::from_slice(&[7; 32]).expect("32 bytes"), ..good.clone() };
    let mut guesses = 0;
    let held_off = loop {
        match refusal(&place, &guess).await {
            EnrollError::Refused(Refusal::TokenSecretMismatch) if guesses < 100 => guesses += 1,
            EnrollError::Unreachable { last } => break last,
            error => panic!("after {guesses} guesses: {error}"),
        }
    };
    assert!(guesses >= 10 && held_off.contains("too many failed joins"), "after {guesses} guesses: {held_off}");
    // A good token from the same place has to wait as well: until it is checked it is a guess like any other.
    assert!(matches!(refusal(&place, &good).await, EnrollError::Unreachable { .. }));
    assert_eq!(east.handle.registry().borrow().revision(), before, "nothing was written");
    east.stop().await;
}

//! The tests: what has to hold for every seed, and what has to be found.

use std::time::Duration;

use isthmus_federation::status::Role;
use isthmus_model::catalog::Export;
use isthmus_model::command::Command;
use isthmus_model::fixture;
use isthmus_tests::wan::{Fault as Lane, Shape};
use tokio::time::Instant;

use crate::hour::{Federation, hour};
use crate::ordeal::Trial;
use crate::seeds;
use crate::world::{World, simulate};

/// How soon every gateway writes again after a fault is over.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Seeds within which a known bug has to be found.
const SEEDS_FOR_A_BUG: u64 = 4;

#[test]
fn no_seed_finds_a_lost_or_contradictory_write() {
    let failures = seeds::run_all(seeds::asked_for(), RECOVERY_MAX);
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// In one order: within a millisecond it may differ, for what is encrypted does not always have the same length.
fn in_order(story: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = story.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let (first, second) = (seeds::run(7, Trial::Right).1, seeds::run(7, Trial::Right).1);
    let (first, second) = (in_order(&first), in_order(&second));
    let difference = first.iter().zip(&second).find(|(first, second)| first != second);
    assert_eq!((difference, first.len()), (None, second.len()));
}

/// How long a write through a gateway takes.
async fn next_write(world: &World, through: usize) -> Duration {
    let began = Instant::now();
    let export = Export { ports: Vec::new(), identities: Default::default(), terminated: false };
    let command = Command::SetExport { service: "ops/next".parse().expect("valid"), export };
    world.handle(through).propose(command).await.expect("written");
    began.elapsed()
}

#[test]
fn a_leader_that_is_to_stop_hands_over() {
    simulate(3, async |world| {
        world.found(5).await;
        world.write_everywhere("before").await;
        let successor = world.handle(0).hand_over().await.expect("handed over");
        world.hosts[0].crash(usize::MAX).await;
        let waited = next_write(world, 1).await;
        println!("node {successor} leads; the next write took {} ms", waited.as_millis());
        assert!(waited < Duration::from_millis(500), "nobody has to notice that it is gone");
    });
}

#[test]
fn a_leader_far_from_all_others_makes_way() {
    simulate(4, async |world| {
        world.found(5).await;
        for other in 1..5 {
            let far = Shape { delay: Duration::from_millis(120), ..Shape::default() };
            world.setting.wan.shape(0, other, far);
            world.setting.wan.shape(other, 0, far);
        }
        let mut status = world.handle(0).status();
        assert_eq!(status.borrow().role, Role::Leader);
        let elsewhere = status.wait_for(|status| status.leader.is_some_and(|leader| leader != status.node));
        let made_way = tokio::time::timeout(Duration::from_secs(180), elsewhere).await;
        assert!(made_way.is_ok_and(|seen| seen.is_ok()), "it leads still");
    });
}

#[test]
fn a_leader_that_is_heard_and_not_reached_is_replaced() {
    simulate(5, async |world| {
        world.found(5).await;
        world.write_everywhere("before").await;
        for other in 1..5 {
            world.setting.wan.fault(other, 0, Lane::Blackhole);
        }
        // An entry that nobody confirms, which it would send again and again.
        let pending = world.handle(0);
        let command = Command::Drain { cluster: "c0".parse().expect("valid"), draining: true };
        tokio::spawn(async move { pending.propose(command).await });
        let waited = next_write(world, 1).await;
        println!("another gateway writes after {} ms", waited.as_millis());
        assert_eq!(world.handle(1).status().borrow().term, 2, "another one leads");
    });
}

/// What finds a bug in a registry, told.
fn finding(seed: u64, trial: Trial) -> Option<String> {
    match seeds::run(seed, trial).0 {
        Ok(judgement) => seeds::complaint(&judgement, Duration::MAX),
        Err(panic) => Some(panic),
    }
}

#[test]
fn writes_acknowledged_before_they_are_synced_are_found() {
    let found = (0..SEEDS_FOR_A_BUG).find_map(|seed| finding(seed, Trial::LyingDisks));
    let found = found.expect("a seed finds it");
    println!("{found}");
    assert!(found.starts_with("not linearizable"), "something else was found");
}

#[test]
fn a_token_that_admits_two_is_found() {
    fixture::set_tokens_never_wear_out(true);
    let found = (0..SEEDS_FOR_A_BUG).find_map(|seed| finding(seed, Trial::Right));
    fixture::set_tokens_never_wear_out(false);
    let found = found.expect("a seed finds it");
    println!("{found}");
    assert!(found.contains("Token"), "something else was found");
}

#[test]
fn twenty_clusters_keep_their_catalogs_agreed() {
    let federation = Federation { clusters: 20, exports: 10, lasts: Duration::from_secs(120) };
    println!("{}", simulate(1, async |world| hour(world, federation).await));
}

#[test]
#[ignore = "takes minutes, and an optimized build: just sim-hour"]
fn two_hundred_clusters_live_through_an_hour() {
    let federation = Federation { clusters: 200, exports: 50, lasts: Duration::from_secs(3_600) };
    println!("{}", simulate(1, async |world| hour(world, federation).await));
}

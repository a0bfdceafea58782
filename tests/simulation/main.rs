//! Gateways in one process, in virtual time, under faults that follow from a seed.
//!
//! Everything is as in a gateway, from the Raft library to TLS; only the network, the disks, the clock and chance are the
//! simulation's. What a seed shows it shows again: `just sim SEED`.

#![allow(clippy::panic)]

mod clients;
mod faults;
mod host;
mod hour;
mod models;
mod ordeal;
mod seeds;
mod setting;
mod world;

use std::time::Duration;

use isthmus_model::fixture;

use hour::{Federation, hour};
use ordeal::Trial;
use world::simulate;

/// How soon every gateway writes again after a fault is over.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
/// Seeds within which a known bug has to be found.
const SEEDS_FOR_A_BUG: u64 = 4;

#[test]
fn no_seed_finds_a_lost_or_contradictory_write() {
    let failures = seeds::run_all(seeds::asked_for(), RECOVERY_MAX);
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    let (first, second) = (seeds::run(7, Trial::Right).1, seeds::run(7, Trial::Right).1);
    let difference = first.lines().zip(second.lines()).find(|(first, second)| first != second);
    assert_eq!((difference, first.len()), (None, second.len()));
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
    println!("{}", found.expect("a seed finds it"));
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

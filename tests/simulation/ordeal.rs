//! An ordeal: a federation under faults, with clients at it, judged afterwards.

use std::time::Duration;

use isthmus_tests::history::{Verdict, check_partitioned, monotonic_reads};
use rand::Rng;

use crate::clients::Clients;
use crate::faults::Fault;
use crate::models::{Op, Sequential, Told};
use crate::world::World;

/// Clusters: five vote, and one does not.
const CLUSTERS: usize = 6;
/// Things that go wrong, one after the other.
const FAULTS: usize = 8;

/// What an ordeal is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    /// All that can go wrong with a registry that is right.
    Right,
    /// Blackouts, with disks that lose what they said was synced: as if writes were acknowledged before that.
    LyingDisks,
}

/// What came of it.
pub(crate) struct Judgement {
    pub(crate) verdict: Verdict<Op, Told>,
    /// How long the gateways took to write again after each fault.
    pub(crate) recoveries: Vec<(Fault, Duration)>,
    /// A gateway at which the registry went back, if there is one.
    pub(crate) went_back: Option<String>,
    pub(crate) operations: usize,
}

/// Lets a federation live through what the world's seed has for it.
pub(crate) async fn ordeal(world: &mut World, trial: Trial) -> Judgement {
    world.found(CLUSTERS).await;
    let clients = Clients::start(world, FAULTS).await;
    let mut recoveries = Vec::new();
    for number in 0..FAULTS {
        clients.send_newcomers(world, number);
        tokio::time::sleep(Duration::from_millis(world.chance.gen_range(0..3_000))).await;
        let fault = match trial {
            Trial::Right => world.draw_fault(),
            Trial::LyingDisks => {
                world.hosts.iter_mut().for_each(|host| host.lies = true);
                Fault::Blackout
            }
        };
        world.suffer(&fault).await;
        let recovery = world.write_everywhere(&format!("after-{number}")).await;
        world.setting.story.tell(format!("all write again after {} ms", recovery.as_millis()));
        recoveries.push((fault, recovery));
    }
    let history = clients.stop(world, 0).await;
    let seen = world.hosts.iter().flat_map(|host| {
        let seen = host.seen.lock().expect("no panic").clone();
        seen.into_iter().map(|revision| (host.machine, revision))
    });
    let went_back = monotonic_reads(seen).err().map(|back| back.to_string());
    let verdict = check_partitioned(&Sequential, &history, |op: &Op| op.key);
    Judgement { verdict, recoveries, went_back, operations: history.operations().len() }
}

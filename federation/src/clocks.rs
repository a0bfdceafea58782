//! What time it is for the others.
//!
//! A leader stamps every entry with its clock, and tokens, denials and records live by these stamps. A leader whose
//! clock ran ahead would expire what is good and forget what is denied, for good: the registry's time does not go back.
//! So every Raft message tells its sender's clock, either way, and a leader that most others disagree with stamps
//! nothing, and steps back for one that they agree with. The system's clock may jump at any time: readings are carried
//! forward by the monotonic clock, so that a jump is noticed by the next entry.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use isthmus_identity::CLOCK_SKEW;
use isthmus_model::registry::node::NodeId;
use isthmus_model::time::UnixMillis;
use tokio_util::sync::CancellationToken;

use crate::raft_types::Raft;

/// How long a reading counts: replicas that are up talk several times a second.
const FRESH: Duration = Duration::from_secs(60);
/// How often a replica looks whether it may lead. Its entries are looked at one by one.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// The clocks of the replicas that this one talks with. Clones share them.
#[derive(Clone)]
pub struct Clocks {
    own: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    others: Arc<Mutex<BTreeMap<NodeId, Reading>>>,
}

/// What another replica's clock said when this one's stopwatch did.
#[derive(Clone, Copy, Debug)]
struct Reading {
    clock: UnixMillis,
    at: Instant,
}

impl Reading {
    /// What it says now, if it is not too old to tell.
    fn carried_to(&self, now: Instant) -> Option<UnixMillis> {
        let age = now.saturating_duration_since(self.at);
        (age <= FRESH).then(|| self.clock.saturating_add(age))
    }
}

/// This replica's clock is not what most others have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outvoted {
    own: UnixMillis,
    others: UnixMillis,
}

impl fmt::Display for Outvoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ahead, behind) = (self.own.since(self.others).as_secs(), self.others.since(self.own).as_secs());
        let (seconds, way) = if ahead > 0 { (ahead, "ahead of") } else { (behind, "behind") };
        write!(f, "its clock is {seconds} s {way} most others': check that it is synchronized (NTP)")
    }
}

/// Whether most replicas, this one included, have another time than `own`; and which.
fn outvoted(own: UnixMillis, others: &[UnixMillis]) -> Option<Outvoted> {
    let apart = |other: &&UnixMillis| own.since(**other).max(other.since(own)) > CLOCK_SKEW;
    let mut apart: Vec<UnixMillis> = others.iter().filter(apart).copied().collect();
    apart.sort_unstable();
    let most = apart.len() * 2 > others.len() + 1;
    most.then(|| Outvoted { own, others: apart[apart.len() / 2] })
}

impl Clocks {
    /// No reading yet; this replica's own clock is `own`.
    #[must_use]
    pub fn new(own: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { own: Arc::new(own), others: Arc::default() }
    }

    /// This replica's time, as it tells others.
    #[must_use]
    pub fn own(&self) -> UnixMillis {
        (self.own)().into()
    }

    /// Notes what `replica` said just now, or `on_the_way` ago at most. A replica of another version says nothing.
    pub(crate) fn note(&self, replica: NodeId, clock: Option<u64>, on_the_way: Duration) {
        let (Some(clock), now) = (clock, Instant::now()) else { return };
        let reading = Reading { clock: UnixMillis(clock).saturating_add(on_the_way / 2), at: now };
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.retain(|_, reading| reading.carried_to(now).is_some());
        others.insert(replica, reading);
    }

    /// The time to stamp an entry with.
    ///
    /// # Errors
    /// [`Outvoted`]: no entry may be stamped here.
    pub fn stamp(&self) -> Result<UnixMillis, Outvoted> {
        let (own, now) = (self.own(), Instant::now());
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let others: Vec<UnixMillis> = others.values().filter_map(|reading| reading.carried_to(now)).collect();
        outvoted(own, &others).map_or(Ok(own), Err)
    }
}

/// Lets this replica lead only while most others agree with its clock: one that leads falls silent, so that they elect
/// another.
pub(crate) async fn keep(raft: Raft, clocks: Clocks, shutdown: CancellationToken) {
    let mut fit = true;
    loop {
        let verdict = clocks.stamp();
        if verdict.is_ok() != fit {
            fit = verdict.is_ok();
            match verdict {
                Ok(_) => {
                    tracing::info!("this gateway's clock is what most others have again: it may lead the registry")
                }
                Err(outvoted) => tracing::error!("this gateway does not lead the registry: {outvoted}"),
            }
            raft.runtime_config().heartbeat(fit);
            raft.runtime_config().elect(fit);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_000 * HOUR;

    #[test]
    fn a_clock_is_wrong_when_most_others_have_another_time() {
        let judge = |others: &[u64]| {
            let others: Vec<_> = others.iter().copied().map(UnixMillis).collect();
            outvoted(UnixMillis(NOW), &others).map(|outvoted| outvoted.others.0)
        };
        let (near, behind, ahead) = (NOW + 299_000, NOW - HOUR, NOW + HOUR);
        assert_eq!(judge(&[]), None);
        assert_eq!(judge(&[behind]), None, "one against one: nobody knows");
        assert_eq!(judge(&[behind, behind]), Some(behind));
        assert_eq!(judge(&[near, behind]), None);
        assert_eq!(judge(&[near, ahead, ahead]), None, "two against two");
        assert_eq!(judge(&[near, ahead, ahead, ahead, behind]), Some(ahead));
        assert_eq!(judge(&[0, u64::MAX, u64::MAX]), Some(u64::MAX), "whatever they say");
        let told = outvoted(UnixMillis(NOW), &[UnixMillis(behind); 2]).expect("outvoted").to_string();
        assert!(told.starts_with("its clock is 3600 s ahead of most others'"), "{told}");
    }

    #[test]
    fn readings_go_on_by_the_stopwatch_until_they_are_too_old() {
        let at = Instant::now();
        let reading = Reading { clock: UnixMillis(NOW), at };
        assert_eq!(reading.carried_to(at + Duration::from_secs(7)), Some(UnixMillis(NOW + 7_000)));
        assert_eq!(reading.carried_to(at + FRESH + Duration::from_secs(1)), None);
    }
}

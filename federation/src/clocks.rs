//! What time it is for the others.
//!
//! A leader stamps every entry with its clock, and tokens, denials and records live by these stamps. A leader whose
//! clock ran ahead would expire what is good and forget what is denied, for good: the registry's time does not go back.
//! So every Raft message tells its sender's clock, either way, and a leader whose clock is not the voters' stamps
//! nothing, and steps back for one whose is. Only voters count, of whom a cluster has one: a cluster with many gateways
//! has no more to say about the time than another. The system's clock may jump at any moment: readings are carried
//! forward by the monotonic clock, so that a jump is noticed by the next entry.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use isthmus_identity::CLOCK_SKEW;
use isthmus_model::registry::NODES_MAX;
use isthmus_model::registry::node::NodeId;
use isthmus_model::time::UnixMillis;
use tokio::time::Instant;
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
    /// The last verdict on the own clock.
    fit: Arc<AtomicBool>,
}

/// What another replica's clock said when this one's stopwatch did.
#[derive(Clone, Copy, Debug)]
struct Reading {
    clock: UnixMillis,
    at: Instant,
    /// Of the last question that it answered.
    round_trip: Option<Duration>,
}

impl Reading {
    /// What it says now, if it is not too old to tell.
    fn carried_to(&self, now: Instant) -> Option<UnixMillis> {
        let age = now.saturating_duration_since(self.at);
        (age <= FRESH).then(|| self.clock.saturating_add(age))
    }
}

/// This replica's clock is not the voters'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outvoted {
    own: UnixMillis,
    voters: UnixMillis,
}

impl fmt::Display for Outvoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ahead, behind) = (self.own.since(self.voters).as_secs(), self.voters.since(self.own).as_secs());
        let (seconds, way) = if ahead > 0 { (ahead, "ahead of") } else { (behind, "behind") };
        write!(f, "its clock is {seconds} s {way} that of the gateways that vote: check that it is synchronized (NTP)")
    }
}

/// What the voters' clocks say of one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Fit,
    Outvoted(Outvoted),
    /// Too few were heard: what was known before stands.
    Open,
}

fn agree(one: UnixMillis, other: UnixMillis) -> bool {
    one.since(other).max(other.since(one)) <= CLOCK_SKEW
}

/// Judges a voter's clock by the median of all `voters`, of which `others` were heard.
fn judge(own: UnixMillis, others: &[UnixMillis], voters: usize) -> Verdict {
    let mut clocks: Vec<UnixMillis> = others.iter().copied().chain([own]).collect();
    if voters <= 1 {
        // Nobody else could write.
        return Verdict::Fit;
    }
    if clocks.len() * 2 <= voters {
        return Verdict::Open;
    }
    clocks.sort_unstable();
    let (lower, upper) = (clocks[(clocks.len() - 1) / 2], clocks[clocks.len() / 2]);
    match (agree(own, lower), agree(own, upper)) {
        (true, true) => Verdict::Fit,
        (false, false) => Verdict::Outvoted(Outvoted { own, voters: lower }),
        // They are divided. A clock that is behind does no harm, for the registry's time does not go back.
        (true, false) => Verdict::Fit,
        (false, true) => Verdict::Outvoted(Outvoted { own, voters: lower }),
    }
}

impl Clocks {
    /// No reading yet; this replica's own clock is `own`.
    #[must_use]
    pub fn new(own: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { own: Arc::new(own), others: Arc::default(), fit: Arc::new(AtomicBool::new(true)) }
    }

    /// This replica's time, as it tells others.
    #[must_use]
    pub fn own(&self) -> UnixMillis {
        (self.own)().into()
    }

    /// Notes what a replica of the membership said just now, to a question that was asked a `round_trip` ago, or by
    /// itself. One of another version says nothing.
    pub(crate) fn note(&self, replica: NodeId, clock: Option<u64>, round_trip: Option<Duration>) {
        let (Some(clock), now) = (clock, Instant::now()) else { return };
        let clock = UnixMillis(clock).saturating_add(round_trip.unwrap_or_default() / 2);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        // Members come and go; this is only looked at when there were more than there can be.
        if others.len() >= NODES_MAX && !others.contains_key(&replica) {
            others.retain(|_, reading| reading.carried_to(now).is_some());
            if others.len() >= NODES_MAX {
                return;
            }
        }
        let round_trip = round_trip.or_else(|| others.get(&replica)?.round_trip);
        others.insert(replica, Reading { clock, at: now, round_trip });
    }

    /// How long ago a replica was heard, if ever.
    pub(crate) fn heard(&self, replica: NodeId) -> Option<Duration> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).get(&replica).map(|reading| reading.at.elapsed())
    }

    /// How long its last answer took, if it ever gave one.
    pub(crate) fn round_trip(&self, replica: NodeId) -> Option<Duration> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).get(&replica)?.round_trip
    }

    /// What those of `replicas` that were heard lately have for the time.
    fn of(&self, replicas: impl IntoIterator<Item = NodeId>) -> Vec<UnixMillis> {
        let now = Instant::now();
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        replicas.into_iter().filter_map(|replica| others.get(&replica)?.carried_to(now)).collect()
    }

    /// Judges a leader's clock by the voters', a follower's by that of the leader, whom the voters let lead. A follower
    /// may also come to be fit by the voters that it hears: there may be no leader, for want of it.
    fn verdict(&self, raft: &Raft) -> Verdict {
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let (own, leads) = (self.own(), metrics.state.is_leader());
        let voters: BTreeSet<NodeId> = metrics.membership_config.membership().voter_ids().collect();
        let others = self.of(voters.iter().copied().filter(|voter| *voter != metrics.id));
        let by_voters = judge(own, &others, voters.len());
        if leads {
            return by_voters;
        }
        let leader = self.of(metrics.current_leader.filter(|leader| *leader != metrics.id));
        let fit = by_voters == Verdict::Fit || leader.iter().any(|leader| agree(own, *leader));
        if fit { Verdict::Fit } else { Verdict::Open }
    }

    /// Whether this replica's clock is fit to lead by, as it was last judged.
    pub(crate) fn is_fit(&self) -> bool {
        self.fit.load(Ordering::Relaxed)
    }

    /// The time for a leader to stamp an entry with.
    ///
    /// # Errors
    /// Why it may stamp none.
    pub(crate) fn stamp(&self, raft: &Raft) -> Result<UnixMillis, String> {
        match self.verdict(raft) {
            Verdict::Outvoted(outvoted) => Err(outvoted.to_string()),
            Verdict::Open if !self.is_fit() => {
                Err("its clock was not that of the gateways that vote when they were last heard".to_owned())
            }
            Verdict::Fit | Verdict::Open => Ok(self.own()),
        }
    }
}

/// Judges the clock. By that this replica leads only while its clock is the voters': one that leads falls silent otherwise,
/// so that they elect another, and does not stand again before its clock is the leader's ([`crate::election`]).
pub(crate) async fn keep(raft: Raft, clocks: Clocks, shutdown: CancellationToken) {
    loop {
        let fit = match clocks.verdict(&raft) {
            Verdict::Fit => true,
            Verdict::Outvoted(_) => false,
            Verdict::Open => clocks.is_fit(),
        };
        if clocks.fit.swap(fit, Ordering::Relaxed) != fit {
            match clocks.verdict(&raft) {
                Verdict::Outvoted(outvoted) => tracing::error!("this gateway leads the registry no more: {outvoted}"),
                _ => tracing::info!(fit, "this gateway's clock was judged anew"),
            }
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
    fn a_clock_is_judged_by_the_median_of_the_voters() {
        let (near, behind, ahead) = (NOW + 299_000, NOW - HOUR, NOW + HOUR);
        let (fit, open) = (None, Some(None));
        type Expected = Option<Option<u64>>;
        let cases: [(&[u64], usize, Expected); 14] = [
            (&[], 1, fit),
            (&[], 3, open),
            (&[behind], 2, Some(Some(behind))),
            (&[behind], 3, Some(Some(behind))),
            (&[ahead], 3, fit),
            (&[near], 3, fit),
            (&[behind, behind], 3, Some(Some(behind))),
            (&[near, behind], 3, fit),
            (&[ahead, behind], 3, fit),
            (&[near, near], 5, fit),
            (&[ahead], 5, open),
            (&[near, ahead, ahead], 5, fit),
            (&[near, ahead, ahead, ahead], 5, Some(Some(ahead))),
            (&[0, u64::MAX, u64::MAX, u64::MAX], 5, Some(Some(u64::MAX))),
        ];
        for (others, voters, expected) in cases {
            let others: Vec<_> = others.iter().copied().map(UnixMillis).collect();
            let found = match judge(UnixMillis(NOW), &others, voters) {
                Verdict::Fit => None,
                Verdict::Open => Some(None),
                Verdict::Outvoted(outvoted) => Some(Some(outvoted.voters.0)),
            };
            assert_eq!(found, expected, "{others:?} of {voters}");
        }
        let told = Outvoted { own: UnixMillis(NOW), voters: UnixMillis(behind) }.to_string();
        assert!(told.starts_with("its clock is 3600 s ahead of that of the gateways that vote"), "{told}");
    }

    #[test]
    fn readings_go_on_by_the_stopwatch_until_they_are_too_old_and_are_bounded() {
        let at = Instant::now();
        let reading = Reading { clock: UnixMillis(NOW), at, round_trip: None };
        assert_eq!(reading.carried_to(at + Duration::from_secs(7)), Some(UnixMillis(NOW + 7_000)));
        assert_eq!(reading.carried_to(at + FRESH + Duration::from_secs(1)), None);
        let clocks = Clocks::new(SystemTime::now);
        for replica in 0..2 * NODES_MAX as u64 {
            clocks.note(replica, Some(NOW), None);
        }
        clocks.note(1, None, None);
        clocks.note(2, Some(NOW), Some(Duration::from_millis(7)));
        clocks.note(2, Some(NOW), None);
        assert_eq!((clocks.round_trip(1), clocks.round_trip(2)), (None, Some(Duration::from_millis(7))));
        assert_eq!(clocks.of([1, NODES_MAX as u64 + 1]).len(), 1);
    }
}

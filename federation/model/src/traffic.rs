//! How a data plane treats requests to a service.
//!
//! The default is what a service gets that no rule speaks of: resilient, and careful with whoever is in trouble. A rule
//! changes values here, and nothing in the code that goes by them. Where values come from elsewhere, [`TrafficPolicy::check`] holds
//! them to their bounds: beyond those, what is sent or counted would make no sense, or overflow.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is counted in a row before a destination is left out, and what may be under way: more than any one process can have.
pub const COUNT_MAX: u64 = 1_000_000;
/// Retries that requests and seconds earn: more than this is no ration.
pub const EARNED_MAX: u64 = 100_000;
/// How long a destination is left out. Within a day, somebody looks.
pub const EJECTED_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a destination is left out at least: a shorter time would have passed before the next request.
pub const EJECTED_MIN: Duration = Duration::from_millis(1);
/// How long a request pauses before it is sent again. Its client would not wait longer.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long it may take until all requests have come, or come back.
pub const ARRIVAL_MAX: Duration = Duration::from_secs(60 * 60);
/// All of a whole.
const WHOLE_PERMILLE: u32 = 1_000;

/// How requests to a service are treated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficPolicy {
    /// When a destination is left out.
    pub ejection: Ejection,
    /// How much one data plane has under way.
    pub limits: Limits,
    /// What is sent again.
    pub retries: Retries,
    /// How requests come to what has just come.
    pub arrival: Arrival,
}

/// A value of a policy that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value}: {least} to {most} is possible")]
pub struct OutOfBounds {
    /// Which value: its place in [`TrafficPolicy`].
    pub value: &'static str,
    /// The least that it may be.
    pub least: u128,
    /// The most.
    pub most: u128,
}

impl TrafficPolicy {
    /// The default, which most services share.
    #[must_use]
    pub fn usual() -> Arc<Self> {
        static USUAL: LazyLock<Arc<TrafficPolicy>> = LazyLock::new(Arc::default);
        USUAL.clone()
    }

    /// Whether every value is within its bounds.
    ///
    /// # Errors
    /// The first that is not. Durations are told in milliseconds.
    pub fn check(&self) -> Result<(), OutOfBounds> {
        let Self { ejection, limits, retries, arrival } = self;
        let some = (1, u128::from(COUNT_MAX));
        let any = (0, u128::from(COUNT_MAX));
        let earned = (0, u128::from(EARNED_MAX));
        let arriving = (0, ARRIVAL_MAX.as_millis());
        let longest = (ejection.first.max(EJECTED_MIN).as_millis(), EJECTED_MAX.as_millis());
        for (value, is, (least, most)) in [
            ("ejection.unreachable", ejection.unreachable.into(), some),
            ("ejection.broken", ejection.broken.into(), some),
            ("ejection.unwell", ejection.unwell.into(), some),
            ("ejection.first", ejection.first.as_millis(), (EJECTED_MIN.as_millis(), EJECTED_MAX.as_millis())),
            ("ejection.longest", ejection.longest.as_millis(), longest),
            ("ejection.share_max_permille", ejection.share_max_permille.into(), (0, WHOLE_PERMILLE.into())),
            ("limits.requests", limits.requests as u128, some),
            ("limits.connections", limits.connections as u128, some),
            ("limits.pending", limits.pending as u128, some),
            ("limits.retries", limits.retries as u128, any),
            ("retries.per_request_permille", retries.per_request_permille.into(), earned),
            ("retries.per_second", retries.per_second.into(), earned),
            ("retries.saved_max", retries.saved_max.into(), any),
            ("retries.pause", retries.pause.as_millis(), (0, retries.pause_max.as_millis())),
            ("retries.pause_max", retries.pause_max.as_millis(), (0, PAUSE_MAX.as_millis())),
            ("arrival.slow_start", arrival.slow_start.as_millis(), arriving),
            ("arrival.failback_after", arrival.failback_after.as_millis(), arriving),
            ("arrival.failback_within", arrival.failback_within.as_millis(), arriving),
        ] {
            if is < least || is > most {
                return Err(OutOfBounds { value, least, most });
            }
        }
        Ok(())
    }
}

/// When a destination is left out, and for how long (outlier detection).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ejection {
    /// Failures in a row to reach it.
    pub unreachable: u32,
    /// Failures in a row of sessions that broke while a request was on them.
    pub broken: u32,
    /// 5xx in a row.
    pub unwell: u32,
    /// For how long at first. Each further time is twice as long.
    pub first: Duration,
    /// For how long at most, so that recovery is noticed.
    pub longest: Duration,
    /// How many of a service's destinations may be left out for answers that they gave, in per mille. There is no such
    /// bound on those that cannot be reached.
    pub share_max_permille: u32,
}

impl Default for Ejection {
    /// An unreachable destination is certain; one broken session may be a restart; the application's own errors may be the
    /// requests' fault, and when most instances give them, leaving those out leaves too few (Envoy's `consecutive_5xx` is 5 too).
    /// The first ejection is short, because a restart looks like a failure.
    fn default() -> Self {
        Self {
            unreachable: 1,
            broken: 2,
            unwell: 5,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            share_max_permille: 500,
        }
    }
}

/// How much one data plane has under way to a service (circuit breaking). What is more is refused at once: waiting would make
/// a slow service slower.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Requests.
    pub requests: usize,
    /// TCP connections.
    pub connections: usize,
    /// Of both, those that wait for a session.
    pub pending: usize,
    /// Requests that are being sent again.
    pub retries: usize,
}

impl Default for Limits {
    /// Four times what Envoy allows a cluster (1,024 each): a service here may stand for many clusters.
    fn default() -> Self {
        Self { requests: 4_096, connections: 4_096, pending: 4_096, retries: 512 }
    }
}

/// What is sent again. What was never sent goes elsewhere whatever this says, for nobody saw it; where nobody else is left, this says how
/// often those that refused it are tried over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Retries that a request earns, in per mille.
    pub per_request_permille: u64,
    /// Retries that a second earns, so that a service with little traffic is retried too.
    pub per_second: u64,
    /// Retries that can be saved up, and what a service starts with: when a busy session breaks, everything on it is retried at
    /// once.
    pub saved_max: u64,
    /// The longest pause before the first. Pauses are drawn between nothing and this, which doubles.
    pub pause: Duration,
    /// The longest pause of all.
    pub pause_max: Duration,
}

impl Default for Retries {
    /// A fifth of the requests and ten a second, as Linkerd's; pauses as Envoy's (25 ms, at most 250 ms).
    fn default() -> Self {
        Self {
            per_request_permille: 200,
            per_second: 10,
            saved_max: 500,
            pause: Duration::from_millis(25),
            pause_max: Duration::from_millis(250),
        }
    }
}

/// How requests come to what has just come, or come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// How long until a destination that joined others, or is back, gets its full share (slow start).
    pub slow_start: Duration,
    /// How long a nearer level has to be well before requests come back to it.
    pub failback_after: Duration,
    /// How long until all have come back.
    pub failback_within: Duration,
}

impl Default for Arrival {
    /// Caches are cold and pools empty for some seconds; what fails right after its return has not taken everything then.
    fn default() -> Self {
        Self {
            slow_start: Duration::from_secs(10),
            failback_after: Duration::from_secs(2),
            failback_within: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut TrafficPolicy)) -> Option<&'static str> {
        let mut policy = TrafficPolicy::default();
        change(&mut policy);
        policy.check().err().map(|error| error.value)
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(refused(|_| ()), None);
        assert_eq!(refused(|policy| policy.limits.requests = 0), Some("limits.requests"));
        assert_eq!(refused(|policy| policy.limits.connections = usize::MAX), Some("limits.connections"));
        assert_eq!(refused(|policy| policy.limits.retries = 0), None, "nothing is sent again");
        assert_eq!(refused(|policy| policy.ejection.unwell = 0), Some("ejection.unwell"));
        assert_eq!(refused(|policy| policy.ejection.share_max_permille = 1_001), Some("ejection.share_max_permille"));
        assert_eq!(refused(|policy| policy.ejection.first = Duration::ZERO), Some("ejection.first"));
        assert_eq!(refused(|policy| policy.ejection.longest = second / 2), Some("ejection.longest"), "below the first");
        assert_eq!(refused(|policy| policy.ejection.longest = EJECTED_MAX + second), Some("ejection.longest"));
        assert_eq!(refused(|policy| policy.retries.saved_max = u64::MAX), Some("retries.saved_max"));
        assert_eq!(refused(|policy| policy.retries.pause = second), Some("retries.pause"), "above the longest");
        assert_eq!(refused(|policy| policy.arrival.slow_start = ARRIVAL_MAX + second), Some("arrival.slow_start"));
        let error = TrafficPolicy { limits: Limits { requests: 0, ..Limits::default() }, ..TrafficPolicy::default() };
        let text = error.check().map_err(|error| error.to_string());
        assert_eq!(text, Err("limits.requests: 1 to 1000000 is possible".to_owned()));
    }
}

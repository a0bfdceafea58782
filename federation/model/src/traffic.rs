//! How a data plane treats requests to a service.
//!
//! The default is what a service gets that no rule speaks of: resilient, and careful with whoever is in trouble. A rule
//! changes values here, and nothing in the code that goes by them.

use std::time::Duration;

/// How requests to a service are treated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// When a destination is left out, and for how long (outlier detection).
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// What is sent again. What was never sent is, whatever this says: nobody saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

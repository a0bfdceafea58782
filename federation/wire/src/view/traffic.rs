//! How requests to a service are treated, as far as that is not as usual.

use std::sync::Arc;
use std::time::Duration;

use isthmus_model::traffic::{Arrival, Ejection, Limits, Retries, TrafficPolicy};

use crate::control;
use crate::error::WireError;

/// `None` for what most services have.
pub(super) fn encode(policy: &TrafficPolicy) -> Option<control::Traffic> {
    let traffic = control::Traffic {
        ejection: unusual(&policy.ejection).map(|ejection| control::Ejection {
            unreachable: ejection.unreachable,
            broken: ejection.broken,
            unwell: ejection.unwell,
            first: millis(ejection.first),
            longest: millis(ejection.longest),
            share_max_permille: ejection.share_max_permille,
        }),
        limits: unusual(&policy.limits).map(|limits| control::Limits {
            requests: limits.requests as u64,
            connections: limits.connections as u64,
            pending: limits.pending as u64,
            retries: limits.retries as u64,
        }),
        retries: unusual(&policy.retries).map(|retries| control::Retries {
            per_request_permille: retries.per_request_permille,
            per_second: retries.per_second,
            saved_max: retries.saved_max,
            pause: millis(retries.pause),
            pause_max: millis(retries.pause_max),
        }),
        arrival: unusual(&policy.arrival).map(|arrival| control::Arrival {
            slow_start: millis(arrival.slow_start),
            failback_after: millis(arrival.failback_after),
            failback_within: millis(arrival.failback_within),
        }),
    };
    (traffic != control::Traffic::default()).then_some(traffic)
}

/// Reads a policy, and holds it to its bounds.
pub(super) fn decode(record: Option<&control::Traffic>) -> Result<Arc<TrafficPolicy>, WireError> {
    let Some(record) = record else { return Ok(TrafficPolicy::usual()) };
    let ejection = record.ejection.as_ref().map(|ejection| Ejection {
        unreachable: ejection.unreachable,
        broken: ejection.broken,
        unwell: ejection.unwell,
        first: Duration::from_millis(ejection.first),
        longest: Duration::from_millis(ejection.longest),
        share_max_permille: ejection.share_max_permille,
    });
    let limits = record.limits.as_ref().map(|limits| Limits {
        requests: count(limits.requests),
        connections: count(limits.connections),
        pending: count(limits.pending),
        retries: count(limits.retries),
    });
    let retries = record.retries.as_ref().map(|retries| Retries {
        per_request_permille: retries.per_request_permille,
        per_second: retries.per_second,
        saved_max: retries.saved_max,
        pause: Duration::from_millis(retries.pause),
        pause_max: Duration::from_millis(retries.pause_max),
    });
    let arrival = record.arrival.as_ref().map(|arrival| Arrival {
        slow_start: Duration::from_millis(arrival.slow_start),
        failback_after: Duration::from_millis(arrival.failback_after),
        failback_within: Duration::from_millis(arrival.failback_within),
    });
    let policy = TrafficPolicy {
        ejection: ejection.unwrap_or_default(),
        limits: limits.unwrap_or_default(),
        retries: retries.unwrap_or_default(),
        arrival: arrival.unwrap_or_default(),
    };
    policy.check()?;
    Ok(if policy == TrafficPolicy::default() { TrafficPolicy::usual() } else { Arc::new(policy) })
}

fn unusual<T: Default + PartialEq>(part: &T) -> Option<&T> {
    (*part != T::default()).then_some(part)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What does not fit is beyond its bound too.
fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

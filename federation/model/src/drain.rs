//! How a cluster's traffic is moved away: its gateways tell others of fewer and fewer instances, then of none, and
//! then its offers are withdrawn. Calls that are under way finish where they are.

use std::time::Duration;

use crate::time::UnixMillis;

/// How long it takes until no new requests come from other clusters.
pub const RAMP: Duration = Duration::from_secs(20);
/// After that, how long the offers stay, so that the last one to hear that there is no capacity has heard.
pub const LINGER: Duration = Duration::from_secs(3);

/// How many of `ready` instances to tell of, `since` a drain began.
#[must_use]
pub fn remaining(ready: u32, since: UnixMillis, now: UnixMillis) -> u32 {
    let left = RAMP.saturating_sub(now.since(since)).as_millis();
    let told = (u128::from(ready) * left).div_ceil(RAMP.as_millis());
    u32::try_from(told).unwrap_or(ready)
}

/// Whether the offers of a cluster that is draining `since` then are to be withdrawn.
#[must_use]
pub fn is_over(since: UnixMillis, now: UnixMillis) -> bool {
    now.since(since) >= RAMP + LINGER
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_go_one_after_the_other_and_the_offers_last() {
        let at = |millis: u64| remaining(10, UnixMillis(1_000), UnixMillis(1_000 + millis));
        assert_eq!((at(0), at(1), at(10_000), at(19_999), at(20_000), at(90_000)), (10, 10, 5, 1, 0, 0));
        assert_eq!(remaining(10, UnixMillis(1_000), UnixMillis(0)), 10, "a clock that runs behind");
        let over = |millis: u64| is_over(UnixMillis(1_000), UnixMillis(1_000 + millis));
        assert!(!over(20_000) && over(23_000));
    }
}

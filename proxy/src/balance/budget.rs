//! How many requests may be sent a second time.
//!
//! A token bucket per service: every request earns a part of a retry, by default a fifth, and time earns a few, so that a
//! service in trouble gets at most that much more load than it had. What was never sent costs nothing, for
//! nobody saw it.

use std::time::Instant;

use isthmus_model::traffic::Retries;

/// The budget of one service.
#[derive(Debug)]
pub struct RetryBudget {
    policy: Retries,
    saved_milli: u64,
    at: Instant,
}

impl RetryBudget {
    /// A full budget.
    #[must_use]
    pub fn new(policy: Retries, now: Instant) -> Self {
        Self { saved_milli: policy.saved_max * 1_000, policy, at: now }
    }

    /// A request came.
    pub fn earn(&mut self, now: Instant) {
        self.tick(now);
        self.saved_milli = (self.saved_milli + self.policy.per_request_permille).min(self.policy.saved_max * 1_000);
    }

    /// Takes one retry, if there is one.
    pub fn spend(&mut self, now: Instant) -> bool {
        self.tick(now);
        let enough = self.saved_milli >= 1_000;
        if enough {
            self.saved_milli -= 1_000;
        }
        enough
    }

    fn tick(&mut self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        // One millisecond earns `per_second` thousandths. Less than that is kept for the next tick.
        if millis > 0 {
            self.saved_milli = millis
                .saturating_mul(self.policy.per_second)
                .saturating_add(self.saved_milli)
                .min(self.policy.saved_max * 1_000);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_and_time() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(Retries::default(), start);
        assert_eq!((0..10_000).filter(|_| budget.spend(start)).count() as u64, Retries::default().saved_max);
        (0..10).for_each(|_| budget.earn(start));
        assert!(budget.spend(start) && budget.spend(start), "ten requests earn two");
        assert!(!budget.spend(start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..100).filter(|_| budget.spend(later)).count() as u64, Retries::default().per_second);
        let much_later = later + Duration::from_secs(86_400);
        assert_eq!((0..10_000).filter(|_| budget.spend(much_later)).count() as u64, Retries::default().saved_max);
    }
}

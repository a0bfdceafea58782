//! How many requests may be sent a second time.
//!
//! A token bucket per service: every request earns a part of a retry, by default a fifth, and time earns a few, so that a
//! service in trouble gets at most that much more load than it had. What was never sent goes elsewhere for nothing, for nobody saw it; to be
//! tried over where it was refused costs a retry, as long as half of what may be saved is there for what was sent.

use std::time::Instant;

use isthmus_model::traffic::Retries;

/// The budget of one service. How much it earns and holds is said each time, as it is by then.
#[derive(Debug)]
pub struct RetryBudget {
    saved_milli: u64,
    at: Instant,
}

impl RetryBudget {
    /// A full budget.
    #[must_use]
    pub fn new(policy: &Retries, now: Instant) -> Self {
        Self { saved_milli: policy.saved_max * 1_000, at: now }
    }

    /// A request came.
    pub fn earn(&mut self, policy: &Retries, now: Instant) {
        self.tick(policy, now);
        self.saved_milli = (self.saved_milli + policy.per_request_permille).min(policy.saved_max * 1_000);
    }

    /// Takes one retry, if there is one.
    pub fn spend(&mut self, policy: &Retries, now: Instant) -> bool {
        self.spend_above(0, policy, now)
    }

    /// The same, if half of what may be saved is left then.
    pub fn spend_spare(&mut self, policy: &Retries, now: Instant) -> bool {
        self.spend_above(policy.saved_max * 1_000 / 2, policy, now)
    }

    fn spend_above(&mut self, left_milli: u64, policy: &Retries, now: Instant) -> bool {
        self.tick(policy, now);
        let enough = self.saved_milli >= left_milli + 1_000;
        if enough {
            self.saved_milli -= 1_000;
        }
        enough
    }

    fn tick(&mut self, policy: &Retries, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        // One millisecond earns `per_second` thousandths. Less than that is kept for the next tick.
        if millis > 0 {
            self.saved_milli = millis.saturating_mul(policy.per_second).saturating_add(self.saved_milli);
            self.at = now;
        }
        self.saved_milli = self.saved_milli.min(policy.saved_max * 1_000);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_and_time() {
        let (start, policy) = (Instant::now(), Retries::default());
        let mut budget = RetryBudget::new(&policy, start);
        let spent = |budget: &mut RetryBudget, now| (0..10_000).filter(|_| budget.spend(&policy, now)).count() as u64;
        assert_eq!(spent(&mut budget, start), policy.saved_max);
        (0..10).for_each(|_| budget.earn(&policy, start));
        assert_eq!(spent(&mut budget, start), 2, "ten requests earn two");
        let later = start + Duration::from_secs(1);
        assert_eq!(spent(&mut budget, later), policy.per_second);
        let much_later = later + Duration::from_secs(86_400);
        assert_eq!(spent(&mut budget, much_later), policy.saved_max);
    }

    #[test]
    fn what_is_saved_is_bounded_by_what_holds_now() {
        let start = Instant::now();
        let mut budget = RetryBudget::new(&Retries::default(), start);
        let none = Retries { saved_max: 0, ..Retries::default() };
        assert!(!budget.spend(&none, start));
        assert!(!budget.spend(&Retries::default(), start), "what was saved before is gone");
    }
}

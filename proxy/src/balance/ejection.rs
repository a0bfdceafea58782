//! When a destination is left out: passive outlier detection as a pure state machine.
//!
//! | state | event | next |
//! | --- | --- | --- |
//! | healthy | enough failures in a row | ejected, twice as long as the last time |
//! | healthy | answer | healthy, count reset |
//! | ejected | time is up and somebody picks it | on trial: one request |
//! | on trial | failure | ejected, twice as long |
//! | on trial | answer | healthy, history forgotten |
//!
//! Failures and answers that arrive while ejected are of requests sent before, and change nothing. All
//! destinations can be ejected at once: the plan then ignores ejections.

use std::time::{Duration, Instant};

use isthmus_model::traffic::Ejection;

/// How long a trial blocks another one; its outcome may never come (the client left).
pub const TRIAL_WITHIN: Duration = Duration::from_secs(3);

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The destination could not be reached, or fell silent.
    Unreachable,
    /// The session broke while a request was on it.
    Broken,
    /// The application's own 5xx.
    Unwell,
}

impl Failure {
    /// How many of these in a row eject.
    fn tolerated(self, policy: &Ejection) -> u32 {
        match self {
            Self::Unreachable => policy.unreachable,
            Self::Broken => policy.broken,
            Self::Unwell => policy.unwell,
        }
    }

    /// Whether it says for certain that requests would be lost there.
    #[must_use]
    pub fn is_certain(self) -> bool {
        self == Self::Unreachable
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Healthy,
    Ejected {
        until: Instant,
    },
    Trial {
        until: Instant,
    },
}

/// What is known of one destination of one service.
#[derive(Debug, Default)]
pub struct Record {
    state: State,
    failures: u32,
    ejections: u32,
}

impl Record {
    /// Whether a plan should count on it.
    #[must_use]
    pub fn usable(&self, now: Instant) -> bool {
        !matches!(self.state, State::Ejected { until } if now < until)
    }

    /// When [`usable`](Self::usable) turns true by itself.
    #[must_use]
    pub fn ejected_until(&self) -> Option<Instant> {
        match self.state {
            State::Ejected { until } => Some(until),
            _ => None,
        }
    }

    /// Whether one request is to tell whether it is well again.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        matches!(self.state, State::Trial { .. })
    }

    /// Whether it takes a request now. Starts the trial when an ejection ran out.
    pub fn admit(&mut self, now: Instant) -> bool {
        match self.state {
            State::Healthy => true,
            State::Ejected { until } | State::Trial { until } => {
                let admitted = now >= until;
                if admitted {
                    self.state = State::Trial { until: now + TRIAL_WITHIN };
                }
                admitted
            }
        }
    }

    /// It answered. True when that ended a trial.
    pub fn succeed(&mut self) -> bool {
        match self.state {
            State::Healthy => {
                self.failures = 0;
                false
            }
            State::Ejected { .. } => false,
            State::Trial { .. } => {
                *self = Self::default();
                true
            }
        }
    }

    /// It failed. The duration for which that ejected it, if it did; `spare` keeps it from that.
    pub fn fail(&mut self, failure: Failure, policy: &Ejection, spare: bool, now: Instant) -> Option<Duration> {
        match self.state {
            State::Ejected { .. } => return None,
            State::Healthy => {
                self.failures += 1;
                if self.failures < failure.tolerated(policy) {
                    return None;
                }
                if spare {
                    self.failures = 0;
                    return None;
                }
            }
            State::Trial { .. } => {}
        }
        let doubled = policy.first.saturating_mul(1 << self.ejections.min(10));
        let ejected_for = doubled.min(policy.longest);
        self.ejections = self.ejections.saturating_add(1);
        self.failures = 0;
        self.state = State::Ejected { until: now + ejected_for };
        Some(ejected_for)
    }

    /// Whether nothing has to be remembered.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.state == State::Healthy && self.failures == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);

    fn fail(record: &mut Record, failure: Failure, now: Instant) -> Option<Duration> {
        record.fail(failure, &Ejection::default(), false, now)
    }

    #[test]
    fn unreachable_ejects_at_once_and_one_trial_decides() {
        let start = Instant::now();
        let mut record = Record::default();
        assert_eq!(fail(&mut record, Failure::Unreachable, start), Some(FIRST));
        assert!(!record.usable(start) && !record.admit(start));
        assert_eq!(fail(&mut record, Failure::Unreachable, start), None, "late failures do not prolong");
        assert!(!record.succeed(), "late answers do not shorten");

        let expired = start + FIRST;
        assert!(record.usable(expired));
        assert!(record.admit(expired), "the trial");
        assert!(!record.admit(expired), "one at a time");
        assert_eq!(fail(&mut record, Failure::Broken, expired), Some(FIRST * 2));

        let again = expired + FIRST * 2;
        assert!(record.admit(again));
        assert!(record.succeed());
        assert!(record.is_clean());
    }

    #[test]
    fn ejections_grow_to_a_bound() {
        let mut now = Instant::now();
        let mut record = Record::default();
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            last = fail(&mut record, Failure::Unreachable, now).expect("ejected");
            now += last;
            assert!(record.admit(now));
        }
        assert_eq!(last, Ejection::default().longest);
    }

    #[test]
    fn softer_failures_need_company_and_answers_reset_them() {
        let now = Instant::now();
        let mut record = Record::default();
        for _ in 0..4 {
            assert_eq!(fail(&mut record, Failure::Unwell, now), None);
        }
        record.succeed();
        for _ in 0..4 {
            assert_eq!(fail(&mut record, Failure::Unwell, now), None);
        }
        assert!(fail(&mut record, Failure::Unwell, now).is_some());
    }

    #[test]
    fn one_that_is_spared_starts_over() {
        let (now, policy) = (Instant::now(), Ejection::default());
        let mut record = Record::default();
        for _ in 0..10 {
            assert_eq!(record.fail(Failure::Unwell, &policy, true, now), None);
        }
        assert!(record.is_clean() && record.usable(now));
    }

    #[test]
    fn a_trial_without_outcome_makes_room_for_another() {
        let start = Instant::now();
        let mut record = Record::default();
        fail(&mut record, Failure::Unreachable, start);
        let expired = start + FIRST;
        assert!(record.admit(expired));
        assert!(record.admit(expired + TRIAL_WITHIN));
    }
}

//! How long a destination takes to answer: an average that believes bad news at once and good news slowly (peak EWMA, as in
//! Finagle and Linkerd).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How fast the past is forgotten: after this long two thirds of it are. Who has not answered for as long is unknown again: one late
/// answer, a thousand times as late as others', would keep requests away for more than a minute otherwise.
const MEMORY: Duration = Duration::from_secs(10);

/// What is remembered of one destination. Two answers at once may lose one of their marks: it is an average.
#[derive(Debug)]
pub(super) struct Latency {
    /// What `at_micros` counts from.
    since: Instant,
    /// 0: nothing is known.
    average_micros: AtomicU64,
    at_micros: AtomicU64,
}

impl Latency {
    pub(super) fn unknown(now: Instant) -> Self {
        Self { since: now, average_micros: AtomicU64::new(0), at_micros: AtomicU64::new(0) }
    }

    /// An answer came after `took`.
    pub(super) fn observe(&self, took: Duration, now: Instant) {
        let took = micros(took).max(1);
        let average = self.average_micros.load(Ordering::Relaxed);
        let next = if took >= average {
            took
        } else {
            let kept = self.kept(now);
            took + (kept * (average - took) as f64) as u64
        };
        self.average_micros.store(next, Ordering::Relaxed);
        self.at_micros.store(micros(now.saturating_duration_since(self.since)), Ordering::Relaxed);
    }

    /// What may be expected, in microseconds. A peak is forgotten with time, or what once was slow would never be asked
    /// again. `None` as long as nothing is known.
    pub(super) fn expected(&self, now: Instant) -> Option<u64> {
        let average = self.average_micros.load(Ordering::Relaxed);
        let is_known = average > 0 && self.age_micros(now) < micros(MEMORY);
        is_known.then(|| ((average as f64 * self.kept(now)) as u64).max(1))
    }

    /// How much of the past counts yet.
    fn kept(&self, now: Instant) -> f64 {
        (-(self.age_micros(now) as f64) / micros(MEMORY) as f64).exp()
    }

    /// How long ago the last answer came.
    fn age_micros(&self, now: Instant) -> u64 {
        let now = micros(now.saturating_duration_since(self.since));
        now.saturating_sub(self.at_micros.load(Ordering::Relaxed))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_news_counts_at_once_and_good_news_in_time() {
        let start = Instant::now();
        let latency = Latency::unknown(start);
        assert_eq!(latency.expected(start), None);
        let millis = Duration::from_millis;
        latency.observe(millis(10), start);
        assert_eq!(latency.expected(start), Some(10_000));
        latency.observe(millis(100), start);
        assert_eq!(latency.expected(start), Some(100_000));
        latency.observe(millis(10), start + millis(1));
        assert!(latency.expected(start + millis(1)).is_some_and(|micros| micros > 99_000));
        for second in 1..=60 {
            latency.observe(millis(10), start + Duration::from_secs(second));
        }
        let after = start + Duration::from_secs(60);
        assert!(latency.expected(after).is_some_and(|micros| (10_000..10_500).contains(&micros)));
        let later = latency.expected(after + MEMORY / 2);
        assert!(
            later.is_some_and(|micros| (6_000..6_500).contains(&micros)),
            "{later:?}: less counts until it is seen again"
        );
        assert_eq!(latency.expected(after + MEMORY), None, "forgotten");
    }
}

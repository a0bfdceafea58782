//! Durations, and what is said of them.

use std::time::Duration;

/// Some durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples(Vec<Duration>);

impl FromIterator<Duration> for Samples {
    fn from_iter<T: IntoIterator<Item = Duration>>(durations: T) -> Self {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl Samples {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest duration that at least `percent` of them do not exceed (nearest rank); of none, zero.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// The shortest.
    #[must_use]
    pub fn min(&self) -> Duration {
        self.percentile(0)
    }

    /// The longest.
    #[must_use]
    pub fn max(&self) -> Duration {
        self.percentile(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(millis: impl IntoIterator<Item = u64>) -> Samples {
        millis.into_iter().map(Duration::from_millis).collect()
    }

    #[test]
    fn percentiles_are_samples_that_were_seen() {
        let hundred = samples((1..=100).rev());
        let millis = [0, 1, 50, 99, 100].map(|percent| hundred.percentile(percent).as_millis());
        assert_eq!(millis, [1, 1, 50, 99, 100]);
        let few = samples([30, 10, 20]);
        assert_eq!((few.min(), few.percentile(50), few.percentile(99)), (few.0[0], few.0[1], few.0[2]));
    }

    #[test]
    fn nothing_seen_is_no_panic() {
        assert_eq!(samples([]).max(), Duration::ZERO);
    }
}

//! How often a source may be wrong: a bucket of failures for each, which empties with time.
//!
//! Guessing a secret of 256 bits is hopeless at any speed; this keeps guesses from costing others anything.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Guesses that a source may make in one go: an operator who tries a few wrong tokens.
const BURST: u32 = 10;
/// After this long, one failure is forgiven.
const FORGIVEN_EVERY: Duration = Duration::from_secs(6);
/// Sources remembered. When there are more, those that failed longest ago are forgotten.
const SOURCES_MAX: usize = 4_096;

/// The sources that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    failures: HashMap<IpAddr, Failures>,
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    /// Up to when failures have been forgiven.
    since: Instant,
}

impl Failures {
    /// What is left at `now`.
    fn at(self, now: Instant) -> Self {
        let forgiven = now.saturating_duration_since(self.since).as_secs() / FORGIVEN_EVERY.as_secs();
        match u32::try_from(forgiven) {
            Ok(forgiven) if forgiven < self.count => {
                Self { count: self.count - forgiven, since: self.since + FORGIVEN_EVERY * forgiven }
            }
            _ => Self { count: 0, since: now },
        }
    }
}

/// A host has an IPv4 address, or a whole /64 of IPv6 (RFC 6177).
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from(u128::from(six) & !u128::from(u64::MAX)).into(),
        four => four,
    }
}

impl Attempts {
    /// Whether `from` may try once more. A source that is not known is not held back.
    pub(crate) fn may_try(&self, from: Option<IpAddr>, now: Instant) -> bool {
        let known = from.and_then(|from| self.failures.get(&source(from)));
        known.is_none_or(|failures| failures.at(now).count < BURST)
    }

    /// Notes that `from` was wrong.
    pub(crate) fn failed(&mut self, from: Option<IpAddr>, now: Instant) {
        let Some(from) = from.map(source) else { return };
        if self.failures.len() >= SOURCES_MAX && !self.failures.contains_key(&from) {
            self.failures.retain(|_, failures| failures.at(now).count > 0);
            if self.failures.len() >= SOURCES_MAX {
                let oldest = self.failures.iter().min_by_key(|(_, failures)| failures.since).map(|(ip, _)| *ip);
                oldest.map(|ip| self.failures.remove(&ip));
            }
        }
        let failures = self.failures.entry(from).or_insert(Failures { count: 0, since: now });
        *failures = failures.at(now);
        failures.count = (failures.count + 1).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_keeps_failing_has_to_wait_and_others_do_not() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let (bad, good) = (Some([10, 0, 0, 1].into()), Some([10, 0, 0, 2].into()));
        for _ in 0..BURST {
            assert!(attempts.may_try(bad, now));
            attempts.failed(bad, now);
        }
        assert!(!attempts.may_try(bad, now) && attempts.may_try(good, now) && attempts.may_try(None, now));
        assert!(!attempts.may_try(bad, now + FORGIVEN_EVERY / 2));
        assert!(attempts.may_try(bad, now + FORGIVEN_EVERY));
        attempts.failed(bad, now + FORGIVEN_EVERY);
        assert!(!attempts.may_try(bad, now + FORGIVEN_EVERY));
        assert!(attempts.may_try(bad, now + FORGIVEN_EVERY * BURST * 2));
    }

    #[test]
    fn neighbours_in_one_ipv6_network_are_one_source() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let address = |last: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, last]));
        (0..BURST).for_each(|last| attempts.failed(address(u16::try_from(last).expect("small")), now));
        assert!(!attempts.may_try(address(999), now));
    }

    #[test]
    fn sources_are_bounded() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..=SOURCES_MAX as u32 {
            attempts.failed(Some(std::net::Ipv4Addr::from(number).into()), now);
        }
        assert!(attempts.failures.len() <= SOURCES_MAX);
    }
}

//! When to renew a certificate: pure.

use std::time::Duration;

/// The soonest renewal, so that a gateway that signs for seconds is not asked in a loop.
pub const RENEWAL_MIN: Duration = Duration::from_secs(1);

/// How long to keep a certificate that is valid for `remaining` more: two thirds of that, less up to a tenth
/// of the two thirds, so that sidecars that started together do not renew together. The last third is for
/// gateways that are away.
pub fn renew_after(remaining: Duration, random: u64) -> Duration {
    let permille = 667 - u32::try_from(random % 67).unwrap_or(0);
    (remaining / 1000 * permille).max(RENEWAL_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_two_thirds_or_a_little_before() {
        let hour = Duration::from_secs(3600);
        assert_eq!(renew_after(hour, 0).as_secs(), 2401);
        for random in (0..200).chain([u64::MAX]) {
            let after = renew_after(hour, random);
            assert!((hour.mul_f32(0.6)..hour.mul_f32(0.668)).contains(&after), "{random}: {after:?}");
        }
    }

    #[test]
    fn a_lifetime_that_is_over_is_no_loop() {
        assert_eq!(renew_after(Duration::ZERO, 5), RENEWAL_MIN);
        assert!(renew_after(Duration::MAX, 5) < Duration::MAX);
    }
}

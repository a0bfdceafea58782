//! Back to a nearer level: after a while, and then little by little.
//!
//! A level loses its share at once, and gets it back slowly, as long as a level that carries it meanwhile still can: what
//! has just recovered may not have.

use std::time::Duration;

use crate::locality::Proximity;
use crate::route::{Plan, WHOLE};
use crate::traffic::Arrival;

/// The shares of a plan, and for how long what is held back has been well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    levels: Vec<(Proximity, u32)>,
    /// `None` when nothing is held back.
    calm_for: Option<Duration>,
}

impl Shares {
    /// Of requests that go no further away than `proximity`.
    fn within(&self, proximity: Proximity) -> u32 {
        self.levels.iter().filter(|(level, _)| *level <= proximity).map(|(_, share)| *share).sum()
    }

    /// Whether the plan will be another one after a while, without anything else changing.
    #[must_use]
    pub fn are_moving(&self) -> bool {
        self.calm_for.is_some()
    }
}

/// Holds `plan` back to what may be given to its nearer levels `elapsed` after `before` was decided. Returns what it came to.
pub fn hold_back(plan: &mut Plan, before: &Shares, elapsed: Duration, arrival: &Arrival) -> Shares {
    let calm_for = before.calm_for.map_or(Duration::ZERO, |calm| calm + elapsed);
    let gain = if before.levels.is_empty() { WHOLE } else { allowed(calm_for, elapsed, arrival) };
    let (mut wanted, mut assigned) = (0, 0);
    let (mut held, mut lost) = (false, false);
    let mut further: u32 = plan.levels.iter().map(|level| level.able).sum();
    for level in &mut plan.levels {
        wanted += level.share;
        further -= level.able;
        let had = before.within(level.proximity);
        // What those further away cannot take is not held back, nor is anything when there are none.
        let within = wanted.min(had.saturating_add(gain).max(WHOLE.saturating_sub(further)));
        held |= within < wanted;
        lost |= within < had;
        level.share = within - assigned;
        assigned = within;
    }
    let levels: Vec<_> = plan.levels.iter().map(|level| (level.proximity, level.share)).collect();
    Shares { levels, calm_for: held.then_some(if lost { Duration::ZERO } else { calm_for }) }
}

/// How much a nearer level may gain in the last `elapsed`.
fn allowed(calm_for: Duration, elapsed: Duration, arrival: &Arrival) -> u32 {
    // The difference of two sums, so that nothing is lost however often it is asked.
    let within = arrival.failback_within.as_micros().max(1);
    let by_then = |calm_for: Duration| {
        let ramped = calm_for.saturating_sub(arrival.failback_after).as_micros();
        u32::try_from(u128::from(WHOLE) * ramped / within).unwrap_or(WHOLE)
    };
    by_then(calm_for).saturating_sub(by_then(calm_for.saturating_sub(elapsed))).min(WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Level;

    const NEAR: Proximity = Proximity::SameCluster;
    const FAR: Proximity = Proximity::OtherRegion;

    fn plan(shares: &[(Proximity, u32)]) -> Plan {
        let level = |(proximity, share): &(Proximity, u32)| Level {
            proximity: *proximity,
            share: *share,
            able: WHOLE,
            destinations: vec![],
        };
        Plan { levels: shares.iter().map(level).collect() }
    }

    /// The share of the nearest level, step by step.
    fn walk(steps: &[(&[(Proximity, u32)], u64)]) -> Vec<u32> {
        let mut shares = Shares::default();
        let mut seen = Vec::new();
        for (wanted, millis) in steps {
            let mut plan = plan(wanted);
            shares = hold_back(&mut plan, &shares, Duration::from_millis(*millis), &Arrival::default());
            assert_eq!(plan.levels.iter().map(|level| level.share).sum::<u32>(), WHOLE, "{plan:?}");
            seen.push(plan.levels.iter().find(|level| level.proximity == NEAR).map_or(0, |level| level.share));
        }
        assert!(seen.is_empty() || !shares.levels.is_empty());
        seen
    }

    const WELL: &[(Proximity, u32)] = &[(NEAR, WHOLE), (FAR, 0)];
    const GONE: &[(Proximity, u32)] = &[(FAR, WHOLE)];

    #[test]
    fn the_first_plan_holds_at_once_and_so_does_a_loss() {
        assert_eq!(walk(&[(WELL, 0), (GONE, 1), (GONE, 1)]), [WHOLE, 0, 0]);
        assert_eq!(walk(&[(WELL, 0), (&[(NEAR, 400), (FAR, 600)], 1)]), [WHOLE, 400]);
    }

    #[test]
    fn what_is_back_gets_nothing_for_a_while_and_then_more_and_more() {
        let steps =
            [(WELL, 0), (GONE, 60_000), (WELL, 60_000), (WELL, 1_999), (WELL, 501), (WELL, 4_500), (WELL, 5_000)];
        assert_eq!(walk(&steps), [WHOLE, 0, 0, 0, 50, 500, WHOLE]);
    }

    #[test]
    fn a_relapse_starts_over() {
        let steps = [(WELL, 0), (GONE, 1), (WELL, 1), (WELL, 5_000), (GONE, 1), (WELL, 1), (WELL, 1_900), (WELL, 600)];
        assert_eq!(walk(&steps), [WHOLE, 0, 0, 300, 0, 0, 0, 50]);
        let spilling: &[(Proximity, u32)] = &[(NEAR, 400), (FAR, 600)];
        assert_eq!(walk(&[(WELL, 0), (spilling, 1), (WELL, 1_000), (WELL, 3_000)]), [WHOLE, 400, 400, 500]);
    }

    #[test]
    fn nothing_waits_for_what_can_no_longer_carry_it() {
        let only: &[(Proximity, u32)] = &[(NEAR, WHOLE)];
        assert_eq!(walk(&[(WELL, 0), (GONE, 1), (only, 1)]), [WHOLE, 0, WHOLE]);
    }

    #[test]
    fn no_more_is_held_back_than_can_be_carried_meanwhile() {
        let mut gone = plan(GONE);
        let shares = hold_back(&mut gone, &Shares::default(), Duration::ZERO, &Arrival::default());
        let mut weak = plan(WELL);
        weak.levels[1].able = 28;
        hold_back(&mut weak, &shares, Duration::from_millis(1), &Arrival::default());
        assert_eq!(weak.levels.iter().map(|level| level.share).collect::<Vec<_>>(), [972, 28]);
    }

    #[test]
    fn a_plan_that_is_settled_stays() {
        let mut settled = plan(WELL);
        let shares = hold_back(&mut settled, &Shares::default(), Duration::ZERO, &Arrival::default());
        assert!(!shares.are_moving());
        let mut lost = plan(GONE);
        let shares = hold_back(&mut lost, &shares, Duration::from_secs(9), &Arrival::default());
        assert!(!shares.are_moving(), "nothing is held back");
        let mut back = plan(WELL);
        let shares = hold_back(&mut back, &shares, Duration::from_secs(9), &Arrival::default());
        assert!(shares.are_moving());
    }
}

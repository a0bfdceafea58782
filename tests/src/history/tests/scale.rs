//! Histories as long as real ones.

use super::models::{Register, RegisterOp, RegisterRet};
use super::simulation::{Plan, XorShift, simulate};
use super::violation;
use crate::history::{History, Verdict, check};

const PLAN: Plan = Plan { clients: 5, operations: 1_000, lost: 5, repeated: 1, wrong: 0 };

fn long_history(seed: u64) -> History<RegisterOp, RegisterRet> {
    let operation = |random: &mut XorShift| match random.below(4) {
        0 => RegisterOp::Write(random.below(100)),
        1 => RegisterOp::CompareAndSet(random.below(100), random.below(100)),
        _ => RegisterOp::Read,
    };
    simulate(&Register, &PLAN, &mut XorShift(seed), operation, |_, answer| answer.clone())
}

#[test]
fn a_thousand_operations_of_a_correct_service_are_linearizable() {
    for seed in 1..=10 {
        let verdict = check(&Register, &long_history(seed));
        assert_eq!(verdict, Verdict::Linearizable, "seed {seed}: {verdict}");
    }
}

#[test]
fn a_value_from_nowhere_after_a_thousand_operations_is_found() {
    let mut history = long_history(1);
    let read = history.invoke(0, RegisterOp::Read);
    history.returned(read, RegisterRet::Value(12_345));
    let violation = violation(check(&Register, &history));
    assert_eq!(violation.refused.len(), 1, "{violation}");
    assert!(violation.to_string().lines().count() < 30, "long prefixes are abridged: {violation}");
}

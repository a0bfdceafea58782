//! Reads, writes and compare-and-set.

use super::models::RegisterOp::{CompareAndSet, Read, Write};
use super::models::RegisterRet::{Swapped, Value, Written};
use super::models::{KeyedRegister, Register, RegisterOp, RegisterRet};
use super::violation;
use crate::history::{History, Verdict, check, check_partitioned};

/// One after the other, each operation answered before the next is invoked.
fn sequence(steps: impl IntoIterator<Item = (usize, RegisterOp, RegisterRet)>) -> History<RegisterOp, RegisterRet> {
    let mut history = History::new();
    for (client, operation, answer) in steps {
        let invocation = history.invoke(client, operation);
        history.returned(invocation, answer);
    }
    history
}

#[test]
fn nothing_is_linearizable() {
    assert_eq!(check(&Register, &History::new()), Verdict::Linearizable);
}

#[test]
fn a_read_during_a_write_may_see_either_value() {
    for seen in [0, 7] {
        let mut history = History::new();
        let write = history.invoke(1, Write(7));
        let read = history.invoke(2, Read);
        history.returned(read, Value(seen));
        history.returned(write, Written);
        assert_eq!(check(&Register, &history), Verdict::Linearizable);
    }
}

#[test]
fn a_stale_read_is_shown_with_what_it_should_have_seen() {
    let history = sequence([(1, Write(1), Written), (1, Write(2), Written), (2, Read, Value(1))]);
    let text = violation(check(&Register, &history)).to_string();
    let expected = "\
not linearizable ([invoked..answered]) from this answer on:
  [4..5] client 2: Read -> Value(1)
the best order with it is:
  [0..1] client 1: Write(1) -> Written
  [2..3] client 1: Write(2) -> Written
then the state is 2, and none of these can be next:
  [4..5] client 2: Read -> Value(1), but the model answers Value(2)";
    assert_eq!(text, expected);
}

#[test]
fn a_value_seen_may_not_be_unseen() {
    // While the write is pending, one client sees it and, later, another does not.
    let mut history = History::new();
    let write = history.invoke(1, Write(1));
    for (client, seen) in [(2, 1), (3, 0)] {
        let read = history.invoke(client, Read);
        history.returned(read, Value(seen));
    }
    history.returned(write, Written);

    let violation = violation(check(&Register, &history));
    assert_eq!(violation.prefix.len(), 2, "the write and the first read have an order: {violation}");
    assert_eq!(violation.refused[0].operation.operation, Read);
    assert_eq!(violation.refused[0].expected, Value(1));
}

#[test]
fn a_lost_update_is_a_violation() {
    // Both clients add one to what they read, without guarding the write.
    let history = sequence([
        (1, Read, Value(0)),
        (2, CompareAndSet(0, 1), Swapped(true)),
        (1, CompareAndSet(0, 1), Swapped(true)),
    ]);
    let violation = violation(check(&Register, &history));
    assert_eq!(violation.refused[0].expected, Swapped(false));
    assert_eq!(violation.state, "1");
}

#[test]
fn of_concurrent_compare_and_sets_exactly_one_wins() {
    let verdict = |outcomes: [bool; 3]| {
        let mut history = History::new();
        let invocations: Vec<_> = (1..)
            .zip(outcomes)
            .map(|(client, won)| {
                (history.invoke(client, CompareAndSet(0, u32::try_from(client).expect("three clients"))), won)
            })
            .collect();
        for (invocation, won) in invocations {
            history.returned(invocation, Swapped(won));
        }
        check(&Register, &history)
    };
    assert!(verdict([false, true, false]).is_linearizable());
    assert!(!verdict([true, true, false]).is_linearizable(), "two winners");
    assert!(!verdict([false, false, false]).is_linearizable(), "nobody stood in the way of the first");
}

#[test]
fn keys_are_judged_apart() {
    let steps = |second: u32| {
        let mut history = History::new();
        for (operation, answer) in [
            (("a", Write(1)), Written),
            (("b", Write(2)), Written),
            (("a", Read), Value(1)),
            (("b", Read), Value(second)),
        ] {
            let invocation = history.invoke(1, operation);
            history.returned(invocation, answer);
        }
        check_partitioned(&KeyedRegister, &history, |(key, _)| *key)
    };
    assert_eq!(steps(2), Verdict::Linearizable);
    let violation = violation(steps(1));
    assert!(violation.prefix.iter().all(|operation| operation.operation.0 == "b"), "{violation}");
}

//! Operations without an answer, and ghosts.

use super::models::CounterOp::{Add, Get};
use super::models::CounterRet::{Added, Sum};
use super::models::RegisterOp::{CompareAndSet, Read, Write};
use super::models::RegisterRet::{Swapped, Value};
use super::models::{Counter, CounterOp, CounterRet, Register, RegisterOp, RegisterRet};
use super::violation;
use crate::history::{Caller, History, Outcome, Verdict, check, check_within};

fn read(history: &mut History<RegisterOp, RegisterRet>, client: usize, seen: u32) {
    let invocation = history.invoke(client, Read);
    history.returned(invocation, Value(seen));
}

fn get(history: &mut History<CounterOp, CounterRet>, seen: u32) {
    let invocation = history.invoke(9, Get);
    history.returned(invocation, Sum(seen));
}

#[test]
fn a_lost_write_may_take_effect_late_or_never_but_once() {
    let mut history = History::new();
    history.invoke(1, Write(1));
    read(&mut history, 2, 0);
    assert_eq!(check(&Register, &history), Verdict::Linearizable, "never, so far");
    read(&mut history, 3, 1);
    assert_eq!(check(&Register, &history), Verdict::Linearizable, "late");
    read(&mut history, 2, 0);
    let violation = violation(check(&Register, &history));
    assert_eq!(violation.prefix[1].outcome, Outcome::Unknown, "it was placed between the reads: {violation}");
}

#[test]
fn a_lost_write_takes_no_effect_before_its_invocation() {
    let mut history = History::new();
    read(&mut history, 2, 1);
    history.invoke(1, Write(1));
    let violation = violation(check(&Register, &history));
    assert_eq!(violation.unknown_left, 0, "{violation}");
}

#[test]
fn one_lost_write_hides_another() {
    let mut history = History::new();
    for value in [1, 2, 3] {
        history.invoke(1, Write(value));
    }
    for seen in [3, 1, 2] {
        read(&mut history, 2, seen);
    }
    assert_eq!(check(&Register, &history), Verdict::Linearizable);
}

#[test]
fn a_ghost_explains_a_command_that_its_own_retry_met() {
    // The first attempt swaps, its answer is lost, and the retry finds the value changed.
    let mut history = History::new();
    let swap = history.invoke(1, CompareAndSet(0, 1));
    let invoked_at = swap.at();
    history.returned(swap, Swapped(false));
    read(&mut history, 2, 1);
    violation(check(&Register, &history));

    history.ghost(CompareAndSet(0, 1), invoked_at);
    assert_eq!(history.operations().last().map(|ghost| ghost.caller), Some(Caller::Ghost));
    assert_eq!(check(&Register, &history), Verdict::Linearizable);
}

#[test]
fn each_ghost_takes_effect_once_and_as_late_as_it_likes() {
    let mut history = History::new();
    let add = history.invoke(1, Add(5));
    history.ghost(Add(5), add.at());
    history.returned(add, Added);
    get(&mut history, 5);
    get(&mut history, 10);
    assert_eq!(check(&Counter, &history), Verdict::Linearizable);
    get(&mut history, 15);
    violation(check(&Counter, &history));
}

#[test]
fn many_equal_unknown_operations_are_only_counted() {
    let mut history = History::new();
    for client in 0..200 {
        history.invoke(client, Add(1));
    }
    for seen in [10, 10, 150, 200] {
        get(&mut history, seen);
    }
    assert_eq!(check_within(&Counter, &history, 1_000), Verdict::Linearizable);
    get(&mut history, 201);
    violation(check_within(&Counter, &history, 1_000));
}

#[test]
fn unknown_operations_that_explain_nothing_are_left_out() {
    // They could stand anywhere among the answered ones; one configuration for each of those suffices.
    let mut history = History::new();
    for number in 0..50 {
        history.invoke(1, Add(number));
    }
    for _ in 0..200 {
        let add = history.invoke(9, Add(10));
        history.returned(add, Added);
    }
    get(&mut history, 2_000);
    assert_eq!(check_within(&Counter, &history, 202), Verdict::Linearizable);
}

#[test]
fn it_matters_which_unknown_operations_made_a_state() {
    // Five is 1 + 4 or 2 + 3, and each leaves other steps to go on with.
    for next in [6, 7, 8, 9] {
        let mut history = History::new();
        for amount in 1..=4 {
            history.invoke(1, Add(amount));
        }
        get(&mut history, 5);
        get(&mut history, next);
        assert_eq!(check(&Counter, &history), Verdict::Linearizable, "from 5 to {next}");
    }
}

#[test]
fn many_different_lost_writes_do_not_multiply() {
    let mut history = History::new();
    for value in 1..=80 {
        history.invoke(1, Write(value));
    }
    for seen in (41..=80).rev() {
        read(&mut history, 2, seen);
    }
    read(&mut history, 2, 1_000);
    violation(check_within(&Register, &history, 20_000));
}

#[test]
fn what_still_multiplies_ends_undecided() {
    // Sums of subsets: different amounts, none of which makes the sum that was seen.
    let mut history = History::new();
    for power in 0..20 {
        history.invoke(1, Add(1 << power));
    }
    get(&mut history, 1 << 20);
    let verdict = check_within(&Counter, &history, 5_000);
    assert!(matches!(verdict, Verdict::Undecided { explored } if explored > 5_000), "{verdict}");
}

//! Thousands of small histories judged a second time, by trying all orders.

use super::models::{
    Counter, CounterOp, CounterRet, Log, LogOp, LogRet, Redeem, Redemption, Register, RegisterOp, RegisterRet, Token,
};
use super::simulation::{Plan, XorShift, simulate};
use crate::history::{History, Model, Operation, Outcome, Verdict, Violation, check};

/// Histories per model.
const ROUNDS: usize = 2_000;

/// Both verdicts have to come up at least this often for the comparison to mean something.
const OFTEN: usize = ROUNDS / 6;

/// Whether `order` is legal by the definition: nothing comes before what was answered before its invocation,
/// and the model gives every answer.
fn is_legal<M: Model>(model: &M, order: &[&Operation<M::Op, M::Ret>]) -> bool {
    let in_time = order.iter().enumerate().all(|(position, earlier)| {
        order[position..].iter().all(|later| later.answered_at().is_none_or(|at| at >= earlier.invoked_at))
    });
    let mut state = model.start();
    in_time
        && order.iter().all(|operation| {
            let (after, expected) = model.step(&state, &operation.operation);
            state = after;
            match &operation.outcome {
                Outcome::Returned { answer, .. } => *answer == expected,
                Outcome::Unknown => true,
            }
        })
}

/// Whether some permutation of all answered operations and some of the others is legal. `order` grows by each
/// of `rest` in turn; whether what it has grown to is legal is only asked when it is complete.
fn some_order_is_legal<'h, M: Model>(
    model: &M,
    order: &mut Vec<&'h Operation<M::Op, M::Ret>>,
    rest: &mut Vec<&'h Operation<M::Op, M::Ret>>,
) -> bool {
    if rest.iter().all(|operation| operation.outcome == Outcome::Unknown) && is_legal(model, order) {
        return true;
    }
    (0..rest.len()).any(|next| {
        order.push(rest.remove(next));
        let legal = some_order_is_legal(model, order, rest);
        rest.insert(next, order.pop().expect("pushed above"));
        legal
    })
}

fn naive<M: Model>(model: &M, operations: &[Operation<M::Op, M::Ret>]) -> bool {
    some_order_is_legal(model, &mut Vec::new(), &mut operations.iter().collect())
}

/// What was known of `history` right after the event `last`.
fn cut<Op: Clone, Ret: Clone>(history: &History<Op, Ret>, last: usize) -> Vec<Operation<Op, Ret>> {
    let mut operations = history.operations().to_vec();
    operations.retain(|operation| operation.invoked_at <= last);
    for operation in operations.iter_mut().filter(|operation| operation.answered_at() > Some(last)) {
        operation.outcome = Outcome::Unknown;
    }
    operations
}

/// An explanation has to be true: the prefix is legal, the refused are refused, and the history is
/// linearizable up to the contradiction and not with it.
fn assert_true<M: Model>(model: &M, history: &History<M::Op, M::Ret>, violation: &Violation<M::Op, M::Ret>) {
    assert!(is_legal(model, &violation.prefix.iter().collect::<Vec<_>>()), "{violation}");
    for refusal in &violation.refused {
        let refused = |answer: &M::Ret| *answer != refusal.expected;
        assert!(
            matches!(&refusal.operation.outcome, Outcome::Returned { answer, .. } if refused(answer)),
            "{violation}"
        );
    }
    let contradiction = violation.contradiction.answered_at().expect("only answers contradict");
    assert!(naive(model, &cut(history, contradiction - 1)), "{violation}");
    assert!(!naive(model, &cut(history, contradiction)), "{violation}");
}

fn compare<M: Model>(
    model: &M,
    seed: u64,
    operation: impl Fn(&mut XorShift) -> M::Op,
    wrong: impl Fn(&mut XorShift, &M::Ret) -> M::Ret,
) {
    let random = &mut XorShift(seed);
    let (mut good, mut bad) = (0, 0);
    for round in 0..ROUNDS {
        let plan = Plan { clients: 3, operations: 3 + round % 4, lost: 20, repeated: 5, wrong: 30 };
        let history = simulate(model, &plan, random, &operation, &wrong);
        if history.operations().len() > 6 {
            continue;
        }
        let linearizable = naive(model, history.operations());
        match check(model, &history) {
            Verdict::Linearizable => {
                assert!(linearizable, "round {round}: a violation was overlooked in {history:#?}");
                good += 1;
            }
            Verdict::Violation(violation) => {
                assert!(!linearizable, "round {round}: an order was overlooked in {history:#?}\n{violation}");
                assert_true(model, &history, &violation);
                bad += 1;
            }
            undecided @ Verdict::Undecided { .. } => panic!("round {round}: {undecided}"),
        }
    }
    assert!(good > OFTEN && bad > OFTEN, "{good} linearizable, {bad} not");
}

#[test]
fn registers_are_judged_as_by_definition() {
    let operation = |random: &mut XorShift| match random.below(4) {
        0 => RegisterOp::Write(random.below(3)),
        1 => RegisterOp::CompareAndSet(random.below(3), random.below(3)),
        _ => RegisterOp::Read,
    };
    compare(&Register, 0x5eed_0001, operation, |random, answer| match answer {
        RegisterRet::Value(_) => RegisterRet::Value(random.below(3)),
        RegisterRet::Written => RegisterRet::Written,
        RegisterRet::Swapped(swapped) => RegisterRet::Swapped(!swapped),
    });
}

#[test]
fn counters_are_judged_as_by_definition() {
    let operation = |random: &mut XorShift| match random.below(3) {
        0 => CounterOp::Add(1 + random.below(2)),
        _ => CounterOp::Get,
    };
    compare(&Counter, 0x5eed_0002, operation, |random, answer| match answer {
        CounterRet::Sum(sum) => CounterRet::Sum(sum + 1 + random.below(2)),
        CounterRet::Added => CounterRet::Added,
    });
}

#[test]
fn tokens_are_judged_as_by_definition() {
    compare(
        &Token,
        0x5eed_0003,
        |random| Redeem { by: random.below(3) },
        |random, _| match random.below(4) {
            3 => Redemption::Refused,
            id => Redemption::Won { id },
        },
    );
}

#[test]
fn logs_are_judged_as_by_definition() {
    let operation = |random: &mut XorShift| match random.below(2) {
        0 => LogOp::Append(random.below(3)),
        _ => LogOp::Entries,
    };
    compare(&Log, 0x5eed_0004, operation, |_, answer| match answer {
        LogRet::List(entries) if entries.len() > 1 => LogRet::List(entries.iter().rev().copied().collect()),
        LogRet::List(_) => LogRet::List(vec![1]),
        LogRet::Appended => LogRet::Appended,
    });
}

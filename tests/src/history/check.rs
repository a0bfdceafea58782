//! The questions that a test asks of a history.

use std::collections::BTreeMap;

use super::search::Search;
use super::shorten::shorten;
use super::timeline::Timeline;
use super::{History, Model, Operation, Verdict};

/// Configurations that one search visits before it gives up. A history of some thousand operations that is
/// in order needs about one for each operation, and one that is not needs tens of thousands; this many take
/// seconds and a few hundred megabytes, which a test can still afford.
pub const CONFIGURATION_BUDGET: usize = 1_000_000;

/// Whether `history` is linearizable with regard to `model`. A violation is that of the shortest part of the
/// history that is not.
pub fn check<M: Model>(model: &M, history: &History<M::Op, M::Ret>) -> Verdict<M::Op, M::Ret> {
    check_within(model, history, CONFIGURATION_BUDGET)
}

/// [`check`] with a budget of the caller's choice.
pub fn check_within<M: Model>(model: &M, history: &History<M::Op, M::Ret>, budget: usize) -> Verdict<M::Op, M::Ret> {
    let operations: Vec<_> = history.operations().iter().collect();
    judge(model, &operations, budget)
}

/// [`check`] for each key apart, which is exponentially cheaper than together: a history is linearizable if
/// its restriction to every key is.
///
/// That holds if the keys are independent: in the model, no operation's answer depends on operations of
/// another key. Each key has a budget of its own and starts from [`Model::start`]. A violation is that of the
/// least key that has one; undecided is reported only if no key is in violation.
pub fn check_partitioned<M: Model, Key: Ord>(
    model: &M,
    history: &History<M::Op, M::Ret>,
    key_of: impl Fn(&M::Op) -> Key,
) -> Verdict<M::Op, M::Ret> {
    let mut partitions: BTreeMap<Key, Vec<_>> = BTreeMap::new();
    for operation in history.operations() {
        partitions.entry(key_of(&operation.operation)).or_default().push(operation);
    }
    let mut overall = Verdict::Linearizable;
    for operations in partitions.values() {
        match judge(model, operations, CONFIGURATION_BUDGET) {
            Verdict::Linearizable => {}
            undecided @ Verdict::Undecided { .. } => overall = undecided,
            violation @ Verdict::Violation(_) => return violation,
        }
    }
    overall
}

fn judge<M: Model>(model: &M, operations: &[&Operation<M::Op, M::Ret>], budget: usize) -> Verdict<M::Op, M::Ret> {
    match Search::new(model, Timeline::new(operations), budget).run() {
        Verdict::Violation(whole) => Verdict::Violation(shorten(model, operations, budget, whole)),
        other => other,
    }
}

//! Finding the answer that makes the difference.
//!
//! A part of a history that ends at some event is linearizable if the whole is. So there is one answer up to
//! which a history is linearizable and with which it no longer is, and bisection finds it. That is worth its
//! few searches: what came later contradicts nothing, and only hides what does.

use super::search::Search;
use super::timeline::Timeline;
use super::{Model, Operation, Outcome, Verdict, Violation};

/// The violation of the shortest part of `operations` that is not linearizable; `whole` is that of all of
/// them. Where a search is undecided the part is taken to be linearizable, so the result is a violation in
/// any case, if perhaps not the shortest.
pub(super) fn shorten<M: Model>(
    model: &M,
    operations: &[&Operation<M::Op, M::Ret>],
    budget: usize,
    whole: Violation<M::Op, M::Ret>,
) -> Violation<M::Op, M::Ret> {
    let mut answers: Vec<usize> = operations.iter().filter_map(|operation| operation.answered_at()).collect();
    answers.sort_unstable();
    let mut shortest = whole;
    let (mut linearizable, mut contradictory) = (0, answers.len());
    while contradictory - linearizable > 1 {
        let middle = linearizable.midpoint(contradictory);
        let part = until(operations, answers[middle - 1]);
        match Search::new(model, Timeline::new(&part.iter().collect::<Vec<_>>()), budget).run() {
            Verdict::Violation(violation) => {
                shortest = violation;
                contradictory = middle;
            }
            Verdict::Linearizable | Verdict::Undecided { .. } => linearizable = middle,
        }
    }
    shortest
}

/// What was known right after the event `last`.
fn until<Op: Clone, Ret: Clone>(operations: &[&Operation<Op, Ret>], last: usize) -> Vec<Operation<Op, Ret>> {
    let invoked = operations.iter().filter(|operation| operation.invoked_at <= last);
    invoked
        .map(|operation| {
            let answered = operation.answered_at().is_some_and(|at| at <= last);
            let outcome = if answered { operation.outcome.clone() } else { Outcome::Unknown };
            Operation { outcome, operation: operation.operation.clone(), ..**operation }
        })
        .collect()
}

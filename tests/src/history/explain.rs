//! What to show of a search that found no order.

use std::cmp::Reverse;

use super::configuration::{Configuration, Placed};
use super::timeline::Timeline;
use super::{Model, Operation, Refusal, Violation};

/// Shows the configuration that explains the most answers, with the fewest unknown operations. Every answered
/// operation that may be next after it is refused, or a better configuration would have been found.
pub(super) fn explain<M: Model>(
    model: &M,
    timeline: &Timeline<'_, M::Op, M::Ret>,
    found: &[Configuration<M::State>],
) -> Violation<M::Op, M::Ret> {
    let best = found
        .iter()
        .max_by_key(|configuration| {
            (configuration.point.deadline, configuration.point.ahead.len(), Reverse(configuration.unknown.len()))
        })
        .expect("the start is always found");
    let point = &best.point;
    let refused = timeline
        .candidates(point)
        .map(|position| {
            let recorded = timeline.answered[position].recorded;
            let (_, expected) = model.step(&point.state, &recorded.operation);
            Refusal { operation: recorded.clone(), expected }
        })
        .collect();
    let possible: usize = (0..timeline.unknown.len()).map(|class| timeline.possible(class, point.deadline)).sum();
    let last = timeline.answered.last().expect("what was not answered contradicts nothing");
    Violation {
        contradiction: last.recorded.clone(),
        prefix: order(timeline, found, best),
        state: format!("{:?}", point.state),
        refused,
        unknown_left: possible - best.unknown.len(),
    }
}

/// The operations on the way to `last`.
fn order<Op: Clone, Ret: Clone, State>(
    timeline: &Timeline<'_, Op, Ret>,
    found: &[Configuration<State>],
    last: &Configuration<State>,
) -> Vec<Operation<Op, Ret>> {
    let way = std::iter::successors(last.reached, |(before, _)| found[*before].reached);
    let mut placed: Vec<Placed> = way.map(|(_, placed)| placed).collect();
    placed.reverse();

    let mut used = vec![0; timeline.unknown.len()];
    placed
        .into_iter()
        .map(|placed| match placed {
            Placed::Answered(position) => timeline.answered[position].recorded.clone(),
            Placed::Unknown(class) => {
                used[class] += 1;
                timeline.unknown[class].members[used[class] - 1].clone()
            }
        })
        .collect()
}

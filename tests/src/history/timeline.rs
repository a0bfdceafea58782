//! A history arranged for the search.
//!
//! Answered operations are taken in the order of their answers. All operations before the first answer that
//! is not yet explained are then placed, and the others that are placed overlap with it, so what the classic
//! algorithm keeps in a linked list of events and a bit set of operations is here a position and a list no
//! longer than there are clients.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;

use super::configuration::Point;
use super::{Operation, Outcome};

/// An operation that was answered.
pub(super) struct Answered<'h, Op, Ret> {
    pub(super) recorded: &'h Operation<Op, Ret>,
    pub(super) answer: &'h Ret,
    /// Positions of the operations that return later but were invoked before this one returned: with it,
    /// the only answered ones that can be next as long as this answer is to be explained.
    pub(super) overlapping: Vec<usize>,
    returned_at: usize,
}

/// Operations of unknown outcome that ask for the same. None can be told from another by its effect, so it
/// suffices to use the one that was invoked first, and to count.
pub(super) struct UnknownClass<'h, Op, Ret> {
    /// In the order of invocation; never empty.
    pub(super) members: Vec<&'h Operation<Op, Ret>>,
}

/// The operations of one history, or of one key of it.
pub(super) struct Timeline<'h, Op, Ret> {
    /// In the order of their answers.
    pub(super) answered: Vec<Answered<'h, Op, Ret>>,
    /// In the order of their first members' invocations.
    pub(super) unknown: Vec<UnknownClass<'h, Op, Ret>>,
}

impl<'h, Op: PartialEq, Ret> Timeline<'h, Op, Ret> {
    pub(super) fn new(operations: &[&'h Operation<Op, Ret>]) -> Self {
        Self { answered: in_order_of_answers(operations), unknown: in_classes(operations) }
    }

    /// The answered operations that may be next: the one at the deadline, then those that overlap with it.
    pub(super) fn candidates<State>(&self, point: &Point<State>) -> impl Iterator<Item = usize> {
        let overlapping = self.answered[point.deadline].overlapping.iter().copied();
        iter::once(point.deadline).chain(overlapping.filter(|position| !point.ahead.contains(position)))
    }

    /// How many of `class` were invoked early enough to take effect before the answer at `deadline`.
    pub(super) fn possible(&self, class: usize, deadline: usize) -> usize {
        let limit = self.answered[deadline].returned_at;
        self.unknown[class].members.partition_point(|member| member.invoked_at <= limit)
    }
}

fn in_order_of_answers<'h, Op, Ret>(operations: &[&'h Operation<Op, Ret>]) -> Vec<Answered<'h, Op, Ret>> {
    let mut answered: Vec<_> = operations
        .iter()
        .filter_map(|recorded| match &recorded.outcome {
            Outcome::Returned { answer, at } => {
                Some(Answered { recorded, answer, returned_at: *at, overlapping: Vec::new() })
            }
            Outcome::Unknown => None,
        })
        .collect();
    answered.sort_by_key(|operation| operation.returned_at);

    let invocations: BTreeMap<usize, usize> =
        answered.iter().enumerate().map(|(position, operation)| (operation.recorded.invoked_at, position)).collect();
    let mut invocations = invocations.into_iter().peekable();
    let mut pending = BTreeSet::new();
    for (position, operation) in answered.iter_mut().enumerate() {
        while let Some((_, invoked)) = invocations.next_if(|(at, _)| *at < operation.returned_at) {
            pending.insert(invoked);
        }
        pending.remove(&position);
        operation.overlapping = pending.iter().copied().collect();
    }
    answered
}

fn in_classes<'h, Op: PartialEq, Ret>(operations: &[&'h Operation<Op, Ret>]) -> Vec<UnknownClass<'h, Op, Ret>> {
    let mut unknown: Vec<&Operation<Op, Ret>> =
        operations.iter().copied().filter(|operation| matches!(operation.outcome, Outcome::Unknown)).collect();
    unknown.sort_by_key(|operation| operation.invoked_at);

    let mut classes: Vec<UnknownClass<'h, Op, Ret>> = Vec::new();
    for operation in unknown {
        match classes.iter_mut().find(|class| class.members[0].operation == operation.operation) {
            Some(class) => class.members.push(operation),
            None => classes.push(UnknownClass { members: vec![operation] }),
        }
    }
    classes
}

//! How far a search has come with one order.

use std::rc::Rc;

/// Where an order has come to, apart from the unknown operations used.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Point<State> {
    /// Position of the first answered operation that is not placed; all before it are.
    pub(super) deadline: usize,
    /// Sorted positions of the operations after the deadline that are placed.
    pub(super) ahead: Vec<usize>,
    pub(super) state: State,
}

pub(super) struct Configuration<State> {
    pub(super) point: Rc<Point<State>>,
    /// Sorted classes of the unknown operations placed, each as often as it was.
    pub(super) unknown: Rc<Vec<usize>>,
    /// The configuration before, and what was placed last. None at the start.
    pub(super) reached: Option<(usize, Placed)>,
}

#[derive(Clone, Copy)]
pub(super) enum Placed {
    /// The answered operation at this position.
    Answered(usize),
    /// An operation of this class.
    Unknown(usize),
}

impl<State> Point<State> {
    /// The point after placing the answered operation at `position`, which leads to `state`.
    pub(super) fn with(&self, position: usize, state: State) -> Self {
        let mut deadline = self.deadline;
        let mut ahead = self.ahead.clone();
        if position == deadline {
            deadline += 1;
            let reached = ahead.iter().zip(deadline..).take_while(|(placed, next)| **placed == *next).count();
            deadline += reached;
            ahead.drain(..reached);
        } else {
            ahead.insert(ahead.partition_point(|placed| *placed < position), position);
        }
        Self { deadline, ahead, state }
    }
}

/// Whether the sorted list `part` is what remains of the sorted list `whole` if some entries are left out.
pub(super) fn is_part_of(part: &[usize], whole: &[usize]) -> bool {
    let mut whole = whole.iter();
    part.iter().all(|wanted| whole.any(|entry| entry == wanted))
}

//! The search for an order.
//!
//! A configuration is what matters about the operations placed so far: the first answer not yet explained
//! (the *deadline*), the operations placed ahead of their turn, the operations of unknown outcome used, and
//! the state. The search goes on from the configuration with the latest deadline, and among these from one
//! that used the fewest unknown operations, so an orderly history is walked through without looking aside.
//!
//! Operations of unknown outcome may be placed anywhere, and left out. Three rules keep them from multiplying:
//! - one that does not change the state is not placed: leaving it out allows as much;
//! - equal ones are counted and not told apart (see `timeline`);
//! - a configuration is dropped if one was found that differs only in having used fewer of them, as it allows
//!   as much. (Of the first rule this would take care as well, but later.)
//!
//! Deliberately absent: a rule to place an unknown operation no earlier than some answer shows it. Where no
//! order exists all places are tried anyhow, and where one does, fewest first comes to the same.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

use super::configuration::{Configuration, Placed, Point, is_part_of};
use super::explain::explain;
use super::timeline::Timeline;
use super::{Model, Verdict};

/// Configurations remembered that differ in the unknown operations used and in nothing else. Each new one is
/// compared with all of them; beyond this many, comparing costs more than now and then visiting one twice.
const VARIANTS_REMEMBERED: usize = 64;

/// What may be next after a configuration. The answered operations are looked at first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Unknown,
    Answered,
}

/// A search over one timeline.
pub(super) struct Search<'h, M: Model> {
    model: &'h M,
    timeline: Timeline<'h, M::Op, M::Ret>,
    budget: usize,
    /// All configurations that were visited or will be.
    found: Vec<Configuration<M::State>>,
    /// The configurations at each point, as indices. The hasher is not seeded: a search can be repeated.
    variants: HashMap<Rc<Point<M::State>>, Vec<usize>, BuildHasherDefault<DefaultHasher>>,
    /// Deadline, unknown operations used, and the configuration to go on from: the greatest is next.
    agenda: BinaryHeap<(usize, Reverse<usize>, Next, usize)>,
}

impl<'h, M: Model> Search<'h, M> {
    pub(super) fn new(model: &'h M, timeline: Timeline<'h, M::Op, M::Ret>, budget: usize) -> Self {
        let variants = HashMap::default();
        let mut search = Self { model, timeline, budget, found: Vec::new(), variants, agenda: BinaryHeap::new() };
        let start = Point { deadline: 0, ahead: Vec::new(), state: model.start() };
        search.find(None, start, Rc::new(Vec::new()));
        search
    }

    pub(super) fn run(mut self) -> Verdict<M::Op, M::Ret> {
        while let Some((deadline, Reverse(used), next, from)) = self.agenda.pop() {
            if deadline == self.timeline.answered.len() {
                return Verdict::Linearizable;
            }
            if self.found.len() > self.budget {
                return Verdict::Undecided { explored: self.found.len() };
            }
            match next {
                Next::Answered => {
                    self.place_answered(from);
                    self.agenda.push((deadline, Reverse(used + 1), Next::Unknown, from));
                }
                Next::Unknown => self.place_unknown(from),
            }
        }
        Verdict::Violation(explain(self.model, &self.timeline, &self.found))
    }

    fn place_answered(&mut self, from: usize) {
        let point = Rc::clone(&self.found[from].point);
        for position in self.timeline.candidates(&point).collect::<Vec<_>>() {
            let operation = &self.timeline.answered[position];
            let (state, answer) = self.model.step(&point.state, &operation.recorded.operation);
            if answer == *operation.answer {
                let unknown = Rc::clone(&self.found[from].unknown);
                self.find(Some((from, Placed::Answered(position))), point.with(position, state), unknown);
            }
        }
    }

    fn place_unknown(&mut self, from: usize) {
        let point = Rc::clone(&self.found[from].point);
        let unknown = Rc::clone(&self.found[from].unknown);
        for class in 0..self.timeline.unknown.len() {
            let used = unknown.iter().filter(|placed| **placed == class).count();
            if used >= self.timeline.possible(class, point.deadline) {
                continue;
            }
            let (state, _) = self.model.step(&point.state, &self.timeline.unknown[class].members[used].operation);
            if state != point.state {
                let next = Point { deadline: point.deadline, ahead: point.ahead.clone(), state };
                let mut unknown = unknown.to_vec();
                unknown.insert(unknown.partition_point(|placed| *placed < class), class);
                self.find(Some((from, Placed::Unknown(class))), next, Rc::new(unknown));
            }
        }
    }

    /// Puts a configuration on the agenda, unless one that allows at least as much was there.
    fn find(&mut self, reached: Option<(usize, Placed)>, point: Point<M::State>, unknown: Rc<Vec<usize>>) {
        let point = Rc::new(point);
        let found = &mut self.found;
        let variants = self.variants.entry(Rc::clone(&point)).or_default();
        if variants.iter().any(|variant| is_part_of(&found[*variant].unknown, &unknown)) {
            return;
        }
        variants.retain(|variant| !is_part_of(&unknown, &found[*variant].unknown));
        if variants.len() < VARIANTS_REMEMBERED {
            variants.push(found.len());
        }
        self.agenda.push((point.deadline, Reverse(unknown.len()), Next::Answered, found.len()));
        found.push(Configuration { point, unknown, reached });
    }
}

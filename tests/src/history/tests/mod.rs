//! Histories whose verdict is known, and random ones judged a second way.

mod brute_force;
mod models;
mod monotonic;
mod registers;
mod scale;
mod simulation;
mod tokens_and_counters;
mod unknown;

use super::{Verdict, Violation};

/// The violation that a verdict has to be.
fn violation<Op, Ret>(verdict: Verdict<Op, Ret>) -> Violation<Op, Ret> {
    match verdict {
        Verdict::Violation(violation) => violation,
        Verdict::Linearizable => panic!("a violation was overlooked"),
        Verdict::Undecided { explored } => panic!("undecided after {explored} configurations"),
    }
}

//! Judging what concurrent clients saw: is there one order of their operations that explains every answer?
//!
//! A test records a [`History`] while it runs and afterwards asks [`check`] whether the history is
//! linearizable with regard to a [`Model`]: whether each operation can be given one instant between its
//! invocation and its answer such that the model, run in the order of these instants, gives every answer
//! that was observed. [`monotonic_reads`] asks the weaker question that stale reads are held to.
//!
//! The method is Wing and Gong's search (*Testing and Verifying Concurrent Objects*, 1993) with what Lowe
//! added (*Testing for Linearizability*, 2017): operations are placed just in time for the next answer that
//! needs them, and a configuration is visited once. [`check_partitioned`] judges independent keys apart, as
//! Horn and Kroening do (*Faster Linearizability Checking via P-Compositionality*, 2015).
//!
//! An operation whose client got no answer is where such searches explode, because it stays possible for
//! ever. The module `search` says how that is held down; a budget ends what still explodes as
//! [`Verdict::Undecided`], which is neither a pass nor a failure.
//!
//! Pure code: no clock, no randomness, no I/O. Deliberately absent: a record of operations that surely did
//! not happen (leave them out, or leave them unanswered, which is sound and merely weaker), and models with a
//! choice of answers (record the answer in a form that is determined, or give `Ret` a wider equality).

mod check;
mod configuration;
mod explain;
mod monotonic;
mod record;
mod search;
mod shorten;
mod timeline;
mod verdict;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::hash::Hash;

pub use check::{CONFIGURATION_BUDGET, check, check_partitioned, check_within};
pub use monotonic::{WentBack, monotonic_reads};
pub use record::{Caller, History, Invocation, Operation, Outcome};
pub use verdict::{Refusal, Verdict, Violation};

/// What the system under test should be: a sequential, deterministic state machine.
///
/// Everything is `Debug` because a violation that cannot be printed helps nobody.
pub trait Model {
    /// What the machine remembers. Cloned and hashed once per configuration: keep it small, and let
    /// [`check_partitioned`] keep it to one key.
    type State: Clone + Eq + Hash + Debug;
    /// What a client asks for. Equal operations of unknown outcome are taken to be interchangeable.
    type Op: Clone + PartialEq + Debug;
    /// What a client is answered. An observed answer has to be equal to the model's.
    type Ret: Clone + PartialEq + Debug;

    /// The state before the first operation.
    fn start(&self) -> Self::State;

    /// The state after `operation` in `state`, and its answer. It must depend on nothing else.
    fn step(&self, state: &Self::State, operation: &Self::Op) -> (Self::State, Self::Ret);
}

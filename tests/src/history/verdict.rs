//! What a check finds, in words that a person can follow.

use std::fmt;

use super::Operation;

/// Operations of the prefix that are printed: the last ones, because what contradicts them is nearby. The
/// value itself has all.
const PREFIX_SHOWN: usize = 20;

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<Op, Ret> {
    /// Some order explains every answer.
    Linearizable,
    /// No order does.
    Violation(Violation<Op, Ret>),
    /// The budget was used up first: partition the history, or record a shorter one.
    Undecided {
        /// Configurations visited.
        explored: usize,
    },
}

/// How far an order could be found, and what contradicts going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation<Op, Ret> {
    /// The operation whose answer is one too many: the history is linearizable up to it, and with it no
    /// more. Operations that were answered later are shown below as unanswered, which is how they count.
    pub contradiction: Operation<Op, Ret>,
    /// Operations in the order that explains the most answers.
    pub prefix: Vec<Operation<Op, Ret>>,
    /// The model's state after the prefix, as `Debug` prints it.
    pub state: String,
    /// The operations one of which would have to be next, in the order of their answers.
    pub refused: Vec<Refusal<Op, Ret>>,
    /// Operations of unknown outcome that could also have taken effect by then, and are not in the prefix:
    /// with these, too, no order was found.
    pub unknown_left: usize,
}

/// An operation that cannot be next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal<Op, Ret> {
    /// What was recorded.
    pub operation: Operation<Op, Ret>,
    /// What the model would have answered.
    pub expected: Ret,
}

impl<Op, Ret> Verdict<Op, Ret> {
    /// Whether an order was found. For `assert!(verdict.is_linearizable(), "{verdict}")`.
    pub fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable)
    }
}

impl<Op: fmt::Debug, Ret: fmt::Debug> fmt::Display for Verdict<Op, Ret> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => formatter.write_str("linearizable"),
            Self::Violation(violation) => violation.fmt(formatter),
            Self::Undecided { explored } => write!(formatter, "undecided after {explored} configurations"),
        }
    }
}

impl<Op: fmt::Debug, Ret: fmt::Debug> fmt::Display for Violation<Op, Ret> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { contradiction, prefix, state, refused, unknown_left } = self;
        writeln!(formatter, "not linearizable ([invoked..answered]) from this answer on:\n  {contradiction}")?;
        writeln!(formatter, "the best order with it is:")?;
        let hidden = prefix.len().saturating_sub(PREFIX_SHOWN);
        if hidden > 0 {
            writeln!(formatter, "  ({hidden} earlier operations)")?;
        }
        for operation in &prefix[hidden..] {
            writeln!(formatter, "  {operation}")?;
        }
        write!(formatter, "then the state is {state}, and none of these can be next:")?;
        for Refusal { operation, expected } in refused {
            write!(formatter, "\n  {operation}, but the model answers {expected:?}")?;
        }
        if *unknown_left > 0 {
            write!(formatter, "\nnor does it help to apply any of {unknown_left} more whose outcome is unknown")?;
        }
        Ok(())
    }
}

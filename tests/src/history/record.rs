//! Recording: who asked for what, in which order, and what came back.
//!
//! Order is all that linearizability needs, so events are numbered and not timed. Whoever shares a history
//! between threads serializes the calls (a mutex does), and must record an invocation before the request
//! leaves and an answer after it came: recorded the other way round, operations seem shorter than they were
//! and a correct system is convicted.

use std::fmt;

/// Who an operation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Caller {
    /// The client of this number.
    Client(usize),
    /// Nobody waits for it: see [`History::ghost`].
    Ghost,
}

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<Ret> {
    /// Its client got this answer.
    Returned {
        /// The answer.
        answer: Ret,
        /// The index of the event.
        at: usize,
    },
    /// Its client got no answer: it took effect at some time after its invocation, or never.
    Unknown,
}

/// One operation of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<Op, Ret> {
    /// Who asked.
    pub caller: Caller,
    /// What for.
    pub operation: Op,
    /// The index of the event at which it could first take effect.
    pub invoked_at: usize,
    /// What came back.
    pub outcome: Outcome<Ret>,
}

impl<Op, Ret> Operation<Op, Ret> {
    /// The index of the event at which its client was answered.
    pub fn answered_at(&self) -> Option<usize> {
        match self.outcome {
            Outcome::Returned { at, .. } => Some(at),
            Outcome::Unknown => None,
        }
    }
}

/// A pending operation of one history; used up by its answer, so that there is at most one. Dropped instead,
/// it leaves the operation [`Outcome::Unknown`].
#[derive(Debug)]
pub struct Invocation {
    position: usize,
    at: usize,
}

impl Invocation {
    /// The index of the event, which is what [`History::ghost`] takes.
    pub fn at(&self) -> usize {
        self.at
    }
}

/// What clients asked for and were answered, in the order of their calls to this recorder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History<Op, Ret> {
    operations: Vec<Operation<Op, Ret>>,
    next_event: usize,
}

impl<Op, Ret> Default for History<Op, Ret> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Op, Ret> History<Op, Ret> {
    /// A history in which nothing happened yet.
    pub fn new() -> Self {
        Self { operations: Vec::new(), next_event: 0 }
    }

    /// `client` asks for `operation`. Until [`History::returned`] says otherwise, the outcome is unknown.
    pub fn invoke(&mut self, client: usize, operation: Op) -> Invocation {
        let at = self.tick();
        let position = self.record(Caller::Client(client), operation, at);
        Invocation { position, at }
    }

    /// The client of `invocation` is answered.
    ///
    /// # Panics
    ///
    /// If `invocation` is of another history and this one has no such operation.
    pub fn returned(&mut self, invocation: Invocation, answer: Ret) {
        let at = self.tick();
        let operation = self.operations.get_mut(invocation.position).expect("an invocation belongs to its history");
        operation.outcome = Outcome::Returned { answer, at };
    }

    /// A copy of an operation that may take effect once more, at any time after the event `invoked_at`.
    ///
    /// A client that repeats a command after an unclear answer leaves the earlier attempt behind: it may
    /// have been applied, may be applied later, or never. Record one ghost for each attempt given up, with
    /// the event at which the operation was invoked, whatever the last attempt is answered. A ghost excuses
    /// anomalies, so add none for attempts that were not made or that the system promises to recognize.
    pub fn ghost(&mut self, operation: Op, invoked_at: usize) {
        self.record(Caller::Ghost, operation, invoked_at);
    }

    /// All operations, in the order in which they were recorded.
    pub fn operations(&self) -> &[Operation<Op, Ret>] {
        &self.operations
    }

    fn tick(&mut self) -> usize {
        let at = self.next_event;
        self.next_event += 1;
        at
    }

    fn record(&mut self, caller: Caller, operation: Op, invoked_at: usize) -> usize {
        self.operations.push(Operation { caller, operation, invoked_at, outcome: Outcome::Unknown });
        self.operations.len() - 1
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(number) => write!(formatter, "client {number}"),
            Self::Ghost => formatter.write_str("ghost"),
        }
    }
}

impl<Op: fmt::Debug, Ret: fmt::Debug> fmt::Display for Operation<Op, Ret> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caller, operation, invoked_at, outcome } = self;
        match outcome {
            Outcome::Returned { answer, at } => {
                write!(formatter, "[{invoked_at}..{at}] {caller}: {operation:?} -> {answer:?}")
            }
            Outcome::Unknown => write!(formatter, "[{invoked_at}..?] {caller}: {operation:?} -> unanswered"),
        }
    }
}

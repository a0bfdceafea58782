//! What the registry should be to its clients, key by key: written down anew, so that a mistake in the registry is not
//! in the measure too.

use std::fmt;

use isthmus_tests::history::Model;

/// What operations are about. Keys are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A service that a cluster offers, under one port or not at all.
    Export { cluster: usize, service: u16 },
    /// Whether a cluster's traffic is moved away.
    Draining { cluster: usize },
    /// Whether the last cluster administers the federation.
    Administrator,
    /// A token that admits one gateway.
    Token { number: usize },
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) key: Key,
    pub(crate) what: What,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {:?}", self.what, self.key)
    }
}

/// What is to become of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// This value, or none.
    Set(Option<u16>),
    /// The place that the token gives, for this newcomer.
    Redeem(u16),
    /// Nothing: it is looked at, when all is over.
    Look,
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Changed,
    Unchanged,
    Admitted,
    TokenUsed,
    /// The value, or the newcomer that was admitted.
    Holds(Option<u16>),
}

/// A key as a state machine.
pub(crate) struct Sequential;

impl Model for Sequential {
    type State = Option<u16>;
    type Op = Op;
    type Ret = Told;

    fn start(&self) -> Option<u16> {
        None
    }

    fn step(&self, state: &Option<u16>, operation: &Op) -> (Option<u16>, Told) {
        match operation.what {
            What::Set(value) if *state == value => (*state, Told::Unchanged),
            What::Set(value) => (value, Told::Changed),
            What::Redeem(newcomer) => match state {
                None => (Some(newcomer), Told::Admitted),
                Some(first) if *first == newcomer => (*state, Told::Admitted),
                Some(_) => (*state, Told::TokenUsed),
            },
            What::Look => (*state, Told::Holds(*state)),
        }
    }
}

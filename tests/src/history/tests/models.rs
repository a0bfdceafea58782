//! The machines that the tests hold histories to.

use crate::history::Model;

/// Reads, writes and compare-and-set of one value, 0 at first.
pub(super) struct Register;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RegisterOp {
    Read,
    Write(u32),
    CompareAndSet(u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RegisterRet {
    Value(u32),
    Written,
    Swapped(bool),
}

impl Model for Register {
    type State = u32;
    type Op = RegisterOp;
    type Ret = RegisterRet;

    fn start(&self) -> u32 {
        0
    }

    fn step(&self, state: &u32, operation: &RegisterOp) -> (u32, RegisterRet) {
        match operation {
            RegisterOp::Read => (*state, RegisterRet::Value(*state)),
            RegisterOp::Write(value) => (*value, RegisterRet::Written),
            RegisterOp::CompareAndSet(old, new) if old == state => (*new, RegisterRet::Swapped(true)),
            RegisterOp::CompareAndSet(..) => (*state, RegisterRet::Swapped(false)),
        }
    }
}

/// A register for each key; the model sees one key at a time.
pub(super) struct KeyedRegister;

impl Model for KeyedRegister {
    type State = u32;
    type Op = (&'static str, RegisterOp);
    type Ret = RegisterRet;

    fn start(&self) -> u32 {
        Register.start()
    }

    fn step(&self, state: &u32, (_, operation): &Self::Op) -> (u32, RegisterRet) {
        Register.step(state, operation)
    }
}

/// A token that one party may redeem; redeeming it again tells the winner its id again.
pub(super) struct Token;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Redeem {
    pub(super) by: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Redemption {
    Won { id: u32 },
    Refused,
}

impl Model for Token {
    type State = Option<u32>;
    type Op = Redeem;
    type Ret = Redemption;

    fn start(&self) -> Option<u32> {
        None
    }

    fn step(&self, winner: &Option<u32>, Redeem { by }: &Redeem) -> (Option<u32>, Redemption) {
        match winner {
            Some(winner) if winner != by => (Some(*winner), Redemption::Refused),
            _ => (Some(*by), Redemption::Won { id: *by }),
        }
    }
}

/// A sum, 0 at first.
pub(super) struct Counter;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CounterOp {
    Add(u32),
    Get,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CounterRet {
    Added,
    Sum(u32),
}

impl Model for Counter {
    type State = u32;
    type Op = CounterOp;
    type Ret = CounterRet;

    fn start(&self) -> u32 {
        0
    }

    fn step(&self, state: &u32, operation: &CounterOp) -> (u32, CounterRet) {
        match operation {
            CounterOp::Add(amount) => (state + amount, CounterRet::Added),
            CounterOp::Get => (*state, CounterRet::Sum(*state)),
        }
    }
}

/// A list that is appended to: the order of all its operations shows.
pub(super) struct Log;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogOp {
    Append(u32),
    Entries,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LogRet {
    Appended,
    List(Vec<u32>),
}

impl Model for Log {
    type State = Vec<u32>;
    type Op = LogOp;
    type Ret = LogRet;

    fn start(&self) -> Vec<u32> {
        Vec::new()
    }

    fn step(&self, state: &Vec<u32>, operation: &LogOp) -> (Vec<u32>, LogRet) {
        match operation {
            LogOp::Append(entry) => ([state.as_slice(), &[*entry]].concat(), LogRet::Appended),
            LogOp::Entries => (state.clone(), LogRet::List(state.clone())),
        }
    }
}

//! Histories of a simulated service that applies operations at once, loses answers, and may lie.

use crate::history::{History, Invocation, Model};

/// Marsaglia's xorshift: enough disorder for tests, and the same one every time.
pub(super) struct XorShift(pub(super) u64);

impl XorShift {
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 16) % u64::from(limit)).expect("less than a u32")
    }

    pub(super) fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }
}

/// What happens in a simulated history; chances are in percent of the operations.
pub(super) struct Plan {
    pub(super) clients: usize,
    pub(super) operations: usize,
    /// The client gives up.
    pub(super) lost: u32,
    /// The client sends the operation twice and hears of one.
    pub(super) repeated: u32,
    /// The answer is another one of this state machine's.
    pub(super) wrong: u32,
}

struct Pending<Op, Ret> {
    invocation: Invocation,
    operation: Op,
    answer: Option<Ret>,
}

/// Runs `plan`. Every operation is applied at one instant between its invocation and its answer; a lost or
/// repeated one at any later time or never.
pub(super) fn simulate<M: Model>(
    model: &M,
    plan: &Plan,
    random: &mut XorShift,
    operation: impl Fn(&mut XorShift) -> M::Op,
    wrong: impl Fn(&mut XorShift, &M::Ret) -> M::Ret,
) -> History<M::Op, M::Ret> {
    let mut history = History::new();
    let mut state = model.start();
    let mut clients: Vec<Option<Pending<M::Op, M::Ret>>> = (0..plan.clients).map(|_| None).collect();
    let mut abandoned: Vec<M::Op> = Vec::new();
    let mut left = plan.operations;
    while left > 0 || clients.iter().any(Option::is_some) {
        if !abandoned.is_empty() && random.percent(10) {
            let late = abandoned.swap_remove(random.below(u32::try_from(abandoned.len()).expect("few")) as usize);
            state = model.step(&state, &late).0;
        }
        let client = random.below(u32::try_from(plan.clients).expect("few")) as usize;
        match clients[client].take() {
            None if left > 0 => {
                left -= 1;
                let operation = operation(random);
                let invocation = history.invoke(client, operation.clone());
                if random.percent(plan.repeated) {
                    history.ghost(operation.clone(), invocation.at());
                    abandoned.push(operation.clone());
                }
                clients[client] = Some(Pending { invocation, operation, answer: None });
            }
            None => {}
            Some(pending) if random.percent(plan.lost / 2) => {
                let not_applied = pending.answer.is_none().then_some(pending.operation);
                abandoned.extend(not_applied);
            }
            Some(pending @ Pending { answer: None, .. }) => {
                let (after, answer) = model.step(&state, &pending.operation);
                state = after;
                clients[client] = Some(Pending { answer: Some(answer), ..pending });
            }
            Some(Pending { invocation, answer: Some(answer), .. }) => {
                let answer = if random.percent(plan.wrong) { wrong(random, &answer) } else { answer };
                history.returned(invocation, answer);
            }
        }
    }
    history
}

//! Single-use tokens, and increments.

use super::models::CounterOp::{Add, Get};
use super::models::CounterRet::{Added, Sum};
use super::models::Redemption::{Refused, Won};
use super::models::{Counter, Redeem, Redemption, Token};
use super::violation;
use crate::history::{History, Verdict, check};

/// All redemptions overlap.
fn concurrently(redemptions: &[(u32, Redemption)]) -> Verdict<Redeem, Redemption> {
    let mut history = History::new();
    let invocations: Vec<_> =
        (0..).zip(redemptions).map(|(client, (by, _))| history.invoke(client, Redeem { by: *by })).collect();
    for (invocation, (_, answer)) in invocations.into_iter().zip(redemptions) {
        history.returned(invocation, answer.clone());
    }
    check(&Token, &history)
}

#[test]
fn one_party_redeems_a_token() {
    assert_eq!(concurrently(&[(1, Refused), (2, Won { id: 2 }), (3, Refused)]), Verdict::Linearizable);
}

#[test]
fn a_winner_may_be_told_twice() {
    assert_eq!(concurrently(&[(1, Won { id: 1 }), (1, Won { id: 1 }), (2, Refused)]), Verdict::Linearizable);
}

#[test]
fn two_winners_are_a_violation() {
    let violation = violation(concurrently(&[(1, Won { id: 1 }), (2, Won { id: 2 })]));
    assert_eq!(violation.prefix.len(), 1, "{violation}");
    assert_eq!(violation.refused.len(), 1, "{violation}");
    assert_eq!(violation.refused[0].expected, Refused);
}

#[test]
fn a_winner_is_told_its_own_id() {
    violation(concurrently(&[(1, Won { id: 1 }), (1, Won { id: 2 })]));
}

#[test]
fn a_loser_refused_before_anyone_redeemed_is_a_violation() {
    let mut history = History::new();
    let loser = history.invoke(1, Redeem { by: 1 });
    history.returned(loser, Refused);
    let winner = history.invoke(2, Redeem { by: 2 });
    history.returned(winner, Won { id: 2 });

    let violation = violation(check(&Token, &history));
    assert!(violation.prefix.is_empty(), "{violation}");
    assert_eq!(violation.refused[0].expected, Won { id: 1 });
}

#[test]
fn a_loser_may_owe_its_refusal_to_a_redemption_that_nobody_heard_of() {
    let mut history = History::new();
    history.invoke(2, Redeem { by: 2 });
    let loser = history.invoke(1, Redeem { by: 1 });
    history.returned(loser, Refused);
    assert_eq!(check(&Token, &history), Verdict::Linearizable);

    let other = history.invoke(3, Redeem { by: 3 });
    history.returned(other, Won { id: 3 });
    violation(check(&Token, &history));
}

#[test]
fn concurrent_increments_all_count() {
    let verdict = |sum: u32| {
        let mut history = History::new();
        let invocations: Vec<_> = (0..5).map(|client| history.invoke(client, Add(1))).collect();
        for invocation in invocations {
            history.returned(invocation, Added);
        }
        let get = history.invoke(0, Get);
        history.returned(get, Sum(sum));
        check(&Counter, &history)
    };
    assert_eq!(verdict(5), Verdict::Linearizable);
    for wrong in [4, 6] {
        let violation = violation(verdict(wrong));
        assert_eq!((violation.prefix.len(), violation.state.as_str()), (5, "5"), "{violation}");
    }
}

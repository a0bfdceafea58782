//! What a replica takes from another one at all. The Raft library believes its peers; these bounds keep one that is
//! broken, or not ours, from taking the process down or the terms to their end. Snapshots have theirs in
//! [`crate::snapshot`].

use tonic::Status;

/// How far a message's term may be ahead. A voter that is cut off stands for election every second or two: this is
/// half a year of it. The last term is then further away than anyone can go.
pub(crate) const TERMS_AHEAD_MAX: u64 = 10_000_000;

/// Whether a message of `term` can be true where the present term is `own`.
pub(crate) fn check_term(term: u64, own: u64) -> Result<(), Status> {
    if term.saturating_sub(own) <= TERMS_AHEAD_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("term {term} is not one that this registry can have come to: it is in {own}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_nobody_can_have_come_to_are_refused() {
        for (term, own, taken) in [
            (0, 7, true),
            (8, 7, true),
            (7 + TERMS_AHEAD_MAX, 7, true),
            (8 + TERMS_AHEAD_MAX, 7, false),
            (u64::MAX, 7, false),
            (u64::MAX, u64::MAX - 1, true),
        ] {
            assert_eq!(check_term(term, own).is_ok(), taken, "{term} after {own}");
        }
    }
}

//! What a replica takes from another one at all. The Raft library believes its peers; these bounds keep one that is
//! broken, or not ours, from taking the process down or the terms to their end.

use std::sync::{Mutex, PoisonError};

use tonic::Status;

/// How far a message's term may be ahead. A voter that is cut off stands for election every second or two: this is
/// half a year of it. The last term is then further away than anyone can go.
pub(crate) const TERMS_AHEAD_MAX: u64 = 10_000_000;
/// The largest snapshot: a registry of 50,000 exports has some 60 MB.
pub(crate) const SNAPSHOT_LEN_MAX: u64 = 512 << 20;

/// Whether a message of `term` can be true where the present term is `own`.
pub(crate) fn check_term(term: u64, own: u64) -> Result<(), Status> {
    if term.saturating_sub(own) <= TERMS_AHEAD_MAX {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("term {term} is not one that this registry can have come to: it is in {own}")))
}

/// The snapshot that is being received: chunk after chunk, from its beginning.
#[derive(Debug, Default)]
pub(crate) struct Receiving(Mutex<(String, u64)>);

impl Receiving {
    /// Whether a chunk may be written where it says: nowhere but behind what has come, and within the bound. One of
    /// another snapshot than the last is for the Raft library, which wants that from its beginning.
    pub(crate) fn check(&self, snapshot: &str, offset: u64, len: usize) -> Result<(), Status> {
        let end = offset.saturating_add(len as u64);
        if end > SNAPSHOT_LEN_MAX {
            return Err(Status::resource_exhausted(format!("a snapshot has at most {SNAPSHOT_LEN_MAX} bytes")));
        }
        let received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if received.0 == snapshot && offset > received.1 {
            return Err(Status::invalid_argument("the chunk does not follow on what has come"));
        }
        Ok(())
    }

    /// Notes that a chunk was taken.
    pub(crate) fn note(&self, snapshot: &str, offset: u64, len: usize) {
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if received.0 != snapshot {
            *received = (snapshot.to_owned(), 0);
        }
        received.1 = received.1.max(offset.saturating_add(len as u64));
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

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

    #[test]
    fn chunks_follow_on_each_other_within_the_bound() {
        let receiving = Receiving::default();
        let code = |snapshot, offset, len| receiving.check(snapshot, offset, len).err().map(|status| status.code());
        assert_eq!(code("a", 0, 10), None);
        receiving.note("a", 0, 10);
        assert_eq!(code("a", 10, 10), None);
        assert_eq!(code("a", 0, 10), None, "again, for the answer was lost");
        assert_eq!(code("a", 11, 10), Some(Code::InvalidArgument), "a hole");
        assert_eq!(code("a", SNAPSHOT_LEN_MAX - 1, 1), Some(Code::InvalidArgument));
        for offset in [SNAPSHOT_LEN_MAX, u64::MAX] {
            assert_eq!(code("a", offset, 1), Some(Code::ResourceExhausted));
            assert_eq!(code("b", offset, 1), Some(Code::ResourceExhausted));
        }
        // After a restart nothing has come: the Raft library asks for the beginning.
        assert_eq!(code("b", 5, 1), None);
        receiving.note("b", 0, 3);
        assert_eq!(code("b", 5, 1), Some(Code::InvalidArgument));
    }
}

//! What holds of every parser that is asked while bytes arrive.

use std::fmt::Debug;

/// Prefixes that are tried of one input; of a longer one not each is.
const PREFIXES_MAX: usize = 256;

/// What a parser says of the bytes so far.
#[derive(Debug)]
pub(crate) enum Answer<T, E> {
    /// Not enough, before there are so many.
    NeedMore(usize),
    /// Whatever follows.
    Final(Result<T, E>),
}

/// A final answer is the same for all that follows, and comes no sooner than was said; what is asked for is more than is there.
pub(crate) fn agree<T: Debug + PartialEq, E: Debug + PartialEq>(bytes: &[u8], read: impl Fn(&[u8]) -> Answer<T, E>) {
    let step = bytes.len() / PREFIXES_MAX + 1;
    let (mut last, mut least) = (None, 0);
    for end in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        match (read(&bytes[..end]), &last) {
            (Answer::NeedMore(total), None) => {
                assert!(total > end, "{total} of {end}: it would be asked forever");
                least = least.max(total);
            }
            (Answer::NeedMore(total), Some(last)) => unreachable!("{last:?}, and then {total} at {end}"),
            (Answer::Final(answer), Some(last)) => assert_eq!(&answer, last, "at {end} of {}", bytes.len()),
            (Answer::Final(answer), None) => {
                assert!(answer.is_err() || end >= least, "{answer:?} at {end}, before {least}");
                last = Some(answer);
            }
        }
    }
}

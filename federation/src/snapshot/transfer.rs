//! The sender's side of a transfer, without the sending.

use std::ops::Range;

use super::PIECE_LEN;

/// Answers or failures in a row that bring a transfer no further, before it is given up. The Raft library starts another
/// one then, perhaps with a later snapshot.
const SETBACKS_MAX: u32 = 10;

/// Why a transfer is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GivenUp {
    #[error("the receiver wants to go on at byte {next} of {len}, where there is none")]
    Beyond { next: u64, len: u64 },
    #[error("the receiver takes no more of the snapshot than {offset} bytes: see its log")]
    Stuck { offset: u64 },
}

/// Where a transfer is.
#[derive(Debug)]
pub(crate) struct Transfer {
    len: u64,
    /// Where the receiver goes on; unknown at first, and after a failure.
    next: Option<u64>,
    /// The furthest that it ever was.
    furthest: u64,
    setbacks: u32,
}

impl Transfer {
    /// Of a snapshot of so many bytes.
    pub(crate) fn new(len: u64) -> Self {
        Self { len, next: None, furthest: 0, setbacks: 0 }
    }

    /// The bytes to send next. None while it has to be asked where to go on.
    pub(crate) fn piece(&self) -> Range<u64> {
        let start = self.next.unwrap_or(0);
        let len = if self.next.is_some() { PIECE_LEN as u64 } else { 0 };
        start..self.len.min(start + len)
    }

    /// The receiver wants to go on there.
    pub(crate) fn go_on(&mut self, next: u64) -> Result<(), GivenUp> {
        if next > self.len {
            return Err(GivenUp::Beyond { next, len: self.len });
        }
        let asked = self.next.replace(next).is_none();
        if next > self.furthest {
            (self.furthest, self.setbacks) = (next, 0);
            return Ok(());
        }
        // The answer to a question is no step back, whatever it is: the failure before it was one.
        if asked { Ok(()) } else { self.set_back() }
    }

    /// No answer came, or none of use: it has to be asked where to go on.
    pub(crate) fn broke(&mut self) -> Result<(), GivenUp> {
        self.next = None;
        self.set_back()
    }

    fn set_back(&mut self) -> Result<(), GivenUp> {
        self.setbacks += 1;
        if self.setbacks > SETBACKS_MAX { Err(GivenUp::Stuck { offset: self.furthest }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_first_and_then_goes_piece_by_piece_to_the_end() {
        let len = 2 * PIECE_LEN as u64 + 7;
        let mut transfer = Transfer::new(len);
        assert!(transfer.piece().is_empty());
        transfer.go_on(0).expect("goes on");
        let mut pieces = Vec::new();
        while transfer.piece().start < len {
            pieces.push(transfer.piece().end - transfer.piece().start);
            transfer.go_on(transfer.piece().end).expect("goes on");
        }
        assert_eq!(pieces, [PIECE_LEN as u64, PIECE_LEN as u64, 7]);
    }

    #[test]
    fn after_a_failure_it_asks_again_and_who_takes_nothing_is_given_up() {
        let mut transfer = Transfer::new(1_000_000);
        transfer.go_on(100_000).expect("resumes");
        transfer.broke().expect("tries again");
        assert!(transfer.piece().is_empty());
        transfer.go_on(0).expect("it forgot all");
        assert_eq!(transfer.piece().start, 0);
        let stuck = (0..100).find_map(|_| transfer.go_on(0).err());
        assert_eq!(stuck, Some(GivenUp::Stuck { offset: 100_000 }));
        let broken = (0..100).find_map(|_| Transfer::new(1).broke().err());
        assert_eq!(broken, None, "one failure of each");
        let mut transfer = Transfer::new(5);
        assert_eq!((0..).find_map(|tries| transfer.broke().err().map(|_| tries)), Some(SETBACKS_MAX));
        assert_eq!(Transfer::new(5).go_on(6), Err(GivenUp::Beyond { next: 6, len: 5 }));
    }
}

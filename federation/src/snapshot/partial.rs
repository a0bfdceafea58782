//! What a receiver has of a snapshot.

use isthmus_identity::sha256;
use isthmus_model::registry::token::Digest;
use tokio::time::Instant;
use tonic::Status;

use super::{Encoded, Head, SNAPSHOT_LEN_MAX};

/// Why a piece is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("a snapshot of {0} bytes is larger than any registry: {SNAPSHOT_LEN_MAX} at most")]
    TooLong(u64),
    #[error("the piece ends behind the {0} bytes that the snapshot was said to have")]
    Beyond(u64),
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLong(_) => Self::resource_exhausted(refused.to_string()),
            Refused::Beyond(_) => Self::invalid_argument(refused.to_string()),
        }
    }
}

/// What comes of a piece.
#[derive(Debug)]
pub(super) enum Taken {
    /// That is where to go on.
    Next(u64),
    /// That was the last one.
    Whole(Unchecked),
    /// It was installed already.
    Installed,
}

/// All the bytes of a snapshot, as they came.
#[derive(Debug)]
pub(super) struct Unchecked {
    bytes: Vec<u8>,
    announced: Digest,
}

impl Unchecked {
    /// The snapshot, if these are its bytes.
    pub(super) fn check(self) -> Result<Encoded, Digest> {
        let found = sha256(&self.bytes);
        if found == self.announced { Ok(Encoded::new(self.bytes)) } else { Err(found) }
    }
}

/// The beginning of a snapshot.
#[derive(Debug)]
struct Partial {
    digest: Digest,
    len: u64,
    bytes: Vec<u8>,
    touched: Instant,
}

impl Partial {
    fn begin(head: &Head, now: Instant) -> Self {
        Self { digest: head.sha256, len: head.len, bytes: Vec::new(), touched: now }
    }

    /// Room grows with what came, at most twofold, whatever was announced.
    fn append(&mut self, data: &[u8]) {
        if self.bytes.capacity() - self.bytes.len() < data.len() {
            let missing = usize::try_from(self.len).unwrap_or(usize::MAX).saturating_sub(self.bytes.len());
            self.bytes.reserve_exact(missing.min(self.bytes.len().max(data.len())));
        }
        self.bytes.extend_from_slice(data);
    }
}

/// At most one snapshot that is under way, and which one came last.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    partial: Option<Partial>,
    installed: Option<Digest>,
}

impl Receiving {
    /// Takes a piece if it follows on what there is. One of another snapshot puts that in the place of what there was:
    /// it comes from the leader, and the one before did or does not lead any more.
    pub(super) fn take(&mut self, head: &Head, offset: u64, data: &[u8], now: Instant) -> Result<Taken, Refused> {
        if head.len > SNAPSHOT_LEN_MAX {
            return Err(Refused::TooLong(head.len));
        }
        if offset.saturating_add(data.len() as u64) > head.len {
            return Err(Refused::Beyond(head.len));
        }
        if self.installed == Some(head.sha256) {
            return Ok(Taken::Installed);
        }
        let known = self.partial.take().filter(|known| known.digest == head.sha256 && known.len == head.len);
        let mut partial = known.unwrap_or_else(|| Partial::begin(head, now));
        partial.touched = now;
        if offset == partial.bytes.len() as u64 {
            partial.append(data);
        }
        let have = partial.bytes.len() as u64;
        if have == partial.len {
            return Ok(Taken::Whole(Unchecked { bytes: partial.bytes, announced: partial.digest }));
        }
        self.partial = Some(partial);
        Ok(Taken::Next(have))
    }

    /// The snapshot is this replica's now. Whoever did not hear of it may ask again.
    pub(super) fn installed(&mut self, digest: Digest) {
        self.installed = Some(digest);
    }

    /// When a piece of what is under way last came.
    pub(super) fn touched(&self) -> Option<Instant> {
        self.partial.as_ref().map(|partial| partial.touched)
    }

    /// Drops what is under way. Returns how much it was.
    pub(super) fn forget(&mut self) -> usize {
        self.partial.take().map_or(0, |partial| partial.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use openraft::{SnapshotMeta, Vote};

    use super::super::{PIECE_LEN, Transfer};
    use super::*;

    fn head(bytes: &[u8]) -> Head {
        let meta = SnapshotMeta { snapshot_id: "1-1-7".to_owned(), ..SnapshotMeta::default() };
        Head { vote: Vote::new_committed(1, 1), meta, len: bytes.len() as u64, sha256: sha256(bytes) }
    }

    fn bytes(len: usize, seed: u8) -> Vec<u8> {
        (0..len).map(|place| (place % 251) as u8 ^ seed).collect()
    }

    fn take(receiving: &mut Receiving, head: &Head, offset: u64, data: &[u8]) -> Result<Taken, Refused> {
        receiving.take(head, offset, data, Instant::now())
    }

    fn next(receiving: &mut Receiving, head: &Head, offset: u64, data: &[u8]) -> u64 {
        match take(receiving, head, offset, data) {
            Ok(Taken::Next(next)) => next,
            other => panic!("{other:?}"),
        }
    }

    /// Sends `snapshot` with exchanges failing as `lost` says of the n-th: `Some(true)` after the receiver took the piece,
    /// `Some(false)` before. Returns what arrived, and how many bytes were sent for it.
    fn send(
        receiving: &mut Receiving,
        snapshot: &[u8],
        mut lost: impl FnMut(usize) -> Option<bool>,
    ) -> (Option<Encoded>, usize) {
        let (head, mut sent, mut exchanges) = (head(snapshot), 0, 0);
        // Another leader, or the same again, each time that this one gives up.
        let mut transfer = Transfer::new(head.len);
        loop {
            let piece = transfer.piece();
            let data = &snapshot[piece.start as usize..piece.end as usize];
            sent += data.len();
            exchanges += 1;
            let fate = lost(exchanges);
            let answer = (fate != Some(false)).then(|| take(receiving, &head, piece.start, data).expect("taken"));
            match (answer, fate) {
                (Some(Taken::Whole(whole)), _) => return (whole.check().ok(), sent),
                (Some(Taken::Next(next)), None) => transfer.go_on(next).expect("goes on"),
                (Some(Taken::Installed), _) => return (None, sent),
                _ if transfer.broke().is_err() => transfer = Transfer::new(head.len),
                _ => {}
            }
        }
    }

    #[test]
    fn a_transfer_that_breaks_at_any_place_goes_on_where_it_was() {
        let snapshot = bytes(9 * PIECE_LEN + 123, 0);
        for cut in 1..=11 {
            for after in [false, true] {
                let mut receiving = Receiving::default();
                let (whole, sent) = send(&mut receiving, &snapshot, |n| (n == cut).then_some(after));
                assert_eq!(*whole.expect("whole").bytes, snapshot, "cut at {cut}");
                assert!(sent <= snapshot.len() + PIECE_LEN, "cut at {cut}: {sent} bytes sent");
            }
        }
    }

    #[test]
    fn a_sender_that_starts_anew_after_every_piece_still_gets_to_the_end() {
        let snapshot = bytes(5 * PIECE_LEN, 0);
        let (mut receiving, head) = (Receiving::default(), head(&bytes(5 * PIECE_LEN, 0)));
        let mut pieces = 0;
        let whole = loop {
            let mut transfer = Transfer::new(head.len);
            transfer.go_on(next(&mut receiving, &head, 0, &[])).expect("resumes");
            let piece = transfer.piece();
            pieces += 1;
            let taken = take(&mut receiving, &head, piece.start, &snapshot[piece.start as usize..piece.end as usize]);
            if let Ok(Taken::Whole(whole)) = taken {
                break whole;
            }
        };
        assert_eq!((pieces, *whole.check().expect("good").bytes == snapshot), (5, true));
    }

    #[test]
    fn holes_and_repetitions_change_nothing() {
        let (snapshot, mut receiving) = (bytes(100, 0), Receiving::default());
        let head = head(&snapshot);
        assert_eq!(next(&mut receiving, &head, 10, &snapshot[10..20]), 0, "a hole at the beginning");
        assert_eq!(next(&mut receiving, &head, 0, &snapshot[..30]), 30);
        assert_eq!(next(&mut receiving, &head, 31, &snapshot[31..60]), 30, "a hole");
        assert_eq!(next(&mut receiving, &head, 0, &snapshot[..30]), 30, "the answer was lost");
        assert_eq!(next(&mut receiving, &head, 20, &snapshot[20..60]), 30, "an overlap");
        let whole = take(&mut receiving, &head, 30, &snapshot[30..]);
        assert!(matches!(whole, Ok(Taken::Whole(whole)) if *whole.bytes == snapshot));
    }

    #[test]
    fn bytes_that_are_not_the_snapshots_are_dropped_and_it_starts_over() {
        let (snapshot, mut receiving) = (bytes(100, 0), Receiving::default());
        let head = head(&snapshot);
        let mut damaged = snapshot.clone();
        damaged[40] ^= 1;
        let Ok(Taken::Whole(whole)) = take(&mut receiving, &head, 0, &damaged) else { panic!("not whole") };
        assert_eq!(whole.check().expect_err("damaged"), sha256(&damaged));
        assert_eq!(next(&mut receiving, &head, 0, &[]), 0);
        let Ok(Taken::Whole(whole)) = take(&mut receiving, &head, 0, &snapshot) else { panic!("not whole") };
        let encoded = whole.check().expect("good");
        receiving.installed(encoded.digest);
        assert!(matches!(take(&mut receiving, &head, 50, &snapshot[50..]), Ok(Taken::Installed)));
    }

    #[test]
    fn another_snapshot_takes_the_place_of_one_that_is_under_way() {
        let (one, other, mut receiving) = (bytes(100, 0), bytes(100, 1), Receiving::default());
        assert_eq!(next(&mut receiving, &head(&one), 0, &one[..60]), 60);
        assert_eq!(next(&mut receiving, &head(&other), 60, &other[60..70]), 0, "nothing of it is here");
        assert_eq!(next(&mut receiving, &head(&other), 0, &other[..10]), 10);
        assert_eq!(next(&mut receiving, &head(&one), 60, &one[60..70]), 0, "only one is kept");
        // The same digest with another length is another snapshot too.
        assert_eq!(next(&mut receiving, &head(&one), 0, &one[..60]), 60);
        let longer = Head { len: 101, ..head(&one) };
        assert_eq!(next(&mut receiving, &longer, 60, &one[60..]), 0);
    }

    #[test]
    fn lengths_are_bounded_and_take_no_memory_by_being_told() {
        let mut receiving = Receiving::default();
        let huge = Head { len: SNAPSHOT_LEN_MAX, ..head(b"") };
        assert_eq!(next(&mut receiving, &huge, 0, &[1; 1_000]), 1_000);
        let held = receiving.partial.as_ref().map(|partial| partial.bytes.capacity());
        assert!(held.is_some_and(|held| held <= 4_000), "{held:?}");
        let longer = Head { len: SNAPSHOT_LEN_MAX + 1, ..huge.clone() };
        assert!(matches!(take(&mut receiving, &longer, 0, &[]), Err(Refused::TooLong(_))));
        for offset in [SNAPSHOT_LEN_MAX, u64::MAX] {
            assert!(matches!(take(&mut receiving, &huge, offset, &[1]), Err(Refused::Beyond(_))));
        }
        let short = Head { len: 10, ..huge };
        assert!(matches!(take(&mut receiving, &short, 0, &[1; 11]), Err(Refused::Beyond(10))));
    }
}

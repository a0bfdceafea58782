//! Inputs that are nearly good: one of a target's corpus, with a few changes. Bytes by chance alone get no further than
//! the first check.

use std::fs;
use std::path::Path;

use bolero::generator::*;

/// One change. Places are counted around the end.
#[derive(Clone, Debug, TypeGenerator)]
enum Bend {
    /// A byte is another.
    Set(u16, u8),
    /// A bit is the other.
    Flip(u16, u8),
    /// A byte is the next or the one before: lengths that are off by one.
    Step(u16, bool),
    /// A byte more.
    Insert(u16, u8),
    /// Up to 15 bytes less.
    Remove(u16, u8),
    /// Up to 15 bytes twice.
    Repeat(u16, u8),
    /// The end is missing.
    Cut(u16),
    /// From here on it is another of the corpus, from there on.
    Splice(u16, u8, u16),
}

/// Changes to one of a corpus.
#[derive(Clone, Debug, TypeGenerator)]
pub(crate) struct Bends {
    seed: u8,
    #[generator(produce::<Vec<Bend>>().with().len(0..6_usize))]
    bends: Vec<Bend>,
}

impl Bends {
    /// What comes of them.
    pub(crate) fn of(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let seed = |number: u8| &seeds[usize::from(number) % seeds.len()];
        let mut bytes = seed(self.seed).clone();
        for bend in &self.bends {
            bend.apply(&mut bytes, seed);
        }
        bytes
    }
}

impl Bend {
    fn apply<'s>(&self, bytes: &mut Vec<u8>, seed: impl Fn(u8) -> &'s Vec<u8>) {
        let len = bytes.len();
        let place = |at: u16| usize::from(at) % (len + 1);
        let piece = |at: u16, count: u8| place(at)..len.min(place(at) + usize::from(count % 16));
        match *self {
            Self::Set(at, to) => bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte = to),
            Self::Flip(at, bit) => bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte ^= 1 << (bit % 8)),
            Self::Step(at, up) => {
                let step = if up { 1 } else { u8::MAX };
                bytes.iter_mut().skip(place(at)).take(1).for_each(|byte| *byte = byte.wrapping_add(step));
            }
            Self::Insert(at, byte) => bytes.insert(place(at), byte),
            Self::Remove(at, count) => drop(bytes.drain(piece(at, count))),
            Self::Repeat(at, count) => {
                let piece = piece(at, count);
                let repeated = bytes[piece.clone()].to_vec();
                drop(bytes.splice(piece.end..piece.end, repeated));
            }
            Self::Cut(at) => bytes.truncate(place(at)),
            Self::Splice(at, other, from) => {
                let other = seed(other);
                bytes.truncate(place(at));
                bytes.extend_from_slice(&other[usize::from(from) % (other.len() + 1)..]);
            }
        }
    }
}

/// A target's corpus, in an order that is always the same.
pub(crate) fn corpus(target: &str) -> Vec<Vec<u8>> {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let fuzz = above.map(|directory| directory.join("tests/fuzz/__fuzz__")).find(|fuzz| fuzz.is_dir());
    let directory = fuzz.expect("the corpora are with the tests").join(target).join("corpus");
    let mut files: Vec<_> =
        fs::read_dir(directory).expect("a corpus").map(|file| file.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| fs::read(file).expect("a readable file")).collect()
}

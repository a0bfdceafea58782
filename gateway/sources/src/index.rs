//! Which objects hold, given what each file says now and what it said before. Pure.
//!
//! Three rules make it safe to edit the files of a running cluster:
//!
//! - An object whose document is broken keeps its last good state. When it cannot be told which object a
//!   broken document is, every object of the file that is not found elsewhere in it stays.
//! - A file seen for the first time with less in it than before may be half written. It is *settling*: what is
//!   new in it holds at once, what it lost or broke is believed and reported only when it stays so.
//! - When two files have the same object, the file whose object is in force keeps it, and the other one is told
//!   so: a slip in a new file must not change what already works. At the start nothing is in force yet, and the
//!   first file in name order has it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::{Accepted, PROBLEMS_PER_FILE_MAX, Reading};
use crate::object::{Object, ObjectKey};
use crate::problem::{PROBLEMS_MAX, Problem, Problems};

/// Objects in all files. A cluster can export 65,534 services, each of which has at least three objects; few of
/// the services of a cluster that large are exported.
pub(crate) const OBJECTS_MAX: usize = 200_000;

/// Whether a file may still be changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// It changed just now: losses may be a write half way.
    Settling,
    /// It had its time: what it says is meant.
    Final,
}

/// Objects by file.
#[derive(Debug, Default)]
pub(crate) struct Index {
    files: BTreeMap<String, FileObjects>,
    objects: usize,
}

#[derive(Debug, Default)]
struct FileObjects {
    held: BTreeMap<ObjectKey, Held>,
    problems: Problems,
}

#[derive(Clone, Debug)]
struct Held {
    object: Arc<Object>,
    line: u32,
    /// Whether the file still has the object, well or badly described. If not, the object only outlives its
    /// document while the file settles; whoever else has it then may be where it was moved to, and is not
    /// reported.
    claimed: bool,
    /// Whether this is the one that is used, as of the last merge.
    in_force: bool,
}

impl Held {
    /// The order in which the holders of one object are asked.
    fn precedence(&self) -> Precedence {
        match self {
            Self { in_force: true, .. } => Precedence::InForce,
            Self { claimed: true, .. } => Precedence::Claimed,
            _ => Precedence::Leaving,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Precedence {
    InForce,
    Claimed,
    Leaving,
}

/// An object that holds, and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) object: Arc<Object>,
    pub(crate) file: String,
    pub(crate) line: u32,
    /// Whether its file still has it.
    claimed: bool,
}

/// All files together.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    pub(crate) objects: BTreeMap<ObjectKey, Placed>,
    pub(crate) problems: Problems,
}

impl Index {
    /// Takes a new reading of a file. Returns whether part of it was put off: the file is to be read again,
    /// as [`Patience::Final`], after a while.
    pub(crate) fn update(&mut self, file: &str, reading: Reading, patience: Patience) -> bool {
        let old = self.files.remove(file).unwrap_or_default();
        self.objects -= old.held.len();
        let broken = reading.is_broken();
        let mut new = FileObjects { problems: reading.problems, ..FileObjects::default() };
        for accepted in reading.accepted {
            let room = self.objects + new.held.len() < OBJECTS_MAX || old.held.contains_key(&accepted.key);
            hold(&mut new, file, accepted, room);
        }
        let mut lost = false;
        for (key, held) in &old.held {
            if let Some(again) = new.held.get_mut(key) {
                again.in_force = held.in_force;
                continue;
            }
            let claimed = reading.broken.contains(key) || reading.unreadable;
            if claimed || patience == Patience::Settling {
                new.held.insert(key.clone(), Held { claimed, ..held.clone() });
            }
            lost |= !claimed;
        }
        let put_off = patience == Patience::Settling && (lost || broken);
        if put_off {
            new.problems = old.problems;
        }
        self.objects += new.held.len();
        self.files.insert(file.to_owned(), new);
        put_off
    }

    /// Withdraws a file that is gone, and its objects with it.
    pub(crate) fn remove(&mut self, file: &str) {
        if let Some(old) = self.files.remove(file) {
            self.objects -= old.held.len();
        }
    }

    /// What all files say together. What is used now is what the next merge finds in force.
    pub(crate) fn merge(&mut self) -> Merged {
        let mut merged = Merged::default();
        for objects in self.files.values() {
            merged.problems.extend(PROBLEMS_MAX, &objects.problems);
        }
        for asked in [Precedence::InForce, Precedence::Claimed, Precedence::Leaving] {
            for (file, objects) in &mut self.files {
                for (key, held) in objects.held.iter_mut().filter(|(_, held)| held.precedence() == asked) {
                    merged.take(key, file, held);
                }
            }
        }
        merged
    }
}

fn problem(file: &str, line: u32, key: &ObjectKey, reason: String) -> Problem {
    Problem { line: Some(line), object: Some(key.clone()), ..Problem::of_file(file, &reason) }
}

fn hold(new: &mut FileObjects, file: &str, accepted: Accepted, room: bool) {
    let Accepted { key, line, object } = accepted;
    if let Some(first) = new.held.get(&key) {
        let reason = format!("it is in this file at line {} too, and that one is used", first.line);
        new.problems.push(PROBLEMS_PER_FILE_MAX, problem(file, line, &key, reason));
    } else if room {
        new.held.insert(key, Held { object, line, claimed: true, in_force: false });
    } else {
        let reason = format!("the limit of {OBJECTS_MAX} objects is reached: it is not used");
        new.problems.push(PROBLEMS_PER_FILE_MAX, problem(file, line, &key, reason));
    }
}

impl Merged {
    /// Uses an object, unless one of its name is used already.
    fn take(&mut self, key: &ObjectKey, file: &str, held: &mut Held) {
        match self.objects.get(key) {
            None => {
                held.in_force = true;
                let Held { object, line, claimed, .. } = held.clone();
                self.objects.insert(key.clone(), Placed { object, file: file.to_owned(), line, claimed });
            }
            Some(used) if used.claimed && held.claimed => {
                let reason = format!("it is in {}:{} too, and that one is used", used.file, used.line);
                self.problems.push(PROBLEMS_MAX, problem(file, held.line, key, reason));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;

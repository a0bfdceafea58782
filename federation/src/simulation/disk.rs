//! A disk under a database that keeps what is written in memory until it is synced, and forgets the rest in a crash.
//!
//! What a database wrote before its last sync is in the file; what it wrote since is lost. A crash may come in the
//! middle of a sync: then a part of its writes is in the file, in the order in which they were made. From the crash on
//! nothing more gets to the file, whoever of the crashed process still tries.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

/// The disk of one simulated machine, from its start to its crash. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    power: Power,
    /// Whether it says of what is in its cache that it is synced: a known bad disk.
    lies: bool,
    files: Vec<Arc<Mutex<Cached>>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Power {
    #[default]
    On,
    Off,
}

/// A file, with the changes that are not in it yet.
#[derive(Debug)]
struct Cached {
    file: File,
    len: u64,
    unsynced: VecDeque<Change>,
}

#[derive(Debug)]
enum Change {
    Len(u64),
    Write(u64, Vec<u8>),
}

impl SimulatedDisk {
    /// One that loses in a crash what it said was synced.
    #[must_use]
    pub fn lying() -> Self {
        let disk = Self::default();
        disk.state().lies = true;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it: `kept` of the changes that were not synced are in each file, the first ones.
    pub fn crash(&self, kept: usize) {
        let mut state = self.state();
        state.power = Power::Off;
        for file in state.files.drain(..) {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever reads the file next finds it damaged if it was: that is the point.
            let _ = file.flush(kept);
            file.unsynced.clear();
        }
    }

    pub(crate) fn backend(&self, path: &Path) -> io::Result<SimulatedFile> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = file.metadata()?.len();
        let cached = Arc::new(Mutex::new(Cached { file, len, unsynced: VecDeque::new() }));
        let mut state = self.state();
        if state.power == Power::Off {
            return Err(gone());
        }
        state.files.push(cached.clone());
        Ok(SimulatedFile { disk: self.clone(), cached })
    }
}

fn gone() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

impl Cached {
    fn flush(&mut self, count: usize) -> io::Result<()> {
        for change in self.unsynced.drain(..count.min(self.unsynced.len())) {
            match change {
                Change::Len(len) => self.file.set_len(len)?,
                Change::Write(offset, bytes) => self.file.write_all_at(&bytes, offset)?,
            }
        }
        Ok(())
    }

    /// What a reader sees, who does not know what is synced.
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if end > self.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let stored = self.file.metadata()?.len();
        let on_file = usize::try_from(stored.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        self.file.read_exact_at(&mut out[..on_file], offset)?;
        out[on_file..].fill(0);
        for change in &self.unsynced {
            match change {
                Change::Len(len) if *len < end => out[to_index(len.saturating_sub(offset))..].fill(0),
                Change::Len(_) => {}
                Change::Write(at, bytes) => overlay(out, offset, *at, bytes),
            }
        }
        Ok(())
    }
}

fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Copies what of `bytes`, written at `at`, is within `out`, which begins at `offset`.
fn overlay(out: &mut [u8], offset: u64, at: u64, bytes: &[u8]) {
    let end = (offset + out.len() as u64).min(at + bytes.len() as u64);
    let start = offset.max(at);
    if start < end {
        let (into, from) = (to_index(start - offset), to_index(start - at));
        let len = to_index(end - start);
        out[into..into + len].copy_from_slice(&bytes[from..from + len]);
    }
}

/// One file on it.
#[derive(Debug)]
pub(crate) struct SimulatedFile {
    disk: SimulatedDisk,
    cached: Arc<Mutex<Cached>>,
}

impl SimulatedFile {
    fn with<T>(&self, work: impl FnOnce(&mut Cached, bool) -> io::Result<T>) -> io::Result<T> {
        let state = self.disk.state();
        if state.power == Power::Off {
            return Err(gone());
        }
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut cached, state.lies)
    }
}

impl StorageBackend for SimulatedFile {
    fn len(&self) -> io::Result<u64> {
        self.with(|cached, _| Ok(cached.len))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|cached, _| cached.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|cached, _| {
            cached.len = len;
            cached.unsynced.push_back(Change::Len(len));
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|cached, lies| if lies { Ok(()) } else { cached.flush(usize::MAX) })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|cached, _| {
            cached.len = cached.len.max(offset + data.len() as u64);
            cached.unsynced.push_back(Change::Write(offset, data.to_vec()));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened(path: &Path, len: usize) -> Vec<u8> {
        let file = SimulatedDisk::default().backend(path).expect("opens");
        let mut found = vec![0; len];
        file.read(0, &mut found).expect("reads");
        found
    }

    #[test]
    fn a_crash_loses_what_was_not_synced_and_ends_the_disk() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let disk = SimulatedDisk::default();
        let file = disk.backend(place.path()).expect("opens");
        file.set_len(8).expect("grows");
        file.write(0, b"synced").expect("writes");
        file.sync_data().expect("syncs");
        file.write(2, b"LOST").expect("writes");
        let mut seen = [0; 8];
        file.read(0, &mut seen).expect("reads");
        assert_eq!(&seen, b"syLOST\0\0", "it sees its own writes");
        disk.crash(0);
        assert!(file.write(0, b"late").is_err() && file.sync_data().is_err() && disk.backend(place.path()).is_err());
        assert_eq!(reopened(place.path(), 8), b"synced\0\0");
    }

    #[test]
    fn a_crash_amid_a_sync_keeps_the_first_writes_and_a_lying_disk_none() {
        let place = tempfile::NamedTempFile::new().expect("a file");
        let disk = SimulatedDisk::default();
        let file = disk.backend(place.path()).expect("opens");
        for (offset, letter) in [(0, b"a"), (1, b"b"), (2, b"c")] {
            file.write(offset, letter).expect("writes");
        }
        disk.crash(2);
        assert_eq!(reopened(place.path(), 2), b"ab");
        let liar = SimulatedDisk::lying();
        let file = liar.backend(place.path()).expect("opens");
        file.write(0, b"xyz").expect("writes");
        file.sync_data().expect("says so");
        liar.crash(0);
        assert_eq!(reopened(place.path(), 2), b"ab");
    }
}

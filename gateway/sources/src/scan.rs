//! One look at the directory: which files changed since the last one, and what the catalog is now.
//!
//! Blocking; the shell runs it on a blocking thread. Only files whose [`Stamp`] changed are read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_model::catalog::LocalCatalog;
use rustix::fs::OFlags;

use crate::catalog;
use crate::document::{self, Reading};
use crate::index::{Index, Patience};
use crate::object::Rules;
use crate::problem::{PROBLEMS_MAX, Problem, Problems, Severity, printable};
use crate::walk::{self, Found, Stamp};
use crate::watch::Watches;

/// Size of one file: what the API server takes as one object (etcd's 1.5 MiB) and then some, in YAML.
pub(crate) const FILE_SIZE_MAX: u64 = 1024 * 1024;
/// Files read. An application has tens; a whole cluster dumped one object per file has thousands.
pub(crate) const FILES_MAX: usize = 10_000;
/// Bytes of all files together; bounds what the objects in memory can come to.
pub(crate) const TOTAL_SIZE_MAX: u64 = 64 * 1024 * 1024;
/// How long a file that lost or broke something may be half written. Long for a copy or an editor, short for
/// who waits for the message.
pub(crate) const SETTLE_GRACE: Duration = Duration::from_millis(200);
/// A file read so soon after its last change may change again within the resolution of its time stamps (a
/// kernel tick, 10 ms at most) and look the same; it is read once more at the next scan.
const STAMP_DISTRUST: Duration = Duration::from_millis(50);

/// The state of the directory between two looks.
#[derive(Debug)]
pub(crate) struct Scanner {
    root: PathBuf,
    rules: Rules,
    watches: Watches,
    known: BTreeMap<String, Known>,
    index: Index,
    /// What the index came to, and whether it changed since.
    joined: (Arc<LocalCatalog>, Problems),
    stale: bool,
    /// Whether the last scan found no directory.
    lost: bool,
}

/// A file as it was last read.
#[derive(Debug, Default)]
struct Known {
    /// `None`: to be read at the next scan.
    stamp: Option<Stamp>,
    /// Since when part of it is put off, if it is.
    unsettled_since: Option<Instant>,
}

impl Known {
    /// Whether it had its time to settle.
    fn is_due(&self, now: Instant) -> bool {
        self.unsettled_since.is_some_and(|since| now.saturating_duration_since(since) >= SETTLE_GRACE)
    }
}

/// What a scan came to.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) catalog: Arc<LocalCatalog>,
    pub(crate) problems: Problems,
    pub(crate) files: usize,
}

impl Scanner {
    pub(crate) fn new(root: PathBuf, rules: Rules, watches: Watches) -> Self {
        let (known, index) = (BTreeMap::new(), Index::default());
        Self { root, rules, watches, known, index, joined: Default::default(), stale: false, lost: false }
    }

    /// Whether changes are noticed by themselves, without looking.
    pub(crate) fn is_watched(&self) -> bool {
        !self.lost && self.watches.failure().is_none()
    }

    /// When a scan is due even if nothing happens, because a file had its time to settle.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.unsettled_since).min().map(|since| since + SETTLE_GRACE)
    }

    /// Looks at the directory. Files of the first look are not waited for.
    ///
    /// # Errors
    /// When the directory cannot be read: then nothing changed.
    pub(crate) fn scan(&mut self, first: bool) -> io::Result<Scan> {
        let now = Instant::now();
        let result = self.look(now, first);
        self.stop_waiting(now);
        result
    }

    fn look(&mut self, now: Instant, first: bool) -> io::Result<Scan> {
        let before = identity(&self.root)?;
        self.watches.begin();
        let listing = walk::list(&self.root, &mut |directory| self.watches.watch(directory))?;
        self.watches.finish();
        let mut problems = listing.problems;
        let files = self.read_changed(listing.files, now, first, &mut problems);
        // Files are missing from a directory that was replaced or unmounted meanwhile, but not deleted.
        if identity(&self.root)? != before {
            return Err(io::Error::other("it was replaced while it was read"));
        }
        self.forget_deleted(&files);
        if self.stale {
            self.join();
        }
        self.lost = false;
        if let Some(reason) = self.watches.failure() {
            problems.push(PROBLEMS_MAX, Problem { severity: Severity::Warning, ..Problem::of_directory(reason) });
        }
        Ok(self.result(problems))
    }

    /// What holds when the directory could not be read: what held before, and why nothing new is known.
    pub(crate) fn scan_failed(&mut self, error: &io::Error) -> Scan {
        self.lost = true;
        let reason = format!(
            "the manifest directory {} cannot be read: {error}; the last known state stays",
            self.root.display()
        );
        let mut problems = Problems::default();
        problems.push(PROBLEMS_MAX, Problem::of_directory(&reason));
        self.result(problems)
    }

    /// Joins what the directory and its objects have to report. Sorted, so that equal states are equal lists.
    fn result(&self, mut problems: Problems) -> Scan {
        problems.extend(PROBLEMS_MAX, &self.joined.1);
        problems.list.sort();
        Scan { catalog: self.joined.0.clone(), problems, files: self.known.len() }
    }

    /// Reads what changed, within the bounds. Files that are known come first, so that no flood of new ones
    /// pushes them out. Returns the names of all files that exist, sorted.
    fn read_changed(&mut self, files: Vec<Found>, now: Instant, first: bool, problems: &mut Problems) -> Vec<String> {
        let (known, new): (Vec<Found>, Vec<Found>) =
            files.into_iter().partition(|file| self.known.contains_key(&file.name));
        let (mut count, mut bytes) = (0, 0);
        let mut names = Vec::with_capacity(known.len() + new.len());
        for file in known.into_iter().chain(new) {
            names.push(file.name.clone());
            count += 1;
            bytes += file.stamp.size.min(FILE_SIZE_MAX);
            if count > FILES_MAX || bytes > TOTAL_SIZE_MAX {
                let reason =
                    format!("not read: the limit of {FILES_MAX} files or {TOTAL_SIZE_MAX} bytes in all is reached");
                problems.push(PROBLEMS_MAX, Problem::of_file(&file.name, &reason));
                continue;
            }
            self.read(&file, now, first);
        }
        names.sort_unstable();
        names
    }

    /// Reads a file if it changed or had its time to settle.
    fn read(&mut self, file: &Found, now: Instant, first: bool) {
        let known = self.known.entry(file.name.clone()).or_default();
        let settled = first || known.is_due(now);
        if known.stamp == Some(file.stamp) && !known.is_due(now) {
            return;
        }
        let (stamp, reading) = match contents(&file.path) {
            Ok((stamp, bytes)) => (stamp, parse(&file.name, &bytes, &self.rules)),
            Err(reason) => (Some(file.stamp), Reading::unreadable(&file.name, &reason)),
        };
        let patience = if settled { Patience::Final } else { Patience::Settling };
        let put_off = self.index.update(&file.name, reading, patience);
        known.stamp = stamp;
        known.unsettled_since = put_off.then(|| known.unsettled_since.unwrap_or(now));
        self.stale = true;
    }

    /// A file that had its time but could not be reached by this scan is read when it can be, and not waited
    /// for: the next scan would be due at once, again and again.
    fn stop_waiting(&mut self, now: Instant) {
        for known in self.known.values_mut().filter(|known| known.is_due(now)) {
            *known = Known::default();
        }
    }

    /// Withdraws files that are deleted. One that is there but was not listed (a directory that became
    /// unreadable, a bound) keeps its last good state.
    fn forget_deleted(&mut self, names: &[String]) {
        let missing = self.known.keys().filter(|name| names.binary_search(name).is_err());
        let deleted: Vec<String> = missing.filter(|name| is_deleted(&self.root.join(name))).cloned().collect();
        for name in &deleted {
            self.known.remove(name);
            self.index.remove(name);
            self.stale = true;
        }
    }

    fn join(&mut self) {
        let merged = self.index.merge();
        let (catalog, mismatches) = catalog::build(merged.objects.iter().map(|(key, placed)| (key, &*placed.object)));
        let mut problems = merged.problems;
        for mismatch in mismatches {
            let placed = merged.objects.get(&mismatch.key);
            let problem = Problem {
                file: placed.map(|placed| placed.file.clone()),
                line: placed.map(|placed| placed.line),
                object: Some(mismatch.key),
                severity: Severity::Warning,
                reason: printable(&mismatch.reason),
            };
            problems.push(PROBLEMS_MAX, problem);
        }
        // Who holds the old catalog can tell by the pointer that nothing changed.
        let catalog = if *self.joined.0 == catalog { self.joined.0.clone() } else { Arc::new(catalog) };
        self.joined = (catalog, problems);
        self.stale = false;
    }
}

/// What makes the directory the same directory.
fn identity(root: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(root).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn is_deleted(path: &Path) -> bool {
    match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.is_dir(),
        Err(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    }
}

/// The bytes of a file, and the stamp that they belong to; `None` when the stamp may not tell the next change.
/// Opened so that a FIFO put in its place since it was listed cannot block, and looked at again once open.
fn contents(path: &Path) -> Result<(Option<Stamp>, Vec<u8>), String> {
    let unreadable = |error: io::Error| format!("cannot be read: {error}");
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOFOLLOW).bits()).unwrap_or(0);
    let file: File = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("not a regular file: it is not read".to_owned());
    }
    let too_large = || format!("over {FILE_SIZE_MAX} bytes: split it; it is not read");
    if metadata.len() > FILE_SIZE_MAX {
        return Err(too_large());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(too_large());
    }
    let stamp = Stamp::of(&metadata);
    Ok((is_old(stamp).then_some(stamp), bytes))
}

/// Whether the file rested for longer than its time stamps are exact.
fn is_old(stamp: Stamp) -> bool {
    let (seconds, nanos) = stamp.changed;
    let changed = Duration::new(u64::try_from(seconds).unwrap_or(0), u32::try_from(nanos).unwrap_or(0));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.checked_sub(changed).is_some_and(|age| age > STAMP_DISTRUST)
}

/// Reads a file's text. Whatever the YAML parser, which is not ours, makes of hostile input, one file may not
/// end the watch over all the others.
fn parse(name: &str, bytes: &[u8], rules: &Rules) -> Reading {
    catch_unwind(AssertUnwindSafe(|| document::read(name, bytes, rules)))
        .unwrap_or_else(|_| Reading::unreadable(name, "the YAML parser failed on it: simplify the file"))
}

#[cfg(test)]
mod tests;

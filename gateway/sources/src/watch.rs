//! The shell around [`Scanner`]: when to look, and who is told.
//!
//! inotify says when; what changed is found out by looking, so a lost or doubled event costs nothing but time.
//! A rescan every [`RESCAN_INTERVAL`] mends what was lost, and where a directory cannot be watched at all, or
//! is gone, it is looked at every [`POLL_INTERVAL`].

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use isthmus_model::catalog::LocalCatalog;
use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::object::Rules;
use crate::problem::{Problem, Severity};
use crate::scan::{Scan, Scanner};

/// How long events are gathered before a look. A file is rarely written in one step, and a catalog change has
/// 100 ms in all to be everywhere.
const GATHER_INTERVAL: Duration = Duration::from_millis(20);
/// How often the directory is looked at when nothing is said to happen: on network file systems, and when the
/// kernel's event queue overflowed, nothing is said.
const RESCAN_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is looked at when it cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Problems that one change may add to the log; the list itself is in the state.
const PROBLEMS_LOGGED_MAX: usize = 50;

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read at the start, when there is no last known state to go on with.
    #[error("cannot read the manifest directory {}: {error}; check that it exists and is readable", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// What the source knows.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// The catalog; the same `Arc` as before when it did not change.
    pub catalog: Arc<LocalCatalog>,
    /// What is wrong, by file and line; at most [`PROBLEMS_MAX`](crate::PROBLEMS_MAX).
    pub problems: Vec<Problem>,
    /// How many more problems there are.
    pub problems_suppressed: usize,
    /// Manifest files.
    pub files: usize,
    /// When the directory was last looked at.
    pub scanned_at: SystemTime,
}

impl SourceState {
    fn new(scan: Scan) -> Self {
        Self {
            catalog: scan.catalog,
            problems: scan.problems.list,
            problems_suppressed: scan.problems.suppressed,
            files: scan.files,
            scanned_at: SystemTime::now(),
        }
    }

    /// Whether `next` says anything else than this, apart from counts and times.
    fn differs(&self, next: &Self) -> bool {
        let same_catalog = Arc::ptr_eq(&self.catalog, &next.catalog) || self.catalog == next.catalog;
        !same_catalog || self.problems != next.problems || self.problems_suppressed != next.problems_suppressed
    }
}

/// A directory of manifests, watched until this is dropped.
#[derive(Debug)]
pub struct FileSource {
    state: watch::Receiver<Arc<SourceState>>,
    _stop: DropGuard,
}

impl FileSource {
    /// Reads `directory` and watches it from then on. The first state is complete when this returns.
    ///
    /// # Errors
    /// [`SourceError`] when the directory cannot be read. What is wrong *in* it is in the state.
    pub async fn start(directory: impl Into<PathBuf>, rules: Rules) -> Result<Self, SourceError> {
        let (events, happened) = watch::channel(());
        let watches = Watches::new(move || {
            events.send_replace(());
        });
        Self::start_with(directory.into(), rules, watches, happened).await
    }

    async fn start_with(
        directory: PathBuf,
        rules: Rules,
        watches: Watches,
        happened: watch::Receiver<()>,
    ) -> Result<Self, SourceError> {
        let mut scanner = Scanner::new(directory.clone(), rules, watches);
        let scanned = spawn_blocking(move || scanner.scan(true).map(|scan| (scanner, scan))).await;
        let (scanner, scan) = scanned
            .unwrap_or_else(|join| Err(io::Error::other(join)))
            .map_err(|error| SourceError::Directory { directory, error })?;
        let first = SourceState::new(scan);
        log_new(&[], &first.problems);
        let (publisher, state) = watch::channel(Arc::new(first));
        let stop = CancellationToken::new();
        tokio::spawn(follow(scanner, happened, publisher, stop.clone()));
        Ok(Self { state, _stop: stop.drop_guard() })
    }

    /// The state, now and as it changes. Marked as changed only when the catalog or the problems did.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<SourceState>> {
        self.state.clone()
    }
}

/// Looks again whenever something happened or it is time to, and publishes what came of it.
async fn follow(
    mut scanner: Scanner,
    mut happened: watch::Receiver<()>,
    publisher: watch::Sender<Arc<SourceState>>,
    stop: CancellationToken,
) {
    // Without a watcher there is no sender, and nothing to wait for but the time.
    let mut watched = true;
    loop {
        let wait = next_look(&scanner);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = happened.changed(), if watched => {
                watched = changed.is_ok();
                sleep(GATHER_INTERVAL).await;
            }
            () = sleep(wait) => {}
        }
        happened.mark_unchanged();
        let look = spawn_blocking(move || {
            let scan = scanner.scan(false).unwrap_or_else(|error| scanner.scan_failed(&error));
            (scanner, scan)
        });
        match look.await {
            Ok((returned, scan)) => {
                scanner = returned;
                publish(&publisher, scan);
            }
            Err(error) => {
                tracing::error!(%error, "the manifest directory is no longer followed: restart the gateway");
                return;
            }
        }
    }
}

fn next_look(scanner: &Scanner) -> Duration {
    let regular = if scanner.is_watched() { RESCAN_INTERVAL } else { POLL_INTERVAL };
    let due = scanner.due().map(|due| due.saturating_duration_since(Instant::now()));
    due.map_or(regular, |due| due.min(regular))
}

fn publish(publisher: &watch::Sender<Arc<SourceState>>, scan: Scan) {
    let next = SourceState::new(scan);
    publisher.send_if_modified(|state| {
        let differs = state.differs(&next);
        if differs {
            log_new(&state.problems, &next.problems);
        }
        *state = Arc::new(next);
        differs
    });
}

/// Logs each problem when it comes up. Both lists are sorted.
fn log_new(before: &[Problem], now: &[Problem]) {
    let mut new = now.iter().filter(|problem| before.binary_search(problem).is_err());
    for problem in new.by_ref().take(PROBLEMS_LOGGED_MAX) {
        match problem.severity {
            Severity::Error => tracing::error!("manifests: {problem}"),
            Severity::Warning => tracing::warn!("manifests: {problem}"),
        }
    }
    let rest = new.count();
    if rest > 0 {
        tracing::warn!(problems = rest, "manifests: more problems that are not logged one by one");
    }
}

/// The inotify watches, one for each directory that is read.
#[derive(Debug)]
pub(crate) struct Watches {
    watcher: Option<RecommendedWatcher>,
    failure: Option<String>,
    watched: BTreeSet<PathBuf>,
    /// Directories of the scan that is going on.
    seen: BTreeSet<PathBuf>,
}

impl Watches {
    /// Calls `happened` whenever something happens in a watched directory.
    fn new(happened: impl Fn() + Send + 'static) -> Self {
        let handler = move |event: notify::Result<notify::Event>| {
            if event.as_ref().map_or(true, |event| is_change(event.kind)) {
                happened();
            }
        };
        let mut watches = Self { watcher: None, failure: None, watched: BTreeSet::new(), seen: BTreeSet::new() };
        match notify::recommended_watcher(handler) {
            Ok(watcher) => watches.watcher = Some(watcher),
            Err(error) => watches.fail(&error),
        }
        watches
    }

    /// Watches as on a machine without inotify.
    #[cfg(test)]
    pub(crate) fn unavailable() -> Self {
        let mut watches = Self { watcher: None, failure: None, watched: BTreeSet::new(), seen: BTreeSet::new() };
        watches.fail(&notify::Error::new(ErrorKind::MaxFilesWatch));
        watches
    }

    fn fail(&mut self, error: &notify::Error) {
        self.failure = Some(format!(
            "the manifest directory cannot be watched: {error}; it is looked at every second instead; \
             check fs.inotify.max_user_watches and fs.inotify.max_user_instances"
        ));
    }

    /// Why directories cannot be watched.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Starts a scan: failures so far are tried again.
    pub(crate) fn begin(&mut self) {
        self.seen.clear();
        if self.watcher.is_some() {
            self.failure = None;
        }
    }

    /// Watches a directory before it is read. Asked again at every scan: the directory may be another one of
    /// the same name by now, and to watch the same one twice changes nothing.
    pub(crate) fn watch(&mut self, directory: &Path) {
        if let Some(watcher) = &mut self.watcher
            && self.seen.insert(directory.to_owned())
        {
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(directory.to_owned());
                }
                // Gone again: its parent, which is watched, tells.
                Err(error) if matches!(error.kind, ErrorKind::PathNotFound) => {}
                Err(error) => self.fail(&error),
            }
        }
    }

    /// Ends a scan: what was not seen in it is no longer watched.
    pub(crate) fn finish(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            for gone in self.watched.difference(&self.seen) {
                // The kernel has ended the watch of a deleted directory already.
                let _ = watcher.unwatch(gone);
            }
        }
        self.watched = std::mem::take(&mut self.seen);
    }
}

/// Whether an event can mean a change: opening and reading, which scans do themselves, cannot.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => matches!(access, AccessKind::Close(AccessMode::Write)),
        _ => true,
    }
}

#[cfg(test)]
mod tests;

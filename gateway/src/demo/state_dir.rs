//! The demo's directory: the user's, which stays, or a new one, which goes.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::files;
use super::notice::notice;

/// The longest path of a state directory. The admin sockets are below it, and the kernel takes paths of 107
/// bytes for sockets (`sun_path` of unix(7)).
const PATH_BYTES_MAX: usize = 107 - "/eu-central/data/admin.sock".len();

/// Directories of one process id that are tried.
const DIRECTORIES_MAX: usize = 100;

/// The directory.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    removed_at_end: bool,
}

impl StateDir {
    /// Uses `given`, made if need be, or a new directory.
    ///
    /// # Errors
    /// When it cannot be made, or its path is too long.
    pub(super) fn open(given: Option<PathBuf>) -> anyhow::Result<Self> {
        let removed_at_end = given.is_none();
        let path = match given {
            Some(path) => {
                files::create_directory(&path)?;
                path.canonicalize().with_context(|| format!("cannot use {}", path.display()))?
            }
            None => fresh()?,
        };
        let length = path.as_os_str().as_bytes().len();
        ensure!(
            length <= PATH_BYTES_MAX,
            "the path {} has {length} bytes, and sockets below it allow {PATH_BYTES_MAX}: give a shorter --state-dir",
            path.display()
        );
        Ok(Self { path, removed_at_end })
    }

    /// Its absolute path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it before anything was started, unless it is the user's.
    pub(super) fn discard(&self) {
        if self.removed_at_end
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            notice(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }

    /// Removes it after the end, unless it is the user's or somebody has to look into its logs.
    pub(super) fn close(&self, failed: bool) {
        let shown = self.path.display();
        if !self.removed_at_end {
            notice(format_args!("stopped; {shown} can be started again"));
        } else if failed {
            notice(format_args!("stopped; {shown} is kept for its logs"));
        } else {
            self.discard();
        }
    }
}

/// Makes a directory that was not there: in a directory for everyone, what is there could be anyone's.
fn fresh() -> anyhow::Result<PathBuf> {
    let name = format!("isthmus-demo-{}", std::process::id());
    let base = std::env::temp_dir();
    // An earlier demo of the same process id may have left its logs.
    let names = std::iter::once(name.clone()).chain((1..DIRECTORIES_MAX).map(|number| format!("{name}-{number}")));
    for path in names.map(|name| base.join(name)) {
        match DirBuilder::new().mode(files::DIRECTORY_MODE).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
    bail!("remove {}/{name}*: earlier demos left them", base.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_given_stays_and_a_new_one_goes() {
        let base = tempfile::tempdir().expect("a directory");
        let given = base.path().join("new/demo");
        let opened = StateDir::open(Some(given.clone())).expect("made");
        assert!(opened.path().is_absolute() && given.is_dir());
        opened.close(false);
        assert!(given.is_dir());
        let fresh = StateDir::open(None).expect("made");
        let path = fresh.path().to_owned();
        fresh.close(false);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused_at_once() {
        let base = tempfile::tempdir().expect("a directory");
        let error = StateDir::open(Some(base.path().join("x".repeat(PATH_BYTES_MAX)))).expect_err("too long");
        assert!(error.to_string().contains("shorter --state-dir"), "{error}");
    }
}

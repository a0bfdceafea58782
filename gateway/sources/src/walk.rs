//! Which manifest files there are below a directory. Looks at names and metadata only, and never follows a
//! link out of the directory.
//!
//! Names that start with a dot are passed over, as are files that are not `.yaml`, `.yml` or `.json`.
//! Symbolic links are followed to regular files and directories whose real path is inside the directory: that
//! is how the kubelet mounts ConfigMaps (`a.yaml` → `..data/a.yaml` → `..2026_07/a.yaml`).

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::problem::{PROBLEMS_MAX, Problem, Problems};

/// Subdirectories below subdirectories: deeper trees are rather a mistaken directory than manifests.
pub(crate) const DEPTH_MAX: usize = 8;
/// Directories in all. Each takes an inotify watch, of which a user has 8,192 on small machines.
pub(crate) const DIRECTORIES_MAX: usize = 1_000;
/// Directory entries looked at, of any kind: a look at each takes some microseconds, and there is one each
/// time anything changes.
pub(crate) const ENTRIES_MAX: usize = 100_000;

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    pub(crate) size: u64,
    modified: (i64, i64),
    /// Set by the kernel at every change, where `modified` can be set by anyone (tar, rsync).
    pub(crate) changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A manifest file.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its name relative to the directory, with `/` between the parts.
    pub(crate) name: String,
    /// Its real path.
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Files in name order within each directory.
    pub(crate) files: Vec<Found>,
    pub(crate) problems: Problems,
}

/// Lists the manifests below `root`. `before` is called with every directory before it is read, so that a watch
/// put on it there misses nothing.
///
/// # Errors
/// When `root` itself cannot be read.
pub(crate) fn list(root: &Path, before: &mut dyn FnMut(&Path)) -> io::Result<Listing> {
    let root = root.canonicalize()?;
    let mut walk = Walk { root: root.clone(), before, entries: 0, directories: 0, listing: Listing::default() };
    walk.directory(&root, "", 0)?;
    Ok(walk.listing)
}

struct Walk<'a> {
    /// Canonical.
    root: PathBuf,
    before: &'a mut dyn FnMut(&Path),
    entries: usize,
    directories: usize,
    listing: Listing,
}

impl Walk<'_> {
    fn report(&mut self, name: &str, reason: &str) {
        let problem = if name.is_empty() { Problem::of_directory(reason) } else { Problem::of_file(name, reason) };
        self.listing.problems.push(PROBLEMS_MAX, problem);
    }

    /// Lists one directory by its canonical path; `prefix` is its name with a slash, or empty.
    fn directory(&mut self, path: &Path, prefix: &str, depth: usize) -> io::Result<()> {
        self.directories += 1;
        (self.before)(path);
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            if self.entries >= ENTRIES_MAX {
                self.report(prefix, &format!("over {ENTRIES_MAX} directory entries: the rest is not looked at"));
                break;
            }
            self.entries += 1;
            match entry?.file_name().into_string() {
                Ok(name) if name.starts_with('.') => {}
                Ok(name) => names.push(name),
                Err(name) => self.report(prefix, &format!("file name {name:?} is not UTF-8: rename it")),
            }
        }
        names.sort_unstable();
        for name in names {
            self.entry(&path.join(&name), format!("{prefix}{name}"), depth);
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: String, depth: usize) {
        match self.resolve(path) {
            Ok(Some((path, metadata))) if metadata.is_dir() => self.subdirectory(&path, &name, depth),
            Ok(Some(_)) if !is_manifest(&name) => {}
            Ok(Some((path, metadata))) if metadata.is_file() => {
                self.listing.files.push(Found { name, path, stamp: Stamp::of(&metadata) });
            }
            Ok(Some(_)) => self.report(&name, "not a regular file: it is never opened"),
            // Gone since the directory was read.
            Ok(None) => {}
            Err(reason) => self.report(&name, &reason),
        }
    }

    /// The real path of an entry and what it is, if it is inside the directory.
    fn resolve(&mut self, path: &Path) -> Result<Option<(PathBuf, Metadata)>, String> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Ok(None),
            _ => Err(format!("cannot be looked at: {error}")),
        };
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => return unreadable(error),
        };
        if !metadata.is_symlink() {
            return Ok(Some((path.to_owned(), metadata)));
        }
        let target = path.canonicalize().map_err(|error| format!("the symbolic link leads nowhere: {error}"))?;
        if !target.starts_with(&self.root) {
            return Err("the symbolic link leads out of the manifest directory: copy the file into it".to_owned());
        }
        // The target may be in a directory that is not walked, like the kubelet's `..2026_07`.
        if let Some(parent) = target.parent() {
            (self.before)(parent);
        }
        match fs::symlink_metadata(&target) {
            Ok(metadata) if metadata.is_dir() && path.starts_with(&target) => {
                Err("the symbolic link leads to a directory that it is in".to_owned())
            }
            Ok(metadata) => Ok(Some((target, metadata))),
            Err(error) => unreadable(error),
        }
    }

    fn subdirectory(&mut self, path: &Path, name: &str, depth: usize) {
        if depth >= DEPTH_MAX {
            self.report(name, &format!("over {DEPTH_MAX} directories deep: not looked at"));
        } else if self.directories >= DIRECTORIES_MAX {
            self.report(name, &format!("over {DIRECTORIES_MAX} directories: not looked at"));
        } else if let Err(error) = self.directory(path, &format!("{name}/"), depth + 1) {
            self.report(name, &format!("the directory cannot be read: {error}"));
        }
    }
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn names(root: &Path) -> (Vec<String>, Vec<String>) {
        let listing = list(root, &mut |_| {}).expect("readable");
        let files = listing.files.into_iter().map(|found| found.name).collect();
        (files, listing.problems.list.iter().map(ToString::to_string).collect())
    }

    fn write(path: PathBuf) {
        fs::create_dir_all(path.parent().expect("has one")).expect("created");
        fs::write(path, "").expect("written");
    }

    #[test]
    fn manifests_are_found_by_extension_in_name_order() {
        let root = tempfile::tempdir().expect("created");
        for name in ["b.yml", "a.yaml", "sub/c.json", "sub/.hidden.yaml", ".git/d.yaml", "README.md", "e.yaml~"] {
            write(root.path().join(name));
        }
        assert_eq!(names(root.path()), (vec!["a.yaml".into(), "b.yml".into(), "sub/c.json".into()], vec![]));
    }

    #[test]
    fn links_are_followed_inside_only() {
        let (root, outside) = (tempfile::tempdir().expect("created"), tempfile::tempdir().expect("created"));
        write(outside.path().join("secret.yaml"));
        write(root.path().join("..2026/a.yaml"));
        symlink("..2026", root.path().join("..data")).expect("linked");
        symlink("..data/a.yaml", root.path().join("a.yaml")).expect("linked");
        symlink(outside.path().join("secret.yaml"), root.path().join("b.yaml")).expect("linked");
        symlink(outside.path(), root.path().join("dir")).expect("linked");
        symlink("nowhere.yaml", root.path().join("c.yaml")).expect("linked");
        symlink(".", root.path().join("loop")).expect("linked");
        let (files, problems) = names(root.path());
        assert_eq!(files, ["a.yaml"]);
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(problems[0].starts_with("b.yaml: the symbolic link leads out"), "{problems:?}");
        assert!(problems[1].starts_with("c.yaml: the symbolic link leads nowhere"), "{problems:?}");
    }

    #[test]
    fn what_is_no_regular_file_is_reported() {
        let root = tempfile::tempdir().expect("created");
        let _socket = UnixListener::bind(root.path().join("socket.yaml")).expect("bound");
        assert_eq!(names(root.path()).1, ["socket.yaml: not a regular file: it is never opened"]);
    }

    #[test]
    fn depth_is_bounded() {
        let root = tempfile::tempdir().expect("created");
        let deep = |depth: usize| root.path().join("d/".repeat(depth));
        write(deep(DEPTH_MAX).join("kept.yaml"));
        write(deep(DEPTH_MAX + 1).join("lost.yaml"));
        let (files, problems) = names(root.path());
        assert_eq!(files.len(), 1);
        assert!(problems[0].contains("directories deep"), "{problems:?}");
    }
}

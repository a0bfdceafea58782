//! Unix sockets that have their mode before anyone can see them, and what is served on them.

mod server;

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

pub use server::{BindError, Bounds, Caller, Callers, STRANGERS_MAX, UnixServer, is_one_user};

/// The longest path that [`bind`] takes, in bytes. The system's own limit is 107; the rest is for the name that a
/// socket has before it is moved into place.
pub const PATH_BYTES_MAX: usize = 100;

/// Binds a Unix socket with exactly `mode`: in a directory of its own, then moved into place. The move also
/// replaces what a dead process left there; ask [`answers`] before, so that it is not a living one's. Must be called
/// within a Tokio runtime.
///
/// # Errors
/// When `path` is too long or has something else than a socket, or its directory does not exist or cannot be
/// written to.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListener> {
    if path.as_os_str().len() > PATH_BYTES_MAX {
        let reason = format!("the path is longer than {PATH_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    // The path may be an operator's slip; what is there must not be lost by it.
    if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something that is not a socket"));
    }
    let nursery = nursery(path);
    match std::fs::remove_dir_all(&nursery) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&nursery)?;
    let newborn = nursery.join("s");
    let listener = UnixListener::bind(&newborn)?;
    std::fs::set_permissions(&newborn, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&newborn, path)?;
    std::fs::remove_dir(&nursery)?;
    Ok(listener)
}

/// Where a socket is until it has its mode.
fn nursery(path: &Path) -> PathBuf {
    let mut nursery = path.as_os_str().to_owned();
    nursery.push(".new");
    nursery.into()
}

/// Whether a process listens on the socket at `path`. Does not wait for it to accept.
#[must_use]
pub fn answers(path: &Path) -> bool {
    let connected = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.connect(&SockAddr::unix(path)?)
    };
    match connected() {
        Ok(()) => true,
        // Its backlog is full: somebody has to be slow to empty it.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_and_takes_the_place_of_a_dead_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("api.sock");
        assert!(!answers(&path), "nobody is there");
        for wanted in [0o600, 0o666] {
            let listener = bind(&path, wanted).expect("bound");
            assert_eq!(mode(&path), wanted);
            assert!(answers(&path));
            drop(listener);
            assert!(path.exists() && !answers(&path), "it is left behind, and dead");
        }
        let left: Vec<_> = dir.path().read_dir().expect("readable").collect();
        assert_eq!(left.len(), 1, "nothing else is left: {left:?}");
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(bind(&dir.path().join("missing/api.sock"), 0o600).is_err());
        let file = dir.path().join("notes");
        std::fs::write(&file, "keep").expect("written");
        assert!(bind(&file, 0o600).expect_err("a file").to_string().contains("not a socket"));
        assert_eq!(std::fs::read(&file).expect("still there"), b"keep");
        let long = dir.path().join("a".repeat(PATH_BYTES_MAX));
        assert!(bind(&long, 0o600).expect_err("too long").to_string().contains("longer than 100 bytes"));
        // The longest that is taken fits the system's limit even with the name that it has at first.
        let short = PATH_BYTES_MAX - dir.path().as_os_str().len() - 1;
        bind(&dir.path().join("a".repeat(short)), 0o600).expect("bound");
    }
}

//! The section `workload_api` of the sidecar's configuration.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{ConfigError, value};
use crate::unix_socket::PATH_BYTES_MAX;

/// The most users that can be named: one per process of a workload that separates its privileges, and plenty.
pub const UIDS_MAX: usize = 64;

/// Where the SPIFFE Workload API is served, and to whom. `Display` writes it as a section of the YAML file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadApiConfig {
    /// The Unix socket, an absolute path.
    pub socket: PathBuf,
    /// Who gets the certificate and its key.
    pub callers: Callers,
}

/// Who gets the certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callers {
    /// The sidecar's own user, by the mode of the socket.
    Owner,
    /// These users and no others, by what the system says of each connection.
    Uids(BTreeSet<u32>),
}

impl Callers {
    /// Whether processes of the user `uid` get them, once the socket has let them connect.
    #[must_use]
    pub fn admit(&self, uid: u32) -> bool {
        match self {
            Self::Owner => true,
            Self::Uids(uids) => uids.contains(&uid),
        }
    }

    /// The mode that the socket has: to connect to a Unix socket is to write to it.
    #[must_use]
    pub fn socket_mode(&self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Uids(_) => 0o666,
        }
    }
}

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    socket: Spanned<PathBuf>,
    uids: Option<Spanned<Vec<u32>>>,
}

impl Raw {
    pub(super) fn validate(self, path: &Path) -> Result<WorkloadApiConfig, ConfigError> {
        let refused = |reason: String| value(path, "workload_api.socket", &self.socket, reason);
        if !self.socket.value.is_absolute() {
            return Err(refused("set an absolute path: SPIFFE clients are given one".to_owned()));
        }
        if self.socket.value.as_os_str().len() > PATH_BYTES_MAX {
            return Err(refused(format!("a socket's path has at most {PATH_BYTES_MAX} bytes")));
        }
        let callers = match self.uids {
            None => Callers::Owner,
            Some(uids) if uids.value.is_empty() || uids.value.len() > UIDS_MAX => {
                let reason = format!("list 1 to {UIDS_MAX} numeric user ids, or leave it out for the sidecar's own");
                return Err(value(path, "workload_api.uids", &uids, reason));
            }
            Some(uids) => Callers::Uids(uids.value.into_iter().collect()),
        };
        Ok(WorkloadApiConfig { socket: self.socket.value, callers })
    }
}

impl fmt::Display for WorkloadApiConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "workload_api:")?;
        writeln!(f, "  socket: {:?}", self.socket)?;
        match &self.callers {
            Callers::Owner => writeln!(f, "  # uids: the sidecar's own user"),
            Callers::Uids(uids) => {
                writeln!(f, "  uids:")?;
                uids.iter().try_for_each(|uid| writeln!(f, "    - {uid}"))
            }
        }
    }
}

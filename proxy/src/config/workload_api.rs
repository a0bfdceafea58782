//! The section `workload_api` of the sidecar's configuration.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::introduction::absolute;
use super::{ConfigError, value};
use crate::unix_socket::{Callers, is_one_user};

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

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    socket: Spanned<PathBuf>,
    uids: Option<Spanned<Vec<u32>>>,
}

impl Raw {
    pub(super) fn validate(self, path: &Path) -> Result<WorkloadApiConfig, ConfigError> {
        let socket = absolute(path, "workload_api.socket", self.socket)?;
        let callers = match self.uids {
            None => Callers::Owner,
            Some(uids) if uids.value.is_empty() || uids.value.len() > UIDS_MAX => {
                let reason = format!("list 1 to {UIDS_MAX} numeric user ids, or leave it out for the sidecar's own");
                return Err(value(path, "workload_api.uids", &uids, reason));
            }
            Some(uids) if !uids.value.iter().copied().all(is_one_user) => {
                let reason = "65534 and 4294967295 stand for users that the system cannot name: list others";
                return Err(value(path, "workload_api.uids", &uids, reason));
            }
            Some(uids) => Callers::Uids(uids.value.into_iter().collect()),
        };
        Ok(WorkloadApiConfig { socket, callers })
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

//! Where a replica's file is: on a disk, or on a simulated one, which loses on a crash what was not synced.

use std::path::Path;

use redb::{Builder, Database, DatabaseError};
use tokio::task::JoinError;

/// Where files are. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub enum Disk {
    /// On this machine's.
    #[default]
    Real,
    /// On one that a simulation can crash.
    #[cfg(feature = "simulation")]
    Simulated(crate::simulation::SimulatedDisk),
}

impl Disk {
    /// Opens or makes the database at `path`.
    pub(super) fn open(&self, builder: &mut Builder, path: &Path) -> Result<Database, DatabaseError> {
        match self {
            Self::Real => builder.create(path),
            #[cfg(feature = "simulation")]
            Self::Simulated(disk) => builder.create_with_backend(disk.backend(path).map_err(redb::StorageError::from)?),
        }
    }

    /// Runs a blocking operation: on a thread of its own, or at once, which a simulation needs to be repeatable.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Real => tokio::task::spawn_blocking(work).await,
            #[cfg(feature = "simulation")]
            Self::Simulated(_) => Ok(work()),
        }
    }
}

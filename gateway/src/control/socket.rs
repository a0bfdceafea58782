//! The control socket: sidecars of this machine, by the user that they run as.

use std::path::PathBuf;

use isthmus_proxy::unix_socket::{BindError, Bounds, Callers, UnixServer};
use serde::Serialize;

use super::warrant::Users;

/// A machine runs some hundreds of workloads, a user's in some dozens of instances. A sidecar holds one stream; the
/// second is for the moment in which it starts over. Its messages are small.
const BOUNDS: Bounds = Bounds { connections: 2_048, per_user: 64, streams: 2, stream_window: 64 * 1024 };

/// Where sidecars of this machine are served without a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ControlSocketConfig {
    /// The socket. Whoever can write to its directory can take its place.
    pub path: PathBuf,
    /// Whose processes are which workload.
    pub workloads: Users,
}

/// Binds the socket, for the users that are listed.
///
/// # Errors
/// [`BindError`].
pub fn bind(config: &ControlSocketConfig) -> Result<UnixServer, BindError> {
    let uids = config.workloads.keys().copied().collect();
    UnixServer::bind(config.path.clone(), Callers::Uids(uids), BOUNDS)
}

//! The service on its socket, within bounds.

use std::sync::Arc;

use isthmus_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tracing::info;

use super::admission::admit;
use super::feed::Feed;
use super::service::Service;
use crate::agent::AgentHandle;
use crate::config::WorkloadApiConfig;
use crate::unix_socket::{BindError, Bounds, UnixServer};

/// A process keeps one connection open for its whole life; servers that fork their workers run some dozens. Streams:
/// one of each call, and the same again while a client starts over. A request's message is empty.
pub(super) const BOUNDS: Bounds =
    Bounds { connections: 256, per_user: 128, streams: 8, stream_window: REQUEST_BYTES_MAX };
/// Bytes of one request.
const REQUEST_BYTES_MAX: u32 = 4 * 1024;

/// The Workload API with its socket bound.
#[derive(Debug)]
pub struct WorkloadApi {
    socket: UnixServer,
    feed: Arc<Feed>,
}

impl WorkloadApi {
    /// Binds the socket. What a killed sidecar left there is replaced. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(config: WorkloadApiConfig, agent: AgentHandle) -> Result<Self, BindError> {
        let WorkloadApiConfig { socket, callers } = config;
        Ok(Self { socket: UnixServer::bind(socket, callers, BOUNDS)?, feed: Arc::new(Feed::new(agent)) })
    }

    /// Serves until `shutdown`; then streams end, and the socket is taken away.
    pub async fn serve(self, shutdown: CancellationToken) {
        let (path, callers) = (self.socket.path().display(), self.socket.callers());
        info!(socket = %path, ?callers, "serving the SPIFFE Workload API");
        let server = SpiffeWorkloadApiServer::new(Service(self.feed.clone()));
        let server = server.max_decoding_message_size(REQUEST_BYTES_MAX as usize);
        let following = async {
            // The agent may end first: what it left is served to the end.
            shutdown.run_until_cancelled(self.feed.follow()).await;
            shutdown.cancelled().await;
            self.feed.stop();
        };
        tokio::join!(self.socket.serve(InterceptedService::new(server, admit), shutdown.clone()), following);
    }
}

//! The socket and its connections, within bounds.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use isthmus_wire::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::interceptor::InterceptedService;
use tower::Service as _;
use tracing::{debug, info, warn};

use super::admission::{Caller, admit};
use super::feed::Feed;
use super::service::Service;
use crate::agent::AgentHandle;
use crate::config::{Callers, WorkloadApiConfig};
use crate::unix_socket;

/// Connections of admitted callers. A process keeps one open for its whole life; servers that fork their workers
/// run some dozens.
pub(super) const CONNECTIONS_MAX: usize = 128;
/// Connections of callers that are not admitted. They are told so and leave; a few at a time, and never at the cost
/// of those who are.
pub(super) const STRANGERS_MAX: usize = 8;
/// How long a caller that is not admitted may stay, from connecting to being told so.
const STRANGER_WITHIN: Duration = Duration::from_secs(2);
/// Streams on one connection: one of each call, and the same again while a client starts over.
pub(super) const STREAMS_MAX: u32 = 8;
/// Bytes of one request, whose message is empty.
const REQUEST_BYTES_MAX: usize = 4 * 1024;
/// What a client may have in flight towards us, by stream: its largest request.
const STREAM_WINDOW: u32 = 4 * 1024;
/// Decoded bytes of one call's headers: gRPC's own, and what a client adds for tracing.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client may reset before they were looked at (rapid reset): beyond it, GOAWAY.
const RESETS_PENDING_MAX: usize = 16;
/// How long clients may take to read the end of their streams when the sidecar stops.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Pause after a failed accept, so that missing file descriptors do not make the loop spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It cannot be made.
    #[error("cannot create {}: {source}; does its directory exist, and may the sidecar's user write there?", path.display())]
    Socket {
        /// The configured path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone answers on it.
    #[error("another process answers on {}: each sidecar needs a socket of its own", .0.display())]
    Taken(PathBuf),
}

/// The Workload API with its socket bound.
#[derive(Debug)]
pub struct WorkloadApi {
    listener: UnixListener,
    path: PathBuf,
    callers: Callers,
    feed: Arc<Feed>,
}

/// The service behind its admission.
type Guarded = InterceptedService<SpiffeWorkloadApiServer<Service>, Admit>;
type Admit = fn(tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status>;

impl WorkloadApi {
    /// Binds the socket. What a killed sidecar left there is replaced. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(config: WorkloadApiConfig, agent: AgentHandle) -> Result<Self, BindError> {
        let WorkloadApiConfig { socket: path, callers } = config;
        if unix_socket::answers(&path) {
            return Err(BindError::Taken(path));
        }
        match unix_socket::bind(&path, callers.socket_mode()) {
            Ok(listener) => Ok(Self { listener, path, callers, feed: Arc::new(Feed::new(agent)) }),
            Err(source) => Err(BindError::Socket { path, source }),
        }
    }

    /// Serves until `shutdown`; then streams end, and the socket is taken away.
    pub async fn serve(self, shutdown: CancellationToken) {
        info!(socket = %self.path.display(), callers = ?self.callers, "serving the SPIFFE Workload API");
        let server = SpiffeWorkloadApiServer::new(Service(self.feed.clone()));
        let server = server.max_decoding_message_size(REQUEST_BYTES_MAX);
        let server: Guarded = InterceptedService::new(server, admit);
        let (connections, cut_off) = (TaskTracker::new(), CancellationToken::new());
        let accepting = self.accept(
            |stream, caller| {
                let serving = connection(stream, caller, server.clone(), shutdown.clone());
                cut_off.clone().run_until_cancelled_owned(serving)
            },
            &connections,
        );
        let following = async {
            self.feed.follow().await;
            // The agent has ended: what it left is served to the end.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = accepting => {}
            () = following => {}
            () = shutdown.cancelled() => {}
        }
        self.feed.stop();
        // While the socket still answers, so that nobody else's is taken away.
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, socket = %self.path.display(), "the socket was gone already");
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(END_WITHIN, connections.wait()).await.is_err() {
            cut_off.cancel();
            connections.wait().await;
        }
    }

    /// Accepts for ever; `serve` makes the task of each connection that there is room for.
    async fn accept<F>(&self, serve: impl Fn(UnixStream, Caller) -> F, connections: &TaskTracker)
    where
        F: Future<Output = Option<()>> + Send + 'static,
    {
        let (room, strangers) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(STRANGERS_MAX)));
        let mut full = false;
        loop {
            let (stream, uid) = match self.listener.accept().await.and_then(|(stream, _)| with_uid(stream)) {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "cannot accept on the Workload API's socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let caller = Caller { admitted: self.callers.admit(uid) };
            let room = if caller.admitted { &room } else { &strangers };
            let Ok(place) = room.clone().try_acquire_owned() else {
                // Told once; and of strangers not at all, who could fill the log with it.
                if caller.admitted && !std::mem::replace(&mut full, true) {
                    warn!(uid, "the Workload API has {CONNECTIONS_MAX} connections, and closes further ones");
                }
                continue;
            };
            if caller.admitted {
                full = false;
            } else {
                debug!(uid, "a caller of the Workload API is not in `workload_api.uids`");
            }
            let serving = serve(stream, caller);
            connections.spawn(async move {
                serving.await;
                drop(place);
            });
        }
    }
}

fn with_uid(stream: UnixStream) -> io::Result<(UnixStream, u32)> {
    let uid = stream.peer_cred()?.uid();
    Ok((stream, uid))
}

/// Serves one connection until the client leaves, or `shutdown` and its streams have ended. There are no pings:
/// a Unix socket closes with its process.
async fn connection(stream: UnixStream, caller: Caller, server: Guarded, shutdown: CancellationToken) {
    let service = service_fn(move |mut request: Request<_>| {
        request.extensions_mut().insert(caller);
        server.clone().call(request)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .initial_stream_window_size(STREAM_WINDOW);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let overdue = async {
        if caller.admitted {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(STRANGER_WITHIN).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = overdue => return,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection to the Workload API ended");
    }
}

//! gRPC on a Unix socket for certain users: whose each connection is, the kernel tells.
//!
//! Connections of users that are not listed are served too, a few and for a moment, so that they hear why not. Who is
//! who is for the service to look at: it finds the [`Caller`] among the extensions of each request.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{BoxError, Service};
use tracing::{debug, warn};

/// Connections of users that are not listed. They are told so and leave; a few at a time, and never at the cost
/// of those who are.
pub const STRANGERS_MAX: usize = 8;
/// How long a user that is not listed may stay, from connecting to being told so.
const STRANGER_WITHIN: Duration = Duration::from_secs(2);
/// Decoded bytes of one call's headers: gRPC's own, and what a client adds for tracing.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;
/// Streams that a client may reset before they were looked at (rapid reset): beyond it, GOAWAY.
const RESETS_PENDING_MAX: usize = 16;
/// How long clients may take to read the end of their streams when the server stops.
const END_WITHIN: Duration = Duration::from_secs(1);
/// Pause after a failed accept, so that missing file descriptors do not make the loop spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What Linux says of a user that the reader's user namespace has no number for, and `nobody`.
const OVERFLOW_UID: u32 = 65_534;

/// Whether a user id stands for one user: the kernel gives [`OVERFLOW_UID`] for each that it cannot name, and no
/// user has −1.
#[must_use]
pub fn is_one_user(uid: u32) -> bool {
    uid != OVERFLOW_UID && uid != u32::MAX
}

/// Who is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callers {
    /// The process's own user, by the mode of the socket.
    Owner,
    /// These users and no others, by what the kernel says of each connection.
    Uids(BTreeSet<u32>),
}

impl Callers {
    /// Whether processes of the user `uid` are served, once the socket has let them connect.
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

/// Whose connection a call came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user, when the connection was made.
    pub uid: u32,
    /// Whether they are listed.
    pub admitted: bool,
}

/// How much is served at once.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections of listed users.
    pub connections: usize,
    /// Connections of one of them.
    pub per_user: usize,
    /// Streams on one connection.
    pub streams: u32,
    /// What a client may have in flight towards us on one stream, in bytes.
    pub stream_window: u32,
}

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It cannot be made.
    #[error("cannot create {}: {source}; does its directory exist, and may this process's user write there?", path.display())]
    Socket {
        /// The configured path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Someone answers on it.
    #[error("another process answers on {}: each needs a socket of its own", .0.display())]
    Taken(PathBuf),
}

/// A bound socket.
#[derive(Debug)]
pub struct UnixServer {
    listener: UnixListener,
    path: PathBuf,
    callers: Callers,
    bounds: Bounds,
}

impl UnixServer {
    /// Binds the socket. What a killed process left there is replaced. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: PathBuf, callers: Callers, bounds: Bounds) -> Result<Self, BindError> {
        if super::answers(&path) {
            return Err(BindError::Taken(path));
        }
        match super::bind(&path, callers.socket_mode()) {
            Ok(listener) => Ok(Self { listener, path, callers, bounds }),
            Err(source) => Err(BindError::Socket { path, source }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who is listed.
    #[must_use]
    pub fn callers(&self) -> &Callers {
        &self.callers
    }

    /// Serves until `shutdown`; then the socket is taken away, and calls have a second to end.
    pub async fn serve<S, B>(self, service: S, shutdown: CancellationToken)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
            + Clone
            + Send
            + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let (connections, cut_off) = (TaskTracker::new(), CancellationToken::new());
        let (bounds, stop) = (self.bounds, shutdown.clone());
        let serve = |stream, caller| {
            let serving = connection(stream, caller, bounds, service.clone(), stop.clone());
            cut_off.clone().run_until_cancelled_owned(serving)
        };
        shutdown.run_until_cancelled(self.accept(serve, &connections)).await;
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
        let rooms = Rooms::new(self.bounds);
        let mut full = false;
        loop {
            let (stream, uid) = match self.listener.accept().await.and_then(|(stream, _)| with_uid(stream)) {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, socket = %self.path.display(), "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let caller = Caller { uid, admitted: self.callers.admit(uid) };
            let Some(place) = rooms.enter(caller) else {
                // Told once; and of strangers not at all, who could fill the log with it.
                if caller.admitted && !std::mem::replace(&mut full, true) {
                    warn!(uid, socket = %self.path.display(), "too many connections: further ones are closed");
                }
                continue;
            };
            if caller.admitted {
                full = false;
            } else {
                debug!(uid, socket = %self.path.display(), "a caller is not among the users that are listed");
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

/// Counts connections.
#[derive(Clone, Debug)]
struct Rooms {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    strangers: usize,
    /// By listed user; those without a connection are taken out.
    by_user: BTreeMap<u32, usize>,
}

impl Rooms {
    fn new(bounds: Bounds) -> Self {
        Self { bounds, taken: Arc::default() }
    }

    /// A place, if there is one.
    fn enter(&self, caller: Caller) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if caller.admitted {
            let all: usize = taken.by_user.values().sum();
            let own = taken.by_user.get(&caller.uid).copied().unwrap_or(0);
            if all >= self.bounds.connections || own >= self.bounds.per_user {
                return None;
            }
            taken.by_user.insert(caller.uid, own + 1);
        } else if taken.strangers < STRANGERS_MAX {
            taken.strangers += 1;
        } else {
            return None;
        }
        Some(Place { rooms: self.clone(), caller })
    }
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
struct Place {
    rooms: Rooms,
    caller: Caller,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.rooms.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.caller.admitted {
            taken.strangers -= 1;
        } else if let Some(own) = taken.by_user.get_mut(&self.caller.uid) {
            *own -= 1;
            taken.by_user.retain(|_, connections| *connections > 0);
        }
    }
}

/// Serves one connection until the client leaves, or `shutdown` and its streams have ended. There are no pings:
/// a Unix socket closes with its process.
async fn connection<S, B>(stream: UnixStream, caller: Caller, bounds: Bounds, service: S, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    let service = service_fn(move |mut request: Request<_>| {
        request.extensions_mut().insert(caller);
        service.clone().call(request)
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .initial_stream_window_size(bounds.stream_window);
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
        debug!(%error, uid = caller.uid, "a connection to a Unix socket ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_share_the_room_and_strangers_have_their_own() {
        let rooms = Rooms::new(Bounds { connections: 3, per_user: 2, streams: 1, stream_window: 1 });
        let listed = |uid| rooms.enter(Caller { uid, admitted: true });
        let stranger = || rooms.enter(Caller { uid: 1, admitted: false });
        let strangers: Vec<_> = (0..STRANGERS_MAX).map(|_| stranger().expect("room")).collect();
        assert!(stranger().is_none());
        let mut ones = vec![listed(1).expect("room"), listed(1).expect("room")];
        assert!(listed(1).is_none(), "one user's connections");
        let other = listed(2).expect("room");
        assert!(listed(2).is_none(), "all connections");
        ones.pop();
        let again = listed(2).expect("the place that was left");
        drop((ones, other, again, strangers));
        let taken = rooms.taken.lock().expect("no panic");
        assert!(taken.by_user.is_empty() && taken.strangers == 0);
    }

    #[test]
    fn ids_that_stand_for_nobody_or_many_are_no_user() {
        assert!(is_one_user(0) && is_one_user(1000));
        assert!(!is_one_user(65_534) && !is_one_user(u32::MAX));
    }
}

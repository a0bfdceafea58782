//! hyper's servers with this data plane's bounds.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::quiet::{is_watched, watched};
use super::{Body, Received};
use crate::detect::Opening;
use crate::tcp::{Prefixed, Stream};

/// A request's head has to be complete after this, and a client's connection without requests is closed. As long as the
/// idle timeouts of common clients' pools, so that they close first.
pub const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Header fields in one HTTP/1 message.
pub const FIELDS_MAX: usize = 100;
/// Bytes of one HTTP/1 head, and of the buffer it is read into.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Decoded bytes of one HTTP/2 header list. HPACK's tables are small by default; this bounds the sum.
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Requests under way on one HTTP/2 connection.
pub const STREAMS_MAX: u32 = 256;
/// Streams that a client may reset before they were looked at (rapid reset): beyond it, GOAWAY.
pub const RESETS_PENDING_MAX: usize = 32;
/// Streams reset for the client's own errors (made you reset): beyond it, GOAWAY.
pub const RESETS_PROVOKED_MAX: usize = 128;
/// The same for a data plane, which is authenticated and passes on what many clients do: all of its streams, and several times
/// as many in its lifetime.
pub const SHARED_RESETS_PENDING_MAX: usize = STREAMS_MAX as usize;
/// See [`SHARED_RESETS_PENDING_MAX`].
pub const SHARED_RESETS_PROVOKED_MAX: usize = 16 * STREAMS_MAX as usize;
/// What one stream may have in flight towards us: 80 Mbit/s at 100 ms.
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// What one client's connection may have in flight towards us. Its streams wait for each other at most.
pub const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What a connection that carries many parties' streams may have in flight towards us: a window for each stream that there may
/// be, so that those who do not read do not stall the others, however many they are. It is what may be, not what there is: nobody
/// waits unread but by the requests that a service may have under way.
pub const SHARED_WINDOW: u32 = STREAMS_MAX * STREAM_WINDOW;
/// Bytes of one frame between data planes: bulk goes in few of them, and one is through at 100 Mbit/s within 10 ms.
pub const SHARED_FRAME_MAX: u32 = 128 * 1024;
/// Bytes that a session's TLS takes at once: a frame with its head. What it does not take would be a record, a system call and a
/// packet of its own. It holds them only until the socket takes them.
pub const SHARED_RECORDS_MAX: usize = SHARED_FRAME_MAX as usize + 1024;
/// The same of a client, as by default.
const FRAME_MAX: u32 = 16 * 1024;
/// Bytes buffered per stream between data planes when the peer does not read.
pub const SHARED_SEND_BUFFER: usize = 256 * 1024;
/// The same towards a client, of whom there may be thousands, each with all of its streams: 16 MiB of one that reads none of them.
/// A stream is no slower for it, for this is what waits for the socket and not what is on the way.
pub const SEND_BUFFER: usize = 64 * 1024;
/// How often an HTTP/2 client is asked whether it is still there.
pub const PING_EVERY: Duration = Duration::from_secs(10);
/// How long it may take to answer.
pub const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Whose streams a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// One client's from outside, for whom no stream is held on which nothing has moved for that long.
    Outside(Duration),
    /// One client's.
    One,
    /// Many parties', which must not suffer for each other.
    Many,
}

/// Runs the streams of an HTTP/2 connection.
#[derive(Clone)]
struct Streams {
    carries: Carries,
    /// How many there are, of one client's.
    open: Arc<watch::Sender<usize>>,
}

/// A stream that is open.
struct Open(Arc<watch::Sender<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        if self.carries == Carries::Many {
            tokio::spawn(stream);
            return;
        }
        self.open.send_modify(|open| *open += 1);
        let open = Open(self.open.clone());
        // By combinators: an async block around a future has room for it twice, and this is one for each request.
        let stream = stream.map(move |()| drop(open));
        // What a stream starts is what it has become, a websocket, and that has a bound of its own.
        match self.carries {
            Carries::Outside(quiet) if !is_watched() => drop(tokio::spawn(watched(quiet, stream))),
            _ => drop(tokio::spawn(stream)),
        }
    }
}

impl Streams {
    fn new(carries: Carries) -> Self {
        Self { carries, open: Arc::default() }
    }

    /// Resolves when there was none for [`HEAD_WITHIN`]. Data planes end their sessions themselves.
    async fn idle(&self) {
        if self.carries == Carries::Many {
            return std::future::pending().await;
        }
        let mut open = self.open.subscribe();
        loop {
            // The sender is `self`'s.
            let none = *open.borrow_and_update() == 0;
            if timeout(HEAD_WITHIN, open.changed()).await.is_err() && none {
                return;
            }
        }
    }
}

/// HTTP/2 server settings.
fn http2_builder(carries: Carries, streams: Streams) -> http2::Builder<Streams> {
    let (window, frame, send_buffer) = match carries {
        Carries::Outside(_) | Carries::One => (CONNECTION_WINDOW, FRAME_MAX, SEND_BUFFER),
        Carries::Many => (SHARED_WINDOW, SHARED_FRAME_MAX, SHARED_SEND_BUFFER),
    };
    let (resets_pending, resets_provoked) = match carries {
        Carries::Outside(_) | Carries::One => (RESETS_PENDING_MAX, RESETS_PROVOKED_MAX),
        Carries::Many => (SHARED_RESETS_PENDING_MAX, SHARED_RESETS_PROVOKED_MAX),
    };
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_pending_accept_reset_streams(resets_pending)
        .max_local_error_reset_streams(resets_provoked)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(window)
        .max_frame_size(frame)
        .max_send_buf_size(send_buffer)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_headers(FIELDS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
}

/// How a client's requests are answered: one type for all who do, as [`Stream`] is for what they come by.
pub type Handler = Arc<dyn Fn(Request<Received>) -> Answering + Send + Sync>;

/// An answer to come.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Serves one client's requests, in the version that it opened with. Of one from outside, `quiet` says how long nothing may move: on
/// its connection, if that is of HTTP/1, or else on a stream.
pub async fn serve_client(
    stream: Prefixed<Stream>,
    opening: Opening,
    quiet: Option<Duration>,
    drain: &CancellationToken,
    handle: Handler,
) {
    // Each in a box of its own, so that a connection has room for what it is and no more.
    match (opening, quiet) {
        (Opening::Http2, _) => {
            let carries = quiet.map_or(Carries::One, Carries::Outside);
            let handle = move |request| handle(request);
            Box::pin(serve_http2(stream, carries, drain.clone().cancelled_owned(), handle)).await;
        }
        (_, Some(quiet)) => watched(quiet, serve_http1(stream, drain, |request| handle(request))).await,
        (_, None) => Box::pin(serve_http1(stream, drain, |request| handle(request))).await,
    }
}

/// Serves HTTP/1.1 until the peer closes, or until `drain` and the request under way is answered.
pub async fn serve_http1<I, H, F>(io: I, drain: &CancellationToken, handle: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Received>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| handle(Received::by_http1(request)).map(Ok::<_, Infallible>));
    let mut connection = pin!(http1_builder().serve_connection(TokioIo::new(io), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/1 connection ended");
    }
}

/// Serves HTTP/2 until the peer closes, until a client has been without requests for [`HEAD_WITHIN`], or until `drain` and every
/// request under way is answered.
pub async fn serve_http2<I, H, F>(io: I, carries: Carries, drain: impl Future<Output = ()>, handle: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Received>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| handle(Received::by_http2(request)).map(Ok::<_, Infallible>));
    let streams = Streams::new(carries);
    let connection = http2_builder(carries, streams.clone()).serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = streams.idle() => {
            connection.as_mut().graceful_shutdown();
            // A stream that was opened meanwhile has its time. What is there without any are the ends of answers that the client did
            // not take.
            tokio::select! {
                ended = connection => ended,
                () = streams.idle() => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::duplex;
    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_of_http2_without_requests_is_sent_away_although_it_answers_pings() {
        const LONG: Duration = Duration::from_secs(200);
        for carries in [Carries::One, Carries::Outside(2 * LONG)] {
            let (near, far) = duplex(1 << 16);
            tokio::spawn(serve_http2(far, carries, std::future::pending(), async |_| {
                sleep(LONG).await;
                Response::new(Body::empty())
            }));
            let session = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await;
            let (mut send, connection) = session.expect("a session");
            let ended = tokio::spawn(connection);
            let began = Instant::now();
            sleep(HEAD_WITHIN / 2).await;
            let request = Request::get("http://a/").body(Empty::<Bytes>::new()).expect("a request");
            send.send_request(request).await.expect("an answer, however long it takes");
            ended.await.expect("joined").expect("in order: it was told to go");
            assert_eq!(began.elapsed().as_secs(), (HEAD_WITHIN / 2 + LONG + HEAD_WITHIN).as_secs(), "{carries:?}");
        }
    }
}

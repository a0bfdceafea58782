//! hyper's servers with this data plane's bounds.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use http::{Request, Response};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Body, Received};

/// A request's head has to be complete after this, and an idle HTTP/1 connection is closed. As long as the
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
    /// One client's.
    One,
    /// Many parties', which must not suffer for each other.
    Many,
}

/// HTTP/2 server settings.
fn http2_builder(carries: Carries) -> http2::Builder<TokioExecutor> {
    let (window, frame, send_buffer) = match carries {
        Carries::One => (CONNECTION_WINDOW, FRAME_MAX, SEND_BUFFER),
        Carries::Many => (SHARED_WINDOW, SHARED_FRAME_MAX, SHARED_SEND_BUFFER),
    };
    let (resets_pending, resets_provoked) = match carries {
        Carries::One => (RESETS_PENDING_MAX, RESETS_PROVOKED_MAX),
        Carries::Many => (SHARED_RESETS_PENDING_MAX, SHARED_RESETS_PROVOKED_MAX),
    };
    let mut builder = http2::Builder::new(TokioExecutor::new());
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

/// Serves HTTP/1.1 until the peer closes, or until `drain` and the request under way is answered.
pub async fn serve_http1<I, H, F>(io: I, drain: &CancellationToken, handle: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Received>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let response = handle(Received::by_http1(request));
        async move { Ok::<_, Infallible>(response.await) }
    });
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

/// Serves HTTP/2 until the peer closes, or until `drain` and every request under way is answered.
pub async fn serve_http2<I, H, F>(io: I, carries: Carries, drain: impl Future<Output = ()>, handle: H)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Received>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request| {
        let response = handle(Received::by_http2(request));
        async move { Ok::<_, Infallible>(response.await) }
    });
    let mut connection = pin!(http2_builder(carries).serve_connection(TokioIo::new(io), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drain => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}

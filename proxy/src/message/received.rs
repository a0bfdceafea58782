//! A request's body as it arrives, and what becomes of the rest when nobody wants it.
//!
//! An answer may come before the request was read: a refusal, or an application that has seen enough. A client of
//! HTTP/1 that is still sending loses that answer when its connection is closed under its hands, because the
//! bytes that nobody reads turn the close into a reset. So the rest is read and thrown away for a while. HTTP/2
//! needs none of that: the stream is reset without an error (RFC 9113 §8.1).

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http::header::EXPECT;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::body::BodyError;
use super::quiet::{Activity, Side};

/// How long a client may go on sending what nobody wants, before its connection is closed all the same: nginx's
/// `lingering_time`.
pub const LINGER_WITHIN: Duration = Duration::from_secs(30);
/// How long it may be silent meanwhile: nginx's `lingering_timeout`.
pub const LINGER_QUIET: Duration = Duration::from_secs(5);

/// A request's body.
pub struct Received {
    /// `None` once it came to its end.
    incoming: Option<Incoming>,
    side: Option<Box<Side>>,
    /// What counts as long as it is on its way.
    held: Option<Box<dyn Send + Sync>>,
    /// Whether the client may be sending it.
    underway: bool,
    http1: bool,
}

impl Received {
    /// The request that a server of HTTP/1 took.
    pub(super) fn by_http1(request: Request<Incoming>) -> Request<Self> {
        // Who expects to be told when to begin has not begun.
        let underway = !request.headers().contains_key(EXPECT);
        request.map(|incoming| Self { incoming: Some(incoming), side: None, held: None, underway, http1: true })
    }

    /// The request that a server of HTTP/2 took.
    pub(super) fn by_http2(request: Request<Incoming>) -> Request<Self> {
        request.map(|incoming| Self { incoming: Some(incoming), side: None, held: None, underway: true, http1: false })
    }
}

impl Received {
    /// Notes what moves, and breaks off when the stream is given up.
    pub(crate) fn watch(&mut self, activity: &Activity) {
        activity.asked(self.is_end_stream());
        self.side = Some(Side::of(activity));
    }

    /// Keeps `held` as long as it is on its way.
    pub(crate) fn hold(&mut self, held: impl Send + Sync + 'static) {
        self.held = Some(Box::new(held));
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { incoming, side, held, underway, .. } = self.get_mut();
        *underway = true;
        let Some(arriving) = incoming else { return Poll::Ready(None) };
        let mut frame = Pin::new(&mut *arriving).poll_frame(cx).map_err(BodyError::Broken);
        // Of one in chunks nothing but its end tells.
        let whole = arriving.is_end_stream() || matches!(frame, Poll::Ready(None));
        if let Some(side) = side {
            frame = side.looked(cx, frame);
            if whole {
                side.activity().asked(true);
            }
        }
        let frame = ready!(frame);
        // What was given up may go on coming: it is thrown away as any rest is.
        if !matches!(frame, Some(Ok(_) | Err(BodyError::Quiet))) {
            (*incoming, *held) = (None, None);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let Some(rest) = self.incoming.take().filter(|rest| self.http1 && self.underway && !rest.is_end_stream())
        else {
            return;
        };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move {
                // Too late or too quiet: dropping it closes the connection.
                let _ = timeout(LINGER_WITHIN, discard(rest)).await;
            });
        }
    }
}

async fn discard(mut rest: Incoming) {
    while let Ok(Some(Ok(_))) = timeout(LINGER_QUIET, rest.frame()).await {}
}

#[cfg(test)]
mod tests {
    use http::{Response, StatusCode};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
    use tokio::time::Instant;
    use tokio_util::sync::CancellationToken;

    use super::super::{Body, reply, server::serve_http1};
    use super::*;

    /// A client whose every request is refused unread.
    fn refused() -> DuplexStream {
        let (client, server) = duplex(1024);
        tokio::spawn(async move {
            let refuse = |_: Request<Received>| std::future::ready(refusal());
            serve_http1(server, &CancellationToken::new(), refuse).await;
        });
        client
    }

    fn refusal() -> Response<Body> {
        reply::text(StatusCode::NOT_FOUND, "not here")
    }

    #[tokio::test(start_paused = true)]
    async fn an_early_answer_leaves_the_connection_in_step() {
        let mut client = refused();
        for _ in 0..2 {
            client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65536\r\n\r\n").await.expect("written");
            // More than fits between the two: it is read although nobody wants it.
            client.write_all(&[b'x'; 65_536]).await.expect("written");
            let mut answer = vec![0; 12];
            client.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(answer, b"HTTP/1.1 404");
            while !answer.ends_with(b"not here\n") {
                answer.push(client.read_u8().await.expect("the rest"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_falls_silent_or_never_ends_is_closed() {
        for (pause, expected) in [(LINGER_QUIET * 2, LINGER_QUIET), (Duration::from_secs(1), LINGER_WITHIN)] {
            let (mut read, mut write) = split(refused());
            let sending = async {
                let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
                write.write_all(head).await.expect("written");
                while write.write_all(b"x").await.is_ok() {
                    tokio::time::sleep(pause).await;
                }
            };
            let mut answer = String::new();
            let start = Instant::now();
            tokio::select! {
                read = read.read_to_string(&mut answer) => { read.expect("an end"); }
                () = sending => {}
            }
            assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("not here\n"), "{answer}");
            assert_eq!(start.elapsed().as_secs(), expected.as_secs(), "{pause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_to_be_told_is_not_waited_for() {
        let mut client = refused();
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
        client.write_all(head).await.expect("written");
        let start = Instant::now();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an end");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

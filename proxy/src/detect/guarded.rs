//! Bytes that pass on somebody's word, or because nobody was to wait longer, and may turn out to be requests.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Opening, Reader};
use crate::tcp::Prefixed;

/// A client's stream that passes as bytes. If it turns out to be requests, it breaks off before the application
/// has one whole, and can be served as what it is.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    /// What came so far; None once it is clear that it is bytes.
    seen: Option<Box<Seen>>,
    /// Whether the client was told anything: then it is no longer known what its words mean.
    answered: bool,
}

#[derive(Debug, Default)]
struct Seen {
    read: BytesMut,
    reader: Reader,
    requests: Option<Opening>,
}

/// What came, as far as it is known.
enum Passing {
    Unclear,
    Bytes,
    Requests(Opening),
    /// A request that only some applications take for one.
    Hidden,
}

impl Seen {
    fn look(&mut self) -> Passing {
        match self.reader.look(&self.read) {
            None => Passing::Unclear,
            Some(Opening::Opaque) => match self.reader.hides_header(&self.read) {
                None => Passing::Unclear,
                Some(false) => Passing::Bytes,
                Some(true) => Passing::Hidden,
            },
            Some(opening) => Passing::Requests(opening),
        }
    }
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, seen: Some(Box::default()), answered: false }
    }

    /// The stream from its beginning, if it broke off because it is requests and the application, which is to be left now, has said
    /// nothing: what it was taken for has done no harm.
    pub(crate) fn into_requests(self) -> Option<(Opening, Prefixed<S>)> {
        let Seen { read, requests, .. } = *self.seen.filter(|_| !self.answered)?;
        Some((requests?, Prefixed::new(read.freeze(), self.stream)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Some(seen) = &mut self.seen else { return Poll::Ready(Ok(())) };
        seen.read.extend_from_slice(&buf.filled()[before..]);
        match seen.look() {
            Passing::Unclear => return Poll::Ready(Ok(())),
            Passing::Bytes => {
                self.seen = None;
                return Poll::Ready(Ok(()));
            }
            Passing::Requests(opening) => seen.requests = Some(opening),
            Passing::Hidden => {}
        }
        buf.set_filled(before);
        Poll::Ready(Err(io::Error::other("what passed as bytes is a request")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.answered |= written > 0;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn a_request_that_comes_as_bytes_breaks_off_before_its_line_is_whole() {
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(near);
        let mut read = BytesMut::new();
        for part in ["GET / HT", "TP/1.1"] {
            client.write_all(part.as_bytes()).await.expect("written");
            guarded.read_buf(&mut read).await.expect("not clear yet");
        }
        client.write_all(b"\r\nx-forwarded-client-cert: URI=spiffe://forged\r\n\r\n").await.expect("written");
        assert!(guarded.read_buf(&mut read).await.is_err());
        assert_eq!(&read[..], b"GET / HTTP/1.1", "and the application has no request");
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(near);
        for part in ["GET", " key\r\n", "SET a:b\r\n", "GET / HTTP/1.1\r\n"] {
            client.write_all(part.as_bytes()).await.expect("written");
            guarded.read_buf(&mut read).await.expect("bytes stay bytes");
        }
        // HTTP/0.9, from a server that reads headers all the same.
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(near);
        let mut read = BytesMut::with_capacity(1_024);
        client.write_all(b"GET /admin\r\n").await.expect("written");
        guarded.read_buf(&mut read).await.expect("not clear yet");
        client.write_all(b"x-forwarded-client-cert: URI=spiffe://forged\r\n\r\n").await.expect("written");
        assert!(guarded.read_buf(&mut read).await.is_err());
    }

    #[tokio::test]
    async fn what_was_taken_for_bytes_by_mistake_is_served_from_its_beginning_if_nobody_answered() {
        for answered in [false, true] {
            let (mut client, near) = duplex(1_024);
            let mut guarded = Guarded::new(near);
            let mut read = BytesMut::new();
            client.write_all(b"GET ").await.expect("written");
            guarded.read_buf(&mut read).await.expect("not clear yet");
            if answered {
                guarded.write_all(b"?").await.expect("written");
            }
            client.write_all(b"/ HTTP/1.1\r\n\r\n").await.expect("written");
            assert!(guarded.read_buf(&mut read).await.is_err());
            let Some((opening, mut stream)) = guarded.into_requests().filter(|_| !answered) else {
                assert!(answered);
                continue;
            };
            assert_eq!(opening, Opening::Http1);
            drop(client);
            let mut whole = String::new();
            stream.read_to_string(&mut whole).await.expect("read");
            assert_eq!(whole, "GET / HTTP/1.1\r\n\r\n");
        }
        // Bytes are never given back.
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(near);
        client.write_all(b"PING\r\n").await.expect("written");
        guarded.read_buf(&mut BytesMut::new()).await.expect("bytes");
        assert!(guarded.into_requests().is_none());
    }
}

//! Requests in what passes as bytes, to whichever server: what one of them takes for a request says who called, and only the data
//! plane may say that.
//!
//! Bytes are not held up for it. A connection breaks off before the application has the line whole that could be a request's. Servers
//! that nobody here knows may read lines otherwise; so it breaks off as well where a line soon begins as the field does that names
//! a caller.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::claims::Claims;
use super::disguise::is_disguised;
use super::words::Readings;
use super::{LINE_BYTES_MAX, Opening, Reader, is_http2};
use crate::tcp::Prefixed;

/// How the header of a load balancer begins, in version 1 and 2 of the PROXY protocol. There are servers of HTTP that take it from
/// anybody, and requests without it too.
const BALANCER_LINE: &[u8] = b"PROXY ";
const BALANCER_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What version 2 has before what its last two bytes give the length of.
const BALANCER_FIXED: usize = 16;

/// Whether a server might take `read`, the first bytes of a client, for a request. None when more has to come.
#[must_use]
pub fn could_be_request(read: &[u8]) -> Option<bool> {
    Guard::default().look(read).map(|passing| passing != Passing::Bytes)
}

/// What passes as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passing {
    Bytes,
    /// What anybody takes for requests.
    Requests(Opening),
    /// A request that only some servers take for one.
    Disguised,
}

/// Looks at a client's first bytes, as they come.
#[derive(Debug, Default)]
struct Guard {
    first: Lines,
    /// Of what is behind a load balancer's header.
    behind: Lines,
}

impl Guard {
    /// What `read` is to some server, which begins with what was looked at before. None when more has to come.
    fn look(&mut self, read: &[u8]) -> Option<Passing> {
        match self.first.look(read) {
            Some(Passing::Bytes) => {}
            other => return other,
        }
        match balancer_header(read)? {
            0 => Some(Passing::Bytes),
            header => match self.behind.look(&read[header..])? {
                Passing::Bytes => Some(Passing::Bytes),
                Passing::Requests(_) | Passing::Disguised => Some(Passing::Disguised),
            },
        }
    }
}

/// How long a load balancer's header is that `read` begins with, however it is written otherwise. None when more has to come.
fn balancer_header(read: &[u8]) -> Option<usize> {
    let begins = |with: &[u8]| read.iter().zip(with).all(|(byte, other)| byte == other);
    if begins(BALANCER_SIGNATURE) {
        let length = read.get(BALANCER_FIXED - 2..BALANCER_FIXED)?;
        let whole = BALANCER_FIXED + usize::from(u16::from_be_bytes([length[0], length[1]]));
        return (read.len() >= whole).then_some(whole);
    }
    if !begins(BALANCER_LINE) {
        return Some(0);
    }
    let end = read.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
    end.or((read.len() > LINE_BYTES_MAX).then_some(0))
}

/// Looks at the first lines of what may be a request.
#[derive(Debug, Default)]
struct Lines {
    reader: Reader,
    readings: Readings,
    /// Whether it is known to be in no disguise without a version.
    is_plain: bool,
}

impl Lines {
    fn look(&mut self, read: &[u8]) -> Option<Passing> {
        let opening = self.reader.look(read);
        if let Some(opening @ (Opening::Http1 | Opening::Http2)) = opening {
            return Some(Passing::Requests(opening));
        }
        let is_named = self.readings.name_http(read);
        if opening.is_none() {
            // The line goes on, and its end will say the same.
            let opening = if is_http2(read).is_none() { Opening::Http2 } else { Opening::Http1 };
            return is_named.filter(|named| *named).map(|_| Passing::Requests(opening));
        }
        let is_disguised = if self.is_plain { Some(false) } else { is_disguised(&read[self.reader.start..]) };
        self.is_plain = is_disguised == Some(false);
        match (is_disguised, is_named) {
            (Some(true), _) | (_, Some(true)) => Some(Passing::Disguised),
            (Some(false), Some(false)) => Some(Passing::Bytes),
            _ => None,
        }
    }
}

/// A client's stream that passes as bytes. If it turns out to be requests, it breaks off before the application
/// has one whole, and can be served as what it is.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: Prefixed<S>,
    /// What came so far; None once it is clear that it is bytes.
    seen: Option<Box<Seen>>,
    claims: Claims,
    /// Whether the client was told anything, an end too, or will be: then it is no longer known what its words mean.
    answered: bool,
}

#[derive(Debug, Default)]
struct Seen {
    read: BytesMut,
    guard: Guard,
    requests: Option<Opening>,
}

impl Seen {
    /// What it is, with what just came.
    fn take(&mut self, came: &[u8]) -> Option<Passing> {
        self.read.extend_from_slice(came);
        let passing = self.guard.look(&self.read);
        if let Some(Passing::Requests(opening)) = passing {
            self.requests = Some(opening);
        }
        passing
    }
}

impl<S> Guarded<S> {
    /// Of a client to whom the application has said something already, if it is `answered`.
    pub(crate) fn new(stream: Prefixed<S>, answered: bool) -> Self {
        Self { stream, seen: Some(Box::default()), claims: Claims::default(), answered }
    }

    /// The stream from its beginning, if it broke off because it is requests and the application, which is to be left now, has said
    /// nothing: what it was taken for has done no harm.
    pub(crate) fn into_requests(mut self) -> Option<(Opening, Prefixed<S>)> {
        let Seen { read, requests, .. } = *self.seen.filter(|_| !self.answered)?;
        let opening = requests?;
        self.stream.put_back(read);
        Some((opening, self.stream))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let Self { stream, seen, claims, .. } = &mut *self;
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        let came = &buf.filled()[before..];
        let passing = seen.as_mut().and_then(|seen| seen.take(came));
        let passes = matches!(passing, None | Some(Passing::Bytes)) && !claims.are_made(came);
        if passing == Some(Passing::Bytes) {
            *seen = None;
        }
        if passes {
            return Poll::Ready(Ok(()));
        }
        buf.set_filled(before);
        let what = "what passed as bytes is a request, or says who called as one does: declare what the port speaks (appProtocol)";
        Poll::Ready(Err(io::Error::other(what)))
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
        self.answered = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn what_some_server_takes_for_a_request_is_none_that_passes() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            // To servers as Python's `http.server`.
            "GET /\0 HTTP/1.1",
            "GET\r/ HTTP/1.1",
            "GET /a\rHTTP/1.1",
            "GET /a\rb HTTP/1.1",
            "\rGET\r/\rHTTP/1.1",
            "G(T / HTTP/1.1",
            "GET\u{1} / http/1.0",
            "\"GET\" / HTTP/1.1",
            "GET /path\r\nhost:",
            "GET\r/path\r\nhost:",
            "GET /\0\r\nhost:",
            "GET /path\r\n host",
            "GET /path\r\nx/y:",
            "GET /path\r\n:",
            "GET /path\r\nFrom a",
            // To servers as Node's.
            "POST /admin\r\nhost:",
            "\r\n\r\nDELETE /\r\nhost:",
            "OPTIONS / RTSP/1.0\r\n",
            "SOURCE /a ICE/1.0\r\n",
            "DESCRIBE rtsp://a/b RTSP/1.0\r\n",
            // A CR is a blank, and so is more that ends no line.
            "GET /path\r\u{c}\nhost:",
            "GET\r/path\r\u{c}\nhost:",
            "GET\r \r/path\nhost:",
            "GET\r/path\r\n\thost",
            &format!("GET /path{}", "\r\n".repeat(LINE_BYTES_MAX)),
            // To gunicorn up to 21, and Twisted up to 24.
            "GET\n/ HTTP/1.1\r\n",
            "GET /\nHTTP/1.1\r\n",
            "POST\n/adm HTTP/1.1\r\n",
            // To gunicorn since 22.
            "GET /\nfoo HTTP/1.1\r\n",
            // To Netty.
            "\0 GET / HTTP/1.1\r\n",
            "\0\nGET / HTTP/1.1\r\n",
            "\u{7f} GET / HTTP/1.1\r\n",
            // To whoever takes a load balancer's header from anybody.
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\nGET /path\r\nhost:",
            "\r\n\r\n\0\r\nQUIT\n \0\0\u{2}..GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(could_be_request(text.as_bytes()), Some(true), "{text:?}");
        }
        assert_eq!(could_be_request(b"GET\xa0/\x1cHTTP/1.1"), Some(true));
    }

    #[test]
    fn what_no_server_takes_for_a_request_passes() {
        for text in [
            "PING\r\n",
            "GET key\r\nSET a:b\r\n",
            "GET\r\n key\r\n\"b\"\r\n",
            "(a) / HTTQ",
            "(a) / b HTTP/1.1\n",
            "SET /\0 HTTQ HTT\n",
            "{\"told\": \"GET / HTTP/1.1\"}\n",
            "<34>1 2026-01-01 host GET / HTTP/1.1\n",
            "(\nGET / HTTP/1.1\n",
            "INVITE sip:a@b SIP/2.0\r\nVia: a\r\n",
            "CONNECT\r\naccept-version:1.2\r\n",
            "EHLO a\r\n",
            "LOGIN bob\nkey: v\n",
            "sendevent X\nkey: v\n",
            "SET a\r\n b\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nEHLO a\r\n",
            "\r\n\r\n\0\r\nQUIT\n \0\0\u{2}..EHLO a\r\n",
            "SET a\nb HTTQ\n",
        ] {
            assert_eq!(could_be_request(text.as_bytes()), Some(false), "{text:?}");
        }
        assert_eq!(could_be_request(&[1; LINE_BYTES_MAX + 1]), Some(false), "longer than any server's line");
    }

    #[test]
    fn what_is_not_clear_yet_is_waited_for() {
        for text in [
            "",
            "\r\n",
            "GET",
            "GET\r/path",
            "GET\r/path\r\nho",
            "G(T",
            "G(T / HTT",
            "\u{16}\u{3}\u{1}",
            &"\u{1}".repeat(LINE_BYTES_MAX),
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "\r\n\r\n\0\r\nQUIT\n \0\0\u{2}.",
            // To gunicorn it goes on.
            "a b\n",
        ] {
            assert_eq!(could_be_request(text.as_bytes()), None, "{text:?}");
        }
    }

    #[tokio::test]
    async fn a_request_that_comes_as_bytes_breaks_off_before_its_line_is_whole() {
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(Prefixed::new(Bytes::new(), near), false);
        let mut read = BytesMut::new();
        client.write_all(b"GET / HT").await.expect("written");
        guarded.read_buf(&mut read).await.expect("not clear yet");
        client.write_all(b"TP/1.1\r\nx-forwarded-client-cert: URI=spiffe://forged\r\n\r\n").await.expect("written");
        assert!(guarded.read_buf(&mut read).await.is_err());
        assert_eq!(&read[..], b"GET / HT", "and the application has no request");
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(Prefixed::new(Bytes::new(), near), false);
        for part in ["GET", " key\r\n", "SET a:b\r\n", "GET / HTTP/1.1\r\n"] {
            client.write_all(part.as_bytes()).await.expect("written");
            guarded.read_buf(&mut read).await.expect("bytes stay bytes");
        }
        // HTTP/0.9, from a server that reads headers all the same.
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(Prefixed::new(Bytes::new(), near), false);
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
            let mut guarded = Guarded::new(Prefixed::new(Bytes::new(), near), false);
            let mut read = BytesMut::new();
            client.write_all(b"GET ").await.expect("written");
            guarded.read_buf(&mut read).await.expect("not clear yet");
            if answered {
                guarded.write_all(b"?").await.expect("written");
            }
            client.write_all(b"/ HTTP/1.1\r\n\r\n").await.expect("written");
            assert!(guarded.read_buf(&mut read).await.is_err());
            let served = guarded.into_requests();
            assert_eq!(served.is_some(), !answered);
            drop(client);
            let Some((opening, mut stream)) = served else { continue };
            assert_eq!(opening, Opening::Http1);
            let mut whole = String::new();
            stream.read_to_string(&mut whole).await.expect("read");
            assert_eq!(whole, "GET / HTTP/1.1\r\n\r\n");
        }
        // Bytes are never given back.
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(Prefixed::new(Bytes::new(), near), false);
        client.write_all(b"PING\r\n").await.expect("written");
        guarded.read_buf(&mut BytesMut::new()).await.expect("bytes");
        assert!(guarded.into_requests().is_none());
        // Who was told the end can be answered no more.
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(Prefixed::new(Bytes::new(), near), false);
        guarded.shutdown().await.expect("told");
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
        assert!(guarded.read_buf(&mut BytesMut::new()).await.is_err());
        assert!(guarded.into_requests().is_none());
    }
}

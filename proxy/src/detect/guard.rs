//! Requests in what passes as bytes, to whichever server: what one of them takes for a request says who called, and only the data
//! plane may say that.
//!
//! Bytes are not held up for it. A connection breaks off before the application has the line whole that could be a request's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{LINE_BYTES_MAX, Opening, Reader, is_http2, is_line_end, is_space, is_token};
use crate::tcp::Prefixed;

/// What the last word of a request line begins with.
const VERSION: &[u8] = b"HTTP/";

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
    reader: Reader,
    words: Words,
}

impl Guard {
    /// What `read` is to some server, which begins with what was looked at before. None when more has to come.
    fn look(&mut self, read: &[u8]) -> Option<Passing> {
        let opening = self.reader.look(read);
        if let Some(opening @ (Opening::Http1 | Opening::Http2)) = opening {
            return Some(Passing::Requests(opening));
        }
        let is_named = self.words.name_http(read);
        if opening.is_none() {
            // The line goes on, and its end will say the same.
            let opening = if is_http2(read).is_none() { Opening::Http2 } else { Opening::Http1 };
            return is_named.filter(|named| *named).map(|_| Passing::Requests(opening));
        }
        match (is_disguised(&read[self.reader.start..]), is_named) {
            (Some(true), _) | (_, Some(true)) => Some(Passing::Disguised),
            (Some(false), Some(false)) => Some(Passing::Bytes),
            _ => None,
        }
    }
}

/// Versions of other protocols that Node's server takes beside HTTP's, and serves alike.
const OTHER_VERSIONS: [&[u8]; 2] = [b"RTSP/", b"ICE/"];

/// Whether `text`, which is no request of a version of HTTP, is one all the same to some server: a method and a path alone, as in
/// HTTP/0.9, if a header follows, or a request of another protocol. None when more has to come.
fn is_disguised(text: &[u8]) -> Option<bool> {
    let (method, rest) = text.split_at(text.iter().take_while(|byte| is_token(**byte)).count());
    let to_node = is_disguised_to_node(method, rest);
    let disguised = match (to_node, method) {
        (Some(false) | None, b"GET") => match (is_disguised_to_python(rest), to_node) {
            (Some(false), to_node) => to_node,
            (to_python, _) => to_python,
        },
        (to_node, _) => to_node,
    };
    disguised.or((text.len() > LINE_BYTES_MAX).then_some(true))
}

/// As Node's server reads it, by any method, of upper case: words end at blanks, a line at a CR or an LF.
fn is_disguised_to_node(method: &[u8], rest: &[u8]) -> Option<bool> {
    if method.is_empty() || method.iter().any(|byte| !byte.is_ascii_uppercase() && *byte != b'-') {
        return Some(false);
    }
    let end = rest.iter().position(|byte| is_line_end(*byte) || *byte == 0);
    let line = &rest[..end.unwrap_or(rest.len())];
    if line.first().is_some_and(|byte| *byte != b' ') || end.is_some_and(|end| rest[end] == 0) {
        return Some(false);
    }
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let Some(target) = words.next() else { return end.map(|_| false) };
    let is_target = matches!(target[0], b'/' | b'*') || method == b"CONNECT" || target.contains(&b':');
    match (words.next(), end) {
        (Some(version), _) => {
            let begins = |other: &[u8]| other.starts_with(version) && end.is_none();
            let is_other = OTHER_VERSIONS.iter().any(|other| version.starts_with(other));
            if !is_other && OTHER_VERSIONS.iter().any(|other| begins(other)) { None } else { Some(is_other) }
        }
        (None, None) => None,
        (None, Some(_)) if !is_target => Some(false),
        (None, Some(end)) => header_follows(&rest[end..], false),
    }
}

/// As Python's reads it, of a `GET` alone: a line ends at an LF, and everything like a blank parts words, a CR too. A CR alone
/// may end it all the same, to others.
fn is_disguised_to_python(rest: &[u8]) -> Option<bool> {
    if rest.first().is_some_and(|byte| !is_space(*byte) && !is_line_end(*byte)) {
        return Some(false);
    }
    let until = |ends: fn(u8) -> bool| {
        let end = rest.iter().position(|byte| ends(*byte))?;
        let mut words = rest[..end].split(|byte| is_space(*byte) || *byte == b'\r').filter(|word| !word.is_empty());
        match (words.next(), words.next()) {
            (Some(_), None) => header_follows(&rest[end..], true),
            _ => Some(false),
        }
    };
    match (until(|byte| byte == b'\n'), until(is_line_end)) {
        (Some(true), _) | (_, Some(true)) => Some(true),
        (Some(false), Some(false)) => Some(false),
        _ => None,
    }
}

/// Whether the next line is a header's, as only Python's server reads it, with what it `generous`ly makes of a line. None when more
/// has to come.
fn header_follows(rest: &[u8], generous: bool) -> Option<bool> {
    let is_of_name = |byte: &u8| if generous { is_of_name(*byte) } else { is_token(*byte) };
    let next = &rest[rest.iter().take_while(|byte| is_line_end(**byte)).count()..];
    let at = next.iter().position(|byte| !is_of_name(byte))?;
    // It may go on with a header that did not come.
    let goes_on = at == 0 && matches!(next[0], b' ' | b'\t');
    Some((next[at] == b':' && (generous || at > 0)) || (generous && (goes_on || &next[..=at] == b"From ")))
}

/// What the most generous of them, Python's, take for a part of a header's name.
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

/// The first line as servers read it that split it at blanks, as several of Python's do: a control character in the target and a CR
/// that ends no line are nothing to them, nor a method that is no word.
#[derive(Debug, Default)]
struct Words {
    /// How far it was looked at.
    seen: usize,
    /// Words that have begun.
    begun: usize,
    /// Whether the last of them goes on.
    within: bool,
    /// Whether the first could be no method. Then a line is a request's by its third word only: much else may be within quotes.
    is_odd: bool,
    /// How much of a version's beginning the last has shown. None when it is another word.
    version: Option<usize>,
    verdict: Option<bool>,
}

impl Words {
    /// Whether one of the words after the target is a version of HTTP. None when more has to come.
    fn name_http(&mut self, read: &[u8]) -> Option<bool> {
        while self.verdict.is_none()
            && let Some(byte) = read.get(self.seen)
        {
            self.seen += 1;
            self.verdict = self.next(*byte);
        }
        self.verdict.or_else(|| (read.len() > LINE_BYTES_MAX).then_some(false))
    }

    fn next(&mut self, byte: u8) -> Option<bool> {
        if is_line_end(byte) || is_space(byte) {
            self.within = false;
            let over = (byte == b'\n' && self.begun > 0) || (self.is_odd && self.begun == 3);
            return over.then_some(false);
        }
        if !self.within {
            (self.begun, self.within, self.version) = (self.begun + 1, true, Some(0));
        }
        self.is_odd |= self.begun == 1 && !is_token(byte);
        let shown = self.version.filter(|_| self.begun >= 3)?;
        self.version = byte.eq_ignore_ascii_case(&VERSION[shown]).then_some(shown + 1);
        match self.version {
            Some(shown) => (shown == VERSION.len()).then_some(true),
            None => self.is_odd.then_some(false),
        }
    }
}

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
    guard: Guard,
    requests: Option<Opening>,
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
        match seen.guard.look(&seen.read) {
            None => return Poll::Ready(Ok(())),
            Some(Passing::Bytes) => {
                self.seen = None;
                return Poll::Ready(Ok(()));
            }
            Some(Passing::Requests(opening)) => seen.requests = Some(opening),
            Some(Passing::Disguised) => {}
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
        ] {
            assert_eq!(could_be_request(text.as_bytes()), Some(true), "{text:?}");
        }
        assert_eq!(could_be_request(b"GET\xa0/\x1cHTTP/1.1"), Some(true));
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
        ] {
            assert_eq!(could_be_request(text.as_bytes()), Some(false), "{text:?}");
        }
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
        ] {
            assert_eq!(could_be_request(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(could_be_request(&[1; LINE_BYTES_MAX + 1]), Some(false), "longer than any server's line");
    }

    #[tokio::test]
    async fn a_request_that_comes_as_bytes_breaks_off_before_its_line_is_whole() {
        let (mut client, near) = duplex(1_024);
        let mut guarded = Guarded::new(near);
        let mut read = BytesMut::new();
        client.write_all(b"GET / HT").await.expect("written");
        guarded.read_buf(&mut read).await.expect("not clear yet");
        client.write_all(b"TP/1.1\r\nx-forwarded-client-cert: URI=spiffe://forged\r\n\r\n").await.expect("written");
        assert!(guarded.read_buf(&mut read).await.is_err());
        assert_eq!(&read[..], b"GET / HT", "and the application has no request");
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

//! What a connection speaks, by its first bytes, where nobody said it.
//!
//! HTTP is what begins with the preface of HTTP/2 or with a line that ends in a version of HTTP; anything else is bytes. What is not
//! clear yet is waited for, but not for ever, and never by one side alone: a server that speaks first is heard too. Of servers
//! of HTTP only those of HTTP/2 do (RFC 9113 §3.4), and their first frame is known.
//!
//! The reading of a line is generous: applications believe what requests say about their caller, because the data plane
//! writes it there, and what one of them takes for a request must not pass as bytes. So whoever guards an application goes on
//! looking after it has given up waiting, and looks closer ([`guard`]). And since a guess that it was bytes can be taken back there, as
//! long as nobody has answered, the caller's side may guess early: some protocols begin with a word, without a line's end, and wait
//! for an answer.

mod claims;
mod disguise;
mod guard;
mod words;

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, sleep_until, timeout};

pub(crate) use guard::Guarded;
pub use guard::could_be_request;

/// How long a client is waited for before the way to the server is opened, which may be the one to speak: what a client has to
/// say it says with its first packet.
pub const CLIENT_FIRST_WITHIN: Duration = Duration::from_millis(100);
/// How long it may take until it is clear what a connection speaks, as with Linkerd. After that it is bytes.
pub const DETECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a client that has begun may pause before what it said counts as all that it has to say for now: longer than a lost
/// packet takes to be sent again (RFC 6298 §2.4 waits a second at first, Linux 200 ms), and what comes later is not misread for it.
pub const PAUSE_MAX: Duration = Duration::from_millis(500);
/// What no method is longer than: the longest that is registered has 17 letters (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 24;
/// The longest line that is waited for: as long as a head may be. A longer one, as far as it could be a request's, counts as one.
const LINE_BYTES_MAX: usize = crate::message::server::HEAD_BYTES_MAX;
/// The client connection preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What the head of a frame of SETTINGS without flags has after its length (RFC 9113 §4.1).
const SETTINGS: [u8; 6] = [4, 0, 0, 0, 0, 0];
/// Bytes that are read at a time.
const READ_BYTES: usize = 1_024;

/// What a client opens with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// A request of HTTP/1, well or badly formed.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Anything else.
    Opaque,
}

/// What `read`, the first bytes of a client, are the beginning of. None when more has to come.
#[must_use]
pub fn opening(read: &[u8]) -> Option<Opening> {
    Reader::default().look(read)
}

/// A client's first bytes, as they are read: each is looked at once, however they are cut.
#[derive(Debug, Default)]
struct Reader {
    /// Where the first line begins: empty lines may come before a request (RFC 9112 §2.2).
    start: usize,
    /// How far it is known to have no end, and to be text.
    seen: usize,
    /// Whether its first word, which would be the method, is behind.
    within: bool,
}

impl Reader {
    /// What `read` is the beginning of, which begins with what was looked at before.
    fn look(&mut self, read: &[u8]) -> Option<Opening> {
        match is_http2(read) {
            Some(true) => return Some(Opening::Http2),
            None => return None,
            Some(false) => {}
        }
        while let Some(byte) = read.get(self.seen) {
            let blank = self.seen == self.start && (is_line_end(*byte) || is_space(*byte));
            if !blank && is_line_end(*byte) {
                let http = names_http(&read[self.start..self.seen]);
                return Some(if http { Opening::Http1 } else { Opening::Opaque });
            }
            self.within |= !blank && is_space(*byte);
            let text = if self.within { !byte.is_ascii_control() || is_space(*byte) } else { is_token(*byte) };
            if !blank && !text {
                return Some(Opening::Opaque);
            }
            self.seen += 1;
            if blank {
                self.start = self.seen;
            }
        }
        (read.len() > LINE_BYTES_MAX).then_some(Opening::Http1)
    }

    /// Whether a first word goes on for longer than a method does.
    fn is_no_method(&self) -> bool {
        !self.within && self.seen - self.start > METHOD_BYTES_MAX
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// What some server or other splits a request line at.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a line speaks of a version of HTTP after its first word.
fn names_http(line: &[u8]) -> bool {
    let method = line.iter().take_while(|byte| !is_space(**byte)).count();
    line[method..].windows(5).any(|word| word.eq_ignore_ascii_case(b"HTTP/"))
}

/// Whether `read` begins with the preface of HTTP/2. None when that has to be seen.
fn is_http2(read: &[u8]) -> Option<bool> {
    let compared = read.len().min(PREFACE.len());
    if read[..compared] != PREFACE[..compared] {
        return Some(false);
    }
    (compared == PREFACE.len()).then_some(true)
}

/// Whether what a server said first, `said`, is of HTTP/2. None when more has to come.
fn is_http2_server(said: &[u8]) -> Option<bool> {
    // A frame of settings is short: only the last byte of its length is not nought.
    let known = |index: usize, byte: u8| match index {
        0 | 1 => byte == 0,
        2 => byte.is_multiple_of(6),
        _ => byte == SETTINGS[index - 3],
    };
    let head = 3 + SETTINGS.len();
    if said.iter().take(head).enumerate().any(|(index, byte)| !known(index, *byte)) {
        return Some(false);
    }
    (said.len() >= head).then_some(true)
}

/// What was heard of a connection so far.
#[derive(Debug)]
pub(crate) struct Hearing {
    read: BytesMut,
    reader: Reader,
    said: BytesMut,
    opening: Option<Opening>,
    ended: bool,
    deadline: Option<Instant>,
    /// When the client has paused for too long.
    paused: Option<Instant>,
    pause: Duration,
    /// Whether a guess may be made of the words themselves.
    guesses: bool,
}

/// What was heard of a connection in the end.
#[derive(Debug)]
pub(crate) struct Heard {
    /// What it speaks. Opaque also when that never became clear.
    pub(crate) opening: Opening,
    /// The client's bytes, to be put back.
    pub(crate) read: Bytes,
    /// The server's bytes, to be put back.
    pub(crate) said: Bytes,
}

impl Hearing {
    /// Nothing yet. What does not become clear by the deadline, or before the client pauses, is bytes.
    pub(crate) fn new(deadline: Option<Instant>) -> Self {
        let (read, said, reader) = (BytesMut::new(), BytesMut::new(), Reader::default());
        let (opening, ended, paused) = (None, false, None);
        Self { read, reader, said, opening, ended, deadline, paused, pause: PAUSE_MAX, guesses: true }
    }

    /// Nothing yet, for whoever guards an application and goes on looking: silence is waited for as long as it lasts, and whoever
    /// begins has paused when it was heard out by the caller's side.
    pub(crate) fn guarding() -> Self {
        Self { pause: CLIENT_FIRST_WITHIN, guesses: false, ..Self::new(None) }
    }

    /// Whether there is nothing more to wait for.
    pub(crate) fn is_settled(&self) -> bool {
        self.opening.is_some() || self.ended
    }

    /// Whether the client opened with HTTP.
    pub(crate) fn is_http(&self) -> bool {
        matches!(self.opening, Some(Opening::Http1 | Opening::Http2))
    }

    /// Listens to the client alone, `within` a time.
    ///
    /// # Errors
    /// Of the client's connection.
    pub(crate) async fn client<C: AsyncRead + Unpin>(&mut self, client: &mut C, within: Duration) -> io::Result<()> {
        let until = Instant::now() + within;
        while !self.is_settled() {
            self.read.reserve(READ_BYTES);
            tokio::select! {
                count = client.read_buf(&mut self.read) => self.client_spoke(count?),
                () = sleep_until(until) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Listens to a client that speaks HTTP, in whichever version, `within` a time.
    ///
    /// # Errors
    /// Of the client's connection; that it ended, or that the time is over.
    pub(crate) async fn http<C: AsyncRead + Unpin>(&mut self, client: &mut C, within: Duration) -> io::Result<()> {
        let opening = async {
            loop {
                self.read.reserve(READ_BYTES);
                if client.read_buf(&mut self.read).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                if let Some(is_http2) = is_http2(&self.read) {
                    return Ok(if is_http2 { Opening::Http2 } else { Opening::Http1 });
                }
            }
        };
        let opening = timeout(within, opening).await;
        self.opening = Some(opening.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))?);
        Ok(())
    }

    /// Listens to both, until it is clear what they speak, the client pauses, or the deadline is there.
    ///
    /// # Errors
    /// Of the client's connection.
    pub(crate) async fn both<C, S>(&mut self, client: &mut C, server: &mut S) -> io::Result<()>
    where
        C: AsyncRead + Unpin,
        S: AsyncRead + Unpin,
    {
        let mut server_counts = true;
        while !self.is_settled() {
            self.read.reserve(READ_BYTES);
            self.said.reserve(READ_BYTES);
            let due = [self.deadline, self.paused].into_iter().flatten().min();
            tokio::select! {
                biased;
                count = client.read_buf(&mut self.read) => self.client_spoke(count?),
                // What is wrong with it shows again when its bytes are wanted.
                count = server.read_buf(&mut self.said), if server_counts => match is_http2_server(&self.said) {
                    _ if !matches!(count, Ok(1..)) => self.ended = true,
                    Some(true) => server_counts = false,
                    Some(false) => self.ended = true,
                    None => {}
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.ended = true,
            }
        }
        Ok(())
    }

    fn client_spoke(&mut self, count: usize) {
        self.opening = self.reader.look(&self.read);
        self.ended |= count == 0 || (self.guesses && self.opening.is_none() && self.reader.is_no_method());
        let now = Instant::now();
        self.paused = Some(now + self.pause);
        self.deadline.get_or_insert(now + DETECT_WITHIN);
    }

    /// What came of it.
    pub(crate) fn heard(self) -> Heard {
        let opening = self.opening.unwrap_or(Opening::Opaque);
        Heard { opening, read: self.read.freeze(), said: self.said.freeze() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn what_a_client_opens_with() {
        use Opening::{Http1, Http2, Opaque};
        for (text, expected) in [
            ("GET / HTTP/1.1\r\n", Http1),
            ("OPTIONS * HTTP/1.0\n", Http1),
            ("\r\n\r\nPOST /a HTTP/1.1\r\nHost: a\r\n", Http1),
            ("get\t/ http/1.1 \r\n", Http1),
            ("GET /a b HTTP/1.1\r\n", Http1),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Http2),
            ("PRI * HTTP/2.0\r\n\r\nno", Http1),
            ("PING\r\n", Opaque),
            ("GET key\r\n", Opaque),
            ("HTTP/1.1\r\n", Opaque),
            ("DESCRIBE rtsp://a/b RTSP/1.0\r\n", Opaque),
            ("SSH-2.0-OpenSSH_9\r\n", Opaque),
            ("\x16\x03\x01\x02\0\x01", Opaque),
            ("\0\0\0\x2a", Opaque),
            ("{\"a\": 1}", Opaque),
            (" / HTTP/1.1", Opaque),
            // What servers of other minds take for a request.
            (" GET / HTTP/1.1\r\n", Http1),
            ("GET\u{b}/\u{b}HTTP/1.1\r\n", Http1),
            ("GET / HTTP/1.1 more\r\n", Http1),
            (&format!("{} / HTTP/1.1\r\n", "A".repeat(65)), Http1),
        ] {
            assert_eq!(opening(text.as_bytes()), Some(expected), "{text:?}");
        }
        assert_eq!(opening(b"GET\xa0/\xa0HTTP/1.1\r\n"), Some(Http1));
        for text in ["", "\r\n", "GET", "GET / HTTP/1.1", "PRI * HTTP/2.0\r\n\r\n", "PING", &"A".repeat(65)] {
            assert_eq!(opening(text.as_bytes()), None, "{text:?}");
        }
        let endless = format!("GET /{}", "a".repeat(LINE_BYTES_MAX));
        assert_eq!(opening(endless.as_bytes()), Some(Http1), "what could be a request is not let through as bytes");
    }

    proptest! {
        /// What is clear stays so, whatever comes after it: how bytes are cut does not matter.
        #[test]
        fn more_bytes_change_nothing(text in "(\r\n)?(GET|PRI|\\*|[a-z]{0,3}) ?[ -~\r\n]{0,30}(HTTP/[12]\\.[01])?\r?\n?", more in "[ -~\r\n]{0,9}") {
            let whole = [text.as_bytes(), more.as_bytes()].concat();
            if let Some(clear) = opening(text.as_bytes()) {
                prop_assert_eq!(opening(&whole), Some(clear));
            }
        }
    }

    #[test]
    fn of_servers_only_those_of_http2_speak_first() {
        for (said, expected) in [
            (&b"\0\0\x12\x04\0\0\0\0\0\0\x03"[..], Some(true)),
            (b"\0\0\x12\x04", None),
            (b"", None),
            (b"220 mail", Some(false)),
            (b"\0\0\x12\x04\0\0\0\0\x01", Some(false)),
            (b"+OK", Some(false)),
        ] {
            assert_eq!(is_http2_server(said), expected, "{said:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_speaks_first_decides() {
        for (client_says, server_says, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], &b""[..], Opening::Http1),
            (b"hello\n", b"", Opening::Opaque),
            (b"", b"220 mail\r\n", Opening::Opaque),
            // Of a server of HTTP/2 nothing is concluded but that the client's turn comes.
            (PREFACE, b"\0\0\x00\x04\0\0\0\0\0", Opening::Http2),
            (b"", b"", Opening::Opaque),
            (b"GET ", b"", Opening::Opaque),
        ] {
            let ((mut client, mut near), (mut far, mut server)) = (duplex(1_024), duplex(1_024));
            let start = Instant::now();
            let mut hearing = Hearing::new(Some(start + DETECT_WITHIN));
            server.write_all(server_says).await.expect("written");
            let speak = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.write_all(client_says).await.expect("written");
            };
            let (heard, ()) = tokio::join!(hearing.both(&mut near, &mut far), speak);
            heard.expect("no error");
            let heard = hearing.heard();
            assert_eq!(heard.opening, expected, "{client_says:?} {server_says:?}");
            assert!(start.elapsed() <= DETECT_WITHIN, "{client_says:?} {server_says:?}");
            assert_eq!(heard.said, server_says, "nothing is lost");
        }
    }
}

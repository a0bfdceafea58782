//! A stream that fails when the peer falls silent.
//!
//! The HTTP/2 client pings several times a second, so a live peer is never silent for long. hyper's own
//! keep-alive wants each ping answered in time, which a large upload on a slow line delays although the
//! peer is well; here *any* byte is a sign of life. Silence is counted in ticks that this process itself
//! has seen pass, so that a pause of our own (a busy machine, a stopped process) counts as one tick, not
//! as the peer's silence.
//!
//! It also tells what the peer's first word was.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::rustls::{self, AlertDescription};

/// One tick of silence; also the interval of pings.
pub const SILENCE_TICK: Duration = Duration::from_millis(250);
/// Ticks without a byte from the peer after which it is given up: a round trip of half a second is alive.
pub const SILENCE_TICKS: u32 = 3;
/// The same before its first word, which comes after it has verified our certificate: as much as a handshake may take.
pub(super) const FIRST_WORD_TICKS: u32 = 6;
/// Ticks for which the peer may take no byte from us. Longer, because buffers on a slow line empty in lumps.
pub const WRITE_STALL_TICKS: u32 = 8;

/// A stream whose reads and writes fail with [`io::ErrorKind::TimedOut`] when nothing moves.
pub(super) struct Watched<S> {
    stream: S,
    reads: Silence,
    writes: Silence,
    /// The first bytes were read.
    spoke: bool,
    word: watch::Sender<Word>,
}

/// What the peer has said inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Nothing yet. If the stream is gone, nobody knows how much of what was sent the peer has seen.
    None,
    /// Something, that was understood.
    Settings,
    /// That it does not take the session: by an alert about a handshake or a certificate, or by a closure in order, before it said
    /// anything else. It has read nothing of what was sent, for its settings would have come before.
    Refusal,
}

impl<S> Watched<S> {
    /// With what tells of the peer's first word.
    pub(super) fn new(stream: S) -> (Self, watch::Receiver<Word>) {
        let (word, heard) = watch::channel(Word::None);
        let (reads, writes) = (Silence::new(FIRST_WORD_TICKS), Silence::new(WRITE_STALL_TICKS));
        (Self { stream, reads, writes, spoke: false, word }, heard)
    }
}

struct Silence {
    tick: Pin<Box<Sleep>>,
    waiting: bool,
    ticks: u32,
    ticks_max: u32,
}

impl Silence {
    fn new(ticks_max: u32) -> Self {
        Self { tick: Box::pin(sleep(SILENCE_TICK)), waiting: false, ticks: 0, ticks_max }
    }

    /// Something moved.
    fn broken(&mut self) {
        self.waiting = false;
    }

    /// Nothing moved: registers for the next tick. Ready with an error when it was the last one.
    fn goes_on<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if !self.waiting {
            self.waiting = true;
            self.ticks = 0;
            self.tick.as_mut().reset(Instant::now() + SILENCE_TICK);
        }
        while self.tick.as_mut().poll(cx).is_ready() {
            self.ticks += 1;
            if self.ticks >= self.ticks_max {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer fell silent")));
            }
            self.tick.as_mut().reset(Instant::now() + SILENCE_TICK);
        }
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Whoever comes back for more has understood what it got: HTTP/2's settings hold from then on.
        if self.spoke && *self.word.borrow() == Word::None {
            self.word.send_replace(Word::Settings);
        }
        let filled = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.reads.broken();
                if buf.filled().len() > filled {
                    self.spoke = true;
                    self.reads.ticks_max = SILENCE_TICKS;
                } else if !self.spoke && buf.remaining() > 0 && is_refusal(&read) {
                    self.word.send_replace(Word::Refusal);
                }
                Poll::Ready(read)
            }
            Poll::Pending => self.reads.goes_on(cx),
        }
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    fn wrote<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match written {
            // What the peer said before it closed the connection may be a moment behind the news of that.
            Poll::Ready(Err(_)) if !self.spoke && self.hear_refusal(cx).is_pending() => self.writes.goes_on(cx),
            Poll::Ready(written) => {
                self.writes.broken();
                Poll::Ready(written)
            }
            Poll::Pending => self.writes.goes_on(cx),
        }
    }

    /// Reads why the peer closed the connection. After a failed write, nobody else will.
    fn hear_refusal(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut byte = [0];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(&mut self.stream).poll_read(cx, &mut buf).map(|read| {
            if buf.filled().is_empty() && is_refusal(&read) {
                self.word.send_replace(Word::Refusal);
            }
        })
    }
}

/// Whether TLS ends in order, which tokio-rustls tells from an end without `close_notify`, or by an alert.
fn is_refusal(read: &io::Result<()>) -> bool {
    let Err(error) = read else { return true };
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    // Any other may come behind settings that were read with it, and of which TLS then tells nothing.
    let about_handshakes = [
        AlertDescription::HandshakeFailure,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
        AlertDescription::DecryptError,
        AlertDescription::CertificateRequired,
        AlertDescription::NoApplicationProtocol,
    ];
    matches!(cause, Some(rustls::Error::AlertReceived(alert)) if about_handshakes.contains(alert))
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(cx) {
            Poll::Ready(shut) => Poll::Ready(shut),
            Poll::Pending => self.writes.goes_on(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn any_byte_is_a_sign_of_life_and_silence_ends_it() {
        let (ours, mut theirs) = duplex(16);
        let (mut watched, heard) = Watched::new(ours);
        let start = Instant::now();
        for _ in 0..10 {
            tokio::time::sleep(SILENCE_TICK * 2).await;
            theirs.write_all(b".").await.expect("written");
            watched.read_u8().await.expect("alive");
        }
        assert_eq!(*heard.borrow(), Word::Settings);
        let error = watched.read_u8().await.expect_err("silent");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), SILENCE_TICK * 20 + SILENCE_TICK * SILENCE_TICKS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_word_is_waited_for_as_long_as_a_handshake() {
        let (ours, _theirs) = duplex(16);
        let (mut watched, heard) = Watched::new(ours);
        let start = Instant::now();
        let error = watched.read_u8().await.expect_err("silent");
        assert_eq!((error.kind(), *heard.borrow()), (io::ErrorKind::TimedOut, Word::None));
        assert_eq!(start.elapsed(), SILENCE_TICK * FIRST_WORD_TICKS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up_later() {
        let (ours, _theirs) = duplex(16);
        let (mut watched, heard) = Watched::new(ours);
        let start = Instant::now();
        let error = watched.write_all(&[0; 64]).await.expect_err("stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), SILENCE_TICK * WRITE_STALL_TICKS);
        drop(watched);
        assert!(*heard.borrow() == Word::None && heard.has_changed().is_err(), "it never said a word");
    }
}

//! Moves bytes between two sockets: `splice` through a pipe, so that they never enter this process.
//!
//! The first of them are copied: a handshake and a few requests are moved sooner than a pipe is made and taken apart. They
//! are copied as well where the system has no pipes to give.

use std::future::poll_fn;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::metrics::Metrics;
use crate::tcp::IDLE_MAX;
use crate::tcp::copy::Progress;

/// Bytes that one direction copies before it has a pipe made: by then it pays.
const COPIED_FIRST: u64 = 64 * 1024;
/// Bytes copied at once, on the stack.
const PIECE: usize = 4 * 1024;
/// Pieces that are passed on after one direction broke: an alert is one, a short answer too.
const LAST_PIECES: usize = 4;
/// Bytes that are spliced at once: the capacity of a pipe that nobody asked for more (pipe(7)). Larger ones move nothing any
/// cheaper.
const CHUNK: usize = 64 * 1024;

/// What was moved, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// From the client, the bytes read before included.
    pub to_upstream: u64,
    /// To the client.
    pub to_client: u64,
}

/// Passes `read`, then everything, between the two until both directions ended; the end of one is passed
/// on while the other goes on. Counts the bytes in `metrics`.
///
/// # Errors
/// The first I/O error, or [`io::ErrorKind::TimedOut`] when nothing moved for [`IDLE_MAX`].
pub async fn relay(
    mut client: TcpStream,
    read: Bytes,
    mut upstream: TcpStream,
    metrics: &Metrics,
) -> io::Result<Relayed> {
    upstream.write_all(&read).await?;
    let first = read.len() as u64;
    drop(read);
    metrics.passthrough.inc_by(first);
    let (moved, ended) = (Progress::default(), AtomicBool::new(false));
    let ((from_client, to_client), (from_upstream, to_upstream)) = (client.split(), upstream.split());
    let mut there = OneWay {
        from: from_client,
        to: to_upstream,
        moved: &moved,
        ended: &ended,
        lags: AtomicBool::default(),
        metrics,
    };
    let mut back = OneWay {
        from: from_upstream,
        to: to_client,
        moved: &moved,
        ended: &ended,
        lags: AtomicBool::default(),
        metrics,
    };
    let both = async {
        let both = tokio::try_join!(there.run(), back.run());
        if both.is_err() {
            there.last_words();
            back.last_words();
        }
        both
    };
    let (from_client, to_client) = tokio::select! {
        both = both => both?,
        () = moved.stalled(IDLE_MAX) => return Err(io::ErrorKind::TimedOut.into()),
    };
    Ok(Relayed { to_upstream: first + from_client, to_client })
}

struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

fn pipe() -> rustix::io::Result<Pipe> {
    let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok(Pipe { out, into })
}

/// One direction of a session.
struct OneWay<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    moved: &'a Progress,
    /// Whether one direction has ended.
    ended: &'a AtomicBool,
    /// Whether something was read that is not written yet.
    lags: AtomicBool,
    metrics: &'a Metrics,
}

impl OneWay<'_> {
    /// Moves everything, then closes the other's direction.
    async fn run(&mut self) -> io::Result<u64> {
        let (copied, mut is_over) = self.copy(COPIED_FIRST).await?;
        let mut total = copied;
        if !is_over {
            match pipe() {
                Ok(pipe) => total += self.splice(&pipe).await?,
                Err(_) => {
                    while !is_over {
                        let (copied, over) = self.copy(u64::MAX).await?;
                        total += copied;
                        is_over = over;
                    }
                }
            }
        }
        // Once both have ended the sockets are closed, which says the same.
        if !self.ended.swap(true, Ordering::Relaxed) {
            match SockRef::from(self.to.as_ref()).shutdown(std::net::Shutdown::Write) {
                // The peer may have closed both directions already.
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                _ => {}
            }
        }
        Ok(total)
    }

    /// Passes on what has come, when nothing more will: whoever ends a connection may have said why before.
    fn last_words(&self) {
        if self.lags.load(Ordering::Relaxed) {
            return;
        }
        let mut buffer = [0; PIECE];
        let from = SockRef::from(self.from.as_ref());
        for _ in 0..LAST_PIECES {
            // Asked of the kernel, which may know more than the runtime has heard of.
            let Ok(read @ 1..) = (&*from).read(&mut buffer) else { return };
            match self.to.try_write(&buffer[..read]) {
                Ok(written) if written == read => self.note(written as u64),
                _ => return,
            }
        }
    }

    fn note(&self, count: u64) {
        self.moved.note();
        self.metrics.passthrough.inc_by(count);
    }

    /// Copies until at least `most` bytes were moved. How many were, and whether that was all. While it waits it holds no
    /// buffer.
    async fn copy(&mut self, most: u64) -> io::Result<(u64, bool)> {
        let mut total = 0;
        while total < most {
            let (read, left) = poll_fn(|cx| self.piece(cx)).await?;
            if read == 0 {
                return Ok((total, true));
            }
            self.lags.store(!left.is_empty(), Ordering::Relaxed);
            self.to.write_all(&left).await?;
            self.lags.store(false, Ordering::Relaxed);
            self.note(read);
            total += read;
        }
        Ok((total, false))
    }

    /// Reads once and writes what can be written at once. How much was read, and what of it is left. A read that does not fill the
    /// buffer tells that nothing more is there, without another one.
    fn piece(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(u64, Vec<u8>)>> {
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buffer = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.from).poll_read(cx, &mut buffer))?;
        let read = buffer.filled();
        if read.is_empty() {
            return Poll::Ready(Ok((0, Vec::new())));
        }
        let written = match self.to.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Poll::Ready(Err(error)),
        };
        Poll::Ready(Ok((read.len() as u64, read[written..].to_vec())))
    }

    /// Splices until the source ends. The pipe is empty before each fill, so a fill that would block waits for the source,
    /// never for the pipe.
    async fn splice(&self, pipe: &Pipe) -> io::Result<u64> {
        const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
        let (from, to): (&TcpStream, &TcpStream) = (self.from.as_ref(), self.to.as_ref());
        let mut total = 0;
        loop {
            let fill = || retried(|| splice(from, None, &pipe.into, None, CHUNK, FLAGS));
            let filled = from.async_io(Interest::READABLE, fill).await?;
            if filled == 0 {
                return Ok(total);
            }
            let mut left = filled;
            self.lags.store(true, Ordering::Relaxed);
            while left > 0 {
                let drain = || retried(|| splice(&pipe.out, None, to, None, left, FLAGS));
                left -= to.async_io(Interest::WRITABLE, drain).await?;
                self.moved.note();
            }
            self.lags.store(false, Ordering::Relaxed);
            total += filled as u64;
            self.metrics.passthrough.inc_by(filled as u64);
        }
    }
}

fn retried(call: impl Fn() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests;

//! Moves bytes between two sockets: `splice` through a pipe, so that they never enter this process.
//!
//! Where the system has no pipes to give, they are copied through a buffer instead.

use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use socket2::SockRef;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpStream;

use crate::metrics::Metrics;
use crate::tcp::IDLE_MAX;
use crate::tcp::copy::{Progress, copy_both};

/// Bytes per splice: the capacity of a pipe by default.
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
    let (Ok(up), Ok(down)) = (pipe(), pipe()) else {
        let (from_client, from_upstream) = copy_both(&mut client, &mut upstream, IDLE_MAX).await?;
        metrics.passthrough.inc_by(from_client + from_upstream);
        return Ok(Relayed { to_upstream: first + from_client, to_client: from_upstream });
    };
    let moved = Progress::default();
    let both = async {
        tokio::try_join!(
            one_way(&client, &upstream, &up, &moved, metrics),
            one_way(&upstream, &client, &down, &moved, metrics),
        )
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

/// Moves everything from one socket to the other, then closes the other's direction. The pipe is empty
/// before each fill, so a fill that would block waits for the source, never for the pipe.
async fn one_way(
    from: &TcpStream,
    to: &TcpStream,
    pipe: &Pipe,
    moved: &Progress,
    metrics: &Metrics,
) -> io::Result<u64> {
    const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
    let mut total = 0;
    loop {
        let fill = || retried(|| splice(from, None, &pipe.into, None, CHUNK, FLAGS));
        let filled = from.async_io(Interest::READABLE, fill).await?;
        if filled == 0 {
            // The peer may have closed both directions already.
            match SockRef::from(to).shutdown(std::net::Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => return Err(error),
                _ => return Ok(total),
            }
        }
        let mut left = filled;
        while left > 0 {
            let drain = || retried(|| splice(&pipe.out, None, to, None, left, FLAGS));
            left -= to.async_io(Interest::WRITABLE, drain).await?;
            moved.note();
        }
        total += filled as u64;
        metrics.passthrough.inc_by(filled as u64);
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
#[path = "relay_tests.rs"]
mod tests;

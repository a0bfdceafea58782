//! Copies between two byte streams until both directions ended, with half-close and an idle bound.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

/// A connection on which nothing moved for this long is closed: Envoy's and ztunnel's default for TCP.
pub const IDLE_MAX: Duration = Duration::from_secs(3600);

/// Copies both ways; the end of one direction is passed on and the other goes on. Returns the bytes from
/// `a` and from `b`.
///
/// # Errors
/// The first I/O error, or [`io::ErrorKind::TimedOut`] after `idle` without a byte either way.
pub async fn copy_both<A, B>(a: A, mut b: B, idle: Duration) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Progress::default();
    let mut a = Observed { stream: a, moved: moved.clone() };
    tokio::select! {
        copied = copy_bidirectional(&mut a, &mut b) => copied,
        () = moved.stalled(idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Counts what moves, so that a timer per read is not needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Resolves when nothing was noted for between one and two times `idle`.
    pub(crate) async fn stalled(&self, idle: Duration) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(idle).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

/// Notes reads and writes of one side: whatever moves in either direction passes it.
struct Observed<S> {
    stream: S,
    moved: Progress,
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.moved.note();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if polled.is_ready() {
            self.moved.note();
        }
        polled
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
    async fn the_end_of_one_direction_leaves_the_other_open() {
        let (mut client, left) = duplex(64);
        let (right, mut server) = duplex(64);
        let copying = tokio::spawn(copy_both(left, right, IDLE_MAX));
        client.write_all(b"question").await.expect("written");
        client.shutdown().await.expect("half closed");
        let mut question = String::new();
        server.read_to_string(&mut question).await.expect("read to the end");
        assert_eq!(question, "question");
        server.write_all(b"answer").await.expect("still open");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read to the end");
        assert_eq!(answer, "answer");
        assert_eq!(copying.await.expect("joined").expect("copied"), (8, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_connection_ends_and_a_trickling_one_does_not() {
        let (mut client, left) = duplex(64);
        let (right, mut server) = duplex(64);
        let copying = tokio::spawn(copy_both(left, right, Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(8)).await;
            client.write_all(b"x").await.expect("alive");
            server.read_u8().await.expect("alive");
        }
        let error = copying.await.expect("joined").expect_err("stalled");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

//! A stream that breaks when its peer's key is denied.
//!
//! The error goes in at the bottom, so that everything above ends with it: HTTP/2 connections, which their library
//! keeps alive for open streams whatever becomes of the handle, and tunnels that were upgraded from them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use isthmus_identity::Peer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream of an authenticated peer.
pub(crate) struct Cut<S> {
    stream: S,
    /// `None` once it was told.
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> Cut<S> {
    /// Breaks `stream` when the key of `peer` is denied.
    pub(crate) fn when_revoked(stream: S, peer: Arc<Peer>) -> Self {
        let revoked = async move {
            peer.revoked().await;
            tracing::warn!(peer = %peer.id(), "session cut: its key is denied");
        };
        Self { stream, revoked: Some(Box::pin(revoked)) }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(revoked) = &mut self.revoked {
            if revoked.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.revoked = None;
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cut<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cut<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

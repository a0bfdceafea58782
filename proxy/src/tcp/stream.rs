//! Byte streams of whatever kind behind one type.

use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Prefixed, give_up_unread};

/// By what a client is reached. One type for all kinds: for each of its own, hyper's servers would be compiled once more, which is a
/// hundred kilobytes that every sidecar has in memory. What it costs, an indirect call a read or a write, is nothing beside these.
pub type Stream = Box<dyn ByteStream>;

/// What a [`Stream`] may be.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Breaks when what was written is not taken by the peer within `after`.
    fn give_up_unread(&self, after: Duration);
}

impl ByteStream for TcpStream {
    fn give_up_unread(&self, after: Duration) {
        give_up_unread(self, after);
    }
}

impl<S: ByteStream> ByteStream for Prefixed<S> {
    fn give_up_unread(&self, after: Duration) {
        self.get_ref().give_up_unread(after);
    }
}

impl<S: ByteStream> ByteStream for TlsStream<S> {
    fn give_up_unread(&self, after: Duration) {
        self.get_ref().0.give_up_unread(after);
    }
}

/// What a CONNECT opened. Only the connection that it is on can be given up.
impl ByteStream for TokioIo<Upgraded> {
    fn give_up_unread(&self, _: Duration) {}
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_written_in_parts_goes_in_one_call() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let stream: Stream =
            Box::new(TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected"));
        assert!(stream.is_write_vectored());
    }
}

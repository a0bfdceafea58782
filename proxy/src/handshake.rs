//! TLS handshakes of a listener, within their bounds.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::limits::Pending;
use crate::metrics::{Metrics, Reason};
use crate::tcp::Prefixed;

/// How long a handshake may take. Two round trips of the slowest WAN, with room.
pub const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Completes a handshake on a connection whose first bytes were seen. `None`, counted by its reason, when it fails,
/// takes longer than [`HANDSHAKE_WITHIN`], or has to make room for newer connections.
pub async fn accept<S>(tls: &TlsAcceptor, stream: S, pending: Pending, metrics: &Metrics) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    within(pending, metrics, async { tls.accept(stream).await.map(Some) }).await
}

/// A connection that can be looked at before it is read.
pub trait Unread {
    /// Whether it says anything. False when it ends before its first byte.
    fn begins(&self) -> impl Future<Output = bool> + Send;
}

impl Unread for TcpStream {
    async fn begins(&self) -> bool {
        matches!(self.peek(&mut [0]).await, Ok(1..))
    }
}

impl Unread for Prefixed<TcpStream> {
    async fn begins(&self) -> bool {
        self.has_prefix() || self.get_ref().begins().await
    }
}

/// As [`accept`], on a new connection. One that the peer closes before its first byte is `None` and not counted: so
/// do those who look whether anything listens, the gateway's own probes among them.
pub async fn accept_new<S>(tls: &TlsAcceptor, stream: S, pending: Pending, metrics: &Metrics) -> Option<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unread + Unpin,
{
    let handshake = async { if stream.begins().await { tls.accept(stream).await.map(Some) } else { Ok(None) } };
    within(pending, metrics, handshake).await
}

async fn within<T>(
    pending: Pending,
    metrics: &Metrics,
    handshake: impl Future<Output = io::Result<Option<T>>>,
) -> Option<T> {
    let handshake = tokio::select! {
        handshake = timeout(HANDSHAKE_WITHIN, handshake) => handshake,
        () = pending.displaced() => {
            metrics.handshake_failed(Reason::Displaced);
            return None;
        }
    };
    match handshake {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            metrics.handshake_failed(Reason::Tls);
            None
        }
        Err(_) => {
            metrics.handshake_failed(Reason::Timeout);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use isthmus_identity::LiveIdentity;
    use isthmus_identity::tls::ClientAuth;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Registry;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::limits::{Gate, Limits};
    use crate::metrics::Direction;

    #[tokio::test]
    async fn a_connection_that_says_nothing_and_leaves_is_no_failed_handshake() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let metrics = Metrics::register(&mut Registry::default());
        let tls = TlsAcceptor::from(LiveIdentity::new().server_config(ClientAuth::Required, &[b"h2"]));
        let reset = |peer: &TcpStream| socket2::SockRef::from(peer).set_linger(Some(Duration::ZERO));
        for (what, words, resets, failed) in [
            ("a probe", &b""[..], false, 0),
            ("a probe that resets", b"", true, 0),
            ("half a record", b"\x16\x03", false, 1),
            ("no TLS", b"GET / HTTP/1.1\r\n\r\n", false, 2),
        ] {
            let mut peer = TcpStream::connect(address).await.expect("connected");
            let (stream, _) = listener.accept().await.expect("accepted");
            peer.write_all(words).await.expect("written");
            if resets {
                reset(&peer).expect("set");
            }
            drop(peer);
            let gate = Gate::new(Limits::of(Direction::Control), Gauge::default());
            let entry = gate.enter(address.ip()).expect("the first");
            let pending = entry.pend();
            assert!(accept_new(&tls, stream, pending, &metrics).await.is_none(), "{what}");
            let labels = crate::metrics::ReasonLabels { reason: Reason::Tls };
            assert_eq!(metrics.handshakes_failed.get_or_create(&labels).get(), failed, "{what}");
        }
    }
}

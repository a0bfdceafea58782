//! Who is calling: the authenticated peer behind a gRPC request.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use isthmus_identity::tls::Guarded;
use isthmus_identity::{CLOCK_SKEW, LiveIdentity, Peer, Verified};
use isthmus_model::name::ClusterName;
use isthmus_model::spiffe::{Principal, SpiffeId};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tonic::{Request, Status};

/// A TLS connection with what is known of its peer, as the gRPC server takes it.
pub struct PeerStream<S = TcpStream> {
    /// Breaks when the peer is not trusted any more.
    tls: Guarded<TlsStream<S>>,
    caller: Caller,
    /// What lives as long as the connection.
    _held: Option<Box<dyn Send>>,
}

/// How long a peer without a certificate has to show who it is in another way: it greets at once, and looking a token up takes
/// milliseconds. It would hold a place for as long as it answers pings.
pub const PROOF_WITHIN: Duration = Duration::from_secs(10);

/// The peer of a connection. `None` when it showed no certificate, as a newcomer does.
#[derive(Clone)]
pub struct Caller {
    peer: Option<Arc<Peer>>,
    from: Option<IpAddr>,
    proof: Proof,
}

/// That the peer of a connection has shown who it is. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Proof(CancellationToken);

impl Proof {
    /// It has: its connection may stay.
    pub fn give(&self) {
        self.0.cancel();
    }

    /// Returns when it has not in time.
    async fn missing(self) {
        if tokio::time::timeout(PROOF_WITHIN, self.0.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
        tracing::debug!("a connection is cut: its peer has not shown who it is");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PeerStream<S> {
    /// Wraps a connection whose handshake is done. `from` is where it came from.
    pub fn new(tls: TlsStream<S>, identity: &LiveIdentity, from: Option<IpAddr>) -> Self {
        let peer = identity.peer(tls.get_ref().1).map(Arc::new);
        let proof = Proof::default();
        let tls = match peer.clone() {
            Some(peer) => Guarded::new(tls, distrusted(peer)),
            None => Guarded::new(tls, proof.clone().missing()),
        };
        Self { tls, caller: Caller { peer, from, proof }, _held: None }
    }

    /// Keeps `held` until the connection ends: what it counts as where it was accepted.
    #[must_use]
    pub fn holding(self, held: impl Send + 'static) -> Self {
        Self { _held: Some(Box::new(held)), ..self }
    }
}

/// Returns when the peer is not trusted any more: its key or root was taken away, or its certificate ended. An honest
/// one connects again with what it has by then.
pub(crate) async fn distrusted(peer: Arc<Peer>) {
    let end = peer.not_after() + CLOCK_SKEW;
    let left = end.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::select! {
        () = peer.distrusted() => tracing::info!(peer = %peer.id(), "a connection is cut: its peer is no longer trusted"),
        () = tokio::time::sleep(left) => tracing::debug!(peer = %peer.id(), "a connection ends with its certificate"),
    }
}

/// A member gateway that made a request. Only [`gateway`] makes one.
pub struct GatewayCaller(Verified);

impl GatewayCaller {
    /// The cluster that it speaks for.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.0.id().trust_domain.cluster
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        self.0.id()
    }

    /// It as people know it: `cluster/gateway`.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.id().principal {
            Principal::Gateway(gateway) => format!("{}/{gateway}", self.cluster()),
            _ => self.id().to_string(),
        }
    }
}

/// The gateway behind a request.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` for a workload's certificate.
pub fn gateway<T>(request: &Request<T>) -> Result<GatewayCaller, Status> {
    let verified = verified(request)?;
    if verified.id().is_gateway() {
        Ok(GatewayCaller(verified))
    } else {
        Err(Status::permission_denied(format!("{} is not a gateway", verified.id())))
    }
}

/// The authenticated peer behind a request, of whatever class, as it is judged now.
///
/// # Errors
/// `UNAUTHENTICATED` when the connection showed no certificate, or one that is not trusted any more.
pub fn verified<T>(request: &Request<T>) -> Result<Verified, Status> {
    let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.clone());
    let peer = peer.ok_or_else(|| Status::unauthenticated("show a certificate of this federation"))?;
    peer.verified().ok_or_else(|| Status::unauthenticated(format!("{} is no longer trusted", peer.id())))
}

/// Where to say that the peer behind a request has shown who it is. Of no consequence where it came over a socket of the
/// machine.
#[must_use]
pub fn proof<T>(request: &Request<T>) -> Proof {
    request.extensions().get::<Caller>().map(|caller| caller.proof.clone()).unwrap_or_default()
}

/// Where a request came from.
#[must_use]
pub fn source<T>(request: &Request<T>) -> Option<IpAddr> {
    request.extensions().get::<Caller>().and_then(|caller| caller.from)
}

impl<S> Connected for PeerStream<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for PeerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for PeerStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_has_so_long_to_show_who_it_is_and_stays_once_it_has() {
        let began = Instant::now();
        Proof::default().missing().await;
        assert_eq!(began.elapsed(), PROOF_WITHIN);
        let proof = Proof::default();
        let missing = tokio::spawn(proof.clone().missing());
        tokio::time::sleep(PROOF_WITHIN / 2).await;
        proof.give();
        assert!(timeout(PROOF_WITHIN * 10, missing).await.is_err(), "it stays");
    }
}

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
    /// Breaks when the peer is not trusted any more, or comes for nothing.
    tls: Guarded<TlsStream<S>>,
    caller: Caller,
    /// What lives as long as the connection.
    _held: Option<Box<dyn Send>>,
}

/// How long a peer has to make a call that is let through: it does so at once, and looking a token up takes milliseconds. Whoever
/// connects and says nothing would hold a place for as long as it answers pings, and a certificate of this federation alone is no
/// reason to be here: every workload has one.
pub const PROOF_WITHIN: Duration = Duration::from_secs(10);

/// The peer of a connection. `None` when it showed no certificate, as a newcomer does.
#[derive(Clone)]
pub struct Caller {
    peer: Option<Arc<Peer>>,
    from: Option<IpAddr>,
    proof: Proof,
}

/// That the peer of a connection has shown who it is and what it came for. Clones share it.
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
        tracing::debug!("a connection is cut: its peer has made no call that it may make");
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PeerStream<S> {
    /// Wraps a connection whose handshake is done. `from` is where it came from.
    pub fn new(tls: TlsStream<S>, identity: &LiveIdentity, from: Option<IpAddr>) -> Self {
        let peer = identity.peer(tls.get_ref().1).map(Arc::new);
        let proof = Proof::default();
        let tls = Guarded::new(tls, over(peer.clone(), proof.clone()));
        Self { tls, caller: Caller { peer, from, proof }, _held: None }
    }

    /// Keeps `held` until the connection ends: what it counts as where it was accepted.
    #[must_use]
    pub fn holding(self, held: impl Send + 'static) -> Self {
        Self { _held: Some(Box::new(held)), ..self }
    }
}

/// Returns when the connection has no reason to be there.
async fn over(peer: Option<Arc<Peer>>, proof: Proof) {
    let distrusted = async {
        match peer {
            Some(peer) => distrusted(peer).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = distrusted => {}
        () = proof.missing() => {}
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

/// The gateway behind a request. Its connection may stay.
///
/// # Errors
/// `UNAUTHENTICATED` without a certificate, `PERMISSION_DENIED` for a workload's certificate.
pub fn gateway<T>(request: &Request<T>) -> Result<GatewayCaller, Status> {
    let verified = verified(request)?;
    if verified.id().is_gateway() {
        proof(request).give();
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
    use isthmus_identity::{ClientAuth, PrivateKey, RootAuthority, TrustBundle};
    use isthmus_model::name::FederationDomain;
    use tokio::io::AsyncReadExt;
    use tokio::time::{Instant, timeout};
    use tokio_rustls::rustls::pki_types::ServerName;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

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

    /// Gateways of one federation.
    fn gateways() -> [LiveIdentity; 2] {
        let (domain, now) = ("acme.mesh".parse::<FederationDomain>().expect("valid"), SystemTime::now());
        let root = RootAuthority::create(&domain, now).expect("a root");
        ["us-east", "us-west"].map(|cluster| {
            let trust_domain = domain.trust_domain(&cluster.parse().expect("valid"));
            let id = SpiffeId::gateway(trust_domain, "gw-1".parse().expect("valid"));
            let key = PrivateKey::generate().expect("a key");
            let csr = key.csr().expect("a request");
            let leaf = root.sign_gateway(&csr, &id, Duration::from_secs(3600), now).expect("signed");
            let identity = LiveIdentity::new();
            identity.set_trust(TrustBundle::new(domain.clone(), vec![root.certificate().to_vec()]).expect("a bundle"));
            identity.set_credentials(vec![leaf], key).expect("credentials");
            identity
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_alone_holds_no_place() {
        let [east, west] = gateways();
        let (here, there) = tokio::io::duplex(1 << 16);
        let acceptor = TlsAcceptor::from(west.server_config(ClientAuth::Required, &[b"h2"]));
        let connector = TlsConnector::from(east.client_config(Arc::new(|_: &SpiffeId| true), &[b"h2"]));
        let name = ServerName::try_from("gateway.us-west.acme.mesh").expect("a name");
        let (accepted, connected) = tokio::join!(acceptor.accept(there), connector.connect(name, here));
        let (mut stream, _silent) = (PeerStream::new(accepted.expect("a peer"), &west, None), connected.expect("open"));
        assert!(stream.caller.peer.is_some(), "it shows a certificate");
        let began = Instant::now();
        stream.read_u8().await.expect_err("cut");
        assert_eq!(began.elapsed(), PROOF_WITHIN);
    }
}

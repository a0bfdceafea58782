//! Channels to other gateways: TCP, mutual TLS with the SNI of the peer's gateways, gRPC.
//!
//! A channel that is open stays so when its peer is fenced or leaves: nobody calls it any more but the registry's leader,
//! from which the peer hears of it, until it is no replica any more. It cannot call back.
//!
//! A channel connects when it is first used and again whenever it broke. What it connects to must prove to
//! be the gateway that was meant; another gateway, even of the same cluster, will not do.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_identity::{Expected, LiveIdentity};
use isthmus_model::name::FederationDomain;
use isthmus_model::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::raft_types::PeerAddress;

/// Establishing TCP and TLS together. Three round trips of the slowest WAN, with room.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often an open channel is asked whether it is alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the answer may take before the channel counts as broken.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Channels kept. Twice the gateways that a federation may have, for those that changed address.
const CHANNELS_MAX: usize = 2 * isthmus_model::registry::NODES_MAX;

/// The ALPN protocol of gRPC.
pub const ALPN_H2: &[u8] = b"h2";

/// A connection as bytes, under TLS.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection that is being opened.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Wire>>> + Send>>;

/// How connections are opened: by TCP, or by what a simulation has in its place. Cheap to clone.
#[derive(Clone)]
pub struct Connect(Arc<dyn Fn(SocketAddr) -> Connecting + Send + Sync>);

impl Connect {
    /// By TCP, without waiting to fill segments.
    #[must_use]
    pub fn tcp() -> Self {
        Self::by(|address| {
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn Wire>)
            })
        })
    }

    /// By calling `open`.
    pub fn by(open: impl Fn(SocketAddr) -> Connecting + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }
}

/// Opens and keeps channels to gateways.
#[derive(Clone)]
pub struct Dialer {
    federation: FederationDomain,
    identity: LiveIdentity,
    connect: Connect,
    channels: Arc<Mutex<HashMap<PeerAddress, Channel>>>,
}

impl Dialer {
    /// A dialer that shows `identity` to peers in `federation`.
    #[must_use]
    pub fn new(federation: FederationDomain, identity: LiveIdentity, connect: Connect) -> Self {
        Self { federation, identity, connect, channels: Arc::default() }
    }

    /// The federation that the peers are in.
    #[must_use]
    pub fn federation(&self) -> &FederationDomain {
        &self.federation
    }

    /// The channel to a gateway.
    #[must_use]
    pub fn channel(&self, peer: &PeerAddress) -> Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(peer) {
            return channel.clone();
        }
        if channels.len() >= CHANNELS_MAX {
            channels.clear();
        }
        let channel = self.open(peer);
        channels.insert(peer.clone(), channel.clone());
        channel
    }

    fn open(&self, peer: &PeerAddress) -> Channel {
        let domain = self.federation.trust_domain(&peer.cluster);
        let meant = SpiffeId::gateway(domain.clone(), peer.gateway.clone());
        let expected: Expected = Arc::new(move |id: &SpiffeId| *id == meant);
        let tls = self.identity.client_config(expected, &[ALPN_H2]);
        channel(&self.connect, peer.east_west, domain.gateway_sni(), tls)
    }
}

/// A channel to `address` over TLS with the given SNI. Connects on first use.
#[must_use]
pub fn channel(connect: &Connect, address: SocketAddr, sni: String, tls: Arc<ClientConfig>) -> Channel {
    let (connect, connector) = (connect.clone(), TlsConnector::from(tls));
    let connect = tower::service_fn(move |_: Uri| {
        let (wire, connector, sni) = ((connect.0)(address), connector.clone(), sni.clone());
        async move {
            let server = ServerName::try_from(sni).map_err(io::Error::other)?;
            connector.connect(server, wire.await?).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://gateway")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}

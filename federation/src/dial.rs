//! Channels to other gateways: TCP, mutual TLS with the SNI of the peer's gateways, gRPC.
//!
//! A channel that is open stays so when its peer is fenced or leaves: nobody calls it any more but the registry's leader,
//! from which the peer hears of it, until it is no replica any more. It cannot call back.
//!
//! A channel connects when it is first used and again whenever it broke. What it connects to must prove to
//! be the gateway that was meant; another gateway, even of the same cluster, will not do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_identity::{Expected, LiveIdentity};
use isthmus_model::name::FederationDomain;
use isthmus_model::spiffe::SpiffeId;
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

/// Opens and keeps channels to gateways.
#[derive(Clone)]
pub struct Dialer {
    federation: FederationDomain,
    identity: LiveIdentity,
    channels: Arc<Mutex<HashMap<PeerAddress, Channel>>>,
}

impl Dialer {
    /// A dialer that shows `identity` to peers in `federation`.
    #[must_use]
    pub fn new(federation: FederationDomain, identity: LiveIdentity) -> Self {
        Self { federation, identity, channels: Arc::default() }
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
        channel(peer.east_west, domain.gateway_sni(), tls)
    }
}

/// A channel to `address` over TLS with the given SNI. Connects on first use.
#[must_use]
pub fn channel(address: std::net::SocketAddr, sni: String, tls: Arc<ClientConfig>) -> Channel {
    let connector = TlsConnector::from(tls);
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, sni) = (connector.clone(), sni.clone());
        async move {
            let server = ServerName::try_from(sni).map_err(std::io::Error::other)?;
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            connector.connect(server, stream).await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://gateway")
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connect)
}

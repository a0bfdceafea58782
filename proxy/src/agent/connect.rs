//! A gRPC channel to one gateway: over TLS of our own to a port, and as it is to a socket of this machine.
//!
//! The handshake is made here rather than by tonic, because whom we talk to is decided by a SPIFFE ID and,
//! at first contact, by the pin in the token; tonic gets the finished connection.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use isthmus_identity::{Expected, LiveIdentity, VerifyError, pinned_client_config};
use isthmus_wire::control::control_client::ControlClient;
use isthmus_wire::view::UPDATE_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::attempts::{ControlAddr, Proof};
use super::error::SessionError;
use super::{AgentConfig, Introduction};

/// From the first SYN to the end of the handshake; longer than two retransmissions of either.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How often a silent gateway is pinged, so that one that froze is noticed within this and
/// [`PONG_WITHIN`]; traffic does not wait for it.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long a gateway may take to answer a ping.
const PONG_WITHIN: Duration = Duration::from_secs(5);

/// Connects to `gateway`, which must prove to be a gateway of the own cluster before anything is sent.
pub(super) async fn connect(
    config: &AgentConfig,
    identity: &LiveIdentity,
    gateway: &ControlAddr,
    proof: Proof,
) -> Result<ControlClient<Channel>, SessionError> {
    let authority = config.trust_domain.gateway_sni();
    match gateway {
        ControlAddr::Port(address) => {
            let connecting = handshake(*address, tls(config, identity, proof), &authority);
            channel(in_time(connecting).await?, &authority).await
        }
        ControlAddr::Socket(path) => {
            let unreachable = |source| SessionError::Socket { path: path.clone(), source };
            let stream = in_time(async { UnixStream::connect(path).await.map_err(unreachable) }).await?;
            channel(stream, &authority).await
        }
    }
}

async fn in_time<T>(connecting: impl Future<Output = Result<T, SessionError>>) -> Result<T, SessionError> {
    let timeout = SessionError::Timeout { what: "connection", after: CONNECT_WITHIN };
    tokio::time::timeout(CONNECT_WITHIN, connecting).await.map_err(|_| timeout)?
}

async fn channel<S>(stream: S, authority: &str) -> Result<ControlClient<Channel>, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // The scheme is tonic's word for "do not bring your own TLS".
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))?
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN)
        .keep_alive_while_idle(true);
    let mut connection = Some(TokioIo::new(stream));
    let once = service_fn(move |_| {
        let connection = connection.take().ok_or_else(|| std::io::Error::other("the connection is used up"));
        std::future::ready(connection)
    });
    let channel = endpoint.connect_with_connector(once).await?;
    Ok(ControlClient::new(channel).max_decoding_message_size(UPDATE_BYTES_MAX))
}

fn tls(config: &AgentConfig, identity: &LiveIdentity, proof: Proof) -> Arc<ClientConfig> {
    const ALPN: &[&[u8]] = &[b"h2"];
    let own = config.trust_domain.clone();
    let expected: Expected = Arc::new(move |id| id.is_gateway() && id.trust_domain == own);
    match (proof, &config.introduction) {
        // Without the certificate, which may have run out: one that is shown must verify.
        (Proof::Token, Introduction::Token { token, .. }) => {
            pinned_client_config(token.root, token.federation.clone(), expected, None, ALPN)
        }
        _ => identity.client_config(expected, ALPN),
    }
}

async fn handshake(
    gateway: SocketAddr,
    config: Arc<ClientConfig>,
    sni: &str,
) -> Result<TlsStream<TcpStream>, SessionError> {
    let stream = TcpStream::connect(gateway).await.map_err(SessionError::Connect)?;
    stream.set_nodelay(true).map_err(SessionError::Connect)?;
    let name = ServerName::try_from(sni.to_owned()).map_err(|error| SessionError::Tls(std::io::Error::other(error)))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| match VerifyError::find_in(&error) {
        Some(refusal) => SessionError::Certificate(refusal.clone()),
        None => SessionError::Tls(error),
    })
}

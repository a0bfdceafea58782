//! The caller's side of a session, by hand: as a data plane that is not ours may have it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_model::spiffe::SpiffeId;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Federation, HOST};

/// A session with `landing`, in us-west, as a workload of another cluster has it.
pub async fn session(federation: &Federation, landing: SocketAddr) -> http2::SendRequest<Empty<Bytes>> {
    let anyone = Arc::new(|_: &SpiffeId| true);
    let config = federation.identity("us-east", "shop/productpage").client_config(anyone, &[b"h2"]);
    let name = ServerName::try_from("reviews.shop.svc.us-west.acme.mesh").expect("a name");
    let stream = TcpStream::connect(landing).await.expect("connected");
    let tls = TlsConnector::from(config).connect(name, stream).await.expect("a handshake");
    let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.expect("a session");
    tokio::spawn(connection);
    send
}

/// A tunnel to `port` at `landing`.
pub async fn tunnel(federation: &Federation, landing: SocketAddr, port: u16) -> TokioIo<hyper::upgrade::Upgraded> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(format!("{HOST}:{port}")).expect("an authority");
    let response = session(federation, landing).await.send_request(request).await.expect("a response");
    assert_eq!(response.status(), 200);
    TokioIo::new(hyper::upgrade::on(response).await.expect("a tunnel"))
}

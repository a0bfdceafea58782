//! A client's connection to a port of which nobody said what it speaks.

use std::io;

use tokio::time::Instant;

use super::connect::{OpenError, Opened, open};
use super::listener::serve_requests;
use super::request::Client;
use super::target::Target;
use crate::detect::{CLIENT_FIRST_WITHIN, DETECT_WITHIN, Guarded, Heard, Hearing, Opening};
use crate::tcp::{Prefixed, Stream};

/// Why a connection ended before it was clear what it speaks, or while its bytes were copied.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Connection(#[from] io::Error),
    #[error(transparent)]
    NotOpened(#[from] OpenError),
}

/// Serves a connection for `target`: as requests if it turns out to be HTTP, else as bytes. `opened` is the way there, if it was
/// opened already; otherwise it is opened when the client waits for the server to speak.
pub(super) async fn serve(client: Client, target: &Target, opened: Option<Opened>, stream: Stream) {
    let (service, entry) = (target.service.name.clone(), client.entry.clone());
    if let Err(error) = listen(client, target, opened, stream).await {
        tracing::debug!(%service, %error, "connection ended");
    }
    drop(entry);
}

async fn listen(client: Client, target: &Target, opened: Option<Opened>, mut stream: Stream) -> Result<(), Ended> {
    let mut hearing = Hearing::new(Some(Instant::now() + DETECT_WITHIN));
    let pending = client.entry.pend();
    let deciding = async {
        let opened = match opened {
            Some(opened) => Some(opened),
            None => {
                hearing.client(&mut stream, CLIENT_FIRST_WITHIN).await?;
                if hearing.is_http() { None } else { Some(open(&client.plane, target, client.stranger).await?) }
            }
        };
        match opened {
            Some(mut opened) => {
                opened.hear(&mut hearing, &mut stream).await?;
                Ok::<_, Ended>(Some(opened))
            }
            None => Ok(None),
        }
    };
    let Some(opened) = pending.wait(deciding, &client.life.drain, client.plane.metrics()).await else { return Ok(()) };
    let opened = opened?;
    let Heard { opening, read, said, .. } = hearing.heard();
    let stream = Prefixed::new(read, stream);
    match (opening, opened) {
        // Where nobody guards the application, this side does.
        (Opening::Opaque, Some(opened)) if opened.is_direct() => {
            let mut guarded = Guarded::new(stream, !said.is_empty());
            let copied = opened.copy(said, &mut guarded).await;
            let Some((opening, stream)) = guarded.into_requests() else { return Ok(copied.map(drop)?) };
            serve_requests(client, opening, stream).await;
        }
        (Opening::Opaque, Some(opened)) => opened.copy(said, stream).await.map(drop)?,
        (opening, opened) => {
            // Requests find their own ways; this one was to hear whether the server speaks first.
            drop(opened);
            serve_requests(client, opening, stream).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use isthmus_identity::LiveIdentity;
    use isthmus_model::catalog::{AppProtocol, ServicePort};
    use isthmus_model::snapshot::{Coverage, Service, Site, Snapshot};
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::registry::Registry;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::super::listener;
    use super::super::request::Scope;
    use super::*;
    use crate::accept::Tasks;
    use crate::limits::{Gate, Limits};
    use crate::metrics::Direction;
    use crate::tcp::ByteStream;
    use crate::{DataPlane, Metrics};

    /// A stream that notes whether it is to be given up when it is not read.
    struct Noting(DuplexStream, Arc<AtomicBool>);

    impl ByteStream for Noting {
        fn give_up_unread(&self, _: Duration) {
            self.1.store(true, Ordering::Relaxed);
        }
    }

    impl AsyncRead for Noting {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Noting {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn a_stream_that_turns_out_to_be_http2_is_treated_as_one() {
        let openings = [(&b"GET / HTTP/1.1\r\n\r\n"[..], false), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true)];
        for (is_declared, (opens, expected)) in
            [false, true].into_iter().flat_map(|is| openings.map(|opens| (is, opens)))
        {
            let site = Site {
                federation: "acme.mesh".parse().expect("valid"),
                cluster: "us-east".parse().expect("valid"),
                locality: "r1".parse().expect("valid"),
            };
            let (_view, view) = watch::channel(Arc::new(Snapshot::empty(site, Coverage::Complete)));
            let metrics = Arc::new(Metrics::register(&mut Registry::default()));
            let plane = DataPlane::new(view, None, LiveIdentity::new(), metrics);
            let port = ServicePort { name: None, port: 80, protocol: AppProtocol::Detect };
            let service = Arc::new(Service {
                name: "shop/reviews".parse().expect("valid"),
                vip: None,
                ports: vec![port.clone()],
                federated: true,
                exported_here: false,
                endpoints: Vec::new().into(),
                remotes: Vec::new(),
                traffic: Arc::default(),
                routes: isthmus_model::http_route::ServiceRoutes::default(),
            });
            let gate = Gate::new(Limits::of(Direction::Outbound), Gauge::default());
            let entry = Arc::new(gate.enter(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("room"));
            let (scope, tasks) = (Scope::Service(service.name.clone(), 80), Tasks::new(CancellationToken::new()));
            let life = tasks.life().clone();
            let client = Client { plane, scope, stranger: None, exit: None, within_connect: false, life, entry };
            let (mut near, far) = duplex(1 << 16);
            let noted = Arc::new(AtomicBool::new(false));
            let far = Box::new(Noting(far, noted.clone()));
            tokio::spawn(async move {
                if is_declared {
                    return listener::http(client, far).await;
                }
                serve(client, &Target { service, port }, None, far).await;
            });
            near.write_all(opens).await.expect("written");
            near.read_u8().await.expect("settings, or an answer");
            assert_eq!(noted.load(Ordering::Relaxed), expected, "declared: {is_declared}");
        }
    }
}

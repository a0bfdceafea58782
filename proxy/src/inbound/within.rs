//! A tunnel to a port of which nobody knows what it speaks.
//!
//! The caller's side takes it for bytes. Whether it is HTTP is looked at here all the same, because an application believes what
//! requests say about their caller: what turns out to be requests is served as such.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::forward;
use super::session::Session;
use crate::detect::{Guarded, Heard, Hearing, Opening};
use crate::message::server::{Carries, serve_http1, serve_http2};
use crate::tcp::{IDLE_MAX, Prefixed, copy_both};

/// Serves what `peer` opened for `port`; `application` is connected.
pub(super) async fn serve<C>(session: Arc<Session>, port: u16, mut peer: C, mut application: TcpStream)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let drain = session.arrival.life.drain.clone();
    let mut hearing = Hearing::guarding();
    let ended = tokio::select! {
        ended = timeout(IDLE_MAX, hearing.both(&mut peer, &mut application)) => ended,
        () = drain.cancelled() => return,
    };
    let (Ok(Ok(())), service) = (ended, &session.service) else { return };
    let Heard { opening, read, said } = hearing.heard();
    let peer = Prefixed::new(read, peer);
    let application = Prefixed::new(said, application);
    let copied = match opening {
        Opening::Opaque => copy_both(Guarded::new(peer), application, IDLE_MAX).await,
        Opening::Http1 => {
            drop(application);
            return serve_http1(peer, &drain, |request| forward::answer_within(session.clone(), port, request)).await;
        }
        Opening::Http2 => {
            drop(application);
            let answer = move |request| forward::answer_within(session.clone(), port, request);
            return serve_http2(peer, Carries::One, async move { drain.cancelled().await }, answer).await;
        }
    };
    if let Err(error) = copied {
        tracing::debug!(%service, %error, "tunnel ended");
    }
}

//! A tunnel to a port of which nobody knows what it speaks.
//!
//! The caller's side takes it for bytes. Whether it is HTTP is looked at here all the same, because an application believes what
//! requests say about their caller: what turns out to be requests is served as such.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::forward;
use super::session::Session;
use crate::detect::{Guarded, Heard, Hearing, Opening};
use crate::message::server::{Answering, serve_client};
use crate::tcp::{IDLE_MAX, Prefixed, Stream, copy_both};

/// Serves what `peer` opened for `port`; `application` is connected.
pub(super) async fn serve(session: Arc<Session>, port: u16, mut peer: Stream, mut application: TcpStream) {
    let drain = session.arrival.life.drain.clone();
    let mut hearing = Hearing::guarding();
    let ended = tokio::select! {
        ended = timeout(IDLE_MAX, hearing.both(&mut peer, &mut application)) => ended,
        () = drain.cancelled() => return,
    };
    let (Ok(Ok(())), service) = (ended, &session.service) else { return };
    let Heard { opening, read, said } = hearing.heard();
    let peer = Prefixed::new(read, peer);
    let answered = !said.is_empty();
    let application = Prefixed::new(said, application);
    if opening != Opening::Opaque {
        drop(application);
        return requests(session, port, opening, peer, drain).await;
    }
    let mut guarded = Guarded::new(peer, answered);
    let copied = copy_both(&mut guarded, application, IDLE_MAX).await;
    match (guarded.into_requests(), copied) {
        (Some((opening, peer)), _) => requests(session, port, opening, peer, drain).await,
        (None, Err(error)) => tracing::debug!(%service, %error, "tunnel ended"),
        (None, Ok(_)) => {}
    }
}

async fn requests(
    session: Arc<Session>,
    port: u16,
    opening: Opening,
    peer: Prefixed<Stream>,
    drain: CancellationToken,
) {
    let answer = move |request| -> Answering { Box::pin(forward::answer_within(session.clone(), port, request)) };
    serve_client(peer, opening, None, &drain, Arc::new(answer)).await;
}

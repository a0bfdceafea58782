//! A client's connection to a port of which nobody said what it speaks.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::connect::{OpenError, Opened, open};
use super::listener::{OnHttp2, serve_requests};
use super::request::Client;
use super::target::Target;
use crate::detect::{CLIENT_FIRST_WITHIN, DETECT_WITHIN, Guarded, Heard, Hearing, Opening};
use crate::tcp::Prefixed;

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
pub(super) async fn serve<S>(client: Client, target: &Target, opened: Option<Opened>, stream: S, on_http2: OnHttp2<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (service, entry) = (target.service.name.clone(), client.entry.clone());
    if let Err(error) = listen(client, target, opened, stream, on_http2).await {
        tracing::debug!(%service, %error, "connection ended");
    }
    drop(entry);
}

async fn listen<S>(
    client: Client,
    target: &Target,
    opened: Option<Opened>,
    mut stream: S,
    on_http2: OnHttp2<S>,
) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
    if opening == Opening::Http2 {
        on_http2(&stream);
    }
    let stream = Prefixed::new(read, stream);
    match (opening, opened) {
        // Where nobody guards the application, this side does.
        (Opening::Opaque, Some(opened)) if opened.is_direct() => {
            let mut guarded = Guarded::new(stream);
            let copied = opened.copy(said, &mut guarded).await;
            let Some((opening, stream)) = guarded.into_requests() else { return Ok(copied.map(drop)?) };
            if opening == Opening::Http2 {
                on_http2(stream.get_ref().get_ref());
            }
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

//! DNS over UDP. What the snapshot answers is sent before the next datagram is read, so that a flood of those
//! queues in the kernel and not here; what waits for an upstream server waits in a task of its own, of which
//! there are at most [`Limits::forwards`](crate::Limits::forwards).

use std::sync::Arc;

use hickory_server::net::xfer::Protocol;
use tokio::net::UdpSocket;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::responder::{Responder, Step};
use crate::tcp::{ERROR_PAUSE, REQUEST_LEN_MAX};

/// Answers datagrams until `shutdown`.
pub(crate) async fn serve(
    socket: UdpSocket,
    responder: Arc<Responder>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let socket = Arc::new(socket);
    let mut buffer = vec![0; REQUEST_LEN_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = shutdown.cancelled() => return,
        };
        let (len, source) = match received {
            Ok(received) => received,
            Err(error) => {
                debug!(%error, "cannot receive a DNS datagram");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        match responder.decide(buffer[..len].to_vec(), source, Protocol::Udp) {
            Step::Silence => {}
            Step::Reply(reply) => send(&socket, &reply, source).await,
            Step::Forward(pending) => {
                let (socket, responder, shutdown) = (socket.clone(), responder.clone(), shutdown.clone());
                tasks.spawn(shutdown.run_until_cancelled_owned(async move {
                    if let Some(reply) = responder.finish(*pending).await {
                        send(&socket, &reply, source).await;
                    }
                }));
            }
        }
    }
}

/// Sends a reply. A client that cannot be reached is its own problem.
async fn send(socket: &UdpSocket, reply: &[u8], client: std::net::SocketAddr) {
    if let Err(error) = socket.send_to(reply, client).await {
        debug!(%client, %error, "cannot send a DNS response");
    }
}

//! DNS over TCP (RFC 7766): one query after the other on each connection, a limited number of connections in
//! all and from each address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::responder::{Responder, Step};
use crate::server::Limits;

/// The longest query that is read. A name, its question and EDNS need 300 bytes; cookies and padding (RFC 8467: to
/// multiples of 128) a few hundred more.
pub(crate) const REQUEST_LEN_MAX: usize = 4_096;
/// How long to wait after a failed accept or receive. What fails for want of file descriptors or memory goes on
/// failing for a while, and must not keep a core busy.
pub(crate) const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// Counts connections by the address they come from.
#[derive(Debug, Default)]
pub(crate) struct Connections(Mutex<HashMap<IpAddr, usize>>);

/// One of the [`Connections`], until dropped.
struct Connection {
    connections: Arc<Connections>,
    source: IpAddr,
}

impl Connections {
    /// Admits a connection from `source`, unless there are enough of them.
    fn admit(self: &Arc<Self>, source: IpAddr, limits: &Limits) -> Option<Connection> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let total: usize = counts.values().sum();
        let own = counts.get(&source).copied().unwrap_or(0);
        if total >= limits.tcp_connections || own >= limits.tcp_connections_per_source {
            return None;
        }
        counts.insert(source, own + 1);
        Some(Connection { connections: self.clone(), source })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = counts.entry(self.source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
pub(crate) struct TcpService {
    pub(crate) responder: Arc<Responder>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) limits: Limits,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

impl TcpService {
    /// Accepts connections until shutdown. One too many is closed at once.
    pub(crate) async fn serve(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            let (stream, source) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "cannot accept a DNS connection");
                    sleep(ERROR_PAUSE).await;
                    continue;
                }
            };
            let Some(connection) = self.connections.admit(source.ip(), &self.limits) else {
                debug!(%source, "too many DNS connections");
                continue;
            };
            let service = self.clone();
            self.tasks.spawn(self.shutdown.clone().run_until_cancelled_owned(async move {
                if let Err(error) = service.answer(stream, source).await {
                    debug!(%source, %error, "DNS connection ended");
                }
                drop(connection);
            }));
        }
    }

    /// Answers one connection's queries until it closes, falls silent, or sends nonsense.
    async fn answer(&self, mut stream: TcpStream, source: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        while let Some(message) = timeout(self.limits.tcp_idle_timeout, read(&mut stream)).await?? {
            let reply = match self.responder.decide(message, source, Protocol::Tcp) {
                Step::Silence => return Ok(()),
                Step::Reply(reply) => Some(reply),
                Step::Forward(pending) => self.responder.finish(*pending).await,
            };
            let Some(reply) = reply else { return Ok(()) };
            timeout(self.limits.tcp_idle_timeout, stream.write_all(&framed(&reply))).await??;
        }
        Ok(())
    }
}

/// Reads a message; `None` at the end of the stream.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Ok(len) => usize::from(len),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if len > REQUEST_LEN_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a query of {len} bytes")));
    }
    let mut message = vec![0; len];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// A message with its length before it (RFC 1035 §4.2.2), in one piece, so that it is sent in one segment.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    // The encoder keeps messages within u16::MAX.
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend_from_slice(&len.to_be_bytes());
    framed.extend_from_slice(&message[..usize::from(len)]);
    framed
}

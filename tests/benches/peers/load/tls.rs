//! TLS under one server name: whole handshakes one after the other, and a large file.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::CLIENTS;
use super::tcp::{CHUNK, STREAMS, gibibytes, timed};
use crate::isthmus::tls_sni;
use crate::peer::Peer;
use crate::rounds::Done;

/// The large file's name, and how large it is. It is sparse.
pub(crate) const FILE: &str = "large";
pub(crate) const FILE_LEN: u64 = 1 << 30;
/// The longest head of an answer.
const HEAD_LEN_MAX: usize = 4 << 10;

/// Opens a connection, which verifies the backend's certificate.
async fn open(at: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(tls_sni()).map_err(io::Error::other)?;
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(config.clone()).connect(name, stream).await
}

/// Whether a connection comes about.
///
/// # Errors
/// When none does.
pub(crate) async fn probe(peer: &Peer, config: &Arc<ClientConfig>) -> io::Result<()> {
    open(peer.at, config).await.map(drop)
}

/// Each client opens a connection when its last one is closed. What is timed is until the handshake is done.
///
/// # Errors
/// When one does not come about, or does not end as it should.
pub(crate) async fn connections(peer: &Peer, config: &Arc<ClientConfig>, duration: Duration) -> io::Result<Done> {
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CLIENTS {
        let (at, config) = (peer.at, config.clone());
        clients.spawn(async move {
            let mut took = Vec::new();
            while begun.elapsed() < duration {
                let sent = Instant::now();
                let mut stream = open(at, &config).await?;
                took.push(sent.elapsed());
                stream.shutdown().await?;
                // The backend's end, so that no connection is reset. nginx closes those that asked for nothing without a word.
                let (mut stream, _) = stream.into_inner();
                while stream.read(&mut [0; 64]).await? > 0 {}
            }
            Ok::<_, io::Error>(took)
        });
    }
    let mut all = Vec::new();
    while let Some(took) = clients.join_next().await {
        all.extend(took??);
    }
    Ok(timed(begun.elapsed(), all))
}

/// Each client gets the large file, again and again.
///
/// # Errors
/// When a connection does not come about or breaks, or an answer is not the file.
pub(crate) async fn bulk(peer: &Peer, config: &Arc<ClientConfig>, duration: Duration) -> io::Result<Done> {
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..STREAMS {
        let (at, config) = (peer.at, config.clone());
        clients.spawn(async move {
            let mut stream = open(at, &config).await?;
            let mut bytes = 0;
            while begun.elapsed() < duration {
                bytes += download(&mut stream, begun + duration).await?;
            }
            Ok::<_, io::Error>(bytes)
        });
    }
    gibibytes(clients, begun).await
}

/// Gets the file, as much of it as comes until `end`. How many bytes came.
async fn download(stream: &mut TlsStream<TcpStream>, end: Instant) -> io::Result<u64> {
    let request = format!("GET /{FILE} HTTP/1.1\r\nHost: {}\r\n\r\n", tls_sni());
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head.len() > HEAD_LEN_MAX {
            return Err(io::Error::other("the head of the answer is too long"));
        }
    }
    let text = String::from_utf8_lossy(&head);
    let is_whole = text.contains(&format!("Content-Length: {FILE_LEN}\r\n"));
    if !text.starts_with("HTTP/1.1 200 ") || !is_whole {
        return Err(io::Error::other(format!("this is not the file: {text}")));
    }
    let (mut chunk, mut bytes) = (vec![0; CHUNK], 0);
    while bytes < FILE_LEN {
        let Ok(read) = timeout_at(end, stream.read(&mut chunk)).await else { break };
        match read? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => bytes += len as u64,
        }
    }
    Ok(bytes)
}

//! TCP: small messages to and fro, and as many bytes as come. No load generator at hand speaks both CONNECT and plain
//! TCP, and what both ends do here is little; they run in this program, whose processor time is not counted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_tests::bench::Samples;
use isthmus_tests::harness::http;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::CLIENTS;
use crate::isthmus::{OURS, host};
use crate::peer::Peer;
use crate::rounds::Done;
use crate::stage::{ECHO, FLOOD, Stage, hosts};

/// The service on whose ports the application talks.
pub(crate) const SERVICE: &str = "talk";
/// A small message: less than a segment, and more than a keystroke.
const MESSAGE_LEN: usize = 128;
/// Connections on which all comes that can.
pub(crate) const STREAMS: usize = 4;
/// Read and written at once.
pub(crate) const CHUNK: usize = 64 << 10;
/// Bytes of a GiB.
pub(crate) const GIB: f64 = 1_073_741_824.0;

/// The application: dropping it ends it.
pub(crate) struct Talk {
    _tasks: JoinSet<io::Result<()>>,
}

impl Talk {
    /// Starts it.
    pub(crate) async fn start(stage: &Stage) -> io::Result<Self> {
        let echo = TcpListener::bind(stage.at(hosts::SERVER, ECHO)).await?;
        let flood = TcpListener::bind(stage.at(hosts::SERVER, FLOOD)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(echo, async |mut stream| {
            let mut chunk = vec![0; MESSAGE_LEN];
            while stream.read_exact(&mut chunk).await.is_ok() && stream.write_all(&chunk).await.is_ok() {}
        }));
        tasks.spawn(serve(flood, async |mut stream| {
            let chunk = vec![0x61; CHUNK];
            while stream.write_all(&chunk).await.is_ok() {}
        }));
        Ok(Self { _tasks: tasks })
    }
}

async fn serve<F>(listener: TcpListener, talk: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut talks = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        talks.spawn(talk(stream));
        while talks.try_join_next().is_some() {}
    }
}

/// Opens a connection to a port of the application. Ours is asked for it as a forward proxy is.
pub(crate) async fn open((name, at): (&str, SocketAddr), port: u16) -> io::Result<TcpStream> {
    let stream = if name == OURS {
        http::connect_via_proxy(at, &format!("{}:{port}", host(SERVICE))).await?
    } else {
        TcpStream::connect((at.ip(), port)).await?
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A message to and fro.
///
/// # Errors
/// When the connection is not opened or broken.
async fn exchange(stream: &mut TcpStream, message: &mut [u8]) -> io::Result<()> {
    stream.write_all(message).await?;
    stream.read_exact(message).await?;
    Ok(())
}

/// Whether a message comes back.
///
/// # Errors
/// When none does.
pub(crate) async fn probe(peer: &Peer) -> io::Result<()> {
    let mut stream = open((&peer.name, peer.at), ECHO).await?;
    exchange(&mut stream, &mut [0x61; MESSAGE_LEN]).await
}

/// Each client sends a message when the last one came back.
///
/// # Errors
/// When a connection is not opened or broken.
pub(crate) async fn messages(peer: &Peer, duration: Duration) -> io::Result<Done> {
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CLIENTS {
        let (name, at) = (peer.name.clone(), peer.at);
        clients.spawn(async move {
            let mut stream = open((&name, at), ECHO).await?;
            let (mut message, mut took) = ([0x61; MESSAGE_LEN], Vec::new());
            while begun.elapsed() < duration {
                let sent = Instant::now();
                exchange(&mut stream, &mut message).await?;
                took.push(sent.elapsed());
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

/// What is told of units each of which was timed.
pub(crate) fn timed(took: Duration, each: Vec<Duration>) -> Done {
    let samples: Samples = each.into_iter().collect();
    let units = f64::from(u32::try_from(samples.count()).unwrap_or(u32::MAX));
    Done { units, took, p50: Some(samples.percentile(50)), p99: Some(samples.percentile(99)) }
}

/// As many bytes as come.
///
/// # Errors
/// When a connection is not opened, or ends.
pub(crate) async fn bulk(peer: &Peer, duration: Duration) -> io::Result<Done> {
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..STREAMS {
        let (name, at) = (peer.name.clone(), peer.at);
        clients.spawn(async move {
            let mut stream = open((&name, at), FLOOD).await?;
            let (mut chunk, mut bytes) = (vec![0; CHUNK], 0);
            while let Ok(read) = timeout_at(begun + duration, stream.read(&mut chunk)).await {
                match read? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    len => bytes += len as u64,
                }
            }
            Ok::<_, io::Error>(bytes)
        });
    }
    gibibytes(clients, begun).await
}

/// What all of them took in.
pub(crate) async fn gibibytes(mut clients: JoinSet<io::Result<u64>>, begun: Instant) -> io::Result<Done> {
    let mut bytes = 0;
    while let Some(read) = clients.join_next().await {
        bytes += read??;
    }
    Ok(Done { units: bytes as f64 / GIB, took: begun.elapsed(), p50: None, p99: None })
}

//! What is written and read by hand: downloads at a pace of their own, clients that leave, and conversations.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_tests::harness::http::connect_via_proxy;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;

use super::Failure;
use super::requests::{dial, unanswered};
use crate::federation::host;
use crate::stage::HTTP;
use crate::workload::TCP;

/// What a slow reader's kernel holds for it, so that it is the sender who waits.
const RECEIVE_BUFFER: u32 = 64 << 10;
/// Read at once.
const PIECE: usize = 256 << 10;
/// Lines of a conversation.
const LINES: usize = 20;
/// Between two of them.
const LINE_EVERY: Duration = Duration::from_millis(50);
/// Bytes after which a client leaves.
const LEAVES_AFTER: usize = 64 << 10;
/// The longest head of an answer.
const HEAD_MAX: usize = 16 << 10;

/// A GET of `len` bytes, with a pause after each piece.
pub(super) async fn download(to: SocketAddr, service: &str, len: usize, pause: Duration) -> Result<(), Failure> {
    let socket = TcpSocket::new_v4().map_err(unanswered)?;
    if !pause.is_zero() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(unanswered)?;
    }
    let mut stream = socket.connect(to).await.map_err(unanswered)?;
    ask(&mut stream, &get(service, len)).await.map_err(unanswered)?;
    head(&mut stream, "200").await?;
    let mut piece = vec![0; PIECE];
    let mut left = len;
    while left > 0 {
        let wanted = left.min(PIECE);
        let read = stream.read_exact(&mut piece[..wanted]).await;
        left -= read.map_err(|error| Failure::CutShort(format!("{left} bytes are missing: {error}")))?;
        sleep(pause).await;
    }
    Ok(())
}

/// A download or an upload that the client leaves in the middle of. Fails only when it did not come so far.
pub(super) async fn abort(to: SocketAddr, service: &str, uploads: bool) -> Result<(), Failure> {
    let mut stream = dial(to).await?;
    if uploads {
        let authority = format!("{}:{HTTP}", host(service));
        let length = 2 * LEAVES_AFTER;
        let head =
            format!("POST http://{authority}/ HTTP/1.1\r\nHost: {authority}\r\nContent-Length: {length}\r\n\r\n");
        ask(&mut stream, &head).await.map_err(unanswered)?;
        return stream.write_all(&vec![b'x'; LEAVES_AFTER]).await.map_err(unanswered);
    }
    ask(&mut stream, &get(service, 4 << 20)).await.map_err(unanswered)?;
    head(&mut stream, "200").await?;
    let mut some = vec![0; LEAVES_AFTER];
    let read = stream.read_exact(&mut some).await;
    read.map(drop).map_err(|error| Failure::CutShort(error.to_string()))
}

/// A conversation by CONNECT.
pub(super) async fn tunnel(to: SocketAddr, service: &str) -> Result<(), Failure> {
    let stream = connect_via_proxy(to, &format!("{}:{TCP}", host(service))).await.map_err(unanswered)?;
    converse(stream).await
}

/// A conversation with who listens there.
pub(super) async fn direct(to: SocketAddr) -> Result<(), Failure> {
    converse(dial(to).await?).await
}

async fn converse(stream: TcpStream) -> Result<(), Failure> {
    let mut lines = BufReader::new(stream);
    let mut greeting = String::new();
    match lines.read_line(&mut greeting).await {
        Ok(_) if greeting.starts_with("hello from ") => echo(&mut lines).await,
        Ok(_) => Err(Failure::Unanswered(format!("no greeting, but {greeting:?}"))),
        Err(error) => Err(unanswered(error)),
    }
}

/// A WebSocket, in which lines go to and fro: what is in it is no affair of who carries it.
pub(super) async fn websocket(to: SocketAddr, service: &str) -> Result<(), Failure> {
    let mut stream = dial(to).await?;
    let asked = get(service, 0).replace("\r\n\r\n", "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    ask(&mut stream, &asked).await.map_err(unanswered)?;
    head(&mut stream, "101").await?;
    echo(&mut BufReader::new(stream)).await
}

async fn echo(lines: &mut BufReader<TcpStream>) -> Result<(), Failure> {
    for number in 0..LINES {
        let said = format!("line {number}\n");
        let mut heard = String::new();
        let exchanged = async {
            lines.write_all(said.as_bytes()).await?;
            lines.read_line(&mut heard).await
        };
        exchanged.await.map_err(|error| Failure::CutShort(format!("at line {number}: {error}")))?;
        if heard != said {
            return Err(Failure::CutShort(format!("at line {number}: heard {heard:?}")));
        }
        sleep(LINE_EVERY).await;
    }
    Ok(())
}

fn get(service: &str, len: usize) -> String {
    let authority = format!("{}:{HTTP}", host(service));
    format!("GET http://{authority}/{len} HTTP/1.1\r\nHost: {authority}\r\n\r\n")
}

async fn ask(stream: &mut TcpStream, head: &str) -> io::Result<()> {
    stream.write_all(head.as_bytes()).await
}

/// Reads the head of the answer, byte by byte: what comes after it is not HTTP's, or counted by the caller.
async fn head(stream: &mut TcpStream, status: &str) -> Result<(), Failure> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        head.push(stream.read_u8().await.map_err(unanswered)?);
    }
    let head = String::from_utf8_lossy(&head);
    match head.split(' ').nth(1) {
        Some(code) if code == status => Ok(()),
        _ => Err(Failure::Unanswered(head.lines().next().unwrap_or_default().to_owned())),
    }
}
